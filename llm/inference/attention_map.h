// Attention weights p[t,u], which no pass keeps (kernels/attention.h), computed from what forward leaves.
#pragma once

#include <vector>

#include "llm/models/cpu_model.h"

// p (NH, T, T) of one sequence: p[h][t][u] is how much of token u head h gives to token t. Rows add up to 1.
// lse (NH, T): as attention_forward leaves it.
inline std::vector<float> attention_weights(const Qkv<const float>& qkv, const float* lse, const AttentionShape& s) {
  const int T = s.T;
  const float scale = 1 / std::sqrt(static_cast<float>(s.HS));
  std::vector<float> p(static_cast<size_t>(s.NH) * T * T, 0);
  for (int h = 0; h < s.NH; ++h) {
    for (int t = 0; t < T; ++t) {
      const float* q = qkv.q + t * qkv.q_row + h * s.HS;
      for (int u = 0; u < (s.causal ? t + 1 : T); ++u) {
        const float* k = qkv.k + u * qkv.kv_row + h / s.sharing() * s.HS;
        p[(static_cast<size_t>(h) * T + t) * T + u] = std::exp(scale * cpu::dot(q, k, s.HS) - lse[h * T + t]);
      }
    }
  }
  return p;
}

// Those of a layer (0 is the first) of GPT-2 for the one sequence of T tokens of the last forward().
inline std::vector<float> attention_weights(const CpuModel<float>& model, int layer, int T) {
  const ModelConfig& c = model.config;
  const AttentionShape shape{1, T, c.num_heads, c.kv_heads(), c.head_size(), c.causal};
  const Gpt2::BlockActivations<float, float>& a = model.acts.block[static_cast<size_t>(layer)];
  return attention_weights(packed_qkv(a.qkv, shape), a.lse, shape);
}
