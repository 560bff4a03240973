// Layer normalisation (Ba, Kiros and Hinton 2016) over the last dimension, eps 1e-5:
//   mean = sum(x) / C    rstd = 1 / sqrt(sum((x - mean)^2) / C + eps)    norm = (x - mean) * rstd
//   out = norm * weight + bias
//
// Backward, with dnorm = dout * weight. norm depends on x directly, through mean and through rstd; the three add up to
//   dx = rstd * (dnorm - avg(dnorm) - norm * avg(dnorm * norm))
// where avg is over the C channels. dx is added to: x is the residual stream, which has other readers.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void layernorm_forward(floatX* out,                 // (N, C)
                       accumulate_t<floatX>* mean,  // (N)  saved for backward
                       accumulate_t<floatX>* rstd,  // (N)  saved for backward
                       const floatX* inp,           // (N, C)
                       const floatX* weight,        // (C)
                       const floatX* bias,          // (C)
                       int N, int C) {
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* x = inp + static_cast<int64_t>(n) * C;
    floatX* y = out + static_cast<int64_t>(n) * C;
    // mean
    sum_t sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; ++c) sum += x[c];
    const sum_t m = sum / C;
    // variance
    sum_t squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < C; ++c) squares += (x[c] - m) * (x[c] - m);
    const sum_t s = 1 / std::sqrt(squares / C + static_cast<sum_t>(1e-5));
    // normalise, scale and shift
    for (int c = 0; c < C; ++c) y[c] = (x[c] - m) * s * weight[c] + bias[c];
    mean[n] = m;
    rstd[n] = s;
  }
}

template <class floatX>
void layernorm_backward(floatX* dinp,                      // (N, C)  +=
                        floatX* dweight,                   // (C)  +=, or null: not needed, and dbias neither
                        floatX* dbias,                     // (C)  +=
                        const floatX* dout,                // (N, C)
                        const floatX* inp,                 // (N, C)
                        const floatX* weight,              // (C)
                        const accumulate_t<floatX>* mean,  // (N)
                        const accumulate_t<floatX>* rstd,  // (N)
                        int N, int C) {
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* x = inp + static_cast<int64_t>(n) * C;
    const floatX* dy = dout + static_cast<int64_t>(n) * C;
    floatX* dx = dinp + static_cast<int64_t>(n) * C;
    const sum_t m = mean[n], s = rstd[n];
    // avg(dnorm) and avg(dnorm * norm)
    sum_t dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma omp simd reduction(+ : dnorm_sum, dnorm_norm_sum)
    for (int c = 0; c < C; ++c) {
      const sum_t dnorm = dy[c] * weight[c];
      dnorm_sum += dnorm;
      dnorm_norm_sum += dnorm * (x[c] - m) * s;
    }
    const sum_t dnorm_avg = dnorm_sum / C, dnorm_norm_avg = dnorm_norm_sum / C;
    // dx
    for (int c = 0; c < C; ++c) {
      const sum_t norm = (x[c] - m) * s;
      dx[c] += s * (dy[c] * weight[c] - dnorm_avg - norm * dnorm_norm_avg);
    }
  }

  // dweight and dbias
  if (!dweight) return;
  constexpr int kSlice = 64;  // channels whose parameter gradients one owner sums over all rows
#pragma omp parallel for
  for (int c0 = 0; c0 < C; c0 += kSlice) {
    const int width = std::min(kSlice, C - c0);
    sum_t dw[kSlice] = {}, db[kSlice] = {};
    for (int n = 0; n < N; ++n) {
      const floatX* x = inp + static_cast<int64_t>(n) * C + c0;
      const floatX* dy = dout + static_cast<int64_t>(n) * C + c0;
      for (int c = 0; c < width; ++c) {
        dw[c] += dy[c] * (x[c] - mean[n]) * rstd[n];
        db[c] += dy[c];
      }
    }
    for (int c = 0; c < width; ++c) {
      dweight[c0 + c] += dw[c];
      dbias[c0 + c] += db[c];
    }
  }
}

}  // namespace cpu
