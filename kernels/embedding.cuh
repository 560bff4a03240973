// Token and position embedding, with the dropout that follows:  out[b,t] = drop(wte[inp[b,t]] + wpe[t]); with documents
// wpe[t - first[b,t]], as in embedding.h.
//
// Backward without atomics on floats. dwpe[t] is a sum over b, in order; with documents, over those that have a
// position t, whose rows a warp finds by comparing 32 places at a time. For dwte the positions are sorted by token,
// stably (radix_sort.cuh), so that each token's rows are neighbours, in the order of (b, t). One warp per 128 channels
// then sums a chunk of 32 sorted positions: a token's run that lies inside a chunk is added to dwte at once; the parts
// of a run in the first, the middle and the last chunks that it crosses go to scratch, and a second kernel adds them up
// in order. So no token is too frequent: all warps do equal work.
//
// Bound by memory: forward reads 2 B T C elements (wpe's mostly from L2) and writes B T C. Backward reads dout twice
// (dwte and dwpe), reads and writes dwpe and the rows of dwte that occur, and writes and reads at most B T C / 4 bytes
// of partial sums. The sort's two passes move 1/50 of dout's bytes when C = 768.
#pragma once

#include "kernels/common.cuh"
#include "kernels/dropout.cuh"
#include "kernels/radix_sort.cuh"
#include "kernels/scratch.h"

// A block is 32 x kEmbeddingRows threads: x along the channels, y along the rows.
inline constexpr int kEmbeddingRows = 8;

// ---- forward ------------------------------------------------------------------------------------------------------

template <class floatX, bool kVector, bool kDropout>
__global__ void embedding_forward_kernel(floatX* out, const int32_t* inp, const floatX* wte, const floatX* wpe,
                                         const int32_t* first, float dropout, uint64_t seed, DropoutSequence sequence,
                                         int N, int T, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size;
  const unsigned bt = blockIdx.x * kEmbeddingRows + threadIdx.y;  // N plus a few: below 2^32
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + threadIdx.x) * n, i = static_cast<int64_t>(bt) * C + c;
  if (bt >= static_cast<unsigned>(N) || c >= C) return;
  const uint64_t number = kDropout ? sequence.number() : 0;
  float x[n], position[n];
  const unsigned t = bt % T - (first ? first[bt] : 0);
  load_floats<kVector>(x, wte + static_cast<int64_t>(inp[bt]) * C + c, C - c);
  load_floats<kVector>(position, wpe + static_cast<int64_t>(t) * C + c, C - c);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] += position[k];
  drop_out<kDropout>(x, dropout, seed, number, i);
  store_floats<kVector>(out + i, x, C - c);
}

template <class floatX>
void embedding_forward(floatX* out,           // (B, T, C)
                       const int32_t* inp,    // (B, T)  in [0, V)
                       const floatX* wte,     // (V, C)
                       const floatX* wpe,     // (>= T, C)
                       const int32_t* first,  // (B, T)  null: a row is one document
                       float dropout, uint64_t seed, DropoutSequence sequence, int B, int T, int C,
                       cudaStream_t stream) {
  const int N = B * T;
  const bool vector = aligned16(out, wte, wpe) && C % Pack<floatX>::size == 0;
  auto kernel = vector ? embedding_forward_kernel<floatX, true, false> : embedding_forward_kernel<floatX, false, false>;
  if (dropout != 0) {
    kernel = vector ? embedding_forward_kernel<floatX, true, true> : embedding_forward_kernel<floatX, false, true>;
  }
  launch(kernel, dim3(ceil_div(N, kEmbeddingRows), ceil_div(C, 32 * Pack<floatX>::size)), dim3(32, kEmbeddingRows), 0,
         stream, out, inp, wte, wpe, first, dropout, seed, sequence, N, T, C);
}

// ---- backward: positions ------------------------------------------------------------------------------------------

template <class floatX, bool kVector, bool kDropout>
__global__ void embedding_dwpe_kernel(float* dwpe, const floatX* dout, float dropout, uint64_t seed,
                                      DropoutSequence sequence, int B, int T, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<float>::size;  // a lane's floats are one access, next to the next lane's
  constexpr int kAhead = 4;             // rows loaded ahead of the sums
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kEmbeddingRows + threadIdx.y;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + threadIdx.x) * n;
  if (t >= T || c >= C) return;
  const uint64_t number = kDropout ? sequence.number() : 0;
  float sum[n] = {}, x[n];
  for (int b0 = 0; b0 < B; b0 += kAhead) {
    Pack<floatX, n> rows[kAhead];
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const int64_t i = (static_cast<int64_t>(b0 + r) * T + t) * C + c;
      rows[r] = load_row_pack<kVector, n>(dout + i, b0 + r < B ? C - c : 0);
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      if (b0 + r >= B) break;
      to_floats(x, rows[r]);
      drop_out<kDropout>(x, dropout, seed, number, (static_cast<int64_t>(b0 + r) * T + t) * C + c);
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] += x[k];
    }
  }
  load_floats<kVector>(x, dwpe + t * C + c, C - c);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] += sum[k];
  store_floats<kVector>(dwpe + t * C + c, x, C - c);
}

