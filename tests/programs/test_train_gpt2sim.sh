# train_gpt2.cu built on cudasim: the same run as on the CPU; the same bits run after run, under every schedule and
# after a resume, also from and to the CPU; and what only the GPU's trainer must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
[ -x "$BUILD/train_gpt2sim" ] || { echo "skipped: this build has no cudasim"; exit 77; }

make_text() {
  for i in $(seq 1 60); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}

# trainer PROGRAM FLAGS...: a tiny model on text.txt, unless FLAGS say otherwise.
trainer() {
  local program=$1 given=" $* " flags=()
  shift
  for flag in '--data text.txt' '--tokenizer bytes' '--layers 2' '--heads 2' '--channels 64' '--seq-len 33' '--batch-size 2' \
    '--sample-tokens 0' '--eval-every 0' '--eval-steps 1' '--schedule constant' '--warmup-steps 2'; do
    # shellcheck disable=SC2206
    [[ $given == *" ${flag% *} "* ]] || flags+=($flag)
  done
  ${run_by:-} "$program" "${flags[@]}" "$@"
}
cpu() { trainer "$BUILD/train_gpt2" --precision fp32 "$@"; }
sim() { trainer "$BUILD/train_gpt2sim" "$@"; }
losses() { sed -n 's/.*"loss":\([^,}]*\).*"step":\([0-9]*\).*/\2 \1/p' "$1/metrics.jsonl"; }
same_state() {  # two runs ended in the same state, bit for bit, with the same losses
  for file in model.safetensors optimizer.safetensors; do
    cmp "$1/latest/$file" "$2/latest/$file" || die "$file differs between $1 and $2"
  done
  diff <(losses "$1") <(losses "$2") >"$TMP/diff" || { cat "$TMP/diff"; die "losses differ between $1 and $2"; }
}

# near RUN RUN ABSOLUTE RELATIVE [STEPS]: compares the losses of all ten steps, or of STEPS steps, step by step
near() {
  paste -d' ' <(losses "$1") <(losses "$2") | awk -v a="$3" -v r="$4" -v names="$1, $2" -v steps="${5:-10}" '
    { d = $2 - $4; if (d < 0) d = -d; if (d > worst) worst = d; if ($1 != NR || $3 != NR || d > a + r * $4) bad = 1 }
    END { printf "%s: largest difference of a loss %.2e\n", names, worst; exit bad || NR != steps }' ||
    die "$1 and $2 differ beyond $3 absolute, $4 relative"
}

make_cpu() {  # the run on the CPU
  make_text
  expect_ok cpu --run cpu --steps 10
}

make_bf16() {  # the run on the GPU in bf16
  make_text
  expect_ok sim --run bf16 --steps 10 --save-every 5
}

expect_refused() {  # CODE REGEX COMMAND...: and no run folder is left
  expect_error "$1" "$2" "${@:3}" --run refused
  [ ! -e refused ] || die "a refused run left $(find refused)"
}
total() { sed -n 's/^total *\([0-9]*\) bytes$/\1/p' out; }

# A few steps equal those of the CPU; without a GPU it is an error.
test_smoke() {
  make_text
  tiny=(--layers 1 --channels 32 --seq-len 9 --steps 3)
  expect_ok cpu --run cpu "${tiny[@]}"
  expect_ok sim --run sim --precision fp32 "${tiny[@]}"
  near sim cpu 1e-5 0 3
  CUDASIM_DEVICES=0 expect_refused 1 'no CUDA device .*; train on the CPU with build/train_gpt2$' sim
}

