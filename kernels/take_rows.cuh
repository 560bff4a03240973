// Some rows of a matrix: kernels/take_rows.h.
//
// Bound by memory: the rows are read and written once.
#pragma once

#include "kernels/common.cuh"

// One thread: a pack of a row's channels.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(256)
    take_rows_kernel(floatX* out, const floatX* inp, const int32_t* rows, int count, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(C, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / packs;
  const int c = static_cast<int>(i % packs) * n;
  if (row >= count) return;
  float x[n];
  load_floats<kVector>(x, inp + static_cast<int64_t>(rows[row]) * C + c, C - c);
  store_floats<kVector>(out + row * C + c, x, C - c);
}

template <class floatX>
void take_rows(floatX* out,          // (n, C)
               const floatX* inp,    // (N, C)
               const int32_t* rows,  // (n)  in [0, N)
               int n, int C, cudaStream_t stream) {
  constexpr int kWidth = Pack<floatX>::size, kThreads = 256;
  const bool vector = aligned16(out, inp) && C % kWidth == 0;
  launch(vector ? take_rows_kernel<floatX, true> : take_rows_kernel<floatX, false>,
         grid_for(static_cast<int64_t>(n) * ceil_div(C, kWidth), kThreads), kThreads, 0, stream, out, inp, rows, n, C);
}
