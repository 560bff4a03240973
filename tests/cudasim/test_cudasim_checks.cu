// The checks of instrumented code (dev/cudasim/check.cpp): planted faults, at least two of each kind, each reported
// with the lines involved; next to each, correct code that must not be reported.
#include "tests/helpers/cudasim_checks.h"

namespace {

std::string at(int line) { return "tests/cudasim/test_cudasim_checks.cu:" + std::to_string(line); }

// Kernels take a flag: `faulty` makes them wrong. A constant next to each kernel holds the line of the fault.

// ---- races within a warp -------------------------------------------------------------------------------------------

constexpr int kWarpWrite = __LINE__ + 4, kWarpRead = __LINE__ + 6;
__global__ void warp_exchange_kernel(float* out, bool faulty) {
  __shared__ float values[32];
  values[threadIdx.x] = 0;
  __syncthreads(), values[31 - threadIdx.x] = 1;
  if (!faulty) __syncwarp();
  out[threadIdx.x] = values[threadIdx.x];
}

constexpr int kPairWrite = __LINE__ + 4;
__global__ void warp_pairs_kernel(float* out, bool faulty) {
  __shared__ float values[16];
  // Both of two neighbouring lanes write the pair's place.
  if (faulty || threadIdx.x % 2 == 0) values[threadIdx.x / 2] = 2;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x / 2];
}

// ---- races within a block ------------------------------------------------------------------------------------------

constexpr int kReverseWrite = __LINE__ + 5, kReverseRead = __LINE__ + 7;
__global__ void block_reverse_kernel(float* out, bool faulty) {
  float* values = dynamic_shared<float>();
  values[threadIdx.x] = 0;
  __syncthreads();
  values[threadIdx.x] = 1;
  if (!faulty) __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}

constexpr int kScratchWrite = __LINE__ + 5, kScratchRead = __LINE__ + 3;
__global__ void block_global_kernel(float* inout, bool faulty) {
  for (int step = 0; step < 3; ++step) {
    const float next = inout[(threadIdx.x + 32) % blockDim.x];
    if (!faulty) __syncthreads();
    inout[threadIdx.x] = next, __syncthreads();
  }
}
static_assert(kScratchWrite > kScratchRead);

// ---- races between blocks ------------------------------------------------------------------------------------------

constexpr int kTotalLine = __LINE__ + 6;
__global__ void blocks_total_kernel(int* total, bool faulty) {
  if (threadIdx.x > 0) return;
  if (!faulty)
    atomicAdd(total, 1);
  else
    *total = *total + 1;
}

constexpr int kHaloWrite = __LINE__ + 4, kHaloRead = __LINE__ + 5;
__global__ void blocks_halo_kernel(float* inout, const float* before, bool faulty) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  // Reads a neighbour's value, which that block may have written already.
  inout[i] = 3;
  const float left = (faulty ? inout : before)[i > 0 ? i - 1 : 0];
  if (left < 0) inout[i] = left;
}

// ---- uninitialised reads -------------------------------------------------------------------------------------------

