#!/usr/bin/env bash
# The one script for a machine with a GPU: builds the CUDA programs there, runs the kernels' tests on the device, holds the
# GPU's model against the CPU's, measures training steps, and prints tables for docs/performance.md.
#   dev/gpu_check.sh [OUTPUT FOLDER]         default: build-gpu/check
# Libraries that the machine lacks come with the source in .deps/ (dev/gpu_deps.sh). About ten minutes; each part has a
# limit of its own, and a part that fails does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-build-gpu/check}
build=build-gpu
mkdir -p "$out" "$build"
failed=()

part() { # part NAME SECONDS COMMAND...: output into $out/NAME.log, its end shown
  local name=$1 limit=$2 started=$SECONDS
  shift 2
  echo "=== $name"
  if timeout "$limit" "$@" > "$out/$name.log" 2>&1; then
    echo "$name: passed in $((SECONDS - started)) s"
  else
    echo "$name: FAILED with exit code $? after $((SECONDS - started)) s; the end of its log:"
    failed+=("$name")
    tail -n 40 "$out/$name.log"
  fi
}

nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,power.limit --format=csv | tee "$out/device.txt"
date -u +%Y-%m-%d | tee -a "$out/device.txt"

part configure 120 cmake -S . -B "$build" -DCMAKE_PREFIX_PATH="$PWD/.deps/usr"
grep "left out" "$out/configure.log"
part build 420 cmake --build "$build" -j "$(nproc)" --target cuda_programs train_gpt2 make_stories
part kernels 240 "$build/test_kernels_cu"

for precision in fp32 tf32 bf16; do
  part "check_$precision" 120 "$build/train_gpt2cu" --check --model d4 --batch-size 3 --seq-len 127 --precision $precision
  tail -n 3 "$out/check_$precision.log"
done
part check_124M 180 "$build/train_gpt2cu" --check --model gpt2 --tokenizer bytes --batch-size 1 --seq-len 64 --precision fp32

# A measured training run: the middle steps' median.
"$build/make_stories" --out "$out/stories.txt" > /dev/null 2>&1
table=$out/speed.md
echo "| model | precision | recompute | B x T | ms a step | tokens/s | share of measured peak |" > "$table"
echo "|---|---|---|---|---|---|---|" >> "$table"
speed() { # speed MODEL PRECISION RECOMPUTE B T
  local run=$out/run_$1_$2_$3_$4
  rm -rf "$run"
  part "speed_$1_$2_$3_$4" 120 "$build/train_gpt2cu" --data "$out/stories.txt" --tokenizer bytes --vocab-size 50257 --model "$1" --precision "$2" \
    --recompute "$3" --batch-size "$4" --seq-len "$5" --steps 20 --eval-steps 1 --sample-tokens 0 --save-every 0 --run "$run"
  [ -f "$run/metrics.jsonl" ] || return
  python3 - "$run/metrics.jsonl" "$1" "$2" "$3" "$4" "$5" "$out/speed_$1_$2_$3_$4.log" >> "$table" <<'PY'
import json, re, statistics, sys
path, model, precision, recompute, B, T, log = sys.argv[1:]
steps = [j["ms"] for j in map(json.loads, open(path)) if "ms" in j][5:]
ms = statistics.median(steps)
shares = [int(x) for x in re.findall(r"\| (\d+) % of peak", open(log).read())][5:]
share = f"{statistics.median(shares):.0f} %" if shares else ""
print(f"| {model} | {precision} | {recompute} | {B} x {T} | {ms:.1f} | {int(B) * int(T) / ms * 1e3:,.0f} | {share} |")
PY
  rm -rf "$run"
}
speed gpt2 bf16 none 32 1024
speed gpt2 tf32 none 16 1024
speed gpt2 fp32 none 8 1024
speed gpt2-medium bf16 none 16 1024
speed gpt2-xl bf16 gelu 8 1024

echo
cat "$out/device.txt" "$table"
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
