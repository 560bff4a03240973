// A linear layer:  out = inp @ weight^T + bias, as kernels/matmul.h, or with the residual connection after it:
// out = inp @ weight^T + bias + residual.
//
// Backward:  dinp = dout @ weight    dweight += dout^T @ inp    dbias += column sums of dout. The first backward pass
// of a step sets dweight and dbias, and does not read them. Fused into the products: bias, residual and GELU (forward),
// GELU's derivative (dinp), the accumulation (dweight, dbias).
//
// Three tiers multiply: the plain one below, tensor cores by hand (matmul_tensor_core.cuh), and cuBLASLt
// (matmul_cublaslt.cuh). Sums are float in all of them.
#pragma once

#include <algorithm>

#include "kernels/matmul_common.cuh"
#include "kernels/matmul_cublaslt.cuh"
#include "kernels/matmul_tensor_core.cuh"

enum class MatmulTier { plain, tensor_core, cublaslt };

struct MatmulMode {
  MatmulTier tier;
  bool tf32;  // float factors may be rounded to tf32 (10 bits of mantissa) for tensor cores
};

// ---- plain: any type, layout, size and alignment -------------------------------------------------------------------

// A block of 64 threads makes a 64 x 64 tile of D. Step by step along K it copies a slice of both factors into shared
// memory, as floats with k outermost, and each thread adds 8 x 8 products of it. A thread's 8 rows are 4 and 4, half a
// tile apart, and so are its columns: 8 threads that load 4 floats each then touch 32 different banks. Blocks that
// share a multiprocessor hide each other's copies.
inline constexpr int kPlainTile = 64;
inline constexpr int kPlainDepth = 16;  // per slice
inline constexpr int kPlainThreads = kPlainTile / 8 * (kPlainTile / 8);

// A slice as float tile[k][row], 4 floats of padding per row: 16-byte aligned, and few conflicts when storing columns.
using PlainSlice = float[kPlainDepth][kPlainTile + 4];

// The block copies a factor's slice: rows from first_row on, of K from first_k on; beyond them zeros.
template <Major kMajor, bool kVector, class floatX>
__device__ void copy_slice(PlainSlice& slice,
                           const floatX* data,  // (rows, K) or, Major::mn, (K, rows)
                           int64_t first_row, int64_t rows, int64_t first_k, int64_t K) {
  constexpr int kWidth = kVector ? Pack<floatX>::size : 1;                         // elements per load
  constexpr int kLine = (kMajor == Major::k ? kPlainDepth : kPlainTile) / kWidth;  // loads per row of memory
#pragma unroll(kVector ? 2 : 8)
  for (int i = 0; i < kPlainTile * kPlainDepth / kPlainThreads / kWidth; ++i) {
    const int item = i * kPlainThreads + threadIdx.x;
    const int outer = item / kLine, inner = item % kLine * kWidth;
    float values[kWidth] = {};
    if constexpr (kMajor == Major::k) {
      const int64_t row = first_row + outer, k = first_k + inner;
      if (row < rows && k < K) load_floats<kVector>(values, data + row * K + k, K - k);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) slice[inner + j][outer] = values[j];
    } else {
      const int64_t row = first_row + inner, k = first_k + outer;
      if (k < K && row < rows) load_floats<kVector>(values, data + k * rows + row, rows - row);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) slice[outer][inner + j] = values[j];
    }
  }
}

template <class floatX, Major kMajorA, Major kMajorB, bool kVector, class Epilogue>
__global__ void __launch_bounds__(kPlainThreads)
    matmul_plain_kernel(Epilogue epilogue, const floatX* a, const floatX* b, int M, int N, int K) {
  wait_for_earlier_kernels();
  constexpr int kHalf = kPlainTile / 2;
  alignas(16) __shared__ PlainSlice a_slice, b_slice;
  int row_tile, column_tile;
  tile_of_block(row_tile, column_tile, blockIdx.x, ceil_div(M, kPlainTile), ceil_div(N, kPlainTile));
  const int64_t first_row = static_cast<int64_t>(row_tile) * kPlainTile;
  const int64_t first_column = static_cast<int64_t>(column_tile) * kPlainTile;
  if (kSymmetric<Epilogue> && column_tile > row_tile) return;
  const int y = threadIdx.x / 8 * 4, x = threadIdx.x % 8 * 4;

  float sums[8][8] = {};
  for (int64_t k0 = 0; k0 < K; k0 += kPlainDepth) {
    copy_slice<kMajorA, kVector>(a_slice, a, first_row, M, k0, K);
    copy_slice<kMajorB, kVector>(b_slice, b, first_column, N, k0, K);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPlainDepth; ++k) {
      float rows[8], columns[8];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        rows[j] = a_slice[k][y + j];
        rows[4 + j] = a_slice[k][kHalf + y + j];
        columns[j] = b_slice[k][x + j];
        columns[4 + j] = b_slice[k][kHalf + x + j];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] += rows[i] * columns[j];
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t row = first_row + y + i % 4 + i / 4 * kHalf;
    if (row >= M) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first_column + x + half * kHalf;
      float four[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) four[j] = sums[i][half * 4 + j];
      if (column < N) epilogue.template store<kVector>(four, row, static_cast<int>(column));
    }
  }
}

