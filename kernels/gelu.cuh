// GELU in its tanh form, as kernels/gelu.h:  y = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3).
//
// Since (1 + tanh(u)) / 2 = s(2u) with s(z) = 1 / (1 + exp(-z)):  y = x s(2u). That is one exponential instead of a
// tanh. Backward, with s' = s (1 - s):  dy/dx = s + 2 x s (1 - s) u'. Both s and 1 - s come from exp(-|2u|), which
// neither overflows nor cancels where s is close to 0 or 1.
//
// The matrix products have GELU in their epilogues; the kernels here are for a separate GELU.
//
// Bound by memory: forward reads N elements and writes N, backward reads 2 N and writes N.
#pragma once

#include "kernels/common.cuh"

inline constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2/pi)
inline constexpr float kGeluCubic = 0.044715f;

__device__ inline float gelu(float x) {
  const float e = expf(-2 * fabsf(kGeluScale * (x + kGeluCubic * x * x * x))), s = 1 / (1 + e);  // s(|2u|)
  return x * (x < 0 ? e * s : s);
}

// dy/dx; u' = sqrt(2/pi) (1 + 3*0.044715 x^2)
__device__ inline float gelu_grad(float x) {
  const float e = expf(-2 * fabsf(kGeluScale * (x + kGeluCubic * x * x * x))), s = 1 / (1 + e);
  const float du = kGeluScale * (1 + 3 * kGeluCubic * x * x);
  return (x < 0 ? e * s : s) + 2 * x * (s * s * e) * du;
}

// One thread: as many elements as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void gelu_forward_kernel(floatX* out, const floatX* inp, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  with_pack<kVector, n>(N - i, [&](auto whole) {
    float x[n];
    load_floats<whole>(x, inp + i, N - i);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = gelu(x[k]);
    store_floats<whole>(out + i, x, N - i);
  });
}

template <class floatX, bool kVector>
__global__ void gelu_backward_kernel(floatX* dinp, const floatX* dout, const floatX* inp, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  with_pack<kVector, n>(N - i, [&](auto whole) {
    float x[n], dy[n];
    load_floats<whole>(x, inp + i, N - i);
    load_floats<whole>(dy, dout + i, N - i);
#pragma unroll
    for (int k = 0; k < n; ++k) dy[k] *= gelu_grad(x[k]);
    store_floats<whole>(dinp + i, dy, N - i);
  });
}

template <class floatX>
void gelu_forward(floatX* out,        // (N)  may be inp itself
                  const floatX* inp,  // (N)
                  int64_t N, cudaStream_t stream) {
  const auto kernel = aligned16(out, inp) ? gelu_forward_kernel<floatX, true> : gelu_forward_kernel<floatX, false>;
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, Pack<floatX>::size), kThreads), kThreads, 0, stream, out, inp, N);
}

template <class floatX>
void gelu_backward(floatX* dinp,        // (N)  =, may be dout itself
                   const floatX* dout,  // (N)
                   const floatX* inp,   // (N)
                   int64_t N, cudaStream_t stream) {
  const auto kernel =
      aligned16(dinp, dout, inp) ? gelu_backward_kernel<floatX, true> : gelu_backward_kernel<floatX, false>;
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, Pack<floatX>::size), kThreads), kThreads, 0, stream, dinp, dout, inp, N);
}
