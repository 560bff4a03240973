// A linear layer with few rows, as a decoding pass has it:  out = finish(inp weight^T), with weights of another type
// than the inputs if need be: float, bf16, or int8 with a float scale per row, as cpu::quantize_row (matmul_packed.h)
// makes them. The inputs stay as they are (cpu::matmul_packed rounds them), products are summed in float, and the scale
// multiplies the sum.
//
// A row of out has the same bits whatever N is and wherever the row is: every element is a sum in one order, which
// depends on C and the types only. Kernels for few and for many rows add in this order, and so does the path for rows
// that are not aligned or not whole packs, which loads single elements into the same places.
//
// Bound by memory: the weights are read once for 8 rows of inp (bf16 inputs: 32); more rows take more sweeps, of blocks
// next to each other, which find the weights in L2. A block has 8 warps and 8 rows of weights (bf16 inputs: 16); the
// warps share C, pack by pack, and add their sums in order, so that small matrices, too, are all in flight at once. A
// thread requests several packs of 16 bytes of weights before it uses the first. In flight per multiprocessor, of which
// an H100 needs 15 KB, by the registers of sm_90a:
//
//   inputs, weights  rows of inp              packs per thread  blocks  C = 768  C = 3072
//   bf16, bf16       1 to 8                   8                 3       72 KB    96 KB
//                    1 to 8, few long rows    16                1       -        64 KB
//                    more                     4                 2       32 KB    32 KB
//   bf16, int8       1 to 8                   8                 2       24 KB    64 KB
//                    more                     2                 2       12 KB    16 KB
//   float, float     1                        8                 4       96 KB    128 KB
//                    2 to 4                   4                 4       64 KB    64 KB
//                    more                     4                 2       32 KB    32 KB
//
// bf16 inputs and bf16 or int8 weights go to tensor cores (an int8 is exact in bf16). The plain units would have 64
// (int8: 128) multiplications and more for eight rows and a pack of weights, and 100 instructions are all that they get
// issued while 32 packs arrive. Whatever has floats is multiplied by the plain units, and rounded nowhere; int8 weights
// with float inputs take longer than memory from two rows on.
#pragma once

#include "kernels/gelu.cuh"

// What becomes of a sum: + bias, then GELU, then + residual. Nothing is rounded in between.
template <class floatX>
struct PackedFinish {
  const floatX* bias;  // (OC) or null: none
  bool gelu;
  const floatX* residual;  // (N, OC) or null: none; may be out
};

inline constexpr int kPackedWarps = 8;  // of a block; warp w takes every 8th group of neighbouring packs
inline constexpr int kPackedThreads = 32 * kPackedWarps;

template <>
__device__ inline int8_t from_float<int8_t>(float x) {
  return static_cast<int8_t>(x);
}

template <class Weight>
__device__ float weight_number(Weight w) {
  if constexpr (std::is_same_v<Weight, int8_t>) {
    return static_cast<float>(w);
  } else {
    return to_float(w);
  }
}

// packs[a] = both rows' packs at from + a kStep, of rows of which `left` elements are left there.
template <bool kVector, int kStep, int kAhead, class T>
__device__ void load_packs(Pack<T> (&packs)[kAhead][2], const T* const (&from)[2], int left) {
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      packs[a][half] = load_row_pack<kVector, Pack<T>::size>(from[half] + a * kStep, left - a * kStep);
    }
  }
}

// ---- a block's tile of out: kRows rows of weights, kColumns rows of inp ---------------------------------------------

// The blocks of a tile of weights follow each other.
template <int kRows, int kColumns>
struct PackedTile {
  int64_t first_o, first_n;

  __device__ explicit PackedTile(int N) {
    const unsigned sweeps = ceil_div(N, kColumns);
    first_o = static_cast<int64_t>(blockIdx.x / sweeps) * kRows;
    first_n = static_cast<int64_t>(blockIdx.x % sweeps) * kColumns;
  }
  // Where a matrix's row begins; for those beyond its end the last row, whose results are not stored.
  template <class T>
  static __device__ const T* row(const T* matrix, int C, int64_t row, int rows) {
    return matrix + min(row, static_cast<int64_t>(rows - 1)) * C;
  }
};

// The warps' sums, which are added in the order of the warps.
template <int kRows, int kColumns>
struct PackedSums {
  // The four floats make both the warps' stores and the reads below free of bank conflicts.
  static constexpr int kStride = kRows + (kColumns >= 8 ? 4 : 0);
  float values[kPackedWarps][kColumns][kStride];