constexpr int kUnwrittenShared = __LINE__ + 5;
__global__ void unwritten_shared_kernel(float* out, bool faulty) {
  __shared__ float values[64];
  if (!faulty || threadIdx.x < 32) values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

constexpr int kUnwrittenGlobal = __LINE__ + 1;
__global__ void add_kernel(float* out, const float* inp) { out[threadIdx.x] = inp[threadIdx.x] + 1; }

// ---- out of bounds -------------------------------------------------------------------------------------------------

constexpr int kBeyond = __LINE__ + 3;
__global__ void shift_kernel(float* out, const float* inp, int n, bool faulty) {
  const int i = threadIdx.x;
  if (i < n) out[i] = inp[i + (faulty ? 1 : 0)];
}

constexpr int kBeyondVector = __LINE__ + 4;
__global__ void copy_vectors_kernel(float* out, const float* inp, int n, bool faulty) {
  const int i = threadIdx.x * 4;
  if (faulty ? i >= n : i + 4 > n) return;
  *reinterpret_cast<float4*>(out + i) = *reinterpret_cast<const float4*>(inp + i);
}

constexpr int kBeyondArray = __LINE__ + 4;
__global__ void transpose_kernel(float* out, bool faulty) {
  __shared__ float tile[8][8], other[8][8];
  const int row = threadIdx.x / 8, column = threadIdx.x % 8;
  tile[row][column + (faulty ? 1 : 0)] = static_cast<float>(threadIdx.x);
  other[row][column] = 0;
  __syncthreads();
  out[threadIdx.x] = faulty ? 0 : tile[column][row] + other[row][column];
}

constexpr int kBeyondDynamic = __LINE__ + 3;
__global__ void dynamic_kernel(float* out, bool faulty) {
  float* values = dynamic_shared<float>();
  values[threadIdx.x + (faulty ? 1 : 0)] = 1;
  out[threadIdx.x] = 1;
}

// ---- misaligned accesses -------------------------------------------------------------------------------------------

constexpr int kMisalignedRead = __LINE__ + 2;
__global__ void load_vectors_kernel(float* out, const float* inp) {
  const float4 four = *reinterpret_cast<const float4*>(inp + 4 * threadIdx.x);
  out[threadIdx.x] = four.x + four.w;
}

constexpr int kMisalignedShared = __LINE__ + 3;
__global__ void store_pairs_kernel(float* out, bool faulty) {
  __shared__ __align__(16) float values[68];
  *reinterpret_cast<float2*>(values + 2 * threadIdx.x + (faulty ? 1 : 0)) = make_float2(1, 2);
  __syncthreads();
  out[threadIdx.x] = values[2 * threadIdx.x + (faulty ? 1 : 0)];
}

// ---- barriers ------------------------------------------------------------------------------------------------------

constexpr int kDivergentFirst = __LINE__ + 3, kDivergentSecond = __LINE__ + 5;
__global__ void two_barriers_kernel(float* out, bool faulty) {
  if (!faulty || threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

constexpr int kMissedBarrier = __LINE__ + 4, kMissedWarp = __LINE__ + 6;
__global__ void missed_barrier_kernel(float* out, bool faulty) {
  out[threadIdx.x] = 1;
  // One lane waits for the block, its neighbours wait for their warp.
  if (faulty && threadIdx.x == 5) __syncthreads();
  float sum = 1;
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  out[threadIdx.x] = sum;
}

// ---- shuffles ------------------------------------------------------------------------------------------------------

constexpr int kHalfLine = __LINE__ + 4;
__global__ void half_warp_kernel(float* out, bool faulty) {
  out[threadIdx.x] = 0;
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_xor_sync(faulty ? 0xffffffffu : 0xffffu, 1.0f, 1);
}

constexpr int kNotNamedLine = __LINE__ + 2;
__global__ void not_named_kernel(float* out, bool faulty) {
  out[threadIdx.x] = __shfl_sync(faulty ? 0x7fffffffu : 0xffffffffu, 1.0f, 0);
}

constexpr int kNoPartLine = __LINE__ + 3;
__global__ void no_part_kernel(float* out, bool faulty) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_down_sync(0xffffu, 1.0f, faulty ? 8 : 0, 32);
}

// ---- pointers ------------------------------------------------------------------------------------------------------

struct Sizes {
  const int* counts;
};
constexpr int kHostRead = __LINE__ + 2;
__global__ void host_pointer_kernel(float* out, Sizes sizes) {
  out[threadIdx.x] = static_cast<float>(sizes.counts[threadIdx.x]);
}

constexpr int kHostWrite = __LINE__ + 1;
__global__ void set_kernel(float* out) { out[threadIdx.x] = 1; }

// ---- asynchronous copies -------------------------------------------------------------------------------------------

constexpr int kAsyncRead = __LINE__ + 7;
__global__ void async_kernel(float* out, const float* inp, bool faulty) {
  float* values = dynamic_shared<float>();
  cudasim::async_copy(values + 4 * threadIdx.x, inp + 4 * threadIdx.x, 16, 16);
  cudasim::async_commit();
  if (!faulty) cudasim::async_wait(0);
  __syncthreads();
  out[threadIdx.x] = values[(4 * threadIdx.x + 4) % (4 * blockDim.x)];
}

// ---- programmatic launches -----------------------------------------------------------------------------------------

constexpr int kEarlyRead = __LINE__ + 3, kEarlyWrite = __LINE__ + 4;
__global__ void early_kernel(float* out, const float* inp, bool reads, bool writes) {
  float early = 0;
  if (reads) early = inp[threadIdx.x];
  if (writes) out[threadIdx.x] = 5;
  wait_for_earlier_kernels();
  out[threadIdx.x] = early + inp[threadIdx.x];
}

constexpr int kEarlyCopy = __LINE__ + 3;
__global__ void early_copy_kernel(float* out, const float* inp, bool faulty) {
  if (!faulty) wait_for_earlier_kernels();
  cudasim::async_copy(dynamic_shared<float>() + 4 * threadIdx.x, inp + 4 * threadIdx.x, 16, 16);
  if (faulty) wait_for_earlier_kernels();
  cudasim::async_commit();
  cudasim::async_wait(0);
  __syncthreads();
  out[threadIdx.x] = dynamic_shared<float>()[threadIdx.x];
}

__global__ void early_shared_kernel(float* out) {
  __shared__ float values[32];
  values[threadIdx.x] = 1;
  wait_for_earlier_kernels();
  __syncthreads();
  out[threadIdx.x] = values[31 - threadIdx.x];
}

void check_clean() { CHECK(cudaDeviceSynchronize() == cudaSuccess); }

}  // namespace

TEST_CASE("this program is instrumented") { REQUIRE(cudasim::instrumented()); }

TEST_CASE("races within a warp") {
  for_all_schedules([] {
    DeviceArray<float> out(32);
    launch(warp_exchange_kernel, 1, 32, 0, nullptr, out.data(), false);
    launch(warp_pairs_kernel, 1, 32, 0, nullptr, out.data(), false);
    check_clean();
    launch(warp_exchange_kernel, 1, 32, 0, nullptr, out.data(), true);
    check_report(cudaErrorLaunchFailure, {"race on shared memory in ", "warp_exchange_kernel", "variable values",
                                          at(kWarpWrite), at(kWarpRead), "without a __syncwarp between the two"});
  });
  DeviceArray<float> out(32);
  launch(warp_pairs_kernel, 1, 32, 0, nullptr, out.data(), true);
  check_report(cudaErrorLaunchFailure,
               {"race on shared memory in ", "lane 1) writes 4 bytes", "lane 0) writes there", at(kPairWrite)});
}

TEST_CASE("races within a block") {
  for_all_schedules([] {
    DeviceArray<float> out(128), inout(Floats(128, 1));
    launch(block_reverse_kernel, 2, 128, 128 * sizeof(float), nullptr, out.data(), false);
    check_report(cudaErrorLaunchFailure, {"race on global memory", "blocks of a launch run in any order"});
  });
  for_all_schedules([] {
    DeviceArray<float> out(128), inout(Floats(128, 1));
    launch(block_reverse_kernel, 1, 128, 128 * sizeof(float), nullptr, out.data(), false);
    launch(block_global_kernel, 1, 128, 0, nullptr, inout.data(), false);
    check_clean();
    launch(block_reverse_kernel, 1, 128, 128 * sizeof(float), nullptr, out.data(), true);
    check_report(cudaErrorLaunchFailure, {"race on shared memory", at(kReverseWrite), at(kReverseRead),
                                          "without a __syncthreads between the two"});
  });
  DeviceArray<float> inout(Floats(128, 1));
  launch(block_global_kernel, 1, 128, 0, nullptr, inout.data(), true);
  check_report(cudaErrorLaunchFailure, {"race on global memory", at(kScratchWrite), at(kScratchRead),
                                        "without a __syncthreads between the two", "of an allocation of 512 bytes"});
}

TEST_CASE("races between blocks") {
  DeviceArray<int> total(std::vector<int>{0});
  launch(blocks_total_kernel, 5, 64, 0, nullptr, total.data(), false);
  CHECK(total.host()[0] == 5);
  launch(blocks_total_kernel, 5, 64, 0, nullptr, total.data(), true);
  check_report(cudaErrorLaunchFailure,
               {"race on global memory", "block (1, 0, 0) of (5, 1, 1)", "block (0, 0, 0), thread", at(kTotalLine),
                "blocks of a launch run in any order"});
  for_all_schedules([] {
    DeviceArray<float> inout(Floats(128, 1)), before(Floats(128, 1));
    launch(blocks_halo_kernel, 2, 64, 0, nullptr, inout.data(), before.data(), false);
    launch(blocks_halo_kernel, 2, 64, 0, nullptr, inout.data(), before.data(), false);  // launches are ordered
    check_clean();
  });
  cudasim::set_schedule(cudasim::Schedule::reverse);
  DeviceArray<float> inout(Floats(128, 1));
  launch(blocks_halo_kernel, 128, 1, 0, nullptr, inout.data(), inout.data(), true);
  cudaDeviceSynchronize();
  cudasim::set_schedule(cudasim::Schedule::forward);
  check_report(cudaErrorLaunchFailure, {"race on global memory", at(kHaloWrite), at(kHaloRead)});
}

TEST_CASE("faults in a graph's launches") {
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto launched = [&](auto&& calls) {
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    calls();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph));
    CUDA_CHECK(cudaGraphLaunch(executable, stream));
  };
  DeviceArray<float> inout(Floats(128, 1)), before(Floats(128, 1)), fresh(128), out(128);
  const auto halo = [&](bool faulty) {
    launch(blocks_halo_kernel, 2, 64, 0, stream, inout.data(), before.data(), faulty);
  };
  launched([&] {
    halo(false);
    halo(false);  // the nodes of a graph are ordered
    CUDA_CHECK(cudaMemsetAsync(fresh.data(), 0, 64 * sizeof(float), stream));
    launch(add_kernel, 1, 64, 0, stream, out.data(), fresh.data());
  });
  check_clean();
  launched([&] { launch(add_kernel, 1, 128, 0, stream, out.data(), fresh.data()); });
  check_report(cudaErrorLaunchFailure, {"read of global memory that was not written", at(kUnwrittenGlobal)});
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));  // the reset has destroyed the other
  DeviceArray<float> again(Floats(128, 1)), unused(128);
  launched([&] { launch(blocks_halo_kernel, 128, 1, 0, stream, again.data(), unused.data(), true); });
  check_report(cudaErrorLaunchFailure, {"race on global memory", at(kHaloRead), "blocks of a launch run in any order"});
}

