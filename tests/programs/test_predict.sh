# What a step moves and takes: one kernel by hand, the totals, the kernels that a step really launches, bad input.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
predict="$BUILD/predict"

# field JSON KEY: a number that stands once in the text
field() { sed -n "s/.*\"$2\": *\([-0-9.e+]*\).*/\1/p" <<<"$1"; }
# row OPERATION OF KERNEL: what --json wrote of it
row() {
  awk -v RS='}' -v a="\"operation\": \"$1\"" -v b="\"of\": \"$2\"" -v c="\"kernel\": \"$3\"" \
    'index($0, a) && index($0, b) && index($0, c)' predicted.json
}
# equals WHAT VALUE EXPECTED: to 1e-9 of it
equals() {
  awk -v x="$2" -v y="$3" 'BEGIN { d = x - y; if (d < 0) d = -d; exit !(x != "" && d <= 1e-9 * (y < 0 ? -y : y)) }' ||
    die "$1 is $2, expected $3"
}

# ---- by hand -------------------------------------------------------------------------------------------------------
# GPT-2, 16 x 1024 tokens, C = 768, bf16. The residual connection with the second layernorm: two inputs, two outputs, two
# vectors of weights, two floats a row; 12 times.
expect_ok "$predict" --model gpt2 --json predicted.json
norm=$(row residual_layernorm_forward ln2 layernorm_forward_kernel)
bytes=$((16384 * 768 * 4 * 2 + 2 * 768 * 2 + 16384 * 8))
equals "residual_layernorm_forward's launches" "$(field "$norm" launches)" 12
equals "residual_layernorm_forward's bytes" "$(field "$norm" least_bytes)" $bytes
equals "residual_layernorm_forward's time" "$(field "$norm" us)" "$(awk -v b=$bytes 'BEGIN { printf "%.10g", 12 * b / 2.7e6 }')"
# Attention's projection: its forward product and, of its weights' gradient, 7 parts.
product=$(row matmul_forward attproj matmul_tensor_core_kernel)
flops=$((2 * 16384 * 768 * 768))
equals "the projection's operations" "$(field "$product" flops)" $flops
equals "the projection's bytes" "$(field "$product" least_bytes)" $(((2 * 16384 * 768 + 768 * 768 + 768) * 2))
equals "the projection's time" "$(field "$product" us)" "$(awk -v f=$flops 'BEGIN { printf "%.10g", 12 * f / 699.6e6 }')"
parts=$(row matmul_backward "attproj: dweight's parts" add_parts_kernel)
equals "the bytes of dweight's parts" "$(field "$parts" least_bytes)" $((9 * 768 * 768 * 4))

# ---- the totals ----------------------------------------------------------------------------------------------------
# The step's operations by the trainer's count: 6 a multiplied parameter and token, and 12 L C T for attention.
step=$(awk -v RS='}' '/"ms":/' predicted.json)
equals "the step's operations" "$(field "$step" trainer_flops)" \
  $((16384 * (6 * (12 * 12 * 768 * 768 + 50257 * 768) + 12 * 12 * 768 * 1024)))
for key in us share; do
  grep -o "\"$key\": *[-0-9.e+]*" predicted.json | awk '{ sum += $2 } END { printf "%.12g\n", sum }' >sum
  equals "the sum of all $key" "$(cat sum)" "$([ $key = share ] && echo 1 || awk -v ms="$(field "$step" ms)" 'BEGIN { printf "%.12g", 1e3 * ms }')"
done
equals "tokens a second" "$(field "$step" tokens_per_second)" "$(awk -v ms="$(field "$step" ms)" 'BEGIN { printf "%.12g", 16384e3 / ms }')"
expect_ok "$predict"
for model in gpt2 gpt2-medium gpt2-large gpt2-xl; do expect_output "^$model .*16 x 1024 "; done
expect_ok "$predict" --markdown --model gpt2-xl --batch-size 2 --recompute block
expect_output '^\| matmul_forward \| qkv, again \| matmul_tensor_core_kernel \| 47 \|'
expect_output '^\| step \|'

# Muon, 64 x 1024 tokens: 12 of fc's matrices (3072, 768). A is of 12 x 12 tiles of 64, of which 78 reach the diagonal; AdamW
# has what is left. All of Muon's kernels are at most 3 % of the step.
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
  awk '{ sum += $2 } END { exit !(sum > 0.01 && sum <= 0.03) }' || die "Muon takes more than 3 % of a step of 65,536 tokens"
expect_output '^Muon: [0-9]+ GFLOP and [0-9.]+ GB in [0-9.]+ ms, [0-9.]+ % of the step of 65536 tokens'
expect_ok "$predict" --optimizer muon
expect_output ' adamw +muon +rest$'

# What docs/performance.md shows is what predict says.
"$predict" --markdown >said
"$predict" --model gpt2 --markdown >>said
sed -n 's/ not measured yet |$//p' "$SOURCE/docs/performance.md" | grep ' %' >shown
[ "$(wc -l <shown)" -ge 30 ] || die "docs/performance.md shows only $(wc -l <shown) rows of predict's"
grep -vxFf said shown >stale && { cat stale; die "docs/performance.md has rows that predict does not print (build/predict --markdown)"; }

