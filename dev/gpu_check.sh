#!/usr/bin/env bash
# The one script for a machine with a GPU: builds there, tests and checks on the device, measures, and writes it all down.
#
#   dev/gpu_check.sh --pack [DIR]     beforehand, with a network: gathers into DIR (.deps) what a bare machine lacks
#   dev/gpu_check.sh                  there: all stages, in at most nine minutes
#   dev/gpu_check.sh --stages build,steps,pytorch --minutes 9
#   dev/gpu_check.sh --sim            here: the same stages on cudasim, small; no figure of a GPU comes of it
#
#   --stages A,B,...   only these, in this order       --list      the stages, and what each does
#   --minutes N        what would take longer is skipped, and says so (9)
#   --out DIR          results.json, table.md, logs/ (BUILD/check)
#   --build DIR        the build folder (build-gpu, with --sim build)
#   --deps DIR         what --pack gathered (.deps)
#
# Needs the CUDA toolkit, CMake and g++; no network, no Python. Where they are there: python3 with PyTorch (PYTHON names
# another one), llm.c with its train_gpt2cu built (LLMC_DIR). Exit code 1 if anything is wrong, 2 for wrong flags.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

stages=(build kernels check train steps bench breakdown sanitizer pytorch llmc)
declare -A about=(
  [build]="configures and builds for this machine's card"
  [kernels]="the kernels' tests, on the device"
  [check]="the GPU's model against the CPU's, tensor by tensor: fp32, tf32, bf16"
  [train]="a toy run: its losses against those of the CPU's trainer"
  [steps]="124M, 350M, 774M, 1558M in bf16, 124M in tf32 and fp32: ms a step, tokens/s, share of peak"
  [bench]="the kernels' ladders (bench.json, bench.html)"
  [breakdown]="124M's step, kernel by kernel"
  [sanitizer]="compute-sanitizer's memcheck and racecheck on a few tests"
  [pytorch]="PyTorch's GPT-2 beside ours, in turn; and the same losses from the same weights"
  [llmc]="llm.c beside ours, in turn"
)
# Seconds that a stage may take (of nine minutes; more with more --minutes), and with how few left it is not begun.
declare -A limit=([build]=300 [kernels]=120 [check]=90 [train]=60 [steps]=150 [bench]=90 [breakdown]=60
  [sanitizer]=80 [pytorch]=400 [llmc]=300)
declare -A least=([build]=20 [kernels]=10 [check]=10 [train]=10 [steps]=15 [bench]=20 [breakdown]=15
  [sanitizer]=20 [pytorch]=30 [llmc]=20)

usage() {
  echo "error: $*" >&2
  echo "(dev/gpu_check.sh --help lists the flags, --list the stages)" >&2
  exit 2
}

# ---- flags ---------------------------------------------------------------------------------------------------------

sim='' selected=("${stages[@]}") minutes=9 out='' build='' deps=$root/.deps pack=''
while [ $# -gt 0 ]; do
  flag=$1
  case $flag in
    --help | -h) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --list) for s in "${stages[@]}"; do printf '%-10s %s\n' "$s" "${about[$s]}"; done; exit 0 ;;
    --sim) sim=1 ;;
    --pack) pack=1; case ${2:-} in '' | --*) ;; *) deps=$(realpath -m "$2"); shift ;; esac ;;
    --stages | --minutes | --out | --build | --deps)
      [ $# -ge 2 ] && [ -n "$2" ] || usage "$flag wants a value"
      case $flag in
        --stages) IFS=, read -ra selected <<<"$2" ;;
        --minutes) minutes=$2 ;;
        --out) out=$(realpath -m "$2") ;;
        --build) build=$(realpath -m "$2") ;;
        --deps) deps=$(realpath -m "$2") ;;
      esac
      shift ;;
    *) usage "'$flag' is no flag of this script" ;;
  esac
  shift
done
for s in "${selected[@]}"; do [ -n "${about[$s]:-}" ] || usage "'$s' is no stage; there are: ${stages[*]}"; done
[[ $minutes =~ ^[0-9]{1,4}(\.[0-9]+)?$ ]] || usage "--minutes is '$minutes', expected a number such as 9"
seconds_in_all=$(awk -v m="$minutes" 'BEGIN { printf "%d", 60 * m }')

