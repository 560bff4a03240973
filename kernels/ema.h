// An exponential average of the weights (Polyak and Juditsky 1992), as kept by models that diffuse images and by many
// trainers of language models. After update t = 1, 2, ... of the weights:
//   average += rate_t (weights - average),   rate_t = max(1 - decay, 9 / (t + 8))
// rate_1 = 1 begins with the weights themselves, and up to t = 9 / (1 - decay) only the last ninth of the steps counts,
// so that the average does not carry the first, random weights along.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/common.h"

namespace cpu {

inline double ema_rate(double decay, int64_t t) { return std::max(1 - decay, 9 / static_cast<double>(t + 8)); }

// Runs on the calling thread.
template <class floatX>
void ema_update(floatX* average,        // (N)  updated
                const floatX* weights,  // (N)
                floatX rate,            // rate_t
                int64_t N) {
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) average[i] += rate * (weights[i] - average[i]);
}

}  // namespace cpu
