// attention.h in tiles, online (Milakov and Gimelshein 2018; Dao et al. 2022): kQueries queries of a head meet kKeys
// keys at a time, the softmax is corrected whenever a row's maximum grows, and nothing of size T x T exists. Products
// are those of cpu/gemm.h, on one thread; one head of one sequence is a task.
//
// Where a row holds several documents, a tile of queries begins with the keys of its first query's document, in whole
// panels of kTileCols, and keys that a later query must not see are masked.
//
// A head's keys and values are packed once. In the backward pass, whose tasks are the heads of keys,
//   p = exp(scale q k^T - lse)    dp = dy v^T      ds = scale p (dp - dy . y)
//   dv += p^T dy                  dq += ds k       dk += ds^T q
#pragma once

#include <cmath>

#include "kernels/attention.h"
#include "kernels/cpu/exp.h"
#include "kernels/cpu/gemm.h"
#include "kernels/matmul_fast.h"

namespace cpu::WROUGHT_ISA {

inline constexpr int kQueries = 64;  // per tile
inline constexpr int kKeys = 256;    // per tile: a tile of scores, (kQueries, kKeys), stays in the second cache

// drop(p): the factors by which p of query t and keys [u0, u0 + n) is multiplied; p is unchanged where dropout is 0.
inline void multiply_dropout(float* p, int t, int u0, int n, int T, int64_t bh, float dropout, uint64_t seed,
                             uint64_t sequence) {
  if (dropout == 0) return;
  const uint64_t element =
      (static_cast<uint64_t>(bh) * static_cast<uint64_t>(T) + static_cast<uint64_t>(t)) * static_cast<uint64_t>(T);
  for (int u = 0; u < n; ++u)
    p[u] *= dropout_factor<float>(dropout, seed, sequence, element + static_cast<uint64_t>(u0 + u));
}

// A row's softmax.
[[gnu::noinline]] inline float max_of_scores(const float* p, float scale, float max, int n) {
#pragma omp simd reduction(max : max)
  for (int u = 0; u < n; ++u) {
    const float score = p[u] * scale;
    max = max < score ? score : max;  // std::max does not vectorise
  }
  return max;
}
[[gnu::noinline]] inline float take_exp_of_scores(float* p, float scale, float max, int n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int u = 0; u < n; ++u) sum += p[u] = exp(p[u] * scale - max);
  return sum;
}
// p: scores, then probabilities. ds: gradients of the probabilities, then of the scores.
[[gnu::noinline]] inline void take_gradients_of_scores(float* p, float* ds, float scale, float log_sum, float delta,
                                                       int n) {
#pragma omp simd
  for (int u = 0; u < n; ++u) {
    p[u] = exp(p[u] * scale - log_sum);
    ds[u] = scale * p[u] * (ds[u] - delta);
  }
}

inline int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// B packed whole: all panels over one depth <= kSteps steps, one panel after another.
template <bool kBf16>
void pack_panels(float* to, const Matrix& b, int64_t n0, int cols, int64_t k0, int depth) {
  for (int j = 0; j < cols; j += kTileCols) {
    pack_b<kBf16>(to + static_cast<int64_t>(j) * steps_of(depth, kBf16), b, n0 + j, std::min(kTileCols, cols - j), k0,
                  depth);
  }
}

// c (rows, cols rounded up to whole tiles) = or += a @ b, both packed, over the first `depth` of b's packed_depth.
template <bool kBf16>
void multiply_packed(float* c, int64_t ldc, bool add, const float* a, bool by_rows, int rows, const float* b, int cols,
                     int depth, int packed_depth) {
  const int steps = steps_of(depth, kBf16), panel_steps = steps_of(packed_depth, kBf16);
  for (int j = 0; j < cols; j += kTileCols) {
    const Result result{c + j, ldc, add ? c + j : nullptr, ldc};
    multiply_panel<kBf16>(a, by_rows, rows, b + static_cast<int64_t>(j) * panel_steps, steps, result,
                          Next{{}, {}, result.c});
  }
}

// Memory of one task, carved from one thread's scratch.
class Carver {
 public:
  explicit Carver(float* memory) : next_(memory) {}
  float* take(int64_t floats) {
    float* begin = next_;
    next_ += (floats + kLine - 1) / kLine * kLine;
    return begin;
  }

