// The average of the weights on the GPU: kernels/ema.h has the maths. It is kept in float, of float weights: the
// weights themselves, or bf16's master copy.
//
// Bound by memory, bytes read and written per parameter: update 12, exchange 16, with a master copy 18.
#pragma once

#include "kernels/adamw.cuh"
#include "kernels/common.cuh"

// One thread: four elements, one access to each array.
template <bool kVector>
__global__ void __launch_bounds__(256)
    ema_update_kernel(float* average, const float* weights, const AdamWStep* step, float least_rate, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n, left = N - i;
  if (!step->updated) return;
  const float rate = fmaxf(least_rate, 9 / static_cast<float>(step->updates + 8));
  with_pack<kVector, n>(left, [&](auto whole) {
    float a[n], w[n];
    load_floats<whole>(a, average + i, left);
    load_floats<whole>(w, weights + i, left);
#pragma unroll
    for (int k = 0; k < n; ++k) a[k] += rate * (w[k] - a[k]);
    store_floats<whole>(average + i, a, left);
  });
}

template <class floatX, bool kMaster, bool kVector>
__global__ void __launch_bounds__(256) ema_exchange_kernel(floatX* params, float* master, float* average, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n, left = N - i;
  with_pack<kVector, n>(left, [&](auto whole) {
    float a[n], w[n];
    load_floats<whole>(a, average + i, left);
    if constexpr (kMaster) {
      load_floats<whole>(w, master + i, left);
      store_floats<whole>(master + i, a, left);
    } else {
      load_floats<whole>(w, params + i, left);
    }
    store_floats<whole>(average + i, w, left);
    store_floats<whole>(params + i, a, left);
  });
}

inline void ema_update(float* average,         // (N)  updated
                       const float* weights,   // (N)
                       const AdamWStep* step,  // (1)  by adamw_prepare: for the update of the weights
                       double decay, int64_t N, cudaStream_t stream) {
  constexpr int kThreads = 256;
  launch(aligned16(average, weights) ? ema_update_kernel<true> : ema_update_kernel<false>,
         grid_for(ceil_div<int64_t>(N, 4), kThreads), kThreads, 0, stream, average, weights, step,
         static_cast<float>(1 - decay), N);
}

// Swaps the average and the weights. With a master copy params are then rounded from it, as adamw_update rounds them:
// exchanging twice changes no bit.
template <class floatX>
void ema_exchange(floatX* params,  // (N)
                  float* master,   // (N)  null: only params exist, and are float
                  float* average,  // (N)
                  int64_t N, cudaStream_t stream) {
  const bool vector = aligned16(params, master, average);
  auto kernel = vector ? ema_exchange_kernel<floatX, true, true> : ema_exchange_kernel<floatX, true, false>;
  if (!master) kernel = vector ? ema_exchange_kernel<floatX, false, true> : ema_exchange_kernel<floatX, false, false>;
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, 4), kThreads), kThreads, 0, stream, params, master, average, N);
}
