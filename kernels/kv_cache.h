// The cache of keys and values that attention_decode.h reads: storing those of new tokens.
#pragma once

#include <algorithm>

#include "kernels/common.h"

namespace cpu {

// Tokens first to first + T - 1 of B sequences.
template <class floatX>
void kv_cache_append(floatX* q,          // (B, T, NH, HS)  the queries, contiguous; null: not needed
                     floatX* k_cache,    // (B, NH, max_T, HS)
                     floatX* v_cache,    // (B, NH, max_T, HS)
                     const floatX* inp,  // (B, T, 3, NH, HS)  q, k, v
                     int first, int B, int T, int NH, int HS, int max_T) {
  const int64_t C = int64_t{NH} * HS;
#pragma omp parallel for
  for (int bt = 0; bt < B * T; ++bt) {
    const floatX* from = inp + bt * 3 * C;
    if (q) std::copy(from, from + C, q + bt * C);
    for (int h = 0; h < NH; ++h) {
      const int64_t to = ((int64_t{bt / T} * NH + h) * max_T + first + bt % T) * HS;
      std::copy(from + C + h * HS, from + C + (h + 1) * HS, k_cache + to);
      std::copy(from + 2 * C + h * HS, from + 2 * C + (h + 1) * HS, v_cache + to);
    }
  }
}

}  // namespace cpu