 private:
  float* next_;
};

inline constexpr int kMaxHeadSize = kSteps;  // as deep as one packed block; larger heads take the plain version

template <bool kBf16>
void attention_forward(float* out, float* lse, const Qkv<const float>& inp, float dropout, uint64_t seed,
                       uint64_t sequence, const AttentionShape& s) {
  if (s.HS > kMaxHeadSize) return cpu::attention_forward(out, lse, inp, dropout, seed, sequence, s);
  const int T = s.T, C = s.channels(), HS = s.HS, cols = round_up(HS, kTileCols), key_blocks = (T + kKeys - 1) / kKeys;
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  const int64_t rows_floats = kQueries * kRowStride, block_floats = static_cast<int64_t>(kKeys) * cols;
  const int64_t floats = 3 * rows_floats + 2 * key_blocks * block_floats + kQueries * (cols + 2);
#pragma omp parallel for schedule(static)
  for (int bh = 0; bh < s.B * s.NH; ++bh) {
    static thread_local Scratch scratch;
    Carver carver(scratch.get(static_cast<size_t>(floats)));
    float *packed_q = carver.take(rows_floats), *packed_p = carver.take(rows_floats);
    float *keys = carver.take(key_blocks * block_floats), *values = carver.take(key_blocks * block_floats);
    float *scores = carver.take(rows_floats), *y = carver.take(kQueries * cols);
    float *max = carver.take(kQueries), *sum = carver.take(kQueries);

    const int64_t b = bh / s.NH, h = bh % s.NH, kv_start = b * T * inp.kv_row + h / s.sharing() * HS;
    const int32_t* documents = s.documents ? s.documents + b * T : nullptr;
    const float* q = inp.q + b * T * inp.q_row + h * HS;
    const float *k = inp.k + kv_start, *v = inp.v + kv_start;
    for (int block = 0; block < key_blocks; ++block) {
      const int u0 = block * kKeys, n = std::min(kKeys, T - u0);
      pack_panels<kBf16>(keys + block * block_floats, {k, inp.kv_row, true}, u0, n, 0, HS);
      pack_panels<kBf16>(values + block * block_floats, {v, inp.kv_row, false}, 0, HS, u0, n);
    }
    for (int t0 = 0; t0 < T; t0 += kQueries) {
      const int R = std::min(kQueries, T - t0), U = s.causal ? t0 + R : T;
      pack_a<kBf16>(packed_q, {q, inp.q_row, false}, t0, R, 0, HS);
      for (int r = 0; r < R; ++r) {
        max[r] = -INFINITY;
        sum[r] = 0;
      }
      const int begin = documents ? documents[t0] / kTileCols * kTileCols : 0;  // the first key to look at
      for (int u0 = begin / kKeys * kKeys; u0 < U; u0 += kKeys) {
        const int block = u0 / kKeys, n = std::min(kKeys, T - u0), wanted = std::min(n, U - u0);
        const int skip = std::max(0, begin - u0), depth = wanted - skip;  // the block's keys: skipped, left
        multiply_packed<kBf16>(scores + skip, kRowStride, false, packed_q, true, R,
                               keys + block * block_floats + skip * steps_of(HS, kBf16), depth, HS, HS);
        for (int r = 0; r < R; ++r) {
          float* p = scores + r * kRowStride + skip;
          const int t = t0 + r, seen = (s.causal ? std::min(wanted, t + 1 - u0) : wanted) - skip;
          const int hidden = documents ? std::max(0, documents[t] - u0 - skip) : 0;  // keys of documents before t's
          if (hidden >= seen) {
            std::fill(p, p + depth, 0.0f);
            continue;
          }
          const int whole = round_up(seen, kLanes);  // whole vectors: elements after `seen` in the last become zero
          std::fill(p, p + hidden, -INFINITY);
          std::fill(p + seen, p + whole, -INFINITY);
          const float top = max_of_scores(p, scale, max[r], whole), added = take_exp_of_scores(p, scale, top, whole);
          std::fill(p + std::min(whole, depth), p + depth, 0.0f);
          const float correction = u0 > begin ? exp(max[r] - top) : 0;
          sum[r] = sum[r] * correction + added;
          max[r] = top;
          multiply_dropout(p, t, u0 + skip, seen, T, bh, dropout, seed, sequence);
          if (u0 > begin && correction != 1) {
            float* yr = y + r * cols;
            for (int c = 0; c < cols; ++c) yr[c] *= correction;
          }
        }
        const float* p = scores + skip;
        if constexpr (kBf16) {
          pack_a<kBf16>(packed_p, {scores, kRowStride, false}, 0, R, skip, depth);
          p = packed_p;
        }
        multiply_packed<kBf16>(y, cols, u0 > begin, p, true, R,
                               values + block * block_floats + steps_of(skip, kBf16) * kTileCols, HS, depth, n);
      }
      for (int r = 0; r < R; ++r) {
        const int t = t0 + r;
        lse[static_cast<int64_t>(bh) * T + t] = max[r] + std::log(sum[r]);
        float* to = out + (b * T + t) * C + h * HS;
        const float inverse = 1 / sum[r];
        for (int c = 0; c < HS; ++c) to[c] = y[r * cols + c] * inverse;
      }
    }
  }
}

