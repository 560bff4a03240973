// Attention of one new query per head to a cache of keys and values: the maths of attention_decode.h.
//
// Bound by memory: every key and value is read once, 2 n HS elements per head, for one multiply-add each. A single head
// would keep only one multiprocessor busy, so keys are cut into chunks of 128, one block each; a chunk leaves its
// largest score m, sum = sum_u exp(s[u] - m) and acc = sum_u exp(s[u] - m) v[u] in scratch, HS + 2 floats for 256 HS
// elements. A second kernel adds the chunks up, in their order, with the largest m of all:
//   out = sum_c exp(m_c - M) acc_c / sum_c exp(m_c - M) sum_c
// The grid covers max_T keys, since only the device knows the lengths; blocks beyond a length end at once.
#pragma once

#include "kernels/common.cuh"
#include "kernels/scratch.h"

// A thread's place in a sum over rows of `packs` groups of n channels: group `pack` of every parts-th row, from row
// `part` on. Neighbouring threads read a row from end to end. Rows of more groups than threads take several rounds.
struct DecodeShare {
  int across, part, parts, pack;
  bool active;

  __device__ DecodeShare(int packs, int first_pack) {
    across = min(packs, kDecodeChunk);
    parts = kDecodeChunk / across;
    part = static_cast<int>(threadIdx.x) / across;
    pack = first_pack + static_cast<int>(threadIdx.x) % across;
    active = part < parts && pack < packs;
  }
};

// acc += the thread's share of sum_u weights[u] rows[u], rows `stride` elements apart.
template <bool kVector, int n, class T>
__device__ void add_rows(float (&acc)[n], const T* rows, int64_t stride, const float* weights, int count,
                         const DecodeShare& share) {
  if (!share.active) return;
  for (int u = share.part; u < count; u += share.parts) {
    float x[n];
    load_floats<kVector>(x, rows + u * stride + share.pack * n, n);
    const float weight = weights[u];
#pragma unroll
    for (int i = 0; i < n; ++i) acc[i] += weight * x[i];
  }
}

// What the threads' acc of a round add up to: channel e of its share.across groups, over all parts in their order. Each
// thread adds up other channels than those in its acc, so that neighbouring threads store neighbouring channels.
template <int n>
struct DecodeSums {
  static constexpr int kStride = kDecodeChunk + 32 / n;  // 32 channels, n a pack, lie in 32 banks
  float values[n * kStride];

  __device__ void put(const float (&acc)[n]) {
#pragma unroll
    for (int i = 0; i < n; ++i) values[i * kStride + threadIdx.x] = acc[i];
  }
  __device__ float total(int e, const DecodeShare& share) const {
    float sum = 0;
    for (int part = 0; part < share.parts; ++part) sum += values[e % n * kStride + part * share.across + e / n];
    return sum;
  }
};

// The query in shared memory by packs of n channels: first all packs' first channels, then, this many floats later, all
// their second ones. 32 neighbouring channels lie in 32 banks, and so do the same ones of 32 packs.
inline __host__ __device__ int query_stride(int packs, int n) { return ceil_div(packs, 64 / n) * (64 / n) + 32 / n; }

// A block: one chunk of one head's keys.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kDecodeChunk)
    attention_decode_kernel(float* partial,          // (chunks, B * NH, HS)  acc
                            float* maxima,           // (B * NH, chunks)  m
                            float* sums,             // (B * NH, chunks)  sum
                            const floatX* q,         // (B, NH, HS)
                            const floatX* k_cache,   // (B, NKV, max_T, HS)
                            const floatX* v_cache,   // (B, NKV, max_T, HS)
                            const int32_t* lengths,  // (B)
                            float scale, int heads, int NH, int sharing /* NH / NKV */, int HS, int max_T) {
  wait_for_earlier_kernels();
  constexpr int n = kVector ? Pack<floatX>::size : 1;
  __shared__ float scores[kDecodeChunk];
  __shared__ DecodeSums<n> values;
  float* query = dynamic_shared<float>();  // (n, query_stride)  times 1 / sqrt(HS)
  const int chunk = static_cast<int>(blockIdx.x) / heads, bh = static_cast<int>(blockIdx.x) % heads;
  const int first = chunk * kDecodeChunk, keys = min(kDecodeChunk, lengths[bh / NH] - first);
  if (keys <= 0) return;
  const int64_t start = (static_cast<int64_t>(bh / sharing) * max_T + first) * HS;
  const int packs = HS / n, stride = query_stride(packs, n);
  for (int i = threadIdx.x; i < HS; i += kDecodeChunk) {
    query[i % n * stride + i / n] = to_float(q[static_cast<int64_t>(bh) * HS + i]) * scale;
  }
  __syncthreads();

  // Scores: a key has as many lanes as its row has groups of channels, up to a warp.
  int lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  const int lane = static_cast<int>(threadIdx.x) % lanes, at_once = kDecodeChunk / lanes;
  for (int u0 = 0; u0 < keys; u0 += at_once) {
    const int u = u0 + static_cast<int>(threadIdx.x) / lanes;
    float dot = 0;
    if (u < keys) {
      for (int pack = lane; pack < packs; pack += lanes) {
        float x[n];
        load_floats<kVector>(x, k_cache + start + static_cast<int64_t>(u) * HS + pack * n, n);
#pragma unroll
        for (int i = 0; i < n; ++i) dot += query[i * stride + pack] * x[i];
      }
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2) dot += __shfl_xor_sync(kFullWarp, dot, offset);
    if (lane == 0 && u < keys) scores[u] = dot;
  }
  __syncthreads();
  const int u = threadIdx.x;
  const float score = u < keys ? scores[u] : -INFINITY, max = block_max(score), p = expf(score - max);
  scores[u] = p;
  const float sum = block_sum(p);  // its barriers also make all probabilities visible
  if (u == 0) {
    const int64_t at = static_cast<int64_t>(bh) * (gridDim.x / heads) + chunk;
    maxima[at] = max;
    sums[at] = sum;
  }
  float* to = partial + (static_cast<int64_t>(chunk) * heads + bh) * HS;
  for (int pack0 = 0; pack0 < packs; pack0 += kDecodeChunk) {
    const DecodeShare share(packs, pack0);
    float acc[n] = {};
    add_rows<kVector>(acc, v_cache + start, HS, scores, keys, share);
    if (pack0 > 0) __syncthreads();  // the previous round has been read
    values.put(acc);
    __syncthreads();
    for (int e = threadIdx.x; e < share.across * n && pack0 * n + e < HS; e += kDecodeChunk) {
      to[pack0 * n + e] = values.total(e, share);
    }
  }
}

