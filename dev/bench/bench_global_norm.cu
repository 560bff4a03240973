// The squared norm of all gradients: one number out of hundreds of megabytes, so each byte is read once, and the only
// question is how the partial sums are combined.
#include "dev/bench/bench.h"
#include "kernels/global_norm.cuh"
#include "kernels/global_norm.h"

namespace {

__global__ void norm_atomics_kernel(double* out, const float* grads, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) atomicAdd(out, static_cast<double>(grads[i]) * grads[i]);
}

__global__ void norm_warp_kernel(double* out, const float* grads, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const double g = i < N ? grads[i] : 0;
  const double sum = warp_sum(g * g);
  if (threadIdx.x % 32 == 0) atomicAdd(out, sum);
}

// A block sums kChunk gradients, a thread every 256th of them, and writes its sum: no atomics, the same bits each time.
constexpr int kChunk = 4096;
__global__ void norm_block_kernel(double* sums, const float* grads, int64_t N) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kChunk;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < begin + kChunk && i < N; i += 256) {
    sum += static_cast<double>(grads[i]) * grads[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void norm_sums_kernel(double* out, const double* sums, int64_t blocks) {  // one block
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += 1024) sum += sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int64_t kGpuN = 124'475'904;  // GPT-2 124M with its padded vocabulary
  const int64_t N = problem.size(kGpuN, 1 << 18), blocks = ceil_div<int64_t>(N, kChunk);
  const double bytes = 1.0 * N * sizeof(float);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<float> grads;
    bench::Buffers<double> out, scratch;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 1, 0.01}, {1, 1, 0, 0}, {1, blocks, 0, 0}});
  const auto clear = [=](cudaStream_t stream) { CUDA_CHECK(cudaMemsetAsync(t->out[0], 0, sizeof(double), stream)); };

  bench::Ladder ladder;
  ladder.operation = "global_norm_squared";
  ladder.size = "N=" + std::to_string(N) + " float";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = 1.0 * kGpuN * sizeof(float);
  ladder.versions = {
      {"an atomic an element",
       "Every thread adds its square to the one result. The additions queue up at one address, in an "
       "arbitrary order, so the last digits differ from run to run.",
       [=](int set, cudaStream_t stream) {
         clear(stream);
         launch(norm_atomics_kernel, grid_for(N, 256), 256, 0, stream, t->out[0], t->grads[set], N);
       }},
      {"an atomic a warp", "The 32 lanes add up by shuffles first, five of them, without memory: a 32nd of the queue.",
       [=](int set, cudaStream_t stream) {
         clear(stream);
         launch(norm_warp_kernel, grid_for(N, 256), 256, 0, stream, t->out[0], t->grads[set], N);
       }},
      {"two kernels",
       "Each block sums 4,096 and writes one number, a second kernel adds those up in order: no queue, and "
       "the same bits every time.",
       [=](int set, cudaStream_t stream) {
         launch(norm_block_kernel, grid_for(blocks, 1), 256, 0, stream, t->scratch[0], t->grads[set], N);
         launch(norm_sums_kernel, 1, 1024, 0, stream, t->out[0], t->scratch[0], blocks);
       }},
      {"16 bytes", "Four gradients per access and 16,384 per block, four accesses of a thread in flight at once.",
       [=](int set, cudaStream_t stream) { global_norm_squared(t->out[0], t->scratch[0], t->grads[set], N, stream); }}};
  ladder.reset = [=] {
    t->out.poison(0);
    t->scratch.poison(0);
  };
  ladder.check = [=] {
    const std::vector<float> grads = t->grads.host(0);
    bench::check_close("the squared norm", t->out.host(0), {cpu::global_norm_squared(grads.data(), N)},
                       static_cast<double>(N), 0);
  };
  return ladder;
}

const bench::Register registered("global_norm_squared", make);

}  // namespace
