// The residual connection:  out = inp1 + inp2. The network's residual connections are fused with the layernorm that
// follows (layernorm.cuh); the kernel here is for separate sums.
//
// Backward has no kernel, as in kernels/residual.h: both inputs get dout.
//
// Bound by memory: forward reads 2 N elements and writes N.
#pragma once

#include "kernels/common.cuh"

// One thread: as many elements as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void residual_forward_kernel(floatX* out, const floatX* inp1, const floatX* inp2, int64_t N) {
  constexpr int n = Pack<floatX>::size;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n;
  with_pack<kVector, n>(N - i, [&](auto whole) {
    float x[n], y[n];
    load_floats<whole>(x, inp1 + i, N - i);
    load_floats<whole>(y, inp2 + i, N - i);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] += y[k];
    store_floats<whole>(out + i, x, N - i);
  });
}

template <class floatX>
void residual_forward(floatX* out,         // (N)  may be inp1 or inp2
                      const floatX* inp1,  // (N)
                      const floatX* inp2,  // (N)
                      int64_t N, cudaStream_t stream) {
  const auto kernel =
      aligned16(out, inp1, inp2) ? residual_forward_kernel<floatX, true> : residual_forward_kernel<floatX, false>;
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, Pack<floatX>::size), kThreads), kThreads, 0, stream, out, inp1, inp2, N);
}
