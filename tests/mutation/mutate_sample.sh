#!/usr/bin/env bash
# A sample of dev/mutation/mutate's faults, in two of the kernel files: each must be detected by a test, or be explained
# in dev/mutation/survivors.txt. The text of the kernels selects the sample: the same for the same kernels, another when
# one changes.
#   tests/mutation/mutate_sample.sh BUILD_FOLDER
set -euo pipefail
build=${1:?usage: tests/mutation/mutate_sample.sh BUILD_FOLDER}
command -v python3 >/dev/null || { echo "skipped: dev/mutation/mutate needs python3"; exit 77; }
cd "$(dirname "$0")/../.."
exec dev/mutation/mutate --sample 40 --sample-files 2 --seed "$(cat kernels/*.cuh | cksum | cut -d' ' -f1)" --bar 100 --jobs 1 \
  --build "$(realpath "$build")"