// The same for rows that hold several documents: position p is where t - first[t] = p.
template <class floatX, bool kVector>
__global__ void embedding_dwpe_documents_kernel(float* dwpe, const floatX* dout, const int32_t* first, float dropout,
                                                uint64_t seed, DropoutSequence sequence, int B, int T, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<float>::size;
  const int p = static_cast<int>(blockIdx.x) * kEmbeddingRows + static_cast<int>(threadIdx.y);
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + threadIdx.x) * n;
  if (p >= T) return;  // the whole warp; lanes without channels look for rows with the others
  const uint64_t number = dropout != 0 ? sequence.number() : 0;
  float sum[n] = {}, x[n];
  for (int b = 0; b < B; ++b) {
    const int64_t row = static_cast<int64_t>(b) * T;
    for (int t0 = p; t0 < T; t0 += 32) {
      const int mine = t0 + static_cast<int>(threadIdx.x);
      unsigned found = __ballot_sync(kFullWarp, mine < T && mine - first[row + mine] == p);
      for (; found != 0; found &= found - 1) {
        const int64_t i = (row + t0 + __ffs(found) - 1) * C + c;
        to_floats(x, load_row_pack<kVector, n>(dout + i, C - c));
        drop_out<true>(x, dropout, seed, number, i);
#pragma unroll
        for (int k = 0; k < n; ++k) sum[k] += x[k];
      }
    }
  }
  if (c >= C) return;
  load_floats<kVector>(x, dwpe + p * static_cast<int64_t>(C) + c, C - c);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] += sum[k];
  store_floats<kVector>(dwpe + p * static_cast<int64_t>(C) + c, x, C - c);
}

// ---- backward: sums of each token's rows --------------------------------------------------------------------------

// dwte (V, C) += and partials (chunks, 2, C) of the runs that cross a chunk's border: [0] of a run that began in an
// earlier chunk, [1] of one that begins here and continues.
template <class floatX, bool kVector, bool kDropout>
__global__ void embedding_dwte_kernel(float* dwte, float* partials, const unsigned long long* items, const floatX* dout,
                                      float dropout, uint64_t seed, DropoutSequence sequence, int N, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<float>::size, kAhead = 8;  // rows loaded ahead of the sums
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * kEmbeddingRows + threadIdx.y;
  const int64_t begin = chunk * kEmbeddingChunk;
  if (begin >= N) return;
  const uint64_t number = kDropout ? sequence.number() : 0;
  const int count = N - begin < kEmbeddingChunk ? static_cast<int>(N - begin) : kEmbeddingChunk;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + threadIdx.x) * n;
  const int lane = threadIdx.x;
  const unsigned long long item = lane < count ? items[begin + lane] : ~0ull;
  const int after = begin + count < N ? item_key(items[begin + count]) : -1;  // token of the next chunk's first item
  const int token0 = item_key(__shfl_sync(kFullWarp, item, 0));
  bool began_before = begin > 0 && item_key(items[begin - 1]) == token0;

  float sum[n] = {};
  for (int first = 0; first < count; first += kAhead) {
    Pack<floatX, n> rows[kAhead];
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const int64_t bt = item_position(__shfl_sync(kFullWarp, item, first + r));
      rows[r] = load_row_pack<kVector, n>(dout + bt * C + c, first + r < count ? C - c : 0);
    }
#pragma unroll
    for (int r = 0; r < kAhead; ++r) {
      const int i = first + r;
      const unsigned long long here = __shfl_sync(kFullWarp, item, i);
      const unsigned long long following = __shfl_sync(kFullWarp, item, (i + 1) % 32);
      if (i >= count) break;
      float x[n];
      to_floats(x, rows[r]);
      drop_out<kDropout>(x, dropout, seed, number, static_cast<int64_t>(item_position(here)) * C + c);
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] += x[k];
      const bool last = i + 1 == count;
      const int token = item_key(here);
      if (!last && token == item_key(following)) continue;
      if (began_before || token == after) {  // the items are sorted: only the last run can continue after the chunk
        store_row_pack<kVector>(partials + (chunk * 2 + (began_before ? 0 : 1)) * C + c, to_pack<float>(sum), C - c);
      } else {
        float* to = dwte + static_cast<int64_t>(token) * C + c;
        Pack<float> total = load_row_pack<kVector, n>(to, C - c);
#pragma unroll
        for (int k = 0; k < n; ++k) total[k] += sum[k];
        store_row_pack<kVector>(to, total, C - c);
      }
      began_before = false;
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] = 0;
    }
  }
}

