// Softmax and cross-entropy in one, as kernels/classifier.h defines them, one block per row. In the first pass each
// thread keeps a running maximum m and a running sum s of exp(x - m) (Milakov and Gimelshein 2018): when m grows, s
// shrinks by exp(old m - new m). The second pass writes the gradient over the logits. Between the two the row is kept
// in shared memory if two blocks fit a multiprocessor with it (GPT-2's 100,512 bytes in bf16 do on an H100), so that
// memory is read once whatever the L2 cache does; cp.async puts all of the row under way at once. Otherwise it is read
// again.
//
// Bound by memory, bytes of device memory per logit: forward 2 (bf16) or 4 (float); backward reads as much and writes
// as much. That time leaves room for some 345 instructions per warp and pack of 8 (16,384 rows of 50,257 at 2.8 TB/s on
// 132 multiprocessors): so whole packs are processed without a test, V's last, ragged one by itself, and the thread
// that wrote the target's column corrects it at the end.
//
// NaN, infinity and rows of only -infinity make the loss and the row's gradient NaN, as exp(x - max) is.
#pragma once

#include <algorithm>

#include "kernels/common.cuh"
#include "kernels/ptx.cuh"

inline constexpr int kClassifierThreads = 512;  // at most
inline constexpr int kClassifierAhead = 4;      // packs that a thread loads before using the first

// The most bytes of a row that is kept: two blocks share a multiprocessor, each with 1 KiB of static shared memory and
// 1 KiB that CUDA reserves. 112 KiB on an H100.
inline int classifier_kept_bytes() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 * 1024) / 2 - 2 * 1024;
}

// exp. For bf16 the quick one, off by a few units in the last place of a float and 0 below 2^-126: far below what bf16
// resolves.
template <class floatX>
__device__ float classifier_exp(float x) {
  if constexpr (sizeof(floatX) == 2) {
    return exp2_approximate(x * 1.4426950408889634f);
  } else {
    return expf(x);
  }
}

// What a thread has seen of a row.
template <class floatX>
struct RunningSum {
  float max = -INFINITY, sum = 0;  // of exp(x - max)

  template <int n>
  __device__ void add(const float (&x)[n]) {
    float pack_max = max;
#pragma unroll
    for (int k = 0; k < n; ++k) pack_max = fmaxf(pack_max, x[k]);
    if (pack_max > max) {
      sum *= classifier_exp<floatX>(max - pack_max);
      max = pack_max;
    }
    const float origin = max == -INFINITY ? 0 : max;  // only -infinity so far: exp(x - 0) = 0
#pragma unroll
    for (int k = 0; k < n; ++k) sum += classifier_exp<floatX>(x[k] - origin);
  }
};

// A row of V logits as packs, thread by thread: thread i has packs i, i + blockDim.x, ... of the `whole` ones, and the
// rest of V after those belongs to the next thread in this order.
template <class floatX>
struct ClassifierRow {
  static constexpr int n = Pack<floatX>::size;
  int whole, ragged;  // packs of n logits; logits beyond them

  __device__ explicit ClassifierRow(int V) : whole(V / n), ragged(V % n) {}
  __device__ bool has_ragged() const { return whole % blockDim.x == threadIdx.x; }
};

// The row's maximum and the sum of exp(x - max), to all threads of the block. Padding is not read. kKept: `kept`, in
// shared memory, has the whole packs already, and each thread reads those that it copied; else all is read from `row`.
// The order of additions, and so each bit, is the same for both, and without kVector.
template <class floatX, bool kVector, bool kKept>
__device__ void classifier_statistics(float& max, float& sum, const floatX* row, const floatX* kept, int V) {
  constexpr int n = Pack<floatX>::size;
  const ClassifierRow<floatX> packs(V);
  const int threads = blockDim.x;
  RunningSum<floatX> running;
  float x[n];
  if constexpr (kKept) {
    for (int p = threadIdx.x; p < packs.whole; p += threads) {
      load_floats<true>(x, kept + p * n, n);
      running.add(x);
    }
  } else {
    const floatX* from = row + threadIdx.x * n;
    int p = threadIdx.x;
    for (; p + (kClassifierAhead - 1) * threads < packs.whole; p += kClassifierAhead * threads) {
      Pack<floatX> ahead[kClassifierAhead];
#pragma unroll
      for (int i = 0; i < kClassifierAhead; ++i) {
        ahead[i] = load_whole_pack<kVector, n>(from, n);
        from += threads * n;
      }
#pragma unroll
      for (int i = 0; i < kClassifierAhead; ++i) {
        to_floats(x, ahead[i]);
        running.add(x);
      }
    }
    for (; p < packs.whole; p += threads) {
      to_floats(x, load_whole_pack<kVector, n>(from, n));
      running.add(x);
      from += threads * n;
    }
  }
  if (packs.has_ragged()) {
    for (int v = V - packs.ragged; v < V; ++v) {
      const float one[1] = {to_float(row[v])};
      running.add(one);
    }
  }
  max = block_max(running.max);
  sum = block_sum(running.sum * classifier_exp<floatX>(running.max - max));  // all -infinity: NaN
}

template <class floatX, bool kVector>
__global__ void __launch_bounds__(kClassifierThreads, 2)
    classifier_forward_kernel(float* losses, const floatX* logits, const int32_t* targets, int V, int Vp) {
  wait_for_earlier_kernels();
  const int n = blockIdx.x, target = targets[n];
  if (target < 0) {
    if (threadIdx.x == 0) losses[n] = 0;
    return;
  }
  const floatX *row = logits + static_cast<int64_t>(n) * Vp, *not_kept = nullptr;
  float max, sum;
  classifier_statistics<floatX, kVector, false>(max, sum, row, not_kept, V);
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - to_float(row[target]);
}