TEST_CASE("accesses to global memory before the wait for earlier kernels") {
  const auto run = [](auto kernel, size_t shared, auto... arguments) {
    programmatic_launches(true);
    launch(kernel, 1, 32, shared, nullptr, arguments...);
    programmatic_launches(false);
  };
  {
    const DeviceArray<float> out(32), inp(Floats(128, 1));
    run(early_kernel, 0, out.data(), inp.data(), false, false);
    run(early_copy_kernel, 512, out.data(), inp.data(), false);
    run(early_shared_kernel, 0, out.data());                                      // a block's own memory may be touched
    launch(early_kernel, 1, 32, 0, nullptr, out.data(), inp.data(), true, true);  // not a programmatic launch
    check_clean();
    run(early_kernel, 0, out.data(), inp.data(), true, false);
    check_report(cudaErrorLaunchFailure,
                 {"access to global memory before the wait for earlier kernels in ", "early_kernel",
                  "thread (0, 0, 0) (warp 0, lane 0) reads 4 bytes", at(kEarlyRead)});
  }
  {
    const DeviceArray<float> out(32), inp(Floats(128, 1));
    run(early_kernel, 0, out.data(), inp.data(), false, true);
    check_report(cudaErrorLaunchFailure, {"before the wait for earlier kernels", "writes 4 bytes", at(kEarlyWrite)});
  }
  const DeviceArray<float> out(32), inp(Floats(128, 1));
  run(early_copy_kernel, 512, out.data(), inp.data(), true);
  check_report(cudaErrorLaunchFailure, {"before the wait for earlier kernels", "reads 16 bytes", at(kEarlyCopy)});
}

