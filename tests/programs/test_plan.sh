# Plans of runs: the sums, refusals with better values, and that the docs show what plan prints.
source "$(dirname "$0")/lib.sh"
plan="$BUILD/plan"

# number KEY: a number that occurs once in plan.json
number() { sed -n "s/.*\"$1\": *\([-0-9.e+]*\).*/\1/p" plan.json; }
# sum OBJECT: the sum of the numbers in OBJECT
sum() { sed -n "/\"$1\": {/,/}/p" plan.json | awk -F': ' '/[0-9],?$/ { sum += $2 } END { printf "%.12g\n", sum }'; }
# equals WHAT VALUE EXPECTED: within 1e-9
equals() {
  awk -v x="$2" -v y="$3" 'BEGIN { d = x - y; if (d < 0) d = -d; exit !(x != "" && y != "" && d <= 1e-9 * y) }' ||
    die "$1 is $2, expected $3"
}

# One run: its sums.
test_run() {
  expect_ok "$plan" --model gpt2 --gpu h100 --gpus 16 --batch-size 32 --total-batch-tokens 1048576 --zero 2 --tokens 10e9 \
    --dollars-per-gpu-hour 2 --json plan.json
  expect_output 'gpt2 on 16 x h100 in 2 nodes, ZeRO stage 2, bf16'
  expect_output '1048576 tokens per step: 2 micro-batches of 32 x 1024 on each GPU'
  for row in parameters 'master weights' gradients 'gradients to sum' 'AdamW m' 'AdamW v' activations logits 'all, of 80 GB' \
    'matrix products' attention 'memory-bound kernels' optimizer 'waiting for launches' 'exposed communication' all; do
    expect_output "^$row +[0-9.]+"
  done
  expect_output '^communication: 373.4 M elements, .* overlapped with computing$' # 3 N: two sums and one gathering
  expect_output '^[0-9]+ tokens/s, [0-9]+ per GPU, [0-9.]+ % of the peak$'
  expect_output '^1e\+10 tokens: 9537 steps, .* dollars at 2 per GPU and hour$'
  equals "the memory" "$(sum memory_bytes)" "$(number memory_bytes_all)"
  equals "the step" "$(sum step_ms)" "$(number step_ms_all)"
  equals "tokens per second" "$(number tokens_per_second)" "$(awk -v ms="$(number step_ms_all)" 'BEGIN { printf "%.12g", 1048576e3 / ms }')"
  equals "the days" "$(number days)" "$(awk -v s="$(number tokens_per_second)" 'BEGIN { printf "%.12g", 10e9 / s / 86400 }')"
  equals "the dollars" "$(number dollars)" "$(awk -v d="$(number days)" 'BEGIN { printf "%.12g", d * 24 * 16 * 2 }')"
  expect_ok "$plan" --model gpt2 --gpus 1 --precision tf32 --recompute block --markdown
  expect_output '^\| exposed communication \| 0.00 \| 0.0 % \|$'
}

# docs/distributed.md shows what plan prints.
test_docs() {
  { "$plan" --published --markdown; "$plan" --scaling --markdown; } >said
  grep -E '^\| gpt2[a-z-]* \|' "$SOURCE/docs/distributed.md" >shown || true
  [ "$(wc -l <shown)" -eq 18 ] || die "docs/distributed.md shows $(wc -l <shown) rows of plan, expected 6 and 12"
  grep -vxFf said shown >stale && { cat stale; die "docs/distributed.md has rows that plan does not print (build/plan --published, --scaling)"; }
  [ "$("$plan" --published | grep -cE ' (calibrates|blind) ')" -eq 6 ] || die "not all published runs are shown"
}

test_refused() {
  expect_error 2 "gpu is 'v100', expected one of a100 h100 h200 b200" "$plan" --gpu v100
  expect_error 2 "'gpt3', expected a preset" "$plan" --model gpt3
  expect_error 2 'seq-len is 2048, and the context of gpt2 is 1024' "$plan" --seq-len 2048
  expect_error 2 'gpus 12 do not fill nodes of --gpus-per-node 8: expected up to 8, or a multiple of it' "$plan" --gpus 12
  expect_error 2 '524288 is not a multiple of --batch-size 64 x --seq-len 1024 x --gpus 6 = 393216' \
    "$plan" --gpus 6 --total-batch-tokens 524288
  expect_output '^  --batch-size +none$'
  expect_output '^  --gpus +1 2 4 8$'
  expect_output '^  --total-batch-tokens +393216 786432$'
  expect_error 2 'not a multiple' "$plan" --gpus 16 --total-batch-tokens 524288
  expect_output '^  --batch-size +1 2 4 8 16 32$'
  # Not even one GPU's batch: more would be needed.
  expect_error 2 'not a multiple' "$plan" --total-batch-tokens 1000
  expect_output '^  --total-batch-tokens +524288$'
  expect_error 1 'the run takes [0-9.]+ GB of each GPU, and h100 has 80 GB; these take less:' \
    "$plan" --model gpt2-xl --batch-size 64
  expect_output '^  --zero 1 +[0-9.]+ GB$'
  expect_output '^  --recompute block +[0-9.]+ GB, fits$'
  expect_output '^  --moments bf16 +[0-9.]+ GB$'
  expect_output '^  --loss-chunk 4096 +[0-9.]+ GB$'
  expect_output '^  --batch-size 16 +[0-9.]+ GB, fits$'
  expect_ok "$plan" --model gpt2-xl --batch-size 64 --recompute block
  expect_ok "$plan" --model gpt2-xl --batch-size 16
  expect_error 1 'takes [0-9.]+ GB' "$plan" --model gpt2-xl --batch-size 27 --total-batch-tokens 221184
  expect_output '^  --batch-size 9 +[0-9.]+ GB, fits$'
  for flag in "--gpus 0" "--batch-size 0" "--zero 4" "--recompute all" "--precision fp8" "--moments fp8" "--loss-chunk -1" "--network-gbps 0" "--tokens 0" \
    "--dollars-per-gpu-hour -1" "--scaling --published"; do
    # shellcheck disable=SC2086
    expect_error 2 "$(cut -d' ' -f1 <<<"$flag")" "$plan" $flag
  done
  expect_error 2 'gpus-per-node 3: 8, 64 and 512 GPUs do not fill such nodes' "$plan" --scaling --gpus-per-node 3 --gpus 3
  expect_error 2 'excludes' "$plan" --scaling --json plan.json
  expect_error 1 'cannot be written' "$plan" --json /nowhere/plan.json
  expect_ok "$plan" --help
  expect_output 'network-gbps'
}

run_tests "$@"