// kKept: dynamic shared memory has the row, in whole packs; only with kVector.
template <class floatX, bool kVector, bool kKept>
__global__ void __launch_bounds__(kClassifierThreads, 2)
    classifier_backward_kernel(floatX* dlogits, float* losses, const int32_t* targets, const float* weights, int V,
                               int Vp) {
  wait_for_earlier_kernels();
  static_assert(kVector || !kKept);
  constexpr int size = Pack<floatX>::size;
  const int n = blockIdx.x, target = targets[n], threads = blockDim.x;
  floatX* row = dlogits + static_cast<int64_t>(n) * Vp;
  if (target < 0) {
    if (threadIdx.x == 0) losses[n] = 0;
    const Pack<floatX> zeros = {};
    for (int v = threadIdx.x * size; v < Vp; v += threads * size) store_row_pack<kVector>(row + v, zeros, Vp - v);
    return;
  }
  const ClassifierRow<floatX> packs(V);
  floatX* kept = nullptr;
  if constexpr (kKept) {
    kept = dynamic_shared<floatX>();
    for (int p = threadIdx.x; p < packs.whole; p += threads) cp_async<16>(kept + p * size, row + p * size, 16);
    cp_async_commit();
    cp_async_wait<0>();
  }
  const float weight = weights[n];
  const float target_logit = to_float(row[target]);  // before the barriers below: later it is overwritten
  float max, sum;
  classifier_statistics<floatX, kVector, kKept>(max, sum, row, kept, V);
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - target_logit;

  const float scale = weight / sum;
  float x[size];
  for (int p = threadIdx.x; p < packs.whole; p += threads) {
    if constexpr (kKept) {
      load_floats<true>(x, kept + p * size, size);
    } else {
      load_floats<kVector>(x, row + p * size, size);
    }
#pragma unroll
    for (int k = 0; k < size; ++k) x[k] = classifier_exp<floatX>(x[k] - max) * scale;
    store_floats<kVector>(row + p * size, x, size);
  }
  if (packs.has_ragged()) {
    for (int v = V - packs.ragged; v < V; ++v) {
      row[v] = from_float<floatX>(classifier_exp<floatX>(to_float(row[v]) - max) * scale);
    }
  }
  for (int v = V + threadIdx.x; v < Vp; v += threads) row[v] = from_float<floatX>(0.0f);
  if (target / size % threads ==
      static_cast<int>(threadIdx.x)) {  // it has written this column: its own stores are in order
    row[target] = from_float<floatX>(classifier_exp<floatX>(target_logit - max) * scale - weight);
  }
}

// sum of weights * losses in double: each thread sums every kThreads-th, then the threads' sums are added. One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    classifier_loss_kernel(double* loss, const float* losses, const float* weights, int N) {
  wait_for_earlier_kernels();
  double sum = 0;
#pragma unroll 8
  for (int64_t n = threadIdx.x; n < N; n += kThreads)
    sum += (weights ? static_cast<double>(weights[n]) : 1) * losses[n];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *loss += sum;
}

// Threads per row: one per pack, in whole warps.
template <class floatX>
unsigned classifier_threads(int Vp) {
  const int packs = ceil_div(Vp, Pack<floatX>::size);
  return std::min(ceil_div(packs, 32) * 32, kClassifierThreads);
}

// Only the loss; logits stay as they are.
template <class floatX>
void classifier_forward(float* losses,           // (N)  not weighted
                        const floatX* logits,    // (N, Vp)
                        const int32_t* targets,  // (N)  in [0, V), or -1: ignored
                        int N, int V, int Vp, cudaStream_t stream) {
  const bool vector = aligned16(logits) && Vp % Pack<floatX>::size == 0;
  const auto kernel = vector ? classifier_forward_kernel<floatX, true> : classifier_forward_kernel<floatX, false>;
  launch(kernel, grid_for(N, 1), classifier_threads<floatX>(Vp), 0, stream, losses, logits, targets, V, Vp);
}

// Loss and gradient; the gradient overwrites the logits.
template <class floatX>
void classifier_backward(floatX* dlogits,         // (N, Vp)  in: logits, out: dlogits
                         float* losses,           // (N)  not weighted
                         const int32_t* targets,  // (N)  in [0, V), or -1: ignored
                         const float* weights,    // (N)
                         int N, int V, int Vp, cudaStream_t stream) {
  const bool vector = aligned16(dlogits) && Vp % Pack<floatX>::size == 0;
  auto kernel =
      vector ? classifier_backward_kernel<floatX, true, false> : classifier_backward_kernel<floatX, false, false>;
  int kept = V / Pack<floatX>::size * 16;
  if (vector && kept <= classifier_kept_bytes()) {
    kernel = classifier_backward_kernel<floatX, true, true>;
  } else {
    kept = 0;
  }
  launch(kernel, grid_for(N, 1), classifier_threads<floatX>(Vp), static_cast<size_t>(kept), stream, dlogits, losses,
         targets, weights, V, Vp);
}

inline void classifier_loss(double* loss,          // (1)  += sum of weights * losses
                            const float* losses,   // (N)
                            const float* weights,  // (N)  or null: 1 each
                            int N, cudaStream_t stream) {
  launch(classifier_loss_kernel<1024>, 1, 1024, 0, stream, loss, losses, weights, N);
}
