// What all matrix products share, whatever multiplies: the order of blocks, and what is done with a complete sum (the
// epilogue).
//
// A product is  D (M, N) = A (M, K) B (K, N), with two layouts for a factor: its rows along k (Major::k, as both
// factors of a linear layer's forward pass), or its rows along m or n (Major::mn).
#pragma once

#include "kernels/gelu.cuh"
#include "kernels/scratch.h"

enum class Major { k, mn };

// ---- the order of blocks -------------------------------------------------------------------------------------------

// Blocks that run at the same time should share rows of A and columns of B in L2. Counted along whole rows of tiles,
// 200 of them would need one panel of A and up to 200 of B; in bands 8 tiles high they need 8 and 25.
__host__ __device__ inline void tile_of_block(int& row_tile, int& column_tile, unsigned block, int row_tiles,
                                              int column_tiles) {
  constexpr int kBand = 8;
  const int64_t band_tiles = static_cast<int64_t>(kBand) * column_tiles;
  const int first = static_cast<int>(block / band_tiles) * kBand;
  const int height = row_tiles - first < kBand ? row_tiles - first : kBand;
  const int within = static_cast<int>(block % band_tiles);
  row_tile = first + within % height;
  column_tile = within / height;
}

// Whether a factor's rows can be read 16 bytes at a time.
template <Major kMajor, class floatX>
bool vector_factor(const floatX* data, int rows, int K) {
  return (kMajor == Major::k ? K : rows) % Pack<floatX>::size == 0 && aligned16(data);
}

// ---- epilogues -----------------------------------------------------------------------------------------------------

// An epilogue with kSymmetric computes, of a symmetric D, only the tiles that reach the diagonal or lie below it.
template <class Epilogue>
inline constexpr bool kSymmetric = requires {
  Epilogue::kSymmetric;
};

// store() takes n sums of a row, from `column` on, and may change them; columns beyond the matrix are left out.
// kVector: the rows and pointers are multiples of 16 bytes, and `column` is a multiple of n. kWidth of them make 16
// bytes.

// out = sum + bias + residual;  out_gelu = gelu(out), of out as stored: the same bits as gelu_forward(out).
template <class floatX>
struct ForwardEpilogue {
  static constexpr int kWidth = Pack<floatX>::size;
  floatX* out;             // (M, N)
  floatX* out_gelu;        // (M, N) or null
  const floatX* bias;      // (N) or null
  const floatX* residual;  // (M, N) or null
  int N;

  bool vector() const { return N % kWidth == 0 && aligned16(out, out_gelu, bias, residual); }

  template <bool kVector, int n>
  __device__ void store(float (&x)[n], int64_t row, int column) const {
    const int left = N - column;
    const int64_t at = row * N + column;
    if (bias) {
      float b[n];
      load_floats<kVector>(b, bias + column, left);
#pragma unroll
      for (int k = 0; k < n; ++k) x[k] += b[k];
    }
    if (residual) {
      float r[n];
      load_floats<kVector>(r, residual + at, left);
#pragma unroll
      for (int k = 0; k < n; ++k) x[k] += r[k];
    }
    store_floats<kVector>(out + at, x, left);
    if (!out_gelu) return;
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = gelu(to_float(from_float<floatX>(x[k])));
    store_floats<kVector>(out_gelu + at, x, left);
  }
};

// dinp = sum, or sum * gelu'(pre_gelu)
template <class floatX>
struct InputGradientEpilogue {
  static constexpr int kWidth = Pack<floatX>::size;
  floatX* dinp;            // (M, N)
  const floatX* pre_gelu;  // (M, N) or null
  int N;

  bool vector() const { return N % kWidth == 0 && aligned16(dinp, pre_gelu); }

  template <bool kVector, int n>
  __device__ void store(float (&x)[n], int64_t row, int column) const {
    const int left = N - column;
    const int64_t at = row * N + column;
    if (pre_gelu) {
      float y[n];
      load_floats<kVector>(y, pre_gelu + at, left);
#pragma unroll
      for (int k = 0; k < n; ++k) x[k] *= gelu_grad(y[k]);
    }
    store_floats<kVector>(dinp + at, x, left);
  }
};

// sums += sum, in float
struct AccumulateEpilogue {
  static constexpr int kWidth = Pack<float>::size;
  float* sums;  // (M, N)
  int N;

  bool vector() const { return N % kWidth == 0 && aligned16(sums); }

  template <bool kVector, int n>
  __device__ void store(float (&x)[n], int64_t row, int column) const {
    const int left = N - column;
    const int64_t at = row * N + column;
    float before[n];
    load_floats<kVector>(before, sums + at, left);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] += before[k];
    store_floats<kVector>(sums + at, x, left);
  }
};

// parts = sum, in float; for a product in parts along K: rows part M + row
struct PartEpilogue {
  static constexpr int kWidth = Pack<float>::size;
  float* parts;  // (parts M, N)
  int N;

  bool vector() const { return N % kWidth == 0 && aligned16(parts); }

  template <bool kVector, int n>
  __device__ void store(float (&x)[n], int64_t row, int column) const {
    store_floats<kVector>(parts + row * N + column, x, N - column);
  }
};
