"""Encoding speed on one thread: bench_tokenizer and tiktoken alternate on the same text; medians of the CPU time.

  make bench; python dev/reference/tokenizer_bench.py RANKS.tiktoken TEXT... [--bench build/bench_tokenizer] [--rounds 9]
"""
import argparse
import pathlib
import statistics
import subprocess
import time

from tokenizer_check import tiktoken_from

parser = argparse.ArgumentParser()
parser.add_argument("ranks")
parser.add_argument("texts", nargs="+")
parser.add_argument("--bench", default="build/bench_tokenizer")
parser.add_argument("--rounds", type=int, default=9)
args = parser.parse_args()
gpt2 = tiktoken_from(args.ranks)
for path in args.texts:
    text = pathlib.Path(path).read_bytes().decode("utf-8")
    megabytes = len(text.encode("utf-8")) * 1e-6
    ours, theirs = [], []
    for _ in range(args.rounds):
        out = subprocess.run([args.bench, "encode", args.ranks, path, "1"], check=True, stdout=subprocess.PIPE).stdout
        ours.append(float(out.split()[0]))
        start = time.process_time()
        gpt2.encode_ordinary(text)
        theirs.append(time.process_time() - start)
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{path}: {megabytes:.2f} MB; wrought {megabytes / a:.1f} MB/s, tiktoken {megabytes / b:.1f} MB/s: {b / a:.1f} times")