  // All threads, after a barrier: 32 / kRows columns at a time, from places apart, for each warp.
  template <class floatX>
  __device__ void store(floatX* out, const float* scales, const PackedFinish<floatX>& finish,
                        const PackedTile<kRows, kColumns>& tile, int N, int OC) const {
    constexpr int kAcross = 32 / kRows;
    for (int i = threadIdx.x; i < kRows * kColumns; i += kPackedThreads) {
      const int row = i % kRows, j = i / kRows;
      const int column = kColumns < 8 ? j : j / 8 * 8 + j % kAcross * (8 / kAcross) + j % 8 / kAcross;
      const int64_t o = tile.first_o + row, n = tile.first_n + column;
      if (o >= OC || n >= N) continue;
      float total = 0;
#pragma unroll
      for (int warp = 0; warp < kPackedWarps; ++warp) total += values[warp][column][row];
      // The roundings are written out, so that they are the same in every kernel.
      float y = fmaf(total, scales ? scales[o] : 1.0f, finish.bias ? to_float(finish.bias[o]) : 0.0f);
      if (finish.gelu) y = gelu(y);
      const int64_t at = n * OC + o;
      if (finish.residual) y = __fadd_rn(to_float(finish.residual[at]), y);
      out[at] = from_float<floatX>(y);
    }
  }
};

// ---- bf16 inputs, bf16 or int8 weights: tensor cores ----------------------------------------------------------------

// An mma's registers for n elements: pairs of bf16.
template <class T, int n>
__device__ void mma_words(uint32_t (&words)[n / 2], const Pack<T, n>& pack) {
  if constexpr (std::is_same_v<T, bf16>) {
    std::memcpy(words, &pack, sizeof words);
  } else {
#pragma unroll
    for (int i = 0; i < n / 2; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(weight_number(pack[2 * i]), weight_number(pack[2 * i + 1]));
      std::memcpy(&words[i], &pair, sizeof pair);
    }
  }
}

// A block: 16 rows of weights (the mma's rows) times 8 kTiles rows of inp (its columns). Since the order of k is free,
// a lane's pack is n neighbouring channels of a row, four lanes have 4 n, and an mma takes the next 4 of each: two
// pairs of bf16.
template <class Weight, int kTiles, int kAhead /* packs of a row in flight */, bool kVector>
__global__ void __launch_bounds__(kPackedThreads)
    matmul_packed_tensor_core_kernel(bf16* out, const bf16* inp, const Weight* weight, const float* scales,
                                     PackedFinish<bf16> finish, int N, int C, int OC) {
  wait_for_earlier_kernels();
  constexpr int kRows = 16, kColumns = 8 * kTiles;
  constexpr int n = Pack<Weight>::size, kStep = 4 * n * kPackedWarps;
  __shared__ PackedSums<kRows, kColumns> sums;
  const PackedTile<kRows, kColumns> tile(N);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 4, part = lane % 4;
  const int begin = (warp * 4 + part) * n;
  const Weight* w_from[2];
  const bf16* x_from[kTiles];
#pragma unroll
  for (int half = 0; half < 2; ++half) w_from[half] = tile.row(weight, C, tile.first_o + group + 8 * half, OC) + begin;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) x_from[t] = tile.row(inp, C, tile.first_n + group + 8 * t, N) + begin;

  float acc[kTiles][4] = {};
  // The lanes of a warp make the same number of rounds.
  for (int left = C - begin; left > -part * n; left -= kAhead * kStep) {
    Pack<Weight> w[kAhead][2];
    Pack<bf16> x[kAhead][kTiles][n / 8];
    load_packs<kVector, kStep>(w, w_from, left);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < n / 8; ++i) {
          const int at = a * kStep + 8 * i;
          x[a][t][i] = load_row_pack<kVector, 8>(x_from[t] + at, left - at);
        }
      }
    }
    for (const Weight*& from : w_from) from += kAhead * kStep;
    for (const bf16*& from : x_from) from += kAhead * kStep;
    __syncwarp();  // only so that ptxas does not put off loads until their values are used
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      uint32_t rows[2][n / 2];
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_words(rows[half], w[a][half]);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < n / 8; ++i) {
          uint32_t columns[4];
          mma_words(columns, x[a][t][i]);
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            const int k = 4 * i + j;
            mma_m16n8k16(acc[t], {rows[0][k], rows[1][k], rows[0][k + 1], rows[1][k + 1]},
                         {columns[j], columns[j + 1]});
          }
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sums.values[warp][8 * t + 2 * part + k % 2][group + k / 2 * 8] = acc[t][k];
  }
  __syncthreads();
  sums.store(out, scales, finish, tile, N, OC);
}

// ---- floats: plain units --------------------------------------------------------------------------------------------

// Each of x's kValues summed over eight lanes, which differ by up to kOffset; lane p of them ends with the values from
// p kValues / 8 on in x[0], x[1] ... Whatever kValues, the lanes are added in one order.
template <int kOffset, int kValues>
__device__ void sum_over_lanes(float* x) {
  const bool upper = threadIdx.x & kOffset;
  constexpr int kKept = kValues > 1 ? kValues / 2 : 1;
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const float kept = upper ? x[kValues - kKept + i] : x[i], given = upper ? x[i] : x[kValues - kKept + i];
    x[i] = kept + __shfl_xor_sync(kFullWarp, given, kOffset);
  }
  if constexpr (kOffset > 1) sum_over_lanes<kOffset / 2, kKept>(x);
}

