#!/usr/bin/env bash
# The one script for a machine with a GPU: builds there, tests and checks on the device, measures, and records it all.
#
#   dev/gpu/gpu_check.sh --pack [DIR]     beforehand, with a network: gathers into DIR (.deps) what a bare machine lacks
#   dev/gpu/gpu_check.sh                  there: all stages, in at most nine minutes
#   dev/gpu/gpu_check.sh --first          or in two calls: the most informative stages, in at most 440 s
#   dev/gpu/gpu_check.sh --second         then, in 180 s, what is missing; on a fresh machine everything, from the start
#   dev/gpu/gpu_check.sh --stages build,steps,pytorch --minutes 9
#   dev/gpu/gpu_check.sh --sim            here: the same stages on cudasim, small; it gives no figure of a GPU
#
#   --stages A,B,...   only these, in this order       --list      the stages, the seconds kept for each, what it does
#   --minutes N        the script ends after N minutes (9); what would take longer is skipped, and the results say so
#   --seconds N        the same in seconds
#   --continue         keeps the results in BUILD/check, and leaves out the stages that passed (--second does)
#   --out DIR          the folder for results.json, table.md and logs.tar.gz, and nothing else (BUILD/check)
#   --build DIR        the build folder (build-gpu, with --sim build)
#   --deps DIR         the folder that --pack filled (.deps)
#
# Each result is in results.json as soon as it is known; table.md and logs.tar.gz are rewritten after each stage. All
# three are replaced atomically, so they are whole whenever the script is killed, and no process that it started
# survives it. Needs the CUDA toolkit, CMake and g++; no network, no Python. Used if present: python3 with PyTorch
# (PYTHON names another one), llm.c (LLMC_DIR, with train_gpt2cu built, or with its source, which is then built
# meanwhile). Exit code 1 if anything is wrong, 2 for wrong flags.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

stages=(build ceilings small check repeat breakdown memory products attention steps pytorch llmc cpu sanitizer rounding
  kernels train bench)
declare -A about=(
  [build]="configures and builds what the next stages need for this machine's card; the rest meanwhile"
  [ceilings]="this card: copy, read and write rates, 8192^3 products under full load (watts, clocks), launches, events"
  [small]="a few of the kernels' tests first: tensor-core fragments, products, layernorm, attention"
  [check]="the GPU's model against the CPU's model, tensor by tensor: bf16, 124M, fp32, tf32"
  [repeat]="two runs of ten steps: the same losses and weights, bit for bit"
  [breakdown]="124M's step, kernel by kernel"
  [memory]="the ladders of kernels that memory limits: share of the copy rate"
  [products]="products of GPT-2's sizes with their epilogues, by each tier"
  [attention]="attention forward and backward at GPT-2's sizes, by each tier"
  [steps]="124M at B=16 and 64, 1558M, 350M, 774M in bf16, 124M in tf32 and fp32: ms per step, tokens/s, share of peak"
  [pytorch]="PyTorch's GPT-2, compiled, alternating with ours; and the same losses from the same weights"
  [llmc]="llm.c, alternating with ours"
  [cpu]="the CPU's training step on this machine's cores (bench_cpu)"
  [sanitizer]="compute-sanitizer's memcheck and racecheck on a few tests"
  [rounding]="the error of sums on tensor cores compared with double, as the number of terms grows"
  [kernels]="all of the kernels' tests, on the device"
  [train]="a toy run: its losses compared with those of the CPU's trainer"
  [bench]="all of the kernels' ladders (bench.json, bench.html, in logs.tar.gz)"
)
# Seconds reserved for a stage: it may take that many, and more if the later stages still have theirs. And the least
# that must be left for it to begin.
declare -A kept=([build]=120 [ceilings]=15 [small]=15 [check]=40 [repeat]=25 [breakdown]=25 [memory]=45 [products]=20
  [attention]=15 [steps]=70 [pytorch]=90 [llmc]=50 [cpu]=35 [sanitizer]=50 [rounding]=10 [kernels]=60 [train]=20 [bench]=60)
declare -A least=([build]=10 [ceilings]=5 [small]=5 [check]=10 [repeat]=10 [breakdown]=10 [memory]=10 [products]=5
  [attention]=5 [steps]=12 [pytorch]=30 [llmc]=20 [cpu]=10 [sanitizer]=15 [rounding]=5 [kernels]=10 [train]=10 [bench]=20)

usage() {
  echo "error: $*" >&2
  echo "(dev/gpu/gpu_check.sh --help lists the flags, --list the stages)" >&2
  exit 2
}

# ---- flags ---------------------------------------------------------------------------------------------------------

sim='' selected=("${stages[@]}") seconds_in_all=540 going_on='' out='' build='' deps=$root/.deps pack=''
while [ $# -gt 0 ]; do
  flag=$1
  case $flag in
    --help | -h) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --list) for s in "${stages[@]}"; do printf '%-10s %4s s  %s\n' "$s" "${kept[$s]}" "${about[$s]}"; done; exit 0 ;;
    --sim) sim=1 ;;
    --first) seconds_in_all=440 ;;
    --second) seconds_in_all=180 going_on=1 ;;
    --continue) going_on=1 ;;
    --pack) pack=1; case ${2:-} in '' | --*) ;; *) deps=$(realpath -m "$2"); shift ;; esac ;;
    --stages | --minutes | --seconds | --out | --build | --deps)
      [ $# -ge 2 ] && [ -n "$2" ] || usage "$flag needs a value"
      case $flag in
        --stages) IFS=, read -ra selected <<<"$2" ;;
        --minutes | --seconds)
          [[ $2 =~ ^[0-9]{1,5}(\.[0-9]+)?$ ]] || usage "$flag is '$2', expected a number such as 9"
          seconds_in_all=$(awk -v n="$2" -v of="$flag" 'BEGIN { printf "%d", of == "--minutes" ? 60 * n : n }') ;;
        --out) out=$(realpath -m "$2") ;;
        --build) build=$(realpath -m "$2") ;;
        --deps) deps=$(realpath -m "$2") ;;
      esac
      shift ;;
    *) usage "'$flag' is not a flag of this script" ;;
  esac
  shift