template <Major kMajorA, Major kMajorB, class floatX, class Epilogue>
void matmul_plain(const Epilogue& epilogue,
                  const floatX* a,  // (M, K) or, Major::mn, (K, M)
                  const floatX* b,  // (N, K) or, Major::mn, (K, N)
                  int M, int N, int K, cudaStream_t stream) {
  const bool vector = epilogue.vector() && vector_factor<kMajorA>(a, M, K) && vector_factor<kMajorB>(b, N, K);
  launch(vector ? matmul_plain_kernel<floatX, kMajorA, kMajorB, true, Epilogue>
                : matmul_plain_kernel<floatX, kMajorA, kMajorB, false, Epilogue>,
         grid_for(tile_count(M, N, kPlainTile, kPlainTile), 1), kPlainThreads, 0, stream, epilogue, a, b, M, N, K);
}

// ---- dbias ---------------------------------------------------------------------------------------------------------

// The column sums of dout come, with the first that applies, from the operation that made dout (dout_sums), from
// dweight's product (cuBLASLt with bf16 factors), or from a separate kernel: it sums what was stored, where tf32 would
// round it, and costs our own products no registers. It reads dout once more: N OC elements, compared with the
// product's N OC C multiplications. It works in chunks of rows, whose sums are then added in order: the chunks depend
// only on N.
inline constexpr int kBiasWarps = 8;  // as many threads as a block has columns in bf16
inline constexpr int kBiasAhead = 8;  // rows that a thread loads before adding the first

// partial (chunks, OC) = sums of the rows of each chunk. Block (x, y): 32 kWidth columns of chunk y; warp w takes every
// 8th row.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(32 * kBiasWarps, 2)
    bias_partial_kernel(float* partial, const floatX* dout, int N, int OC) {
  wait_for_earlier_kernels();
  constexpr int kWidth = kVector ? Pack<floatX>::size : 4 / static_cast<int>(sizeof(floatX)), kColumns = 32 * kWidth;
  // A warp writes sums of 32 lanes, and reads those of 32 columns, which are kWidth of 32 / kWidth lanes: both in 32
  // banks.
  __shared__ float sums[kBiasWarps][kWidth][32 + 32 / kWidth];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t o = (static_cast<int64_t>(blockIdx.x) * 32 + lane) * kWidth;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kBiasChunk + warp;
  const int step = OC * kBiasWarps;  // elements from one of the warp's rows to the next
  const floatX* from = dout + first * OC + o;
  int rows = static_cast<int>(min(static_cast<int64_t>(kBiasChunk - warp), N - first));  // from `from` to the end
  // While one batch of rows is added, the next is on its way. Rows beyond the end are zeros.
  Pack<floatX, kWidth> batch[kBiasAhead], next[kBiasAhead];
  const auto load = [&](Pack<floatX, kWidth>(&packs)[kBiasAhead]) {
#pragma unroll
    for (int r = 0; r < kBiasAhead; ++r) {
      packs[r] = load_row_pack<kVector, kWidth>(from + r * step, r * kBiasWarps < rows ? OC - o : 0);
    }
    from += kBiasAhead * step;
    rows -= kBiasAhead * kBiasWarps;
  };
  float sum[kWidth] = {};
  load(batch);
  for (bool more = true; more;) {
    more = rows > 0;
    load(next);
#pragma unroll
    for (int r = 0; r < kBiasAhead; ++r) {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum[j] += to_float(batch[r][j]);
      batch[r] = next[r];
    }
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) sums[warp][j][lane] = sum[j];
  __syncthreads();
  const int column = threadIdx.x;  // one per thread, so that neighbouring threads write neighbouring columns
  const int64_t to = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  if (column >= kColumns || to >= OC) return;
  float total = 0;
  for (int w = 0; w < kBiasWarps; ++w) total += sums[w][column % kWidth][column / kWidth];
  partial[blockIdx.y * static_cast<int64_t>(OC) + to] = total;
}