# ---- what a bare machine lacks -------------------------------------------------------------------------------------

# Headers of four libraries, the static library of one, cuDNN's C++ frontend: from Debian's packages and a wheel.
if [ -n "$pack" ]; then
  set -e
  for tool in apt-get dpkg-deb python3; do
    command -v $tool >/dev/null || { echo "error: --pack needs $tool, on a Debian or Ubuntu with a network" >&2; exit 1; }
  done
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  cd "$work"
  apt-get download -q nlohmann-json3-dev libcli11-dev libpcre2-dev libxxhash-dev doctest-dev >&2
  for package in *.deb; do dpkg-deb -x "$package" all; done
  python3 -m pip download -q --no-deps -d . nvidia-cudnn-frontend
  python3 -m zipfile -e nvidia_cudnn_frontend-*.whl wheel
  rm -rf "${deps:?}/usr"
  mkdir -p "$deps/usr/lib" "$deps/usr/share/cmake"
  mv all/usr/include "$deps/usr/"
  cp -r wheel/include/. "$deps/usr/include/"
  cp all/usr/lib/*/libpcre2-8.a "$deps/usr/lib/"  # not the .so: programs then need nothing of this at run time
  for folder in all/usr/lib/cmake all/usr/lib/*/cmake all/usr/share/cmake; do
    [ ! -d "$folder" ] || cp -r "$folder" "$deps/usr/share/"
  done
  # Debian's name /usr itself where they should look beside them.
  grep -rl '_IMPORT_PREFIX "/usr"' "$deps/usr/share/cmake" | xargs -r sed -i \
    's|set(_IMPORT_PREFIX "/usr")|get_filename_component(_IMPORT_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)|'
  kib=$(du -sk "$deps/usr" | cut -f1)
  echo "$deps: $((kib / 1024)) MiB"
  [ "$kib" -le $((50 * 1024)) ] || { echo "error: expected at most 50 MiB, so that it travels with the source" >&2; exit 1; }
  exit 0
fi

# ---- programs, sizes -----------------------------------------------------------------------------------------------

cd "$root"
build=${build:-$root/$([ -n "$sim" ] && echo build || echo build-gpu)}
out=${out:-$build/check}
mkdir -p "$out/logs" || exit 1
out=$(cd "$out" && pwd)
rm -rf "$out"/rows "$out"/runs "$out"/{bench.json,bench.html,results.json,table.md}
mkdir -p "$out/rows" "$out/runs"
python=${PYTHON:-python3}
cuda=${CUDA_HOME:-/usr/local/cuda}
export PATH=$PATH:$cuda/bin:$cuda/compute-sanitizer OMP_WAIT_POLICY=passive

# The toy model of the stages check and train; what is timed; the tokens for that.
toy=(--layers 2 --heads 2 --channels 64 --seq-len 33 --batch-size 2)
if [ -n "$sim" ]; then
  trainer=$build/train_gpt2sim
  timed=("toy bf16 2 32")
  peers=("toy bf16 2 32")
  steps=6 warmup=2 rounds=2
  check=(--model gpt2-nano "${toy[@]}" --tokenizer bytes)
  torch_flags=(--device cpu --compile off)
else
  trainer=$build/train_gpt2cu
  timed=("gpt2 bf16 16 1024" "gpt2-medium bf16 16 1024" "gpt2-large bf16 16 1024" "gpt2-xl bf16 16 1024" "gpt2 tf32 16 1024"
    "gpt2 fp32 16 1024")
  peers=("gpt2 bf16 16 1024" "gpt2 tf32 16 1024" "gpt2-medium bf16 16 1024" "gpt2-large bf16 16 1024" "gpt2-xl bf16 16 1024")
  steps=20 warmup=5 rounds=2
  check=(--model d4 --batch-size 3 --seq-len 127)
  torch_flags=()
fi
declare -A llmc_model=([toy]=d12 [gpt2]=d12 [gpt2-medium]=d24 [gpt2-large]=d36 [gpt2-xl]=d48)
vocabulary=$([ -n "$sim" ] && echo 300 || echo 50257)
size_flags() { # size_flags MODEL: of the trainer, on the shard
  if [ "$1" = toy ]; then
    echo "--model gpt2-nano --layers 2 --heads 2 --channels 64 --vocab-size $vocabulary"
  else
    echo "--model $1 --vocab-size $vocabulary"
  fi
}

