// adamw.h on vectors, with one division and one square root per parameter: bound by memory.
#pragma once

#include <cmath>

#include "kernels/cpu/simd.h"

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

}  // namespace cpu::WROUGHT_ISA
