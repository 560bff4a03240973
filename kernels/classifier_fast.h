// classifier.h with an exp that vectorises.
#pragma once

#include "kernels/classifier.h"
#include "kernels/cpu/exp.h"

namespace cpu::WROUGHT_ISA {

[[gnu::noinline]] inline float row_max(const float* row, int V) {
  float max = row[0];
#pragma omp simd reduction(max : max)
  for (int v = 0; v < V; ++v) max = max < row[v] ? row[v] : max;  // std::max does not vectorise
  return max;
}

// sum(exp(row - max)); in place row = exp(row - max).
[[gnu::noinline]] inline float sum_of_exp(const float* row, float max, int V) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int v = 0; v < V; ++v) sum += exp(row[v] - max);
  return sum;
}
[[gnu::noinline]] inline float take_exp(float* row, float max, int V) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int v = 0; v < V; ++v) {
    row[v] = exp(row[v] - max);
    sum += row[v];
  }
  return sum;
}

inline void classifier_forward(float* losses, const float* logits, const int32_t* targets, int N, int V, int Vp) {
  for_each_index(N, static_cast<int64_t>(N) * V > 10000, [&](int64_t n) {
    const float* row = logits + n * Vp;
    if (targets[n] < 0) {
      losses[n] = 0;
      return;
    }
    const float max = row_max(row, V);
    losses[n] = max + std::log(sum_of_exp(row, max, V)) - row[targets[n]];
  });
}

inline void classifier_backward(float* dlogits, float* losses, const int32_t* targets, const float* weights, int N,
                                int V, int Vp) {
  for_each_index(N, static_cast<int64_t>(N) * V > 10000, [&](int64_t n) {
    float* row = dlogits + n * Vp;
    if (targets[n] < 0) {
      losses[n] = 0;
      std::fill(row, row + Vp, 0.0f);
      return;
    }
    const float max = row_max(row, V), target_logit = row[targets[n]], sum = take_exp(row, max, V);
    losses[n] = max + std::log(sum) - target_logit;
    const float scale = weights[n] / sum;
#pragma omp simd
    for (int v = 0; v < V; ++v) row[v] *= scale;
    row[targets[n]] -= weights[n];
    std::fill(row + V, row + Vp, 0.0f);
  });
}

}  // namespace cpu::WROUGHT_ISA
