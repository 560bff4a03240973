// The residual connection:  out = inp1 + drop(inp2), with dropout's numbers as in kernels/dropout.h. Without dropout a
// model's products add the stream themselves (matmul.cuh), unless adapters add to them first.
//
// Backward has no kernel, as in kernels/residual.h: both inputs get dout, inp2 through dropout's mask.
//
// Bound by memory: forward reads 2 N elements and writes N.
#pragma once

#include "kernels/dropout.cuh"

// One thread: as many elements as 16 bytes hold.
template <class floatX, bool kVector, bool kDropout>
__global__ void residual_forward_kernel(floatX* out, const floatX* inp1, const floatX* inp2, float dropout,
                                        uint64_t seed, DropoutSequence sequence, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  const uint64_t number = kDropout ? sequence.number() : 0;
  with_pack<kVector, n>(N - i, [&](auto whole) {
    float x[n], y[n];
    load_floats<whole>(x, inp1 + i, N - i);
    load_floats<whole>(y, inp2 + i, N - i);
    drop_out<kDropout>(y, dropout, seed, number, i);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] += y[k];
    store_floats<whole>(out + i, x, N - i);
  });
}

template <class floatX>
void residual_forward(floatX* out,         // (N)  may be inp1 or inp2
                      const floatX* inp1,  // (N)
                      const floatX* inp2,  // (N)
                      float dropout, uint64_t seed, DropoutSequence sequence, int64_t N, cudaStream_t stream) {
  const bool vector = aligned16(out, inp1, inp2);
  auto kernel = vector ? residual_forward_kernel<floatX, true, false> : residual_forward_kernel<floatX, false, false>;
  if (dropout != 0) {
    kernel = vector ? residual_forward_kernel<floatX, true, true> : residual_forward_kernel<floatX, false, true>;
  }
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, Pack<floatX>::size), kThreads), kThreads, 0, stream, out, inp1, inp2,
         dropout, seed, sequence, N);
}