# ---- how the launchers divide their work: as gpu_step.h has it ----------------------------------------------------
has() { grep -qE "$2" "$SOURCE/kernels/$1" || die "kernels/$1 has no '$2' any more: see the constants of dev/bench/gpu_step.h"; }
has matmul.cuh 'kBiasChunk = 512;'
has layernorm.cuh 'kLayernormBackwardBlocks = 384;'
has global_norm.cuh 'kGlobalNormChunk = 16384;'
has muon.cuh 'kMuonChunk = 4096;'
has muon.h 'kMuonSteps = 5;'
has embedding.cuh 'kSortTile = 1024, kSortDigits = 256;'

# ---- the kernels that a step launches ------------------------------------------------------------------------------
# The real step, in cudasim, against the list: none that predict does not know, and none that does not run. (The trainer
# also measures a product before its first step, which is one of the step's kernels.)
[ -x "$BUILD/train_gpt2sim" ] || { echo "skipped, without cudasim: which kernels a step launches, and dweight's parts"; exit 0; }
"$BUILD/train_gpt2sim" --memory --model gpt2 --tokenizer bytes --vocab-size 50257 --batch-size 16 --seq-len 1024 --run none >memory
# The largest scratch of that step is that of dweight's parts.
[ "$(sed -n 's/^scratch *\([0-9]*\)$/\1/p' memory)" = $((7 * 768 * 768 * 4)) ] ||
  die "dweight's parts are not 7 any more: see weight_parts() in dev/bench/gpu_step.h"
for i in $(seq 1 40); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17))."; done >text.txt
for flags in "bf16 none adamw" "bf16 gelu adamw" "bf16 block adamw" "tf32 none adamw" "bf16 none muon" "tf32 none muon"; do
  set -- $flags
  rm -f launched
  CUDASIM_KERNELS=launched expect_ok "$BUILD/train_gpt2sim" --data text.txt --val-fraction 0 --tokenizer bytes --layers 2 --heads 2 \
    --channels 64 --seq-len 32 --batch-size 2 --steps 2 --sample-tokens 0 --precision "$1" --recompute "$2" --optimizer "$3" \
    --run "run_$1_$2_$3"
  expect_ok "$predict" --kernels --model d4 --precision "$1" --recompute "$2" --optimizer "$3" --seq-len 32
  diff <(sed 's/.*:://' launched | sort -u) out >difference ||
    { cat difference; die "a step ($flags) launches kernels (<) that predict does not know, or not (>) those that it counts"; }
done

# ---- counted bytes -------------------------------------------------------------------------------------------------
counts() { # counts OPERATION BYTES VERSIONS
  echo "{\"ladders\": [{\"operation\": \"$1\", \"bytes\": $2, \"versions\": [$3]}]}" >counts.json
}
naive='{"name": "naive", "kernel": false, "counts": {"dram_bytes": 999}}'
last='{"name": "vector", "kernel": true, "counts": {"dram_bytes": 150}}'
counts residual_layernorm_forward 100 "$naive, $last"
expect_ok "$predict" --model gpt2 --json predicted.json --counts counts.json
expect_output 'over the least: residual_layernorm_forward 1.500; 1 for others'
norm=$(row residual_layernorm_forward ln2 layernorm_forward_kernel)
equals "the time of counted bytes" "$(field "$norm" us)" "$(awk -v b=$bytes 'BEGIN { printf "%.10g", 12 * 1.5 * b / 2.7e6 }')"
counts matmul_backward_bias 100 "$last"
expect_ok "$predict" --model gpt2 --json predicted.json --counts counts.json
for of in dbias dweight dinp; do
  equals "counted over least of fc's $of" "$(field "$(awk -v RS='}' "/\"of\": \"fc: $of\"/" predicted.json)" counted_over_least)" \
    "$([ $of = dbias ] && echo 1.5 || echo 1)"
done
counts residual_layernorm_forward 0 "$last"
expect_error 1 'counts.json: the ladder of residual_layernorm_forward has no positive "bytes"' "$predict" --counts counts.json
counts residual_layernorm_forward 100 "$naive"
expect_error 1 'counts.json: no ladder has counts of a kernel' "$predict" --counts counts.json
counts residual_layernorm_forward 100 '{"kernel": true, "us": 3}'
expect_error 1 'no positive "dram_bytes"' "$predict" --counts counts.json
echo '[]' >counts.json
expect_error 1 'no list "ladders"' "$predict" --counts counts.json
expect_error 1 'nowhere.json cannot be read; build/bench_kernels_sim --json' "$predict" --counts nowhere.json

# ---- what cannot be ------------------------------------------------------------------------------------------------
expect_error 2 "'gpt3', expected a preset" "$predict" --model gpt3
expect_error 2 'seq-len is 2048, and the context of gpt2 is 1024' "$predict" --model gpt2 --seq-len 2048
expect_error 2 'precision' "$predict" --precision fp64
expect_error 2 'batch-size' "$predict" --batch-size 0
expect_error 2 'optimizer' "$predict" --optimizer sgd
expect_error 2 'unexpected|not expected' "$predict" --colour red
expect_error 1 'cannot be written' "$predict" --json /nowhere/out.json
expect_ok "$predict" --help
expect_output 'seq-len'
