// Sorts positions by one key each: kernels/radix_sort.h defines the result. The radix sort takes 8 bits of the keys per
// pass, the lowest first, and each pass is stable: the order of earlier passes is kept.
//
// A pass is three kernels. Blocks count how often each of 256 digits occurs in their tile of 1,024 items; one warp per
// digit turns its counts into the totals of the tiles before; blocks then move their items to their places. Places
// depend only on counts, not on which block or warp comes first, so the result is the same whatever the order.
//
// Bound by memory: a pass reads the items twice and writes them once, 24 bytes each (the first pass reads keys of 4
// bytes instead), and moves 1 KiB of counts four times for each tile.
#pragma once

#include "kernels/common.cuh"
#include "kernels/scratch.h"

inline constexpr int kRadixSortThreads = 256;

// An item: the key in the upper half, the position in the lower.
__device__ inline int item_key(unsigned long long item) { return static_cast<int>(item >> 32); }
__device__ inline int item_position(unsigned long long item) { return static_cast<int>(item & 0xffffffffu); }

// Item i: before the first pass, made from the keys themselves.
__device__ inline unsigned long long sort_item(const unsigned long long* items, const int32_t* keys, int64_t i) {
  return items ? items[i] : static_cast<unsigned long long>(static_cast<uint32_t>(keys[i])) << 32 | i;
}

// counts (kRadixSortDigits, tiles): how often each digit, the key's bits shift .. shift + 7, occurs in this block's
// tile.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    radix_sort_count_kernel(int* counts, const unsigned long long* items, const int32_t* keys, int shift, int N) {
  wait_for_earlier_kernels();
  __shared__ int histogram[kRadixSortDigits];
  for (int d = threadIdx.x; d < kRadixSortDigits; d += kThreads) histogram[d] = 0;
  __syncthreads();
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kRadixSortTile;
  for (int64_t i = begin + threadIdx.x; i < begin + kRadixSortTile && i < N; i += kThreads) {
    atomicAdd(&histogram[item_key(sort_item(items, keys, i)) >> shift & (kRadixSortDigits - 1)], 1);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < kRadixSortDigits; d += kThreads) {
    counts[static_cast<int64_t>(d) * gridDim.x + blockIdx.x] = histogram[d];
  }
}

// The sum of x over the lanes before this one; total: over all lanes.
__device__ inline int warp_exclusive_sum(int x, int& total) {
  const int lane = threadIdx.x % 32;
  int sum = x;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(kFullWarp, sum, offset);
    if (lane >= offset) sum += below;
  }
  total = __shfl_sync(kFullWarp, sum, 31);
  return sum - x;
}

// counts: for each digit (one warp each), those in the tiles before; totals (kRadixSortDigits): those in all tiles.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) radix_sort_scan_kernel(int* counts, int* totals, int tiles) {
  wait_for_earlier_kernels();
  const int digit = (blockIdx.x * kThreads + threadIdx.x) / 32, lane = threadIdx.x % 32;
  int* row = counts + static_cast<int64_t>(digit) * tiles;
  int sum = 0;
  for (int begin = 0; begin < tiles; begin += 32) {
    const int tile = begin + lane, count = tile < tiles ? row[tile] : 0;
    int total;
    const int before = warp_exclusive_sum(count, total);
    if (tile < tiles) row[tile] = sum + before;
    sum += total;
  }
  if (lane == 0) totals[digit] = sum;
}

// Moves this block's tile to its places: after all smaller digits, then after the same digit in earlier tiles, in
// earlier warps of this tile (a warp has kRadixSortTile / warps consecutive items) and in earlier items of this warp.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    radix_sort_scatter_kernel(unsigned long long* out, const int* counts, const int* totals,
                              const unsigned long long* items, const int32_t* keys, int shift, int N) {
  wait_for_earlier_kernels();
  static_assert(kThreads == kRadixSortDigits, "one thread a digit");
  constexpr int kWarps = kThreads / 32, kPerWarp = kRadixSortTile / kWarps;
  __shared__ int places[kWarps][kRadixSortDigits], warp_totals[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, digit_here = threadIdx.x;
  for (int w = 0; w < kWarps; ++w) places[w][digit_here] = 0;
  int warp_total;
  const int before = warp_exclusive_sum(totals[digit_here], warp_total);
  if (lane == 0) warp_totals[warp] = warp_total;
  __syncthreads();

  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kRadixSortTile + warp * kPerWarp;
  const auto digit_of = [&](unsigned long long item) { return item_key(item) >> shift & (kRadixSortDigits - 1); };
  for (int64_t i = begin + lane; i < begin + kPerWarp && i < N; i += 32) {
    atomicAdd(&places[warp][digit_of(sort_item(items, keys, i))], 1);
  }
  __syncthreads();

  int place = before + counts[static_cast<int64_t>(digit_here) * gridDim.x + blockIdx.x];
  for (int w = 0; w < warp; ++w) place += warp_totals[w];
  for (int w = 0; w < kWarps; ++w) {
    const int count = places[w][digit_here];
    places[w][digit_here] = place;
    place += count;
  }
  __syncthreads();

  for (int64_t first = begin; first < begin + kPerWarp; first += 32) {
    const int64_t i = first + lane;
    const unsigned long long item = i < N ? sort_item(items, keys, i) : 0;
    const int digit = i < N ? digit_of(item) : kRadixSortDigits;  // beyond the end: equal to no item
    const unsigned peers = __match_any_sync(kFullWarp, digit);
    const int rank = __popc(peers & ((1u << lane) - 1));
    int first_place = 0;
    if (i < N && rank == 0) first_place = atomicAdd(&places[warp][digit], __popc(peers));
    first_place = __shfl_sync(kFullWarp, first_place, __ffs(peers) - 1);
    if (i < N) out[first_place + rank] = item;
  }
}

inline void radix_sort(unsigned long long* out,  // (N)  sorted items: item_key(), item_position()
                       void* scratch,            // radix_sort_scratch(N) bytes, from a multiple of 8 bytes on
                       const int32_t* keys,      // (N)  in [0, limit)
                       int N, int limit, cudaStream_t stream) {
  const RadixSortScratch layout(N);
  const auto at = [&](int64_t offset) { return static_cast<char*>(scratch) + offset; };
  int *counts = reinterpret_cast<int*>(at(layout.counts)), *totals = reinterpret_cast<int*>(at(layout.totals));
  auto* between = reinterpret_cast<unsigned long long*>(at(layout.items));
  const int tiles = ceil_div(N, kRadixSortTile);
  int passes = 1;
  while (static_cast<int64_t>(limit - 1) >> (8 * passes) > 0) ++passes;

  const unsigned long long* items = nullptr;  // none yet: the keys as they came
  for (int pass = 0; pass < passes; ++pass) {
    auto* sorted = (passes - pass) % 2 == 1 ? out : between;  // the last pass writes out
    const int shift = 8 * pass;
    launch(radix_sort_count_kernel<kRadixSortThreads>, tiles, kRadixSortThreads, 0, stream, counts, items, keys, shift,
           N);
    launch(radix_sort_scan_kernel<kRadixSortThreads>, kRadixSortDigits * 32 / kRadixSortThreads, kRadixSortThreads, 0,
           stream, counts, totals, tiles);
    launch(radix_sort_scatter_kernel<kRadixSortThreads>, tiles, kRadixSortThreads, 0, stream, sorted, counts, totals,
           items, keys, shift, N);
    items = sorted;
  }
}
