// matmul_packed.h with the weights in panels of kTileCols outputs: the layout that a small kernel reads from its first
// byte to its last, so that a product with few rows runs as fast as memory delivers the weights.
//
//   A panel is (steps, kTileCols) words of 32 bits. A step is one c of float, two of bf16, four of int8; what C lacks
//   to whole steps is zeros. Inputs are brought into the same steps: a step multiplies one word of a row of inp,
//   broadcast, by the kTileCols words of the panel. A tile of the result, some rows by one panel, stays in registers
//   while c runs. With many rows the weights are taken in blocks of kSteps steps, which stay in the cache while all
//   rows meet them, and sums continue from what the block before left in out: the same additions in the same order, so
//   that a row has the bits that it has by itself. int8: q + 128 is stored, because the instruction (vpdpbusd)
//   multiplies unsigned by signed bytes; 128 times the sum of a row's inputs is taken off at the start.
#pragma once

#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/gelu_fast.h"
#include "kernels/matmul_packed.h"

namespace cpu::WROUGHT_ISA {

typedef uint32_t WordVec __attribute__((vector_size(WROUGHT_VECTOR_BYTES), may_alias));
typedef uint32_t UnalignedWordVec __attribute__((vector_size(WROUGHT_VECTOR_BYTES), may_alias, aligned(4)));

inline constexpr int per_step(WeightType type) {
  return type == WeightType::f32 ? 1 : type == WeightType::bf16 ? 2 : 4;
}
inline int packed_steps(WeightType type, int C) { return (C + per_step(type) - 1) / per_step(type); }
inline int panels_of(int OC) { return (OC + kTileCols - 1) / kTileCols; }

// ---- weights -------------------------------------------------------------------------------------------------------

// A matrix (OC, C) in panels.
inline int64_t packed_words(WeightType type, int OC, int C) {
  return static_cast<int64_t>(panels_of(OC)) * packed_steps(type, C) * kTileCols;
}

inline uint32_t weight_word(WeightType type, const float* row, const int32_t* q, int c, int C) {
  if (type == WeightType::f32) return float_bits(row[c]);
  uint32_t word = 0;
  for (int i = 0; i < per_step(type); ++i) {
    if (type == WeightType::bf16) {
      word |= (c + i < C ? uint32_t{round_to_nearest(row[c + i]).bits} : 0) << (16 * i);
    } else {
      word |= static_cast<uint32_t>((c + i < C ? q[c + i] : 0) + 128) << (8 * i);
    }
  }
  return word;
}

// Rows of weight (OC, C), on all threads.
inline void pack_matrix(const PackedMatrix& m, const float* weight) {
  const int steps = packed_steps(m.type, m.C);
  for_each_index(panels_of(m.OC), static_cast<int64_t>(m.OC) * m.C > 50000, [&](int64_t panel) {
    uint32_t* to = m.words + panel * steps * kTileCols;
    static thread_local Scratch scratch;
    int32_t* q = reinterpret_cast<int32_t*>(scratch.get(static_cast<size_t>(m.C)));
    for (int64_t i = 0; i < kTileCols; ++i) {
      const int64_t o = panel * kTileCols + i;
      const float* row = weight + o * m.C;
      if (m.type == WeightType::int8) m.scales[o] = o < m.OC ? quantize_row(q, row, m.C, kMaxWeight) : 0;
      for (int s = 0; s < steps; ++s) {
        to[s * kTileCols + i] = o < m.OC ? weight_word(m.type, row, q, s * per_step(m.type), m.C) : 0;
      }
    }
  });
}

// out (C) = row o of the matrix.
inline void unpack_row(float* out, const PackedMatrix& m, int o) {
  const int per = per_step(m.type), steps = packed_steps(m.type, m.C);
  const uint32_t* from = m.words + static_cast<int64_t>(o / kTileCols) * steps * kTileCols + o % kTileCols;
  for (int s = 0; s < steps; ++s) {
    const uint32_t word = from[s * kTileCols];
    for (int i = 0; i < std::min(per, m.C - s * per); ++i) {
      out[s * per + i] = m.type == WeightType::f32 ? std::bit_cast<float>(word)
                         : m.type == WeightType::bf16
                             ? std::bit_cast<float>(word >> (16 * i) << 16)
                             : m.scales[o] * static_cast<float>(static_cast<int>(word >> (8 * i) & 255) - 128);
    }
  }
}

// ---- inputs --------------------------------------------------------------------------------------------------------

// Words of a row: int8 has its high parts, then its low parts. Rows that are whole cache lines apart, but never a power
// of two of them, do not displace one another.
inline int64_t input_stride(WeightType type, int C) {
  return round_up(packed_steps(type, C) * (type == WeightType::int8 ? 2 : 1), kLine) + kLine;
}

[[gnu::noinline]] inline float max_abs(const float* x, int C, float* sum) {
  float max = 0, s = 0;
#pragma omp simd reduction(max : max) reduction(+ : s)
  for (int c = 0; c < C; ++c) {
    const float a = std::abs(x[c]);
    max = max < a ? a : max;
    s += x[c] * 0;  // NaN if one is not finite
  }
  *sum = s;
  return max;
}

[[gnu::noinline]] inline void quantize_input(int8_t* high, int8_t* low, int32_t* start, const float* x, float inverse,
                                             int C) {
  int32_t highs = 0, lows = 0;
#pragma omp simd reduction(+ : highs, lows)
  for (int c = 0; c < C; ++c) {
    const int32_t q = static_cast<int32_t>(__builtin_rintf(x[c] * inverse));  // no addition, so no fused rounding
    const int32_t h = (q + 128) >> 8, l = q - h * 256;
    high[c] = static_cast<int8_t>(h);
    low[c] = static_cast<int8_t>(l);
    highs += h;
    lows += l;
  }
  start[0] = -128 * highs;
  start[1] = -128 * lows;
}

// Row n of inp (N, C).
inline void pack_input(const PackedRows& to, const float* inp, WeightType type, int64_t n, int C) {
  const float* x = inp + n * C;
  uint32_t* words = to.words + n * to.stride;
  const int steps = packed_steps(type, C);
  if (type == WeightType::f32) {
    std::memcpy(words, x, sizeof(float) * static_cast<size_t>(C));
  } else if (type == WeightType::bf16) {
#if WROUGHT_BF16
    pack_run<true>(reinterpret_cast<float*>(words), x, C);
#else
    for (int s = 0; s < steps; ++s) words[s] = weight_word(type, x, nullptr, 2 * s, C);
#endif
  } else {
    words[steps - 1] = words[2 * steps - 1] = 0;
    float sum;
    const float max = max_abs(x, C, &sum), inverse = max > 0 ? kMaxInput / max : 0;
    const bool finite = sum == 0, usable = finite && inverse < INFINITY;
    to.scales[n] = finite ? (usable ? max / kMaxInput : 0) : NAN;
    quantize_input(reinterpret_cast<int8_t*>(words), reinterpret_cast<int8_t*>(words + steps), to.start + 2 * n, x,
                   usable ? inverse : 0, C);
  }
}

// ---- tiles ---------------------------------------------------------------------------------------------------------

inline constexpr int kAhead = 1024;  // words of weights that are asked for before they are needed

// What a tile asks for while it computes: two cache lines at each step, the next step's `stride` words further on. A
// product's only tile reads ahead of itself. If there are more, the first two ask for halves of the next panel: the
// others find the present one in the cache, and memory would have nothing to do.
struct Ahead {
  const uint32_t* at;
  int stride;
  Ahead(const uint32_t* panel, int panel_steps, int steps, int tile, int tiles)
      : at(panel + (tiles == 1 ? kAhead : (panel_steps + std::min(tile, 1) * (steps / 2)) * kTileCols)),
        stride(tiles == 1 ? kTileCols
               : tile < 2 ? kTileCols / 2
                          : 0) {}
};

__attribute__((always_inline)) inline void ask(Ahead& ahead) {
  __builtin_prefetch(ahead.at, 0, 3);
  __builtin_prefetch(ahead.at + kTileCols - kLine, 0, 3);
  ahead.at += ahead.stride;
}

inline Vec as_floats(WordVec bits) { return reinterpret_cast<Vec>(bits); }

template <WeightType kType>
__attribute__((always_inline)) inline Vec add_products(Vec sum, uint32_t x, WordVec w) {
  if constexpr (kType == WeightType::f32) {
    return sum + broadcast(std::bit_cast<float>(x)) * as_floats(w);
  } else {
#if WROUGHT_BF16
    return multiply_add<true>(sum, broadcast(std::bit_cast<float>(x)), as_floats(w));
#else
    sum += broadcast(std::bit_cast<float>(x << 16)) * as_floats(w << 16);
    return sum + broadcast(std::bit_cast<float>(x & 0xffff0000u)) * as_floats(w & 0xffff0000u);
#endif
  }
}

// c (kRows, kTileCols; rows ldc apart) = or, to resume, += rows x panel, over `steps` steps.
template <WeightType kType, int kRows>
[[gnu::noinline]] void packed_tile(float* c, int64_t ldc, bool resume, const uint32_t* x, int64_t stride,
                                   const uint32_t* w, int steps, Ahead ahead) {
  Vec sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    sum[r][0] = resume ? load(c + r * ldc) : Vec{};
    sum[r][1] = resume ? load(c + r * ldc + kLanes) : Vec{};
  }
  for (int s = 0; s < steps; ++s) {
    const WordVec w0 = *reinterpret_cast<const UnalignedWordVec*>(w),
                  w1 = *reinterpret_cast<const UnalignedWordVec*>(w + kLanes);
    ask(ahead);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] = add_products<kType>(sum[r][0], x[r * stride], w0);
      sum[r][1] = add_products<kType>(sum[r][1], x[r * stride], w1);
    }
    ++x;
    w += kTileCols;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(c + r * ldc, sum[r][0]);
    store(c + r * ldc + kLanes, sum[r][1]);
  }
}