# The same run as on the CPU.
# fp32: docs/testing.md's bound on a model's curve. bf16 and tf32: 1 %, the bound on norms of their gradients.
test_same_run() {
  make_cpu
  for precision in fp32 tf32; do
    expect_ok sim --run $precision --steps 10 --precision $precision
  done
  expect_output '^training: .* cudasim, tf32, peak [0-9.e-]+ TFLOP/s$'
  expect_output '^kernels: products own tensor cores \(built without cuBLASLt\); attention own plain kernels \(tensor cores would round float\)$'
  expect_output '^step 10/10 \| loss [0-9.]+ \| norm [0-9.]+ \| lr [0-9.e-]+ \| [0-9]+ ms \| [0-9]+ tok/s \| [0-9]+ % of peak$'
  expect_ok sim --run bf16 --steps 10 --save-every 5
  head -1 bf16/metrics.jsonl | grep -q '"precision":"bf16"' || die "the record lacks the precision that was used"
  expect_ok sim --run alone --steps 10 --no-master-weights
  near fp32 cpu 1e-5 0
  for run in tf32 bf16 alone; do near $run cpu 0 1e-2; done
  losses cpu | awk 'NR == 1 { first = $2 } END { exit !($2 < first - 1) }' || die "the loss does not fall"
  expect_ok sim --run reference --steps 10 --precision fp32 --reference
  near reference cpu 1e-5 0
}

# The same bits under every schedule and with every recomputation.
test_same_bits() {
  make_bf16
  expect_ok sim --run again --steps 10
  same_state again bf16
  for schedule in reverse random:7; do
    CUDASIM_SCHEDULE=$schedule expect_ok sim --run ${schedule%:*} --steps 10
    same_state ${schedule%:*} bf16
  done
  for recompute in gelu block; do
    expect_ok sim --run $recompute --steps 10 --recompute $recompute
    same_state $recompute bf16
  done
}

# Resumed from the middle, as after a crash; with micro-batches, dropout and stochastic rounding.
test_resumed() {
  make_text
  hard=(--steps 6 --save-every 2 --keep 0 --dropout 0.1 --total-batch-tokens 132 --no-master-weights --moments bf16 --sample-tokens 5
    --sample-every 3 --eval-every 4 --prompt Fox)
  expect_ok sim --run unbroken "${hard[@]}"
  [ "$(grep -c -- '--- sample ---' out)" = 2 ] || die "expected two samples"
  expect_output '^step 4 \| validation loss'
  [ "$(losses unbroken | cut -d' ' -f1 | tr '\n' ' ')" = "1 2 3 4 5 6 " ] || die "steps out of order: $(losses unbroken)"
  cp -r unbroken crashed
  rm -r crashed/checkpoints/step_000004 crashed/checkpoints/step_000006
  ln -sfn checkpoints/step_000002 crashed/latest
  expect_ok "$BUILD/train_gpt2sim" --run crashed --resume
  expect_output 'after step 2'
  same_state unbroken crashed
}

# Continued from the CPU on the GPU and back: as on the CPU only.
test_there_and_back() {
  make_cpu
  make_bf16
  expect_ok cpu --run there --steps 4
  expect_ok "$BUILD/train_gpt2sim" --run there --resume --steps 7
  expect_output 'cudasim, fp32'
  expect_ok "$BUILD/train_gpt2" --run there --resume --steps 10
  near there cpu 1e-5 0
  expect_error 1 'precision bf16 needs a CPU with AVX512-BF16' env WROUGHT_ISA=avx2 "$BUILD/train_gpt2" --run bf16 --resume --steps 11
  expect_ok "$BUILD/train_gpt2" --run bf16 --resume --steps 11 --precision fp32
}

# Muon: as on the CPU; resumed bit for bit; continued from the CPU on the GPU and back.
test_muon() {
  make_text
  expect_ok cpu --run cpumuon --steps 10 --optimizer muon
  for precision in fp32 bf16; do
    expect_ok sim --run $precision.muon --steps 10 --precision $precision --optimizer muon --save-every 5 --keep 0
  done
  near fp32.muon cpumuon 1e-4 0
  near bf16.muon cpumuon 0 2e-2
  for precision in fp32 bf16; do
    cp -r $precision.muon resumed.$precision && rm -r resumed.$precision/checkpoints/step_000010
    ln -sfn checkpoints/step_000005 resumed.$precision/latest
    expect_ok "$BUILD/train_gpt2sim" --run resumed.$precision --resume
    same_state $precision.muon resumed.$precision
  done
  expect_ok sim --run muonthere --steps 4 --precision fp32 --optimizer muon
  expect_ok "$BUILD/train_gpt2" --run muonthere --resume --steps 10
  near muonthere cpumuon 1e-4 0
  expect_error 2 '--optimizer: the run has "muon", given is "adamw"' "$BUILD/train_gpt2sim" --run bf16.muon --resume --optimizer adamw
}

