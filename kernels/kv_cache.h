// The cache of keys and values that attention_decode.h reads: storing those of new tokens.
#pragma once

#include <algorithm>

#include "kernels/attention_shape.h"
#include "kernels/common.h"

namespace cpu {

// T tokens of each of B sequences (attention_shape.h).
template <class floatX>
void kv_cache_append(floatX* q,                     // (B, T, NH, HS)  the queries, contiguous; null: not needed
                     floatX* k_cache,               // (B, NKV, max_T, HS)
                     floatX* v_cache,               // (B, NKV, max_T, HS)
                     const Qkv<const floatX>& inp,  // q, k, v
                     const int32_t* first,          // (B)  token t of sequence b has position t - first[b]; null: t
                     const AttentionShape& s, int max_T) {
  const int64_t HS = s.HS;
#pragma omp parallel for
  for (int64_t bt = 0; bt < s.tokens(); ++bt) {
    const int64_t b = bt / s.T, position = bt % s.T - (first ? first[b] : 0);
    if (q) std::copy_n(inp.q + bt * inp.q_row, s.channels(), q + bt * s.channels());
    for (int64_t h = 0; h < s.NKV; ++h) {
      const int64_t from = bt * inp.kv_row + h * HS, to = ((b * s.NKV + h) * max_T + position) * HS;
      std::copy_n(inp.k + from, HS, k_cache + to);
      std::copy_n(inp.v + from, HS, v_cache + to);
    }
  }
}

}  // namespace cpu
