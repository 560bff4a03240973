// Softmax and cross-entropy in one:  loss[n] = log(sum_v exp(logits[n,v])) - logits[n,target[n]],
// and its gradient, scaled by a weight per token:  dlogits[n,v] = weight[n] * (p[n,v] - [v == target[n]]).
// The weight is the seam between the model and the task: 1/(B*T) pretrains, 0 masks a token out.
//
// Logits have Vp columns of which V are real; the padding is never read, and its gradient is 0. A target of -1 is
// ignored: loss 0, gradient 0.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/common.h"

namespace cpu {

// Only the loss (evaluation); logits stay as they are.
template <class floatX>
void classifier_forward(accumulate_t<floatX>* losses,  // (N)  not weighted
                        const floatX* logits,          // (N, Vp)
                        const int32_t* targets,        // (N)  in [0, V), or -1: ignored
                        int N, int V, int Vp) {
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    const floatX* row = logits + static_cast<int64_t>(n) * Vp;
    if (targets[n] < 0) {
      losses[n] = 0;
      continue;
    }
    const sum_t max = *std::max_element(row, row + V);
    sum_t sum = 0;
    for (int v = 0; v < V; ++v) sum += std::exp(row[v] - max);
    losses[n] = max + std::log(sum) - row[targets[n]];
  }
}

// Loss and gradient; the gradient overwrites the logits.
template <class floatX>
void classifier_backward(floatX* dlogits,               // (N, Vp)  in: logits, out: dlogits
                         accumulate_t<floatX>* losses,  // (N)  not weighted
                         const int32_t* targets,        // (N)  in [0, V), or -1: ignored
                         const float* weights,          // (N)
                         int N, int V, int Vp) {
  using sum_t = accumulate_t<floatX>;
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    floatX* row = dlogits + static_cast<int64_t>(n) * Vp;
    if (targets[n] < 0) {
      losses[n] = 0;
      std::fill(row, row + Vp, floatX(0));
      continue;
    }
    const sum_t max = *std::max_element(row, row + V);
    const sum_t target_logit = row[targets[n]];
    sum_t sum = 0;
    for (int v = 0; v < V; ++v) {
      row[v] = std::exp(row[v] - max);
      sum += row[v];
    }
    losses[n] = max + std::log(sum) - target_logit;
    const sum_t scale = weights[n] / sum;
    for (int v = 0; v < V; ++v) row[v] *= scale;
    row[targets[n]] -= weights[n];
    std::fill(row + V, row + Vp, floatX(0));
  }
}

}  // namespace cpu