# ---- running -------------------------------------------------------------------------------------------------------

began=$SECONDS end=$((SECONDS + seconds_in_all)) stage_end=$end
problems=() notes=()  # of the stage that runs: what makes it fail; what was left out, and why
left() { echo $((stage_end < end ? stage_end - SECONDS : end - SECONDS)); }
enough() { # enough SECONDS WHAT: whether as many are left for it; else noted
  [ "$(left)" -ge "$1" ] && return 0
  note "$2: left out, it takes some $1 s and $(left) are left"
  return 1
}
problem() {
  problems+=("$*")
  echo "FAILED: $*"
}
note() {
  notes+=("$*")
  echo "$*"
}

# run NAME SECONDS COMMAND...: into logs/NAME.log, as long as there is time; a failure is one of the stage, its log shown.
run() {
  local name=$1 seconds=$2 code=0 started=$SECONDS
  shift 2
  [ "$(left)" -lt "$seconds" ] && seconds=$(left)
  [ "$seconds" -ge 1 ] || { problem "$name: no time is left for it"; return 1; }
  timeout -k 5 "$seconds" "$@" >"$out/logs/$name.log" 2>&1 </dev/null || code=$?
  [ $code -eq 0 ] && return 0
  tail -n 30 "$out/logs/$name.log"
  if [ $code -eq 124 ] || [ $code -eq 137 ]; then
    problem "$name: stopped after $((SECONDS - started)) s"
  else
    problem "$name: exit code $code from $(basename "$1")"
  fi
  return 1
}

