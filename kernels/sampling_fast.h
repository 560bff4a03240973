// sampling.h on vectors.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/sampling.h"

namespace cpu::WROUGHT_ISA {

// exp(x) for x <= 0; 0 below -708. As in exp.h: x = n ln 2 + r, exp(x) = 2^n exp(r), here with exp(r)'s series up to
// r^10 / 10!: with |r| <= 0.347 the first term left out is at most 2.2e-13.
inline double exp_of_negative(double x) {
  constexpr double kLog2e = 1.4426950408889634, kLn2High = 0.693147180369123816, kLn2Low = 1.90821492927058770e-10;
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double clamped = x < -708.0 ? -708.0 : x;
  const double shifted = clamped * kLog2e + kRound;
  const double n = shifted - kRound;
  const double r = (clamped - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t scaled = std::bit_cast<uint64_t>(p) + (std::bit_cast<uint64_t>(shifted) << 52);
  return x < -708.0 ? 0.0 : std::bit_cast<double>(scaled);
}

inline bool block_maxima(float* maxima, const float* logits, int V) {
  IntVec nan{};
  for (int begin = 0; begin < V; begin += kSamplingBlock) {
    const int n = std::min(V - begin, kSamplingBlock);
    Vec max = broadcast(-__builtin_inff());
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const Vec x = load(logits + begin + i);
      max = x > max ? x : max;
      nan |= x != x;
    }
    float largest = max[0];
    for (int lane = 1; lane < kLanes; ++lane) largest = std::max(largest, max[lane]);
    for (; i < n; ++i) {
      const float x = logits[begin + i];
      largest = std::max(largest, x);
      nan[0] |= x != x;
    }
    maxima[begin / kSamplingBlock] = largest;
  }
  int any = 0;
  for (int lane = 0; lane < kLanes; ++lane) any |= nan[lane];
  return any == 0;
}

[[gnu::noinline]] inline void softmax_weights(double* weights, const float* logits, float max, double scale, int N) {
#pragma omp simd
  for (int i = 0; i < N; ++i) weights[i] = exp_of_negative(static_cast<double>(logits[i] - max) * scale);
}

[[gnu::noinline]] inline double sum_of_weights(const float* logits, float max, double scale, int N) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < N; ++i) sum += exp_of_negative(static_cast<double>(logits[i] - max) * scale);
  return sum;
}

inline void softmax_block_sums(double* sums, const float* logits, float max, double scale, int V) {
  for (int begin = 0; begin < V; begin += kSamplingBlock)
    sums[begin / kSamplingBlock] = sum_of_weights(logits + begin, max, scale, std::min(V - begin, kSamplingBlock));
}

[[gnu::noinline]] inline double softmax_sum(const float* logits, float max, int V) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < V; ++i) sum += exp_of_negative(static_cast<double>(logits[i]) - static_cast<double>(max));
  return sum;
}

}  // namespace cpu::WROUGHT_ISA
