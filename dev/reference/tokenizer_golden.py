"""Writes tests/golden/tokenizer_*: a small vocabulary trained by Hugging Face tokenizers, in each readable format, a
mixed text, and the text's ids by tiktoken (which equal those of tokenizers).

  python dev/reference/tokenizer_golden.py
"""
import base64
import json
import pathlib
import random
import unicodedata

import tiktoken
import tokenizers

from tokenizer_check import PATTERN
from tokenizer_mixed_text import piece

CODE = 'int main(int argc, char** argv) {\n    for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", a[i]);\n    }\n    return 0;\n}\n'
ENGLISH = ("The old woman hadn't slept since the storm. \"We'll go down to the sea,\" she said, and they're still there:\n\n"
           "the boats, the nets and the 1,204 lanterns that she'd hung in 1987.  Nobody knew why; nobody asked.\n")

golden = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
golden.mkdir(exist_ok=True)
rng = random.Random(7)
text = "".join(piece(rng, CODE * 4, ENGLISH * 4) + rng.choice(["", " ", "\n"]) for _ in range(150)) + "  \n"
text = "".join(c for c in text if unicodedata.category(c) != "Cn")  # where the two libraries' Unicode versions agree
(golden / "tokenizer_text.txt").write_bytes(text.encode("utf-8"))

trained = tokenizers.Tokenizer(tokenizers.models.BPE())
trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
trained.decoder = tokenizers.decoders.ByteLevel()
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, min_frequency=2, show_progress=False, initial_alphabet=alphabet)
trained.train_from_iterator([text], trainer)
trained.add_special_tokens(["<|endoftext|>"])
trained.save(str(golden / "tokenizer_bpe.json"), pretty=False)

saved = json.loads((golden / "tokenizer_bpe.json").read_text("utf-8"))["model"]
(golden / "tokenizer_pair").mkdir(exist_ok=True)
vocab = {**saved["vocab"], "<|endoftext|>": len(saved["vocab"])}
(golden / "tokenizer_pair" / "encoder.json").write_text(json.dumps(vocab), "utf-8")
(golden / "tokenizer_pair" / "vocab.bpe").write_text("#version: 0.2\n" + "".join(m + "\n" for m in saved["merges"]), "utf-8")

printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
rest = [b for b in range(256) if b not in printable]
byte_of = {**{chr(b): b for b in printable}, **{chr(256 + k): b for k, b in enumerate(rest)}}
ranks = {bytes(byte_of[c] for c in token): rank for token, rank in saved["vocab"].items()}
lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in sorted(ranks.items(), key=lambda item: item[1])]
(golden / "tokenizer_ranks.tiktoken").write_text("".join(lines))

ids = tiktoken.Encoding("golden", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}).encode_ordinary(text)
assert ids == trained.encode(text).ids
(golden / "tokenizer_ids.txt").write_text(" ".join(map(str, ids)) + "\n")