TEST_CASE("uninitialised reads") {
  DeviceArray<float> out(64), inp(Floats(64, 1)), unwritten(64);
  launch(unwritten_shared_kernel, 1, 64, 0, nullptr, out.data(), false);
  launch(add_kernel, 1, 64, 0, nullptr, out.data(), inp.data());
  launch(add_kernel, 1, 64, 0, nullptr, unwritten.data(), out.data());  // written by a kernel
  CUDA_CHECK(cudaMemcpyAsync(out.data(), unwritten.data(), 64 * sizeof(float), cudaMemcpyDeviceToDevice));
  launch(add_kernel, 1, 64, 0, nullptr, inp.data(), out.data());
  check_clean();
  launch(unwritten_shared_kernel, 1, 64, 0, nullptr, out.data(), true);
  check_report(cudaErrorLaunchFailure, {"read of shared memory that was not written", "thread (32, 0, 0)",
                                        "byte 128 of the shared variable values", at(kUnwrittenShared)});
  DeviceArray<float> result(64), fresh(64);
  CUDA_CHECK(cudaMemset(fresh.data(), 0, 40 * sizeof(float)));
  launch(add_kernel, 1, 64, 0, nullptr, result.data(), fresh.data());
  check_report(cudaErrorLaunchFailure, {"read of global memory that was not written", "thread (40, 0, 0)",
                                        "byte 160 of an allocation of 256 bytes made at", at(kUnwrittenGlobal)});
}

