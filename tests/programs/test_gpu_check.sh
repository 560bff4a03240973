# dev/gpu_check.sh: its stages on cudasim, its way on a GPU's machine with stand-ins for the card, and what goes wrong.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
export OMP_NUM_THREADS=2 PYTHON="$TMP/no-python"
unset LLMC_DIR
check="$SOURCE/dev/gpu_check.sh"
awk_times() { sort -n times.tsv | awk -v last=adamw_update_kernel -v skip="$1" -f "$SOURCE/dev/kernel_times.awk"; }
# The results are JSON: predict parses them, and misses only that they are no benchmark's.
is_json() { expect_error 1 'there is no list "ladders"' "$BUILD/predict" --counts "$1"; }
stages_of() { grep -o '"stage": "[a-z]*", "status": "[a-z]*"' "$1/results.json" | cut -d'"' -f4,8 | tr '"\n' '= '; }

# ---- flags ---------------------------------------------------------------------------------------------------------
expect_ok "$check" --help
expect_output '--pack'
expect_ok "$check" --list
[ "$(wc -l <out)" = 10 ] || die "expected ten stages"
expect_error 2 "'kernel' is no stage; there are: build kernels" "$check" --sim --stages kernel
expect_error 2 "'--speed' is no flag" "$check" --speed
expect_error 2 "stages wants a value" "$check" --sim --stages
expect_error 2 "minutes is 'soon'" "$check" --minutes soon
mkdir empty bare
for tool in bash sh dirname sed awk grep date mkdir rm realpath; do ln -s "$(command -v $tool)" bare/; done
PATH=$TMP/bare expect_error 1 'no nvidia-smi here, so no GPU; --sim runs' "$check" --build empty

# ---- a step's kernels, from recorded times ---------------------------------------------------------------------------
# Two steps count, of 400 and 500 us; the first is left out, and what comes after the last.
us() { printf '%d000\t%d000\t%s\n' "$1" "$2" "$3"; }
{
  us 0 100 adamw_update_kernel; us 200 50 a; us 300 100 b; us 350 20 memcpy; us 400 100 adamw_update_kernel
  us 600 60 a; us 900 100 adamw_update_kernel; us 700 100 b; us 1100 999 a
} >times.tsv
diff <(awk_times 1) - <<'END' || die "kernel_times.awk is wrong (>: by hand)"
adamw_update_kernel	1.00	100.000	0.2222
b	1.00	100.000	0.2222
a	1.00	55.000	0.1222
memcpy	0.50	10.000	0.0222
idle		195.000	0.4333
step		450.000	1.0000
END
expect_error 1 '3 steps end with adamw_update_kernel, expected more than 3' awk_times 3

# ---- cudasim in place of the card ------------------------------------------------------------------------------------
[ -x "$BUILD/train_gpt2sim" ] || { echo "skipped: this build has no cudasim"; exit 0; }
bench=bench
[ -x "$BUILD/bench_kernels_sim" ] || { bench=; echo "left out: the stage bench (no bench_kernels_sim here)"; }
mkdir tools llmc
cat >tools/compute-sanitizer <<'END'
#!/bin/bash
[ "$1 $3" = "--tool --error-exitcode" ] || exit 3
echo "$2" >>"$SANITIZER_RAN"
"${@:5}" && echo "========= ERROR SUMMARY: 0 errors"
exit ${SANITIZER_CODE:-0}
END
cat >llmc/train_gpt2cu <<'END'
#!/bin/bash
for i in $(seq 1 6); do echo "step    $i/6 | loss 5.0 (+nanz)| norm 1.0 (+nanz)| lr 1.00e-04 | $i.50 ms | 10% bf16 MFU | 9 tok/s"; done
END
chmod +x tools/* llmc/*
export SANITIZER_RAN=$TMP/sanitizer_ran
PATH=$TMP/tools:$PATH LLMC_DIR=$TMP/llmc expect_ok "$check" --sim --build "$BUILD" --out sim \
  --stages kernels,check,train,steps,${bench:+bench,}breakdown,sanitizer,pytorch,llmc
is_json sim/results.json
grep -q '"device": "cudasim", "simulated": true' sim/results.json || die "results.json does not say that it is cudasim's"
[ "$(stages_of sim)" = "kernels=passed check=passed train=passed steps=passed ${bench:+bench=passed }breakdown=passed \
sanitizer=passed pytorch=skipped llmc=passed " ] || die "stages: $(stages_of sim)"
grep -q '^# cudasim, ' sim/table.md || die "the table does not say that it is cudasim's"
grep -qE '^\| (.*H100|.*NVIDIA)' sim/table.md && die "the table of cudasim speaks of a GPU"
for line in 'kernels \| passed \| [0-9]+' 'pytorch \| skipped \| [0-9]+ \| skipped: .*/no-python has no PyTorch' 'fp32 \| [0-9.]+e-0[67]' \
  'toy \| bf16 \| 2 \| 32 \| [0-9.]+ \| [0-9]+ \| [0-9.]+ \|' 'llm.c \| toy \| bf16 \| 2 \| 32 \| [0-9.]+ \| 5.00 \|' \
  'matmul_tensor_core_kernel \|'; do
  grep -qE "^\| $line" sim/table.md || { cat sim/table.md; die "no row like '$line' in the table"; }
done
[ "$(tr '\n' ' ' <sanitizer_ran)" = "memcheck racecheck " ] || die "compute-sanitizer ran: $(cat sanitizer_ran)"

# ---- what goes wrong is named, and the rest goes on ------------------------------------------------------------------
PATH=$TMP/tools:$PATH SANITIZER_CODE=9 expect_error 1 '^FAILED: sanitizer$' "$check" --sim --build "$BUILD" --out sim \
  --stages sanitizer,kernels
