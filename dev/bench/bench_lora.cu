// Low-rank adapters: copies to and from the wide tensors; here all queries of (N, 3C), every third stretch.
#include "dev/bench/bench.h"
#include "kernels/lora.cuh"
#include "kernels/lora.h"

namespace {

constexpr int C = 768, kStride = 3 * C;

__global__ void lora_add_elements_kernel(bf16* out, const bf16* inp, float scale, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N * C) return;
  bf16& y = out[i / C * kStride + i % C];
  y = from_float<bf16>(to_float(y) + scale * to_float(inp[i]));
}

__global__ void lora_take_elements_kernel(bf16* out, const bf16* inp, float scale, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N * C) out[i] = from_float<bf16>(scale * to_float(inp[i / C * kStride + i % C]));
}

constexpr float kScale = 0.5f;
constexpr int64_t kGpuRows = 16384;
const char* const kElements =
    "One element per thread: a warp's request is 64 bytes in a row, two whole sectors, though rows of the wide tensor "
    "lie apart.";
const char* const kPacks = "8 elements per thread, in accesses of 16 bytes: an eighth of the requests and divisions.";

bench::Ladder make_add(const bench::Problem& problem) {
  const int64_t rows = problem.size(kGpuRows, 256), N = rows * C;
  const double bytes = 3.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, before, inp;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, 3 * N, 1, 1}, {1, 3 * N, 1, 1}, {sets, N, 2, 1}});

  bench::Ladder ladder;
  ladder.operation = "lora_add";
  ladder.size = "N=" + std::to_string(rows) + " C=768 of 3C bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * kGpuRows;
  ladder.versions = {{"elements", kElements,
                      [=](int set, cudaStream_t stream) {
                        launch(lora_add_elements_kernel, grid_for(N, 256), 256, 0, stream, t->out[set], t->inp[set],
                               kScale, rows);
                      }},
                     {"16 bytes", kPacks, [=](int set, cudaStream_t stream) {
                        lora_add(t->out[set], t->inp[set], kScale, static_cast<int>(rows), C, kStride, stream);
                      }}};
  ladder.reset = [=] { t->out.copy(0, t->before); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(rows, 256)) {
      auto expected = bench::to_doubles(t->before.host(0, first * kStride, count * kStride));
      const auto x = bench::to_doubles(t->inp.host(0, first * C, count * C));
      cpu::lora_add(expected.data(), x.data(), kScale, static_cast<int>(count), C, kStride);
      bench::check_close("out", t->out.host(0, first * kStride, count * kStride), expected, 2, 0);
    }
  };
  return ladder;
}

bench::Ladder make_take(const bench::Problem& problem) {
  const int64_t rows = problem.size(kGpuRows, 256), N = rows * C;
  const double bytes = 2.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, inp;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, 3 * N, 1, 1}});

  bench::Ladder ladder;
  ladder.operation = "lora_take";
  ladder.size = "N=" + std::to_string(rows) + " C=768 of 3C bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 1.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * kGpuRows;
  ladder.versions = {{"elements", kElements,
                      [=](int set, cudaStream_t stream) {
                        launch(lora_take_elements_kernel, grid_for(N, 256), 256, 0, stream, t->out[set], t->inp[set],
                               kScale, rows);
                      }},
                     {"16 bytes", kPacks, [=](int set, cudaStream_t stream) {
                        lora_take(t->out[set], t->inp[set], kScale, static_cast<int>(rows), C, kStride, stream);
                      }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(rows, 256)) {
      const auto x = bench::to_doubles(t->inp.host(0, first * kStride, count * kStride));
      std::vector<double> expected(count * C);
      cpu::lora_take(expected.data(), x.data(), kScale, static_cast<int>(count), C, kStride);
      bench::check_close("out", t->out.host(0, first * C, count * C), expected, 1, 0);
    }
  };
  return ladder;
}

const bench::Register add("lora_add", make_add), take("lora_take", make_take);

}  // namespace
