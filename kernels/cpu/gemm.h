// Matrix products on the CPU, in the manner of Goto and van de Geijn (2008) and BLIS: a block of each factor is packed
// in the order in which a small kernel reads it, and that kernel keeps a tile of the result in registers.
//
//   A tile is kTileRows x kTileCols: 14 x 2 vectors in AVX-512's 32 registers, 6 x 2 elsewhere. Each step reads two
//   vectors of B and one number of A per row: 28 multiply-adds for 16 loads, so the multipliers are the bottleneck.
//   B is packed in panels of kTileCols columns, A in panels of at most kTileRows rows; the panels' heights are
//   evened out (256 rows are 9 panels of 14 and 10 of 13), so that no row is computed in vain.
//   A row-major A is packed row by row: no transposition, only a stride that cannot collide in the cache.
//   While a tile is computed, the lines that the next panel of B, the next block of A and the next tile of C will need
//   are prefetched, a few at a time: all at once they would fill the queue that the tile's own loads go through.
//
// bf16: factors are rounded to bf16 when they are packed, two consecutive k in 32 bits, and vdpbf16ps adds both
// products in float. A step is then two k; everything else is the same. Sums run over k in order, so the bits of a
// result depend neither on the number of threads nor on how rows and columns are divided.
#pragma once

#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "kernels/cpu/simd.h"