[ "$(stages_of sim)" = "sanitizer=failed kernels=passed " ] || die "stages: $(stages_of sim)"
grep -q 'memcheck: exit code 9' sim/table.md || die "the table does not say what failed"
is_json sim/results.json
# A trainer with another seed is not the CPU's.
mkdir other
for file in train_gpt2 make_stories tokenize predict; do ln -s "$BUILD/$file" other/; done
printf '#!/bin/bash\nexec "%s" "$@" --seed 7\n' "$BUILD/train_gpt2sim" >other/train_gpt2sim
chmod +x other/train_gpt2sim
expect_error 1 "train_fp32: its losses are not the CPU's: beyond 1e-5" "$check" --sim --build other --out sim --stages train
LLMC_DIR=$TMP/empty expect_error 1 'empty/train_gpt2cu is not there; build it' "$check" --sim --build "$BUILD" --out sim --stages llmc
# A build that fails: what needs it is skipped.
printf '#!/bin/bash\necho "no compiler today"; exit 1\n' >tools/cmake
chmod +x tools/cmake
PATH=$TMP/tools:$PATH expect_error 1 '^FAILED: build$' "$check" --sim --build other --out sim --stages build,check
expect_output 'no compiler today'
[ "$(stages_of sim)" = "build=failed check=skipped " ] || die "stages: $(stages_of sim)"
printf '#!/bin/bash\necho "-- left out: MPI (one process)"\n' >tools/cmake
PATH=$TMP/tools:$PATH expect_ok "$check" --sim --build other --out sim --stages build
expect_output 'left out: MPI'
# Time that is not there.
expect_ok "$check" --sim --build "$BUILD" --out sim --stages kernels --minutes 0.1
expect_output 'skipped: [0-6] s of --minutes 0.1 are left, and it takes 10 at least'

# ---- the way on a GPU's machine, with stand-ins for what is there --------------------------------------------------
# The trainer says what --memory and --check would, and makes up the time of a step: 2 ms, after slow ones; the card has
# room for a batch of 4.
mkdir gpu
for file in train_gpt2 make_stories tokenize predict; do ln -s "$BUILD/$file" gpu/; done
ln -s "$BUILD/test_gelu_sim" gpu/test_kernels_cu
touch gpu/libkernel_times.so
cat >tools/nvidia-smi <<'END'
#!/bin/bash
case "$*" in
  *=name,*) echo "all of it" ;;
  *=name*) echo "Stand-in \"X\" 1" ;;
  *=driver*) echo 1.2.3 ;;
  *=memory.total*) echo 1000 ;;
esac
END
cat >gpu/bench_kernels_cu <<'END'
#!/bin/bash
while [ $# -gt 1 ]; do
  [ "$1" = --json ] && echo '{"device": "Stand-in"}' >"$2"
  [ "$1" = --html ] && echo page >"$2"
  shift
done
END
cat >gpu/train_gpt2cu <<'END'
#!/bin/bash
args=" $* "
value() { sed -n "s/.* --$1 \([^ ]*\) .*/\1/p" <<<"$args"; }
case $args in
  *' --memory '*) echo "total   $(($(value batch-size) * 200000000)) bytes" ;;
  *' --check '*) echo "the model agrees with the reference" ;;
  *)
    mkdir -p "$(value run)"
    echo "training: so, peak 500.5 TFLOP/s"
    for step in $(seq 1 20); do
      echo "{\"loss\":1.0,\"ms\":$((step < 6 ? 900 : 2)).0,\"step\":$step}" >>"$(value run)/metrics.jsonl"
      echo "step $step/1000000 | loss 1.0 | 2 ms | 40 % of peak"
    done
    if [ -n "$KERNEL_TIMES" ]; then
      for step in 1 2 3 4 5; do
        printf '%d000\t600000\tgemm\n%d000\t300000\tadamw_update_kernel\n' $((step * 1000)) $((step * 1000 + 600))
      done >"$KERNEL_TIMES"
      exit
    fi
    sleep 60 ;;
esac
END
chmod +x tools/* gpu/train_gpt2cu gpu/bench_kernels_cu
code=0
PATH=$TMP/tools:$PATH "$check" --build gpu --out real --stages build,kernels,check,steps,bench,breakdown,sanitizer,llmc \
  >out 2>&1 || code=$?
[ $code -eq 0 ] || { cat out; die "exit $code on a machine with stand-ins"; }
is_json real/results.json
grep -q '"device": "Stand-in \\"X\\" 1", "simulated": false, "driver": "1.2.3"' real/results.json || die "the device is not named"
grep -q '"bench": {"device": "Stand-in"}' real/results.json || die "the ladders are not among the results"
# 900 MB of 1000 MiB: 4 sequences of 1,024 tokens in 2 ms.
grep -q '^| gpt2-xl | bf16 | 4 | 1024 | 2.00 | 2048000 | 40 | 500.5 | [0-9.]* |$' real/table.md || { cat real/table.md; die "no row of gpt2-xl's step"; }
grep -q '^| gpt2 | fp32 | 4 | 1024 | 2.00 | 2048000 | 40 | 500.5 |  |$' real/table.md || { cat real/table.md; die "no row of 124M's step in fp32"; }
grep -q '^| idle |  | 100.000 | 0.1000 |$' real/table.md || { cat real/table.md; die "no row of a kernel in the breakdown"; }
[ "$(stages_of real)" = "build=passed kernels=passed check=passed steps=passed bench=passed breakdown=passed \
sanitizer=passed llmc=skipped " ] || die "stages: $(stages_of real)"