row() { echo "$2" >>"$out/rows/$1.jsonl"; }
text() { # text STRING: in JSON
  local s=${1//\\/\\\\}
  s=${s//\"/\\\"}
  printf '"%s"' "$(tr -d '\000-\037' <<<"$s")"
}
rounded() { [ -z "$1" ] || awk -v x="$1" -v n="$2" 'BEGIN { printf "%.*f", n, x }'; } # rounded X DIGITS
number() { [[ $1 =~ ^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$ ]] && echo "$1" || echo null; }
median() { sort -g | awk '{ a[NR] = $1 } END { if (NR) print NR % 2 ? a[(NR + 1) / 2] : (a[NR / 2] + a[NR / 2 + 1]) / 2 }'; }
losses() { sed -n 's/.*"loss":\([^,}]*\).*"step":\([0-9]*\).*/\2 \1/p' "$1/metrics.jsonl"; }

prepare_data() { # a shard of tokens that all who are timed read
  shard=$out/data/train.bin
  [ -f "$shard" ] && return 0
  mkdir -p "$out/data"
  run data 60 bash -c '"$0/make_stories" --bytes "$2" --out "$1/stories.txt" && "$0/tokenize" shard --tokenizer "$3" \
    --data "$1/stories.txt" --val-fraction 0 --out "$1"' "$build" "$out/data" $([ -n "$sim" ] && echo 100kb bytes || echo 8mb bpe:4096)
}

# measure NAME MODEL PRECISION B T: runs our trainer for some steps, then ends it before it saves; ms = median of a step.
measure() {
  local name=$1 model=$2 precision=$3 B=$4 T=$5 folder=$out/runs/$1 log=$out/logs/$1.log pid until=$((SECONDS + $(left)))
  rm -rf "$folder"
  : >"$log"  # an earlier round's would look like this one's end
  # shellcheck disable=SC2046
  "$trainer" --data "$shard" $(size_flags "$model") --precision "$precision" --batch-size "$B" --seq-len "$T" --steps 1000000 \
    --data-order sequential --schedule constant --lr 1e-4 --warmup-steps 0 --sample-tokens 0 --save-every 0 --eval-every 0 \
    --run "$folder" >>"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 $pid 2>/dev/null && ! grep -q "^step $steps/" "$log" && [ $SECONDS -lt $until ]; do sleep 0.2; done
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
  ms=
  if ! grep -q "^step $steps/" "$log"; then
    tail -n 20 "$log"
    problem "$name: $([ $SECONDS -lt $until ] && echo "ended before step $steps" || echo "not at step $steps when its time was over")"
    return 1
  fi
  ms=$(grep -o '"ms":[0-9.e+]*' "$folder/metrics.jsonl" | cut -d: -f2 | head -n $steps | tail -n +$((warmup + 1)) | median)
  rm -rf "$folder"
  ms=$(rounded "$ms" 2)
  [ -n "$ms" ] || { problem "$name: metrics.jsonl has no times of steps"; return 1; }
}

# The largest batch, halved from B, that fits the card's memory.
fitting() { # fitting MODEL PRECISION B T
  local B=$3 total bytes
  [ -n "$sim" ] && { echo "$B"; return; }
  total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)
  while [ "$B" -gt 1 ]; do
    # shellcheck disable=SC2046
    bytes=$("$trainer" --memory --data "$shard" $(size_flags "$1") --precision "$2" --batch-size "$B" --seq-len "$4" 2>/dev/null |
      sed -n 's/^total *\([0-9]*\) bytes$/\1/p')
    [ -n "$bytes" ] && awk -v a="$bytes" -v b="$total" 'BEGIN { exit !(a < 0.95 * b * 1048576) }' && break
    B=$((B / 2))
  done
  echo "$B"
}

# ---- the stages ----------------------------------------------------------------------------------------------------

stage_build() {
  local flags=() targets=(train_gpt2 make_stories tokenize predict) jobs
  jobs=$(nproc)
  command -v ninja >/dev/null && [ ! -f "$build/CMakeCache.txt" ] && flags+=(-G Ninja)
  [ -d "$deps/usr" ] && flags+=("-DCMAKE_PREFIX_PATH=$deps/usr")
  run configure 60 cmake -S . -B "$build" "${flags[@]}" || return
  if [ -n "$sim" ]; then
    targets+=(train_gpt2sim test_gelu_sim test_residual_sim)
    grep -q bench_kernels_sim CMakeLists.txt && targets+=(bench_kernels_sim)
  elif grep "left out: CUDA programs" "$out/logs/configure.log"; then
    problem "configure: no CUDA programs for this machine (above)"
    return
  else
    targets+=(cuda_programs)
  fi
  grep -o "left out: .*" "$out/logs/configure.log"
  run compile 3600 cmake --build "$build" -j "$jobs" --target "${targets[@]}"
}

stage_kernels() {
  local tests=("$build/test_kernels_cu") test
  [ -n "$sim" ] && tests=("$build"/test_{gelu,residual}_sim)
  for test in "${tests[@]}"; do
    run "$(basename "$test")" 120 "$test" || continue
    grep -a '^\[doctest\] test cases' "$out/logs/$(basename "$test").log" ||
      problem "$(basename "$test"): no test ran, or it does not say so"
  done
}

stage_check() {
  local precision
  for precision in fp32 tf32 bf16; do
    run "check_$precision" 60 "$trainer" --check "${check[@]}" --precision $precision || continue
    tail -n 1 "$out/logs/check_$precision.log" | sed "s/^/$precision: /"
  done
  [ -n "$sim" ] && return
  # GPT-2's own width and head size, by the kernels that train it; the CPU's plain reference takes its time.
  enough 40 "124M against the CPU" &&
    run check_124M 60 "$trainer" --check --model gpt2 --tokenizer bytes --batch-size 1 --seq-len 64 --precision bf16
}

# The bounds are those of tests/programs/test_train_gpt2sim.sh: 1e-5 in fp32, 1 % in tf32 and bf16, of each of ten losses.
stage_train() {
  local precision result
  local flags=(--data "$out/toy.txt" --tokenizer bytes "${toy[@]}" --steps 10 --schedule constant --warmup-steps 2
    --sample-tokens 0 --eval-every 0 --eval-steps 1)
  for i in $(seq 1 60); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >"$out/toy.txt"
  run train_cpu 60 "$build/train_gpt2" "${flags[@]}" --precision fp32 --run "$out/runs/cpu" || return
  for precision in fp32 tf32 bf16; do
    run "train_$precision" 60 "$trainer" "${flags[@]}" --precision $precision --run "$out/runs/$precision" || continue
    result=$(compare "$out/runs/$precision" "$out/runs/cpu" 10 "$([ $precision = fp32 ] && echo 1e-5 0 || echo 0 1e-2)")
    echo "$precision: $result"
    row train "{\"precision\": \"$precision\", \"largest_difference\": $(number "${result##* }")}"
    [[ $result == within* ]] || problem "train_$precision: its losses are not the CPU's: $result"
  done
}
# compare RUN RUN STEPS "ABSOLUTE RELATIVE": of all losses, one step after another; prints the largest difference last
compare() {
  local a=${4% *} r=${4#* }
  paste -d' ' <(losses "$1") <(losses "$2") | awk -v a="$a" -v r="$r" -v steps="$3" '
    { d = $2 - $4; if (d < 0) d = -d; if (d > worst) worst = d
      if (NF != 4 || $1 != NR || $3 != NR || !(d <= a + r * $4)) bad = 1 }
    END { if (NR != steps) bad = 1
      printf "%s %s absolute, %s relative, %d losses; largest difference %.3e\n", bad ? "beyond" : "within", a, r, NR, worst }'
}

stage_steps() {
  local one model precision B T share peak predicted tokens flags
  prepare_data || return
  for one in "${timed[@]}"; do
    read -r model precision B T <<<"$one"
    enough 12 "$model $precision" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    measure "step_${model}_$precision" "$model" "$precision" "$B" "$T" || continue
    share=$(grep -o '| [0-9]* % of peak' "$out/logs/step_${model}_$precision.log" | tail -n +$((warmup + 1)) | cut -d' ' -f2 | median)
    peak=$(sed -n 's/^training: .* peak \([0-9.e+-]*\) TFLOP.*/\1/p' "$out/logs/step_${model}_$precision.log")
    predicted=
    if [ -z "$sim" ] && [ "$precision" != fp32 ]; then
      flags=(--model "$model" --batch-size "$B" --seq-len "$T" --precision "$precision")
      "$build/predict" "${flags[@]}" --json "$out/predicted.json" >"$out/predicted_${model}_$precision.txt" 2>&1 &&
        predicted=$(sed -n 's/^ *"ms": *\([0-9.e+]*\).*/\1/p' "$out/predicted.json")
    fi
    tokens=$(awk -v n=$((B * T)) -v ms="$ms" 'BEGIN { printf "%.0f", n / ms * 1e3 }')
    echo "$model $precision $B x $T: $ms ms a step, $tokens tokens/s, $share % of peak"
    row steps "{\"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B, \"seq_len\": $T, \"ms\": $(number "$ms"), \
\"tokens_per_second\": $tokens, \"share_of_peak_percent\": $(number "$share"), \"peak_tflops\": $(number "$peak"), \
\"predicted_h100_ms\": $(number "$(rounded "$predicted" 2)")}"
  done
}

stage_bench() {
  local program=$build/bench_kernels_cu flags=(--json "$out/bench.json" --html "$out/bench.html")
  if [ -n "$sim" ]; then
    program=$build/bench_kernels_sim
    flags+=(--quick --only '^gelu')
  else
    flags+=(--seconds 3)
  fi
  [ -x "$program" ] || { note "skipped: $program is not there"; return; }
  run bench 90 "$program" "${flags[@]}" || return
  [ -s "$out/bench.json" ] && [ -s "$out/bench.html" ] || problem "bench: $(basename "$program") wrote no bench.json or no bench.html"
}

# On a GPU by libkernel_times.so, which the driver loads; cudasim only says which kernels ran.
stage_breakdown() {
  local recorder=$build/libkernel_times.so times=$out/kernel_times.tsv flags model=gpt2 B=16 T=1024 name
  prepare_data || return
  [ -n "$sim" ] && model=toy B=2 T=32
  B=$(fitting "$model" bf16 "$B" "$T")
  rm -rf "$times" "$out/runs/breakdown"
  breakdown_of="$model in bf16, $B x $T"
  # shellcheck disable=SC2207
  flags=(--data "$shard" $(size_flags $model) --precision bf16 --batch-size "$B" --seq-len "$T" --steps 12 --sample-tokens 0
    --save-every 0 --eval-every 0 --run "$out/runs/breakdown")
  if [ -n "$sim" ]; then
    CUDASIM_KERNELS=$times run breakdown 60 "$trainer" "${flags[@]}" || return
    sort -u "$times" | sed 's/.*:://' | while read -r name; do
      row breakdown "{\"kernel\": $(text "$name"), \"launches\": null, \"us\": null, \"share\": null}"
    done
  else
    [ -f "$recorder" ] || { note "skipped: $recorder is not there (the toolkit has no CUPTI)"; return; }
    CUDA_INJECTION64_PATH=$(realpath "$recorder") KERNEL_TIMES=$times run breakdown 60 "$trainer" "${flags[@]}" || return
    sort -n "$times" | awk -v last=adamw_update_kernel -v skip=3 -f dev/kernel_times.awk >"$out/breakdown.tsv" ||
      { problem "breakdown: the recorded times are no steps"; return; }
    awk -F '\t' '{ printf "{\"kernel\": \"%s\", \"launches\": %s, \"us\": %s, \"share\": %s}\n", $1, $2 == "" ? "null" : $2, $3, $4 }' \
      "$out/breakdown.tsv" >"$out/rows/breakdown.jsonl"
  fi
  rm -rf "$out/runs/breakdown"
  echo "$(wc -l <"$out/rows/breakdown.jsonl") rows: see table.md"
}

stage_sanitizer() {
  local tool tests=("$build/test_kernels_cu" "-sf=*test_gelu.cu,*test_residual.cu,*test_layernorm.cu,*test_global_norm.cu")
  [ -n "$sim" ] && tests=("$build/test_gelu_sim")
  command -v compute-sanitizer >/dev/null || { note "skipped: no compute-sanitizer on PATH or in $cuda"; return; }
  for tool in memcheck racecheck; do
    enough 20 "$tool" || continue
    local code=0 log=$out/logs/$tool.log seconds=$(($(left) < 40 ? $(left) : 40))
    timeout -k 5 $seconds compute-sanitizer --tool $tool --error-exitcode 9 "${tests[@]}" >"$log" 2>&1 </dev/null || code=$?
    if grep -q "Device not supported" "$log"; then
      note "$tool: skipped, it says of this machine: Device not supported"
    elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
      note "$tool: nothing found in $seconds s, in which it did not finish"
      grep -a "ERROR SUMMARY: [1-9]\|========= Error:\|Invalid __" "$log" && problem "$tool: it found something before its time was over"
    elif [ $code -ne 0 ]; then
      tail -n 30 "$log"
      problem "$tool: exit code $code"
    elif ! grep -a 'SUMMARY' "$log" | tail -n 1 | sed "s/^=* */$tool: /" | grep .; then
      problem "$tool: it ends without a summary"
    fi
  done
}

# alternate PEER MODEL PRECISION B T SECONDS COMMAND...: ours and COMMAND in turn; COMMAND prints "step ... N ms" lines.
alternate() {
  local peer=$1 model=$2 precision=$3 B=$4 T=$5 seconds=$6 round ours theirs
  shift 6
  rm -f "$out"/ours.ms "$out"/theirs.ms
  for ((round = 1; round <= rounds; ++round)); do
    measure "${peer}_ours_${model}_$precision" "$model" "$precision" "$B" "$T" || return
    echo "$ms" >>"$out/ours.ms"
    run "${peer}_${model}_$precision" "$seconds" "$@" || return
    grep -a '^step ' "$out/logs/${peer}_${model}_$precision.log" | grep -o '[0-9.]* ms' | cut -d' ' -f1 | tail -n +$((warmup + 1)) |
      median >>"$out/theirs.ms"
  done
  ours=$(rounded "$(median <"$out/ours.ms")" 2) theirs=$(rounded "$(median <"$out/theirs.ms")" 2)
  [ -n "$theirs" ] || { problem "${peer}_${model}_$precision: it printed no times of steps"; return; }
  echo "$model $precision $B x $T: ours $ours ms a step, $peer $theirs ms"
  row peers "{\"peer\": \"$peer\", \"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B, \"seq_len\": $T, \
\"ours_ms\": $(number "$ours"), \"peer_ms\": $(number "$theirs"), \"rounds\": $rounds}"
}

stage_pytorch() {
  local one model precision B T worst flags
  "$python" -c 'import torch' 2>/dev/null || { note "skipped: $python has no PyTorch"; return; }
  "$python" dev/bench/pytorch_gpt2.py --help >/dev/null 2>"$out/logs/torch.log" || { note "skipped: $(head -n 1 "$out/logs/torch.log")"; return; }
  [ -n "$sim" ] || "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null ||
    { note "skipped: $python's PyTorch finds no GPU"; return; }
  prepare_data || return
  # First that both compute the same: the losses of five steps from the same weights, in float.
  flags=(--data "$shard" --vocab-size "$vocabulary" --batch-size 2 --seq-len 32 --data-order sequential --schedule constant
    --warmup-steps 0 --lr 1e-3 --beta2 0.95 --sample-tokens 0)
  run torch_start 60 "$build/train_gpt2" "${flags[@]}" --model gpt2-nano --layers 2 --heads 2 --channels 64 --steps 1 \
    --run "$out/runs/start" || return
  run torch_losses_ours 60 "$trainer" "${flags[@]}" --model "$out/runs/start/latest" --precision fp32 --steps 5 \
    --run "$out/runs/torch" || return
  run torch_losses 120 "$python" dev/bench/pytorch_gpt2.py --weights "$out/runs/start/latest" --data "$shard" --batch-size 2 \
    --seq-len 32 --steps 5 --warmup 1 --lr 1e-3 --precision fp32 --compile off "${torch_flags[@]:0:2}" || return
  worst=$(paste -d' ' <(losses "$out/runs/torch") <(sed -n 's/^step \([0-9]*\)\/5 | loss \([0-9.]*\).*/\1 \2/p' "$out/logs/torch_losses.log") |
    awk '{ d = $2 - $4; if (d < 0) d = -d; if (d > worst) worst = d; if ($1 != $3) worst = 1e9 }
         END { printf "%.3e", NR == 5 ? worst : 1e9 }')
  echo "losses of five steps from the same weights: largest difference $worst"
  row torch_losses "{\"largest_difference\": $worst}"
  awk -v d="$worst" 'BEGIN { exit !(d <= 1e-4) }' || { problem "PyTorch's losses are not ours: they differ by $worst"; return; }
  for one in "${peers[@]}"; do
    read -r model precision B T <<<"$one"
    if [ "$model" = toy ]; then
      flags=(--weights "$out/runs/start/latest")
    else
      flags=(--model "$model")
    fi
    [ -n "$sim" ] || enough 70 "$model $precision" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    alternate pytorch "$model" "$precision" "$B" "$T" 150 "$python" dev/bench/pytorch_gpt2.py "${flags[@]}" --data "$shard" \
      --batch-size "$B" --seq-len "$T" --precision "$precision" --steps $steps --warmup $warmup "${torch_flags[@]}"
  done
}

# llm.c has the precision that it was built with: bf16, unless somebody asked for another.
stage_llmc() {
  local one model precision B T
  [ -n "${LLMC_DIR:-}" ] || { note "skipped: LLMC_DIR does not say where llm.c is"; return; }
  [ -x "$LLMC_DIR/train_gpt2cu" ] || { problem "llm.c: $LLMC_DIR/train_gpt2cu is not there; build it: make train_gpt2cu"; return; }
  prepare_data || return
  for one in "${peers[@]}"; do
    read -r model precision B T <<<"$one"
    [ "$precision" = bf16 ] || continue
    [ -n "$sim" ] || enough 40 "$model" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    alternate llm.c "$model" "$precision" "$B" "$T" 120 "$LLMC_DIR/train_gpt2cu" -i "$shard" -j "$shard" -e "${llmc_model[$model]}" \
      -b "$B" -t "$T" -x $steps -l 1e-4 -c 0.1 -r 0 -v 1000000 -m 1 -s 0 -h 0
  done
}

# ---- what is written -----------------------------------------------------------------------------------------------

if [ -n "$sim" ]; then
  device=cudasim driver=
else
  command -v nvidia-smi >/dev/null || { echo "error: no nvidia-smi here, so no GPU; --sim runs the stages on cudasim" >&2; exit 1; }
  device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  [ -n "$device" ] || { echo "error: nvidia-smi names no GPU; --sim runs the stages on cudasim" >&2; exit 1; }
  nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
fi
date=$(date -u +%Y-%m-%d)
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
list() { # list NAME: the rows of a kind as a JSON list
  [ -f "$out/rows/$1.jsonl" ] && paste -sd, "$out/rows/$1.jsonl" | sed 's/.*/[&]/' || echo '[]'
}
column() { sed -n "s/.*\"$2\": \"\{0,1\}\([^,\"}]*\).*/\1/p" <<<"$1"; }
write_results() {
  local predicted=predicted_h100_ms  # of a table with real times beside
  [ -z "$sim" ] || predicted=
  {
    echo "{\"device\": $(text "$device"), \"simulated\": $([ -n "$sim" ] && echo true || echo false), \"driver\": $(text "$driver"),"
    echo " \"date\": \"$date\", \"commit\": $(text "$commit"), \"seconds\": $((SECONDS - began)),"
    local kind
    for kind in train steps breakdown peers torch_losses; do echo " \"$kind\": $(list $kind),"; done
    echo " \"bench\": $([ -s "$out/bench.json" ] && cat "$out/bench.json" || echo null),"
    echo " \"stages\": $(list stages)}"
  } >"$out/results.json"
  {
    echo "# $device, $date, commit $commit"
    [ -z "$sim" ] || printf '\ncudasim in place of a GPU: every time below is the simulation'"'"'s, on the CPU.\n'
    printf '\n| stage | | s | |\n|---|---|---|---|\n'
    table stages stage status seconds why
    [ ! -f "$out/rows/train.jsonl" ] ||
      printf '\nThe losses of ten steps, the largest difference from the CPU:\n\n| precision | |\n|---|---|\n%s\n' \
        "$(table train precision largest_difference)"
    [ ! -f "$out/rows/steps.jsonl" ] ||
      printf '\nA step (median of %d):\n\n%s\n|---|---|---|---|---|---|---|---|%s\n%s\n' $((steps - warmup)) \
        "| model | precision | B | T | ms | tokens/s | % of peak | peak TFLOP/s |${predicted:+ predicted for an H100, ms |}" \
        "${predicted:+---|}" "$(table steps model precision batch_size seq_len ms tokens_per_second share_of_peak_percent \
          peak_tflops $predicted)"
    [ ! -f "$out/rows/peers.jsonl" ] ||
      printf '\nIn turn, ms a step (median of %d rounds'"'"' medians):\n\n%s\n|---|---|---|---|---|---|---|\n%s\n' $rounds \
        '| peer | model | precision | B | T | ours | the peer |' \
        "$(table peers peer model precision batch_size seq_len ours_ms peer_ms)"
    [ ! -f "$out/rows/breakdown.jsonl" ] ||
      printf '\nA step of %s, kernel by kernel:\n\n| kernel | launches | us | share |\n|---|---|---|---|\n%s\n' \
        "$breakdown_of" "$(table breakdown kernel launches us share)"
  } >"$out/table.md"
}
table() { # table KIND FIELD...: a Markdown line a row; what is null stays empty
  local kind=$1 line field
  shift
  while read -r line; do
    printf '|'
    for field in "$@"; do printf ' %s |' "$(column "$line" "$field" | sed 's/^null$//')"; done
    echo
  done <"$out/rows/$kind.jsonl"
}

# ---- stage by stage ------------------------------------------------------------------------------------------------

failed=()
for s in "${selected[@]}"; do
  problems=() notes=() started=$SECONDS
  stage_end=$((SECONDS + limit[$s] * (seconds_in_all > 540 ? seconds_in_all : 540) / 540))
  echo "=== $s: ${about[$s]}"
  if [[ " ${failed[*]} " == *" build "* ]]; then
    note "skipped: the build failed"
  elif [ $((end - SECONDS)) -lt "${least[$s]}" ]; then
    note "skipped: $((end - SECONDS)) s of --minutes $minutes are left, and it takes ${least[$s]} at least"
  else
    "stage_$s"
  fi
  why=$(IFS=';' && echo "${problems[*]} ${notes[*]}" | sed 's/^ *//; s/ *$//; s/[|,"]/ /g')
  status=passed
  [[ ${notes[*]} != skipped:* ]] || status=skipped
  [ ${#problems[@]} -eq 0 ] || status=failed failed+=("$s")
  echo "$s: $status after $((SECONDS - started)) s"
  row stages "{\"stage\": \"$s\", \"status\": \"$status\", \"seconds\": $((SECONDS - started)), \"why\": $(text "$why")}"
  write_results
done
echo
cat "$out/table.md"
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
