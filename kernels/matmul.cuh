// A linear layer:  out = inp @ weight^T + bias, as kernels/matmul.h.
//
// Backward:  dinp = dout @ weight    dweight += dout^T @ inp    dbias += column sums of dout.
// Fused into the products: the bias and GELU (forward), GELU's derivative (dinp), the accumulation (dweight, dbias).
//
// Three tiers multiply: the plain one below, tensor cores by hand (matmul_tensor_core.cuh), and cuBLASLt
// (matmul_cublaslt.cuh). Sums are float in all of them.
#pragma once

#include "kernels/matmul_epilogue.cuh"

enum class MatmulTier { plain, tensor_core, cublaslt };

struct MatmulMode {
  MatmulTier tier;
  bool tf32;  // float factors may be rounded to tf32 (10 bits of mantissa) for tensor cores
};

// ---- plain: any type, layout, size and alignment -------------------------------------------------------------------

// A block makes a kTile x kTile tile of D. Step by step along K it copies a slice of both factors into shared memory,
// as floats with k outermost, and each thread adds 8 x 8 products of it. A thread's 8 rows are 4 and 4, half a tile
// apart, and so are its columns: 8 threads that load 4 floats each then touch 32 different banks. Blocks that share a
// multiprocessor hide each other's copies.
inline constexpr int kPlainDepth = 16;  // of a slice

template <int kTile>
inline constexpr int kPlainThreads = kTile* kTile / 64;

// A slice as float tile[k][row], 4 floats of padding a row: 16-byte aligned, and few conflicts when columns are stored.
template <int kTile>
using PlainTile = float[kPlainDepth][kTile + 4];

// The block copies a factor's slice: kTile rows from first_row on, kPlainDepth of K from first_k on; beyond them zeros.
template <Major kMajor, int kTile, bool kVector, class floatX>
__device__ void copy_slice(PlainTile<kTile>& tile,
                           const floatX* data,  // (rows, K) or, Major::mn, (K, rows)
                           int64_t first_row, int64_t rows, int64_t first_k, int64_t K) {
  constexpr int kThreads = kPlainThreads<kTile>;
  constexpr int kWidth = kVector ? Pack<floatX>::size : 1;                    // elements of a load
  constexpr int kLine = (kMajor == Major::k ? kPlainDepth : kTile) / kWidth;  // loads of a row of memory
#pragma unroll(kVector ? 4 : 8)
  for (int i = 0; i < kTile * kPlainDepth / kThreads / kWidth; ++i) {
    const int item = i * kThreads + threadIdx.x;
    const int outer = item / kLine, inner = item % kLine * kWidth;
    float values[kWidth];
    if constexpr (kMajor == Major::k) {
      const int64_t row = first_row + outer, k = first_k + inner;
      load_floats<kVector>(values, data + row * K + k, row < rows ? K - k : 0);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) tile[inner + j][outer] = values[j];
    } else {
      const int64_t row = first_row + inner, k = first_k + outer;
      load_floats<kVector>(values, data + k * rows + row, k < K ? rows - row : 0);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) tile[outer][inner + j] = values[j];
    }
  }
}

template <class floatX, Major kMajorA, Major kMajorB, int kTile, bool kVector, class Epilogue>
__global__ void __launch_bounds__(kPlainThreads<kTile>, 512 / kPlainThreads<kTile>)
    matmul_plain_kernel(Epilogue epilogue, const floatX* a, const floatX* b, int M, int N, int K) {
  __shared__ alignas(16) PlainTile<kTile> a_tile, b_tile;
  int row_tile, column_tile;
  tile_of_block(row_tile, column_tile, blockIdx.x, ceil_div(M, kTile), ceil_div(N, kTile));
  const int64_t first_row = static_cast<int64_t>(row_tile) * kTile,
                first_column = static_cast<int64_t>(column_tile) * kTile;
  const int y = threadIdx.x / (kTile / 8) * 4, x = threadIdx.x % (kTile / 8) * 4;

  float sums[8][8] = {};
  for (int k0 = 0; k0 < K; k0 += kPlainDepth) {
    copy_slice<kMajorA, kTile, kVector>(a_tile, a, first_row, M, k0, K);
    copy_slice<kMajorB, kTile, kVector>(b_tile, b, first_column, N, k0, K);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kPlainDepth; ++k) {
      float rows[8], columns[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        rows[j] = a_tile[k][y + j % 4 + j / 4 * (kTile / 2)];
        columns[j] = b_tile[k][x + j % 4 + j / 4 * (kTile / 2)];
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
    const int64_t row = first_row + y + i % 4 + i / 4 * (kTile / 2);
    if (row >= M) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t column = first_column + x + half * (kTile / 2);
      float four[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) four[j] = sums[i][half * 4 + j];
      if (column < N) epilogue.template store<kVector>(four, row, static_cast<int>(column));
    }
  }
}

