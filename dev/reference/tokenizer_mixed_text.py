"""Writes text that is hard for a tokenizer: many scripts, emoji with joiners, combining marks, code, runs of spaces and
newlines, control characters, and invalid bytes replaced by U+FFFD. Deterministic by seed, except for the code files of
the machine it runs on (Python's own library).

  python dev/reference/tokenizer_mixed_text.py OUT [BYTES] [SEED]
"""
import os
import pathlib
import random
import sys

# First and last code point of blocks to draw words from: alphabets, syllabaries, ideographs, numbers, symbols.
SCRIPTS = [
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x587), (0x5D0, 0x5EA),
    (0x620, 0x6FF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE00, 0xE7F), (0xF00, 0xFDA), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13FD), (0x16A0, 0x16F8), (0x1780, 0x17F9), (0x1800, 0x18AA),
    (0x1C80, 0x1C8A), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x218B),
    (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2C00, 0x2C5F), (0x3000, 0x30FF), (0x3105, 0x318E),
    (0x3400, 0x34FF), (0x4E00, 0x9FFF), (0xA000, 0xA48C), (0xA720, 0xA7FF), (0xAC00, 0xD7A3), (0xFB00, 0xFB4F),
    (0xFE00, 0xFEFF), (0xFF00, 0xFFEF), (0x10000, 0x100FA), (0x10300, 0x103D5), (0x10D40, 0x10D85), (0x11380, 0x113D3),
    (0x12000, 0x12399), (0x13000, 0x13455), (0x16D40, 0x16D79), (0x1D400, 0x1D7FF), (0x1E030, 0x1E06D),
    (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0x31350, 0x323AF), (0xE0100, 0xE01EF),
]
SPACES = [chr(c) for c in (0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x20, 0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x2003, 0x200A, 0x200B,
                           0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF)]
EMOJI = ["\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466", "\U0001F44D\U0001F3FD", "\U0001F1E9\U0001F1EA",
         "\u2764\uFE0F\u200D\U0001F525", "\U0001F9D1\u200D\U0001F680", "1\uFE0F\u20E3", "\U0001F3F4\U000E0067\U000E0062\U000E007F"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'r", "'l", "''s", " 's", "\u2019s"]


def words(rng):
    first, last = rng.choice(SCRIPTS)
    return " ".join("".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12))) for _ in range(rng.randint(1, 8)))


def anywhere(rng):
    code = rng.choice([rng.randrange(0x300), rng.randrange(0x10000), rng.randrange(0x40000), rng.randrange(0x110000)])
    return chr(code) if not 0xD800 <= code < 0xE000 else "\uFFFD"


def piece(rng, code, english):
    kind = rng.randrange(12)
    if kind <= 1:
        return words(rng)
    if kind == 2:
        return "".join(anywhere(rng) for _ in range(rng.randint(1, 30)))
    if kind == 3:
        return "".join(rng.choice(SPACES[:6] if rng.random() < 0.7 else SPACES) for _ in range(rng.randint(1, 20)))
    if kind == 4:
        return rng.choice(" \n\t") * rng.choice([1, 2, 3, 5, 17, 80, 300])
    if kind == 5:
        return rng.choice(EMOJI) * rng.randint(1, 4)
    if kind == 6:  # a letter under a stack of combining marks
        return "".join(rng.choice("aeonZд") + "".join(chr(rng.randint(0x300, 0x36F)) for _ in range(rng.randint(1, 6)))
                       for _ in range(rng.randint(1, 6)))
    if kind == 7:
        return bytes(rng.randrange(256) for _ in range(rng.randint(1, 40))).decode("utf-8", errors="replace")
    if kind == 8:
        return "".join(rng.choice(["x", "ly", "I", "1", " ", "don"]) + rng.choice(CONTRACTIONS) for _ in range(rng.randint(1, 6)))
    if kind == 9:  # numbers and long words
        return rng.choice([str(rng.random()), str(rng.getrandbits(200)), hex(rng.getrandbits(64)), "a" * rng.randint(1, 400),
                           "".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 300))), "=" * rng.randint(1, 120)])
    source = code if kind == 10 else english
    at = rng.randrange(max(1, len(source) - 400))
    return source[at:at + rng.randint(20, 400)]


def mixed_text(size, seed):
    rng = random.Random(seed)
    library = pathlib.Path(os.__file__).parent
    code = "".join(p.read_text("utf-8", errors="replace") for p in sorted(library.glob("*.py")))
    english = "".join(str(sys.modules[m].__doc__) for m in sorted(sys.modules) if sys.modules[m].__doc__)
    parts, total = [], 0
    while total < size:
        parts.append(piece(rng, code, english) + rng.choice(["", "", " ", "\n", "\n\n"]))
        total += len(parts[-1].encode("utf-8"))
    return "".join(parts)


if __name__ == "__main__":
    out = sys.argv[1]
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    pathlib.Path(out).write_bytes(mixed_text(size, seed).encode("utf-8"))
