// Layer normalisation over the last dimension, eps 1e-5, with the formulas of kernels/layernorm.h. With mean == nullptr
// it is RMSNorm, by instances of the same kernels (!kCentred) that read and write no mean, bias or dbias.
//
// Forward: a team of threads has a row: one warp up to 2048 channels, a block of 256 beyond. The row is read once and
// kept in shared memory, each thread's part only for itself, so that no thread waits; the variance is a second pass
// over the kept row (E x^2 - mean^2 would lose all its digits when the mean is far above the spread), which RMSNorm
// does not need. Rows beyond 48 KiB are read again.
//
// Backward: a thread has one pack of channels and keeps the sums for dweight, dbias and dinp_sums of its channels in
// registers, while its team walks over rows, several at a time; each block writes its sums to scratch, and a second
// kernel adds them up in order. dinp is added to: x is the residual stream. Its column sums are the gradient of the
// bias of the projection that was added to the stream: here they cost no second read.
//
// Bound by memory, in elements: forward reads N C and writes N C. Backward reads 3 N C (dout, inp, dinp) and writes
// N C; its partial sums are at most 256 * 3 C floats, written and read once. What limits such kernels in practice is
// how many loads are under way: about 15 KB per multiprocessor on an H100 (3 TB/s, 0.65 us). So loads come in batches,
// before the first of them is used.
#pragma once

#include <algorithm>

#include "kernels/common.cuh"
#include "kernels/scratch.h"

inline constexpr int kLayernormWarpChannels = 2048;  // forward: beyond these, one block per row
inline constexpr int kLayernormBlock = 256;          // threads of that block
inline constexpr int kLayernormKept = 48 * 1024;     // bytes of a row that forward keeps
inline constexpr int kLayernormAhead = 2;            // packs that a forward thread loads at once

template <int kTeam>
__device__ float team_sum(float x) {
  if constexpr (kTeam == 32) {
    return warp_sum(x);
  } else {
    return block_sum(x);
  }
}

// ---- forward -------------------------------------------------------------------------------------------------------

// kKept: dynamic shared memory has the block's rows, each in whole packs.
template <class floatX, bool kVector, int kTeam, bool kKept, bool kCentred>
__global__ void __launch_bounds__(kLayernormBlock)
    layernorm_forward_kernel(floatX* out, float* mean, float* rstd, const floatX* inp, const floatX* weight,
                             const floatX* bias, int N, int C) {
  wait_for_earlier_kernels();
  constexpr int kPack = Pack<floatX>::size, kAhead = kLayernormAhead;
  const int team = threadIdx.x / kTeam, thread = threadIdx.x % kTeam, packs = ceil_div(C, kPack);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kTeam) + team;
  if (row >= N) return;
  const int64_t start = row * C;
  floatX* kept = kKept ? dynamic_shared<floatX>() + team * packs * kPack : nullptr;
  const auto load_again = [&](float(&x)[kPack], int c) {
    if constexpr (kKept) {
      load_floats<true>(x, kept + c, kPack);
    } else {
      load_floats<kVector>(x, inp + start + c, C - c);
    }
  };

  // 1. The mean, or that of the squares. Packs are loaded in batches.
  float sum = 0;
  for (int first = thread; first < packs; first += kAhead * kTeam) {
    Pack<floatX> batch[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int c = (first + i * kTeam) * kPack;
      batch[i] = load_row_pack<kVector, kPack>(inp + start + c, C - c);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int c = (first + i * kTeam) * kPack;
      if (c >= C) break;
      float x[kPack];
      to_floats(x, batch[i]);
      if constexpr (kKept) store_pack(kept + c, batch[i]);  // beyond C: zeros
#pragma unroll
      for (int k = 0; k < kPack; ++k) sum += kCentred ? x[k] : x[k] * x[k];
    }
  }
  const float average = team_sum<kTeam>(sum) / C, row_mean = kCentred ? average : 0;

  // 2. The variance, and 1 / the standard deviation. Without a mean, the variance is the average of the squares.
  float variance = average;
  if constexpr (kCentred) {
    float squares = 0;
    for (int pack = thread; pack < packs; pack += kTeam) {
      const int c = pack * kPack;
      float x[kPack];
      load_again(x, c);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        if (kVector || c + k < C) squares += (x[k] - row_mean) * (x[k] - row_mean);
      }
    }
    variance = team_sum<kTeam>(squares) / C;
  }
  const float row_rstd = 1 / sqrtf(variance + 1e-5f);

  // 3. The output.
  for (int pack = thread; pack < packs; pack += kTeam) {
    const int c = pack * kPack;
    float x[kPack], weights[kPack], biases[kPack];
    load_again(x, c);
    load_floats<kVector>(weights, weight + c, C - c);
    if constexpr (kCentred) load_floats<kVector>(biases, bias + c, C - c);
#pragma unroll
    for (int k = 0; k < kPack; ++k) x[k] = (x[k] - row_mean) * row_rstd * weights[k] + (kCentred ? biases[k] : 0);
    store_floats<kVector>(out + start + c, x, C - c);
  }
  if (thread == 0) {
    if constexpr (kCentred) mean[row] = row_mean;
    rstd[row] = row_rstd;
  }
}

