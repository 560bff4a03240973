// Flash attention (Dao et al. 2022; 2023) in float arithmetic, for any storage type and any head size. The maths is in
// attention.h; this file adds the order of the work.
//
// A block owns a tile of 64 rows of one head (queries, or keys where dk and dv are summed) and walks over the tiles of
// the others, 64 rows at a time. A tile's 64 x 64 scores live in registers, 4 x 4 per thread, and are gone after use:
// no memory of size T x T. The softmax is computed online (Milakov and Gimelshein 2018): with the largest score m so
// far,
//   sum = sum_u exp(s[u] - m)    acc = sum_u exp(s[u] - m) v[u]
// and where a tile brings a larger m', both are multiplied by exp(m - m'). At the end out = acc / sum and lse = m +
// log(sum).
//
// Channels come in slices of 64. A head of at most 64 channels is one slice, loaded once. A larger one has one block
// per slice of the output, and each of them computes all scores, slice after slice.
//
// Threads are 16 x 16: thread (y, x) has rows y + 16 r and columns x + 16 c of the scores, and channels 4 x to 4 x + 3
// of the outputs. Rows of a tile lie 68 floats apart: eight threads that read 16 bytes each of eight consecutive rows
// touch all 32 banks once. Rows of scores, which a warp writes 16 numbers of two rows at a time, lie 80 apart.
#pragma once

#include <algorithm>
#include <cfloat>

#include "kernels/attention_shape.h"
#include "kernels/common.cuh"
#include "kernels/dropout.cuh"

// What an attention kernel needs in addition to its tensors: the shape, the mask and dropout.
struct AttentionProblem {
  int T, C, NH, NKV, HS;  // C: channels of all heads of queries
  int sharing;            // heads of queries per head of keys
  int heads;              // B * NH, or B * NKV in a kernel of keys
  int section;            // heads whose blocks run at the same time: attention_section()
  int keys_section;       // the same in a kernel of keys
  float scale;            // 1 / sqrt(HS)
  float dropout;
  uint64_t seed;
  DropoutSequence sequence;
  bool causal;               // query t sees keys up to t; else all T
  const int32_t* documents;  // (B, T)  where the document of each position begins (attention.h), or null

  // For a kernel whose blocks own keys.
  AttentionProblem by_keys() const {
    AttentionProblem s = *this;
    s.heads = heads / sharing, s.section = keys_section;
    return s;
  }

  __device__ int keys_of(int t) const { return causal ? t + 1 : T; }

  // Where query t's document begins: the first key that it sees. Queries beyond T belong to the last document.
  template <bool kDocuments>
  __device__ int first_key(int bh, int t) const {
    return kDocuments ? documents[static_cast<int64_t>(bh / NH) * T + min(t, T - 1)] : 0;
  }
  // The first query that sees no key up to u: the first of the next document. `documents` never falls: by bisection.
  template <bool kDocuments>
  __device__ int queries_end(int bh, int u) const {
    int low = kDocuments ? min(u + 1, T) : T, high = T;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (first_key<kDocuments>(bh, middle) > u) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // Where token 0 of head bh, or of head b_kv of the keys, starts in rows of this many elements. Head bh is one of the
  // `sharing` heads of queries from b_kv * sharing on.
  __device__ int64_t start(int bh, int64_t row) const { return bh / NH * (T * row) + bh % NH * HS; }
  __device__ int64_t keys_start(int b_kv, int64_t row) const { return b_kv / NKV * (T * row) + b_kv % NKV * HS; }
  // The number of probability (t, 0) in dropout's sequence; that of (t, u) is u more.
  __device__ uint64_t element(int bh, int t) const {
    return (static_cast<uint64_t>(bh) * static_cast<uint64_t>(T) + static_cast<uint64_t>(t)) * static_cast<uint64_t>(T);
  }
};

// Elements from one token to the next: of inp and, in the backward pass, of dinp.
struct AttentionRows {
  int64_t q, kv, dq = 0, dkv = 0;
  bool backward() const { return dq > 0; }
  auto operator<=>(const AttentionRows&) const = default;
};
template <class T>
AttentionRows attention_rows(const Qkv<const T>& inp, const Qkv<T>* dinp = nullptr) {
  return {inp.q_row, inp.kv_row, dinp ? dinp->q_row : 0, dinp ? dinp->kv_row : 0};
}

// The tensors of a backward pass. dinp: =
template <class floatX>
struct AttentionBackward {
  Qkv<floatX> dinp;
  const floatX *dout, *out;  // (B, T, NH, HS)
  const float* lse;          // (B, NH, T)
  Qkv<const floatX> inp;