done
for s in "${selected[@]}"; do [ -n "$s" ] && [ -n "${about[$s]:-}" ] || usage "'$s' is not a stage; there are: ${stages[*]}"; done

# ---- what a bare machine lacks --------------------------------------------------------------------------------------

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
  cp all/usr/lib/*/libpcre2-8.a "$deps/usr/lib/"  # not the .so: programs then need none of this at run time
  for folder in all/usr/lib/cmake all/usr/lib/*/cmake all/usr/share/cmake; do
    [ ! -d "$folder" ] || cp -r "$folder" "$deps/usr/share/"
  done
  # Debian's CMake files name /usr where they should look next to themselves.
  grep -rl '_IMPORT_PREFIX "/usr"' "$deps/usr/share/cmake" | xargs -r sed -i \
    's|set(_IMPORT_PREFIX "/usr")|get_filename_component(_IMPORT_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)|'
  kib=$(du -sk "$deps/usr" | cut -f1)
  echo "$deps: $((kib / 1024)) MiB"
  [ "$kib" -le $((50 * 1024)) ] || { echo "error: expected at most 50 MiB, so that it travels with the source" >&2; exit 1; }
  exit 0
fi

# ---- programs, sizes -----------------------------------------------------------------------------------------------

cd "$root"
began=$SECONDS
end=$((SECONDS + seconds_in_all - (seconds_in_all >= 60 ? 5 : 1)))  # leaves time to write the last files
if [ -n "$sim" ]; then
  device=cudasim driver=