// An instance of the kernel, and its launch configuration for rows of C channels.
template <class floatX>
struct LayernormForward {
  decltype(&layernorm_forward_kernel<floatX, true, 32, true, true>) kernel;
  int rows, threads;    // of a block
  size_t shared_bytes;  // for the rows kept
};

template <class floatX, bool kVector, bool kCentred>
LayernormForward<floatX> choose_layernorm_forward(int C) {
  constexpr int kBlock = kLayernormBlock;
  const size_t row_bytes = static_cast<size_t>(ceil_div(C, Pack<floatX>::size)) * 16;
  if (C <= kLayernormWarpChannels) {  // four warps
    return {layernorm_forward_kernel<floatX, kVector, 32, true, kCentred>, 4, 128, 4 * row_bytes};
  }
  if (row_bytes <= kLayernormKept) {
    return {layernorm_forward_kernel<floatX, kVector, kBlock, true, kCentred>, 1, kBlock, row_bytes};
  }
  return {layernorm_forward_kernel<floatX, kVector, kBlock, false, kCentred>, 1, kBlock, 0};
}

// Whether rows of C channels can be read 16 bytes at a time.
template <class floatX, class... Pointers>
bool vector_rows(int C, const Pointers*... pointers) {
  return C % Pack<floatX>::size == 0 && aligned16(pointers...);
}

