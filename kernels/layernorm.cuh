// Layer normalisation over the last dimension, eps 1e-5, with the formulas of kernels/layernorm.h; and fused with the
// residual connection before it (and the dropout before that):  residual = inp1 + drop(inp2),  out = norm(residual),
// where the statistics are those of the residual as it is stored, so that backward finds the same.
//
// A team of threads has a row: one warp up to 2048 channels, a block of 256 beyond. The row is read once and kept in
// shared memory, each thread's part for itself, so that nothing waits; the variance is a second pass over what is kept
// (E x^2 - mean^2 would lose all its digits when the mean is far above the spread). Rows beyond 48 KiB are read again.
//
// Backward: teams walk over rows and keep the sums for dweight and dbias of their rows in shared memory; each block
// writes its own to scratch, and a second kernel adds them up in order. dinp is added: x is the residual stream.
//
// Bound by memory, in elements: forward reads N C and writes N C; fused it reads 2 N C and writes 2 N C (apart: 3 and
// 2, with dropout 4 and 3). Backward reads 3 N C (dout, inp, dinp) and writes N C; its partial sums are at most 384 * 2
// C floats, written and read once.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/common.cuh"
#include "kernels/dropout.cuh"

inline constexpr int kLayernormWarpChannels = 2048;   // more than these: a block a row
inline constexpr int kLayernormBlock = 256;           // its threads
inline constexpr int kLayernormKept = 48 * 1024;      // bytes of a row that forward keeps
inline constexpr int kLayernormSums = 96 * 1024;      // bytes of shared memory for backward, fits sm_80 and later
inline constexpr int kLayernormBackwardBlocks = 384;  // at most; not by the GPU's size, so that sums are the same

template <int kTeam>
__device__ float team_sum(float x) {
  if constexpr (kTeam == 32) {
    return warp_sum(x);
  } else {
    return block_sum(x);
  }
}

// ---- forward -------------------------------------------------------------------------------------------------------

// kResidual: the row is inp1 + drop(inp2), also written to residual. kKept: dynamic shared memory has the block's rows,
// each in whole packs.
template <class floatX, bool kVector, int kTeam, bool kKept, bool kResidual>
__global__ void __launch_bounds__(kLayernormBlock)
    layernorm_forward_kernel(floatX* residual, floatX* out, float* mean, float* rstd, const floatX* inp1,
                             const floatX* inp2, const floatX* weight, const floatX* bias, float dropout, uint64_t seed,
                             uint64_t sequence, int N, int C) {
  constexpr int n = Pack<floatX>::size;
  const int team = threadIdx.x / kTeam, thread = threadIdx.x % kTeam, packs = ceil_div(C, n);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kTeam) + team;
  if (row >= N) return;
  const int64_t start = row * C;
  floatX* kept = kKept ? dynamic_shared<floatX>() + team * packs * n : nullptr;
  const auto load_again = [&](float(&x)[n], int c) {
    if constexpr (kKept) {
      load_floats<true>(x, kept + c, n);
    } else {
      load_floats<kVector>(x, (kResidual ? residual : inp1) + start + c, C - c);
    }
  };

  float sum = 0;
  for (int pack = thread; pack < packs; pack += kTeam) {
    const int c = pack * n;
    float x[n];
    load_floats<kVector>(x, inp1 + start + c, C - c);
    if constexpr (kResidual) {
      float y[n], factors[n];
      load_floats<kVector>(y, inp2 + start + c, C - c);
      dropout_factors(factors, dropout, seed, sequence, start + c);
#pragma unroll
      for (int k = 0; k < n; ++k) x[k] = to_float(from_float<floatX>(x[k] + (factors[k] == 0 ? 0 : y[k] * factors[k])));
      store_floats<kVector>(residual + start + c, x, C - c);
    }
    if constexpr (kKept) store_floats<true>(kept + c, x, n);  // beyond C: zeros
#pragma unroll
    for (int k = 0; k < n; ++k) sum += x[k];
  }
  const float m = team_sum<kTeam>(sum) / C;

  float squares = 0;
  for (int pack = thread; pack < packs; pack += kTeam) {
    const int c = pack * n;
    float x[n];
    load_again(x, c);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (kVector || c + k < C) squares += (x[k] - m) * (x[k] - m);
    }
  }
  const float s = 1 / sqrtf(team_sum<kTeam>(squares) / C + 1e-5f);

  for (int pack = thread; pack < packs; pack += kTeam) {
    const int c = pack * n;
    float x[n], w[n], b[n];
    load_again(x, c);
    load_floats<kVector>(w, weight + c, C - c);
    load_floats<kVector>(b, bias + c, C - c);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = (x[k] - m) * s * w[k] + b[k];
    store_floats<kVector>(out + start + c, x, C - c);
  }
  if (thread == 0) {
    mean[row] = m;
    rstd[row] = s;
  }
}

