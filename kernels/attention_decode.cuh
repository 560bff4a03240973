// Attention of new tokens to a cache of keys and values: the maths of attention_decode.h, the cache of kv_cache.h.
//
// Bound by memory: every key and value is read once per row, 2 n HS elements per head, for one multiply-add each. A
// single head would keep only one multiprocessor busy, so keys are cut into chunks of 128, four pages, one block each;
// a chunk leaves its largest score m, sum = sum_u exp(s[u] - m) and acc = sum_u exp(s[u] - m) v[u] in scratch, HS + 2
// floats for 256 HS elements. A second kernel adds the chunks up, in their order, with the largest m of all:
//   out = sum_c exp(m_c - M) acc_c / sum_c exp(m_c - M) sum_c
// The grid covers max_pages, since only the device knows the positions; blocks beyond a row's own end at once. Chunks
// begin at multiples of 128 and are added in their order, so that no row changes with what else a pass holds.
#pragma once

#include <algorithm>

#include "kernels/common.cuh"
#include "kernels/kv_cache.h"
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

// acc += the thread's share of sum_u weights[u] row(u).
template <bool kVector, int n, class Row>
__device__ void add_rows(float (&acc)[n], Row&& row, const float* weights, int count, const DecodeShare& share) {
  if (!share.active) return;
  for (int u = share.part; u < count; u += share.parts) {
    float x[n];
    load_floats<kVector>(x, row(u) + share.pack * n, n);
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

// A block: one chunk of the keys of one head of a row.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kDecodeChunk)
    attention_decode_kernel(float* partial,       // (chunks, N * NH, HS)  acc
                            float* maxima,        // (N * NH, chunks)  m
                            float* sums,          // (N * NH, chunks)  sum
                            const floatX* cache,  // the layer's part of page 0
                            const floatX* q,      // (N, NH, HS), rows q_row apart
                            CacheRows rows, float scale, int64_t page /* elements from page to page */, int64_t q_row,
                            int heads, int NH, int NKV, int HS) {
  wait_for_earlier_kernels();
  constexpr int n = kVector ? Pack<floatX>::size : 1, kPages = kDecodeChunk / kPageTokens;
  __shared__ float scores[kDecodeChunk];
  __shared__ int64_t starts[kPages];  // of the head's keys in each page of the chunk
  __shared__ DecodeSums<n> values;
  float* query = dynamic_shared<float>();  // (n, query_stride)  times 1 / sqrt(HS)
  const int chunk = static_cast<int>(blockIdx.x) / heads, nh = static_cast<int>(blockIdx.x) % heads;
  const int64_t row = nh / NH;
  const int h = nh % NH, keys = min(kDecodeChunk, rows.positions[row] + 1 - chunk * kDecodeChunk);
  if (keys <= 0) return;
  if (const int k = threadIdx.x; k * kPageTokens < keys) {
    const int64_t first = static_cast<int64_t>(rows.sequences[row]) * rows.max_pages + chunk * kPages;
    starts[k] = rows.pages[first + k] * page + h / (NH / NKV) * kPageTokens * HS;
  }
  const int packs = HS / n, stride = query_stride(packs, n);
  for (int i = threadIdx.x; i < HS; i += kDecodeChunk) {
    query[i % n * stride + i / n] = to_float(q[row * q_row + h * HS + i]) * scale;
  }
  __syncthreads();
  const auto key = [&](int u) { return cache + starts[u / kPageTokens] + u % kPageTokens * HS; };

  // Scores: a key has as many lanes as its row has groups of channels, up to a warp.
  int lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  const int lane = static_cast<int>(threadIdx.x) % lanes, at_once = kDecodeChunk / lanes;
  for (int u0 = 0; u0 < keys; u0 += at_once) {
    const int u = u0 + static_cast<int>(threadIdx.x) / lanes;
    float dot = 0;
    if (u < keys) {
      const floatX* from = key(u);
      for (int pack = lane; pack < packs; pack += lanes) {
        float x[n];
        load_floats<kVector>(x, from + pack * n, n);
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
    const int64_t at = static_cast<int64_t>(nh) * (gridDim.x / heads) + chunk;
    maxima[at] = max;
    sums[at] = sum;
  }
  float* to = partial + (static_cast<int64_t>(chunk) * heads + nh) * HS;
  const auto value = [&](int v) { return key(v) + NKV * kPageTokens * HS; };
  for (int pack0 = 0; pack0 < packs; pack0 += kDecodeChunk) {
    const DecodeShare share(packs, pack0);
    float acc[n] = {};
    add_rows<kVector>(acc, value, scores, keys, share);
    if (pack0 > 0) __syncthreads();  // the previous round has been read
    values.put(acc);
    __syncthreads();
    for (int e = threadIdx.x; e < share.across * n && pack0 * n + e < HS; e += kDecodeChunk) {
      to[pack0 * n + e] = values.total(e, share);
    }
  }
}

// A block: one head of a row, over its chunks.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kDecodeChunk)
    attention_decode_combine_kernel(floatX* out,               // (N, NH, HS)
                                    const float* partial,      // (chunks, N * NH, HS)
                                    const float* maxima,       // (N * NH, chunks)
                                    const float* sums,         // (N * NH, chunks)
                                    const int32_t* positions,  // (N)
                                    int heads, int NH, int HS, int max_chunks) {
  wait_for_earlier_kernels();
  constexpr int n = kVector ? Pack<float>::size : 1;
  __shared__ float weights[kDecodeChunk];
  __shared__ DecodeSums<n> values;
  const int nh = static_cast<int>(blockIdx.x), chunks = ceil_div(positions[nh / NH] + 1, kDecodeChunk);
  const int64_t stride = static_cast<int64_t>(heads) * HS, start = static_cast<int64_t>(nh) * max_chunks;
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
      const float* of_head = partial + c0 * stride + static_cast<int64_t>(nh) * HS;
      add_rows<kVector>(
          acc, [&](int chunk) { return of_head + chunk * stride; }, weights, min(kDecodeChunk, chunks - c0), share);
    }
    if (pack0 == 0) sum = block_sum(sum);
    values.put(acc);
    __syncthreads();
    for (int e = threadIdx.x; e < share.across * n && pack0 * n + e < HS; e += kDecodeChunk) {
      out[static_cast<int64_t>(nh) * HS + pack0 * n + e] = from_float<floatX>(values.total(e, share) / sum);
    }
  }
}

// N = s.tokens() rows, as many at a time as there is scratch for.
template <class floatX>
void attention_decode(floatX* out,                   // (N, NH, HS)
                      void* scratch,                 // attention_decode_scratch() bytes
                      const floatX* cache,           // (pages, layers, keys | values, NKV, kPageTokens, HS)
                      const Qkv<const floatX>& inp,  // q
                      const CacheRows& rows, int layer, int layers, const AttentionShape& s, cudaStream_t stream) {
  const int NH = s.NH, HS = s.HS, N = static_cast<int>(s.tokens());
  const int chunks = ceil_div(rows.max_pages, kDecodeChunk / kPageTokens);
  const int at_once = decode_rows_at_once(N, NH, HS, rows.max_pages * kPageTokens);
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(HS)));
  const bool vector = HS % Pack<floatX>::size == 0 && aligned16(scratch, cache);
  const auto decode = vector ? attention_decode_kernel<floatX, true> : attention_decode_kernel<floatX, false>;
  const auto combine =
      vector ? attention_decode_combine_kernel<floatX, true> : attention_decode_combine_kernel<floatX, false>;
  const size_t query_bytes = query_stride(HS, 1) * sizeof(float);  // of whichever kernel: n query_stride(HS / n, n)
  for (int first = 0; first < N; first += at_once) {
    const int heads = std::min(at_once, N - first) * NH;
    float* partial = static_cast<float*>(scratch);
    float* maxima = partial + static_cast<int64_t>(chunks) * heads * HS;
    float* sums = maxima + static_cast<int64_t>(chunks) * heads;
    const CacheRows these{rows.positions + first, rows.sequences + first, rows.pages, rows.max_pages};
    launch(decode, grid_for(static_cast<int64_t>(chunks) * heads, 1), kDecodeChunk, query_bytes, stream, partial,
           maxima, sums, cache + layer * page_layer_elements(s), inp.q + first * inp.q_row, these, scale,
           layers * page_layer_elements(s), inp.q_row, heads, NH, s.NKV, HS);
    launch(combine, heads, kDecodeChunk, 0, stream, out + static_cast<int64_t>(first) * NH * HS, partial, maxima, sums,
           these.positions, heads, NH, HS, chunks);
  }
}
