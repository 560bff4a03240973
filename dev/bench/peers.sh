#!/usr/bin/env bash
# A training step of GPT-2 on the CPU compared with other programs, alternating in one run: ratios of medians.
usage() {
  cat <<'END'
usage: dev/bench/peers.sh [SHARD [ROUNDS]]

Compares, round by round, a step of build/train_gpt2 in fp32 and bf16 with one of PyTorch (dev/bench/pytorch_cpu_gpt2.py,
if the interpreter has torch) and of llm.c's train_gpt2 (if LLMC_DIR is set). Missing programs are reported as left out.
SHARD is a token shard with GPT-2's vocabulary or a smaller one; without it one is made from the built-in stories. The
models always have GPT-2's vocabulary. The first step of a round touches new memory and does not count.

Variables:
  ROUNDS    rounds (3)                     STEPS    steps per round, one of which does not count (10)
  B, T      sequences, tokens per sequence (4, 64)       MODEL    a preset of train_gpt2 (gpt2)
  PYTHON    an interpreter with torch (python3)     BUILD    the folder with our programs (build)
  LLMC_DIR  a folder with llm.c, its train_gpt2 built: it has GPT-2 124M, B=4, T=64 and fp32
END
}
set -euo pipefail
misused() { echo "error: $*" >&2; usage >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 1; }
case ${1:-} in
  --help | -h) usage; exit ;;
  -*) misused "there is no option $1" ;;
