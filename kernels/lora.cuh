// The operations of low-rank adapters on the GPU: kernels/lora.h has the maths.
//
// Bound by memory: add reads 2 N OC elements and writes N OC, take reads and writes N OC.
#pragma once

#include "kernels/common.cuh"

// One thread: as many neighbouring columns of a row as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void lora_add_kernel(floatX* out, const floatX* inp, float scale, int N, int OC, int stride) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(OC, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / packs;
  const int o = static_cast<int>(i % packs) * n;
  if (row >= N) return;
  float x[n], y[n];
  load_floats<kVector>(x, inp + row * OC + o, OC - o);
  load_floats<kVector>(y, out + row * stride + o, OC - o);
#pragma unroll
  for (int k = 0; k < n; ++k) y[k] += scale * x[k];
  store_floats<kVector>(out + row * stride + o, y, OC - o);
}

template <class floatX, bool kVector>
__global__ void lora_take_kernel(floatX* out, const floatX* inp, float scale, int N, int OC, int stride) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(OC, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / packs;
  const int o = static_cast<int>(i % packs) * n;
  if (row >= N) return;
  float x[n];
  load_floats<kVector>(x, inp + row * stride + o, OC - o);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] *= scale;
  store_floats<kVector>(out + row * OC + o, x, OC - o);
}

template <class floatX>
void lora_add(floatX* out,        // (N, stride), from its column on  +=
              const floatX* inp,  // (N, OC)
              float scale, int N, int OC, int stride, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const bool vector = aligned16(out, inp) && OC % n == 0 && stride % n == 0;
  launch(vector ? lora_add_kernel<floatX, true> : lora_add_kernel<floatX, false>,
         grid_for(static_cast<int64_t>(N) * ceil_div(OC, n), kThreads), kThreads, 0, stream, out, inp, scale, N, OC,
         stride);
}

template <class floatX>
void lora_take(floatX* out,        // (N, OC)  =
               const floatX* inp,  // (N, stride), from its column on
               float scale, int N, int OC, int stride, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const bool vector = aligned16(out, inp) && OC % n == 0 && stride % n == 0;
  launch(vector ? lora_take_kernel<floatX, true> : lora_take_kernel<floatX, false>,
         grid_for(static_cast<int64_t>(N) * ceil_div(OC, n), kThreads), kThreads, 0, stream, out, inp, scale, N, OC,
         stride);
}
