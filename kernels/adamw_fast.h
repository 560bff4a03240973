// adamw.h on vectors, with one division and one square root per parameter: bound by memory.
#pragma once

#include <cmath>

#include "kernels/cpu/simd.h"
#include "kernels/rounding.h"

namespace cpu::WROUGHT_ISA {

inline void adamw_update(float* params, float* m, float* v, const float* grads, float grad_scale, float lr, float beta1,
                         float beta2, float beta1_correction, float beta2_correction, float eps, float weight_decay,
                         int64_t N) {
  const float keep = 1 - lr * weight_decay, rate = lr / beta1_correction, to_unbiased = 1 / beta2_correction;
  for_each_range(N, N > 20000, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float g = grad_scale * grads[i];
      const float mi = beta1 * m[i] + (1 - beta1) * g, vi = beta2 * v[i] + (1 - beta2) * g * g;
      m[i] = mi;
      v[i] = vi;
      params[i] = keep * params[i] - rate * mi / (std::sqrt(vi * to_unbiased) + eps);
    }
  });
}

// Moments in bf16: blocks of elements whose random numbers are drawn first, both in vectors.
inline void adamw_update_bf16(float* params, bf16* m, bf16* v, const float* grads, float grad_scale, float lr,
                              float beta1, float beta2, float beta1_correction, float beta2_correction, float eps,
                              float weight_decay, MomentDraws draws, int64_t t, int64_t N) {
  constexpr int kBlock = 64;
  const float keep = 1 - lr * weight_decay, rate = lr / beta1_correction, to_unbiased = 1 / beta2_correction;
  for_each_range(N, N > 20000, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end;) {
      const int64_t number = draws.first + at, skip = number % kBlock, count = std::min(kBlock - skip, end - at);
      uint32_t words[kBlock];
#pragma omp simd
      for (int k = 0; k < kBlock / 4; ++k) {
        const Philox4 random = draw_moments(draws.seed, t, (number - skip) / 4 + k);
        for (int j = 0; j < 4; ++j) words[4 * k + j] = random.word[j];
      }
      const uint32_t* word = words + skip;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        const int64_t i = at + k;
        const float g = grad_scale * grads[i];
        const float mi = beta1 * m[i] + (1 - beta1) * g, vi = beta2 * v[i] + (1 - beta2) * g * g;
        params[i] = keep * params[i] - rate * mi / (std::sqrt(vi * to_unbiased) + eps);
        m[i] = round_stochastically(mi, bits_of_m(word[k]));
        v[i] = round_stochastically(vi, bits_of_v(word[k]));
      }
      at += count;
    }
  });
}

}  // namespace cpu::WROUGHT_ISA
