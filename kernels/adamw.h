// AdamW (Loshchilov and Hutter 2019, algorithm 2), at step t = 1, 2, ...:
//   m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
//   param -= lr * ( (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay * param )
// The corrections 1 - beta^t are computed once by the caller, not per parameter.
//
// m and v can also be kept in bf16: both are computed in floatX from what is stored, the parameter is updated with
// these, and only then are they rounded, stochastically, with the random numbers of kernels/rounding.h. Rounding to the
// nearest would drop every change below half a step of bf16, 1/512 to 1/256: with beta2 = 0.999, v could never fall.
#pragma once

#include <cmath>

#include "kernels/common.h"
#include "kernels/rounding.h"

namespace cpu {

template <class floatX>
void adamw_update(floatX* params,       // (N)  updated
                  floatX* m,            // (N)  updated
                  floatX* v,            // (N)  updated
                  const floatX* grads,  // (N)
                  floatX grad_scale,    // what clipping multiplies the gradients by
                  floatX lr, floatX beta1, floatX beta2,
                  floatX beta1_correction,  // 1 - beta1^t
                  floatX beta2_correction,  // 1 - beta2^t
                  floatX eps, floatX weight_decay, int64_t N) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < N; ++i) {
    const floatX g = grad_scale * grads[i];
    const floatX mi = beta1 * m[i] + (1 - beta1) * g;
    const floatX vi = beta2 * v[i] + (1 - beta2) * g * g;
    m[i] = mi;
    v[i] = vi;
    const floatX step = (mi / beta1_correction) / (std::sqrt(vi / beta2_correction) + eps);
    params[i] -= lr * (step + weight_decay * params[i]);
  }
}

// With moments in bf16.
template <class floatX>
void adamw_update_bf16(floatX* params,       // (N)  updated
                       bf16* m,              // (N)  updated
                       bf16* v,              // (N)  updated
                       const floatX* grads,  // (N)
                       floatX grad_scale, floatX lr, floatX beta1, floatX beta2, floatX beta1_correction,
                       floatX beta2_correction, floatX eps, floatX weight_decay,  // as above
                       MomentDraws draws,
                       int64_t t,  // of this update
                       int64_t N) {
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) {
    const floatX g = grad_scale * grads[i];
    const floatX mi = beta1 * m[i] + (1 - beta1) * g;
    const floatX vi = beta2 * v[i] + (1 - beta2) * g * g;
    const floatX step = (mi / beta1_correction) / (std::sqrt(vi / beta2_correction) + eps);
    params[i] -= lr * (step + weight_decay * params[i]);
    const int64_t number = draws.first + i;
    const uint32_t word = draw_moments(draws.seed, t, number / 4).word[number % 4];
    m[i] = round_stochastically(static_cast<float>(mi), bits_of_m(word));
    v[i] = round_stochastically(static_cast<float>(vi), bits_of_v(word));
  }
}

}  // namespace cpu