template <class floatX, bool kResidual>
void launch_layernorm_forward(floatX* residual, floatX* out, float* mean, float* rstd, const floatX* inp1,
                              const floatX* inp2, const floatX* weight, const floatX* bias, float dropout,
                              uint64_t seed, uint64_t sequence, int N, int C, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kBlock = kLayernormBlock;
  const auto choose = [&](auto vector) {
    constexpr bool kVector = decltype(vector)::value;
    const size_t row_bytes = static_cast<size_t>(ceil_div(C, n)) * 16;
    auto kernel = layernorm_forward_kernel<floatX, kVector, 32, true, kResidual>;
    int threads = 128, rows = 4;  // four warps
    size_t kept = rows * row_bytes;
    if (C > kLayernormWarpChannels) {
      threads = kBlock;
      rows = 1;
      kept = row_bytes <= kLayernormKept ? row_bytes : 0;
      kernel = kept ? layernorm_forward_kernel<floatX, kVector, kBlock, true, kResidual>
                    : layernorm_forward_kernel<floatX, kVector, kBlock, false, kResidual>;
    }
    launch(kernel, grid_for(N, rows), threads, kept, stream, residual, out, mean, rstd, inp1, inp2, weight, bias,
           dropout, seed, sequence, N, C);
  };
  if (aligned16(residual, out, inp1, inp2, weight, bias) && C % n == 0) {
    choose(std::true_type{});
  } else {
    choose(std::false_type{});
  }
}

template <class floatX>
void layernorm_forward(floatX* out,           // (N, C)
                       float* mean,           // (N)  saved for backward
                       float* rstd,           // (N)  saved for backward
                       const floatX* inp,     // (N, C)
                       const floatX* weight,  // (C)
                       const floatX* bias,    // (C)
                       int N, int C, cudaStream_t stream) {
  floatX* no_residual = nullptr;
  const floatX* no_inp2 = nullptr;
  launch_layernorm_forward<floatX, false>(no_residual, out, mean, rstd, inp, no_inp2, weight, bias, 0, 0, 0, N, C,
                                          stream);
}

template <class floatX>
void residual_layernorm_forward(floatX* residual,      // (N, C)  inp1 + drop(inp2); may be inp1 or inp2
                                floatX* out,           // (N, C)
                                float* mean,           // (N)  saved for backward
                                float* rstd,           // (N)  saved for backward
                                const floatX* inp1,    // (N, C)
                                const floatX* inp2,    // (N, C)
                                const floatX* weight,  // (C)
                                const floatX* bias,    // (C)
                                float dropout, uint64_t seed, uint64_t sequence, int N, int C, cudaStream_t stream) {
  launch_layernorm_forward<floatX, true>(residual, out, mean, rstd, inp1, inp2, weight, bias, dropout, seed, sequence,
                                         N, C, stream);
}

// ---- backward ------------------------------------------------------------------------------------------------------

