// A linear layer:  out = inp @ weight^T + bias. The plain loops; matmul_fast.h does the same in tiles.
//
// Backward:  dinp = dout @ weight    dweight += dout^T @ inp    dbias += column sums of dout.
// The inner loops run along rows of memory; a row of the result has one owner.
#pragma once

#include <algorithm>

#include "kernels/common.h"
#include "kernels/global_norm.h"

namespace cpu {

template <class floatX>
void matmul_forward(floatX* out,           // (N, OC)
                    const floatX* inp,     // (N, C)
                    const floatX* weight,  // (OC, C)
                    const floatX* bias,    // (OC) or null: none
                    int N, int C, int OC) {
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* x = inp + static_cast<int64_t>(n) * C;
    for (int o = 0; o < OC; ++o) {
      const floatX* w = weight + static_cast<int64_t>(o) * C;
      sum_t sum = bias ? bias[o] : 0;
#pragma omp simd reduction(+ : sum)
      for (int c = 0; c < C; ++c) sum += x[c] * w[c];
      out[static_cast<int64_t>(n) * OC + o] = sum;
    }
  }
}

// dbias (OC) += the sum of dout's rows.
template <class floatX>
void bias_backward(floatX* dbias,       // (OC)  +=
                   const floatX* dout,  // (N, OC)
                   int N, int OC) {
  using sum_t = accumulate_t<floatX>;
  constexpr int kSlice = 64;
#pragma omp parallel for
  for (int o0 = 0; o0 < OC; o0 += kSlice) {
    const int width = std::min(kSlice, OC - o0);
    sum_t sum[kSlice] = {};
    for (int n = 0; n < N; ++n) {
      const floatX* row = dout + static_cast<int64_t>(n) * OC + o0;
      for (int o = 0; o < width; ++o) sum[o] += row[o];
    }
    for (int o = 0; o < width; ++o) dbias[o0 + o] += sum[o];
  }
}

template <class floatX>
void matmul_backward(floatX* dinp,          // (N, C)  =, or null: not needed
                     floatX* dweight,       // (OC, C)  +=, or null: not needed
                     floatX* dbias,         // (OC)  +=, or null: none
                     const floatX* dout,    // (N, OC)
                     const floatX* inp,     // (N, C)
                     const floatX* weight,  // (OC, C)
                     int N, int C, int OC) {
  if (dinp) {
#pragma omp parallel for
    for (int n = 0; n < N; ++n) {
      floatX* dx = dinp + static_cast<int64_t>(n) * C;
      std::fill(dx, dx + C, floatX(0));
      for (int o = 0; o < OC; ++o) {
        const floatX* w = weight + static_cast<int64_t>(o) * C;
        const floatX d = dout[static_cast<int64_t>(n) * OC + o];
        for (int c = 0; c < C; ++c) dx[c] += d * w[c];
      }
    }
  }
  if (dweight) {
#pragma omp parallel for
    for (int o = 0; o < OC; ++o) {
      floatX* dw = dweight + static_cast<int64_t>(o) * C;
      for (int n = 0; n < N; ++n) {
        const floatX* x = inp + static_cast<int64_t>(n) * C;
        const floatX d = dout[static_cast<int64_t>(n) * OC + o];
        for (int c = 0; c < C; ++c) dw[c] += d * x[c];
      }
    }
  }
  if (dbias) bias_backward(dbias, dout, N, OC);
}

// Only the weights' gradient, set instead of added to: a step's first micro-batch need not read what it replaces. The
// sum of its squares, cheap to take here, is for the global norm.
template <class floatX>
void matmul_dweight(floatX* dweight,     // (OC, C)  =
                    double* squares,     // +=, or null: not needed
                    const floatX* dout,  // (N, OC)
                    const floatX* inp,   // (N, C)
                    int N, int C, int OC) {
  const int64_t size = static_cast<int64_t>(OC) * C;
  std::fill(dweight, dweight + size, floatX(0));
  floatX* none = nullptr;
  matmul_backward(none, dweight, none, dout, inp, static_cast<const floatX*>(nullptr), N, C, OC);
  if (squares) *squares += global_norm_squared(dweight, size);
}

}  // namespace cpu
