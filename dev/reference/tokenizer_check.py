"""Compares `tokenize` with tiktoken and Hugging Face tokenizers on 10 MB of mixed text (tokenizer_mixed_text.py).

  python dev/reference/tokenizer_check.py RANKS.tiktoken [TEXT_TO_TRAIN_ON] [--tokenize build/tokenize] [--seed 1] [--bytes N]

1. GPT-2's encoding from RANKS equals that of tiktoken, id by id.
2. `tokenizers` reads what `tokenize train` saves (bytes, chars, bpe:N), encodes the same ids and decodes them.
3. `tokenize train` learns the merges that tokenizers' BpeTrainer learns.
4. `tokenize` reads what `tokenizers` and `transformers` save (tokenizer.json; vocab.json + merges.txt), same ids.
"""
import argparse
import base64
import json
import pathlib
import subprocess
import sys
import tempfile

import tiktoken
import tokenizers

from tokenizer_mixed_text import mixed_text

PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def tiktoken_from(path):
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in open(path))}
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)})


def run(*command):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE).stdout


def encode(tokenize, tokenizer, path, *flags):
    return [int(t) for t in run(tokenize, "encode", "--tokenizer", tokenizer, "--data", path, *flags).split()]


def compare(what, ours, theirs):
    if ours == theirs:
        print(f"equal   {what}: {len(ours)}")
        return True
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    print(f"DIFFERS {what}: {len(ours)} and {len(theirs)}; at {at}: {ours[at:at+5]} and {theirs[at:at+5]}")
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("ranks")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--tokenize", default="build/tokenize")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bytes", type=int, default=10_000_000)
    args = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    text = mixed_text(args.bytes, args.seed)
    mixed = folder / "mixed.txt"
    mixed.write_bytes(text.encode("utf-8"))
    ok = True

    gpt2 = tiktoken_from(args.ranks)
    ok &= compare("gpt2, tiktoken", encode(args.tokenize, args.ranks, mixed, "--threads", 1), gpt2.encode_ordinary(text))
    ok &= compare("gpt2, tiktoken, 2 threads", encode(args.tokenize, args.ranks, mixed, "--threads", 2), gpt2.encode_ordinary(text))

    corpus = pathlib.Path(args.text) if args.text else mixed
    saved = {}
    for name in ("bytes", "chars", "bpe:1000", "bpe:4096"):
        path = folder / (name.replace(":", "") + ".json")
        # A character vocabulary must know the text's characters.
        run(args.tokenize, "train", "--tokenizer", name, "--data", mixed if name == "chars" else corpus, "--out", path)
        saved[name] = path
        theirs = tokenizers.Tokenizer.from_file(str(path))
        some = text[:1_000_000] + "<|endoftext|>" + text[1_000_000:2_000_000]
        (folder / "some.txt").write_bytes(some.encode("utf-8"))
        ids = encode(args.tokenize, path, folder / "some.txt", "--special")
        ok &= compare(f"{name}, tokenizers", ids, theirs.encode(some).ids)
        ok &= compare(f"{name}, tokenizers' decoding", list(theirs.decode(ids)), list(some.replace("<|endoftext|>", "")))

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=4096, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator([corpus.read_bytes().decode("utf-8")], trainer)
    merges = lambda path: json.loads(path.read_text("utf-8"))["model"]["merges"]
    trained.save(str(folder / "theirs.json"))
    ok &= compare("merges, BpeTrainer", merges(saved["bpe:4096"]), merges(folder / "theirs.json"))

    (folder / "pair").mkdir()
    trained.model.save(str(folder / "pair"))
    some = text[:1_000_000]
    (folder / "some.txt").write_bytes(some.encode("utf-8"))
    ids = trained.encode(some).ids
    ok &= compare("tokenizer.json by tokenizers", encode(args.tokenize, folder / "theirs.json", folder / "some.txt"), ids)
    ok &= compare("vocab.json + merges.txt", encode(args.tokenize, folder / "pair", folder / "some.txt"), ids)
    try:
        import transformers
    except ImportError:
        print("skipped transformers, which is not installed")
    else:
        fast = transformers.GPT2TokenizerFast(vocab_file=str(folder / "pair" / "vocab.json"), merges_file=str(folder / "pair" / "merges.txt"))
        fast.save_pretrained(str(folder / "fast"))
        ok &= compare("folder by GPT2TokenizerFast", encode(args.tokenize, folder / "fast", folder / "some.txt"), fast(some)["input_ids"])
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
