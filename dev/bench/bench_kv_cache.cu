// Storing a whole prompt's new keys and values in the cache: no sums, only reading and writing memory well.
#include <numeric>

#include "dev/bench/bench.h"
#include "kernels/kv_cache.cuh"
#include "kernels/kv_cache.h"

namespace {

constexpr int NH = 12, HS = 64, C = NH * HS;

__global__ void kv_cache_elements_kernel(bf16* cache, const bf16* inp, CacheRows rows, int N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / (2 * C);
  if (row >= N) return;
  const int head = static_cast<int>(i / HS % (2 * NH)), c = static_cast<int>(i % HS), position = rows.positions[row];
  const int64_t page = rows.pages[rows.sequences[row] * rows.max_pages + position / kPageTokens];
  cache[((page * 2 * NH + head) * kPageTokens + position % kPageTokens) * HS + c] = inp[row * 3 * C + C + i % (2 * C)];
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int kGpuB = 64, T = 256;
  const int B = static_cast<int>(problem.size(kGpuB, 1)), N = B * T, count = B * pages_of(T);
  const double bytes = 4.0 * N * C * sizeof(bf16);
  const int sets = problem.sets(bytes);
  const AttentionShape shape{N, 1, NH, NH, HS};
  struct Tensors {
    bench::Buffers<bf16> cache, inp;
    bench::Buffers<int32_t> positions, sequences, pages;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, count * page_layer_elements(shape), 0, 0},
                                                      {sets, int64_t{3} * N * C, 1, 1},
                                                      {1, N, 0, 0},
                                                      {1, N, 0, 0},
                                                      {1, count, 0, 0}});
  std::vector<int32_t> positions(static_cast<size_t>(N)), sequences(positions), pages(static_cast<size_t>(count));
  for (int n = 0; n < N; ++n) {
    positions[static_cast<size_t>(n)] = n % T;
    sequences[static_cast<size_t>(n)] = n / T;
  }
  std::iota(pages.rbegin(), pages.rend(), 0);
  t->positions.write(0, positions);
  t->sequences.write(0, sequences);
  t->pages.write(0, pages);
  const CacheRows rows{t->positions[0], t->sequences[0], t->pages[0], pages_of(T)};
  bench::Ladder ladder;
  ladder.operation = "kv_cache_append";
  ladder.size = "B=" + std::to_string(B) + " T=256, 12 heads of 64, bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * N * C;  // moves
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / B * kGpuB;
  ladder.versions = {{"elements", "One thread per element: 64 bytes per request, whole sectors.",
                      [=](int set, cudaStream_t stream) {
                        launch(kv_cache_elements_kernel, grid_for(int64_t{N} * 2 * C, 256), 256, 0, stream,
                               t->cache[set], static_cast<const bf16*>(t->inp[set]), rows, N);
                      }},
                     {"16 bytes", "8 channels per thread: 512 bytes per request, an eighth of them.",
                      [=](int set, cudaStream_t stream) {
                        kv_cache_append<bf16>(t->cache[set], packed_qkv<const bf16>(t->inp[set], shape), rows, 0, 1,
                                              shape, stream);
                      }}};
  ladder.reset = [=] { t->cache.poison(0); };
  ladder.check = [=] {
    const std::vector<bf16> inp = t->inp.host(0), cache = t->cache.host(0);
    std::vector<bf16> expected = cache;
    cpu::kv_cache_append<bf16>(expected.data(), packed_qkv<const bf16>(inp.data(), shape),
                               {positions.data(), sequences.data(), pages.data(), pages_of(T)}, 0, 1, shape);
    bench::check_close("cache", cache, bench::to_doubles(expected), 1, 0);
  };
  return ladder;
}

const bench::Register registered("kv_cache_append", make);

}  // namespace
