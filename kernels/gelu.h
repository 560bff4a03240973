// GELU in its tanh form (Hendrycks and Gimpel 2016):  y = x/2 (1 + tanh(u)),  u = sqrt(2/pi) (x + 0.044715 x^3).
// Backward:  dy/dx = (1 + tanh(u))/2 + x/2 (1 - tanh(u)^2) u',  u' = sqrt(2/pi) (1 + 3*0.044715 x^2).
#pragma once

#include <cmath>

#include "kernels/common.h"

namespace cpu {

inline constexpr double kGeluScale = 0.7978845608028654;  // sqrt(2/pi)
inline constexpr double kGeluCubic = 0.044715;

template <class floatX>
void gelu_forward(floatX* out,        // (N)
                  const floatX* inp,  // (N)
                  int64_t N) {
  using real = accumulate_t<floatX>;
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    const real x = inp[i];
    const real u = real(kGeluScale) * (x + real(kGeluCubic) * x * x * x);
    out[i] = x / 2 * (1 + std::tanh(u));
  }
}

template <class floatX>
void gelu_backward(floatX* dinp,        // (N)  =, may be dout itself
                   const floatX* dout,  // (N)
                   const floatX* inp,   // (N)
                   int64_t N) {
  using real = accumulate_t<floatX>;
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    const real x = inp[i];
    const real tanh_u = std::tanh(real(kGeluScale) * (x + real(kGeluCubic) * x * x * x));
    const real du = real(kGeluScale) * (1 + 3 * real(kGeluCubic) * x * x);
    dinp[i] = dout[i] * ((1 + tanh_u) / 2 + x / 2 * (1 - tanh_u * tanh_u) * du);
  }
}

}  // namespace cpu