else
  command -v nvidia-smi >/dev/null || { echo "error: no nvidia-smi here, so no GPU; --sim runs the stages on cudasim" >&2; exit 1; }
  device=$(timeout 20 nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
  driver=$(timeout 20 nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
  card_mib=$(timeout 20 nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)
  [ -n "$device" ] || { echo "error: nvidia-smi names no GPU; --sim runs the stages on cudasim" >&2; exit 1; }
  timeout 20 nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
fi
build=${build:-$root/$([ -n "$sim" ] && echo build || echo build-gpu)}
work=$build/check  # logs, rows, runs; read by --continue
out=${out:-$work}
mkdir -p "$out" "$work" || exit 1
out=$(cd "$out" && pwd)
work=$(cd "$work" && pwd)
[ -n "$going_on" ] || rm -rf "$work"/rows "$work"/logs
rm -rf "$work"/{runs,children,built} "$out"/*.tmp
mkdir -p "$work"/{rows,logs,runs,children,built}
[ -n "$going_on" ] || rm -f "$out"/{results.json,table.md,logs.tar.gz}
logs=$work/logs rows=$work/rows
python=${PYTHON:-python3}
cuda=${CUDA_HOME:-/usr/local/cuda}
export PATH=$PATH:$cuda/bin:$cuda/compute-sanitizer OMP_WAIT_POLICY=passive
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TORCHINDUCTOR_FX_GRAPH_CACHE=1  # code compiled early is found later

# The toy model of the stages check and train; the models to time; their tokens.
toy=(--layers 2 --heads 2 --channels 64 --seq-len 33 --batch-size 2)
if [ -n "$sim" ]; then
  suffix=sim
  timed=("toy bf16 2 32")
  peers=("toy bf16 2 32")
  steps=6 warmup=2 rounds=2
  precisions=(fp32 bf16)
  check=(--model gpt2-nano "${toy[@]}" --tokenizer bytes)
  rates=(--small --seconds 0.2)
  torch_flags=(--device cpu --compile off)
else
  suffix=cu
  timed=("gpt2 bf16 16 1024" "gpt2 bf16 64 1024" "gpt2-xl bf16 16 1024" "gpt2-medium bf16 16 1024"
    "gpt2-large bf16 16 1024" "gpt2 tf32 16 1024" "gpt2 fp32 16 1024")
  peers=("gpt2 bf16 64 1024" "gpt2 bf16 16 1024" "gpt2-xl bf16 16 1024" "gpt2-medium bf16 16 1024"
    "gpt2-large bf16 16 1024" "gpt2 tf32 16 1024")
  steps=20 warmup=5 rounds=2
  precisions=(fp32 tf32 bf16)
  check=(--model d4 --batch-size 3 --seq-len 127)
  rates=()
  torch_flags=()
fi
trainer=$build/train_gpt2$suffix
declare -A llmc_model=([toy]=d12 [gpt2]=d12 [gpt2-medium]=d24 [gpt2-large]=d36 [gpt2-xl]=d48)
vocabulary=$([ -n "$sim" ] && echo 300 || echo 50257)
size_flags() { # size_flags MODEL: for the trainer, on the shard
  if [ "$1" = toy ]; then
    echo "--model gpt2-nano --layers 2 --heads 2 --channels 64 --vocab-size $vocabulary"
  else
    echo "--model $1 --vocab-size $vocabulary"
  fi
}

date=$(date -u +%Y-%m-%d)
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)

source dev/gpu/gpu_check_lib.sh

# ---- shared by the stages --------------------------------------------------------------------------------------------

# PyTorch compiles code that is timed later into a cache, while our build runs and the card is idle.
compile_torch() {
  "$python" -c 'import torch; assert torch.cuda.is_available()' || return
  for B in 64 16; do
    "$python" dev/bench/pytorch_gpt2.py --model gpt2 --batch-size $B --seq-len 1024 --steps 2 --warmup 1
  done
}
settle() { # settle SECONDS: makes sure that the card is ours before the first measurement
  [ -n "$torch_job" ] || return
  local until=$((SECONDS + $1))
  while kill -0 "$torch_job" 2>/dev/null && [ $SECONDS -lt $until ] && [ "$(left)" -gt 5 ]; do sleep 0.3; done
  if kill -0 "$torch_job" 2>/dev/null; then
    end_group "$torch_job"
    note "PyTorch had not finished compiling, and will finish later"
  else
    reap "$torch_job"
  fi
  torch_job=
}

prepare_data() { # a shard of tokens that all timed programs read
  shard=$work/data/train.bin
  [ -f "$shard" ] && return 0
  rm -rf "$work/data" "$work/data.new"
  mkdir -p "$work/data.new"
  run data 60 bash -c '"$0/make_stories" --bytes "$2" --out "$1/stories.txt" && "$0/tokenize" shard --tokenizer "$3" \
    --data "$1/stories.txt" --val-fraction 0 --out "$1"' "$build" "$work/data.new" $([ -n "$sim" ] && echo 100kb bytes || echo 8mb bpe:4096) &&
    mv "$work/data.new" "$work/data"
}

# measure NAME MODEL PRECISION B T: runs our trainer for some steps, then stops it before it saves; ms = median per
# step.
measure() {
  local name=$1 model=$2 precision=$3 B=$4 T=$5 folder=$work/runs/$1 log=$logs/$1.log pid until=$(left)
  until=$((SECONDS + (until < 75 ? until : 75)))
  rm -rf "$folder"
  : >"$log"  # the log of an earlier round would look like the end of this one
  # shellcheck disable=SC2046
  spawn "$trainer" --data "$shard" $(size_flags "$model") --precision "$precision" --batch-size "$B" --seq-len "$T" \
    --steps 1000000 --data-order sequential --schedule constant --lr 1e-4 --warmup-steps 0 --sample-tokens 0 --save-every 0 \
    --eval-every 0 --run "$folder" >>"$log" 2>&1 </dev/null
  pid=$child
  while kill -0 $pid 2>/dev/null && ! grep -q "^step $steps/" "$log" && [ $SECONDS -lt $until ]; do sleep 0.1; done
  end_group $pid
  ms=
  if ! grep -q "^step $steps/" "$log"; then
    tail -n 20 "$log"
    problem "$name: $([ $SECONDS -lt $until ] && echo "ended before step $steps" || echo "not at step $steps when its time was up")"
    return 1
  fi
  ms=$(grep -o '"ms":[0-9.e+]*' "$folder/metrics.jsonl" | cut -d: -f2 | head -n $steps | tail -n +$((warmup + 1)) | median)
  [ ! -e "$folder/plans.json" ] || cp "$folder/plans.json" "$logs/$name.plans.json"  # which algorithms, and their times
  rm -rf "$folder"
  ms=$(rounded "$ms" 2)
  [ -n "$ms" ] || { problem "$name: metrics.jsonl has no times of steps"; return 1; }
}

# The largest batch, halved from B, that fits the card's memory.
fitting() { # fitting MODEL PRECISION B T
  local B=$3 bytes
  [ -n "$sim" ] && { echo "$B"; return; }
  while [ "$B" -gt 1 ]; do
    # shellcheck disable=SC2046
    bytes=$(timeout 20 "$trainer" --memory --data "$shard" $(size_flags "$1") --precision "$2" --batch-size "$B" --seq-len "$4" 2>/dev/null |
      sed -n 's/^total *\([0-9]*\) bytes$/\1/p')
    [ -n "$bytes" ] || { B=$3; break; }  # the trainer prints why when it runs
    awk -v a="$bytes" -v b="$card_mib" 'BEGIN { exit !(a < 0.95 * b * 1048576) }' && break
    B=$((B / 2))
  done
  echo "$B"
}

# ---- the stages ----------------------------------------------------------------------------------------------------

stage_build() {
  local flags=() targets=(make_stories tokenize predict "train_gpt2$suffix" "gpu_rates_$suffix") jobs later=() keep_going=(-k)
  built=
  jobs=$(nproc)
  command -v ninja >/dev/null && [ ! -f "$build/CMakeCache.txt" ] && flags+=(-G Ninja)
  [ -d "$deps/usr" ] && flags+=("-DCMAKE_PREFIX_PATH=$deps/usr")
  run configure 60 cmake -S . -B "$build" "${flags[@]}" || return
  if [ -n "$sim" ]; then
    targets+=(test_sim)
    later=(bench_kernels_sim train_gpt2 bench_cpu)
  elif grep "left out: CUDA programs" "$logs/configure.log"; then
    problem "configure: no CUDA programs for this machine (above)"
    return
  else
    targets+=(test_kernels_small_cu)
    grep -qE "left out: .*(kernel_times|CUPTI)" "$logs/configure.log" || targets+=(kernel_times)
    later=(bench_kernels_cu train_gpt2 test_kernels_cu bench_cpu)
  fi
  forget libraries
  grep -E '^-- (left out|cuBLASLt|cuDNN|CUDA|NCCL|CUPTI|kernel_times|MPI|OpenMP|a GPU)[^(]*[:(]' "$logs/configure.log" | sed 's/^-- //' |
    tee "$work/libraries"
  while read -r line; do row libraries "{\"line\": $(text "$line")}"; done <"$work/libraries"
  [ -f "$build/build.ninja" ] && keep_going=(-k 0)
  # If something else does not compile, the trainer's stages continue.
  run compile 3600 cmake --build "$build" -j "$jobs" --target "${targets[@]}" -- "${keep_going[@]}" ||
    run compile_trainer 3600 cmake --build "$build" -j "$jobs" --target "train_gpt2$suffix" || return
  built=1
  spawn build_rest $((jobs > 4 ? jobs - 4 : 1)) "${later[@]}" >/dev/null 2>&1 </dev/null
  rest=$child
  settle 20
}

# The samples of nvidia-smi during a product are found by their time.
stage_ceilings() {
  local sampler='' samples=$logs/nvidia_smi.csv code=0
  forget load
  if command -v nvidia-smi >/dev/null; then
    spawn nvidia-smi --query-gpu=timestamp,power.draw,clocks.sm,clocks.mem,temperature.gpu --format=csv,noheader,nounits \
      -lms 100 >"$samples" 2>/dev/null </dev/null
    sampler=$child
  fi
  ROWS=ceilings run ceilings 60 "$build/gpu_rates_$suffix" ceilings "${rates[@]}" || code=1
  if [ -n "$sampler" ]; then
    end_group "$sampler"
    # Its watts are means over the time before: the maximum during a product is closest. For the rest the median.
    awk -v samples="$samples" '
      function field(name) {
        if (!match($0, "\"" name "\":(\"[^\"]*\"|[^,}]*)")) return ""
        return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
      }
      function plain(s) { gsub(/"/, "", s); return s }
      function middle(values, n,   i, j, x) {
        for (i = 2; i <= n; ++i) {
          x = values[i]
          for (j = i - 1; j >= 1 && values[j] > x; --j) values[j + 1] = values[j]
          values[j + 1] = x
        }
        return n ? values[int((n + 1) / 2)] : "null"
      }
      BEGIN {
        while ((getline line < samples) > 0) {
          if (split(line, c, /, */) == 5 && c[2] ~ /^[0-9.]+$/ && c[3] ~ /^[0-9.]+$/) {
            time[++n] = c[1]; watts[n] = c[2] + 0; sm[n] = c[3] + 0; memory[n] = c[4]; celsius[n] = c[5]
          }
        }
      }
      field("what") == "\"product\"" {
        begin = plain(field("begin")); finish = plain(field("end")); most = "null"; warmest = "null"; m = 0
        for (i = 1; i <= n; ++i) {
          if (time[i] < begin || time[i] > finish) continue
          a[++m] = sm[i]; b[m] = memory[i] + 0
          if (most == "null" || watts[i] > most) most = watts[i]
          if (warmest == "null" || celsius[i] + 0 > warmest) warmest = celsius[i] + 0
        }
        printf "{\"data\": %s, \"tier\": %s, \"n\": %s, \"tflops\": %s, \"watts\": %s, \"sm_mhz\": %s, \"memory_mhz\": %s, \
\"celsius\": %s, \"samples\": %d}\n", field("data"), field("tier"), field("n"), field("tflops"), most, middle(a, m),
          middle(b, m), warmest, m
      }' "$rows/ceilings.jsonl" >"$rows/load.jsonl"
    write_results
  fi
  [ $code -eq 0 ] || return
  table ceilings what data tier gbps tflops | grep -v '|  |  |$'
}

