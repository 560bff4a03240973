# dev/gpu/gpu_check.sh: its stages on cudasim, its run on a GPU machine with stand-ins for the card, kills, and
# failures.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
export OMP_NUM_THREADS=2 PYTHON="$TMP/no-python"
unset LLMC_DIR
check="$SOURCE/dev/gpu/gpu_check.sh"
awk_times() { sort -n times.tsv | awk -v last=adamw_update_kernel -v skip="$1" -f "$SOURCE/dev/gpu/kernel_times.awk"; }
# The results are JSON: predict parses them, and complains only that they are not from a benchmark.
is_json() { expect_error 1 'there is no list "ladders"' "$BUILD/predict" --counts "$1"; }
stages_of() { grep -o '"stage": "[a-z]*", "status": "[a-z]*"' "$1/results.json" | cut -d'"' -f4,8 | tr '"\n' '= '; }
# The results are present and complete, and nothing else is.
is_whole() {
  is_json "$1/results.json"
  grep -q '^| stage | status ' "$1/table.md" || die "no table of stages in $1/table.md"
  tar -tzf "$1/logs.tar.gz" >tar_list || die "$1/logs.tar.gz cannot be read"
  [ "$(wc -c <"$1/logs.tar.gz")" -lt $((16 << 20)) ] || die "$1/logs.tar.gz is too large"
  [ "$(ls "$1" | tr '\n' ' ')" = "logs.tar.gz results.json table.md " ] || die "more in $1 than the three files: $(ls "$1")"
}
has_row() { grep -qE "^\| $2" "$1/table.md" || { cat "$1/table.md"; die "no row like '$2' in the table"; }; }
running() { grep -lsa "$TMP/[g]pu\|$TMP/[l]lmc" /proc/[0-9]*/cmdline || true; }
nothing_runs() {
  for _ in $(seq 1 40); do
    [ -n "$(running)" ] || return 0
    sleep 0.1
  done
  die "still running: $(for p in $(running); do tr '\0' ' ' <"$p"; echo; done)"
}

# ---- flags ---------------------------------------------------------------------------------------------------------
expect_ok "$check" --help
expect_output '--pack'
expect_ok "$check" --list
[ "$(wc -l <out)" = 18 ] || die "expected 18 stages"
expect_error 2 "'kernel' is not a stage; there are: build ceilings" "$check" --sim --stages kernel
expect_error 2 "'--speed' is not a flag" "$check" --speed
expect_error 2 "stages needs a value" "$check" --sim --stages
expect_error 2 "minutes is 'soon'" "$check" --minutes soon
expect_error 2 "seconds is '-3'" "$check" --seconds -3
mkdir empty bare
for tool in bash sh dirname sed awk grep date mkdir rm realpath tar; do ln -s "$(command -v $tool)" bare/; done
PATH=$TMP/bare expect_error 1 'no nvidia-smi here, so no GPU; --sim runs' "$check" --build empty

