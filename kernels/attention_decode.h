// Attention of one new query per head to the keys and values of the tokens before it, kept in a cache: a step of
// generation. NH / NKV heads of queries share a head of keys and values (attention_shape.h). With n = lengths[b] keys
// (the newest token's own among them) and HS channels per head:
//   s[u] = q . k[u] / sqrt(HS) for u < n     p = softmax(s)     out = sum_u p[u] v[u]
// It is the last row of attention_forward (attention.h) over the same n tokens, without dropout.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/common.h"

namespace cpu {

template <class floatX>
void attention_decode(floatX* out,             // (B, NH, HS)
                      const floatX* q,         // (B, NH, HS)
                      const floatX* k_cache,   // (B, NKV, max_T, HS)
                      const floatX* v_cache,   // (B, NKV, max_T, HS)
                      const int32_t* lengths,  // (B)  1 to max_T; what the caches hold beyond is not read
                      int B, int NH, int NKV, int HS, int max_T) {
  using sum_t = accumulate_t<floatX>;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(HS));
#pragma omp parallel for
  for (int bh = 0; bh < B * NH; ++bh) {
    const int n = lengths[bh / NH];
    const floatX* qh = q + static_cast<int64_t>(bh) * HS;
    const int64_t start = static_cast<int64_t>(bh / (NH / NKV)) * max_T * HS;
    const floatX *k = k_cache + start, *v = v_cache + start;
    std::vector<sum_t> p(n), y(HS, 0);
    for (int u = 0; u < n; ++u) p[u] = scale * dot(qh, k + static_cast<int64_t>(u) * HS, HS);
    const sum_t max = *std::max_element(p.begin(), p.end());
    sum_t sum = 0;
    for (sum_t& x : p) sum += x = std::exp(x - max);
    for (int u = 0; u < n; ++u) {
      for (int i = 0; i < HS; ++i) y[i] += p[u] * v[static_cast<int64_t>(u) * HS + i];
    }
    for (int i = 0; i < HS; ++i) out[static_cast<int64_t>(bh) * HS + i] = y[i] / sum;
  }
}

}  // namespace cpu