// sum[i] += the four products of bytes in word i: unsigned ones of w, signed ones of x.
__attribute__((always_inline)) inline IntVec add_bytes(IntVec sum, uint32_t x, WordVec w) {
#if WROUGHT_BF16  // every machine that has these products has those of bytes
  return reinterpret_cast<IntVec>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(w),
                                                      _mm512_set1_epi32(static_cast<int>(x))));
#else
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    sum += reinterpret_cast<IntVec>(w >> (8 * i) & 255) * static_cast<int32_t>(static_cast<int8_t>(x >> (8 * i)));
  }
  return sum;
#endif
}

// The same for int8, c = only: rows from `first` on of `x`, with the panel's scales.
template <int kRows>
[[gnu::noinline]] void packed_tile_int8(float* c, int64_t ldc, const PackedRows& x, int64_t first, const uint32_t* w,
                                        const float* scales, int steps, Ahead ahead) {
  const uint32_t* high = x.words + first * x.stride;
  const uint32_t* low = high + steps;
  IntVec sum[kRows][2][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const int32_t* start = x.start + 2 * (first + r);
    sum[r][0][0] = sum[r][0][1] = start[0] - IntVec{};
    sum[r][1][0] = sum[r][1][1] = start[1] - IntVec{};
  }
  for (int s = 0; s < steps; ++s) {
    const WordVec w0 = *reinterpret_cast<const UnalignedWordVec*>(w),
                  w1 = *reinterpret_cast<const UnalignedWordVec*>(w + kLanes);
    ask(ahead);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const uint32_t h = high[r * x.stride + s], l = low[r * x.stride + s];
      sum[r][0][0] = add_bytes(sum[r][0][0], h, w0);
      sum[r][0][1] = add_bytes(sum[r][0][1], h, w1);
      sum[r][1][0] = add_bytes(sum[r][1][0], l, w0);
      sum[r][1][1] = add_bytes(sum[r][1][1], l, w1);
    }
    w += kTileCols;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Vec whole =
          256 * __builtin_convertvector(sum[r][0][half], Vec) + __builtin_convertvector(sum[r][1][half], Vec);
      store(c + r * ldc + half * kLanes, x.scales[first + r] * (load(scales + half * kLanes) * whole));
    }
  }
}

