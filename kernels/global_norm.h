// The squared norm of all gradients, for clipping (Pascanu, Mikolov and Bengio 2013): chunks of fixed size are summed
// in double and the chunks' sums in order, so the result does not depend on the number of threads.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
double global_norm_squared(const floatX* grads,  // (N)
                           int64_t N) {
  constexpr int64_t kChunk = 4096;
  std::vector<double> sums((N + kChunk - 1) / kChunk);
#pragma omp parallel for
  for (int64_t k = 0; k < static_cast<int64_t>(sums.size()); ++k) {
    double sum = 0;
    const int64_t end = std::min(N, (k + 1) * kChunk);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = k * kChunk; i < end; ++i) sum += static_cast<double>(grads[i]) * grads[i];
    sums[k] = sum;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace cpu