namespace cpu::WROUGHT_ISA {

#if WROUGHT_VECTOR_BYTES == 64
inline constexpr int kTileRows = 14;
#else
inline constexpr int kTileRows = 6;
#endif
inline constexpr int kTileCols = 2 * kLanes;
inline constexpr int kSteps = 384;                 // steps per block at most: A's block stays in the second cache
inline constexpr int kBlockRows = 256;             // rows per block of A at most
inline constexpr int kPackedB = 512 * kSteps;      // floats of packed B that several blocks of A share
inline constexpr int kLine = 16;                   // floats per cache line
inline constexpr int kRowStride = kSteps + kLine;  // of A packed by rows
inline constexpr int kColStride = kLine;           // of A packed by columns: a step's rows
inline constexpr int kPanelStride = kSteps * kColStride + kLine;
inline constexpr int kPanels = (kBlockRows + kTileRows - 1) / kTileRows;

// A factor in memory, row-major with rows `stride` apart; transposed: the product reads its transpose.
struct Matrix {
  const float* data;
  int64_t stride;
  bool transposed;
};

// c (rows of ldc) = a @ b + start, where start is a matrix of ldstart, one row for all (ldstart 0), or null: none.
// squares, unless null: the squares of c's final elements are added to it.
struct Result {
  float* c;
  int64_t ldc;
  const float* start;
  int64_t ldstart;
  DoubleVec* squares = nullptr;
};

inline int steps_of(int depth, bool bf16) { return bf16 ? (depth + 1) / 2 : depth; }

// ---- packing -------------------------------------------------------------------------------------------------------

// Packs `depth` consecutive numbers as steps.
template <bool kBf16>
inline void pack_run(float* to, const float* from, int depth) {
#if WROUGHT_BF16
  if constexpr (kBf16) {
    int k = 0;
    for (; k + 32 <= depth; k += 32) store(to + k / 2, bf16_pairs(from + k));
    if (k < depth) {
      const int rest = depth - k;
      const Vec low = load_first(from + k, std::min(rest, kLanes)),
                high = rest > kLanes ? load_first(from + k + kLanes, rest - kLanes) : Vec{};
      float both[32];
      store(both, low);
      store(both + kLanes, high);
      store(to + k / 2, bf16_pairs(both));
    }
    return;
  }
#endif
  std::memcpy(to, from, sizeof(float) * static_cast<size_t>(depth));
}

// How a block's rows are divided: `count` panels, the first `longer` of them one row longer than the others.
struct Panels {
  int count, size, longer;
  explicit Panels(int rows)
      : count((rows + kTileRows - 1) / kTileRows), size(rows / count), longer(rows - count * size) {}
  int begin(int p) const { return p * size + std::min(p, longer); }
};

// Rows [m0, m0 + rows), k in [k0, k0 + depth) of A. Packed by rows where A is row-major (row r of the block begins at
// r kRowStride), else by columns (step s of panel p begins at p kPanelStride + s kColStride). `to` holds
// kPanels * kPanelStride floats at most.
template <bool kBf16>
void pack_a(float* to, const Matrix& a, int64_t m0, int rows, int64_t k0, int depth) {
  if (!a.transposed) {
    for (int r = 0; r < rows; ++r) {
      pack_run<kBf16>(to + r * kRowStride, a.data + (m0 + r) * a.stride + k0, depth);
    }
    return;
  }
  const Panels panels(rows);
  const int steps = steps_of(depth, kBf16);
  for (int s = 0; s < steps; ++s) {  // panels in the inner loop: each row of memory is read from left to right
    const float* from = a.data + (k0 + (kBf16 ? 2 : 1) * s) * a.stride + m0;
    for (int p = 0; p < panels.count; ++p) {
      const int r0 = panels.begin(p), n = std::min(kColStride, rows - r0);  // rows after a panel's do no harm
      float* out = to + p * kPanelStride + s * kColStride;
#if WROUGHT_BF16
      if constexpr (kBf16) {
        const Vec even = load_first(from + r0, n);
        store(out, bf16_pairs(even, 2 * s + 1 < depth ? load_first(from + a.stride + r0, n) : Vec{}));
        continue;
      }
#endif
      for (int r = 0; r < std::min(n, kTileRows); r += kLanes) {
        store(out + r, n - r >= kLanes ? load(from + r0 + r) : load_first(from + r0 + r, n - r));
      }
    }
  }
}

// One panel of B: columns [n0, n0 + cols), cols <= kTileCols, then zeros; step s begins at s kTileCols.
template <bool kBf16>
void pack_b(float* to, const Matrix& b, int64_t n0, int cols, int64_t k0, int depth) {
  const int steps = steps_of(depth, kBf16);
  const auto clip = [](int n) { return std::clamp(n, 0, kLanes); };
  if (!b.transposed) {
    for (int s = 0; s < steps; ++s) {
      for (int half = 0; half < kTileCols; half += kLanes) {
        const int n = clip(cols - half);
        const auto read = [&](const float* p) { return n == kLanes ? load(p) : load_first(p, n); };
        const float* from = b.data + (k0 + (kBf16 ? 2 : 1) * s) * b.stride + n0 + half;
        Vec v = read(from);
#if WROUGHT_BF16
        if constexpr (kBf16) v = bf16_pairs(v, 2 * s + 1 < depth ? read(from + b.stride) : Vec{});
#endif
        store(to + s * kTileCols + half, v);
      }
    }
    return;
  }
  constexpr int kSpan = kBf16 ? 2 * kLanes : kLanes;  // numbers in kLanes steps
  for (int half = 0; half < kTileCols; half += kLanes) {
    const int n = clip(cols - half);
    for (int k = 0; k < depth; k += kSpan) {
      Vec v[kLanes];
      const float* from = b.data + (n0 + half) * b.stride + k0 + k;
      if (n == kLanes && k + kSpan <= depth) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; ++i) {
#if WROUGHT_BF16
          if constexpr (kBf16) {
            v[i] = bf16_pairs(from + i * b.stride);
            continue;
          }
#endif
          v[i] = load(from + i * b.stride);
        }
      } else {
        for (int i = 0; i < kLanes; ++i) {
          float run[kSpan] = {};
          if (i < n) pack_run<kBf16>(run, from + i * b.stride, std::min(kSpan, depth - k));
          v[i] = load(run);
        }
      }
      transpose(v);
      const int s0 = kBf16 ? k / 2 : k;
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        if (s0 + i < steps) store(to + (s0 + i) * kTileCols + half, v[i]);
      }
    }
  }
}

// ---- the small kernel ----------------------------------------------------------------------------------------------

// Lines of memory to prefetch: `rows` rows of row_lines lines each.
struct Lines {
  const float* at;
  int64_t stride;
  int row_lines, rows, line;
};

