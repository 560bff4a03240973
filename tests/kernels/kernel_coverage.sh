#!/usr/bin/env bash
# Checks that every __global__ function in kernels/ ran in the tests: the list is taken from the source, the kernels
# that ran from the files that cudasim writes.
#   tests/kernels/kernel_coverage.sh FOLDER_OF_LISTS
set -euo pipefail
cd "$(dirname "$0")/../.."
ran=${1:?usage: tests/kernels/kernel_coverage.sh FOLDER_OF_LISTS}

uncovered() { # uncovered SOURCE_FOLDER: prints the kernels that did not run
  comm -23 <(dev/gpu/list_kernels.sh "$1") <(sed 's/.*:://' "$ran"/*.txt | sort -u)
}
missing=$(uncovered kernels)
if [ -n "$missing" ]; then
  echo "error: no test runs these kernels; add them to the tests/kernels/test_X.cu of their file:" >&2
  echo "$missing" >&2
  exit 1
fi

# The check itself: a kernel without a test must be found.
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
cp kernels/*.cuh "$probe"
printf 'template <class floatX>\n__global__ void __launch_bounds__(256)\n    never_tested_kernel(floatX* out) {}\n' > "$probe/new.cuh"
if [ "$(uncovered "$probe")" != never_tested_kernel ]; then
  echo "error: a kernel without a test is not detected" >&2
  exit 1
fi
echo "all $(dev/gpu/list_kernels.sh kernels | wc -l) kernels ran"
