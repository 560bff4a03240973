// The cache of keys and values that attention_decode.h reads, and storing those of new tokens.
//
// It consists of pages, each for kPageTokens tokens of a sequence. A sequence has any pages, in any order, and shares
// some with sequences that begin as it does. A page is contiguous, with the keys and values of all layers:
//   cache (pages, layers, keys | values, NKV, kPageTokens, HS)
#pragma once

#include <algorithm>

#include "kernels/attention_shape.h"
#include "kernels/common.h"

inline constexpr int kPageTokens = 32;
constexpr int pages_of(int tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// The rows of a pass, each a token of some sequence, in the memory of the device. Token t of sequence s is number
// t % kPageTokens of page pages[s, t / kPageTokens].
struct CacheRows {
  const int32_t* positions = nullptr;  // (N)  of the token in its sequence
  const int32_t* sequences = nullptr;  // (N)
  const int32_t* pages = nullptr;      // (S, max_pages)  beyond a sequence's last token: not read
  int max_pages = 0;
};

// Elements of a layer's keys and values in a page.
inline int64_t page_layer_elements(const AttentionShape& s) { return int64_t{2} * kPageTokens * s.kv_channels(); }

namespace cpu {

// Where token t of row n's sequence is in the cache: element 0 of its first head of keys. Those of the next head are
// kPageTokens HS elements further on; the values follow the keys.
inline int64_t cache_offset(const CacheRows& rows, int64_t n, int64_t t, int layer, int layers,
                            const AttentionShape& s) {
  const int64_t page = rows.pages[int64_t{rows.sequences[n]} * rows.max_pages + t / kPageTokens];
  return (page * layers + layer) * page_layer_elements(s) + t % kPageTokens * s.HS;
}

// N = s.tokens() rows.
template <class floatX>
void kv_cache_append(floatX* cache,                 // (pages, layers, keys | values, NKV, kPageTokens, HS)
                     const Qkv<const floatX>& inp,  // k, v
                     const CacheRows& rows, int layer, int layers, const AttentionShape& s) {
#pragma omp parallel for
  for (int64_t n = 0; n < s.tokens(); ++n) {
    floatX* keys = cache + cache_offset(rows, n, rows.positions[n], layer, layers, s);
    floatX* values = keys + page_layer_elements(s) / 2;
    for (int64_t h = 0; h < s.NKV; ++h) {
      const int64_t from = n * inp.kv_row + h * s.HS, to = h * kPageTokens * s.HS;
      std::copy_n(inp.k + from, s.HS, keys + to);
      std::copy_n(inp.v + from, s.HS, values + to);
    }
  }
}

}  // namespace cpu
