// The squared norm of all gradients, for clipping: chunks of a fixed size are summed in double, then the chunks' sums,
// each in a fixed order. Double holds the square of any float, and the sum of a billion of them to 1e-13 or better.
//
// Bound by memory: 4 N bytes are read once; the chunks' sums are 1/8192 of that.
#pragma once

#include "kernels/common.cuh"
#include "kernels/scratch.h"

// sums (gridDim.x)
template <int kThreads, bool kVector>
__global__ void __launch_bounds__(kThreads) global_norm_chunk_kernel(double* sums, const float* grads, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<float>::size;
  const int64_t begin = blockIdx.x * kGlobalNormChunk,
                end = begin + kGlobalNormChunk < N ? begin + kGlobalNormChunk : N;
  double sum = 0;
  with_pack<kVector, kGlobalNormChunk>(N - begin, [&](auto whole) {
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x * n; i < end; i += kThreads * n) {
      float g[n];
      load_floats<whole>(g, grads + i, end - i);
#pragma unroll
      for (int k = 0; k < n; ++k) sum += static_cast<double>(g[k]) * g[k];
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) global_norm_kernel(double* out, const double* sums, int64_t chunks) {
  wait_for_earlier_kernels();
  double sum = 0;
  for (int64_t k = threadIdx.x; k < chunks; k += kThreads) sum += sums[k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

// For several stretches, one call for each: the sums of its chunks, ceil(N / kGlobalNormChunk) of them.
inline void global_norm_chunks(double* sums,        // (chunks)  =
                               const float* grads,  // (N)
                               int64_t N, cudaStream_t stream) {
  const int64_t chunks = ceil_div<int64_t>(N, kGlobalNormChunk);
  const auto kernel = aligned16(grads) ? global_norm_chunk_kernel<256, true> : global_norm_chunk_kernel<256, false>;
  launch(kernel, grid_for(chunks, 1), 256, 0, stream, sums, grads, N);
}
// The sum of all those.
inline void global_norm_sum(double* out,         // (1)  =
                            const double* sums,  // (chunks)
                            int64_t chunks, cudaStream_t stream) {
  launch(global_norm_kernel<1024>, 1, 1024, 0, stream, out, sums, chunks);
}

inline void global_norm_squared(double* out,         // (1)  =
                                void* scratch,       // global_norm_scratch(N) bytes
                                const float* grads,  // (N)
                                int64_t N, cudaStream_t stream) {
  double* sums = static_cast<double*>(scratch);
  global_norm_chunks(sums, grads, N, stream);
  global_norm_sum(out, sums, ceil_div<int64_t>(N, kGlobalNormChunk), stream);
}
