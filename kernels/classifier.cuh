// Softmax and cross-entropy in one, as kernels/classifier.h defines them, one block a row. The first pass keeps in each
// thread a running maximum m and a running sum s of exp(x - m) (Milakov and Gimelshein 2018): when m grows, s shrinks
// by exp(old m - new m). The second pass writes the gradient over the logits; it finds the row in L2, where two blocks
// of 1024 threads a multiprocessor keep about 26 MB of GPT-2's rows in flight on 132 multiprocessors.
//
// Bound by memory, bytes of device memory a logit: forward 2 (bf16) or 4 (float); backward reads as much and writes as
// much.
//
// Not a number, infinity and rows of -infinity alone make the loss and the row's gradient NaN, as exp(x - max) is.
#pragma once

#include "kernels/common.cuh"

// exp. For bf16 the quick one, wrong by 2 + 1.2 |x| units in the last place of a float: far below what bf16 shows.
template <class floatX>
__device__ float classifier_exp(float x) {
  if constexpr (sizeof(floatX) == 2) {
    return __expf(x);
  } else {
    return expf(x);
  }
}

// The row's maximum and the sum of exp(x - max), to all threads of the block. Padding is not read.
template <class floatX, bool kVector>
__device__ void classifier_statistics(float& max, float& sum, const floatX* row, int V) {
  constexpr int n = Pack<floatX>::size;
  float m = -INFINITY, s = 0;
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * n; v < V; v += static_cast<int64_t>(blockDim.x) * n) {
    float x[n];
    load_floats<kVector>(x, row + v, V - v);
    float pack_max = m;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (v + k < V) pack_max = fmaxf(pack_max, x[k]);
    }
    if (pack_max > m) {
      s *= classifier_exp<floatX>(m - pack_max);
      m = pack_max;
    }
    const float origin = m == -INFINITY ? 0 : m;  // only -infinity so far: exp(x - 0) = 0
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (v + k < V) s += classifier_exp<floatX>(x[k] - origin);
    }
  }
  max = block_max(m);
  sum = block_sum(s * classifier_exp<floatX>(m - max));  // all -infinity: NaN
}

template <class floatX, bool kVector>
__global__ void __launch_bounds__(1024, 2)
    classifier_forward_kernel(float* losses, const floatX* logits, const int32_t* targets, int V, int Vp) {
  const int n = blockIdx.x, target = targets[n];
  if (target < 0) {
    if (threadIdx.x == 0) losses[n] = 0;
    return;
  }
  const floatX* row = logits + static_cast<int64_t>(n) * Vp;
  float max, sum;
  classifier_statistics<floatX, kVector>(max, sum, row, V);
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - to_float(row[target]);
}

template <class floatX, bool kVector>
__global__ void __launch_bounds__(1024, 2)
    classifier_backward_kernel(floatX* dlogits, float* losses, const int32_t* targets, const float* weights, int V,
                               int Vp) {
  constexpr int size = Pack<floatX>::size;
  const int n = blockIdx.x, target = targets[n];
  floatX* row = dlogits + static_cast<int64_t>(n) * Vp;
  float max = 0, sum = 1, weight = 0;
  if (target >= 0) {
    weight = weights[n];
    const float target_logit = to_float(row[target]);  // before the barriers below: later it is overwritten
    classifier_statistics<floatX, kVector>(max, sum, row, V);
    if (threadIdx.x == 0) losses[n] = max + logf(sum) - target_logit;
  } else if (threadIdx.x == 0) {
    losses[n] = 0;
  }
  const float scale = weight / sum;
  for (int64_t v = static_cast<int64_t>(threadIdx.x) * size; v < Vp; v += static_cast<int64_t>(blockDim.x) * size) {
    float x[size] = {};
    if (target >= 0 && v < V) {
      load_floats<kVector>(x, row + v, V - v);
#pragma unroll
      for (int k = 0; k < size; ++k) {
        x[k] = v + k < V ? classifier_exp<floatX>(x[k] - max) * scale - (v + k == target ? weight : 0) : 0;
      }
    }
    store_floats<kVector>(row + v, x, Vp - v);
  }
}

// sum of weights * losses in double, each thread every kThreads-th, then the threads'. One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    classifier_loss_kernel(double* loss, const float* losses, const float* weights, int N) {
  double sum = 0;
#pragma unroll 8
  for (int64_t n = threadIdx.x; n < N; n += kThreads)
    sum += (weights ? static_cast<double>(weights[n]) : 1) * losses[n];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss += sum;
}

// Threads for a row: one a pack, in whole warps.
template <class floatX>
unsigned classifier_threads(int Vp) {
  const int packs = ceil_div(Vp, Pack<floatX>::size);
  return packs < 1024 ? ceil_div(packs, 32) * 32 : 1024;
}

// The loss alone; logits stay as they are.
template <class floatX>
void classifier_forward(float* losses,           // (N)  not weighted
                        const floatX* logits,    // (N, Vp)
                        const int32_t* targets,  // (N)  in [0, V), or -1: ignored
                        int N, int V, int Vp, cudaStream_t stream) {
  const bool vector = aligned16(logits) && Vp % Pack<floatX>::size == 0;
  const auto kernel = vector ? classifier_forward_kernel<floatX, true> : classifier_forward_kernel<floatX, false>;
  launch(kernel, grid_for(N, 1), classifier_threads<floatX>(Vp), 0, stream, losses, logits, targets, V, Vp);
}

// Loss and gradient; the gradient takes the logits' place.
template <class floatX>
void classifier_backward(floatX* dlogits,         // (N, Vp)  in: logits, out: dlogits
                         float* losses,           // (N)  not weighted
                         const int32_t* targets,  // (N)  in [0, V), or -1: ignored
                         const float* weights,    // (N)
                         int N, int V, int Vp, cudaStream_t stream) {
  const bool vector = aligned16(dlogits) && Vp % Pack<floatX>::size == 0;
  const auto kernel = vector ? classifier_backward_kernel<floatX, true> : classifier_backward_kernel<floatX, false>;
  launch(kernel, grid_for(N, 1), classifier_threads<floatX>(Vp), 0, stream, dlogits, losses, targets, weights, V, Vp);
}

inline void classifier_loss(double* loss,          // (1)  += sum of weights * losses
                            const float* losses,   // (N)
                            const float* weights,  // (N)  or null: 1 each
                            int N, cudaStream_t stream) {
  launch(classifier_loss_kernel<1024>, 1, 1024, 0, stream, loss, losses, weights, N);
}