// sums (n) += the parts (parts, n), added up in order; set: =
static __global__ void add_parts_kernel(float* sums, const float* parts, bool set, int count, int64_t n) {
  wait_for_earlier_kernels();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float sum = 0;
  for (int part = 0; part < count; ++part) sum += parts[part * n + i];
  sums[i] = set ? sum : sums[i] + sum;
}

inline void add_parts(float* sums,         // (n)  +=, or with `set` =
                      const float* parts,  // (count, n)
                      bool set, int64_t count, int64_t n, cudaStream_t stream) {
  launch(add_parts_kernel, grid_for(n, 256), 256, 0, stream, sums, parts, set, static_cast<int>(count), n);
}

// dbias += the column sums of dout.
template <class floatX>
void bias_backward(float* dbias,        // (OC)  +=, or with `set` =
                   void* scratch,       // bias_backward_scratch(N, OC)
                   const floatX* dout,  // (N, OC)
                   bool set, int N, int OC, cudaStream_t stream) {
  float* partial = static_cast<float*>(scratch);
  const int chunks = ceil_div(N, kBiasChunk);
  const bool vector = OC % Pack<floatX>::size == 0 && aligned16(dout);
  const int columns = 32 * (vector ? Pack<floatX>::size : 4 / static_cast<int>(sizeof(floatX)));
  launch(vector ? bias_partial_kernel<floatX, true> : bias_partial_kernel<floatX, false>,
         dim3(ceil_div(OC, columns), chunks), 32 * kBiasWarps, 0, stream, partial, dout, N, OC);
  add_parts(dbias, partial, set, chunks, OC, stream);
}

// ---- launchers -----------------------------------------------------------------------------------------------------

// Whether a product, if it runs on our kernels, uses tensor cores: float only if it may be rounded. (cuBLASLt's tier
// leaves what is not aligned to ours.)
template <class floatX>
bool on_tensor_cores(MatmulMode mode) {
  return mode.tier != MatmulTier::plain && (std::is_same_v<floatX, bf16> || mode.tf32);
}

// Why our own kernels multiply, if the mode did not request cuBLASLt.
template <class floatX>
std::string why_own(MatmulMode mode) {
#ifdef WROUGHT_CUBLASLT
  return mode.tier == MatmulTier::plain ? "the plain kernels were asked for" : "our own kernels were asked for";
#else
  if (mode.tier == MatmulTier::plain && std::is_same_v<floatX, float> && !mode.tf32) {
    return "built without cuBLASLt, and tensor cores would round fp32";
  }
  return mode.tier == MatmulTier::plain ? "the plain kernels were asked for" : "built without cuBLASLt";
#endif
}

// What multiplies, for a dry run: `choice` of cuBLASLt, or our own kernels.
template <class floatX>
MatmulChoice explained(MatmulChoice choice, MatmulMode mode) {
  if (!choice.library.empty()) return choice;
  choice.library = on_tensor_cores<floatX>(mode) ? "own tensor cores" : "own plain kernel";
  if (choice.why.empty()) choice.why = why_own<floatX>(mode);
  return choice;
}

inline std::string product_shape(int M, int N, int K) {
  return std::to_string(M) + " x " + std::to_string(N) + " x " + std::to_string(K);
}

template <Major kMajorA, Major kMajorB, class floatX, class Epilogue>
void matmul_own(const Epilogue& epilogue, const floatX* a, const floatX* b, int M, int N, int K, MatmulMode mode,
                cudaStream_t stream) {
  if (on_tensor_cores<floatX>(mode)) {
    matmul_tensor_core<kMajorA, kMajorB>(epilogue, a, b, M, N, K, K, stream);
  } else {
    matmul_plain<kMajorA, kMajorB>(epilogue, a, b, M, N, K, stream);
  }
}

