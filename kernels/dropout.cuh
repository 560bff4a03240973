// Dropout, as kernels/dropout.h defines it: element i stays if number i of Philox's (seed, sequence) is at least
// `dropout`, and is then scaled by 1 / (1 - dropout). Backward draws the same numbers again; no mask is stored.
//
// Bound by memory: N elements are read and written once. One Philox call serves four elements.
#pragma once

#include "kernels/common.cuh"
#include "kernels/philox.h"

// The sequence of a launch's dropout: a number, or a site whose pass is counted in device memory, so that a launch that
// is captured once draws other numbers in each pass.
struct DropoutSequence {
  uint64_t first;
  const uint64_t* pass;  // (1)  null: not counted there

  DropoutSequence(uint64_t first, const uint64_t* pass = nullptr) : first(first), pass(pass) {}
  __device__ uint64_t number() const { return pass ? first + (*pass << 16) : first; }
};

// The factor of element i: 0 or 1 / (1 - dropout). Without dropout 1, and nothing is drawn.
__device__ inline float dropout_factor(float dropout, uint64_t seed, uint64_t sequence, uint64_t i) {
  if (dropout == 0) return 1;
  const Philox4 random = philox4(seed, sequence, i / 4);
  const uint32_t low = i % 2 ? random.word[1] : random.word[0], high = i % 2 ? random.word[3] : random.word[2];
  return uniform_from_bits(i % 4 < 2 ? low : high) < dropout ? 0 : 1 / (1 - dropout);  // no indexing: no local memory
}

// factors[k]: that of element i + k. Fast if i is a multiple of 4.
template <int n>
__device__ void dropout_factors(float (&factors)[n], float dropout, uint64_t seed, uint64_t sequence, uint64_t i) {
  if (n % 4 == 0 && i % 4 == 0 && dropout != 0) {
    const float scale = 1 / (1 - dropout);
#pragma unroll
    for (int k = 0; k < n; k += 4) {
      const Philox4 random = philox4(seed, sequence, i / 4 + k / 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) factors[k + j] = uniform_from_bits(random.word[j]) < dropout ? 0 : scale;
    }
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) factors[k] = dropout_factor(dropout, seed, sequence, i + k);
  }
}

// x times its factors, where dropped elements become 0 whatever they were. The kernels that train without dropout are
// instances without kDropout: they do not contain the generator's 100 instructions.
template <bool kDropout, int n>
__device__ void drop_out(float (&x)[n], float dropout, uint64_t seed, uint64_t sequence, uint64_t i) {
  if constexpr (kDropout) {
    float factors[n];
    dropout_factors(factors, dropout, seed, sequence, i);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = factors[k] == 0 ? 0 : x[k] * factors[k];
  }
}

// One thread: as many elements as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void dropout_forward_kernel(floatX* out, const floatX* inp, float dropout, uint64_t seed,
                                       DropoutSequence sequence, int64_t first, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  const uint64_t number = sequence.number();
  with_pack<kVector, n>(N - i, [&](auto whole) {
    float x[n];
    load_floats<whole>(x, inp + i, N - i);
    drop_out<true>(x, dropout, seed, number, first + i);
    store_floats<whole>(out + i, x, N - i);
  });
}

// Dropout on part of a tensor: its elements first to first + N - 1. Fast if first is a multiple of 4.
template <class floatX>
void dropout_part(floatX* out,        // (N)  may be inp itself
                  const floatX* inp,  // (N)
                  float dropout, uint64_t seed, DropoutSequence sequence, int64_t first, int64_t N,
                  cudaStream_t stream) {
  const auto kernel =
      aligned16(out, inp) ? dropout_forward_kernel<floatX, true> : dropout_forward_kernel<floatX, false>;
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, Pack<floatX>::size), kThreads), kThreads, 0, stream, out, inp, dropout,
         seed, sequence, first, N);
}

template <class floatX>
void dropout_forward(floatX* out,        // (N)  may be inp itself
                     const floatX* inp,  // (N)
                     float dropout, uint64_t seed, DropoutSequence sequence, int64_t N, cudaStream_t stream) {
  dropout_part(out, inp, dropout, seed, sequence, 0, N, stream);
}

template <class floatX>
void dropout_backward(floatX* dinp,        // (N)  =, may be dout itself
                      const floatX* dout,  // (N)
                      float dropout, uint64_t seed, DropoutSequence sequence, int64_t N, cudaStream_t stream) {
  dropout_forward(dinp, dout, dropout, seed, sequence, N, stream);
}