TEST_CASE("reads before an asynchronous copy has arrived") {
  DeviceArray<float> out(64), inp(Floats(256, 1));
  launch(async_kernel, 1, 64, 1024, nullptr, out.data(), inp.data(), false);
  check_clean();
  launch(async_kernel, 1, 64, 1024, nullptr, out.data(), inp.data(), true);
  check_report(cudaErrorLaunchFailure,
               {"read of shared memory that was not written", "dynamic shared memory", at(kAsyncRead)});
}

TEST_CASE("accesses outside of allocations, by one byte and into another tensor's red zone") {
  {
    DeviceArray<float> out(70), inp(Floats(70, 1));
    launch(shift_kernel, 1, 128, 0, nullptr, out.data(), inp.data(), 70, false);
    launch(copy_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data(), 70, false);
    check_clean();
    launch(shift_kernel, 1, 128, 0, nullptr, out.data(), inp.data(), 70, true);
    check_report(cudaErrorIllegalAddress, {"access outside of allocations", "thread (69, 0, 0)", "reads 4 bytes",
                                           "0 bytes past the end of an allocation of 280 bytes", at(kBeyond)});
  }
  DeviceArray<float> out(70), inp(Floats(70, 1));
  launch(copy_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data(), 70, true);
  check_report(cudaErrorIllegalAddress, {"access outside of allocations", "thread (17, 0, 0)", "16 bytes",
                                         "0 bytes past the end of an allocation", at(kBeyondVector)});
}

TEST_CASE("accesses outside of shared memory") {
  {
    DeviceArray<float> out(64);
    launch(transpose_kernel, 1, 64, 0, nullptr, out.data(), false);
    launch(dynamic_kernel, 1, 64, 256, nullptr, out.data(), false);
    check_clean();
    launch(transpose_kernel, 1, 64, 0, nullptr, out.data(), true);
    check_report(cudaErrorIllegalAddress, {"index outside of an array", "takes element 8", at(kBeyondArray)});
  }
  DeviceArray<float> out(64);
  launch(dynamic_kernel, 1, 64, 256, nullptr, out.data(), true);
  check_report(cudaErrorIllegalAddress,
               {"access beyond dynamic shared memory", "thread (63, 0, 0)", "byte 256 of 256", at(kBeyondDynamic)});
}

TEST_CASE("misaligned vector accesses") {
  {
    DeviceArray<float> out(32), inp(Floats(132, 1));
    launch(load_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data());
    launch(store_pairs_kernel, 1, 32, 0, nullptr, out.data(), false);
    check_clean();
    launch(load_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data() + 2);
    check_report(cudaErrorMisalignedAddress,
                 {"access to a misaligned address", "reads 16 bytes", "a multiple of 16", at(kMisalignedRead)});
  }
  DeviceArray<float> out(32);
  launch(store_pairs_kernel, 1, 32, 0, nullptr, out.data(), true);
  check_report(cudaErrorMisalignedAddress,
               {"access to a misaligned address", "writes 8 bytes", "a multiple of 8", at(kMisalignedShared)});
}