run_tests() { # run_tests PROGRAM FLAGS...: the flags are doctest's
  local name
  name=$(basename "$1")
  run "$name" 120 "$@" || return 0
  grep -a '^\[doctest\] test cases: *[1-9]' "$logs/$name.log" || problem "$name: no test ran, or the log does not show it"
}
few_sim_tests=("$build/test_sim" "-sf=*test_gelu.cu,*test_residual.cu")
stage_small() {
  local tests=("$build/test_kernels_small_cu")
  [ -n "$sim" ] && tests=("${few_sim_tests[@]}")
  run_tests "${tests[@]}"
}
stage_kernels() {
  local tests=("$build/test_kernels_cu")
  [ -n "$sim" ] && tests=("${few_sim_tests[@]}")
  need "$(basename "${tests[0]}")" || return
  run_tests "${tests[@]}"
}

check_precision() {
  run "check_$1" 60 "$trainer" --check "${check[@]}" --precision "$1" || return
  tail -n 1 "$logs/check_$1.log" | sed "s/^/$1: /"
}
stage_check() {
  local model=gpt2 B=16 T=1024 precision
  [ -n "$sim" ] && model=toy B=2 T=32
  check_precision bf16
  # The kernel that each operation of the model takes, if the trainer prints that.
  if "$trainer" --help 2>/dev/null | grep -q -- ' --kernels' && prepare_data; then
    forget choices
    # shellcheck disable=SC2046
    run kernels_of_$model 20 "$trainer" --kernels --data "$shard" $(size_flags $model) --precision bf16 --batch-size $B --seq-len $T &&
      while read -r line; do row choices "{\"line\": $(text "$line")}"; done <"$logs/kernels_of_$model.log"
  fi
  # GPT-2's own width and head size, by the kernels that train it; the CPU's plain reference is slow.
  [ -n "$sim" ] || { enough 20 "124M against the CPU" && run check_124M 60 "$trainer" --check --model gpt2 --tokenizer bytes \
    --batch-size 1 --seq-len 64 --precision bf16 && tail -n 1 "$logs/check_124M.log" | sed "s/^/124M: /"; }
  for precision in "${precisions[@]}"; do
    [ $precision = bf16 ] || check_precision $precision
  done
}

