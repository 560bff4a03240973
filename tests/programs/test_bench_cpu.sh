# The CPU's benchmark on a tiny model: every row is present with plausible numbers, flags have their effect, bad input
# is refused. Speed is not tested.
source "$(dirname "$0")/lib.sh"
bench="$BUILD/bench_cpu"
export OMP_NUM_THREADS=2

# rows FILE PART: the number of rows; each is an object, and contains no other list than a step's "parts"
rows() { awk -v part="\"$2\": [" '$0 == " " part { on = 1; next } on && /^ \]/ { on = 0 } on && /^  \{/ { n++ } END { print n + 0 }' "$1"; }
# row FILE KEY VALUE...: the lines of the object that has all of these
row() {
  local file=$1
  shift
  awk -v RS='}' -v pairs="$*" 'BEGIN { n = split(pairs, p, " ") }
    { for (i = 1; i <= n; i += 2) if ($0 !~ "\"" p[i] "\": \"?" p[i + 1] "\"?,?\n") next; print }' "$file"
}

# check_numbers FILE: all measurements are numbers above zero
check_numbers() {
  grep -n ': null' "$1" && die "$1 has values that are not numbers"
  awk -F': ' '/"(ms|tokens_per_s|share|speedup|us_per_token|flops_per_token|planned_bytes|parameters|samples|bytes|sum_ms|gb_per_s|gflop_per_s|(read|copy|in_place|adamw)_gb_per_s|adamw_ms|array_mb)": / {
      n++; value = $2; sub(",", "", value)
      if (value !~ /^[0-9.]+(e[-+]?[0-9]+)?$/ || value + 0 <= 0) { print FILENAME ":" FNR ": " $0; bad = 1 }
    } END { exit bad || n < 20 }' "$1" || die "$1 has measurements that are not positive numbers, or too few"
}

# All benchmarks, small.
test_everything() {
  expect_ok "$bench" --quick --precision fp32 --json all.json
  for title in Ceilings 'Operations of a step: gpt2-nano fp32, B 2, T 16' Steps 'Their parts' Threads Sequences Models; do
    expect_output "^$title"
  done
  expect_output '^rest +-?[0-9.]+ +-?[0-9.]+ %$'
  expect_output '^measuring gpt2-nano fp32: steps'
  check_numbers all.json
  for of in qkv attproj fc fcproj head; do
    for part in "matmul_forward $of" "matmul_backward $of:.dinp" "matmul_dweight $of"; do
      operation=${part% *} place=${part#* } calls=4 # gpt2-nano has 4 blocks
      [ $of != head ] || calls=1
      found=$(row all.json operation $operation of "$place")
      [ -n "$found" ] || die "no row of $operation $place"
      grep -q '"gflop_per_s"\|"gb_per_s"' <<<"$found" || die "no rate of $operation $place"
      grep -q "\"calls\": $calls," <<<"$found" || die "not $calls calls of $operation $place in a step: $found"
    done
  done
  for operation in attention_forward attention_backward layernorm_forward layernorm_backward gelu_forward gelu_backward \
    residual_forward embedding_forward embedding_backward classifier_backward global_norm_squared adamw_update; do
    [ -n "$(row all.json operation $operation precision fp32)" ] || die "no row of $operation"
  done
  grep -q '"calls": 0,' <<<"$(row all.json operation classifier_forward)" || die "classifier_forward is not called in a step"
  # Worked out by hand: the MLP's first product has 2 x 32 x 128 x 512 operations.
  grep -q '"flops": 4194304.0,' <<<"$(row all.json operation matmul_forward of fc)" || die "wrong number of operations for fc"
  while read -r part count; do
    [ "$(rows all.json "$part")" = "$count" ] || die "$part has $(rows all.json "$part") rows instead of $count"
  done <<<"operations 37
  steps 1
  thread_scaling $(sed -n 's/^ "threads": \([0-9]*\),\{0,1\}$/\1/p' all.json)
  length_scaling 2
  model_scaling 2"
}

test_flags() {
  expect_ok "$bench" --quick --only operations --model gpt2-nano d4 --isa portable --threads 1 --batch-size 3 --seq-len 20 \
    --steps 1 --markdown --json some.json
  expect_output '^portable, 1 threads'
  expect_output '^\*\*Operations of a step: d4 fp32, B 3, T 20'
  expect_output '^\| matmul_forward +\| qkv +\| +4 \|'
  check_numbers some.json
  [ "$(rows some.json operations)" = 74 ] || die "operations of two models are $(rows some.json operations) rows"
  [ "$(rows some.json steps)$(rows some.json thread_scaling)$(rows some.json model_scaling)" = 000 ] || die "--only is ignored"
  # More rows than the head handles at a time: two chunks, the second with fewer.
  expect_ok "$bench" --quick --only operations --precision fp32 --batch-size 3 --seq-len 100 --steps 1 --json chunks.json
  [ -n "$(row chunks.json operation matmul_forward of head,.44.rows)" ] || die "no row of the head's last 44 rows"
  if "$bench" --quick --only steps --precision bf16 --json bf16.json >out 2>&1; then
    check_numbers bf16.json
    grep -q '"precision": "bf16"' bf16.json || die "--precision bf16 measured something else"
    expect_error 1 'needs a CPU with AVX512-BF16' "$bench" --quick --precision bf16 --isa avx2
  else
    grep -q 'needs a CPU with AVX512-BF16' out || { cat out; die "no reason why bf16 is not possible"; }
  fi
}

test_refused() {
  expect_error 2 "'gpt3', expected a preset" "$bench" --quick --model gpt3
  expect_error 2 'seq-len is 2048, and the context of gpt2 is 1024' "$bench" --model gpt2 --seq-len 2048
  expect_error 2 'only' "$bench" --only everything
  expect_error 2 'precision' "$bench" --precision fp64
  expect_error 2 'isa' "$bench" --isa mmx
  expect_error 2 'batch-size' "$bench" --batch-size 0
  expect_error 2 'unexpected|not expected' "$bench" --colour red
  expect_error 1 'nowhere/out.json: cannot be written' "$bench" --quick --json /nowhere/out.json
  expect_ok "$bench" --help
  expect_output 'seq-len'
}

run_tests "$@"
