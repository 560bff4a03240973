// Pooling over positions, as a mean: every row is read. (A single position is a copy of B rows.)
#include "dev/bench/bench.h"
#include "kernels/pool.cuh"
#include "kernels/pool.h"

namespace {

constexpr int C = 768;

__global__ void pool_forward_elements_kernel(bf16* out, const bf16* inp, const float* weights, int T) {
  const int64_t b = blockIdx.x;
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  float sum = 0;
  for (int64_t bt = b * T; bt < (b + 1) * T; ++bt) sum += weights[bt] * to_float(inp[bt * C + c]);
  out[b * C + c] = from_float<bf16>(sum);
}

__global__ void pool_backward_elements_kernel(bf16* dinp, const bf16* dout, const float* weights, int64_t N, int T) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N * C) dinp[i] = from_float<bf16>(weights[i / C] * to_float(dout[i / C / T * C + i % C]));
}

constexpr int kGpuB = 128, T = 128;

bench::Ladder describe(const char* operation, int B, double bytes, int sets) {
  bench::Ladder ladder;
  ladder.operation = operation;
  ladder.size = "B=" + std::to_string(B) + " T=128 C=768 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * B * T * C;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / B * kGpuB;
  return ladder;
}

bench::Ladder make_forward(const bench::Problem& problem) {
  const int B = static_cast<int>(problem.size(kGpuB, 4));
  const int64_t N = static_cast<int64_t>(B) * T;
  const double bytes = (N + B) * C * sizeof(bf16) + N * sizeof(float);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, inp;
    bench::Buffers<float> weights;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, B * C, 0, 0}, {sets, N * C, 1, 1}, {1, N, 2, 1}});
  bench::Ladder ladder = describe("pool_forward", B, bytes, sets);
  ladder.versions = {
      {"elements", "One thread per channel, position after position: 64 bytes per request.",
       [=](int set, cudaStream_t stream) {
         launch(pool_forward_elements_kernel, dim3(B, C / 128), 128, 0, stream, t->out[set], t->inp[set], t->weights[0],
                T);
       }},
      {"16 bytes", "8 channels per thread: 512 bytes per request, an eighth of them.",
       [=](int set, cudaStream_t stream) { pool_forward(t->out[set], t->inp[set], t->weights[0], B, T, C, stream); }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    std::vector<double> expected(static_cast<size_t>(B) * C);
    const auto x = bench::to_doubles(t->inp.host(0));
    cpu::pool_forward(expected.data(), x.data(), t->weights.host(0).data(), B, T, C);
    bench::check_close("out", t->out.host(0), expected, T, 0);
  };
  return ladder;
}

bench::Ladder make_backward(const bench::Problem& problem) {
  const int B = static_cast<int>(problem.size(kGpuB, 4));
  const int64_t N = static_cast<int64_t>(B) * T;
  const double bytes = (N + B) * C * sizeof(bf16) + N * sizeof(float);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> dinp, dout;
    bench::Buffers<float> weights;
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N * C, 0, 0}, {sets, B * C, 1, 1}, {1, N, 2, 1}});
  bench::Ladder ladder = describe("pool_backward", B, bytes, sets);
  ladder.versions = {{"elements", "One thread per element: 64 bytes per request.",
                      [=](int set, cudaStream_t stream) {
                        launch(pool_backward_elements_kernel, grid_for(N * C, 256), 256, 0, stream, t->dinp[set],
                               t->dout[set], t->weights[0], N, T);
                      }},
                     {"16 bytes", "8 channels of a row per thread: 512 bytes per request, an eighth of them.",
                      [=](int set, cudaStream_t stream) {
                        pool_backward(t->dinp[set], t->dout[set], t->weights[0], B, T, C, stream);
                      }}};
  ladder.reset = [=] { t->dinp.poison(0); };
  ladder.check = [=] {
    std::vector<double> expected(N * C);
    const auto dy = bench::to_doubles(t->dout.host(0));
    cpu::pool_backward(expected.data(), dy.data(), t->weights.host(0).data(), B, T, C);
    bench::check_close("dinp", t->dinp.host(0), expected, 1, 0);
  };
  return ladder;
}

const bench::Register forward("pool_forward", make_forward), backward("pool_backward", make_backward);

}  // namespace