stage_repeat() {
  local model=gpt2 B=4 T=1024 i equal_losses=false equal_weights=false
  prepare_data || return
  [ -n "$sim" ] && model=toy B=1 T=9
  rm -rf "$work/runs/repeat1" "$work/runs/repeat2"
  for i in 1 2; do
    # shellcheck disable=SC2046
    run repeat$i 60 "$trainer" --data "$shard" $(size_flags $model) --precision bf16 --batch-size $B --seq-len $T --steps 10 \
      --sample-tokens 0 --save-every 0 --eval-every 0 --run "$work/runs/repeat$i" || return
  done
  forget repeat
  [ "$(losses "$work/runs/repeat1" | wc -l)" = 10 ] && cmp -s <(losses "$work/runs/repeat1") <(losses "$work/runs/repeat2") &&
    equal_losses=true
  cmp -s "$work"/runs/repeat{1,2}/latest/model.safetensors && equal_weights=true
  echo "two runs of ten steps: equal losses $equal_losses, equal weights $equal_weights"
  row repeat "{\"model\": \"$model\", \"precision\": \"bf16\", \"batch_size\": $B, \"seq_len\": $T, \"steps\": 10, \
\"equal_losses\": $equal_losses, \"equal_weights\": $equal_weights}"
  [ $equal_losses$equal_weights = truetrue ] || problem "two runs from the same seed differ"
  rm -rf "$work"/runs/repeat{1,2}
}

# The bounds are those of tests/programs/test_train_gpt2sim.sh: 1e-5 in fp32, 1 % in tf32 and bf16, of each of ten losses.
stage_train() {
  local precision result
  local flags=(--data "$work/toy.txt" --tokenizer bytes "${toy[@]}" --steps 10 --schedule constant --warmup-steps 2
    --sample-tokens 0 --eval-every 0 --eval-steps 1)
  need train_gpt2 || return
  forget train
  for i in $(seq 1 60); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >"$work/toy.txt"
  rm -rf "$work"/runs/{cpu,fp32,tf32,bf16}
  run train_cpu 60 "$build/train_gpt2" "${flags[@]}" --precision fp32 --run "$work/runs/cpu" || return
  for precision in "${precisions[@]}"; do
    run "train_$precision" 60 "$trainer" "${flags[@]}" --precision $precision --run "$work/runs/$precision" || continue
    result=$(compare "$work/runs/$precision" "$work/runs/cpu" 10 "$([ $precision = fp32 ] && echo 1e-5 0 || echo 0 1e-2)")
    echo "$precision: $result"
    row train "{\"precision\": \"$precision\", \"largest_difference\": $(number "${result##* }")}"
    [[ $result == within* ]] || problem "train_$precision: its losses differ from those of the CPU: $result"
  done
}
# compare RUN RUN STEPS "ABSOLUTE RELATIVE": all losses, step by step; prints the largest difference last
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
    enough 12 "$model $precision $B" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    have steps "\"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B," && continue
    measure "step_${model}_${precision}_$B" "$model" "$precision" "$B" "$T" || continue
    share=$(grep -o '| [0-9]* % of peak' "$logs/step_${model}_${precision}_$B.log" | tail -n +$((warmup + 1)) | cut -d' ' -f2 | median)
    peak=$(sed -n 's/^training: .* peak \([0-9.e+-]*\) TFLOP.*/\1/p' "$logs/step_${model}_${precision}_$B.log")
    predicted=
    if [ -z "$sim" ] && [ "$precision" != fp32 ]; then
      flags=(--model "$model" --batch-size "$B" --seq-len "$T" --precision "$precision")
      local kernels  # as printed by the trainer
      kernels=$(grep -m 1 '^kernels: ' "$logs/step_${model}_${precision}_$B.log")
      flags+=(--matmul "$([[ $kernels == *"products cuBLASLt"* ]] && echo cublaslt || echo own)"
        --attention "$([[ $kernels =~ attention\ (forward\ )?cuDNN ]] && echo cudnn || echo own)")
      "$build/predict" "${flags[@]}" --json "$work/predicted.json" >"$logs/predicted_${model}_${precision}_$B.log" 2>&1 &&
        predicted=$(sed -n 's/^ *"ms": *\([0-9.e+]*\).*/\1/p' "$work/predicted.json")
    fi
    tokens=$(awk -v n=$((B * T)) -v ms="$ms" 'BEGIN { printf "%.0f", n / ms * 1e3 }')
    echo "$model $precision $B x $T: $ms ms per step, $tokens tokens/s, $share % of peak"
    row steps "{\"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B, \"seq_len\": $T, \"ms\": $(number "$ms"), \
\"tokens_per_second\": $tokens, \"share_of_peak_percent\": $(number "$share"), \"peak_tflops\": $(number "$peak"), \
\"predicted_h100_ms\": $(number "$(rounded "$predicted" 2)")}"
  done
}