// A block: one head, over the chunks of its length.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kDecodeChunk)
    attention_decode_combine_kernel(floatX* out,             // (B, NH, HS)
                                    const float* partial,    // (chunks, B * NH, HS)
                                    const float* maxima,     // (B * NH, chunks)
                                    const float* sums,       // (B * NH, chunks)
                                    const int32_t* lengths,  // (B)
                                    int heads, int NH, int HS, int max_chunks) {
  wait_for_earlier_kernels();
  constexpr int n = kVector ? Pack<float>::size : 1;
  __shared__ float weights[kDecodeChunk];
  __shared__ DecodeSums<n> values;
  const int bh = static_cast<int>(blockIdx.x), chunks = ceil_div(lengths[bh / NH], kDecodeChunk);
  const int64_t stride = static_cast<int64_t>(heads) * HS, start = static_cast<int64_t>(bh) * max_chunks;
  float max = -INFINITY, sum = 0;
  for (int c = threadIdx.x; c < chunks; c += kDecodeChunk) max = fmaxf(max, maxima[start + c]);
  max = block_max(max);
  const int packs = HS / n;
  for (int pack0 = 0; pack0 < packs; pack0 += kDecodeChunk) {
    const DecodeShare share(packs, pack0);
    float acc[n] = {};
    for (int c0 = 0; c0 < chunks; c0 += kDecodeChunk) {
      const int c = c0 + static_cast<int>(threadIdx.x);
      __syncthreads();  // the previous weights and the previous round's values have been read
      if (c < chunks) {
        const float weight = expf(maxima[start + c] - max);
        weights[threadIdx.x] = weight;
        if (pack0 == 0) sum += weight * sums[start + c];
      }
      __syncthreads();
      add_rows<kVector>(acc, partial + c0 * stride + static_cast<int64_t>(bh) * HS, stride, weights,
                        min(kDecodeChunk, chunks - c0), share);
    }
    if (pack0 == 0) sum = block_sum(sum);
    values.put(acc);
    __syncthreads();
    for (int e = threadIdx.x; e < share.across * n && pack0 * n + e < HS; e += kDecodeChunk) {
      out[static_cast<int64_t>(bh) * HS + pack0 * n + e] = from_float<floatX>(values.total(e, share) / sum);
    }
  }
}

template <class floatX>
void attention_decode(floatX* out,             // (B, NH, HS)
                      void* scratch,           // attention_decode_scratch() bytes
                      const floatX* q,         // (B, NH, HS)
                      const floatX* k_cache,   // (B, NKV, max_T, HS)
                      const floatX* v_cache,   // (B, NKV, max_T, HS)
                      const int32_t* lengths,  // (B)  1 to max_T; what the caches hold beyond is not read
                      int B, int NH, int NKV, int HS, int max_T, cudaStream_t stream) {
  const int chunks = ceil_div(max_T, kDecodeChunk), heads = B * NH;
  float* partial = static_cast<float*>(scratch);
  float* maxima = partial + static_cast<int64_t>(chunks) * heads * HS;
  float* sums = maxima + static_cast<int64_t>(chunks) * heads;
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(HS)));
  const bool vector = HS % Pack<floatX>::size == 0 && aligned16(scratch, k_cache, v_cache);
  const auto decode = vector ? attention_decode_kernel<floatX, true> : attention_decode_kernel<floatX, false>;
  const auto combine =
      vector ? attention_decode_combine_kernel<floatX, true> : attention_decode_combine_kernel<floatX, false>;
  const size_t query_bytes = query_stride(HS, 1) * sizeof(float);  // of whichever kernel: n query_stride(HS / n, n)
  launch(decode, grid_for(static_cast<int64_t>(chunks) * heads, 1), kDecodeChunk, query_bytes, stream, partial, maxima,
         sums, q, k_cache, v_cache, lengths, scale, heads, NH, NH / NKV, HS, max_T);
  launch(combine, heads, kDecodeChunk, 0, stream, out, partial, maxima, sums, lengths, heads, NH, HS, chunks);
}