# ---- the kernels of a step, from recorded times ---------------------------------------------------------------------
# Two steps count, of 400 and 500 us; the first one and everything after the last are left out.
us() { printf '%d000\t%d000\t%s\n' "$1" "$2" "$3"; }
{
  us 0 100 adamw_update_kernel; us 200 50 a; us 300 100 b; us 350 20 memcpy; us 400 100 adamw_update_kernel
  us 600 60 a; us 900 100 adamw_update_kernel; us 700 100 b; us 1100 999 a
} >times.tsv
diff <(awk_times 1) - <<'END' || die "kernel_times.awk is wrong (>: worked out by hand)"
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
expect_error 2 'not in .ceilings' "$BUILD/gpu_rates_sim" nothing
ladders=ladders
[ -x "$BUILD/bench_kernels_sim" ] || { ladders=; echo "left out: the stages memory and bench (no bench_kernels_sim here)"; }
mkdir tools llmc gpu sim_build other
cat >tools/compute-sanitizer <<'END'
#!/bin/bash
[ "$1 $3" = "--tool --error-exitcode" ] || exit 3
echo "$2" >>"$SANITIZER_RAN"
"${@:5}" && echo "========= ERROR SUMMARY: 0 errors"
exit ${SANITIZER_CODE:-0}
END
cat >llmc/train_gpt2cu <<'END'
#!/bin/bash
for i in $(seq 1 ${STEPS:-6}); do echo "step    $i/6 | loss 5.0 (+nanz)| norm 1.0 (+nanz)| lr 1.00e-04 | $i.50 ms | 10% bf16 MFU | 9 tok/s"; done
END
# A card at 300 W and 1500 MHz; a sample from another time, at 999 W, must not be used.
cat >tools/nvidia-smi <<'END'
#!/bin/bash
case "$*" in
  *-lms*)
    echo "2001/01/01 00:00:00.000, 999.00, 999, 999, 99"
    while :; do echo "$(date '+%Y/%m/%d %H:%M:%S.%3N'), 300.00, 1500, 2600, 50"; sleep 0.02; done ;;
  *=name,*) echo "all of it" ;;
  *=name*) echo "Stand-in \"X\" 1" ;;
  *=driver*) echo 1.2.3 ;;
  *=memory.total*) echo 1000 ;;
esac
END
# A PyTorch with the losses of our run, found by the given weights; a step takes 3 ms.
cat >tools/python <<'END'
#!/bin/bash
[ "$1" = -c ] && { echo "True True"; exit; }
echo "${TORCHINDUCTOR_CACHE_DIR:-no cache} $*" >>"$PYTHON_RAN"
args=" $* "
steps=$(sed 's/.* --steps \([0-9]*\) .*/\1/' <<<"$args")
weights=$(sed -n 's/.* --weights \([^ ]*\)\/start\/latest .*/\1/p' <<<"$args")
for i in $(seq 1 "$steps"); do
  loss=
  [ "$steps" = 5 ] && [ -n "$weights" ] && loss=$(sed -n "s/.*\"loss\":\([^,}]*\).*\"step\":$i[,}].*/\1/p" "$weights/torch/metrics.jsonl")
  echo "step $i/$steps | loss $(printf %.6f "${OTHER_LOSS:-${loss:-1}}") | 3.00 ms"
