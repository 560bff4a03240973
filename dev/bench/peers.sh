#!/usr/bin/env bash
# GPT-2 124M on the CPU, B=4 T=64: our step beside llm.c's train_gpt2.c, in turn, in one run; the ratio of medians.
#   LLMC_DIR=path/to/llm.c dev/bench/peers.sh SHARD [ROUNDS]
# LLMC_DIR holds llm.c with its train_gpt2 built; SHARD is a GPT-2 token shard (build/tokenize shard makes one). Both start
# from the same weights, read the same shard (llm.c shuffles it, which costs it nothing), and take ten steps a round; the
# first of each round is left out (it touches new memory).
set -euo pipefail
: "${LLMC_DIR:?set LLMC_DIR to a folder with llm.c and its train_gpt2 built}"
shard=$(realpath "${1:?usage: LLMC_DIR=... dev/bench/peers.sh SHARD [ROUNDS]}")
rounds=${2:-3}
cd "$(dirname "$0")/../.."
build=$PWD/build tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# One model for both: ours takes one step from random weights, convert makes llm.c's file.
steps=(--data "$shard" --lr 1e-4 --schedule constant --warmup-steps 0 --beta2 0.999
       --weight-decay 0 --grad-clip 0 --data-order sequential --sample-tokens 0 --save-every 0)
"$build/train_gpt2" "${steps[@]}" --model gpt2 --steps 1 --seq-len 1024 --batch-size 1 --run "$tmp/start" >/dev/null
"$build/convert" --from "$tmp/start/latest" --to "$tmp/gpt2_124M.bin" >/dev/null
mkdir -p "$tmp/dev/data/tinyshakespeare"
for part in train val; do ln -s "$shard" "$tmp/dev/data/tinyshakespeare/tiny_shakespeare_$part.bin"; done

median() { sort -n | awk '{ a[NR] = $1 } END { print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }
for ((round = 1; round <= rounds; ++round)); do
  "$build/train_gpt2" "${steps[@]}" --model "$tmp/start/latest" --batch-size 4 --seq-len 64 --steps 10 --run "$tmp/run$round" >/dev/null
  grep -o '"ms":[0-9.]*' "$tmp/run$round/metrics.jsonl" | cut -d: -f2 | tail -n +2 >>"$tmp/ours"
  rm -rf "$tmp/run$round"
  # llm.c runs on after its tenth step; closing the pipe ends it
  { (cd "$tmp" && stdbuf -oL "$LLMC_DIR/train_gpt2" 2>/dev/null) | grep --line-buffered -o 'took [0-9.]*' | head -10 |
    cut -d' ' -f2 | tail -n +2 >>"$tmp/theirs"; } || true
  echo "round $round: wrought $(tail -9 "$tmp/ours" | median) ms a step, llm.c $(tail -9 "$tmp/theirs" | median) ms"
done
awk -v a="$(median <"$tmp/ours")" -v b="$(median <"$tmp/theirs")" \
  'BEGIN { printf "medians: wrought %.0f ms, llm.c %.0f ms: %.2f times as fast\n", a, b, b / a }'
