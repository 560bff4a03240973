// attention_decode.h over pages, for rows of many sequences at once: one query of a decoded token, or a prompt's many.
//
//   Within a layer a page holds K (NKV, HS, kPageTokens) and V (NKV, kPageTokens, value_stride(HS)), in float or bf16.
//   Keys stand side by side, so that scores are sums over channels for a vector of keys at a time, and outputs are sums
//   over keys for a vector of channels: both read memory from one byte to the next. In bf16 the keys of two channels
//   alternate, and so do the values of two keys.
//   A task is some heads and up to kDecodeRows rows of one sequence: scores to all keys, softmax, output. Each sum runs
//   over channels or keys in one order, and what a row must not see counts exactly zero at its end: a row's bits depend
//   neither on the other rows of its task nor on the pages' numbers. Sums are float, whatever the cache holds.
#pragma once

#include <array>

#include "kernels/attention_fast.h"
#include "kernels/kv_cache.h"
#include "kernels/matmul_packed_fast.h"
#include "kernels/rounding.h"

namespace cpu::WROUGHT_ISA {

inline constexpr int kDecodeRows = WROUGHT_VECTOR_BYTES == 64 ? 6 : 3;  // per task: with 4 vectors of sums each

inline constexpr int kHeadsTogether = 8;  // at most, so that their scores stay in the cache
inline constexpr int kPagesAhead = 2;     // that are asked for while one is computed

// Two neighbours of a sum: channels i and i + 1 of keys, or keys u and u + 1 of values, i and u even. In bf16 they are
// the halves of a 32-bit word, which a shift and a mask turn into floats.
inline int64_t place_in_pairs(const float*, int outer, int inner, int row) {
  return static_cast<int64_t>(outer) * row + inner;
}
inline int64_t place_in_pairs(const bf16*, int outer, int inner, int row) {
  return static_cast<int64_t>(outer / 2) * 2 * row + 2 * inner + outer % 2;
}
inline void load_pair(Vec& even, Vec& odd, const float* p, int inner, int row) {
  even = load(p + inner);
  odd = load(p + row + inner);
}
inline void load_pair(Vec& even, Vec& odd, const bf16* p, int inner, int) {
  const WordVec words = *reinterpret_cast<const UnalignedWordVec*>(p + 2 * inner);
  even = as_floats(words << 16);
  odd = as_floats(words & 0xffff0000u);
}
// Elements from one place to the next in a row of pairs.
template <class T>
constexpr int pair_step() {
  return std::is_same_v<T, bf16> ? 2 : 1;
}
// Without the second one, which may not be there.
inline Vec load_even(const float* p, int inner) { return load(p + inner); }
inline Vec load_even(const bf16* p, int inner) {
  return as_floats(*reinterpret_cast<const UnalignedWordVec*>(p + 2 * inner) << 16);
}
inline void set_number(float& to, float x) { to = x; }
inline void set_number(bf16& to, float x) { to = round_to_nearest(x); }

inline int value_stride(int HS) { return round_up(HS, kLanes); }
// Elements of a head's keys in a page, and of one layer's part of it: the keys of all heads, then their values.
inline int64_t key_elements(int HS) { return static_cast<int64_t>(HS + HS % 2) * kPageTokens; }
inline int64_t page_elements(int NKV, int HS) {
  return NKV * (key_elements(HS) + static_cast<int64_t>(value_stride(HS)) * kPageTokens);
}

// The pages of a layer as a pass sees them.
template <class T>
struct LayerPages {
  T* data;              // of page 0
  int64_t page_stride;  // elements
  CacheRows at;
  int NKV, HS;

