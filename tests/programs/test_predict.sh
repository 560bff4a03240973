# The bytes and time of a step: kernels worked out by hand, the totals, the kernels that a step launches, bad input.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
predict="$BUILD/predict"

# field JSON KEY: a number that occurs once in the text
field() { sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" <<<"$1"; }
# row OPERATION OF KERNEL: its object in --json
row() {
  awk -v RS='}' -v a="\"operation\": \"$1\"" -v b="\"of\": \"$2\"" -v c="\"kernel\": \"$3\"" \
    'index($0, a) && index($0, b) && index($0, c)' predicted.json
}

# equals WHAT VALUE EXPECTED: within 1e-9
equals() {
  awk -v x="$2" -v y="$3" 'BEGIN { d = x - y; if (d < 0) d = -d; exit !(x != "" && d <= 1e-9 * (y < 0 ? -y : y)) }' ||
    die "$1 is $2, expected $3"
}

rates="$SOURCE/dev/bench/rates.json"
device=h100
# rate NAME: its value for the device in the file
rate() { sed -n "/\"$device\": {/,/^ }/s/.*\"$1\": {\"value\": \([0-9.]*\).*/\1/p" "$rates"; }
# by_hand EXPRESSION: an awk expression with the rates as variables; `us` is a cycle of the tensor clock
by_hand() {
  awk -v copy="$(rate copy)" -v copy_share="$(rate copy_share)" -v latency="$(rate latency)" -v p="$(rate saturation)" \
    -v sm="$(rate multiprocessors)" -v clock="$(rate clock)" -v us="$(awk -v c="$(rate tensor_clock)" 'BEGIN { printf "%.17g", 1e-3 / c }')" \
    -v slots="$(awk -v n="$(rate issue_slots)" -v s="$(rate issue_share)" 'BEGIN { printf "%.17g", n * s }')" \
    -v tensor="$(rate tensor_flops)" -v tensor_issue="$(rate tensor_issue)" -v epilogue="$(rate tile_epilogue)" \
    -v library="$(rate library_share)" -v tuned="$(rate tuned_gain)" -v mma_sync="$(rate mma_sync_share)" -v gap="$(rate graph_gap)" \
    'function served(in_flight) { return (best ^ -p + (in_flight / latency) ^ -p) ^ (-1 / p) }
     BEGIN { best = 1e6 * copy * copy_share; printf "%.14g", '"$1"' }'
}

# For layernorm_forward in a step of GPT-2: see test_by_hand.
bytes=$((16384 * 768 * 2 * 2 + 2 * 768 * 2 + 16384 * 8))
norm_us="12 * (gap + $bytes / 4096 * (16 * sm / served(16 * sm * 128 * 32) + (4096 - 16 * sm) / served((4096 - 16 * sm) * 128 * 32)))"

# Kernels worked out by hand.
# GPT-2, 16 x 1024 tokens, C = 768, bf16. The second layernorm: an input, an output, two vectors of weights, two floats
# per row; 12 times. Its 4,096 blocks of 128 threads run 16 per multiprocessor (32 registers per thread), in a full wave
# and a partial one; a thread has 32 bytes in flight.
test_by_hand() {
  expect_ok "$predict" --model gpt2 --json predicted.json
  expect_output '^Predicted, not measured: h100, bf16. Rates: dev/bench/rates.json$'
  expect_output '^Products: cublaslt; attention: cudnn.$'
  norm=$(row layernorm_forward ln2 layernorm_forward_kernel)
  equals "layernorm_forward's launches" "$(field "$norm" launches)" 12
  equals "layernorm_forward's bytes" "$(field "$norm" least_bytes)" $bytes
  equals "layernorm_forward's time" "$(field "$norm" us)" "$(by_hand "$norm_us")"
  [[ $norm == *'"limit": "bytes"'* ]] || die "layernorm_forward is not bound by bytes: $norm"
  # The bias gradient of attention's projection: its sums are known, 768 of them are set.
  bias=$(row matmul_backward "attproj: dbias" add_parts_kernel)
  equals "the bias gradient's bytes" "$(field "$bias" least_bytes)" $((2 * 768 * 4))
  # AdamW, four loads in flight: a little over 30 bytes per parameter, 6 blocks of 256 threads per multiprocessor, all
  # waves full or nearly: bound by bytes.
  adamw=$(row adamw_update "" adamw_update_kernel)
  [[ $adamw == *'"limit": "bytes"'* ]] || die "AdamW is not bound by bytes: $adamw"
  expect_ok "$predict" --model gpt2 --moments bf16 --json predicted.json
  expect_output '^Predicted, not measured: h100, bf16, moments in bf16. '
  equals "AdamW's bytes with moments in bf16" "$(field "$(row adamw_update_bf16 "" adamw_update_kernel)" least_bytes)" \
    "$(awk 'BEGIN { printf "%.12g", (22 + 1 / 64) * 124475904 }')"
  expect_ok "$predict" --model gpt2 --json predicted.json
  expect_ok "$predict" --model gpt2 --loss-chunk 5000 --json predicted.json # 5,000 three times, then 1,384 rows
  expect_output '^matmul_forward +head +cuBLASLt.s +3 '
  equals "the launches of the head's dweight" "$(grep -c '"of": "head: dweight"' predicted.json)" 3
  equals "a chunk's bytes" "$(field "$(row classifier_backward "" classifier_backward_kernel)" least_bytes | head -1)" \
    $((5000 * (50257 + 50304) * 2 + 12 * 5000))
  equals "the losses' bytes" "$(field "$(row classifier_loss "" classifier_loss_kernel)" least_bytes)" $((8 * 16384 + 16))
  expect_ok "$predict" --model gpt2 --json predicted.json
  # That of queries, keys and values comes with dweight.
  product=$(row matmul_backward "qkv: dweight, dbias" "cuBLASLt's")
  equals "the bytes of qkv's gradients" "$(field "$product" least_bytes)" $((16384 * 4 * 768 * 2 + (3 * 768 * 768 + 2304) * 4))
  # The classifier: 16,384 rows, two at a time per multiprocessor due to shared memory, 192 bytes per thread in flight.
  classifier=$(row classifier_backward "" classifier_backward_kernel)
  equals "the classifier's time" "$(field "$classifier" us)" \
    "$(by_hand "gap + $((16384 * (50257 + 50304) * 2 + 12 * 16384)) / 16384 * (62 * 264 / served(264 * 512 * 192) + 16 / served(16 * 512 * 192))")"
  [[ $classifier == *'"limit": "bytes"'* ]] || die "the classifier is not bound by bytes: $classifier"
  # Attention's projection by cuBLASLt: 128 x 3 tiles of 128 x 256, 12 blocks of 64 of K: 1,024 cycles each. The stream
  # is read, too.
  product=$(row matmul_forward "attproj, residual" "cuBLASLt's")
  flops=$((2 * 16384 * 768 * 768))
  equals "the projection's operations" "$(field "$product" flops)" $flops
  equals "the projection's bytes" "$(field "$product" least_bytes)" $(((3 * 16384 * 768 + 768 * 768 + 768) * 2))
  equals "the projection's time" "$(field "$product" us)" \
    "$(by_hand "12 * (gap + 3 * (12 * 2 * 128 * 256 * 64 / tensor / tensor_issue + 2 * epilogue) * us / library / tuned)")"
  equals "attention's forward pass" "$(field "$(row attention_forward "" "cuDNN's")" us)" \
    "$(by_hand "12 * (gap + 2 * 16384 * 1024 * 768 / (1e6 * $(rate cudnn_forward_64)))")"
  # cuDNN's backward pass: two pieces of 8 sequences.
  equals "cuDNN's backward pass" "$(field "$(row attention_backward "" "cuDNN's")" us)" \
    "$(by_hand "24 * (gap + 5 * 8192 * 1024 * 768 / (1e6 * $(rate cudnn_backward_64)))")"

  # Our own kernels: 12,288 mma per tile, which take longer than 2.4 instructions for each; then 14 for each sum, 32
  # lanes at a time. Attention: mma and 626 instructions for 32 x 64 pairs, one after the other.
  expect_ok "$predict" --model gpt2 --matmul own --attention own --json predicted.json
  product=$(row matmul_forward "attproj, residual" matmul_tensor_core_kernel)
  equals "the own projection's time" "$(field "$product" us)" \
    "$(by_hand "12 * (gap + 3 * (12288 * 4096 / (tensor * mma_sync) + 128 * 256 / 32 * 14 / slots) * us)")"
  # Attention's backward pass is bound by its instructions.
  [[ $(row attention_backward "dk, dv" attention_backward_keys_tensor_core_kernel) == *'"limit": "issue"'* ]] ||
    die "attention's backward pass is not bound by issue"
  # The bias gradient of 2,304 columns: 9 x 32 blocks, two per multiprocessor (113 registers per thread), then 24 more.
  bias=$(row matmul_backward "qkv: dbias" bias_partial_kernel)
  equals "the time of qkv's bias gradient" "$(field "$bias" us)" \
    "$(by_hand "12 * (gap + $((16384 * 2304 * 2 + 32 * 2304 * 4)) / 288 * (264 / served(264 * 256 * 128) + 24 / served(24 * 256 * 128)))")"
  [[ $bias == *'"limit": "latency"'* ]] || die "qkv's bias gradient is not bound by latency: $bias"
  pairs=$((16 * 12 * 1024 * (1024 + 32 + 64) / 2))
  equals "the own attention's time" "$(field "$(row attention_forward "" attention_forward_tensor_core_kernel)" us)" \
    "$(by_hand "12 * (gap + ($pairs * 2 * 2 * 64 / (tensor * mma_sync) + $pairs / 2048 * 626 / slots) * us / sm)")"
  parts=$(row matmul_backward "attproj: dweight's parts" add_parts_kernel)
  equals "the bytes of dweight's parts" "$(field "$parts" least_bytes)" $((8 * 768 * 768 * 4))
}

# The totals.
test_totals() {
  expect_ok "$predict" --model gpt2 --json predicted.json
  # The step's operations by the trainer's count: 6 per multiplied parameter and token, and 12 L C T for attention.
  step=$(awk -v RS='}' '/"ms":/' predicted.json)
  equals "the step's operations" "$(field "$step" trainer_flops)" \
    $((16384 * (6 * (12 * 12 * 768 * 768 + 50257 * 768) + 12 * 12 * 768 * 1024)))
  equals "the host's time" "$(field "$step" host_us)" 0
  for key in us share; do
    grep -o "\"$key\": *[-0-9.e+]*" predicted.json | awk '{ sum += $2 } END { printf "%.12g\n", sum }' >sum
    equals "the sum of all $key" "$(cat sum)" "$([ $key = share ] && echo 1 || awk -v ms="$(field "$step" ms)" 'BEGIN { printf "%.12g", 1e3 * ms }')"
  done
  equals "tokens per second" "$(field "$step" tokens_per_second)" "$(awk -v ms="$(field "$step" ms)" 'BEGIN { printf "%.12g", 16384e3 / ms }')"
  expect_ok "$predict"
  for model in gpt2 gpt2-medium gpt2-large gpt2-xl; do expect_output "^$model .*16 x 1024  cublaslt +cudnn "; done
  expect_ok "$predict" --model gpt2 --batch-size 16 64 --matmul own cublaslt --attention own cudnn
  [ "$(grep -c '^gpt2 (124M) ' out)" -eq 8 ] || die "not a row for each of 8 steps"
  # Without graphs a small step waits for the host: the time of its launches is that of the step.
  expect_ok "$predict" --model gpt2-nano --batch-size 1 --seq-len 16 --graph off --json predicted.json
  expect_output '^waiting for the host .* launch '
  step=$(awk -v RS='}' '/"ms":/' predicted.json)
  equals "the host's step" "$(field "$step" ms)" "$(awk -v n="$(field "$step" launches)" -v us="$(rate host_launch)" 'BEGIN { printf "%.12g", n * us / 1e3 }')"
  expect_ok "$predict" --markdown --model gpt2-xl --batch-size 2 --recompute block
  expect_output '^\| matmul_forward \| qkv, again \| cuBLASLt.s \| 47 \|'
  expect_output '^\| step \|'
}

# Muon, 64 x 1024 tokens: 12 of fc's matrices (3072, 768). A has 12 x 12 tiles of 64, of which 78 reach the diagonal;
# AdamW updates the rest. All of Muon's kernels are at most 8 % of the step.
test_muon() {
  expect_ok "$predict" --model gpt2 --batch-size 64 --optimizer muon --json predicted.json
  product=$(row muon_orthogonalize "fc: A" matmul_tensor_core_kernel)
  equals "A's launches" "$(field "$product" launches)" 60
  equals "A's operations" "$(field "$product" flops)" $((2 * 768 * 768 * 3072 * 78 / 144))
  equals "A's bytes" "$(field "$product" least_bytes)" $(((768 * 3072 + 768 * 768) * 2))
  equals "X's operations" "$(field "$(row muon_orthogonalize "fc: X" matmul_tensor_core_kernel)" flops)" $((2 * 768 * 768 * 3072))
  rest=$((124475904 - 12 * 12 * 768 * 768))
  equals "AdamW's bytes" "$(field "$(row adamw_update "" adamw_update_kernel)" least_bytes)" \
    "$(awk -v n=$rest 'BEGIN { printf "%.12g", (30 + 1 / 64) * n / 49 }')"
  awk -v RS='}' '/"operation": "muon/' predicted.json | grep -o '"share": *[-0-9.e+]*' |
    awk '{ sum += $2 } END { exit !(sum > 0.01 && sum <= 0.08) }' || die "Muon takes more than 8 % of a step of 65,536 tokens"
  expect_output '^Muon: [0-9]+ GFLOP and [0-9.]+ GB in [0-9.]+ ms, [0-9.]+ % of the step of 65536 tokens'
  expect_ok "$predict" --optimizer muon
  expect_output ' adamw +muon +rest$'
}

# docs/performance.md shows what predict prints.
test_docs() {
  "$SOURCE/dev/predict/predict_docs.sh" "$predict" >anew.md || die "predict_docs.sh failed"
  [ "$(grep -c 'not measured yet |$' anew.md)" -ge 60 ] || die "docs/performance.md shows too few rows of predict"
  diff "$SOURCE/docs/performance.md" anew.md || die "docs/performance.md shows other tables (<) than predict (>): dev/predict/predict_docs.sh --write"
}

# Rates from a file.
test_rates() {
  # change SCRIPT: makes rates.json from the committed one by sed; it must differ
  change() {
    sed "$1" "$SOURCE/dev/bench/rates.json" >rates.json
    ! cmp -s "$SOURCE/dev/bench/rates.json" rates.json || die "sed '$1' changes nothing"
  }
  expect_ok "$predict" --model gpt2 --graph off --json predicted.json
  expect_output '^Predicted, not measured: h100, bf16, without graphs. Rates'
  before=$(awk -v RS='}' '/"ms":/' predicted.json)
  change 's/\("launch_gap": {"value": \)[0-9.]*/\13.5/'
  expect_ok "$predict" --model gpt2 --graph off --rates rates.json --json predicted.json
  expect_output 'Rates: rates.json$'
  after=$(awk -v RS='}' '/"ms":/' predicted.json)
  equals "the step with other gaps" "$(field "$after" ms)" "$(awk -v ms="$(field "$before" ms)" -v n="$(field "$before" launches)" \
    -v gap="$(rate launch_gap)" 'BEGIN { printf "%.12g", ms + n * (3.5 - gap) / 1e3 }')"
  expect_ok "$predict" --model gpt2 --device h200 --json predicted.json
  norm=$(row layernorm_forward ln2 layernorm_forward_kernel)
  rates_of_h100=$(by_hand "$norm_us")
  equals "layernorm_forward's time on an H200" "$(field "$norm" us)" \
    "$(device=h200 by_hand "$norm_us")"
  [ "$(field "$norm" us)" != "$rates_of_h100" ] || die "an H200's memory is as fast as an H100's"
  bad() { # bad SED REGEX
    change "$1"
    expect_error 1 "^error: rates.json: $2" "$predict" --rates rates.json
  }
  bad '/"latency"/d' 'h100.latency is missing, expected \{"value": a number, "unit": "us", "from": a text\}'
  bad 's/"latency": {.*},/"latency": 0.65,/' 'h100.latency is 0.65, expected \{"value"'
  bad 's/\("latency": {\)"value": [0-9.]*, /\1/' 'h100.latency.value is missing'
  bad 's/\("latency": {"value": [0-9.]*, \)"unit": "us", /\1/' 'h100.latency.unit is missing'
  bad 's/\("latency": {"value": \)[0-9.]*/\1"0.65"/' 'h100.latency.value is "0.65", expected a number above 0'
  bad 's/\("latency": {"value": \)[0-9.]*/\10/' 'h100.latency.value is 0, expected a number above 0'
  bad 's/\("latency": {"value": \)[0-9.]*/\1-0.65/' 'h100.latency.value is -0.65, expected a number above 0'
  bad 's/\("copy_share": {"value": \)[0-9.]*/\193/' 'h100.copy_share.value is 93, expected a number above 0, at most 1'
  bad 's/\("multiprocessors": {"value": \)[0-9.]*/\1131.5/' 'h100.multiprocessors.value is 131.5, expected an integer above 0'
  bad 's/"TB\/s"/"GB\/s"/' 'h100.copy.unit is "GB/s", expected "TB/s"'
  bad 's/\("unit": "us", "from": "\)estimate/\1guess/' 'h100.latency.from is .*, expected a text that begins with "estimate", "published" or "measured on"'
  bad 's/"latency"/"latencies"/' 'h100.latencies is not a rate that predict knows'
  bad 's/"h100"/"h300"/' 'there is no device "h100"; found: h200 h300'
  echo '{"h100": 3}' >rates.json
  expect_error 1 'rates.json: h100 is 3, expected an object of rates' "$predict" --rates rates.json
  echo '{"h100": ' >rates.json
  expect_error 1 'rates.json: not JSON' "$predict" --rates rates.json
  expect_error 1 'nowhere.json cannot be read' "$predict" --rates nowhere.json
  expect_error 1 'there is no device "b200"; found: h100 h200' "$predict" --device b200
}

# The launchers divide their work as llm/models/count.cpp and dev/bench/kernel_work.h assume; what both take from
# kernels/scratch.h needs no test.
test_launchers() {
  has() { grep -qE "$2" "$SOURCE/kernels/$1" || die "kernels/$1 has no '$2' any more: see llm/models/count.cpp and dev/bench/kernel_work.h"; }
  has layernorm.cuh 'team_threads <= 256'
  has layernorm.cuh 'team_threads <= 512'
  has classifier.cuh 'kClassifierThreads = 512;'
  has classifier.cuh '228 \* 1024\) / 2 - 2 \* 1024'
  has matmul_tensor_core.cuh 'tile_count\(M, N, 128, 256\) \* parts >= 256'
  has matmul_tensor_core.cuh 'tile_count\(M, N, 128, 128\) \* parts >= 128'

  grep -o '{"[a-z_]*_kernel"' "$SOURCE/dev/bench/kernel_work.h" | tr -d '{"' | sort -u >worked
  [ "$(wc -l <worked)" -ge 20 ] || die "dev/bench/kernel_work.h names only $(wc -l <worked) kernels"
  while read -r kernel; do
    grep -qw "$kernel" "$SOURCE"/kernels/*.cuh || die "dev/bench/kernel_work.h has a row for $kernel, which is not in kernels/ any more"
  done <worked
}

# The kernels that a step launches.
# The real step, on cudasim, compared with the list: every kernel that runs is known to predict, and every listed one
# runs. (The trainer also measures a product before its first step, with one of the step's kernels.)
test_launched() {
  [ -x "$BUILD/train_gpt2sim" ] || { echo "skipped, without cudasim: the kernels that a step launches, and the parts of dweight"; exit 77; }
  "$BUILD/train_gpt2sim" --memory --model gpt2 --tokenizer bytes --vocab-size 50257 --batch-size 16 --seq-len 1024 --run none >memory
  # The largest scratch of that step is that of dweight's parts.
  [ "$(sed -n 's/^scratch *\([0-9]*\)$/\1/p' memory)" = $((7 * 768 * 768 * 4)) ] ||
    die "dweight's parts are not 7 any more: see weight_parts() in kernels/scratch.h"
  for i in $(seq 1 40); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17))."; done >text.txt
  for flags in "bf16 none adamw" "bf16 gelu adamw" "bf16 block adamw" "tf32 none adamw" "bf16 none muon" "tf32 none muon"; do
    # shellcheck disable=SC2086
    set -- $flags
    rm -f launched
    CUDASIM_KERNELS=launched expect_ok "$BUILD/train_gpt2sim" --data text.txt --val-fraction 0 --tokenizer bytes --layers 2 --heads 2 \
      --channels 64 --seq-len 32 --batch-size 2 --steps 2 --sample-tokens 0 --precision "$1" --recompute "$2" --optimizer "$3" \
      --run "run_$1_$2_$3"
    expect_ok "$predict" --kernels --model d4 --matmul own --attention own --precision "$1" --recompute "$2" --optimizer "$3" --seq-len 32
    diff <(sed 's/.*:://' launched | sort -u) out >difference ||
      { cat difference; die "a step ($flags) launches kernels (<) that predict does not know, or not (>) those that it counts"; }
  done
}

# Counted bytes instead of the minimum.
test_counted() {
  counts() { # counts OPERATION BYTES VERSIONS
    echo "{\"ladders\": [{\"operation\": \"$1\", \"bytes\": $2, \"versions\": [$3]}]}" >counts.json
  }
  naive='{"name": "naive", "kernel": false, "counts": {"dram_bytes": 999}}'
  last='{"name": "vector", "kernel": true, "counts": {"dram_bytes": 150}}'
  counts layernorm_forward 100 "$naive, $last"
  expect_ok "$predict" --model gpt2 --json predicted.json --counts counts.json
  expect_output 'over the minimum: layernorm_forward 1.500; 1 for others'
  norm=$(row layernorm_forward ln2 layernorm_forward_kernel)
  equals "the time of counted bytes" "$(field "$norm" us)" "$(by_hand "${norm_us/$bytes/1.5 * $bytes}")"
  counts matmul_backward_bias 100 "$last"
  expect_ok "$predict" --model gpt2 --matmul own --json predicted.json --counts counts.json
  for of in dbias dweight dinp; do
    equals "counted over least of fc's $of" "$(field "$(awk -v RS='}' "/\"of\": \"fc: $of\"/" predicted.json)" counted_over_least)" \
      "$([ $of = dbias ] && echo 1.5 || echo 1)"
  done
  counts matmul_forward_bf16 100 "$last" # our kernel: it says nothing about a library's kernel
  for tier in own cublaslt; do
    expect_ok "$predict" --model gpt2 --matmul $tier --json predicted.json --counts counts.json
    equals "counted over least of fc's product ($tier)" "$(field "$(awk -v RS='}' '/"of": "fc, gelu"/' predicted.json)" counted_over_least)" \
      "$([ $tier = own ] && echo 1.5 || echo 1)"
  done
  counts layernorm_forward 0 "$last"
  expect_error 1 'counts.json: the ladder of layernorm_forward has no positive "bytes"' "$predict" --counts counts.json
  counts layernorm_forward 100 "$naive"
  expect_error 1 'counts.json: no ladder has counts of a kernel' "$predict" --counts counts.json
  counts layernorm_forward 100 '{"kernel": true, "us": 3}'
  expect_error 1 'no positive "dram_bytes"' "$predict" --counts counts.json
  echo '[]' >counts.json
  expect_error 1 'no list "ladders"' "$predict" --counts counts.json
  expect_error 1 'nowhere.json cannot be read; build/bench_kernels_sim --json' "$predict" --counts nowhere.json
}

test_refused() {
  expect_error 2 "'gpt3', expected a preset" "$predict" --model gpt3
  expect_error 2 'seq-len is 2048, and the context of gpt2 is 1024' "$predict" --model gpt2 --seq-len 2048
  expect_error 2 'precision' "$predict" --precision fp64
  expect_error 2 'json excludes --kernels' "$predict" --model d4 --kernels --json "$TMP/kernels.json"
  expect_error 2 'matmul' "$predict" --matmul plain
  expect_error 2 'attention' "$predict" --attention flash
  expect_error 2 'batch-size' "$predict" --batch-size 0
  expect_error 2 'optimizer' "$predict" --optimizer sgd
  expect_error 2 'moments' "$predict" --moments fp8
  expect_error 2 'loss-chunk' "$predict" --loss-chunk -1
  expect_error 2 'moments bf16 is for AdamW' "$predict" --moments bf16 --optimizer muon
  expect_error 2 'unexpected|not expected' "$predict" --colour red
  expect_error 1 'cannot be written' "$predict" --json /nowhere/out.json
  expect_ok "$predict" --help
  expect_output 'seq-len'
}

run_tests "$@"