// The sums for dweight and dbias lie in groups of four channels: pack p's q-th group is group q * packs + p. So a
// warp's 16-byte accesses to one q are neighbours, whatever the size of a pack, and shared memory serves them without
// bank conflicts. Behind dweight's packs * n sums come dbias'.
//
// kKept: dynamic shared memory has, for each team, inp's and dout's row in whole packs, then the sums; otherwise the
// sums are in partials from the start and rows are read again.
//
// partials (gridDim.x, 2, packs * n)
template <class floatX, bool kVector, int kTeam, bool kKept>
__global__ void __launch_bounds__(kLayernormBlock, 2)
    layernorm_backward_kernel(floatX* dinp, float* partials, const floatX* __restrict__ dout,
                              const floatX* __restrict__ inp, const floatX* __restrict__ weight,
                              const float* __restrict__ mean, const float* __restrict__ rstd, int N, int C) {
  constexpr int n = Pack<floatX>::size;
  const int teams = blockDim.x / kTeam, team = threadIdx.x / kTeam, thread = threadIdx.x % kTeam;
  const int packs = ceil_div(C, n), width = packs * n;
  float* block_partials = partials + static_cast<int64_t>(blockIdx.x) * 2 * width;
  floatX* kept_x = kKept ? dynamic_shared<floatX>() + team * 2 * width : nullptr;
  floatX* kept_dy = kept_x + (kKept ? width : 0);
  float* shared_sums = kKept ? reinterpret_cast<float*>(dynamic_shared<floatX>() + teams * 2 * width) : nullptr;
  float* dw_sums = kKept ? shared_sums + team * 2 * width : block_partials;
  float* db_sums = dw_sums + width;

  for (int pack = thread; pack < packs; pack += kTeam) {
    const float zeros[4] = {};
    for (int q = 0; q < n / 4; ++q) {
      store_floats<true>(dw_sums + (q * packs + pack) * 4, zeros, 4);
      store_floats<true>(db_sums + (q * packs + pack) * 4, zeros, 4);
    }
  }

  for (int64_t row = static_cast<int64_t>(blockIdx.x) * teams + team; row < N;
       row += static_cast<int64_t>(gridDim.x) * teams) {
    const int64_t start = row * C;
    const float m = mean[row], s = rstd[row];
    float dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma unroll 2
    for (int pack = thread; pack < packs; pack += kTeam) {
      const int c = pack * n;
      float x[n], dy[n], w[n];
      load_floats<kVector>(x, inp + start + c, C - c);
      load_floats<kVector>(dy, dout + start + c, C - c);  // beyond C: 0, which adds nothing to any sum
      load_floats<kVector>(w, weight + c, C - c);
      if constexpr (kKept) {
        store_floats<true>(kept_x + c, x, n);
        store_floats<true>(kept_dy + c, dy, n);
      }
#pragma unroll
      for (int k = 0; k < n; ++k) {
        const float dnorm = dy[k] * w[k];
        dnorm_sum += dnorm;
        dnorm_norm_sum += dnorm * (x[k] - m) * s;
      }
    }
    const float dnorm_avg = team_sum<kTeam>(dnorm_sum) / C, dnorm_norm_avg = team_sum<kTeam>(dnorm_norm_sum) / C;

    for (int pack = thread; pack < packs; pack += kTeam) {
      const int c = pack * n;
      float x[n], dy[n], w[n], dx[n];
      load_floats<kVector>(dx, dinp + start + c, C - c);
      load_floats<kVector>(w, weight + c, C - c);
      if constexpr (kKept) {
        load_floats<true>(x, kept_x + c, n);
        load_floats<true>(dy, kept_dy + c, n);
      } else {
        load_floats<kVector>(x, inp + start + c, C - c);
        load_floats<kVector>(dy, dout + start + c, C - c);
      }
#pragma unroll
      for (int q = 0; q < n / 4; ++q) {
        float dw[4], db[4];
        load_floats<true>(dw, dw_sums + (q * packs + pack) * 4, 4);
        load_floats<true>(db, db_sums + (q * packs + pack) * 4, 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int k = q * 4 + j;
          const float norm = (x[k] - m) * s;
          dx[k] += s * (dy[k] * w[k] - dnorm_avg - norm * dnorm_norm_avg);
          dw[j] += dy[k] * norm;
          db[j] += dy[k];
        }
        store_floats<true>(dw_sums + (q * packs + pack) * 4, dw, 4);
        store_floats<true>(db_sums + (q * packs + pack) * 4, db, 4);
      }
      store_floats<kVector>(dinp + start + c, dx, C - c);
    }
  }

  if constexpr (kKept) {
    __syncthreads();  // all teams' sums are there
    for (int i = threadIdx.x; i < 2 * width; i += blockDim.x) {
      float sum = 0;
      for (int t = 0; t < teams; ++t) sum += shared_sums[t * 2 * width + i];
      block_partials[i] = sum;
    }
  }
}