// Rows [i, i + m) and columns [k, k + n) of a factor, as they lie in memory.
inline Lines lines_of(const Matrix& x, int64_t i, int m, int64_t k, int n) {
  if (x.transposed) {
    std::swap(i, k);
    std::swap(m, n);
  }
  return {x.data + i * x.stride + k, x.stride, (n + kLine - 1) / kLine, m, 0};
}

// Share p of `parts`.
inline Lines share_of(const Lines& lines, int p, int parts) {
  if (lines.rows == 0) return lines;
  const int row0 = lines.rows * p / parts, row1 = lines.rows * (p + 1) / parts;
  return {lines.at + row0 * lines.stride, lines.stride, lines.row_lines, row1 - row0, 0};
}

// Always inlined: the compiler takes a function that only prefetches for one without effect.
__attribute__((always_inline)) inline void prefetch_next(Lines& lines) {
  if (lines.rows <= 0) return;
  __builtin_prefetch(lines.at + lines.line * kLine, 0, 2);
  if (++lines.line < lines.row_lines) return;
  lines.line = 0;
  lines.at += lines.stride;
  --lines.rows;
}

template <bool kBf16>
inline Vec multiply_add(Vec sum, Vec a, Vec b) {
#if WROUGHT_BF16
  if constexpr (kBf16) {
    return reinterpret_cast<Vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
  }
#endif
  return sum + a * b;
}

// What the tiles after this one will read of A and B, and which comes next.
struct Next {
  Lines a, b;
  const float* c;
};

// One tile: kRows x kTileCols.
template <int kRows, bool kBf16, bool kByRows>
__attribute__((noinline)) void compute_tile(const float* a, const float* b, int steps, const Result& result,
                                            Next next) {
  constexpr int kARow = kByRows ? kRowStride : 1, kAStep = kByRows ? 1 : kColStride;
  constexpr int kBetween = kBf16 ? 4 : 8;  // steps from one prefetch to the next
  Vec sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Vec{};
  int next_rows = kRows;
  for (int s0 = 0; s0 < steps; s0 += kBetween) {
    prefetch_next(next.a);
    prefetch_next(next.b);
    if (next_rows > 0) {
      __builtin_prefetch(next.c, 1);
      __builtin_prefetch(next.c + kTileCols - 1, 1);
      next.c += result.ldc;
      --next_rows;
    }
    for (int s = s0; s < std::min(steps, s0 + kBetween); ++s) {
      const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec ar = broadcast(a[r * kARow]);
        sum[r][0] = multiply_add<kBf16>(sum[r][0], ar, b0);
        sum[r][1] = multiply_add<kBf16>(sum[r][1], ar, b1);
      }
      a += kAStep;
      b += kTileCols;
    }
  }
  if (result.start) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      sum[r][0] += load(result.start + r * result.ldstart);
      sum[r][1] += load(result.start + r * result.ldstart + kLanes);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    store(result.c + r * result.ldc, sum[r][0]);
    store(result.c + r * result.ldc + kLanes, sum[r][1]);
  }
  if (result.squares) {
    Vec squares{};
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) squares += sum[r][0] * sum[r][0] + sum[r][1] * sum[r][1];
    *result.squares += __builtin_convertvector(squares, DoubleVec);
  }
}

using ComputeTile = void (*)(const float*, const float*, int, const Result&, Next);
struct TileTable {
  ComputeTile of_rows[kTileRows];
};
template <bool kBf16, bool kByRows, size_t... r>
constexpr TileTable tile_table(std::index_sequence<r...>) {
  return {{compute_tile<static_cast<int>(r) + 1, kBf16, kByRows>...}};
}
template <bool kBf16, bool kByRows>
inline constexpr TileTable kTiles = tile_table<kBf16, kByRows>(std::make_index_sequence<kTileRows>());

