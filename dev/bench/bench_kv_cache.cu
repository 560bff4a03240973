// Storing a whole prompt's new keys and values in the cache: no sums, only reading and writing memory well.
#include "dev/bench/bench.h"
#include "kernels/kv_cache.cuh"
#include "kernels/kv_cache.h"

namespace {

constexpr int NH = 12, HS = 64, C = NH * HS;

__global__ void kv_cache_elements_kernel(bf16* k_cache, bf16* v_cache, const bf16* inp, int BT, int T, int max_T) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, bt = i / (2 * C);
  if (bt >= BT) return;
  const int part = static_cast<int>(i / C % 2), h = static_cast<int>(i / HS % NH), c = static_cast<int>(i % HS);
  (part == 0 ? k_cache : v_cache)[((bt / T * NH + h) * max_T + bt % T) * HS + c] =
      inp[bt * 3 * C + (1 + part) * C + i % C];
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int kGpuB = 64, T = 256, max_T = T;
  const int B = static_cast<int>(problem.size(kGpuB, 1));
  const int64_t N = static_cast<int64_t>(B) * T, kept = N * C;
  const double bytes = 4.0 * static_cast<double>(N) * C * sizeof(bf16);
  const int sets = problem.sets(bytes);
  const AttentionShape shape{B, T, NH, NH, HS};
  struct Tensors {
    bench::Buffers<bf16> k, v, inp;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, kept, 0, 0}, {sets, kept, 0, 0}, {sets, 3 * N * C, 1, 1}});
  bench::Ladder ladder;
  ladder.operation = "kv_cache_append";
  ladder.size = "B=" + std::to_string(B) + " T=256, 12 heads of 64, bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * static_cast<double>(N) * C;  // moves
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / B * kGpuB;
  ladder.versions = {{"elements", "One thread per element: 64 bytes per request, whole sectors.",
                      [=](int set, cudaStream_t stream) {
                        launch(kv_cache_elements_kernel, grid_for(N * 2 * C, 256), 256, 0, stream, t->k[set], t->v[set],
                               t->inp[set], static_cast<int>(N), T, max_T);
                      }},
                     {"16 bytes", "8 channels per thread: 512 bytes per request, an eighth of them.",
                      [=](int set, cudaStream_t stream) {
                        kv_cache_append<bf16>(nullptr, t->k[set], t->v[set], packed_qkv<const bf16>(t->inp[set], shape),
                                              nullptr, shape, max_T, stream);
                      }}};
  ladder.reset = [=] {
    t->k.poison(0);
    t->v.poison(0);
  };
  ladder.check = [=] {
    const std::vector<bf16> inp = t->inp.host(0), k = t->k.host(0), v = t->v.host(0);
    std::vector<bf16> expected_k = k, expected_v = v;
    cpu::kv_cache_append<bf16>(nullptr, expected_k.data(), expected_v.data(), packed_qkv(inp.data(), shape), nullptr,
                               shape, max_T);
    bench::check_close("k", k, bench::to_doubles(expected_k), 1, 0);
    bench::check_close("v", v, bench::to_doubles(expected_v), 1, 0);
  };
  return ladder;
}

const bench::Register registered("kv_cache_append", make);

}  // namespace