// Of this and the other launcher callers leave kCentred out: mean decides.
template <class floatX, bool kCentred = true>
void layernorm_forward(floatX* out,           // (N, C)
                       float* mean,           // (N)  saved for backward; null: RMSNorm
                       float* rstd,           // (N)  saved for backward
                       const floatX* inp,     // (N, C)
                       const floatX* weight,  // (C)
                       const floatX* bias,    // (C)  null for RMSNorm
                       int N, int C, cudaStream_t stream) {
  if (kCentred && !mean) return layernorm_forward<floatX, false>(out, mean, rstd, inp, weight, bias, N, C, stream);
  const auto choose = vector_rows<floatX>(C, out, inp, weight, bias)
                          ? choose_layernorm_forward<floatX, true, kCentred>
                          : choose_layernorm_forward<floatX, false, kCentred>;
  const auto [kernel, rows, threads, shared_bytes] = choose(C);
  launch(kernel, grid_for(N, rows), threads, shared_bytes, stream, out, mean, rstd, inp, weight, bias, N, C);
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Of each channel: for dweight, dinp_sums and, in a layer norm, dbias, in this order.
template <bool kCentred>
inline constexpr int kLayernormSums = kCentred ? 3 : 2;

// A block's sums for one of them lie in groups of four channels: pack p's q-th group is group q * packs + p. So a
// warp's 16-byte accesses to one q are contiguous, whatever the size of a pack, and shared memory serves them without
// bank conflicts. Each has packs * kPack sums.
template <int kPack>
__device__ void store_sums(float* to, const float (&sum)[kPack], int pack, int packs) {
#pragma unroll
  for (int q = 0; q < kPack / 4; ++q) {
    float four[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = sum[q * 4 + j];
    store_floats<true>(to + (q * packs + pack) * 4, four, 4);
  }
}

// A team is as many whole warps as it takes for each thread to have one pack of channels (blockDim.x threads); a block
// has blockDim.y teams, which walk over rows in parallel, kRows per turn. The three tensors' packs of all rows of a
// turn are loaded before the first is used: 3 kRows loads are under way.
//
// partials (gridDim.x, kLayernormSums<kCentred>, packs * kPack); dynamic shared memory holds each team's sums, if there
// is more than one team.
template <class floatX, bool kVector, int kThreads, int kBlocks, bool kCentred>
__global__ void __launch_bounds__(kThreads, kBlocks)
    layernorm_backward_kernel(floatX* dinp, float* partials, const floatX* __restrict__ dout,
                              const floatX* __restrict__ inp, const floatX* __restrict__ weight,
                              const float* __restrict__ mean, const float* __restrict__ rstd, int N, int C) {
  wait_for_earlier_kernels();
  constexpr int kPack = Pack<floatX>::size, kRows = 2, kSums = kLayernormSums<kCentred>;
  struct alignas(16) RowSums {  // of dnorm and dnorm * norm, over some of a row's channels
    float dnorm[kRows], dnorm_norm[kRows];
  };
  __shared__ RowSums warp_sums[2][kThreads / 32];  // for two turns: so one barrier per turn is enough
  const int pack = threadIdx.x, packs = ceil_div(C, kPack), width = packs * kPack, c = pack * kPack;
  const int team = threadIdx.y, teams = blockDim.y, team_warps = blockDim.x / 32;
  const int warp = team * team_warps + pack / 32, left = C - c;  // left <= 0: no channels for this thread
  const float inverse_C = 1 / static_cast<float>(C);

  float weights[kPack], dw[kPack] = {}, db[kPack] = {}, dx_sums[kPack] = {};
  to_floats(weights, load_row_pack<kVector, kPack>(weight + c, left));
  const int block_rows = teams * kRows;
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * block_rows; first < N;
       first += gridDim.x * block_rows, turn ^= 1) {
    // 1. Load. Rows beyond N are zeros, which add nothing to any sum.
    const int64_t row = first + team * kRows, at = row * C + c;
    const int rows = static_cast<int>(N - row);  // 0 or fewer: none left
    Pack<floatX> x_packs[kRows], dy_packs[kRows], dx_packs[kRows];
    float means[kRows], rstds[kRows];
    if (rows >= kRows && left > 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        x_packs[r] = load_whole_pack<kVector, kPack>(inp + at + r * C, left);
        dy_packs[r] = load_whole_pack<kVector, kPack>(dout + at + r * C, left);
        dx_packs[r] = load_whole_pack<kVector, kPack>(dinp + at + r * C, left);
        means[r] = kCentred ? mean[row + r] : 0;
        rstds[r] = rstd[row + r];
      }
    } else {  // one row left, or none, or the thread has no channels
      const int exists = rows > 0 ? left : 0;
      x_packs[0] = load_row_pack<kVector, kPack>(inp + at, exists);
      dy_packs[0] = load_row_pack<kVector, kPack>(dout + at, exists);
      dx_packs[0] = load_row_pack<kVector, kPack>(dinp + at, exists);
      x_packs[1] = dy_packs[1] = dx_packs[1] = {};
      means[0] = rstds[0] = means[1] = rstds[1] = 0;
      if (rows > 0) means[0] = kCentred ? mean[row] : 0, rstds[0] = rstd[row];
    }

    // 2. The two sums along each row: over the thread's channels, then the warp's threads, then the team's warps.
    RowSums sums;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float x[kPack], dy[kPack];
      to_floats(x, x_packs[r]), to_floats(dy, dy_packs[r]);
      sums.dnorm[r] = sums.dnorm_norm[r] = 0;
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float dnorm = dy[k] * weights[k];
        if constexpr (kCentred) sums.dnorm[r] += dnorm;
        sums.dnorm_norm[r] += dnorm * ((x[k] - means[r]) * rstds[r]);
      }
      if constexpr (kCentred) sums.dnorm[r] = warp_sum(sums.dnorm[r]);
      sums.dnorm_norm[r] = warp_sum(sums.dnorm_norm[r]);
    }
    if (pack % 32 == 0) warp_sums[turn][warp] = sums;
    __syncthreads();
    sums = warp_sums[turn][team * team_warps];
    for (int other = 1; other < team_warps; ++other) {
      const RowSums more = warp_sums[turn][team * team_warps + other];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kCentred) sums.dnorm[r] += more.dnorm[r];
        sums.dnorm_norm[r] += more.dnorm_norm[r];
      }
    }

    // 3. The gradients.
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float dnorm_avg = kCentred ? sums.dnorm[r] * inverse_C : 0, dnorm_norm_avg = sums.dnorm_norm[r] * inverse_C;
      float x[kPack], dy[kPack], dx[kPack];
      to_floats(x, x_packs[r]), to_floats(dy, dy_packs[r]), to_floats(dx, dx_packs[r]);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float norm = (x[k] - means[r]) * rstds[r];
        dx[k] += rstds[r] * (dy[k] * weights[k] - dnorm_avg - norm * dnorm_norm_avg);
        dw[k] += dy[k] * norm;
        if constexpr (kCentred) db[k] += dy[k];
      }
      const Pack<floatX> stored = to_pack<floatX>(dx);
      store_row_pack<kVector>(dinp + at + r * C, stored, r < rows ? left : 0);
      to_floats(dx, stored);