  // Those of the sequences from number b on.
  AttentionBackward from(int64_t b, const AttentionProblem& s) const {
    const int64_t tokens = b * s.T;
    return {sequences_from(dinp, tokens), dout + tokens * s.C, out + tokens * s.C, lse + tokens * s.NH,
            sequences_from(inp, tokens)};
  }

 private:
  template <class T>
  static Qkv<T> sequences_from(const Qkv<T>& x, int64_t tokens) {
    return {x.q + tokens * x.q_row, x.k + tokens * x.kv_row, x.v + tokens * x.kv_row, x.q_row, x.kv_row};
  }
};

// Calls run(tensors, problem) for each piece of `sequences` sequences of the batch, the last of which may have fewer.
template <class floatX, class Run>
void backward_in_pieces(const AttentionBackward<floatX>& all, const AttentionProblem& s, int sequences, Run&& run) {
  const int B = s.heads / s.NH;
  for (int b = 0; b < B; b += sequences) {
    AttentionProblem piece = s;
    piece.heads = std::min(sequences, B - b) * s.NH;
    run(all.from(b, s), piece);
  }
}

// Heads are processed in sections: all blocks of one, then those of the next. Each of a head's blocks reads the keys
// and values (backward: or queries and dout) that other blocks of this head read, so of all tensors these should stay
// in the cache, and with all heads at once they would not: 50 MB at B 16, T 1024, NH 12 in bf16. A section's two
// tensors have a quarter of the cache: two sections at a time and the streamed tensors fit in. Sections are of equal
// size, because the smaller the last one, the more of the GPU waits for its end; a grid has at most 65,535 of them.
inline int attention_section(int heads, int64_t head_bytes /* of one tensor */, int64_t cache_bytes) {
  const int64_t most = std::max<int64_t>({cache_bytes / 4 / (2 * head_bytes), ceil_div<int64_t>(heads, 65'535), 1});
  return static_cast<int>(ceil_div<int64_t>(heads, ceil_div<int64_t>(heads, most)));
}

// What a block works on: blockIdx is (head of the section, item, section), and blocks start in that order. Later
// queries have more keys, and earlier keys more queries: items are counted from the one with the most work, so the
// longest of a section start first and none is left to run by itself at the end. The last section may have fewer heads:
// its other blocks end at once.
struct AttentionBlock {
  int bh, item;
};
__device__ inline AttentionBlock attention_block(const AttentionProblem& s) {
  return {static_cast<int>(blockIdx.z) * s.section + static_cast<int>(blockIdx.x), static_cast<int>(blockIdx.y)};
}
inline dim3 attention_grid(const AttentionProblem& s, int64_t blocks_a_head) {
  if (blocks_a_head > 65'535) {
    throw CudaError("attention: T " + std::to_string(s.T) + " makes " + std::to_string(blocks_a_head) +
                    " blocks per head, a grid has at most 65535");
  }
  return dim3(s.section, static_cast<unsigned>(blocks_a_head), ceil_div(s.heads, s.section));
}

// The maximum of a row that has seen no key yet: below every score and finite, since a tile may hold only keys of other
// documents.
inline constexpr float kNoScore = -FLT_MAX;

namespace attention_plain {

inline constexpr int kTile = 64;           // rows per tile and channels per slice
inline constexpr int kStride = kTile + 4;  // floats from one row to the next
inline constexpr int kTileFloats = kTile * kStride;
inline constexpr int kScoreStride = kTile + 16;  // of a tile of scores
inline constexpr int kScoreFloats = kTile * kScoreStride;
inline constexpr int kThreads = 256;

struct Thread {
  int y, x;
};
__device__ inline Thread this_thread() {
  return {static_cast<int>(threadIdx.x) / 16, static_cast<int>(threadIdx.x) % 16};
}

// tile (64, kStride) = rows and channels of `from` where they exist, else 0: zeros add nothing to a product.
template <class floatX>
__device__ void load_tile(float* tile, const floatX* from, int64_t row, int rows, int channels) {
#pragma unroll 4
  for (int i = threadIdx.x; i < kTile * kTile; i += kThreads) {
    const int r = i / kTile, c = i % kTile;
    tile[r * kStride + c] = r < rows && c < channels ? to_float(from[r * row + c]) : 0.0f;
  }
}

// s[r][c] += a[row y + 16 r] . b[row x + 16 c]: a tile of scores.
__device__ inline void add_dots(float (&s)[4][4], const float* a, const float* b) {
  const auto [y, x] = this_thread();
#pragma unroll 1
  for (int i = 0; i < kTile; i += 4) {
    float4 a4[4], b4[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      a4[k] = *reinterpret_cast<const float4*>(a + (y + 16 * k) * kStride + i);
      b4[k] = *reinterpret_cast<const float4*>(b + (x + 16 * k) * kStride + i);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        s[r][c] += a4[r].x * b4[c].x;
        s[r][c] += a4[r].y * b4[c].y;
        s[r][c] += a4[r].z * b4[c].z;
        s[r][c] += a4[r].w * b4[c].w;
      }
    }
  }
}

// sum[r][c] += sum_u p[row y + 16 r][u] b[u][4 x + c]: rows of b, weighted by a tile of probabilities.
__device__ inline void add_weighted(float (&sum)[4][4], const float* p, const float* b) {
  const auto [y, x] = this_thread();
#pragma unroll 1
  for (int u = 0; u < kTile; u += 4) {
    float weights[4][4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float4 w = *reinterpret_cast<const float4*>(p + (y + 16 * r) * kScoreStride + u);
      weights[r][0] = w.x, weights[r][1] = w.y, weights[r][2] = w.z, weights[r][3] = w.w;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float4 b4 = *reinterpret_cast<const float4*>(b + (u + k) * kStride + 4 * x);
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        sum[r][0] += weights[r][k] * b4.x;
        sum[r][1] += weights[r][k] * b4.y;
        sum[r][2] += weights[r][k] * b4.z;
        sum[r][3] += weights[r][k] * b4.w;
      }
    }
  }
}

// Over the 16 threads that share a row: half a warp.
__device__ inline float row_max(float value) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}
__device__ inline float row_sum(float value) {
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

// to[row y + 16 r][4 x + c] = sum[r][c], where they exist.
template <class floatX>
__device__ void store_rows(floatX* to, const float (&sum)[4][4], int64_t row, int rows, int channels) {
  const auto [y, x] = this_thread();
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (y + 16 * r < rows && 4 * x + c < channels) {
        to[(y + 16 * r) * row + 4 * x + c] = from_float<floatX>(sum[r][c]);
      }
    }
  }
}

struct Work {
  int bh, slices, slice, tile;  // tile: counted from the one with the most work
};
__device__ inline Work this_work(const AttentionProblem& s) {
  const int slices = ceil_div(s.HS, kTile);
  const auto [bh, item] = attention_block(s);
  return {bh, slices, item % slices, item / slices};
}

template <class floatX, bool kDocuments>
__global__ void __launch_bounds__(kThreads, 2)
    attention_forward_plain_kernel(floatX* out,                                    // (B, T, C)
                                   float* lse,                                     // (B, NH, T)
                                   const __grid_constant__ Qkv<const floatX> inp,  // q, k, v
                                   const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  float* q_tile = dynamic_shared<float>();
  float* kv_tile = q_tile + kTileFloats;  // keys, then values
  float* p_tile = kv_tile + kTileFloats;  // (queries, keys)
  const auto [y, x] = this_thread();
  const Work work = this_work(s);
  if (work.bh >= s.heads) return;
  const int t0 = (ceil_div(s.T, kTile) - 1 - work.tile) * kTile;
  const floatX* q = inp.q + s.start(work.bh, inp.q_row);
  const int channel = work.slice * kTile;
  const int64_t row = inp.kv_row, keys_start = s.keys_start(work.bh / s.sharing, row);
  const floatX *k = inp.k + keys_start, *v = inp.v + keys_start + channel;

  float acc[4][4] = {}, max[4], sum[4] = {};
  for (float& m : max) m = kNoScore;
  const int end = s.causal ? t0 + 1 : s.T;                                 // tiles beyond the diagonal are skipped
  const int begin = s.first_key<kDocuments>(work.bh, t0) / kTile * kTile;  // and so are those of earlier documents
  for (int u0 = begin; u0 < end; u0 += kTile) {
    // 1. The scores of a tile, slice by slice of the channels.
    float score[4][4] = {};
    for (int i = 0; i < work.slices; ++i) {
      __syncthreads();  // the tiles' previous contents have been read
      if (u0 == begin || work.slices > 1)
        load_tile(q_tile, q + t0 * inp.q_row + i * kTile, inp.q_row, s.T - t0, s.HS - i * kTile);
      load_tile(kv_tile, k + u0 * row + i * kTile, row, s.T - u0, s.HS - i * kTile);
      __syncthreads();
      add_dots(score, q_tile, kv_tile);
    }
    // 2. The mask and the running softmax: a larger maximum corrects the sums so far.
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int t = t0 + y + 16 * r, keys = s.keys_of(t), from = s.first_key<kDocuments>(work.bh, t);
      float tile_max = -INFINITY;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int u = u0 + x + 16 * c;
        score[r][c] = u < keys && (!kDocuments || u >= from) ? score[r][c] * s.scale : -INFINITY;
        tile_max = fmaxf(tile_max, score[r][c]);
      }
      const float new_max = fmaxf(max[r], row_max(tile_max));
      const float correction = expf(max[r] - new_max);
      max[r] = new_max;
      float tile_sum = 0;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int u = u0 + x + 16 * c;
        float p = expf(score[r][c] - new_max);
        tile_sum += p;  // the softmax comes before dropout
        if (s.dropout > 0 && u < keys && t < s.T) {
          p *= dropout_factor(s.dropout, s.seed, s.sequence.number(), s.element(work.bh, t) + static_cast<uint64_t>(u));
        }
        p_tile[(y + 16 * r) * kScoreStride + x + 16 * c] = p;
      }
      sum[r] = sum[r] * correction + row_sum(tile_sum);
#pragma unroll
      for (int c = 0; c < 4; ++c) acc[r][c] *= correction;
    }
    // 3. The values, weighted.
    __syncthreads();  // the probabilities are stored, the keys have been read
    load_tile(kv_tile, v + u0 * row, row, s.T - u0, s.HS - channel);
    __syncthreads();
    add_weighted(acc, p_tile, kv_tile);
  }
  // 4. The outputs are divided by the sums of probabilities, and lse is saved.
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int t = t0 + y + 16 * r;
    for (float& a : acc[r]) a /= sum[r];
    if (work.slice == 0 && x == 0 && t < s.T) lse[static_cast<int64_t>(work.bh) * s.T + t] = max[r] + logf(sum[r]);
  }
  store_rows(out + s.start(work.bh, s.C) + static_cast<int64_t>(t0) * s.C + channel, acc, s.C, s.T - t0,
             s.HS - channel);
}

