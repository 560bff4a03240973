// Attention of new tokens to the keys and values of their sequences, kept in a cache of pages (kv_cache.h): generation.
// NH / NKV heads of queries share a head of keys and values (attention_shape.h). Each row has one query per head; with
// n = positions + 1 keys (the token's own among them) and HS channels per head:
//   s[u] = q . k[u] / sqrt(HS) for u < n     p = softmax(s)     out = sum_u p[u] v[u]
// It is row n of attention_forward (attention.h) over the sequence, without dropout. A row's bits depend only on its
// own query, keys and values: not on other rows, nor on the numbers of its pages.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/common.h"
#include "kernels/kv_cache.h"

namespace cpu {

// N = s.tokens() rows.
template <class floatX>
void attention_decode(floatX* out,                   // (N, NH, HS)
                      const floatX* cache,           // (pages, layers, keys | values, NKV, kPageTokens, HS)
                      const Qkv<const floatX>& inp,  // q
                      const CacheRows& rows, int layer, int layers, const AttentionShape& s) {
  using sum_t = accumulate_t<floatX>;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(s.HS));
  const int HS = s.HS;
#pragma omp parallel for
  for (int64_t nh = 0; nh < s.tokens() * s.NH; ++nh) {
    const int64_t row = nh / s.NH, h = nh % s.NH;
    const int n = rows.positions[row] + 1;
    const floatX* query = inp.q + row * inp.q_row + h * HS;
    const auto key = [&](int u) {
      return cache + cache_offset(rows, row, u, layer, layers, s) + h / s.sharing() * kPageTokens * HS;
    };
    std::vector<sum_t> p(n), y(HS, 0);
    for (int u = 0; u < n; ++u) p[u] = scale * dot(query, key(u), HS);
    const sum_t max = *std::max_element(p.begin(), p.end());
    sum_t sum = 0;
    for (sum_t& x : p) sum += x = std::exp(x - max);
    for (int u = 0; u < n; ++u) {
      const floatX* value = key(u) + page_layer_elements(s) / 2;
      for (int i = 0; i < HS; ++i) y[i] += p[u] * value[i];
    }
    for (int i = 0; i < HS; ++i) out[nh * HS + i] = y[i] / sum;
  }
}

}  // namespace cpu