template <class floatX>
void matmul_forward(floatX* out,           // (N, OC)
                    floatX* out_gelu,      // (N, OC) or null: gelu(out) is not needed
                    const floatX* inp,     // (N, C)
                    const floatX* weight,  // (OC, C)
                    const floatX* bias,    // (OC) or null: none
                    int N, int C, int OC, MatmulMode mode, cudaStream_t stream,
                    const floatX* residual = nullptr) {  // (N, OC), may be out; null: none
  DryOperation operation([&] { return DryRun::Operation{"matmul_forward", product_shape(N, OC, C), weight}; });
  MatmulChoice choice;
  if (mode.tier != MatmulTier::cublaslt ||
      !cublaslt_forward(choice, out, out_gelu, inp, weight, bias, residual, N, C, OC, mode.tf32, stream)) {
    const ForwardEpilogue<floatX> epilogue{out, out_gelu, bias, residual, OC};
    matmul_own<Major::k, Major::k>(epilogue, inp, weight, N, OC, C, mode, stream);
  }
  operation.chose([&] { return explained<floatX>(choice, mode); });
}

// dweight += dout^T @ inp by our own kernels; set: =.
template <class floatX>
void weight_gradient(float* dweight, void* scratch, const floatX* dout, const floatX* inp, bool set, int N, int C,
                     int OC, MatmulMode mode, cudaStream_t stream) {
  const int part_rows = rows_per_part(N, C, OC);
  if (part_rows == N || !on_tensor_cores<floatX>(mode)) {
    if (set) {
      matmul_own<Major::mn, Major::mn>(PartEpilogue{dweight, C}, dout, inp, OC, C, N, mode, stream);
    } else {
      matmul_own<Major::mn, Major::mn>(AccumulateEpilogue{dweight, C}, dout, inp, OC, C, N, mode, stream);
    }
    return;
  }
  float* parts = static_cast<float*>(scratch);
  matmul_tensor_core<Major::mn, Major::mn>(PartEpilogue{parts, C}, dout, inp, OC, C, N, part_rows, stream);
  add_parts(dweight, parts, set, ceil_div<int64_t>(N, part_rows), static_cast<int64_t>(OC) * C, stream);
}

template <class floatX>
void matmul_backward(floatX* dinp,            // (N, C)  =, or null: not needed
                     float* dweight,          // (OC, C)  +=, or null: not needed
                     float* dbias,            // (OC)  +=, or null: none
                     void* scratch,           // matmul_backward_scratch(N, C, OC)
                     const floatX* dout,      // (N, OC)
                     const floatX* inp,       // (N, C)
                     const floatX* weight,    // (OC, C)
                     const floatX* pre_gelu,  // (N, C) or null: dinp *= gelu'(pre_gelu), as inp = gelu(pre_gelu)
                     int N, int C, int OC, MatmulMode mode, cudaStream_t stream,
                     bool set = false,                    // dweight and dbias are set, not added to
                     const float* dout_sums = nullptr) {  // (OC)  dout's column sums; null: not known
  const bool cublaslt = mode.tier == MatmulTier::cublaslt;
  if (dinp) {
    DryOperation operation([&] { return DryRun::Operation{"matmul_backward dinp", product_shape(N, C, OC), weight}; });
    MatmulChoice choice;
    if (!cublaslt || !cublaslt_input_gradient(choice, dinp, dout, weight, pre_gelu, N, C, OC, mode.tf32, stream)) {
      const InputGradientEpilogue<floatX> epilogue{dinp, pre_gelu, C};
      matmul_own<Major::k, Major::mn>(epilogue, dout, weight, N, C, OC, mode, stream);
    }
    operation.chose([&] { return explained<floatX>(choice, mode); });
  }
  bool summed = false;  // dweight's product left dout's column sums, in dbias, or in scratch to be added to it
  float* const sums = set ? dbias : static_cast<float*>(scratch);
  if (dweight) {
    DryOperation operation([&] {
      return DryRun::Operation{"matmul_backward dweight", product_shape(OC, C, N), weight};
    });
    MatmulChoice choice;
    float* const wanted = dbias && !dout_sums ? sums : nullptr;
    if (!cublaslt ||
        !cublaslt_weight_gradient(choice, summed, dweight, wanted, dout, inp, set, N, C, OC, mode.tf32, stream)) {
      weight_gradient(dweight, scratch, dout, inp, set, N, C, OC, mode, stream);
    }
    operation.chose([&] { return explained<floatX>(choice, mode); });
  }
  if (!dbias || (summed && set)) return;
  const DryOperation operation([&] {
    return DryRun::Operation{"matmul_backward dbias", std::to_string(N) + " x " + std::to_string(OC), weight};
  });
  if (summed || dout_sums) {
    add_parts(dbias, summed ? sums : dout_sums, set, 1, OC, stream);
  } else {
    bias_backward(dbias, scratch, dout, set, N, OC, stream);
  }
}