TEST_CASE("divergent and missing barriers") {
  {
    DeviceArray<float> out(64);
    launch(two_barriers_kernel, 1, 64, 0, nullptr, out.data(), false);
    launch(missed_barrier_kernel, 1, 32, 0, nullptr, out.data(), false);
    check_clean();
    launch(two_barriers_kernel, 1, 64, 0, nullptr, out.data(), true);
    check_report(cudaErrorLaunchFailure, {"divergent barrier", at(kDivergentFirst), at(kDivergentSecond)});
  }
  DeviceArray<float> out(32);
  launch(missed_barrier_kernel, 1, 32, 0, nullptr, out.data(), true);
  check_report(cudaErrorLaunchFailure,
               {"deadlock", "lane 5: wait at __syncthreads", at(kMissedBarrier), at(kMissedWarp)});
}

TEST_CASE("shuffles with a wrong mask") {
  {
    DeviceArray<float> out(32);
    launch(half_warp_kernel, 1, 32, 0, nullptr, out.data(), false);
    launch(not_named_kernel, 1, 32, 0, nullptr, out.data(), false);
    launch(no_part_kernel, 1, 32, 0, nullptr, out.data(), false);
    check_clean();
    launch(half_warp_kernel, 1, 32, 0, nullptr, out.data(), true);
    check_report(cudaErrorLaunchFailure, {"deadlock", "lanes 0-15: wait at __shfl_xor_sync (mask 0xffffffff)",
                                          "lanes 16-31: ended", at(kHalfLine)});
  }
  {
    DeviceArray<float> out(32);
    launch(not_named_kernel, 1, 32, 0, nullptr, out.data(), true);
    check_report(cudaErrorLaunchFailure, {"a mask that does not name the caller", "lane 31", at(kNotNamedLine)});
  }
  DeviceArray<float> out(32);
  launch(no_part_kernel, 1, 32, 0, nullptr, out.data(), true);
  check_report(cudaErrorLaunchFailure,
               {"shuffle from a lane that takes no part", "lane 8 of warp 0 reads lane 16", at(kNoPartLine)});
}

TEST_CASE("uses of freed memory") {
  for (const bool write : {false, true}) {
    DeviceArray<float> out(64);
    float* freed = nullptr;
    CUDA_CHECK(cudaMalloc(&freed, 64 * sizeof(float)));
    const int made = __LINE__ - 1;
    CUDA_CHECK(cudaMemset(freed, 0, 64 * sizeof(float)));
    CUDA_CHECK(cudaFree(freed));
    const int free_line = __LINE__ - 1;
    if (write)
      launch(set_kernel, 1, 64, 0, nullptr, freed);
    else
      launch(add_kernel, 1, 64, 0, nullptr, out.data(), freed);
    check_report(cudaErrorIllegalAddress,
                 {"access outside of allocations", "thread (0, 0, 0)", write ? "writes 4 bytes" : "reads 4 bytes",
                  "made at " + at(made), "freed since at " + at(free_line), at(write ? kHostWrite : kUnwrittenGlobal)});
  }
}

TEST_CASE("host pointers in a kernel") {
  {
    DeviceArray<float> out(4);
    DeviceArray<int> counts(std::vector<int>{1, 2, 3, 4});
    launch(host_pointer_kernel, 1, 4, 0, nullptr, out.data(), Sizes{counts.data()});
    int* pinned = nullptr;
    CUDA_CHECK(cudaMallocHost(&pinned, 4 * sizeof(int)));
    for (int i = 0; i < 4; ++i) pinned[i] = i;
    launch(host_pointer_kernel, 1, 4, 0, nullptr, out.data(), Sizes{pinned});  // pinned memory, which a GPU can read
    CHECK(out.host()[3] == 3);
    CUDA_CHECK(cudaFreeHost(pinned));
    const std::vector<int> heap = {1, 2, 3, 4};
    launch(host_pointer_kernel, 1, 4, 0, nullptr, out.data(), Sizes{heap.data()});
    check_report(cudaErrorIllegalAddress,
                 {"access to the host's memory", "thread (0, 0, 0)", "reads 4 bytes", at(kHostRead)});
  }
  float on_the_stack[8] = {};
  launch(set_kernel, 1, 8, 0, nullptr, on_the_stack);
  check_report(cudaErrorIllegalAddress, {"access to the host's memory", "writes 4 bytes", at(kHostWrite)});
}

TEST_CASE("without checks a fault is not reported") {
  cudasim::set_checks(false);
  DeviceArray<float> out(64), unwritten(64);
  launch(add_kernel, 1, 64, 0, nullptr, out.data(), unwritten.data());
  check_clean();
  cudasim::set_checks(true);
}
