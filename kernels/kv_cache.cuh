// Storing new tokens' keys and values in the cache: kernels/kv_cache.h has the layout.
//
// Bound by memory: 2 C elements per token are read and written, 3 C with the queries.
#pragma once

#include "kernels/common.cuh"

// One thread: as many neighbouring channels of a token's q, k or v as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(256)
    kv_cache_append_kernel(floatX* q, floatX* k_cache, floatX* v_cache, const floatX* inp, int first, int BT, int T,
                           int NH, int HS, int max_T) {
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(HS, n), parts = q ? 3 : 2;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int c = static_cast<int>(i % packs) * n, h = static_cast<int>(i / packs % NH);
  const int part = static_cast<int>(i / packs / NH % parts) + 3 - parts;  // 0: q, 1: k, 2: v
  const int64_t bt = i / packs / NH / parts;
  if (bt >= BT) return;
  float x[n];
  load_floats<kVector>(x, inp + ((bt * 3 + part) * NH + h) * HS + c, HS - c);
  floatX* to = part == 0 ? q + (bt * NH + h) * HS
                         : (part == 1 ? k_cache : v_cache) + ((bt / T * NH + h) * max_T + first + bt % T) * HS;
  store_floats<kVector>(to + c, x, HS - c);
}

// Tokens first to first + T - 1 of B sequences.
template <class floatX>
void kv_cache_append(floatX* q,          // (B, T, NH, HS)  the queries, contiguous; null: not needed
                     floatX* k_cache,    // (B, NH, max_T, HS)
                     floatX* v_cache,    // (B, NH, max_T, HS)
                     const floatX* inp,  // (B, T, 3, NH, HS)  q, k, v
                     int first, int B, int T, int NH, int HS, int max_T, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const bool vector = aligned16(q, k_cache, v_cache, inp) && HS % n == 0;
  launch(vector ? kv_cache_append_kernel<floatX, true> : kv_cache_append_kernel<floatX, false>,
         grid_for(static_cast<int64_t>(B) * T * (q ? 3 : 2) * NH * ceil_div(HS, n), kThreads), kThreads, 0, stream, q,
         k_cache, v_cache, inp, first, B * T, T, NH, HS, max_T);
}