stage_memory() {
  local flags=(--seconds 1 --only '^(residual|gelu|layernorm|embedding|classifier|global_norm|adamw|matmul_backward_bias|attention_delta)')
  [ -n "$sim" ] && flags=(--quick --only '^gelu')
  need bench_kernels_$suffix || return
  RENEW=1 run memory 600 "$build/bench_kernels_$suffix" "${flags[@]}" --rows "$rows/memory.jsonl" || return
  echo "$(wc -l <"$rows/memory.jsonl") versions: see table.md"
}

stage_products() {
  ROWS=products run products 120 "$build/gpu_rates_$suffix" products "${rates[@]}" || return
  echo "$(wc -l <"$rows/products.jsonl") rows: see table.md"
}

stage_attention() {
  ROWS=attention run attention 120 "$build/gpu_rates_$suffix" attention "${rates[@]}" || return
  table attention B NH T HS pass tier us tflops
}

stage_rounding() {
  ROWS=rounding run rounding 60 "$build/gpu_rates_$suffix" rounding "${rates[@]}" || return
  echo "$(wc -l <"$rows/rounding.jsonl") rows: see table.md"
}

stage_bench() {
  local flags=(--json "$logs/bench.json" --html "$logs/bench.html")
  if [ -n "$sim" ]; then flags+=(--quick --only '^gelu'); else flags+=(--seconds 3); fi
  need bench_kernels_$suffix || return
  rm -f "$logs"/bench.{json,html}
  run bench 600 "$build/bench_kernels_$suffix" "${flags[@]}" || return
  [ -s "$logs/bench.json" ] && [ -s "$logs/bench.html" ] || problem "bench: bench_kernels_$suffix wrote no bench.json or no bench.html"
}

# On a GPU with libkernel_times.so, which the driver loads; cudasim only reports which kernels ran.
stage_breakdown() {
  local recorder=$build/libkernel_times.so times=$logs/kernel_times.tsv flags model=gpt2 B=16 T=1024 count=12 name
  prepare_data || return
  [ -n "$sim" ] && model=toy B=2 T=32 count=2
  B=$(fitting $model bf16 $B $T)
  forget breakdown
  rm -rf "$times" "$work/runs/breakdown"
  echo "$model in bf16, $B x $T" >"$work/breakdown_of"
  # shellcheck disable=SC2207
  flags=(--data "$shard" $(size_flags $model) --precision bf16 --batch-size "$B" --seq-len "$T" --steps $count --sample-tokens 0
    --save-every 0 --eval-every 0 --run "$work/runs/breakdown")
  if [ -n "$sim" ]; then
    CUDASIM_KERNELS=$times run breakdown 60 "$trainer" "${flags[@]}" || return
    sort -u "$times" | sed 's/.*:://' | while read -r name; do
      echo "{\"kernel\": $(text "$name"), \"launches\": null, \"us\": null, \"share\": null}"
    done >"$rows/breakdown.jsonl"
  else
    [ -f "$recorder" ] || { note "skipped: $recorder is not there (the toolkit has no CUPTI)"; return; }
    CUDA_INJECTION64_PATH=$(realpath "$recorder") KERNEL_TIMES=$times run breakdown 60 "$trainer" "${flags[@]}" || return
    sort -n "$times" | awk -v last=adamw_update_kernel -v skip=3 -f dev/gpu/kernel_times.awk >"$logs/breakdown.tsv" ||
      { problem "breakdown: the recorded times are not steps"; return; }
    awk -F '\t' '{ printf "{\"kernel\": \"%s\", \"launches\": %s, \"us\": %s, \"share\": %s}\n", $1, $2 == "" ? "null" : $2, $3, $4 }' \
      "$logs/breakdown.tsv" >"$rows/breakdown.jsonl"
    head -n 8 "$logs/breakdown.tsv"
    tail -n 2 "$logs/breakdown.tsv"
  fi
  write_results
  rm -rf "$work/runs/breakdown"
  echo "$(wc -l <"$rows/breakdown.jsonl") rows: see table.md"
}

stage_cpu() {
  local flags=(--only steps --model gpt2 --json "$work/bench_cpu.new") background=
  local waiting=(env -u OMP_WAIT_POLICY)  # threads that have the cores to themselves may spin
  [ -n "$sim" ] && flags=(--quick --precision fp32 --only steps --json "$work/bench_cpu.new") waiting=()
  need bench_cpu || return
  while [ -n "$rest" ] && kill -0 "$rest" 2>/dev/null && [ "$(left)" -gt 25 ]; do sleep 0.3; done
  if [ -n "$rest" ] && kill -0 "$rest" 2>/dev/null; then  # its compilers are paused meanwhile
    kill -STOP -- "-$rest" 2>/dev/null && background=$rest
  fi
  run cpu 60 "${waiting[@]}" "$build/bench_cpu" "${flags[@]}" && mv "$work/bench_cpu.new" "$rows/bench_cpu.json"
  [ -z "$background" ] || kill -CONT -- "-$background"
  grep -a 'step' "$logs/cpu.log" | head -n 6
}

