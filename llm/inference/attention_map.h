// Attention weights p[t,u], which no pass keeps (kernels/attention.h), computed from what forward leaves.
#pragma once

#include <vector>

#include "llm/models/cpu_model.h"

// p (NH, T, T) of a layer (0 is the first) for the one sequence of T tokens of the last forward(): p[h][t][u] is how
// much of token u head h gives to token t. Rows add up to 1.
inline std::vector<float> attention_weights(const CpuModel<float>& model, int layer, int T) {
  const int C = model.config.channels, NH = model.config.num_heads, HS = C / NH;
  const BlockActivations<float>& a = model.acts.block[static_cast<size_t>(layer)];
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  std::vector<float> p(static_cast<size_t>(NH) * T * T, 0);
  for (int h = 0; h < NH; ++h) {
    for (int t = 0; t < T; ++t) {
      const float* q = a.qkv + int64_t{t} * 3 * C + h * HS;
      const int seen = model.config.causal ? t + 1 : T;
      for (int u = 0; u < seen; ++u) {
        const float* k = a.qkv + int64_t{u} * 3 * C + C + h * HS;
        p[(static_cast<size_t>(h) * T + t) * T + u] = std::exp(scale * cpu::dot(q, k, HS) - a.lse[h * T + t]);
      }
    }
  }
  return p;
}
