// Layer normalisation (Ba, Kiros and Hinton 2016) over the last dimension, eps 1e-5:
//   mean = sum(x) / C    rstd = 1 / sqrt(sum((x - mean)^2) / C + eps)    norm = (x - mean) * rstd
//   out = norm * weight + bias
//
// Backward, with dnorm = dout * weight. norm depends on x directly, through mean and through rstd; the three add up to
//   dx = rstd * (dnorm - avg(dnorm) - norm * avg(dnorm * norm))
// where avg is over the C channels. dx is added to: x is the residual stream, which has other readers.
//
// With mean == nullptr it is RMSNorm (Zhang and Sennrich 2019), which does not centre and has no bias; bias and dbias
// are null too:
//   rstd = 1 / sqrt(sum(x^2) / C + eps)    norm = x * rstd    out = norm * weight
//   dx = rstd * (dnorm - norm * avg(dnorm * norm))
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/common.h"

namespace cpu {

// kCentred: layer norm, else RMSNorm. Callers leave it out: mean decides.
template <class floatX, bool kCentred = true>
void layernorm_forward(floatX* out,                 // (N, C)
                       accumulate_t<floatX>* mean,  // (N)  saved for backward; null: RMSNorm
                       accumulate_t<floatX>* rstd,  // (N)  saved for backward
                       const floatX* inp,           // (N, C)
                       const floatX* weight,        // (C)
                       const floatX* bias,          // (C)  null for RMSNorm
                       int N, int C) {
  if (kCentred && !mean) return layernorm_forward<floatX, false>(out, mean, rstd, inp, weight, bias, N, C);
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* x = inp + static_cast<int64_t>(n) * C;
    floatX* y = out + static_cast<int64_t>(n) * C;
    // mean
    sum_t m = 0;
    if constexpr (kCentred) {
      sum_t sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int c = 0; c < C; ++c) sum += x[c];
      mean[n] = m = sum / C;
    }
    // variance
    sum_t squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int c = 0; c < C; ++c) squares += (x[c] - m) * (x[c] - m);
    const sum_t s = 1 / std::sqrt(squares / C + static_cast<sum_t>(1e-5));
    // normalise, scale and shift
    for (int c = 0; c < C; ++c) y[c] = (x[c] - m) * s * weight[c] + (kCentred ? bias[c] : 0);
    rstd[n] = s;
  }
}

template <class floatX, bool kCentred = true>
void layernorm_backward(floatX* dinp,                      // (N, C)  +=
                        floatX* dweight,                   // (C)  +=, or null: not needed, and dbias neither
                        floatX* dbias,                     // (C)  +=, null for RMSNorm
                        const floatX* dout,                // (N, C)
                        const floatX* inp,                 // (N, C)
                        const floatX* weight,              // (C)
                        const accumulate_t<floatX>* mean,  // (N)  null: RMSNorm
                        const accumulate_t<floatX>* rstd,  // (N)
                        int N, int C) {
  if (kCentred && !mean) {
    return layernorm_backward<floatX, false>(dinp, dweight, dbias, dout, inp, weight, mean, rstd, N, C);
  }
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* x = inp + static_cast<int64_t>(n) * C;
    const floatX* dy = dout + static_cast<int64_t>(n) * C;
    floatX* dx = dinp + static_cast<int64_t>(n) * C;
    const sum_t m = kCentred ? mean[n] : 0, s = rstd[n];
    // avg(dnorm) and avg(dnorm * norm)
    sum_t dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma omp simd reduction(+ : dnorm_sum, dnorm_norm_sum)
    for (int c = 0; c < C; ++c) {
      const sum_t dnorm = dy[c] * weight[c];
      dnorm_sum += dnorm;
      dnorm_norm_sum += dnorm * (x[c] - m) * s;
    }
    const sum_t dnorm_avg = kCentred ? dnorm_sum / C : 0, dnorm_norm_avg = dnorm_norm_sum / C;
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
        dw[c] += dy[c] * (x[c] - (kCentred ? mean[n] : 0)) * rstd[n];
        db[c] += dy[c];
      }
    }
    for (int c = 0; c < width; ++c) {
      dweight[c0 + c] += dw[c];
      if (kCentred) dbias[c0 + c] += db[c];
    }
  }
}

}  // namespace cpu
