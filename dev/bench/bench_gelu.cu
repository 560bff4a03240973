// A separate GELU: a few operations per element, one tensor in, one out. (In training the matrix products compute it in
// their epilogues.)
#include "dev/bench/bench.h"
#include "kernels/gelu.cuh"
#include "kernels/gelu.h"

namespace {

// ---- forward -------------------------------------------------------------------------------------------------------

// A constant without an f makes C++ compute in double: a GPU for training has few double units or hardly any.
__global__ void gelu_in_double_kernel(bf16* out, const bf16* inp, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float x = to_float(inp[i]);
  out[i] = from_float<bf16>(0.5 * x * (1.0 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))));
}

__global__ void gelu_tanh_kernel(bf16* out, const bf16* inp, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float x = to_float(inp[i]);
  out[i] = from_float<bf16>(0.5f * x * (1 + tanhf(kGeluScale * (x + kGeluCubic * x * x * x))));
}

__global__ void gelu_exp_kernel(bf16* out, const bf16* inp, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) out[i] = from_float<bf16>(gelu(to_float(inp[i])));
}

// ---- backward ------------------------------------------------------------------------------------------------------

__global__ void gelu_slope_kernel(bf16* slope, const bf16* inp, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) slope[i] = from_float<bf16>(gelu_grad(to_float(inp[i])));
}

__global__ void gelu_times_slope_kernel(bf16* dinp, const bf16* dout, const bf16* slope, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) dinp[i] = from_float<bf16>(to_float(dout[i]) * to_float(slope[i]));
}

__global__ void gelu_backward_fused_kernel(bf16* dinp, const bf16* dout, const bf16* inp, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) dinp[i] = from_float<bf16>(to_float(dout[i]) * gelu_grad(to_float(inp[i])));
}

// ---- ladders -------------------------------------------------------------------------------------------------------

constexpr int64_t kWidth = 3072, kGpuRows = 16384;  // 4 C of GPT-2 124M, for 16 x 1024 tokens

struct Tensors {
  bench::Buffers<bf16> out, dout, inp, slope;
};

bench::Ladder make_forward(const bench::Problem& problem) {
  const int64_t rows = problem.size(kGpuRows, 64), N = rows * kWidth;
  const double bytes = 2.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {0, 0, 0, 0}, {sets, N, 1, 1}, {0, 0, 0, 0}});
  const dim3 grid = grid_for(N, 256);

  bench::Ladder ladder;
  ladder.operation = "gelu_forward";
  ladder.size = "N=" + std::to_string(rows) + "*3072 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 10.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * kGpuRows;
  ladder.versions = {
      {"in double, by oversight",
       "The formula as written. Its constants are doubles, so the arithmetic is too: "
       "the same bytes, but units that are slow or few.",
       [=](int set, cudaStream_t stream) {
         launch(gelu_in_double_kernel, grid, 256, 0, stream, t->out[set], t->inp[set], N);
       }},
      {"in float", "The same with float constants and tanhf: 24 bits are plenty for a result of 8.",
       [=](int set, cudaStream_t stream) {
         launch(gelu_tanh_kernel, grid, 256, 0, stream, t->out[set], t->inp[set], N);
       }},
      {"one exponential",
       "(1 + tanh u) / 2 is 1 / (1 + exp(-2u)): one exponential and one division in place of a tanh, "
       "and no digits lost where tanh is close to -1.",
       [=](int set, cudaStream_t stream) {
         launch(gelu_exp_kernel, grid, 256, 0, stream, t->out[set], t->inp[set], N);
       }},
      {"16 bytes", "8 elements per thread in one access each way: an eighth of the requests for the same bytes.",
       [=](int set, cudaStream_t stream) { gelu_forward(t->out[set], t->inp[set], N, stream); }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(rows, 256)) {
      const int64_t at = first * kWidth, n = count * kWidth;
      const auto x = bench::to_doubles(t->inp.host(0, at, n));
      std::vector<double> expected(n);
      cpu::gelu_forward(expected.data(), x.data(), n);
      bench::check_close("out", t->out.host(0, at, n), expected, 1, 0);
    }
  };
  return ladder;
}

bench::Ladder make_backward(const bench::Problem& problem) {
  const int64_t rows = problem.size(kGpuRows, 64), N = rows * kWidth;
  const double bytes = 3.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, N, 2, 1}, {sets, N, 1, 1}, {1, N, 0, 0}});
  const dim3 grid = grid_for(N, 256);

  bench::Ladder ladder;
  ladder.operation = "gelu_backward";
  ladder.size = "N=" + std::to_string(rows) + "*3072 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 18.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * kGpuRows;
  ladder.versions = {
      {"slope kept",
       "Two kernels, as a library of operations would: the slopes go to memory and come back, which is "
       "five tensors of traffic where three would do, and they are rounded on the way.",
       [=](int set, cudaStream_t stream) {
         launch(gelu_slope_kernel, grid, 256, 0, stream, t->slope[0], t->inp[set], N);
         launch(gelu_times_slope_kernel, grid, 256, 0, stream, t->out[set], t->dout[set], t->slope[0], N);
       }},
      {"fused", "The slope stays in a register: read two tensors, write one.",
       [=](int set, cudaStream_t stream) {
         launch(gelu_backward_fused_kernel, grid, 256, 0, stream, t->out[set], t->dout[set], t->inp[set], N);
       }},
      {"16 bytes", "8 elements per thread in one access to each tensor.",
       [=](int set, cudaStream_t stream) { gelu_backward(t->out[set], t->dout[set], t->inp[set], N, stream); }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(rows, 256)) {
      const int64_t at = first * kWidth, n = count * kWidth;
      const auto x = bench::to_doubles(t->inp.host(0, at, n)), dy = bench::to_doubles(t->dout.host(0, at, n));
      std::vector<double> expected(n), twice_rounded(n);
      cpu::gelu_backward(expected.data(), dy.data(), x.data(), n);
      // A stored slope is off by up to 1.13 * 2^-8, the largest slope's half unit, times |dy| of at most 6.
      bench::check_close("dinp", t->out.host(0, at, n), expected, 1, 6 * 1.13 * 0x1p-8);
    }
  };
  return ladder;
}

const bench::Register forward("gelu_forward", make_forward);
const bench::Register backward("gelu_backward", make_backward);

}  // namespace