# A signal ends the run after a saved step; five losses that are not finite end it, too.
test_ends() {
  make_text
  run_by=exec sim --run stopped --steps 1000000 --save-every 0 >stopped.out 2>&1 &
  pid=$!
  for _ in $(seq 600); do grep -qs '"step":3,' stopped/metrics.jsonl && break; sleep 0.05; done
  kill -TERM $pid
  code=0
  wait $pid || code=$?
  [ $code -eq 0 ] || { tail -5 stopped.out; die "exit $code after SIGTERM"; }
  step=$(sed -n 's/^stopped by signal [0-9]* after step \([0-9]*\); continue with: build.train_gpt2sim .*--resume$/\1/p' stopped.out)
  [ "$(readlink stopped/latest)" = "checkpoints/$(printf step_%06d "$step")" ] || die "the last step was not saved"
  [ "$(losses stopped | tail -1 | cut -d' ' -f1)" = "$step" ] || die "the last step was not logged"
  expect_error 1 'not finite in 5 steps in a row, up to step [0-9]+; the last good checkpoint is broken/checkpoints/step_[0-9]+: .*--model' \
    sim --run broken --steps 100 --lr 10 --weight-decay 10 --grad-clip 0 --warmup-steps 0 --save-every 1
  [ "$(grep -c '"skipped":true' broken/metrics.jsonl)" = 5 ] || die "expected 5 steps logged as skipped"
}

# Inspection without training: --check and --memory.
test_inspection() {
  make_text
  for precision in fp32 tf32 bf16; do
    expect_ok sim --check --run looked --precision $precision --dropout 0.1
    expect_output 'the model agrees with the reference'
  done
  CUDASIM_MMA=truncate expect_ok sim --check --run looked --precision bf16  # rounded as by tensor cores
  CUDASIM_MMA=truncate expect_ok sim --check --run looked --precision tf32
  expect_error 1 'CUDASIM_MMA=up: expected nearest or truncate' env CUDASIM_MMA=up "$BUILD/train_gpt2sim" --check --model d4 --tokenizer bytes
  CUDASIM_DEVICES=0 expect_ok sim --memory --run looked
  expect_output '^master weights +[0-9]+ +[0-9]+$'
  expect_output '^scratch +[0-9]+$'
  bytes=$(total)
  sed '/^total/d' out >of_gpu
  expect_ok trainer "$BUILD/train_gpt2" --gpu-memory --run looked # planned in a build without CUDA
  sed '/^total/d; /^libraries/d' out | cmp - of_gpu || die "train_gpt2 --gpu-memory differs from train_gpt2sim --memory"
  expect_output '^libraries, at most +335544320$' # two workspaces of cuBLASLt, one of cuDNN
  expect_ok sim --memory --run looked --recompute block --no-master-weights
  [ "$(total)" -lt "$bytes" ] || die "recomputation and no master weights save nothing"
  [ ! -e looked ] || die "--memory or --check made a run"
}