// Rows [0, rows) of a packed block of A times one panel of B, whole tiles: c and start have kTileCols columns. next.c
// is where the next panel's first tile will be.
template <bool kBf16>
inline void multiply_panel(const float* a, bool by_rows, int rows, const float* b, int steps, const Result& result,
                           const Next& next) {
  const Panels panels(rows);
  for (int p = 0; p < panels.count; ++p) {
    const int r0 = panels.begin(p), r1 = panels.begin(p + 1);
    Result part = result;
    part.c += r0 * result.ldc;
    if (result.start) part.start += r0 * result.ldstart;
    const Next share{share_of(next.a, p, panels.count), share_of(next.b, p, panels.count),
                     p + 1 < panels.count ? result.c + r1 * result.ldc : next.c};
    if (by_rows) {
      kTiles<kBf16, true>.of_rows[r1 - r0 - 1](a + r0 * kRowStride, b, steps, part, share);
    } else {
      kTiles<kBf16, false>.of_rows[r1 - r0 - 1](a + p * kPanelStride, b, steps, part, share);
    }
  }
}

// ---- blocks --------------------------------------------------------------------------------------------------------

// Memory for packed blocks, one per thread, reused by the next product.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  float* get(size_t floats) {
    if (floats > size_) {
      std::free(data_);
      size_ = 0;
      const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = floats;
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

// The last columns, fewer than a whole tile: computed in a buffer next to c.
template <bool kBf16>
void multiply_edge(const float* a, bool by_rows, int rows, int cols, const float* b, int steps, const Result& result) {
  static thread_local Scratch scratch;
  float* whole = scratch.get(kBlockRows * kTileCols);
  multiply_panel<kBf16>(a, by_rows, rows, b, steps, {whole, kTileCols, nullptr, 0}, Next{{}, {}, whole});
  for (int r = 0; r < rows; ++r) {
    for (int q = 0; q < cols; ++q) {
      const float value = whole[r * kTileCols + q] + (result.start ? result.start[r * result.ldstart + q] : 0);
      result.c[r * result.ldc + q] = value;
      if (result.squares) (*result.squares)[0] += static_cast<double>(value) * static_cast<double>(value);
    }
  }
}

// c [m0, m1) x [n0, n1) of the product over k in [0, K), on one thread. start: see Result, from c's first element on.
template <bool kBf16>
void multiply_part(int64_t m0, int64_t m1, int64_t n0, int64_t n1, int64_t K, const Matrix& a, const Matrix& b,
                   const Result& result) {
  static thread_local Scratch scratch_a, scratch_b;
  const int64_t M = m1 - m0, max_depth = kBf16 ? 2 * kSteps : kSteps;
  const int64_t depths = (K + max_depth - 1) / max_depth, depth_step = ((K + depths - 1) / depths + 1) / 2 * 2;
  const int64_t blocks = (M + kBlockRows - 1) / kBlockRows;
  const auto block_begin = [&](int64_t block) { return m0 + M * block / blocks; };
  const int panel_floats = steps_of(static_cast<int>(depth_step), kBf16) * kTileCols;
  // With one block of A each panel of B is used up at once; else as many panels as fit are kept for the next blocks.
  const int64_t kept = blocks == 1 ? 1 : kPackedB / panel_floats;
  const int64_t col_step = blocks == 1 ? n1 - n0 : kept * kTileCols;
  float* packed_a = scratch_a.get(std::max(kPanels * kPanelStride, kBlockRows * kRowStride));
  float* packed_b = scratch_b.get(static_cast<size_t>(kept * panel_floats));
  for (int64_t c0 = n0; c0 < n1; c0 += col_step) {
    const int64_t c1 = std::min(n1, c0 + col_step);
    const int panels = static_cast<int>((c1 - c0 + kTileCols - 1) / kTileCols);
    for (int64_t k0 = 0; k0 < K; k0 += depth_step) {
      const int depth = static_cast<int>(std::min(depth_step, K - k0)), steps = steps_of(depth, kBf16);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t i0 = block_begin(block);
        const int rows = static_cast<int>(block_begin(block + 1) - i0);
        pack_a<kBf16>(packed_a, a, i0, rows, k0, depth);
        Lines next_a{};  // the next block, unless it was just read
        if (block + 1 < blocks) {
          next_a = lines_of(a, i0 + rows, static_cast<int>(block_begin(block + 2) - i0 - rows), k0, depth);
        } else if (k0 + depth < K) {
          next_a = lines_of(a, m0, static_cast<int>(block_begin(1) - m0), k0 + depth,
                            static_cast<int>(std::min(depth_step, K - k0 - depth)));
        }
        for (int panel = 0; panel < panels; ++panel) {
          const int64_t j = c0 + panel * kTileCols, next_j = j + kTileCols;
          const int cols = static_cast<int>(std::min<int64_t>(kTileCols, c1 - j));
          float* pb = packed_b + (blocks == 1 ? 0 : panel * panel_floats);
          if (block == 0) pack_b<kBf16>(pb, b, j, cols, k0, depth);
          Result part = result;
          part.c += i0 * result.ldc + j;
          if (k0 > 0) {
            part.start = part.c;
            part.ldstart = part.ldc;
          } else if (result.start) {
            part.start += i0 * result.ldstart + j;
          }
          if (k0 + depth < K) part.squares = nullptr;
          if (cols < kTileCols) {
            multiply_edge<kBf16>(packed_a, !a.transposed, rows, cols, pb, steps, part);
            continue;
          }
          Next next{share_of(next_a, panel, panels), {}, part.c + (next_j < c1 ? kTileCols : 0)};
          if (block == 0 && next_j < c1) {
            next.b = lines_of(b, k0, depth, next_j, static_cast<int>(std::min<int64_t>(kTileCols, c1 - next_j)));
          }
          multiply_panel<kBf16>(packed_a, !a.transposed, rows, pb, steps, part, next);
        }
      }
    }
  }
}