#pragma unroll
      for (int k = 0; k < kPack; ++k) dx_sums[k] += dx[k];
    }
  }

  // 4. The block's sums: those of its teams added in order.
  float* block_partials = partials + static_cast<int64_t>(blockIdx.x) * kSums * width;
  float* to = teams > 1 ? dynamic_shared<float>() + team * kSums * width : block_partials;
  if (left > 0) {
    store_sums(to, dw, pack, packs);
    store_sums(to + width, dx_sums, pack, packs);
    if constexpr (kCentred) store_sums(to + 2 * width, db, pack, packs);
  }
  if (teams == 1) return;
  __syncthreads();
  for (int i = team * blockDim.x + pack; i < kSums * width; i += teams * blockDim.x) {
    float sum = 0;
    for (int t = 0; t < teams; ++t) sum += dynamic_shared<float>()[t * kSums * width + i];
    block_partials[i] = sum;
  }
}

// Rows of more packs than a block has threads: one block per row, which it reads twice; its sums lie in partials from
// the start, where the cache has them.
template <class floatX, bool kVector, bool kCentred>
__global__ void __launch_bounds__(kLayernormBlock, 2)
    layernorm_backward_wide_kernel(floatX* dinp, float* partials, const floatX* __restrict__ dout,
                                   const floatX* __restrict__ inp, const floatX* __restrict__ weight,
                                   const float* __restrict__ mean, const float* __restrict__ rstd, int N, int C) {
  wait_for_earlier_kernels();
  constexpr int kPack = Pack<floatX>::size, kSums = kLayernormSums<kCentred>;
  const int packs = ceil_div(C, kPack), width = packs * kPack;
  float* dw_sums = partials + static_cast<int64_t>(blockIdx.x) * kSums * width;
  float *dx_sums = dw_sums + width, *db_sums = dx_sums + width;
  for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
    const float zeros[kPack] = {};
    store_sums(dw_sums, zeros, pack, packs);
    store_sums(dx_sums, zeros, pack, packs);
    if constexpr (kCentred) store_sums(db_sums, zeros, pack, packs);
  }

  for (int64_t row = blockIdx.x; row < N; row += gridDim.x) {
    // 1. The two sums along the row.
    const int64_t start = row * C;
    const float row_mean = kCentred ? mean[row] : 0, row_rstd = rstd[row];
    float dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma unroll 2
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
      const int c = pack * kPack;
      float x[kPack], dy[kPack], weights[kPack];
      load_floats<kVector>(x, inp + start + c, C - c);
      load_floats<kVector>(dy, dout + start + c, C - c);  // beyond C: 0, which adds nothing to any sum
      load_floats<kVector>(weights, weight + c, C - c);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const float dnorm = dy[k] * weights[k];
        if constexpr (kCentred) dnorm_sum += dnorm;
        dnorm_norm_sum += dnorm * (x[k] - row_mean) * row_rstd;
      }
    }
    const float dnorm_avg = kCentred ? block_sum(dnorm_sum) / C : 0, dnorm_norm_avg = block_sum(dnorm_norm_sum) / C;

    // 2. The gradients.
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
      const int c = pack * kPack;
      float x[kPack], dy[kPack], weights[kPack], dx[kPack];
      load_floats<kVector>(dx, dinp + start + c, C - c);
      load_floats<kVector>(weights, weight + c, C - c);
      load_floats<kVector>(x, inp + start + c, C - c);
      load_floats<kVector>(dy, dout + start + c, C - c);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        dx[k] += row_rstd * (dy[k] * weights[k] - dnorm_avg - (x[k] - row_mean) * row_rstd * dnorm_norm_avg);
      }
      const Pack<floatX> stored = to_pack<floatX>(dx);
      store_row_pack<kVector>(dinp + start + c, stored, C - c);
      to_floats(dx, stored);
#pragma unroll
      for (int q = 0; q < kPack / 4; ++q) {
        const int at = (q * packs + pack) * 4;
        float dw[4], db[4], dx_sum[4];
        load_floats<true>(dw, dw_sums + at, 4);
        load_floats<true>(dx_sum, dx_sums + at, 4);
        if constexpr (kCentred) load_floats<true>(db, db_sums + at, 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int k = q * 4 + j;
          dw[j] += dy[k] * ((x[k] - row_mean) * row_rstd);
          dx_sum[j] += dx[k];
          if constexpr (kCentred) db[j] += dy[k];
        }
        store_floats<true>(dw_sums + at, dw, 4);
        store_floats<true>(dx_sums + at, dx_sum, 4);
        if constexpr (kCentred) store_floats<true>(db_sums + at, db, 4);
      }
    }
  }
}