stage_sanitizer() {
  local tool tests=("$build/test_kernels_small_cu" "-sf=*test_ptx.cu,*test_common.cu,*test_layernorm.cu")
  [ -n "$sim" ] && tests=("${few_sim_tests[@]}")
  command -v compute-sanitizer >/dev/null || { note "skipped: no compute-sanitizer on PATH or in $cuda"; return; }
  for tool in memcheck racecheck; do
    enough 12 "$tool" || continue
    local code=0 log=$logs/$tool.log seconds=$(($(left) < 40 ? $(left) : 40))
    [ $tool = racecheck ] || [ "$seconds" -lt 30 ] || seconds=$((seconds * 2 / 3))
    spawn timeout -k 2 $seconds compute-sanitizer --tool $tool --error-exitcode 9 "${tests[@]}" >"$log" 2>&1 </dev/null
    reap "$child" || code=$?
    if grep -q "Device not supported" "$log"; then
      note "$tool: skipped, it reports for this machine: Device not supported"
    elif [ $code -eq 124 ] || [ $code -eq 137 ]; then
      note "$tool: nothing found in $seconds s; it did not finish"
      grep -a "ERROR SUMMARY: [1-9]\|========= Error:\|Invalid __" "$log" && problem "$tool: it found something before its time was up"
    elif [ $code -ne 0 ]; then
      tail -n 30 "$log"
      problem "$tool: exit code $code"
    elif ! grep -a 'SUMMARY' "$log" | tail -n 1 | sed "s/^=* */$tool: /" | grep .; then
      problem "$tool: it ends without a summary"
    fi
  done
}

# alternate PEER MODEL PRECISION B T SECONDS COMMAND...: ours and COMMAND alternate; COMMAND prints "step ... N ms".
alternate() {
  local peer=$1 model=$2 precision=$3 B=$4 T=$5 seconds=$6 name=$1_$2_$3_$4 round ours theirs
  shift 6
  have peers "\"peer\": \"$peer\", \"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B," && return
  rm -f "$work"/ours.ms "$work"/theirs.ms
  for ((round = 1; round <= rounds; ++round)); do
    measure "${name}_ours" "$model" "$precision" "$B" "$T" || return
    echo "$ms" >>"$work/ours.ms"
    run "$name" "$seconds" "$@" || return
    grep -a '^step ' "$logs/$name.log" | grep -o '[0-9.]* ms' | cut -d' ' -f1 | tail -n +$((warmup + 1)) |
      median >>"$work/theirs.ms"
  done
  ours=$(rounded "$(median <"$work/ours.ms")" 2) theirs=$(rounded "$(median <"$work/theirs.ms")" 2)
  [ -n "$theirs" ] || { problem "$name: it printed no times of steps"; return; }
  echo "$model $precision $B x $T: ours $ours ms per step, $peer $theirs ms"
  row peers "{\"peer\": \"$peer\", \"model\": \"$model\", \"precision\": \"$precision\", \"batch_size\": $B, \"seq_len\": $T, \
\"ours_ms\": $(number "$ours"), \"peer_ms\": $(number "$theirs"), \"rounds\": $rounds}"
}

