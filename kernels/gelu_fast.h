// gelu.h with an exp that vectorises. (1 + tanh(u)) / 2 is the logistic function of 2u, so
//   y = x s    dy/dx = s + x s (1 - s) 2u'    with s = 1 / (1 + exp(-2u)):
// no difference of nearly equal numbers anywhere.
#pragma once

#include "kernels/cpu/exp.h"
#include "kernels/gelu.h"

namespace cpu::WROUGHT_ISA {

inline float gelu_value(float x) {
  const float u = float(kGeluScale) * (x + float(kGeluCubic) * x * x * x);
  return x / (1 + exp(-2 * u));
}

inline void gelu_forward(float* out, const float* inp, int64_t N) {
  for_each_range(N, N > 10000, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = gelu_value(inp[i]);
  });
}

inline void gelu_backward(float* dinp, const float* dout, const float* inp, int64_t N) {
  for_each_range(N, N > 10000, [&](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const float x = inp[i];
      const float u = float(kGeluScale) * (x + float(kGeluCubic) * x * x * x);
      const float du = float(kGeluScale) * (1 + 3 * float(kGeluCubic) * x * x);
      const float e = exp(-2 * u), s = 1 / (1 + e);
      dinp[i] = dout[i] * (s + x * s * (e * s) * 2 * du);
    }
  });
}

}  // namespace cpu::WROUGHT_ISA
