// Storing new tokens' keys and values in the cache: kernels/kv_cache.h has the layout.
//
// Bound by memory: a token's keys and values are read and written once, and its queries too if they are wanted.
#pragma once

#include "kernels/attention_shape.h"
#include "kernels/common.cuh"

// One thread: as many neighbouring channels of a token's q, k or v as 16 bytes hold.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(256)
    kv_cache_append_kernel(floatX* q, floatX* k_cache, floatX* v_cache, Qkv<const floatX> inp, const int32_t* first,
                           int BT, int T, int NH, int NKV, int HS, int max_T) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const int packs = ceil_div(HS, n), queries = q ? NH : 0, heads = queries + 2 * NKV;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int c = static_cast<int>(i % packs) * n, head = static_cast<int>(i / packs % heads);
  const int64_t bt = i / packs / heads;
  if (bt >= BT) return;
  const floatX* from = inp.q + bt * inp.q_row + head * HS;
  floatX* to = q + (bt * NH + head) * HS;
  if (head >= queries) {
    const bool values = head >= queries + NKV;
    const int h = head - queries - (values ? NKV : 0);
    const int64_t position = bt % T - (first ? first[bt / T] : 0);
    from = (values ? inp.v : inp.k) + bt * inp.kv_row + h * HS;
    to = (values ? v_cache : k_cache) + ((bt / T * NKV + h) * max_T + position) * HS;
  }
  float x[n];
  load_floats<kVector>(x, from + c, HS - c);
  store_floats<kVector>(to + c, x, HS - c);
}

// T tokens of each of B sequences (attention_shape.h).
template <class floatX>
void kv_cache_append(floatX* q,                     // (B, T, NH, HS)  the queries, contiguous; null: not needed
                     floatX* k_cache,               // (B, NKV, max_T, HS)
                     floatX* v_cache,               // (B, NKV, max_T, HS)
                     const Qkv<const floatX>& inp,  // q, k, v
                     const int32_t* first,          // (B)  token t of sequence b has position t - first[b]; null: t
                     const AttentionShape& s, int max_T, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kThreads = 256;
  const bool vector =
      aligned16(q, k_cache, v_cache, inp.q, inp.k, inp.v) && s.HS % n == 0 && inp.q_row % n == 0 && inp.kv_row % n == 0;
  const int64_t heads = (q ? s.NH : 0) + 2 * s.NKV;
  launch(vector ? kv_cache_append_kernel<floatX, true> : kv_cache_append_kernel<floatX, false>,
         grid_for(s.tokens() * heads * ceil_div(s.HS, n), kThreads), kThreads, 0, stream, q, k_cache, v_cache, inp,
         first, static_cast<int>(s.tokens()), s.T, s.NH, s.NKV, s.HS, max_T);
}
