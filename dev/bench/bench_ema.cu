// The average of the weights: 12 bytes per parameter and step, compared with AdamW's 30; and 18 when weights and
// average are swapped, before a validation and after it.
#include "dev/bench/bench.h"
#include "kernels/ema.cuh"
#include "kernels/ema.h"

namespace {

constexpr double kDecay = 0.999;

__global__ void ema_elements_kernel(float* average, const float* weights, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float rate = fmaxf(static_cast<float>(1 - kDecay), 9 / static_cast<float>(step->updates + 8));
  average[i] += rate * (weights[i] - average[i]);
}

__global__ void ema_exchange_elements_kernel(bf16* params, float* master, float* average, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float a = average[i];
  average[i] = master[i];
  master[i] = a;
  params[i] = from_float<bf16>(a);
}

constexpr int64_t kGpuN = 124'475'904;  // GPT-2 124M with its padded vocabulary

bench::Ladder make_update(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuN, 1 << 17);
  const double bytes = 3.0 * static_cast<double>(N) * sizeof(float);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<float> average, weights, first;
    bench::Buffers<uint8_t> step_bytes;
    const AdamWStep* step() const { return reinterpret_cast<const AdamWStep*>(step_bytes[0]); }
  };
  const auto t = std::shared_ptr<Tensors>(
      new Tensors{{sets, N, 1, 0.02}, {sets, N, 2, 0.02}, {1, N, 1, 0.02}, {1, sizeof(AdamWStep), 0, 0}});
  AdamWStep step = {};
  step.updated = 1;
  step.updates = 10;
  std::vector<uint8_t> step_bytes(sizeof step);
  std::memcpy(step_bytes.data(), &step, sizeof step);
  t->step_bytes.write(0, step_bytes);

  bench::Ladder ladder;
  ladder.operation = "ema_update";
  ladder.size = "N=" + std::to_string(N) + " fp32";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 3.0 * static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / static_cast<double>(N) * kGpuN;
  ladder.versions = {{"elements", "One thread per element: 128 bytes per request.",
                      [=](int set, cudaStream_t stream) {
                        launch(ema_elements_kernel, grid_for(N, 256), 256, 0, stream, t->average[set], t->weights[set],
                               t->step(), N);
                      }},
                     {"16 bytes", "Four elements per thread: 512 bytes per request, a quarter of them.",
                      [=](int set, cudaStream_t stream) {
                        ema_update(t->average[set], t->weights[set], t->step(), kDecay, N, stream);
                      }}};
  ladder.reset = [=] { t->average.copy(0, t->first); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(N / 64, 1 << 14)) {
      const int64_t at = first * 64, n = count * 64;
      auto expected = bench::to_doubles(t->first.host(0, at, n));
      const auto weights = bench::to_doubles(t->weights.host(0, at, n));
      cpu::ema_update(expected.data(), weights.data(), cpu::ema_rate(kDecay, step.updates), n);
      bench::check_close("average", t->average.host(0, at, n), expected, 3, 0);
    }
  };
  return ladder;
}

bench::Ladder make_exchange(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuN, 1 << 17);
  const double bytes = (4.0 * sizeof(float) + sizeof(bf16)) * static_cast<double>(N);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> params;
    bench::Buffers<float> master, average, first_master, first_average;
  };
  const auto t = std::shared_ptr<Tensors>(
      new Tensors{{sets, N, 0, 0}, {sets, N, 1, 0.02}, {sets, N, 2, 0.02}, {1, N, 1, 0.02}, {1, N, 2, 0.02}});
  bench::Ladder ladder;
  ladder.operation = "ema_exchange";
  ladder.size = "N=" + std::to_string(N) + " bf16 with float masters";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 3.0 * static_cast<double>(N);  // moves
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / static_cast<double>(N) * kGpuN;
  ladder.versions = {{"elements", "One thread per element: 128 bytes per request, 64 for the bf16.",
                      [=](int set, cudaStream_t stream) {
                        launch(ema_exchange_elements_kernel, grid_for(N, 256), 256, 0, stream, t->params[set],
                               t->master[set], t->average[set], N);
                      }},
                     {"16 bytes", "Four elements per thread: 512 bytes per request, 256 for the bf16.",
                      [=](int set, cudaStream_t stream) {
                        ema_exchange(t->params[set], t->master[set], t->average[set], N, stream);
                      }}};
  ladder.reset = [=] {
    t->params.poison(0);
    t->master.copy(0, t->first_master);
    t->average.copy(0, t->first_average);
  };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(N / 64, 1 << 14)) {
      const int64_t at = first * 64, n = count * 64;
      const auto average = bench::to_doubles(t->first_average.host(0, at, n));
      bench::check_close("master", t->master.host(0, at, n), average, 1, 0);
      bench::check_close("params", t->params.host(0, at, n), average, 1, 0);
      bench::check_close("average", t->average.host(0, at, n), bench::to_doubles(t->first_master.host(0, at, n)), 1, 0);
    }
  };
  return ladder;
}

const bench::Register update("ema_update", make_update), exchange("ema_exchange", make_exchange);

}  // namespace