template <bool kBf16>
void attention_backward(const Qkv<float>& dinp, const float* dout, const float* out, const float* lse,
                        const Qkv<const float>& inp, float dropout, uint64_t seed, uint64_t sequence,
                        const AttentionShape& s) {
  if (s.HS > kMaxHeadSize) {
    return cpu::attention_backward(dinp, dout, out, lse, inp, dropout, seed, sequence, s);
  }
  const int T = s.T, C = s.channels(), HS = s.HS, cols = round_up(HS, kTileCols), key_blocks = (T + kKeys - 1) / kKeys;
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  const int64_t rows_floats = kQueries * kRowStride, block_floats = static_cast<int64_t>(kKeys) * cols;
  const int64_t floats =
      5 * rows_floats + kPanels * kPanelStride + 5 * key_blocks * block_floats + kQueries * (3 * cols + 1);
#pragma omp parallel for schedule(static)
  for (int b_kv = 0; b_kv < s.B * s.NKV; ++b_kv) {
    static thread_local Scratch scratch;
    Carver carver(scratch.get(static_cast<size_t>(floats)));
    float *packed_q = carver.take(rows_floats), *packed_dy = carver.take(rows_floats);
    float *packed_ds = carver.take(rows_floats), *packed_by_keys = carver.take(kPanels * kPanelStride);
    float *keys_t = carver.take(key_blocks * block_floats), *keys = carver.take(key_blocks * block_floats);
    float* values_t = carver.take(key_blocks * block_floats);
    float *dk_sum = carver.take(key_blocks * block_floats), *dv_sum = carver.take(key_blocks * block_floats);
    float *scores = carver.take(rows_floats), *gradients = carver.take(rows_floats);
    float *q_rows = carver.take(kQueries * cols), *dy_rows = carver.take(kQueries * cols);
    float *dq_sum = carver.take(kQueries * cols), *delta = carver.take(kQueries);

    const int64_t b = b_kv / s.NKV, kv = b_kv % s.NKV;
    const int32_t* documents = s.documents ? s.documents + b * T : nullptr;
    const float *k = inp.k + b * T * inp.kv_row + kv * HS, *v = inp.v + b * T * inp.kv_row + kv * HS;
    for (int block = 0; block < key_blocks; ++block) {
      const int u0 = block * kKeys, n = std::min(kKeys, T - u0);
      pack_panels<kBf16>(keys_t + block * block_floats, {k, inp.kv_row, true}, u0, n, 0, HS);
      pack_panels<kBf16>(keys + block * block_floats, {k, inp.kv_row, false}, 0, HS, u0, n);
      pack_panels<kBf16>(values_t + block * block_floats, {v, inp.kv_row, true}, u0, n, 0, HS);
    }
    std::fill(dk_sum, dk_sum + key_blocks * block_floats, 0.0f);
    std::fill(dv_sum, dv_sum + key_blocks * block_floats, 0.0f);
    for (int64_t h = kv * s.sharing(); h < (kv + 1) * s.sharing(); ++h) {
      const int64_t bh = b * s.NH + h;
      const float* q = inp.q + b * T * inp.q_row + h * HS;
      float* dq = dinp.q + b * T * dinp.q_row + h * HS;
      for (int t0 = 0; t0 < T; t0 += kQueries) {
        const int R = std::min(kQueries, T - t0), U = s.causal ? t0 + R : T;
        const int64_t out_at = (b * T + t0) * C + h * HS;
        const float *dy = dout + out_at, *y = out + out_at;
        pack_a<kBf16>(packed_q, {q, inp.q_row, false}, t0, R, 0, HS);
        pack_a<kBf16>(packed_dy, {dy, C, false}, 0, R, 0, HS);
        pack_panels<kBf16>(q_rows, {q, inp.q_row, false}, 0, HS, t0, R);
        pack_panels<kBf16>(dy_rows, {dy, C, false}, 0, HS, 0, R);
        for (int r = 0; r < R; ++r) {
          const int64_t at_row = static_cast<int64_t>(r) * C;
          delta[r] = dot_product(dy + at_row, y + at_row, HS);
        }
        const int begin = documents ? documents[t0] / kTileCols * kTileCols : 0;
        for (int u0 = begin / kKeys * kKeys; u0 < U; u0 += kKeys) {
          const int block = u0 / kKeys, n = std::min(kKeys, T - u0), wanted = std::min(n, U - u0);
          const int skip = std::max(0, begin - u0), depth = wanted - skip;
          const int64_t offset = block * block_floats, by_keys = offset + skip * steps_of(HS, kBf16),
                        sums = offset + static_cast<int64_t>(skip) * cols;
          multiply_packed<kBf16>(scores + skip, kRowStride, false, packed_q, true, R, keys_t + by_keys, depth, HS, HS);
          multiply_packed<kBf16>(gradients + skip, kRowStride, false, packed_dy, true, R, values_t + by_keys, depth, HS,
                                 HS);
          for (int r = 0; r < R; ++r) {
            float *p = scores + r * kRowStride + skip, *ds = gradients + r * kRowStride + skip;
            const int t = t0 + r, seen = (s.causal ? std::min(wanted, t + 1 - u0) : wanted) - skip;
            const int hidden = documents ? std::max(0, documents[t] - u0 - skip) : 0;
            const float log_sum = lse[bh * T + t], d = delta[r];
            multiply_dropout(ds, t, u0 + skip, seen, T, bh, dropout, seed, sequence);
            const int whole = round_up(seen, kLanes);
            std::fill(p, p + std::min(hidden, seen), -INFINITY);
            std::fill(p + seen, p + whole, -INFINITY);
            take_gradients_of_scores(p, ds, scale, log_sum, d, whole);
            std::fill(p + std::min(whole, depth), p + depth, 0.0f);
            std::fill(ds + std::min(whole, depth), ds + depth, 0.0f);
            // Now the factor that multiplied v.
            multiply_dropout(p, t, u0 + skip, seen, T, bh, dropout, seed, sequence);
          }
          pack_a<kBf16>(packed_by_keys, {scores, kRowStride, true}, skip, depth, 0, R);
          multiply_packed<kBf16>(dv_sum + sums, cols, true, packed_by_keys, false, depth, dy_rows, HS, R, R);
          pack_a<kBf16>(packed_by_keys, {gradients, kRowStride, true}, skip, depth, 0, R);
          multiply_packed<kBf16>(dk_sum + sums, cols, true, packed_by_keys, false, depth, q_rows, HS, R, R);
          const float* ds = gradients + skip;
          if constexpr (kBf16) {
            pack_a<kBf16>(packed_ds, {gradients, kRowStride, false}, 0, R, skip, depth);
            ds = packed_ds;
          }
          multiply_packed<kBf16>(dq_sum, cols, u0 > begin, ds, true, R,
                                 keys + offset + steps_of(skip, kBf16) * kTileCols, HS, depth, n);
        }
        for (int r = 0; r < R; ++r) {
          std::copy(dq_sum + r * cols, dq_sum + r * cols + HS, dq + (t0 + r) * dinp.q_row);
        }
      }
    }
    for (int u = 0; u < T; ++u) {
      const int64_t from = u / kKeys * block_floats + static_cast<int64_t>(u % kKeys) * cols,
                    to = (b * T + u) * dinp.kv_row + kv * HS;
      std::copy(dk_sum + from, dk_sum + from + HS, dinp.k + to);
      std::copy(dv_sum + from, dv_sum + from + HS, dinp.v + to);
    }
  }
}

}  // namespace cpu::WROUGHT_ISA