esac
[ $# -le 2 ] || misused "$# arguments, expected at most a shard and a number of rounds"
shard=${1:-} rounds=${2:-${ROUNDS:-3}} steps=${STEPS:-10} B=${B:-4} T=${T:-64} model=${MODEL:-gpt2} python=${PYTHON:-python3}
positive() { [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || misused "$1 is '$2', expected a whole number from 1 on"; }
positive ROUNDS "$rounds"
positive STEPS "$steps"
positive B "$B"
positive T "$T"
[ "$steps" -ge 2 ] || misused "STEPS is $steps, expected at least 2: the first does not count"
if [ -n "$shard" ]; then
  [ -f "$shard" ] || fail "there is no shard $shard"
  [ "$(od -An -td4 -N4 "$shard" | tr -d ' ')" = 20240520 ] || fail "$shard is not a token shard; build/tokenize shard makes one"
  shard=$(realpath "$shard")
fi
build=$(realpath -m "${BUILD:-$(dirname "$0")/../../build}")
[[ $python != */* ]] || python=$(realpath -s "$python")  # -s: in a virtual environment it is a link
[ -z "${LLMC_DIR:-}" ] || LLMC_DIR=$(realpath -m "$LLMC_DIR")
cd "$(dirname "$0")/../.."
for program in train_gpt2 make_stories tokenize convert; do
  [ -x "$build/$program" ] || fail "$build/$program is not there; make builds it"
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

median() { sort -n | awk '{ a[NR] = $1 } END { if (NR) print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }

# ---- the programs to compare: each lane is a program and a precision -------------------------------------------------
if [ -z "$shard" ]; then
  echo "no SHARD: the built-in stories, with a vocabulary of 4,096"
  shard=$tmp/stories/train.bin
  {
    "$build/make_stories" --out "$tmp/stories.txt" &&
      "$build/tokenize" shard --tokenizer bpe:4096 --data "$tmp/stories.txt" --val-fraction 0 --out "$tmp/stories"
  } >"$tmp/log" 2>&1 || { cat "$tmp/log" >&2; fail "no shard could be made"; }
fi
lanes=("wrought fp32")
flags=(--data "$shard" --model "$model" --vocab-size 50257 --lr 1e-4 --schedule constant --warmup-steps 0 --grad-clip 1
  --data-order sequential --sample-tokens 0 --save-every 0)
shape=(--batch-size "$B" --seq-len "$T")
if "$build/train_gpt2" "${flags[@]}" "${shape[@]}" --precision bf16 --memory >"$tmp/log" 2>&1; then
  lanes+=("wrought bf16")
else
  echo "left out: wrought bf16 ($(tail -n 1 "$tmp/log"))"
fi
if "$python" -c 'import torch' >"$tmp/log" 2>&1; then
  lanes+=("PyTorch fp32" "PyTorch bf16")
  "$python" dev/bench/pytorch_cpu_gpt2.py --model gpt2-nano --batch-size 1 --seq-len 1 --steps 1 >"$tmp/log" 2>&1 || true
  sed -n 's/^\(torch .*\), [0-9]* parameters.*/PyTorch: \1/p' "$tmp/log"
  # Debian's libblas3, which it installs with PyTorch, is the plain reference; libopenblas0-pthread replaces it.
  if grep -q 'BLAS [^,]*/blas/libblas' "$tmp/log"; then
    echo "warning: that BLAS is the unoptimised reference: PyTorch's fp32 is far slower than with libopenblas0-pthread"
  fi
else
  echo "left out: PyTorch ($python has no torch; PYTHON=... names another interpreter)"
fi
if [ -z "${LLMC_DIR:-}" ]; then
  echo "left out: llm.c (LLMC_DIR is not set)"
elif [ ! -x "$LLMC_DIR/train_gpt2" ]; then
  echo "left out: llm.c ($LLMC_DIR/train_gpt2 is not there; make train_gpt2 builds it)"
elif [ "$model $B $T" != "gpt2 4 64" ]; then
  echo "left out: llm.c (it has GPT-2 124M, B=4 and T=64, and no others)"
else
  lanes+=("llm.c fp32")
  # One model for both: ours takes one step from random weights, convert makes llm.c's file from it.
  "$build/train_gpt2" "${flags[@]}" --steps 1 --seq-len 1024 --batch-size 1 --run "$tmp/start" >"$tmp/log" 2>&1 ||
    { cat "$tmp/log" >&2; fail "no model to start from"; }
  "$build/convert" --from "$tmp/start/latest" --to "$tmp/gpt2_124M.bin" >/dev/null
  flags[3]=$tmp/start/latest
  mkdir -p "$tmp/dev/data/tinyshakespeare"
  for part in train val; do ln -s "$shard" "$tmp/dev/data/tinyshakespeare/tiny_shakespeare_$part.bin"; done
fi

# ---- one round of a lane: a line of milliseconds per step ------------------------------------------------------------
round_of() {
  case $1 in
    wrought)
      "$build/train_gpt2" "${flags[@]}" "${shape[@]}" --precision "$2" --steps "$steps" --run "$tmp/run" >"$tmp/log" 2>&1 || return
      grep -o '"ms":[0-9.]*' "$tmp/run/metrics.jsonl" | cut -d: -f2
      rm -rf "$tmp/run"
      ;;
    PyTorch)
      "$python" dev/bench/pytorch_cpu_gpt2.py --model "$model" "${shape[@]}" --data "$shard" --precision "$2" \
        --steps "$steps" >"$tmp/log" 2>&1 || return
      sed -n 's/^step .* \([0-9.]*\) ms$/\1/p' "$tmp/log"
      ;;
    llm.c)
      # It would continue after these steps; closing the pipe ends it.
      { (cd "$tmp" && stdbuf -oL "$LLMC_DIR/train_gpt2" 2>"$tmp/log") | grep --line-buffered -m "$steps" -o 'took [0-9.]*' |
        cut -d' ' -f2; } || true
      ;;
  esac
}

for ((round = 1; round <= rounds; ++round)); do
  line="round $round:"
  for lane in "${lanes[@]}"; do
    read -r program precision <<<"$lane"
    file=$tmp/${program}_$precision
    [ ! -e "$file.failed" ] || continue
    if round_of "$program" "$precision" >"$tmp/steps" && [ "$(wc -l <"$tmp/steps")" -ge 2 ]; then
      tail -n +2 "$tmp/steps" >"$tmp/counted"
      cat "$tmp/counted" >>"$file"
      median <"$tmp/counted" >>"$file.rounds"
      line+=" $lane $(tail -n 1 "$file.rounds" | xargs printf '%.1f') ms,"
    elif [ "$program" = wrought ]; then
      cat "$tmp/log" >&2
      fail "$build/train_gpt2 failed"
    else
      echo "left out: $lane (it failed: $(tail -n 1 "$tmp/log"))"
      touch "$file.failed"
    fi
  done
  echo "${line%,}"
done

# ---- the table ----------------------------------------------------------------------------------------------------------
echo
echo "$model, B=$B T=$T, $rounds rounds of $((steps - 1)) steps; the last column: its time over that of wrought in that precision"
echo
echo "| program | precision | ms per step | by round | tokens/s | times as long as wrought |"
echo "|---|---|---:|---|---:|---:|"
for lane in "${lanes[@]}"; do
  read -r program precision <<<"$lane"
  file=$tmp/${program}_$precision ours=$tmp/wrought_$precision
  if [ ! -s "$file" ] || [ -e "$file.failed" ]; then continue; fi
  awk -v program="$program" -v precision="$precision" -v ms="$(median <"$file")" -v tokens=$((B * T)) \
    -v ours="$([ ! -s "$ours" ] || median <"$ours")" -v by="$(xargs printf '%.1f\n' <"$file.rounds" | paste -sd' ')" \
    'BEGIN { gsub(" ", ", ", by)
      printf "| %s | %s | %.1f | %s | %.0f | %s |\n", program, precision, ms, by, 1e3 * tokens / ms,
        ours == "" ? "" : sprintf("%.2f", ms / ours) }'
done
