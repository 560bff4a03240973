// Pooling over positions on the GPU: kernels/pool.h has the maths. Sums are float.
//
// Bound by memory: forward reads the rows whose weight is not 0, one of T if a single position is used.
#pragma once

#include "kernels/common.cuh"

inline constexpr int kPoolThreads = 128;

// Block (b, y): kPoolThreads packs of sequence b's channels. The weight is the same for all its threads.
template <class floatX, bool kVector>
__global__ void pool_forward_kernel(floatX* out, const floatX* inp, const float* weights, int T, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int64_t b = blockIdx.x;
  const int c = (static_cast<int>(blockIdx.y) * kPoolThreads + static_cast<int>(threadIdx.x)) * n;
  if (c >= C) return;
  float sum[n] = {};
  for (int64_t bt = b * T; bt < (b + 1) * T; ++bt) {
    const float weight = weights[bt];
    if (weight == 0) continue;
    float x[n];
    load_floats<kVector>(x, inp + bt * C + c, C - c);
#pragma unroll
    for (int k = 0; k < n; ++k) sum[k] += weight * x[k];
  }
  store_floats<kVector>(out + b * C + c, sum, C - c);
}

// One thread: a pack of one row of dinp.
template <class floatX, bool kVector>
__global__ void pool_backward_kernel(floatX* dinp, const floatX* dout, const float* weights, int64_t rows, int T,
                                     int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(C, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / packs;
  const int c = static_cast<int>(i % packs) * n;
  if (row >= rows) return;
  float x[n];
  load_floats<kVector>(x, dout + row / T * C + c, C - c);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] *= weights[row];
  store_floats<kVector>(dinp + row * C + c, x, C - c);
}

template <class floatX>
void pool_forward(floatX* out,           // (B, C)
                  const floatX* inp,     // (B, T, C)
                  const float* weights,  // (B, T)
                  int B, int T, int C, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size;
  const bool vector = aligned16(out, inp) && C % n == 0;
  launch(vector ? pool_forward_kernel<floatX, true> : pool_forward_kernel<floatX, false>,
         dim3(B, ceil_div(C, n * kPoolThreads)), kPoolThreads, 0, stream, out, inp, weights, T, C);
}

template <class floatX>
void pool_backward(floatX* dinp,          // (B, T, C)  =
                   const floatX* dout,    // (B, C)
                   const float* weights,  // (B, T)
                   int B, int T, int C, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const int64_t rows = static_cast<int64_t>(B) * T;
  const bool vector = aligned16(dinp, dout) && C % n == 0;
  launch(vector ? pool_backward_kernel<floatX, true> : pool_backward_kernel<floatX, false>,
         grid_for(rows * ceil_div(C, n), kThreads), kThreads, 0, stream, dinp, dout, weights, rows, T, C);
}