// ---- backward ------------------------------------------------------------------------------------------------------
//
// p and ds are computed twice, by a block of queries that sums dq and by a block of keys that sums dk and dv: each sum
// has one owner and one order, which costs 7 products instead of 5 and needs no atomics.

// p, from a score, and with the mask's factor dp -> ds, for one query t, which sees keys from `from` on, and key u
// (attention.h).
struct ProbabilityGradient {
  float weight, ds;  // drop(p), and the gradient of the unscaled score
};
template <bool kDocuments>
__device__ ProbabilityGradient probability_gradient(float score, float dp, float lse, float delta, int from, int bh,
                                                    int t, int u, const AttentionProblem& s) {
  if (u >= s.keys_of(t) || t >= s.T || (kDocuments && u < from)) return {0, 0};
  const float p = expf(score * s.scale - lse);
  float factor = 1;
  if (s.dropout > 0) {
    factor = dropout_factor(s.dropout, s.seed, s.sequence.number(), s.element(bh, t) + static_cast<uint64_t>(u));
  }
  return {factor * p, p * (factor * dp - delta) * s.scale};
}

// dk and dv of a tile of keys, over the tiles of queries that see any of them: from the diagonal on, if causal, to the
// end of the last key's document.
// Products are transposed: rows are keys.
template <class floatX, bool kDocuments>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_keys_plain_kernel(const __grid_constant__ Qkv<floatX> dinp,       // dk and dv =
                                         const floatX* dout,                             // (B, T, C)
                                         const float* lse,                               // (B, NH, T)
                                         const float* delta,                             // (B, NH, T)  dout . out
                                         const __grid_constant__ Qkv<const floatX> inp,  // q, k, v
                                         const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  float* k_tile = dynamic_shared<float>();
  float* v_tile = k_tile + kTileFloats;
  float* q_tile = v_tile + kTileFloats;
  float* dout_tile = q_tile + kTileFloats;
  float* p_tile = dout_tile + kTileFloats;  // (keys, queries): p, then ds
  const auto [y, x] = this_thread();
  const Work work = this_work(s);
  if (work.bh >= s.heads) return;
  const int u0 = work.tile * kTile, channel = work.slice * kTile;
  const int64_t row = inp.kv_row, keys_start = s.keys_start(work.bh, row) + u0 * row;
  const floatX *k = inp.k + keys_start, *v = inp.v + keys_start;

  float dk[4][4] = {}, dv[4][4] = {};
  // The first head of queries and its channel, and the first token of the sequence.
  const int first_head = work.bh * s.sharing, head_channel = first_head % s.NH * s.HS, token = work.bh / s.NKV * s.T;
  const int first_t = s.causal ? u0 : 0, end = s.queries_end<kDocuments>(first_head, u0 + kTile - 1);
  for (int bh = first_head; bh < first_head + s.sharing; ++bh) {
    const int at = head_channel + (bh - first_head) * s.HS;
    const floatX *q = inp.q + token * inp.q_row + at, *dy = dout + static_cast<int64_t>(token) * s.C + at;
    const int64_t rows = static_cast<int64_t>(bh) * s.T;
    for (int t0 = first_t; t0 < end; t0 += kTile) {
      // 1. Scores and dp of a tile, slice by slice of the channels.
      float score[4][4] = {}, dp[4][4] = {};
      for (int i = 1; i <= work.slices; ++i) {
        const int slice = work.slice + i;  // the block's own slice last: its q and dout stay
        const int c = (slice < work.slices ? slice : slice - work.slices) * kTile;
        __syncthreads();
        if ((bh == first_head && t0 == first_t) || work.slices > 1) {
          load_tile(k_tile, k + c, row, s.T - u0, s.HS - c);
          load_tile(v_tile, v + c, row, s.T - u0, s.HS - c);
        }
        load_tile(q_tile, q + t0 * inp.q_row + c, inp.q_row, s.T - t0, s.HS - c);
        load_tile(dout_tile, dy + static_cast<int64_t>(t0) * s.C + c, s.C, s.T - t0, s.HS - c);
        __syncthreads();
        add_dots(score, k_tile, q_tile);
        add_dots(dp, v_tile, dout_tile);
      }
      // 2. drop(p) and ds from them.
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int t = t0 + x + 16 * c, from = s.first_key<kDocuments>(first_head, t);
        const float lse_t = t < s.T ? lse[rows + t] : 0, delta_t = t < s.T ? delta[rows + t] : 0;
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const auto [weight, ds] =
              probability_gradient<kDocuments>(score[r][c], dp[r][c], lse_t, delta_t, from, bh, t, u0 + y + 16 * r, s);
          p_tile[(y + 16 * r) * kScoreStride + x + 16 * c] = weight;
          dp[r][c] = ds;
        }
      }
      // 3. What the tile adds to dv, and then to dk: p and ds take turns in one tile of shared memory.
      __syncthreads();
      add_weighted(dv, p_tile, dout_tile);
      __syncthreads();  // p has been read
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int c = 0; c < 4; ++c) p_tile[(y + 16 * r) * kScoreStride + x + 16 * c] = dp[r][c];
      }
      __syncthreads();
      add_weighted(dk, p_tile, q_tile);
    }
  }
  const int64_t to = s.keys_start(work.bh, dinp.kv_row) + u0 * dinp.kv_row + channel;
  store_rows(dinp.k + to, dk, dinp.kv_row, s.T - u0, s.HS - channel);
  store_rows(dinp.v + to, dv, dinp.kv_row, s.T - u0, s.HS - channel);
}