done
[ -z "${PYTHON_HANGS:-}" ] || exec -a "$TMP_OF_TEST/gpu/python" sleep 300
END
chmod +x tools/* llmc/*
export SANITIZER_RAN=$TMP/sanitizer_ran PYTHON_RAN=$TMP/python_ran TMP_OF_TEST=$TMP
for file in train_gpt2 train_gpt2sim make_stories tokenize predict bench_cpu gpu_rates_sim test_sim \
  ${ladders:+bench_kernels_sim}; do
  ln -s "$BUILD/$file" sim_build/
done
sim() { expect_ok env PATH="$TMP/tools:$PATH" "$check" --sim --build sim_build --out sim "$@"; }
PYTHON=$TMP/tools/python LLMC_DIR=$TMP/llmc sim \
  --stages "ceilings,small,check,repeat,breakdown,${ladders:+memory,}products,attention,steps,pytorch,llmc,cpu,sanitizer,rounding,train${ladders:+,bench}"
is_whole sim
grep -q '"device": "cudasim", "simulated": true' sim/results.json || die "results.json does not name cudasim"
[ "$(stages_of sim)" = "ceilings=passed small=passed check=passed repeat=passed breakdown=passed ${ladders:+memory=passed }\
products=passed attention=passed steps=passed pytorch=passed llmc=passed cpu=passed sanitizer=passed rounding=passed \
train=passed ${ladders:+bench=passed }" ] || die "stages: $(stages_of sim)"
grep -q '^# cudasim, ' sim/table.md || die "the table does not name cudasim"
grep -qE '^\| (.*H100|.*NVIDIA)' sim/table.md && die "the table of cudasim mentions a GPU"
for line in 'small \| passed \| [0-9]+ \|' 'copy \| [0-9.]+ \| [0-9.]+ \|' 'launch \| [0-9.]+ \| [0-9.]+ \| [0-9.]+ \|' \
  'random \| own \| 128 \| [0-9.e-]+ \| 300 \| 1500 \| 2600 \| 50 \| [1-9][0-9]* \|' 'fp32 \| [0-9.]+e-0[67]' \
  'toy \| bf16 \| 2 \| 32 \| [0-9.]+ \| [0-9]+ \| [0-9.]+ \|' 'toy \| bf16 \| 1 \| 9 \| 10 \| true \| true \|' \
  'pytorch \| toy \| bf16 \| 2 \| 32 \| [0-9.]+ \| 3.00 \|' 'llm.c \| toy \| bf16 \| 2 \| 32 \| [0-9.]+ \| 5.00 \|' \
  "toy \| fcproj \| dinp, GELU's derivative \| own \| [0-9.e+]+ \|" '1 \| 2 \| 64 \| 64 \| backward \| own \|' \
  'positive \| kernels/, in parts \| 256 \|' 'matmul_tensor_core_kernel \|' ${ladders:+'gelu_forward \| '}; do
  has_row sim "$line"
done
grep -q '"cpu": {' sim/results.json || die "the results of bench_cpu are missing"
[ -z "$ladders" ] || grep -q '"bench": {' sim/results.json || die "the ladders are not among the results"
[ "$(tr '\n' ' ' <sanitizer_ran)" = "memcheck racecheck " ] || die "compute-sanitizer ran: $(cat sanitizer_ran)"
# Sums in cudasim are rounded to nearest: K terms are off by at most K / 2 + 1 units.
awk -F '|' '$3 ~ /mma, one sum/ { ++n; if ($5 < 0) $5 = -$5; if ($5 > $4 / 2 + 1) exit 1 } END { if (n != 4) exit 1 }' sim/table.md ||
  die "errors of sums that rounding to nearest cannot cause"

# ---- failures are named, and the other stages run -------------------------------------------------------------------
PATH=$TMP/tools:$PATH SANITIZER_CODE=9 expect_error 1 '^FAILED: sanitizer$' "$check" --sim --build sim_build --out sim \
  --stages sanitizer,small,pytorch
[ "$(stages_of sim)" = "sanitizer=failed small=passed pytorch=skipped " ] || die "stages: $(stages_of sim)"
grep -q 'memcheck: exit code 9' sim/table.md || die "the table does not say what failed"
has_row sim 'pytorch \| skipped \| [0-9]+ \| [^|]* \| skipped: .*/no-python has no PyTorch'
is_whole sim
for file in train_gpt2 make_stories tokenize predict; do ln -s "$BUILD/$file" other/; done
ln -s "$BUILD/train_gpt2sim" other/
LLMC_DIR=$TMP/empty expect_error 1 'empty/train_gpt2cu is not there; build it' "$check" --sim --build sim_build --out sim --stages llmc
# A build that fails: stages that need it are skipped.
printf '#!/bin/bash\necho "no compiler today"; exit 1\n' >tools/cmake
chmod +x tools/cmake
PATH=$TMP/tools:$PATH expect_error 1 '^FAILED: build$' "$check" --sim --build other --out sim --stages build,check
expect_output 'no compiler today'
[ "$(stages_of sim)" = "build=failed check=skipped " ] || die "stages: $(stages_of sim)"
# The report of the build and of libraries found and missing; a part built in the background may fail by itself.
cat >tools/cmake <<'END'
#!/bin/bash
echo "-- left out: MPI (one process)"
echo "-- cuBLASLt: /somewhere/libcublasLt.so"
if [[ " $* " == *" ${CMAKE_FAILS:-none} "* ]]; then echo "this does not compile"; exit 1; fi
END
PATH=$TMP/tools:$PATH CMAKE_FAILS=train_gpt2 expect_error 1 '^FAILED: train$' "$check" --sim --build other --out sim --stages build,train
expect_output 'left out: MPI'
grep -q '"line": "cuBLASLt: /somewhere/libcublasLt.so"' sim/results.json || die "results.json does not name the path of cuBLASLt"
has_row sim 'train \| failed \| [0-9]+ \| [^|]* \| compile_train_gpt2: it does not build'
# If only other programs than the trainer fail to build, the trainer's stages run.
PATH=$TMP/tools:$PATH CMAKE_FAILS=gpu_rates_sim expect_error 1 '^FAILED: build products$' "$check" --sim --build other --out sim \
  --stages build,products,repeat