// dweight and dbias += the sums of all blocks. A thread's x is a channel of dweight, or behind them one of dbias; its y
// one of kRows runs through the blocks, each in order.
template <int kRows>
__global__ void __launch_bounds__(32 * kRows)
    layernorm_backward_sum_kernel(float* dweight, float* dbias, const float* partials, int blocks, int n, int C) {
  __shared__ float sums[kRows][32];
  const int packs = ceil_div(C, n), width = packs * n;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int c = static_cast<int>(i % width);
  float sum = 0;
  if (i < 2 * width) {
    const int64_t place = i - c + (c % n / 4 * packs + c / n) * 4 + c % 4;
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks; b += kRows) sum += partials[static_cast<int64_t>(b) * 2 * width + place];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || i >= 2 * width || c >= C) return;
  sum = 0;
  for (int r = 0; r < kRows; ++r) sum += sums[r][threadIdx.x];
  (i < width ? dweight : dbias)[c] += sum;
}

inline int64_t layernorm_backward_scratch(int N, int C) {  // of either type: packs have 4 or 8 channels
  const int64_t blocks = N < kLayernormBackwardBlocks ? N : kLayernormBackwardBlocks;
  return blocks * 2 * ceil_div<int64_t>(C, 8) * 8 * static_cast<int64_t>(sizeof(float));
}

template <class floatX>
void layernorm_backward(floatX* dinp,          // (N, C)  +=
                        float* dweight,        // (C)  +=, or null: not wanted, and dbias neither
                        float* dbias,          // (C)  +=
                        void* scratch,         // layernorm_backward_scratch(N, C) bytes
                        const floatX* dout,    // (N, C)
                        const floatX* inp,     // (N, C)
                        const floatX* weight,  // (C)
                        const float* mean,     // (N)
                        const float* rstd,     // (N)
                        int N, int C, cudaStream_t stream) {
  constexpr int n = Pack<floatX>::size, kBlock = kLayernormBlock;
  float* partials = static_cast<float*>(scratch);
  int blocks = 0;
  const auto choose = [&](auto vector) {
    constexpr bool kVector = decltype(vector)::value;
    const size_t team_bytes = static_cast<size_t>(ceil_div(C, n)) * (2 * 16 + 2 * n * sizeof(float));
    auto kernel = layernorm_backward_kernel<floatX, kVector, 32, true>;
    int teams = 8 * team_bytes <= kLayernormSums ? 8 : 4;
    int threads = teams * 32;
    if (teams * team_bytes > kLayernormSums) {
      teams = 1;
      threads = kBlock;
      kernel = team_bytes <= kLayernormSums ? layernorm_backward_kernel<floatX, kVector, kBlock, true>
                                            : layernorm_backward_kernel<floatX, kVector, kBlock, false>;
    }
    const size_t shared_bytes = teams * team_bytes <= kLayernormSums ? teams * team_bytes : 0;
    blocks = std::min(ceil_div(N, teams), kLayernormBackwardBlocks);
    launch(kernel, blocks, threads, shared_bytes, stream, dinp, partials, dout, inp, weight, mean, rstd, N, C);
  };
  if (aligned16(dinp, dout, inp, weight) && C % n == 0) {
    choose(std::true_type{});
  } else {
    choose(std::false_type{});
  }
  if (!dweight) return;
  constexpr int kRows = 32;
  launch(layernorm_backward_sum_kernel<kRows>, grid_for(2 * static_cast<int64_t>(ceil_div(C, n)) * n, 32),
         dim3(32, kRows), 0, stream, dweight, dbias, partials, blocks, n, C);
}