// The whole product, (M, N), on all threads: each has some rows and some columns, divided so that packing is least.
// squares: the sum of the result's squares is added to it; null: not needed.
template <bool kBf16>
void multiply(int64_t M, int64_t N, int64_t K, const Matrix& a, const Matrix& b, const Result& result,
              double* squares = nullptr) {
  const int64_t panels = (N + kTileCols - 1) / kTileCols;
  const int threads = M * N * K > 100000 ? threads_of_loops() : 1;
  int by_rows = 1;
  double least = 0;
  for (int t = 1; t <= threads; ++t) {
    if (threads % t != 0) continue;
    const double rows = static_cast<double>((M + t - 1) / t);
    const double cols = static_cast<double>((panels + threads / t - 1) / (threads / t) * kTileCols);
    // Cycles per k: products, and the cost of packing a number; of A more if it is transposed, or if threads share its
    // rows, half of which then come from another core's cache.
    const double pack_a_cost = a.transposed || t < threads ? 0.5 : 0.2, pack_b_cost = 0.4;
    const double cost = rows * cols / (kBf16 ? 2 * kLanes : kLanes) + pack_a_cost * rows + pack_b_cost * cols;
    if (t == 1 || cost < least) {
      least = cost;
      by_rows = t;
    }
  }
  const int by_cols = threads / by_rows;
  std::vector<double> squares_of(static_cast<size_t>(threads));
  for_each_index(threads, threads > 1, [&](int64_t part) {
    const int64_t i = part % by_rows, j = part / by_rows;
    const int64_t m0 = M * i / by_rows, m1 = M * (i + 1) / by_rows;
    const int64_t n0 = panels * j / by_cols * kTileCols, n1 = std::min(N, panels * (j + 1) / by_cols * kTileCols);
    if (m0 >= m1 || n0 >= n1) return;
    Result own = result;
    DoubleVec sums{};  // on the thread's own stack: neighbours in squares_of share a cache line
    if (squares) own.squares = &sums;
    multiply_part<kBf16>(m0, m1, n0, n1, K, a, b, own);
    for (int i = 0; i < kLanes; ++i) squares_of[static_cast<size_t>(part)] += sums[i];
  });
  for (const double sum : squares_of) {
    if (squares) *squares += sum;
  }
}

}  // namespace cpu::WROUGHT_ISA