// Adds up the partials of the run that begins in this block's chunk and continues. Each warp sums an equal share of its
// chunks in order, then the warps' sums are added in order.
template <bool kVector>
__global__ void embedding_dwte_combine_kernel(float* dwte, const float* partials, const unsigned long long* items,
                                              int N, int C) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<float>::size;
  __shared__ float sums[kEmbeddingRows][n][32];
  const int64_t chunk = blockIdx.x, begin = chunk * kEmbeddingChunk, next = begin + kEmbeddingChunk;
  if (next >= N) return;
  const int token = item_key(items[next]);
  if (item_key(items[next - 1]) != token) return;                // ends with the chunk
  if (begin > 0 && item_key(items[begin - 1]) == token) return;  // began before
  // The first chunk from `low` on whose first token is larger: by bisection, as the items are sorted.
  int64_t low = chunk + 2, high = ceil_div<int64_t>(N, kEmbeddingChunk);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (item_key(items[middle * kEmbeddingChunk]) == token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t parts = low - chunk;
  const int warp = threadIdx.y, lane = threadIdx.x;
  const int64_t c = (static_cast<int64_t>(blockIdx.y) * 32 + lane) * n;
  float sum[n] = {}, x[n];
  if (c < C) {
#pragma unroll 4
    for (int64_t part = parts * warp / kEmbeddingRows; part < parts * (warp + 1) / kEmbeddingRows; ++part) {
      load_floats<kVector>(x, partials + ((chunk + part) * 2 + (part == 0)) * C + c, C - c);
#pragma unroll
      for (int k = 0; k < n; ++k) sum[k] += x[k];
    }
  }
#pragma unroll
  for (int k = 0; k < n; ++k) sums[warp][k][lane] = sum[k];
  __syncthreads();
  if (warp > 0 || c >= C) return;
  float* to = dwte + static_cast<int64_t>(token) * C + c;
  load_floats<kVector>(x, to, C - c);
#pragma unroll
  for (int k = 0; k < n; ++k) {
    sum[k] = 0;
    for (int w = 0; w < kEmbeddingRows; ++w) sum[k] += sums[w][k][lane];
    x[k] += sum[k];
  }
  store_floats<kVector>(to, x, C - c);
}

// ---- backward: launcher -------------------------------------------------------------------------------------------

template <class floatX>
void embedding_backward(float* dwte,           // (V, C)  +=
                        float* dwpe,           // (>= T, C)  +=
                        void* scratch,         // embedding_backward_scratch(B, T, C, V) bytes
                        const floatX* dout,    // (B, T, C)  gradient of dropout's output
                        const int32_t* inp,    // (B, T)  in [0, V)
                        const int32_t* first,  // (B, T) or null
                        float dropout, uint64_t seed, DropoutSequence sequence, int B, int T, int C, int V,
                        cudaStream_t stream) {
  const DryOperation operation([] { return DryRun::Operation{"embedding_backward"}; });
  const int N = B * T;
  const EmbeddingScratch layout(N, C);
  const auto at = [&](int64_t offset) { return static_cast<char*>(scratch) + offset; };
  auto* items = reinterpret_cast<unsigned long long*>(at(layout.items));
  float* partials = reinterpret_cast<float*>(at(layout.partials));

  const dim3 block(32, kEmbeddingRows);
  const unsigned slices = ceil_div(C, 32 * Pack<float>::size);
  const bool vector = aligned16(dwte, dwpe, scratch, dout) && C % Pack<floatX>::size == 0;

  // The positions first: they read dout from end to end and leave it in the cache for the sums by token.
  const dim3 positions(ceil_div(T, kEmbeddingRows), slices);
  if (first) {
    const auto kernel =
        vector ? embedding_dwpe_documents_kernel<floatX, true> : embedding_dwpe_documents_kernel<floatX, false>;
    launch(kernel, positions, block, 0, stream, dwpe, dout, first, dropout, seed, sequence, B, T, C);
  } else {
    auto kernel = vector ? embedding_dwpe_kernel<floatX, true, false> : embedding_dwpe_kernel<floatX, false, false>;
    if (dropout != 0) {
      kernel = vector ? embedding_dwpe_kernel<floatX, true, true> : embedding_dwpe_kernel<floatX, false, true>;
    }
    launch(kernel, positions, block, 0, stream, dwpe, dout, dropout, seed, sequence, B, T, C);
  }

  radix_sort(items, at(layout.sort), inp, N, V, stream);
  const int chunks = ceil_div(N, kEmbeddingChunk);
  auto dwte_kernel = vector ? embedding_dwte_kernel<floatX, true, false> : embedding_dwte_kernel<floatX, false, false>;
  if (dropout != 0) {
    dwte_kernel = vector ? embedding_dwte_kernel<floatX, true, true> : embedding_dwte_kernel<floatX, false, true>;
  }
  launch(dwte_kernel, dim3(ceil_div(chunks, kEmbeddingRows), slices), block, 0, stream, dwte, partials, items, dout,
         dropout, seed, sequence, N, C);
  const auto combine = vector ? embedding_dwte_combine_kernel<true> : embedding_dwte_combine_kernel<false>;
  launch(combine, dim3(chunks, slices), block, 0, stream, dwte, partials, items, N, C);
}