# --kernels names exactly the kernels that then run.
test_kernels() {
  make_text
  kernels=0
  while read -r flags; do
    # shellcheck disable=SC2086
    expect_ok sim --kernels --run looked $flags
    sed -n 's/^    \([A-Za-z_0-9:]*\).*/\1/p' out | sed 's/.*:://' | sort -u >named
    rm -f launched
    # shellcheck disable=SC2086
    CUDASIM_KERNELS=launched expect_ok sim --val-fraction 0 --steps 2 --run kernels$((++kernels)) $flags
    diff <(sed 's/.*:://' launched | sort -u) named >difference ||
      { cat difference; die "a step ($flags) launches kernels (<) that --kernels does not name, or not (>) those that it does"; }
  done <<'END'
--precision bf16
--precision tf32
--precision fp32
--precision bf16 --reference
--precision bf16 --channels 51 --heads 3 --dropout 0.1
--precision tf32 --channels 51 --heads 3 --recompute block
--precision fp32 --channels 51 --heads 3 --optimizer muon
--precision bf16 --channels 66 --heads 2 --loss-chunk 13
--precision bf16 --seq-len 1 --recompute gelu --no-master-weights --moments bf16
END
  expect_ok sim --kernels --run looked --batch-size 4 --seq-len 32
  expect_output '^device: cudasim; built without cuBLASLt, without cuDNN$'
  expect_output '^matmul_forward +qkv +128 x 192 x 64 +2 x  own tensor cores: built without cuBLASLt$'
  expect_output '^matmul_forward +fc +128 x 256 x 64 +2 x '
  expect_output '^matmul_forward +head +128 x 384 x 64 +1 x '
  expect_output '^matmul_backward dinp +fcproj +128 x 256 x 64 +2 x '
  expect_output '^matmul_backward dweight +attproj +64 x 64 x 128 +2 x '
  expect_output '^matmul_backward dbias +qkv +128 x 192 +2 x$'
  expect_output '^attention_backward +4 x 32, 2 heads of 32 +2 x  own kernels on tensor cores: built without cuDNN$'
  expect_output '^    matmul_tensor_core_kernel<.*TensorTile<64, 64, .*>, 6 blocks of 128 threads, 32768 bytes of shared memory$'
  CUDASIM_DEVICES=0 expect_ok sim --kernels --run looked --channels 48 --heads 4 --precision fp32
  expect_output '^device: none here; what only a GPU can tell is left open;'
  expect_output '^matmul_forward +qkv +66 x 144 x 48 +2 x  own plain kernel: built without cuBLASLt, and tensor cores would round fp32$'
  expect_ok sim --kernels --run looked --channels 48 --heads 4
  expect_output '^attention_forward .* 4 heads of 12 +2 x  own plain kernels: built without cuDNN; no kernel on tensor cores for heads of 12$'
  [ ! -e looked ] || die "--kernels made a run"
}

# Impossible runs: no GPU, an old one, too little memory and what to do about it.
test_refused() {
  make_text
  CUDASIM_DEVICES=0 expect_ok sim --memory --run refused
  bytes=$(total)
  CUDASIM_DEVICES=0 expect_refused 1 'no CUDA device .*; train on the CPU with build/train_gpt2$' sim
  CUDASIM_DEVICES=0 expect_refused 1 'no CUDA device' sim --check
  CUDASIM_CAPABILITY=75 expect_refused 1 'cudasim has compute capability 7.5, and the kernels need 8.0 or later; train on the CPU' sim
  CUDASIM_DEVICES=0 expect_refused 2 "precision is 'fp8', expected one of fp32 tf32 bf16" sim --precision fp8
  CUDASIM_MEMORY=$bytes expect_ok sim --run fits --steps 2
  CUDASIM_MEMORY=$((bytes - 1)) expect_refused 1 "training takes $bytes bytes of GPU memory and $((bytes - 1)) are free" sim
  for way in '--recompute gelu' '--recompute block' '--no-master-weights' '--moments bf16' '--batch-size 1'; do
    expect_output "^  $way +[0-9]+ bytes, fits\$"
  done
  CUDASIM_MEMORY=$((bytes - 1)) expect_ok sim --run fits2 --steps 2 --recompute gelu
  CUDASIM_MEMORY=100000 expect_refused 1 '^  --batch-size 1 ' sim --recompute block --no-master-weights --moments bf16
  [ "$(grep -c -- '--batch-size 1 ' out)" = 1 ] || die "the same advice is given twice"
  CUDASIM_MEMORY=100000 expect_refused 1 '^  --recompute block --no-master-weights --moments bf16 --batch-size 1 +[0-9]+ bytes$' sim
  expect_refused 2 'no-master-weights goes with --precision bf16' sim --precision fp32 --no-master-weights
  expect_ok sim --help
  expect_output 'precision TEXT=bf16'
}

run_tests "$@"
