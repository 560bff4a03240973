// Dropout: where do the random numbers come from, and must the mask be stored?
#include "dev/bench/bench.h"
#include "kernels/dropout.cuh"
#include "kernels/dropout.h"

namespace {

__global__ void dropout_draw_kernel(uint8_t* mask, float dropout, uint64_t seed, uint64_t sequence, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) mask[i] = dropout_factor(dropout, seed, sequence, i) != 0;
}

__global__ void dropout_mask_kernel(bf16* out, const bf16* inp, const uint8_t* mask, float scale, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) out[i] = from_float<bf16>(mask[i] ? to_float(inp[i]) * scale : 0);
}

__global__ void dropout_redrawn_kernel(bf16* out, const bf16* inp, float dropout, uint64_t seed, uint64_t sequence,
                                       int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) out[i] = from_float<bf16>(to_float(inp[i]) * dropout_factor(dropout, seed, sequence, i));
}

// N a multiple of 4.
__global__ void dropout_fours_kernel(bf16* out, const bf16* inp, float dropout, uint64_t seed, uint64_t sequence,
                                     int64_t N) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
  if (i >= N) return;
  float x[4], factors[4];
  load_floats<true>(x, inp + i, 4);
  dropout_factors(factors, dropout, seed, sequence, i);
#pragma unroll
  for (int k = 0; k < 4; ++k) x[k] *= factors[k];
  store_floats<true>(out + i, x, 4);
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int64_t C = 768, kGpuRows = 16384;
  constexpr float dropout = 0.1f;
  constexpr uint64_t seed = 7, sequence = 8;
  const int64_t rows = problem.size(kGpuRows, 256), N = rows * C;
  const double bytes = 2.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, inp;
    bench::Buffers<uint8_t> mask;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, N, 1, 1}, {sets, N, 0, 0}});

  bench::Ladder ladder;
  ladder.operation = "dropout_forward";
  ladder.size = "N=" + std::to_string(rows) + "*768 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 1.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * kGpuRows;
  ladder.versions = {{"mask in memory",
                      "One kernel draws a byte for each element, a second reads it; backward would read it again. Half "
                      "as many bytes again as the tensors themselves, and a mask to keep for each dropout.",
                      [=](int set, cudaStream_t stream) {
                        launch(dropout_draw_kernel, grid_for(N, 256), 256, 0, stream, t->mask[set], dropout, seed,
                               sequence, N);
                        launch(dropout_mask_kernel, grid_for(N, 256), 256, 0, stream, t->out[set], t->inp[set],
                               t->mask[set], 1 / (1 - dropout), N);
                      }},
                     {"drawn where it is used",
                      "Philox has no state: number i is a function of (seed, i), so forward and backward each "
                      "draw it anew and no mask exists. But a call yields four numbers, and this uses one.",
                      [=](int set, cudaStream_t stream) {
                        launch(dropout_redrawn_kernel, grid_for(N, 256), 256, 0, stream, t->out[set], t->inp[set],
                               dropout, seed, sequence, N);
                      }},
                     {"four of a call",
                      "A thread takes four neighbours and all four numbers: a quarter of the arithmetic, and accesses "
                      "of 8 bytes.",
                      [=](int set, cudaStream_t stream) {
                        launch(dropout_fours_kernel, grid_for(N / 4, 256), 256, 0, stream, t->out[set], t->inp[set],
                               dropout, seed, sequence, N);
                      }},
                     {"16 bytes", "Eight neighbours, two calls, the widest access.", [=](int set, cudaStream_t stream) {
                        dropout_forward(t->out[set], t->inp[set], dropout, seed, sequence, N, stream);
                      }}};
  ladder.reset = [=] {
    t->out.poison(0);
    t->mask.poison(0);
  };
  ladder.check = [=] {  // everything: the twin counts elements from 0
    const auto x = bench::to_doubles(t->inp.host(0));
    std::vector<double> expected(N);
    cpu::dropout_forward(expected.data(), x.data(), dropout, seed, sequence, N);
    bench::check_close("out", t->out.host(0), expected, 1, 0);
  };
  return ladder;
}

const bench::Register registered("dropout_forward", make);

}  // namespace
