// global_norm.h on vectors.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd.h"

namespace cpu::WROUGHT_ISA {

[[gnu::noinline]] inline double sum_of_squares(const float* x, int64_t n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

inline double global_norm_squared(const float* grads, int64_t N) {
  constexpr int64_t kChunk = 65536;
  std::vector<double> sums(static_cast<size_t>((N + kChunk - 1) / kChunk));
  for_each_index(static_cast<int64_t>(sums.size()), N > 2 * kChunk, [&](int64_t k) {
    sums[static_cast<size_t>(k)] = sum_of_squares(grads + k * kChunk, std::min(kChunk, N - k * kChunk));
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace cpu::WROUGHT_ISA
