// What a sampler reads of a row of logits: its largest values, and the numerators of its softmax, exp((logit - max) *
// scale): the difference in float, the rest in double. Maxima and sums are those of blocks, so that the blocks which
// cannot matter are skipped. For one thread.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/common.h"

namespace cpu {

inline constexpr int kSamplingBlock = 64;  // the last block of a row may be shorter

// A softmax_weight or a sum of them is off by at most this share of itself, and weights below exp(-708) may be 0.
inline constexpr double kSamplingError = 5e-13;

// Returns false if a logit is NaN; the maxima are then those of the other logits.
inline bool block_maxima(float* maxima,        // (ceil(V / kSamplingBlock))
                         const float* logits,  // (V)
                         int V) {
  bool numbers = true;
  for (int begin = 0; begin < V; begin += kSamplingBlock) {
    float max = -INFINITY;
    for (int i = begin; i < std::min(V, begin + kSamplingBlock); ++i) {
      max = std::max(max, logits[i]);
      numbers = numbers && !std::isnan(logits[i]);
    }
    maxima[begin / kSamplingBlock] = max;
  }
  return numbers;
}

// `max` is finite and at least every logit, `scale` at least 0: the weights are in [0, 1].
inline void softmax_weights(double* weights,      // (N)
                            const float* logits,  // (N)
                            float max, double scale, int N) {
  for (int i = 0; i < N; ++i) weights[i] = std::exp(static_cast<double>(logits[i] - max) * scale);
}

// The sums of each block's weights.
inline void softmax_block_sums(double* sums,         // (ceil(V / kSamplingBlock))
                               const float* logits,  // (V)
                               float max, double scale, int V) {
  for (int begin = 0; begin < V; begin += kSamplingBlock) {
    double weights[kSamplingBlock];
    const int n = std::min(V - begin, kSamplingBlock);
    softmax_weights(weights, logits + begin, max, scale, n);
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += weights[i];
    sums[begin / kSamplingBlock] = sum;
  }
}

// The denominator of the model's own softmax: the sum of exp(logit - max), the difference in double.
inline double softmax_sum(const float* logits,  // (V)
                          float max, int V) {
  double sum = 0;
  for (int i = 0; i < V; ++i) sum += std::exp(static_cast<double>(logits[i]) - static_cast<double>(max));
  return sum;
}

}  // namespace cpu