  T* keys(int n, int page, int head) const {  // of row n's sequence
    const int64_t number = at.pages[static_cast<int64_t>(at.sequences[n]) * at.max_pages + page];
    return data + number * page_stride + head * key_elements(HS);
  }
  T* values(int n, int page, int head) const {
    return keys(n, page, NKV) + static_cast<int64_t>(head) * value_stride(HS) * kPageTokens;
  }
};

template <class T>
LayerPages<T> layer_pages(const CacheLayer& cache) {
  return {static_cast<T*>(cache.data), cache.page_stride, cache.at, cache.NKV, cache.HS};
}

// Stores rows [begin, end) of a pass.
template <class T>
void append_rows(const LayerPages<T>& cache, const Qkv<const float>& inp, int begin, int end) {
  const int HS = cache.HS;
  for (int n = begin; n < end; ++n) {
    const int page = cache.at.positions[n] / kPageTokens, slot = cache.at.positions[n] % kPageTokens;
    for (int h = 0; h < cache.NKV; ++h) {
      const int64_t from = n * inp.kv_row + static_cast<int64_t>(h) * HS;
      T *k = cache.keys(n, page, h), *v = cache.values(n, page, h);
      const int stride = value_stride(HS);
      for (int i = 0; i < HS; ++i) set_number(k[place_in_pairs(k, i, slot, kPageTokens)], inp.k[from + i]);
      for (int i = 0; i < HS; ++i) set_number(v[place_in_pairs(v, slot, i, stride)], inp.v[from + i]);
      for (int i = HS; i < stride; ++i) set_number(v[place_in_pairs(v, slot, i, stride)], 0);
    }
  }
}

// Asks for the cache lines of `row` elements at p.
template <class T>
__attribute__((always_inline)) inline void ask_for(const T* p, int row) {
  for (int i = 0; i < row; i += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(p + i, 0, 2);
}

// scores (kRows, kPageTokens; rows ld apart) = q (kRows, HS; rows q_row apart) K. Meanwhile `next`, as large, arrives.
// Even and odd channels have separate sums: an addition takes four cycles, and one row has only two vectors of
// keys.
template <class T, int kRows>
[[gnu::noinline]] void score_page(float* scores, int64_t ld, const float* q, int64_t q_row, const T* k, const T* next,
                                  int HS) {
  for (int u = 0; u < kPageTokens; u += kTileCols) {
    Vec sum[kRows][2][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) sum[r][0][0] = sum[r][0][1] = sum[r][1][0] = sum[r][1][1] = Vec{};
    int i = 0;
    for (; i + 2 <= HS; i += 2) {
      const T* from = k + static_cast<int64_t>(i) * kPageTokens;
      Vec even[2], odd[2];
      load_pair(even[0], odd[0], from, u, kPageTokens);
      load_pair(even[1], odd[1], from, u + kLanes, kPageTokens);
      ask_for(next + static_cast<int64_t>(i) * kPageTokens + 2 * u, 2 * kTileCols);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec x0 = broadcast(q[r * q_row + i]), x1 = broadcast(q[r * q_row + i + 1]);
        sum[r][0][0] += x0 * even[0];
        sum[r][0][1] += x0 * even[1];
        sum[r][1][0] += x1 * odd[0];
        sum[r][1][1] += x1 * odd[1];
      }
    }
    if (i < HS) {
      const T* from = k + static_cast<int64_t>(i) * kPageTokens;
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec x = broadcast(q[r * q_row + i]);
        sum[r][0][0] += x * load_even(from, u);
        sum[r][0][1] += x * load_even(from, u + kLanes);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      store(scores + r * ld + u, sum[r][0][0] + sum[r][1][0]);
      store(scores + r * ld + u + kLanes, sum[r][0][1] + sum[r][1][1]);
    }
  }
}

// y (kRows, kVectors vectors; rows ldy apart) += p (kRows, keys; rows ld apart) V (keys; rows v_row apart).
template <class T, int kRows, int kVectors>
[[gnu::noinline]] void add_values(float* y, int64_t ldy, const float* p, int64_t ld, const T* v, const T* next,
                                  int64_t v_row, int keys) {
  Vec sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[r][j] = load(y + r * ldy + j * kLanes);
  }
  int u = 0;
  for (; u + 2 <= keys; u += 2) {
    Vec even[kVectors], odd[kVectors];
    ask_for(next + static_cast<int64_t>(u) * v_row, 2 * kVectors * kLanes);
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      load_pair(even[j], odd[j], v + static_cast<int64_t>(u) * v_row, j * kLanes, static_cast<int>(v_row));
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec p0 = broadcast(p[r * ld + u]), p1 = broadcast(p[r * ld + u + 1]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        sum[r][j] += p0 * even[j];
        sum[r][j] += p1 * odd[j];
      }
    }
  }
  for (; u < keys; ++u) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        sum[r][j] += broadcast(p[r * ld + u]) * load_even(v + static_cast<int64_t>(u) * v_row, j * kLanes);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(y + r * ldy + j * kLanes, sum[r][j]);
  }
}

// The two for each number of rows, the second also of vectors.
template <class T>
struct DecodeTiles {
  using Score = void (*)(float*, int64_t, const float*, int64_t, const T*, const T*, int);
  using Add = void (*)(float*, int64_t, const float*, int64_t, const T*, const T*, int64_t, int);
  std::array<Score, kDecodeRows> score;
  std::array<std::array<Add, 4>, kDecodeRows> add;