// The sums of all blocks are added to, or with `set` set, dweight and dbias; dinp_sums is set. A thread's x is a
// channel of one of them; its y one of kRows runs through the blocks, each in order. What is null is not needed.
template <int kRows, int kSums>
__global__ void __launch_bounds__(32 * kRows)
    layernorm_backward_sum_kernel(float* dweight, float* dinp_sums, float* dbias, const float* partials, bool set,
                                  int blocks, int pack_size, int C) {
  wait_for_earlier_kernels();
  __shared__ float sums[kRows][32];
  const int packs = ceil_div(C, pack_size), width = packs * pack_size;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  const int c = static_cast<int>(i % width);
  float sum = 0;
  if (i < kSums * width) {
    const int64_t place = i - c + (c % pack_size / 4 * packs + c / pack_size) * 4 + c % 4;
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks; b += kRows) sum += partials[static_cast<int64_t>(b) * kSums * width + place];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || i >= kSums * width || c >= C) return;
  sum = 0;
  for (int r = 0; r < kRows; ++r) sum += sums[r][threadIdx.x];
  float* const to = i < width ? dweight : i < 2 * width ? dinp_sums : dbias;
  if (!to) return;
  to[c] = set || to == dinp_sums ? sum : to[c] + sum;
}

template <class floatX, bool kCentred = true>
void layernorm_backward(floatX* dinp,          // (N, C)  +=
                        float* dweight,        // (C)  +=, or null: not needed, and dbias neither
                        float* dbias,          // (C)  +=, null for RMSNorm
                        float* dinp_sums,      // (C)  = the column sums of dinp as it is stored, or null: not needed
                        void* scratch,         // layernorm_backward_scratch(N, C) bytes
                        const floatX* dout,    // (N, C)
                        const floatX* inp,     // (N, C)
                        const floatX* weight,  // (C)
                        const float* mean,     // (N)  null: RMSNorm
                        const float* rstd,     // (N)
                        bool set,              // dweight and dbias are set, not added to
                        int N, int C, cudaStream_t stream) {
  if (kCentred && !mean) {
    return layernorm_backward<floatX, false>(dinp, dweight, dbias, dinp_sums, scratch, dout, inp, weight, mean, rstd,
                                             set, N, C, stream);
  }
  constexpr int kPack = Pack<floatX>::size, kSums = kLayernormSums<kCentred>;
  float* partials = static_cast<float*>(scratch);
  const bool vector = vector_rows<floatX>(C, dinp, dout, inp, weight);
  const int packs = ceil_div(C, kPack), team_threads = ceil_div(packs, 32) * 32;
  // Blocks of up to 256 threads fit a multiprocessor twice, larger ones once: with this number of blocks all start at
  // once on the 132 multiprocessors of an H100, and on the 108 of an A100 up to C = 2048 in bf16.
  auto kernel = layernorm_backward_wide_kernel<floatX, false, kCentred>;
  dim3 block(kLayernormBlock);
  int rows = 2, most_blocks = kLayernormBackwardBlocks;
  size_t shared_bytes = 0;
  if (team_threads <= 256) {
    kernel = vector ? layernorm_backward_kernel<floatX, true, 256, 2, kCentred>
                    : layernorm_backward_kernel<floatX, false, 256, 2, kCentred>;
    block = dim3(team_threads, 256 / team_threads);
    shared_bytes = block.y * kSums * packs * kPack * sizeof(float);
  } else if (team_threads <= 512) {
    kernel = vector ? layernorm_backward_kernel<floatX, true, 512, 1, kCentred>
                    : layernorm_backward_kernel<floatX, false, 512, 1, kCentred>;
    block = dim3(team_threads);
    most_blocks /= 2;
  } else {
    if (vector) kernel = layernorm_backward_wide_kernel<floatX, true, kCentred>;
    rows = 1;
  }
  const int blocks = std::min(ceil_div(N, static_cast<int>(block.y) * rows), most_blocks);
  launch(kernel, blocks, block, shared_bytes, stream, dinp, partials, dout, inp, weight, mean, rstd, N, C);
  if (!dweight && !dinp_sums) return;
  constexpr int kRows = 32;
  launch(layernorm_backward_sum_kernel<kRows, kSums>,
         grid_for(kSums * static_cast<int64_t>(ceil_div(C, kPack)) * kPack, 32), dim3(32, kRows), 0, stream, dweight,
         dinp_sums, dbias, partials, set, blocks, kPack, C);
}
