// The counts of instrumented code (dev/cudasim/count.cpp), compared with numbers worked out by hand.
#include "kernels/ptx.cuh"
#include "tests/helpers/cudasim_checks.h"

namespace {

// out[i] = inp[i], in four ways.
__global__ void copy_kernel(float* out, const float* inp, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = inp[i];
}
__global__ void copy_vectors_kernel(float* out, const float* inp) {
  const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  const float4 four = *reinterpret_cast<const float4*>(inp + i);
  *reinterpret_cast<float4*>(out + i) = make_float4(four.x, four.y, four.z, four.w);
}
__global__ void copy_strided_kernel(float* out, const float* inp, int n) {  // each thread copies a run of n
  for (int k = 0; k < n; ++k) out[threadIdx.x * n + k] = inp[threadIdx.x * n + k];
}
__global__ void copy_bf16_kernel(bf16* out, const bf16* inp) { out[threadIdx.x] = inp[threadIdx.x]; }

// Each lane's words of shared memory are `stride` words apart.
template <class Word>
__global__ void stride_kernel(float* out, int stride) {
  Word* words = dynamic_shared<Word>();
  words[threadIdx.x * stride] = Word{};
  __syncthreads();
  out[threadIdx.x] = *reinterpret_cast<const float*>(words + threadIdx.x * stride);
}

__global__ void broadcast_kernel(float* out, const float* inp) {
  __shared__ float value;
  if (threadIdx.x == 0) value = inp[0];
  __syncthreads();
  out[threadIdx.x] = value;
}

// Lanes run this loop a different number of times, then all reach the same instruction again.
__global__ void divergent_kernel(float* out, const float* inp) {
  float sum = 0;
  for (unsigned k = 0; k < threadIdx.x % 4; ++k) sum += inp[32 * k + threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = sum;
}

__global__ void collectives_kernel(float* out, int* total) {
  float x = 1;
  for (int bit = 16; bit > 0; bit /= 2) x += __shfl_xor_sync(0xffffffffu, x, bit);
  if (threadIdx.x < 32) x += __shfl_sync(0xffffffffu, x, 0);
  if (threadIdx.x % 32 == 0) atomicAdd(total, 1);
  __syncthreads();
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

__global__ void twice_kernel(float* out, const float* inp, int n) {
  float sum = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += inp[i];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// 16 bytes per lane, at places in shared memory `stride` times 16 bytes apart.
__global__ void async_kernel(const float* inp, int stride) {
  cp_async<16>(dynamic_shared<float>() + threadIdx.x * stride * 4, inp + threadIdx.x * 4, 16);
  cp_async_commit();
  cp_async_wait<0>();
}

template <class Launch>
cudasim::KernelCounts count(Launch&& launch_kernels, size_t cache_bytes = 1 << 20) {
  cudasim::start_counting(cache_bytes);
  launch_kernels();
  const auto counts = cudasim::stop_counting();
  REQUIRE(counts.size() == 1);
  return counts[0];
}

}  // namespace

TEST_CASE("neighbouring lanes access neighbouring words") {
  DeviceArray<float> out(1000), inp(Floats(1000, 1));
  const auto c = count([&] { launch(copy_kernel, 4, 256, 0, nullptr, out.data(), inp.data(), 1000); });
  CHECK(c.name == "(anonymous namespace)::copy_kernel");
  CHECK(c.launches == 1);
  CHECK(c.blocks == 4);
  CHECK(c.warps == 32);
  CHECK(c.read_requests == 32);
  CHECK(c.write_requests == 32);
  CHECK(c.read_bytes == 4000);
  CHECK(c.write_bytes == 4000);
  CHECK(c.sectors == 250);
  CHECK(c.least_sectors == 250);
  CHECK(c.dram_read_bytes == 4000);
  CHECK(c.dram_write_bytes == 4000);
  CHECK(c.distinct_read_bytes == 4000);
  CHECK(c.distinct_write_bytes == 4000);
  CHECK(c.requests == 64);
  CHECK(c.partial_requests == 2);  // the last warp has 8 elements
  REQUIRE(c.lines.size() == 1);
  CHECK(c.lines[0].place == "tests/cudasim/test_cudasim_counts.cu:10");
  CHECK(c.lines[0].requests == 64);
  CHECK(c.lines[0].bytes == 8000);
}

TEST_CASE("four words per lane need a quarter of the requests and the same sectors") {
  DeviceArray<float> out(1024), inp(Floats(1024, 1));
  const auto c = count([&] { launch(copy_vectors_kernel, 2, 128, 0, nullptr, out.data(), inp.data()); });
  CHECK(c.read_requests == 8);
  CHECK(c.write_requests == 8);
  CHECK(c.sectors == 256);
  CHECK(c.least_sectors == 256);
}

TEST_CASE("a run of words per lane needs a sector for each word, mostly from the cache") {
  DeviceArray<float> out(32 * 16), inp(Floats(32 * 16, 1));
  const auto run = [&] { launch(copy_strided_kernel, 1, 32, 0, nullptr, out.data(), inp.data(), 16); };
  const auto c = count(run);
  CHECK(c.read_requests == 16);
  CHECK(c.read_bytes == 2048);
  CHECK(c.sectors == 2 * 16 * 32);
  CHECK(c.least_sectors == 2 * 16 * 4);
  CHECK(c.dram_read_bytes == 2048);
  CHECK(c.dram_write_bytes == 2048);
  const auto small = count(run, 32 * 8);  // a cache of 8 sectors
  CHECK(small.dram_read_bytes == 16 * 32 * 32);
  CHECK(small.dram_write_bytes == 16 * 32 * 32);
}

TEST_CASE("a misaligned start costs a sector; a bf16 counts as two bytes") {
  DeviceArray<float> out(40), inp(Floats(40, 1));
  const auto c = count([&] { launch(copy_kernel, 1, 32, 0, nullptr, out.data() + 1, inp.data(), 32); });
  CHECK(c.sectors == 4 + 5);
  CHECK(c.least_sectors == 8);
  DeviceArray<bf16> out16(32), inp16(std::vector<bf16>(32, bf16(1.0f)));
  const auto c16 = count([&] { launch(copy_bf16_kernel, 1, 32, 0, nullptr, out16.data(), inp16.data()); });
  CHECK(c16.read_bytes == 64);
  CHECK(c16.sectors == 4);
}

TEST_CASE("bank conflicts by stride and word size") {
  DeviceArray<float> out(32);
  const auto conflicts = [&](auto kernel, size_t word, int stride) {
    const auto c =
        count([&] { launch(kernel, 1, 32, 32 * word * static_cast<size_t>(stride), nullptr, out.data(), stride); });
    CHECK(c.shared_requests == 2);
    return c.bank_conflicts();
  };
  CHECK(conflicts(stride_kernel<float>, 4, 1) == 0);
  CHECK(conflicts(stride_kernel<float>, 4, 2) == 2);  // two lanes per bank: one wavefront more, twice
  CHECK(conflicts(stride_kernel<float>, 4, 8) == 2 * 7);
  CHECK(conflicts(stride_kernel<float>, 4, 32) == 2 * 31);  // all in one bank
  CHECK(conflicts(stride_kernel<float>, 4, 33) == 0);
  CHECK(conflicts(stride_kernel<float4>, 16, 1) == 3);  // none by the writes; the reads have four lanes per bank
  CHECK(conflicts(stride_kernel<float4>, 16, 8) == 4 * 7 + 31);
}

TEST_CASE("one word for all lanes is one wavefront") {
  DeviceArray<float> out(64), inp(Floats(1, 1));
  const auto c = count([&] { launch(broadcast_kernel, 1, 64, 0, nullptr, out.data(), inp.data()); });
  CHECK(c.shared_requests == 3);
  CHECK(c.wavefronts == 3);
  CHECK(c.bank_conflicts() == 0);
  CHECK(c.barriers == 1);
  CHECK(c.partial_requests == 2);  // lane 0's read and write
}

TEST_CASE("cp.async reads global memory and writes shared memory, once each") {
  DeviceArray<float> inp(Floats(128, 1));
  for (const int stride : {1, 2}) {
    const auto c = count([&] { launch(async_kernel, 1, 32, 32 * 16 * stride, nullptr, inp.data(), stride); });
    CHECK(c.read_requests == 1);
    CHECK(c.write_requests == 0);
    CHECK(c.read_bytes == 512);
    CHECK(c.sectors == 16);
    CHECK(c.dram_read_bytes == 512);
    CHECK(c.dram_write_bytes == 0);
    CHECK(c.shared_requests == 1);
    CHECK(c.wavefronts == 4 * stride);  // 8 lanes at a time
    CHECK(c.least_wavefronts == 4);
  }
}

TEST_CASE("requests of diverged lanes are combined") {
  DeviceArray<float> out(32), inp(Floats(96, 1));
  const auto c = count([&] { launch(divergent_kernel, 1, 32, 0, nullptr, out.data(), inp.data()); });
  CHECK(c.read_requests == 3);  // 24, 16 and 8 lanes
  CHECK(c.read_bytes == 4 * (24 + 16 + 8));
  CHECK(c.write_requests == 1);
  CHECK(c.partial_requests == 3);
  CHECK(c.collectives.at("__syncwarp") == 1);
}

TEST_CASE("collectives, atomics, barriers") {
  DeviceArray<float> out(192);
  DeviceArray<int> total(std::vector<int>{0});
  const auto c = count([&] { launch(collectives_kernel, 3, 64, 0, nullptr, out.data(), total.data()); });
  CHECK(c.collectives.at("__shfl_xor_sync") == 3 * 2 * 5);
  CHECK(c.collectives.at("__shfl_sync") == 3);
  CHECK(c.barriers == 3);
  CHECK(c.atomics == 6);
  CHECK(total.host()[0] == 6);
}

TEST_CASE("memory that is read twice costs twice if the cache is too small") {
  DeviceArray<float> out(128), inp(Floats(4096, 1));
  const auto run = [&] { launch(twice_kernel, 1, 128, 0, nullptr, out.data(), inp.data(), 4096); };
  CHECK(count(run, 1 << 20).dram_read_bytes == 4 * 4096);
  CHECK(count(run, 1 << 13).dram_read_bytes == 2 * 4 * 4096);
  CHECK(count(run, 1 << 20).read_bytes == 2 * 4 * 4096);
  CHECK(count(run, 1 << 13).distinct_read_bytes == 4 * 4096);
}

TEST_CASE("launches are summed up per kernel name") {
  DeviceArray<float> out(1024), inp(Floats(1024, 1));
  cudasim::start_counting(1 << 20);
  for (int i = 0; i < 3; ++i) launch(copy_kernel, 1, 32, 0, nullptr, out.data(), inp.data(), 32);
  launch(copy_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data());
  const auto counts = cudasim::stop_counting();
  REQUIRE(counts.size() == 2);
  CHECK(counts[0].name == "(anonymous namespace)::copy_kernel");
  CHECK(counts[0].launches == 3);
  CHECK(counts[1].launches == 1);
  CHECK(cudasim::stop_counting().empty());
}

TEST_CASE("the cache keeps what one launch leaves for the next") {
  DeviceArray<float> out(1024), inp(Floats(1024, 1));
  const auto run = [&](size_t cache_bytes) {
    cudasim::start_counting(cache_bytes);
    for (int i = 0; i < 3; ++i) launch(copy_kernel, 4, 256, 0, nullptr, out.data(), inp.data(), 1024);
    launch(copy_vectors_kernel, 1, 32, 0, nullptr, out.data(), inp.data());  // the first 128
    return cudasim::stop_counting();
  };
  const auto counts = run(1 << 20);
  REQUIRE(counts.size() == 2);
  CHECK(counts[0].dram_read_bytes == 3 * 4096);  // empty when a launch begins
  CHECK(counts[0].dram_write_bytes == 3 * 4096);
  CHECK(counts[0].kept_dram_read_bytes == 4096);  // all of inp is there the second time
  CHECK(counts[0].kept_dram_write_bytes == 0);
  CHECK(counts[1].dram_read_bytes == 512);
  CHECK(counts[1].kept_dram_read_bytes == 0);
  CHECK(counts[1].kept_dram_write_bytes == 4096);  // of the last launch: out is written back once
  const auto small = run(1 << 10);                 // a cache too small to keep anything useful
  CHECK(small[0].kept_dram_read_bytes == 3 * 4096);
  CHECK(small[0].kept_dram_write_bytes + small[1].kept_dram_write_bytes == 3 * 4096 + 512);
}

TEST_CASE("a graph's launches are counted as direct launches are") {
  DeviceArray<float> out(1024), inp(Floats(1024, 1));
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto launches = [&] {
    launch(copy_kernel, 4, 256, 0, stream, out.data(), inp.data(), 1000);
    launch(copy_kernel, 1, 256, 0, stream, out.data(), inp.data(), 256);
  };
  const auto direct = count(launches);
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launches();
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  CUDA_CHECK(cudaGraphInstantiate(&executable, graph));
  const auto replayed = count([&] { CUDA_CHECK(cudaGraphLaunch(executable, stream)); });
  CHECK(direct.launches == 2);
  CHECK(replayed.name == direct.name);
  CHECK(replayed.launches == direct.launches);
  CHECK(replayed.blocks == direct.blocks);
  CHECK(replayed.requests == direct.requests);
  CHECK(replayed.sectors == direct.sectors);
  CHECK(replayed.dram_read_bytes == direct.dram_read_bytes);
  CHECK(replayed.kept_dram_read_bytes == direct.kept_dram_read_bytes);
  CHECK(replayed.dram_write_bytes == direct.dram_write_bytes);
  CUDA_CHECK(cudaGraphExecDestroy(executable));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CUDA_CHECK(cudaStreamDestroy(stream));
}