has_row sim 'repeat \| passed \|'
# Not enough time.
sim --stages kernels --minutes 0.1
expect_output 'skipped: [0-6] s are left, and it takes at least 10'

# ---- the run on a GPU machine, with stand-ins -----------------------------------------------------------------------
# The trainer prints what --memory and --check would, and invents the time of a step: 2 ms, after slow ones; the card
# has room for a batch of 4. A file hang/NAME makes the program NAME hang, ignoring SIGTERM, after its first results.
mkdir hang
for file in make_stories tokenize predict train_gpt2; do ln -s "$BUILD/$file" gpu/; done
for name in test_kernels_cu test_kernels_small_cu; do
  printf '#!/bin/bash\nexec "%s/test_sim" "-sf=*test_gelu.cu,*test_residual.cu"\n' "$BUILD" >gpu/$name
  chmod +x gpu/$name
done
touch gpu/libkernel_times.so
cat >gpu/hang_if <<'END'
#!/bin/bash
echo "$1" >>"$TMP_OF_TEST/ran"
[ -e "$TMP_OF_TEST/hang/$1" ] || exit 0
trap '' TERM
exec -a "$TMP_OF_TEST/gpu/$1" sleep 300
END
cat >gpu/bench_kernels_cu <<'END'
#!/bin/bash
while [ $# -gt 1 ]; do
  [ "$1" = --json ] && echo '{"device": "Stand-in"}' >"$2"
  [ "$1" = --html ] && echo page >"$2"
  if [ "$1" = --rows ]; then
    echo '{"operation":"gelu_forward","size":"N=1","name":"naive","us":12.3456789123,"gbps":2000.5,"share":0.8}' >"$2"
    printf '{"operation":"cut off' >>"$2"
    "$TMP_OF_TEST/gpu/hang_if" memory
  fi
  shift
done
END
cat >gpu/gpu_rates_cu <<'END'
#!/bin/bash
now() { date '+%Y/%m/%d %H:%M:%S.%3N'; }
if [ "$1" = ceilings ]; then
  echo '{"what":"copy","bytes":2.0,"us":700.0,"gbps":3000.0}'
  begin=$(now)
  sleep 0.3
  echo '{"what":"product","data":"random","tier":"cuBLASLt","n":8192,"us":1400.0,"tflops":790.0,"begin":"'"$begin"'","end":"'"$(now)"'"}'
elif [ "$1" = products ]; then
  echo '{"model":"gpt2","layer":"qkv","pass":"dinp","tier":"own","us":1.0,"tflops":400.0,"difference":null}'
  echo '{"model":"gpt2","layer":"qkv","pass":"dinp","tier":"cuBLASLt","us":1.0,"tflops":600.0,"difference":0.001}'
elif [ "$1" = rounding ] && [ -e "$TMP_OF_TEST/loud" ]; then
  head -c 20000000 /dev/urandom >&2
fi
"$TMP_OF_TEST/gpu/hang_if" "$1"
END
cat >gpu/bench_cpu <<'END'
#!/bin/bash
while [ $# -gt 1 ]; do
  [ "$1" = --json ] && echo '{"steps": 1}' >"$2"
  shift
done
END
cat >gpu/train_gpt2cu <<'END'
#!/bin/bash
args=" $* "
value() { sed -n "s/.* --$1 \([^ ]*\) .*/\1/p" <<<"$args"; }
case $args in
  *' --help '*) echo "  --kernels    which kernel runs for each operation" ;;
  *' --kernels '*) echo "attention_forward: own (no cuDNN here)" ;;
  *' --memory '*) echo "total   $(($(value batch-size) * 200000000)) bytes" ;;
  *' --check '*)
    "$TMP_OF_TEST/gpu/hang_if" check
    echo "the model agrees with the reference" ;;
  *'/toy.txt '*)
    mkdir -p "$(value run)"
    sed "s/\"loss\":\([0-9]*\)/\"loss\":${OTHER_LOSS:-\\1}/" "$(value run)/../cpu/metrics.jsonl" >"$(value run)/metrics.jsonl" ;;
  *)
    mkdir -p "$(value run)/latest"
    echo "${OTHER_LOSS:+$RANDOM$RANDOM}" >"$(value run)/latest/model.safetensors"
    echo "training: so, peak 500.5 TFLOP/s"
    for step in $(seq 1 $(($(value steps) < 20 ? $(value steps) : 20))); do
      echo "{\"loss\":1.${OTHER_LOSS:+$RANDOM$RANDOM}0,\"ms\":$((step < 6 ? 900 : 2)).0,\"step\":$step}" >>"$(value run)/metrics.jsonl"
      echo "step $step/$(value steps) | loss 1.0 | 2 ms | 40 % of peak"
    done
    if [ -n "$KERNEL_TIMES" ]; then
      for step in 1 2 3 4 5; do
        printf '%d000\t600000\tgemm\n%d000\t300000\tadamw_update_kernel\n' $((step * 1000)) $((step * 1000 + 600))
      done >"$KERNEL_TIMES"
    fi
    [ $(value steps) -le 20 ] || exec -a "$TMP_OF_TEST/gpu/trainer" sleep 60 ;;