inline constexpr int kInt8Rows = WROUGHT_VECTOR_BYTES == 64 ? 7 : 3;  // four sums per row

template <WeightType kType, size_t... r>
constexpr auto packed_tiles(std::index_sequence<r...>) {
  using Tile = void (*)(float*, int64_t, bool, const uint32_t*, int64_t, const uint32_t*, int, Ahead);
  return std::array<Tile, sizeof...(r)>{packed_tile<kType, static_cast<int>(r) + 1>...};
}
template <size_t... r>
constexpr auto packed_tiles_int8(std::index_sequence<r...>) {
  using Tile = void (*)(float*, int64_t, const PackedRows&, int64_t, const uint32_t*, const float*, int, Ahead);
  return std::array<Tile, sizeof...(r)>{packed_tile_int8<static_cast<int>(r) + 1>...};
}

// ---- the product ---------------------------------------------------------------------------------------------------

// kTileCols sums of one row, of which the first `cols` exist.
[[gnu::noinline]] inline void finish_sums(float* out, const float* sums, const float* bias, const float* residual,
                                          bool gelu, int cols) {
  float y[kTileCols] = {}, b[kTileCols] = {}, r[kTileCols] = {};
  const size_t bytes = sizeof(float) * static_cast<size_t>(cols);
  std::memcpy(y, sums, bytes);
  if (bias) std::memcpy(b, bias, bytes);
  if (residual) std::memcpy(r, residual, bytes);
  if (gelu) {
#pragma omp simd
    for (int i = 0; i < kTileCols; ++i) y[i] = gelu_value(y[i] + b[i]) + r[i];
  } else {
#pragma omp simd
    for (int i = 0; i < kTileCols; ++i) y[i] = y[i] + b[i] + r[i];
  }
  std::memcpy(out, y, bytes);
}