// dq of a tile of queries, over the tiles of keys that they see.
template <class floatX, bool kDocuments>
__global__ void __launch_bounds__(kThreads, 2)
    attention_backward_queries_plain_kernel(const __grid_constant__ Qkv<floatX> dinp,       // dq =
                                            const floatX* dout,                             // (B, T, C)
                                            const float* lse,                               // (B, NH, T)
                                            const float* delta,                             // (B, NH, T)
                                            const __grid_constant__ Qkv<const floatX> inp,  // q, k, v
                                            const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  float* q_tile = dynamic_shared<float>();
  float* dout_tile = q_tile + kTileFloats;
  float* k_tile = dout_tile + kTileFloats;
  float* v_tile = k_tile + kTileFloats;
  float* ds_tile = v_tile + kTileFloats;  // (queries, keys)
  const auto [y, x] = this_thread();
  const Work work = this_work(s);
  if (work.bh >= s.heads) return;
  const int t0 = (ceil_div(s.T, kTile) - 1 - work.tile) * kTile, channel = work.slice * kTile;
  const int64_t keys_start = s.keys_start(work.bh / s.sharing, inp.kv_row);
  const floatX* q = inp.q + s.start(work.bh, inp.q_row) + t0 * inp.q_row;
  const floatX* dy = dout + s.start(work.bh, s.C) + static_cast<int64_t>(t0) * s.C;

  float dq[4][4] = {};
  const int end = s.causal ? t0 + 1 : s.T, begin = s.first_key<kDocuments>(work.bh, t0) / kTile * kTile;
  for (int u0 = begin; u0 < end; u0 += kTile) {
    // 1. Scores and dp of a tile, slice by slice of the channels.
    float score[4][4] = {}, dp[4][4] = {};
    for (int i = 1; i <= work.slices; ++i) {
      const int slice = work.slice + i;  // the block's own slice last: its k stays
      const int c = (slice < work.slices ? slice : slice - work.slices) * kTile;
      __syncthreads();
      if (u0 == begin || work.slices > 1) {
        load_tile(q_tile, q + c, inp.q_row, s.T - t0, s.HS - c);
        load_tile(dout_tile, dy + c, s.C, s.T - t0, s.HS - c);
      }
      load_tile(k_tile, inp.k + keys_start + u0 * inp.kv_row + c, inp.kv_row, s.T - u0, s.HS - c);
      load_tile(v_tile, inp.v + keys_start + u0 * inp.kv_row + c, inp.kv_row, s.T - u0, s.HS - c);
      __syncthreads();
      add_dots(score, q_tile, k_tile);
      add_dots(dp, dout_tile, v_tile);
    }
    // 2. ds from them.
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int t = t0 + y + 16 * r, from = s.first_key<kDocuments>(work.bh, t);
      const int64_t at = static_cast<int64_t>(work.bh) * s.T + t;
      const float lse_t = t < s.T ? lse[at] : 0, delta_t = t < s.T ? delta[at] : 0;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        ds_tile[(y + 16 * r) * kScoreStride + x + 16 * c] =
            probability_gradient<kDocuments>(score[r][c], dp[r][c], lse_t, delta_t, from, work.bh, t, u0 + x + 16 * c,
                                             s)
                .ds;
      }
    }
    // 3. What the tile adds to dq.
    __syncthreads();
    add_weighted(dq, ds_tile, k_tile);
  }
  store_rows(dinp.q + s.start(work.bh, dinp.q_row) + t0 * dinp.q_row + channel, dq, dinp.q_row, s.T - t0,
             s.HS - channel);
}

