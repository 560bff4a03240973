// Storing new tokens' keys and values in the cache: kernels/kv_cache.h has the layout.
//
// Bound by memory: a token's keys and values are read and written once.
#pragma once

#include "kernels/common.cuh"
#include "kernels/kv_cache.h"

// One thread: as many neighbouring channels of a row's k as 16 bytes hold, and those of v.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(256)
    kv_cache_append_kernel(floatX* cache /* the layer's part of page 0 */, Qkv<const floatX> inp, CacheRows rows,
                           int64_t page /* elements from page to page */, int N, int NKV, int HS) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(HS, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / packs / NKV;
  const int c = static_cast<int>(i % packs) * n, h = static_cast<int>(i / packs % NKV);
  if (row >= N) return;
  const int position = rows.positions[row];
  const int64_t number = rows.pages[int64_t{rows.sequences[row]} * rows.max_pages + position / kPageTokens];
  const int64_t from = row * inp.kv_row + h * HS + c;
  floatX* to = cache + number * page + (h * kPageTokens + position % kPageTokens) * HS + c;
  float key[n], value[n];
  load_floats<kVector>(key, inp.k + from, HS - c);
  load_floats<kVector>(value, inp.v + from, HS - c);
  store_floats<kVector>(to, key, HS - c);
  store_floats<kVector>(to + NKV * kPageTokens * HS, value, HS - c);
}

// N = s.tokens() rows.
template <class floatX>
void kv_cache_append(floatX* cache,                 // (pages, layers, keys | values, NKV, kPageTokens, HS)
                     const Qkv<const floatX>& inp,  // k, v
                     const CacheRows& rows, int layer, int layers, const AttentionShape& s, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const bool vector = aligned16(cache, inp.k, inp.v) && s.HS % n == 0 && inp.kv_row % n == 0;
  launch(vector ? kv_cache_append_kernel<floatX, true> : kv_cache_append_kernel<floatX, false>,
         grid_for(s.tokens() * s.NKV * ceil_div(s.HS, n), kThreads), kThreads, 0, stream,
         cache + layer * page_layer_elements(s), inp, rows, layers * page_layer_elements(s),
         static_cast<int>(s.tokens()), s.NKV, s.HS);
}