// Columns [kTileCols panel0, kTileCols panel1) of out (N, OC), on one thread.
inline void multiply_packed_panels(float* out, const PackedRows& x, const PackedMatrix& m, const Finish& finish, int N,
                                   int panel0, int panel1) {
  static constexpr auto kF32 = packed_tiles<WeightType::f32>(std::make_index_sequence<kTileRows>());
  static constexpr auto kBf16 = packed_tiles<WeightType::bf16>(std::make_index_sequence<kTileRows>());
  static constexpr auto kInt8 = packed_tiles_int8(std::make_index_sequence<kInt8Rows>());
  static thread_local Scratch scratch;
  const bool int8 = m.type == WeightType::int8;
  const int steps = packed_steps(m.type, m.C), height = int8 ? kInt8Rows : kTileRows;
  for (int row0 = 0; row0 < N; row0 += kBlockRows) {
    const int rows = std::min(kBlockRows, N - row0), tiles = (rows + height - 1) / height;
    const int step_block = int8 || tiles == 1 ? steps : std::min(steps, kSteps);
    for (int s0 = 0; s0 < steps; s0 += step_block) {
      const int count = std::min(step_block, steps - s0);
      for (int panel = panel0; panel < panel1; ++panel) {
        const uint32_t* w = m.words + (static_cast<int64_t>(panel) * steps + s0) * kTileCols;
        const int o0 = panel * kTileCols, cols = std::min(kTileCols, m.OC - o0);
        for (int tile = 0; tile < tiles; ++tile) {
          const int r0 = row0 + rows * tile / tiles, r1 = row0 + rows * (tile + 1) / tiles, n = r1 - r0;
          float* c = out + static_cast<int64_t>(r0) * m.OC + o0;
          int64_t ldc = m.OC;
          if (cols < kTileCols) {  // next to out, where there is room for a whole tile
            float* whole = scratch.get(static_cast<size_t>(kBlockRows * kTileCols));
            c = whole + (r0 - row0) * kTileCols;
            ldc = kTileCols;
          }
          const Ahead ahead(w, steps, count, tile, tiles);
          if (int8) {
            kInt8[static_cast<size_t>(n - 1)](c, ldc, x, r0, w, m.scales + o0, count, ahead);
          } else {
            const auto& of_rows = m.type == WeightType::f32 ? kF32 : kBf16;
            of_rows[static_cast<size_t>(n - 1)](c, ldc, s0 > 0, x.words + r0 * x.stride + s0, x.stride, w, count,
                                                ahead);
          }
          if (s0 + count < steps) continue;
          for (int r = r0; r < r1; ++r) {
            const int64_t at = static_cast<int64_t>(r) * m.OC + o0;
            finish_sums(out + at, c + (r - r0) * ldc, finish.bias ? finish.bias + o0 : nullptr,
                        finish.residual ? finish.residual + at : nullptr, finish.gelu, cols);
          }
        }
      }
    }
  }
}

}  // namespace cpu::WROUGHT_ISA