// ---- launchers -----------------------------------------------------------------------------------------------------

inline constexpr size_t kForwardBytes = (2 * kTileFloats + kScoreFloats) * sizeof(float);
inline constexpr size_t kBackwardBytes = (4 * kTileFloats + kScoreFloats) * sizeof(float);

inline dim3 grid(const AttentionProblem& s) {
  return attention_grid(s, static_cast<int64_t>(ceil_div(s.T, kTile)) * ceil_div(s.HS, kTile));
}

template <class floatX>
void forward(floatX* out, float* lse, const Qkv<const floatX>& inp, const AttentionProblem& s, cudaStream_t stream) {
  const auto kernel =
      s.documents ? attention_forward_plain_kernel<floatX, true> : attention_forward_plain_kernel<floatX, false>;
  launch(kernel, grid(s), kThreads, kForwardBytes, stream, out, lse, inp, s);
}

template <class floatX>
void backward(const Qkv<floatX>& dinp, const floatX* dout, const float* lse, const float* delta,
              const Qkv<const floatX>& inp, const AttentionProblem& s, cudaStream_t stream) {
  const auto keys = s.documents ? attention_backward_keys_plain_kernel<floatX, true>
                                : attention_backward_keys_plain_kernel<floatX, false>;
  const auto queries = s.documents ? attention_backward_queries_plain_kernel<floatX, true>
                                   : attention_backward_queries_plain_kernel<floatX, false>;
  const AttentionProblem by_keys = s.by_keys();
  launch(keys, grid(by_keys), kThreads, kBackwardBytes, stream, dinp, dout, lse, delta, inp, by_keys);
  launch(queries, grid(s), kThreads, kBackwardBytes, stream, dinp, dout, lse, delta, inp, s);
}

}  // namespace attention_plain
