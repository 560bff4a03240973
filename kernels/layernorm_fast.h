// layernorm.h on vectors, backward in one reading: each thread sums the parameters' gradients over its own rows, and
// the threads' sums are added in their order. So those bits depend only on the number of threads.
#pragma once

#include <cmath>
#include <vector>

#include "kernels/cpu/gemm.h"

namespace cpu::WROUGHT_ISA {

// kCentred: layer norm, else RMSNorm.
template <bool kCentred>
[[gnu::noinline]] inline void layernorm_row(float* y, float* mean, float* rstd, const float* x, const float* weight,
                                            const float* bias, int C) {
  float m = 0, squares = 0;
  if constexpr (kCentred) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; ++c) sum += x[c];
    *mean = m = sum / static_cast<float>(C);
  }
#pragma omp simd reduction(+ : squares)
  for (int c = 0; c < C; ++c) squares += (x[c] - m) * (x[c] - m);
  const float s = 1 / std::sqrt(squares / static_cast<float>(C) + 1e-5f);
#pragma omp simd
  for (int c = 0; c < C; ++c) y[c] = (x[c] - m) * s * weight[c] + (kCentred ? bias[c] : 0);
  *rstd = s;
}

inline void layernorm_forward(float* out, float* mean, float* rstd, const float* inp, const float* weight,
                              const float* bias, int N, int C) {
  const auto row = mean ? layernorm_row<true> : layernorm_row<false>;
  for_each_index(N, static_cast<int64_t>(N) * C > 20000, [&](int64_t n) {
    row(out + n * C, mean ? mean + n : nullptr, rstd + n, inp + n * C, weight, bias, C);
  });
}

template <bool kCentred>
[[gnu::noinline]] inline void layernorm_backward_row(float* dx, float* dw, float* db, const float* dy, const float* x,
                                                     const float* weight, float m, float s, int C) {
  float dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma omp simd reduction(+ : dnorm_sum, dnorm_norm_sum)
  for (int c = 0; c < C; ++c) {
    const float dnorm = dy[c] * weight[c], norm = (x[c] - m) * s;
    if (kCentred) dnorm_sum += dnorm;
    dnorm_norm_sum += dnorm * norm;
    dw[c] += dy[c] * norm;
    if (kCentred) db[c] += dy[c];
  }
  const float dnorm_avg = dnorm_sum / static_cast<float>(C), dnorm_norm_avg = dnorm_norm_sum / static_cast<float>(C);
#pragma omp simd
  for (int c = 0; c < C; ++c) {
    dx[c] += s * (dy[c] * weight[c] - dnorm_avg - (x[c] - m) * s * dnorm_norm_avg);
  }
}

inline void layernorm_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp,
                               const float* weight, const float* mean, const float* rstd, int N, int C) {
  const auto row = mean ? layernorm_backward_row<true> : layernorm_backward_row<false>;
  const int threads = static_cast<int64_t>(N) * C > 20000 ? threads_of_loops() : 1;
  std::vector<float> sums(static_cast<size_t>(threads) * 2 * static_cast<size_t>(C));
  for_each_index(threads, threads > 1, [&](int64_t part) {
    float *dw = sums.data() + part * 2 * C, *db = dw + C;
    for (int64_t n = N * part / threads; n < N * (part + 1) / threads; ++n) {
      row(dinp + n * C, dw, db, dout + n * C, inp + n * C, weight, mean ? mean[n] : 0, rstd[n], C);
    }
  });
  for (int part = 0; dweight && part < threads; ++part) {
    const float *dw = sums.data() + static_cast<int64_t>(part) * 2 * C, *db = dw + C;
#pragma omp simd
    for (int c = 0; c < C; ++c) {
      dweight[c] += dw[c];
      if (dbias) dbias[c] += db[c];
    }
  }
}

}  // namespace cpu::WROUGHT_ISA