// Whether a factor's rows can be read 16 bytes at a time.
template <Major kMajor, class floatX>
bool vector_factor(const floatX* data, int rows, int K) {
  return (kMajor == Major::k ? K : rows) % Pack<floatX>::size == 0 && aligned16(data);
}

// Blocks that make M x N in tiles.
inline int64_t tile_count(int M, int N, int tile_m, int tile_n) {
  return static_cast<int64_t>(ceil_div(M, tile_m)) * ceil_div(N, tile_n);
}

template <Major kMajorA, Major kMajorB, class floatX, class Epilogue>
void matmul_plain(const Epilogue& epilogue,
                  const floatX* a,  // (M, K) or, Major::mn, (K, M)
                  const floatX* b,  // (N, K) or, Major::mn, (K, N)
                  int M, int N, int K, cudaStream_t stream) {
  const bool vector = epilogue.vector() && vector_factor<kMajorA>(a, M, K) && vector_factor<kMajorB>(b, N, K);
  const auto run = [&](auto kernel, int tile, int threads) {
    launch(kernel, grid_for(tile_count(M, N, tile, tile), 1), threads, 0, stream, epilogue, a, b, M, N, K);
  };
  if (!vector) {
    run(matmul_plain_kernel<floatX, kMajorA, kMajorB, 64, false, Epilogue>, 64, kPlainThreads<64>);
  } else if (tile_count(M, N, 128, 128) < 128) {  // fewer than a large GPU has multiprocessors
    run(matmul_plain_kernel<floatX, kMajorA, kMajorB, 64, true, Epilogue>, 64, kPlainThreads<64>);
  } else {
    run(matmul_plain_kernel<floatX, kMajorA, kMajorB, 128, true, Epilogue>, 128, kPlainThreads<128>);
  }
}

// ---- dbias ---------------------------------------------------------------------------------------------------------

// A kernel of its own and not part of dweight's product, so that it is the same in all tiers, sums what was stored
// (tf32 would round it) and costs the products no registers. It reads dout once more: N OC elements, against the
// product's N OC C multiplications. In chunks of rows, whose sums are then added in order: the chunks depend on N
// alone.
inline constexpr int kBiasChunk = 512;  // rows
inline constexpr int kBiasWarps = 8;

// partial (chunks, OC) = sums of the rows of each chunk. Block (x, y): 32 kWidth columns of chunk y; warp w takes every
// 8th row.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(32 * kBiasWarps)
    bias_partial_kernel(float* partial, const floatX* dout, int N, int OC) {
  constexpr int kWidth = kVector ? Pack<floatX>::size : 1;
  __shared__ float sums[kBiasWarps][kWidth][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t o = (static_cast<int64_t>(blockIdx.x) * 32 + lane) * kWidth;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kBiasChunk;
  const int64_t end = min(first + kBiasChunk, static_cast<int64_t>(N));
  float sum[kWidth] = {};
  for (int64_t n = first + warp; n < end; n += kBiasWarps) {
    float x[kWidth];
    load_floats<kVector>(x, dout + n * OC + o, OC - o);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum[j] += x[j];
  }
#pragma unroll
  for (int j = 0; j < kWidth; ++j) sums[warp][j][lane] = sum[j];
  __syncthreads();
  if (warp > 0 || o >= OC) return;
  for (int w = 1; w < kBiasWarps; ++w) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum[j] += sums[w][j][lane];
  }
  store_floats<kVector>(partial + blockIdx.y * static_cast<int64_t>(OC) + o, sum, OC - o);
}