# Checks that both compute the same: the losses of five steps from the same weights, in float.
same_losses() {
  local worst flags
  [ -z "$sim" ] && have torch_losses 'true' && return  # cudasim's toy continues from the weights that this makes
  flags=(--data "$shard" --vocab-size "$vocabulary" --batch-size 2 --seq-len 32 --data-order sequential --schedule constant
    --warmup-steps 0 --lr 1e-3 --beta2 0.95 --sample-tokens 0 --precision fp32)
  rm -rf "$work"/runs/{start,torch}
  run torch_start 60 "$trainer" "${flags[@]}" --model gpt2-nano --layers 2 --heads 2 --channels 64 --steps 1 \
    --run "$work/runs/start" || return
  run torch_losses_ours 60 "$trainer" "${flags[@]}" --model "$work/runs/start/latest" --steps 5 --run "$work/runs/torch" || return
  run torch_losses 120 "$python" dev/bench/pytorch_gpt2.py --weights "$work/runs/start/latest" --data "$shard" --batch-size 2 \
    --seq-len 32 --steps 5 --warmup 1 --lr 1e-3 --precision fp32 --compile off "${torch_flags[@]:0:2}" || return
  worst=$(paste -d' ' <(losses "$work/runs/torch") <(sed -n 's/^step \([0-9]*\)\/5 | loss \([0-9.]*\).*/\1 \2/p' "$logs/torch_losses.log") |
    awk '{ d = $2 - $4; if (d < 0) d = -d; if (d > worst) worst = d; if ($1 != $3) worst = 1e9 }
         END { printf "%.3e", NR == 5 ? worst : 1e9 }')
  echo "losses of five steps from the same weights: largest difference $worst"
  forget torch_losses
  row torch_losses "{\"largest_difference\": $worst, \"same\": $(awk -v d="$worst" 'BEGIN { print d <= 1e-4 ? "true" : "false" }')}"
  have torch_losses 'true' || problem "PyTorch's losses differ from ours by $worst"
}

# The two most important first, whose compiled code is in the cache; then whether the losses are the same; then the
# rest.
stage_pytorch() {
  local one model precision B T flags at=0
  run torch 60 "$python" -c 'import torch; print(tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 3), torch.cuda.is_available())' \
    >/dev/null || { problems=(); note "skipped: $python has no PyTorch"; return; }
  grep -q '^True' "$logs/torch.log" || { note "skipped: $python's PyTorch is older than 2.3"; return; }
  [ -n "$sim" ] || grep -q 'True$' "$logs/torch.log" || { note "skipped: $python's PyTorch finds no GPU"; return; }
  prepare_data || return
  [ -z "$sim" ] || { same_losses; at=2; }  # the toy's weights
  for one in "${peers[@]}"; do
    [ $((at++)) -ne 2 ] || [ -n "$sim" ] || { enough 25 "the same losses" && same_losses; }
    read -r model precision B T <<<"$one"
    flags=(--model "$model")
    [ "$model" != toy ] || flags=(--weights "$work/runs/start/latest")
    [ -n "$sim" ] || enough 40 "$model $precision $B" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    alternate pytorch "$model" "$precision" "$B" "$T" 150 "$python" dev/bench/pytorch_gpt2.py "${flags[@]}" --data "$shard" \
      --batch-size "$B" --seq-len "$T" --precision "$precision" --steps $steps --warmup $warmup "${torch_flags[@]}"
  done
}

# llm.c has the precision that it was built with: bf16, unless it was built for another.
stage_llmc() {
  local one model precision B T
  [ -n "${LLMC_DIR:-}" ] || { note "skipped: LLMC_DIR is not set"; return; }
  if [ -n "$llmc_job" ]; then
    while kill -0 "$llmc_job" 2>/dev/null && [ "$(left)" -gt 20 ]; do sleep 0.3; done
    kill -0 "$llmc_job" 2>/dev/null && { note "skipped: llm.c is still being built"; partial=1; return; }
    reap "$llmc_job" || { tail -n 20 "$logs/llmc_build.log"; problem "llm.c: it does not build"; }
    llmc_job=
  fi
  [ -x "$LLMC_DIR/train_gpt2cu" ] || { problem "llm.c: $LLMC_DIR/train_gpt2cu is not there; build it: make train_gpt2cu"; return; }
  prepare_data || return
  for one in "${peers[@]}"; do
    read -r model precision B T <<<"$one"
    [ "$precision" = bf16 ] || continue
    [ -n "$sim" ] || enough 25 "$model $B" || continue
    B=$(fitting "$model" "$precision" "$B" "$T")
    alternate llm.c "$model" "$precision" "$B" "$T" 120 "$LLMC_DIR/train_gpt2cu" -i "$shard" -j "$shard" -e "${llmc_model[$model]}" \
      -b "$B" -t "$T" -x $steps -l 1e-4 -c 0.1 -r 0 -v 1000000 -m 1 -s 0 -h 0
  done
}

# ---- stage by stage ------------------------------------------------------------------------------------------------

guard_job=
finish() {
  end_children
  [ -z "$guard_job" ] || kill -KILL -- "-$guard_job" 2>/dev/null
  wait 2>/dev/null
  rm -rf "$work/runs"
}
trap finish EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
trap 'exit 129' HUP
spawn guard >/dev/null 2>&1 </dev/null
guard_job=$child
rm -f "$work/children/$guard_job"

wanted() { [[ " ${selected[*]} " == *" $1 "* ]]; }
passed_before() { have stages "\"stage\": \"$1\", \"status\": \"passed\""; }
if wanted build && wanted pytorch && [ -z "$sim" ] && ! { [ -n "$going_on" ] && passed_before pytorch; }; then
  spawn compile_torch >"$logs/torch_compile.log" 2>&1 </dev/null
  torch_job=$child
fi
if wanted llmc && [ -n "${LLMC_DIR:-}" ] && [ ! -x "$LLMC_DIR/train_gpt2cu" ] && [ -f "$LLMC_DIR/train_gpt2.cu" ]; then
  spawn nice -n 10 make -C "$LLMC_DIR" train_gpt2cu >"$logs/llmc_build.log" 2>&1 </dev/null
  llmc_job=$child
fi

failed=()
for ((at = 0; at < ${#selected[@]}; ++at)); do
  s=${selected[at]}
  if [ -n "$going_on" ] && [ "$s" != build ] && passed_before "$s"; then
    echo "=== $s: passed in an earlier call"
    continue
  fi
  problems=() notes=() partial='' started=$SECONDS
  reserved=0  # for the later stages
  for later in "${selected[@]:at+1}"; do
    [ -n "$going_on" ] && passed_before "$later" || reserved=$((reserved + kept[$later]))
  done
  [ "$s" != build ] || reserved=0  # without it nothing runs
  stage_end=$((SECONDS + kept[$s] > end - reserved ? SECONDS + kept[$s] : end - reserved))
  echo "=== $s: ${about[$s]}"
  if [ -z "$built" ]; then
    note "skipped: the build failed"
  elif [ $((end - SECONDS)) -lt "${least[$s]}" ]; then
    note "skipped: $((end - SECONDS)) s are left, and it takes at least ${least[$s]}"
  else
    "stage_$s"
  fi
  why=$(IFS=';' && echo "${problems[*]} ${notes[*]}" | sed 's/^ *//; s/ *$//; s/[|,"]/ /g')
  status=passed
  [ -z "$partial" ] || status=partial
  [[ ${notes[*]} != skipped:* ]] || status=skipped
  [ ${#problems[@]} -eq 0 ] || status=failed failed+=("$s")
  echo "$s: $status after $((SECONDS - started)) s"
  if have stages "\"stage\": \"$s\","; then
    grep -v "\"stage\": \"$s\"," "$rows/stages.jsonl" >"$rows/stages.new"
    mv "$rows/stages.new" "$rows/stages.jsonl"
  fi
  echo "{\"stage\": \"$s\", \"status\": \"$status\", \"seconds\": $((SECONDS - started)), \"commit\": $(text "$commit"), \"why\": $(text "$why")}" \
    >>"$rows/stages.jsonl"
  write_all
done
echo
cat "$out/table.md"
[ ${#failed[@]} -eq 0 ] || { echo "FAILED: ${failed[*]}"; exit 1; }
