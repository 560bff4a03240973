// Pooling over positions:  out[b] = sum_t weights[b,t] inp[b,t]. The input of a classifier of sequences: one position
// (a single weight of 1), or the mean of many.
//
// Backward:  dinp[b,t] = weights[b,t] dout[b].
#pragma once

#include <algorithm>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void pool_forward(floatX* out,           // (B, C)
                  const floatX* inp,     // (B, T, C)
                  const float* weights,  // (B, T)
                  int B, int T, int C) {
#pragma omp parallel for
  for (int b = 0; b < B; ++b) {
    floatX* sum = out + static_cast<int64_t>(b) * C;
    std::fill(sum, sum + C, floatX(0));
    for (int64_t bt = int64_t{b} * T; bt < (int64_t{b} + 1) * T; ++bt) {
      if (weights[bt] == 0) continue;  // most of them, if one position is used
      for (int c = 0; c < C; ++c) sum[c] += weights[bt] * inp[bt * C + c];
    }
  }
}

template <class floatX>
void pool_backward(floatX* dinp,          // (B, T, C)  =
                   const floatX* dout,    // (B, C)
                   const float* weights,  // (B, T)
                   int B, int T, int C) {
#pragma omp parallel for
  for (int bt = 0; bt < B * T; ++bt) {
    floatX* row = dinp + static_cast<int64_t>(bt) * C;
    const floatX* sum = dout + static_cast<int64_t>(bt / T) * C;
    for (int c = 0; c < C; ++c) row[c] = weights[bt] * sum[c];
  }
}

}  // namespace cpu