// sums (n) += the parts (parts, n), added up in order
template <class Float>
__global__ void add_parts_kernel(Float* sums, const Float* parts, int count, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  Float sum = 0;
  for (int part = 0; part < count; ++part) sum += parts[part * n + i];
  sums[i] += sum;
}

inline int64_t bias_backward_scratch(int N, int OC) {
  return static_cast<int64_t>(ceil_div(N, kBiasChunk)) * OC * static_cast<int64_t>(sizeof(float));
}

// dbias += the column sums of dout.
template <class floatX>
void bias_backward(float* dbias,        // (OC)  +=
                   void* scratch,       // bias_backward_scratch(N, OC)
                   const floatX* dout,  // (N, OC)
                   int N, int OC, cudaStream_t stream) {
  float* partial = static_cast<float*>(scratch);
  const int chunks = ceil_div(N, kBiasChunk);
  const bool vector = OC % Pack<floatX>::size == 0 && aligned16(dout);
  const int columns = 32 * (vector ? Pack<floatX>::size : 1);
  launch(vector ? bias_partial_kernel<floatX, true> : bias_partial_kernel<floatX, false>,
         dim3(ceil_div(OC, columns), chunks), 32 * kBiasWarps, 0, stream, partial, dout, N, OC);
  launch(add_parts_kernel<float>, grid_for(OC, 256), 256, 0, stream, dbias, static_cast<const float*>(partial), chunks,
         static_cast<int64_t>(OC));
}

// ---- launchers -----------------------------------------------------------------------------------------------------

template <class floatX>
void matmul_forward(floatX* out,           // (N, OC)
                    floatX* out_gelu,      // (N, OC) or null: gelu(out) is not wanted
                    const floatX* inp,     // (N, C)
                    const floatX* weight,  // (OC, C)
                    const floatX* bias,    // (OC) or null: none
                    int N, int C, int OC, MatmulMode mode, cudaStream_t stream) {
  const ForwardEpilogue<floatX> epilogue{out, out_gelu, bias, OC};
  switch (mode.tier) {
    case MatmulTier::cublaslt:
      throw CudaError("matmul: this program was built without cuBLASLt");
    case MatmulTier::tensor_core:
    case MatmulTier::plain:
      return matmul_plain<Major::k, Major::k>(epilogue, inp, weight, N, OC, C, stream);
  }
}

// Bytes of scratch that matmul_backward needs.
inline int64_t matmul_backward_scratch(int N, int /*C*/, int OC) { return bias_backward_scratch(N, OC); }

template <class floatX>
void matmul_backward(floatX* dinp,            // (N, C)  =, or null: not wanted
                     float* dweight,          // (OC, C)  +=, or null: not wanted
                     float* dbias,            // (OC)  +=, or null: none
                     void* scratch,           // matmul_backward_scratch(N, C, OC)
                     const floatX* dout,      // (N, OC)
                     const floatX* inp,       // (N, C)
                     const floatX* weight,    // (OC, C)
                     const floatX* pre_gelu,  // (N, C) or null: dinp *= gelu'(pre_gelu), as inp = gelu(pre_gelu)
                     int N, int C, int OC, MatmulMode mode, cudaStream_t stream) {
  const InputGradientEpilogue<floatX> input{dinp, pre_gelu, C};
  const AccumulateEpilogue weights{dweight, C};
  switch (mode.tier) {
    case MatmulTier::cublaslt:
      throw CudaError("matmul: this program was built without cuBLASLt");
    case MatmulTier::tensor_core:
    case MatmulTier::plain:
      if (dinp) matmul_plain<Major::k, Major::mn>(input, dout, weight, N, C, OC, stream);
      if (dweight) matmul_plain<Major::mn, Major::mn>(weights, dout, inp, OC, C, N, stream);
      break;
  }
  if (dbias) bias_backward(dbias, scratch, dout, N, OC, stream);
}