// A block: 8 rows of weights times kColumns rows of inp. Eight lanes have neighbouring packs of a row; a lane has two
// rows, so that it uses inputs twice.
template <class floatX, class Weight, int kColumns, bool kVector>
__global__ void __launch_bounds__(kPackedThreads)
    matmul_packed_plain_kernel(floatX* out, const floatX* inp, const Weight* weight, const float* scales,
                               PackedFinish<floatX> finish, int N, int C, int OC) {
  wait_for_earlier_kernels();
  constexpr int kRows = 8, kAhead = !kVector ? 1 : kColumns == 1 ? 4 : 2;  // packs of a row in flight
  constexpr int n = Pack<Weight>::size, kStep = 8 * n * kPackedWarps;
  __shared__ PackedSums<kRows, kColumns> sums;
  const PackedTile<kRows, kColumns> tile(N);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = lane / 8, part = lane % 8;
  const int begin = (warp * 8 + part) * n;
  const Weight* w_from[2];
  const floatX* x_from[kColumns];
#pragma unroll
  for (int half = 0; half < 2; ++half) w_from[half] = tile.row(weight, C, tile.first_o + group + 4 * half, OC) + begin;
#pragma unroll
  for (int r = 0; r < kColumns; ++r) x_from[r] = tile.row(inp, C, tile.first_n + r, N) + begin;

  float acc[kColumns * 2] = {};  // of a row of inp: both rows of weights
  // The lanes of a warp make the same number of rounds.
  for (int left = C - begin; left > -part * n; left -= kAhead * kStep) {
    Pack<Weight> w[kAhead][2];
    load_packs<kVector, kStep>(w, w_from, left);
    __syncwarp();  // only so that ptxas does not put off loads until their values are used
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int k0 = 0; k0 < n; k0 += 4) {
        const int at = a * kStep + k0;
        Pack<floatX, 4> x[kColumns];
#pragma unroll
        for (int r = 0; r < kColumns; ++r) x[r] = load_row_pack<kVector, 4>(x_from[r] + at, left - at);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const float number = weight_number(w[a][half][k0 + k]);
#pragma unroll
            for (int r = 0; r < kColumns; ++r) {
              acc[2 * r + half] = fmaf(number, to_float(x[r][k]), acc[2 * r + half]);
            }
          }
        }
      }
    }
    for (const Weight*& from : w_from) from += kAhead * kStep;
    for (const floatX*& from : x_from) from += kAhead * kStep;
  }
  sum_over_lanes<4, 2 * kColumns>(acc);
  constexpr int kLanes = kColumns == 1 ? 4 : 1;  // that have the same values
  if (part % kLanes == 0) {
#pragma unroll
    for (int i = 0; i < (kColumns * 2 + 7) / 8; ++i) {
      const int value = part * kColumns * 2 / 8 + i;
      sums.values[warp][value / 2][group + value % 2 * 4] = acc[i];
    }
  }
  __syncthreads();
  sums.store(out, scales, finish, tile, N, OC);
}

// ---- launcher -------------------------------------------------------------------------------------------------------

template <int n>
using PackedInt = std::integral_constant<int, n>;

template <class floatX, class Weight>
void matmul_packed(floatX* out,                         // (N, OC)
                   const floatX* inp,                   // (N, C)
                   const Weight* weight,                // (OC, C)  float, bf16 or int8_t
                   const float* scales,                 // (OC)  of the rows of int8_t weights; null for the other types
                   const PackedFinish<floatX>& finish,  //
                   int N, int C, int OC, cudaStream_t stream) {
  const bool vector = C % Pack<Weight>::size == 0 && aligned16(inp, weight);
  const auto start = [&](auto vector_kernel, auto element_kernel, int rows, int columns) {
    launch(vector ? vector_kernel : element_kernel, grid_for(ceil_div<int64_t>(OC, rows) * ceil_div(N, columns), 1),
           kPackedThreads, 0, stream, out, inp, weight, scales, finish, N, C, OC);
  };
  if constexpr (std::is_same_v<floatX, bf16> && !std::is_same_v<Weight, float>) {
    const auto sweep = [&](auto tiles, auto ahead) {
      start(matmul_packed_tensor_core_kernel<Weight, tiles, ahead, true>,
            matmul_packed_tensor_core_kernel<Weight, tiles, 1, false>, 16, 8 * tiles);
    };
    // Long rows with fewer blocks than an H100 has multiprocessors: each block has to have more in flight. (Not with
    // int8 weights: sm_80 has no registers for it.)
    const int at_once = 4 * 4 * kPackedWarps * Pack<Weight>::size;  // channels, by a block with four packs per thread
    const bool long_rows = OC <= 16 * 132 && C > at_once;
    N > 8       ? sweep(PackedInt<4>(), PackedInt<16 / Pack<Weight>::size>())
    : long_rows ? sweep(PackedInt<1>(), PackedInt < std::is_same_v<Weight, bf16> ? 8 : 4 > ())
                : sweep(PackedInt<1>(), PackedInt<4>());
  } else {
    const auto sweep = [&](auto columns) {
      start(matmul_packed_plain_kernel<floatX, Weight, columns, true>,
            matmul_packed_plain_kernel<floatX, Weight, columns, false>, 8, columns);
    };
    N == 1 ? sweep(PackedInt<1>()) : N <= 4 ? sweep(PackedInt<4>()) : sweep(PackedInt<8>());
  }
}
