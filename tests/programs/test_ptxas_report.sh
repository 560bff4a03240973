# dev/gpu/ptxas_report.sh: it must fail on what it is meant to find, planted in its own small tree.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
command -v nvcc >/dev/null || [ -x "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" ] || { echo "skipped: no nvcc here"; exit 77; }
mkdir -p tree/{dev/gpu,kernels,llm/models,tests/helpers,tests/kernels}
cp "$SOURCE"/dev/gpu/{ptxas_report,list_kernels}.sh tree/dev/gpu/
touch tree/tests/helpers/device.h tree/tests/kernels/test_none.cu

# tree BODY: one kernel, called by llm/models/gpu_model.cu. wgmma adds to d; done() waits for it.
tree() {
  cat >tree/kernels/planted.cuh <<END
#include <cstdint>
__device__ inline void wgmma(float (&d)[4], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
}
__device__ inline void begin() { asm volatile("wgmma.fence.sync.aligned;"); }
__device__ inline void done() {
  asm volatile("wgmma.commit_group.sync.aligned;");
  asm volatile("wgmma.wait_group.sync.aligned 0;");
}
template <class T>
__global__ void planted_kernel(T* out, uint64_t a, uint64_t b, int n) {
  T d[4] = {};
  $1
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = d[i];
}
END
  printf '#include "kernels/planted.cuh"\n' >tree/llm/models/gpu_model.cu
  printf 'template __global__ void planted_kernel<float>(float*, uint64_t, uint64_t, int);\n' >>tree/llm/models/gpu_model.cu
}
report() { tree/dev/gpu/ptxas_report.sh "$@"; }

# ---- nothing to find: registers, shared memory ----------------------------------------------------------------------------
tree 'begin(); wgmma(d, a, b); wgmma(d, a + 2, b + 2); done();'
expect_ok report sm_90a
expect_output '^sm_90a +[1-9][0-9]* +0 +0 +0  planted_kernel<float>$'
[ "$(wc -l <out)" = 2 ] || { cat out; die "expected a table of one kernel"; }

# ---- what it must find ------------------------------------------------------------------------------------------------------
# d is needed between the products: ptxas makes each wait for the previous one, and prints that as "info".
tree 'begin(); for (int k = 0; k < 4; ++k) { wgmma(d, a + k, b + k); d[0] *= 2; } done();'
expect_error 1 'error: ptxas serialises wgmma or ignores setmaxnreg' report sm_90a
expect_output 'info .*\(C75[0-9][0-9]\).* wgmma.mma_async instructions are serialized .*planted_kernel<float>'
# An index known only at run time: the array is in local memory.
tree 'T m[64] = {}; for (int i = 0; i < n; ++i) m[i * i & 63] += i; d[0] = m[n & 63];'
expect_error 1 'error: these kernels spill registers or use local memory' report sm_80
expect_output '^sm_80 .* planted_kernel<float>$'
tree 'int unused; d[0] = n;'
expect_error 1 'error: nvcc warns' report sm_80
tree 'd[0] = nowhere;'
expect_error 1 'error: llm/models/gpu_model.cu does not compile for sm_80' report sm_80
tree 'd[0] = n;'
echo 'template <class T> __global__ void forgotten_kernel(T* out) { *out = 1; }' >>tree/kernels/planted.cuh
expect_error 1 'error: kernel forgotten_kernel is in kernels/ but nothing compiles it' report sm_80
expect_error 2 'keep needs a folder' report --keep

# ---- the tests that are compiled: those with their own kernels, and those with a kernel that the model lacks --------
tree 'd[0] = n;'
printf '#include "kernels/planted.cuh"\nvoid test() { planted_kernel<double><<<1, 1>>>(nullptr, 0, 0, 0); }\n' >tree/tests/kernels/test_planted.cu
echo '__global__ void own_test_kernel(int* out) { *out = 1; }' >tree/tests/kernels/test_own.cu
expect_ok report --keep kept sm_80 sm_90a
expected=$(echo {gpu_model,test_own}.sm_{80,90a}.{cubin,log})
[ "$(echo $(ls kept))" = "$expected" ] || die "kept: $(ls kept)"
expect_output '^sm_90a .* own_test_kernel$'
echo 'template <class T> __global__ void other_kernel(T* out) { *out = 1; }' >tree/kernels/other.cuh
printf '#include "kernels/other.cuh"\nvoid test() { other_kernel<float><<<1, 1>>>(nullptr); }\n' >tree/tests/kernels/test_other.cu
expect_ok report sm_80
expect_output '^sm_80 .* other_kernel<float>$'
grep -q 'planted_kernel<double>' out && die "a test is compiled although the model has all its kernels"

# ---- --keep: compiled again only after a change ---------------------------------------------------------------------
times() { (cd kept && stat -c '%n %y' ./*.cubin | grep "$1"); }
expect_ok report --keep kept sm_80
times . >before
cp out first
expect_ok report --keep kept sm_80
diff <(times .) before || die "compiled again without a change"
diff first out || die "a different report of the same kernels"
sleep 0.1
echo >>tree/tests/kernels/test_own.cu
expect_ok report --keep kept sm_80
diff <(times 'test_own.sm_80') <(grep 'test_own.sm_80' before) >/dev/null && die "a source changed, but its old cubin was kept"
diff <(times 'gpu_model.sm_80') <(grep 'model.sm_80' before) || die "compiled again without a change"
touch tree/kernels/other.cuh
expect_ok report --keep kept sm_80
diff <(times 'gpu_model.sm_80') <(grep 'model.sm_80' before) >/dev/null && die "a header changed, but the old cubin was kept"
exit 0