esac
END
mkdir llmc_source
touch llmc_source/train_gpt2.cu
printf 'train_gpt2cu:\n\tcp "%s" train_gpt2cu\n' "$TMP/llmc/train_gpt2cu" >llmc_source/Makefile
chmod +x tools/* gpu/hang_if gpu/*_cu gpu/train_gpt2cu gpu/bench_cpu
export STEPS=20
real() { PATH=$TMP/tools:$PATH PYTHON=$TMP/tools/python LLMC_DIR=$TMP/llmc_source "$check" --build gpu --out real "$@" >out 2>&1; }

# Killed several times, each time while another program hangs; then it continues.
# cut_at NAME REGEX FLAGS...: SIGKILL for the script, once NAME hangs and results.json has a line that matches REGEX
cut_at() {
  local name=$1 pattern=$2 pid
  shift 2
  touch "hang/$name"
  : >ran
  : >python_ran
  PATH=$TMP/tools:$PATH PYTHON=$TMP/tools/python LLMC_DIR=$TMP/llmc_source "$check" --build gpu --out real "$@" >out 2>&1 &
  pid=$!
  for _ in $(seq 1 600); do
    grep -qx "$name" ran && grep -qE "$pattern" real/results.json 2>/dev/null && break
    sleep 0.1
  done
  grep -qE "$pattern" real/results.json || { cat out; die "no line like '$pattern' in results.json while $name hangs"; }
  kill -KILL $pid
  wait $pid 2>/dev/null || true
  rm "hang/$name"
  nothing_runs
  rm -f real/*.tmp
  is_whole real
}
cut_at check '"stage": "small", "status": "passed"' --first
[ "$(stages_of real)" = "build=passed ceilings=passed small=passed " ] || die "stages: $(stages_of real)"
has_row real 'random \| cuBLASLt \| 8192 \| 790.0 \| 300 \| 1500 \| 2600 \| 50 \|'
for B in 64 16; do
  grep -q "/gpu/check/inductor .*--batch-size $B --seq-len 1024 --steps 2 " python_ran || die "PyTorch did not compile for B=$B at the start"
done
cut_at memory '"name":"naive"' --continue
grep -qxE 'ceilings' ran && die "a stage that had passed ran again"
[ "$(stages_of real)" = "ceilings=passed small=passed build=passed check=passed repeat=passed breakdown=passed " ] || die "stages: $(stages_of real)"
grep -q 'cut off' real/results.json && die "results.json has an incomplete line"
cut_at products '"layer":"qkv","pass":"dinp","tier":"cuBLASLt"' --second
grep -q '"memory", "status": "passed"' real/results.json || die "the second call did not continue after the kill: $(stages_of real)"
touch loud
real --second || { cat out; die "it does not continue after the kills"; }
is_whole real
nothing_runs
grep -q '"device": "Stand-in \\"X\\" 1", "simulated": false, "driver": "1.2.3"' real/results.json || die "the device is not named"
grep -q '"bench": {"device": "Stand-in"}' real/results.json || die "the ladders are not among the results"
grep -q '"cpu": {"steps": 1}' real/results.json || die "the results of bench_cpu are missing"
# 900 MB of 1000 MiB hold 4 sequences of 1,024 tokens in 2 ms.
for line in 'gpt2-xl \| bf16 \| 4 \| 1024 \| 2.00 \| 2048000 \| 40 \| 500.5 \| [0-9.]* \|' \
  'gpt2 \| fp32 \| 4 \| 1024 \| 2.00 \| 2048000 \| 40 \| 500.5 \|  \|' 'idle \|  \| 100.000 \| 0.1000 \|' \
  'gpt2 \| qkv \| dinp \| cuBLASLt \| 1.0 \| 600.0 \| 0.001 \|' 'gelu_forward \| N=1 \| naive \| 12.346 \| 2000.5 \| 0.8 \|' \
  'pytorch \| gpt2 \| bf16 \| 4 \| 1024 \| 2.00 \| 3.00 \|' 'llm.c \| gpt2-xl \| bf16 \| 4 \| 1024 \| 2.00 \| 13.50 \|' \
  'attention_forward: own' 'cuBLASLt: /somewhere/libcublasLt.so'; do
  has_row real "$line"
done
for stage in $("$check" --list | cut -d' ' -f1); do
  grep -q "\"stage\": \"$stage\", \"status\": \"passed\"" real/results.json || { cat out; die "not passed: $stage of $(stages_of real)"; }
done

# Programs that hang, ignoring SIGTERM, and a PyTorch that compiles for ever: it ends in time, and no process survives.
touch hang/ceilings hang/products
started=$SECONDS code=0
PYTHON_HANGS=1 real --seconds 12 --stages build,ceilings,products,pytorch || code=$?
[ $code -eq 1 ] || { cat out; die "exit $code although programs hang"; }
[ $((SECONDS - started)) -le 18 ] || die "--seconds 12 took $((SECONDS - started)) s"
expect_output 'ceilings: stopped after'
expect_output 'PyTorch had not finished compiling'
is_whole real
nothing_runs
# SIGTERM ends it immediately.
touch hang/attention
PATH=$TMP/tools:$PATH "$check" --build gpu --out real --stages attention >out 2>&1 &
script=$!
for _ in $(seq 1 100); do [ -z "$(running)" ] || break; sleep 0.1; done
kill -TERM $script
code=0
wait $script || code=$?
[ $code -eq 143 ] || die "exit $code after SIGTERM"
nothing_runs
# Losses that differ from those of the CPU, of the previous run, and of PyTorch.
rm hang/*
OTHER_LOSS=9 real --stages repeat,pytorch,train && die "exit code 0 although all losses are wrong"
expect_output '^FAILED: repeat pytorch train$'
expect_output "two runs from the same seed differ"
expect_output "PyTorch's losses differ from ours by "
expect_output "train_fp32: its losses differ from those of the CPU: beyond 1e-5"
grep -q '"equal_losses": false, "equal_weights": false' real/results.json || die "results.json does not say that two runs differ"
