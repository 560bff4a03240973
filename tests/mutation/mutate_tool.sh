#!/usr/bin/env bash
# dev/mutation/mutate itself: for a kernel whose test is too weak it must name a survivor and exit with 1; with the
# survivor explained, with 0.
#   tests/mutation/mutate_tool.sh BUILD_FOLDER
set -euo pipefail
build=$(cd "${1:?usage: tests/mutation/mutate_tool.sh BUILD_FOLDER}" && pwd)
command -v python3 >/dev/null || { echo "skipped: dev/mutation/mutate needs python3"; exit 77; }
mutate=$(cd "$(dirname "$0")/../.." && pwd)/dev/mutation/mutate
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() {
  echo "error: $1" >&2
  cat "$root/log" >&2
  exit 1
}
run() { # run EXIT_CODE ARGUMENTS...
  local expected=$1 code=0
  shift
  "$mutate" --root "$root" --build "$build" --jobs 2 "$@" > "$root/log" 2>&1 || code=$?
  [ $code -eq "$expected" ] || fail "dev/mutation/mutate $*: exit code $code, expected $expected"
}

mkdir -p "$root/kernels" "$root/tests/kernels" "$root/dev/mutation"
cat > "$root/kernels/tiny.cuh" <<'CUDA'
// out = inp + inp of the next thread, times 3.
#pragma once
#include "kernels/common.cuh"

template <class floatX>
__global__ void tiny_kernel(floatX* out, const floatX* inp, int N) {
  wait_for_earlier_kernels();
  const int copies = 1 + 1;  // an extent must be constant: a fault here does not compile
  __shared__ float shared[64];
  float mine[copies];
  const int i = threadIdx.x;
  mine[0] = i < N ? inp[i] : 0;
  mine[1] = 3;
  shared[i] = mine[0];
  __syncthreads();
  if (i >= N) return;
  out[i] = (mine[0] + shared[(i + 1) % blockDim.x]) * mine[1];
}
CUDA
# Weak: N is the block's size, so no thread is beyond N.
cat > "$root/tests/kernels/test_tiny.cu" <<'CUDA'
#include "kernels/tiny.cuh"
#include "tests/helpers/device.h"

TEST_CASE("tiny") {
  const Floats inp = random_tensor<float>(64, 1);
  const DeviceArray<float> from(inp), to(64);
  launch(tiny_kernel<float>, 1, 64, 0, nullptr, to.data(), from.data(), 64);
  const Floats out = to.host();
  for (int i = 0; i < 64; ++i) CHECK(out[i] == (inp[i] + inp[(i + 1) % 64]) * 3);
}
CUDA

run 1 kernels/tiny.cuh
grep -q "SURVIVED kernels/tiny.cuh:16: tiny_kernel: if (i >= N) return;" "$root/log" || fail "the guard that the tests do not need is not named"
grep -q "guard: i >= N -> false" "$root/log" || fail "the survivor does not say what was changed"
grep -q "1 faults do not compile" "$root/log" || fail "the fault that does not compile is not counted"
if grep -q "SURVIVED.*__syncthreads" "$root/log"; then fail "the deleted barrier was not caught"; fi

# With each survivor explained, nothing is reported.
sed -n '/^SURVIVED/{s/^SURVIVED \([^:]*\):[0-9]*: \([^:]*\): \(.*\)/\1 ## \2 ## \3/;N;s/\n  */ ## /;s/$/ ## as many threads as elements/;p}' \
  "$root/log" > "$root/dev/mutation/survivors.txt"
run 0 --again kernels/tiny.cuh
grep -q "100.0 % |  " "$root/log" || fail "explained survivors are not counted as such"

# Errors: a test that fails without a fault, a malformed explanation, and wrong usage.
sed -i 's/\* 3);/* 4);/' "$root/tests/kernels/test_tiny.cu"
run 1 kernels/tiny.cuh
grep -q "test_tiny_sim fails as it is" "$root/log" || fail "a test that fails without a fault is not reported"
echo "kernels/tiny.cuh ## only that" > "$root/dev/mutation/survivors.txt"
run 1 kernels/tiny.cuh
grep -q "survivors.txt:1: expected" "$root/log" || fail "a malformed explanation is not reported"
run 2 kernels/none.cuh
run 2 --sample 0
run 2
echo "dev/mutation/mutate names what a weak test misses"