  template <size_t... r>
  static constexpr DecodeTiles make(std::index_sequence<r...>) {
    return {
        {score_page<T, static_cast<int>(r) + 1>...},
        {std::array<Add, 4>{add_values<T, static_cast<int>(r) + 1, 1>, add_values<T, static_cast<int>(r) + 1, 2>,
                            add_values<T, static_cast<int>(r) + 1, 3>, add_values<T, static_cast<int>(r) + 1, 4>}...}};
  }
};

// Rows [n, n + rows) of one sequence, query heads [h0, h0 + heads), page by page: what the heads read of a page stands
// side by side.
template <class T>
void decode_heads(float* out, const LayerPages<T>& cache, const Qkv<const float>& inp, int n, int rows, int h0,
                  int heads, int NH) {
  static constexpr DecodeTiles<T> kTiles = DecodeTiles<T>::make(std::make_index_sequence<kDecodeRows>());
  static thread_local Scratch scratch;
  const int HS = cache.HS, stride = value_stride(HS), sharing = NH / cache.NKV;
  const int keys = cache.at.positions[n + rows - 1] + 1, pages = (keys + kPageTokens - 1) / kPageTokens;
  const int64_t ld = static_cast<int64_t>(pages) * kPageTokens + kLine, all = static_cast<int64_t>(heads) * rows;
  float* scores = scratch.get(static_cast<size_t>(all * (ld + stride + 1)));
  float *y = scores + all * ld, *inverse = y + all * stride;
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  const auto last = [&](int page) { return std::min(page + kPagesAhead, pages - 1); };  // that is asked for
  const size_t r0 = static_cast<size_t>(rows - 1);
  // 1. Scores.
  for (int page = 0; page < pages; ++page) {
    for (int i = 0; i < heads; ++i) {
      const int head = (h0 + i) / sharing;
      const float* q = inp.q + n * inp.q_row + static_cast<int64_t>(h0 + i) * HS;
      kTiles.score[r0](scores + i * rows * ld + page * kPageTokens, ld, q, inp.q_row, cache.keys(n, page, head),
                       cache.keys(n, last(page), head), HS);
    }
  }
  // 2. Their softmax.
  for (int i = 0; i < heads; ++i) {
    for (int r = 0; r < rows; ++r) {
      float* p = scores + (i * rows + r) * ld;
      const int seen = cache.at.positions[n + r] + 1, whole = pages * kPageTokens;
      std::fill(p + seen, p + whole, -INFINITY);
      const float max = max_of_scores(p, scale, -INFINITY, whole);
      inverse[i * rows + r] = 1 / take_exp_of_scores(p, scale, max, whole);
    }
  }
  // 3. The sums of values.
  std::fill(y, y + all * stride, 0.0f);
  for (int page = 0; page < pages; ++page) {
    const int count = std::min(kPageTokens, keys - page * kPageTokens);
    for (int i = 0; i < heads; ++i) {
      const int head = (h0 + i) / sharing;
      const T *v = cache.values(n, page, head), *next = cache.values(n, last(page), head);
      for (int c = 0; c < stride; c += 4 * kLanes) {
        const size_t vectors = static_cast<size_t>(std::min(4, (stride - c) / kLanes));
        kTiles.add[r0][vectors - 1](y + i * rows * stride + c, stride, scores + i * rows * ld + page * kPageTokens, ld,
                                    v + pair_step<T>() * c, next + pair_step<T>() * c, stride, count);
      }
    }
  }
  for (int i = 0; i < heads; ++i) {
    for (int r = 0; r < rows; ++r) {
      float* to = out + (static_cast<int64_t>(n + r) * NH + h0 + i) * HS;
      const float *from = y + (i * rows + r) * stride, factor = inverse[i * rows + r];
      for (int c = 0; c < HS; ++c) to[c] = from[c] * factor;
    }
  }
}

// Share `part` of `parts` of a pass: some heads of each tile of rows. Which ones changes from tile to tile, for heads
// that the threads cannot divide evenly.
template <class T>
void decode_rows(float* out, const LayerPages<T>& cache, const Qkv<const float>& inp, int N, int NH, int part,
                 int parts) {
  for (int n = 0, tile = 0; n < N; ++tile) {
    int rows = 1;
    while (rows < kDecodeRows && n + rows < N && cache.at.sequences[n + rows] == cache.at.sequences[n]) ++rows;
    const int turn = (part + tile) % parts, end = NH * (turn + 1) / parts;
    for (int h = NH * turn / parts; h < end; h += kHeadsTogether) {
      decode_heads(out, cache, inp, n, rows, h, std::min(kHeadsTogether, end - h), NH);
    }
    n += rows;
  }
}

}  // namespace cpu::WROUGHT_ISA
