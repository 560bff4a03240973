#!/usr/bin/env bash
# The tests that take hours, beyond `make test-all`.
#   dev/test_deep.sh [STAGE...]     default: all, in this order; `make test-deep` is the same
#     kernels     tests of the kernels and the GPU model at all sizes under ten schedules; instrumented, too
#     mutation    every fault of every kernel file (dev/mutation/mutate --all)
#     quick       the same with only what `make test` runs: both scores, and the faults that only larger sets see
#     kills       training killed at 20 moments
#     sanitizers  every test under AddressSanitizer and UndefinedBehaviorSanitizer
#     damage      500 damaged files for each reader, under both
# Logs and tables are in $BUILD/deep (build/deep). Exit code 1 if a stage fails.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build} jobs=${JOBS:-$(nproc)}
stages=(kernels mutation quick kills sanitizers damage)
case "${1:-}" in -h | --help) sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; exit ;; esac
for stage in "$@"; do
  [[ " ${stages[*]} " == *" $stage "* ]] || { echo "error: '$stage' is not a stage; there are: ${stages[*]}" >&2; exit 2; }
done
[ $# -eq 0 ] || stages=("$@")
mkdir -p "$build/deep"
export OMP_WAIT_POLICY=passive

configure() { # configure FOLDER FLAGS...
  local to=$1
  shift
  cmake -S . -B "$to" "$@" && cmake --build "$to" -j "$jobs"
}
stage_kernels() {
  local program code=0
  configure "$build"
  for program in test_sim test_cudasim_cublaslt test_checked; do
    # cudasim's own tests run one file to a process (ctest): NCCL's depend on what the process has read before.
    OMP_NUM_THREADS=1 WROUGHT_TEST_SET=deep "$build/$program" --source-file='*/kernels/*,*/models/*,*_cublaslt*' || code=1
  done
  return $code
}
stage_mutation() { configure "$build" && dev/mutation/mutate --all --build "$build" --jobs "$jobs"; }
stage_quick() { configure "$build" && dev/mutation/mutate --all --quick --build "$build" --jobs "$jobs"; }
stage_kills() {
  configure "$build" && KILLS=20 BUILD=$(realpath "$build") SOURCE=$PWD bash tests/programs/test_kill_moments.sh
}
sanitize() { configure "$build-sanitize" -DWROUGHT_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo; }
stage_sanitizers() { sanitize && ctest --test-dir "$build-sanitize" -j "$jobs" --output-on-failure; }
stage_damage() { sanitize && "$build-sanitize/fuzz_readers" 500; }

failed=()
for stage in "${stages[@]}"; do
  begin=$SECONDS
  echo "$stage: its log is $build/deep/$stage.log"
  if (set -e; "stage_$stage") >"$build/deep/$stage.log" 2>&1 </dev/null; then
    result=passed
  else
    result=FAILED
    failed+=("$stage")
    tail -n 20 "$build/deep/$stage.log"
  fi
  echo "$stage: $result after $((SECONDS - begin)) s"
done
[ ${#failed[@]} -eq 0 ] || { echo "error: ${failed[*]} failed" >&2; exit 1; }
