// out = inp1 + inp2: nothing to compute, only reading and writing memory well.
#include "dev/bench/bench.h"
#include "kernels/residual.cuh"
#include "kernels/residual.h"

namespace {

// A CPU's habit: each thread takes its own stretch. Lanes are then 64 elements apart, and a warp's request for 32
// numbers touches 32 sectors of 32 bytes each, of which it uses 2 bytes.
__global__ void residual_stretches_kernel(bf16* out, const bf16* inp1, const bf16* inp2, int64_t N) {
  constexpr int kStretch = 64;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kStretch;
  for (int64_t i = begin; i < begin + kStretch && i < N; ++i) {
    out[i] = from_float<bf16>(to_float(inp1[i]) + to_float(inp2[i]));
  }
}

// Neighbouring lanes, neighbouring elements: a request is 64 contiguous bytes, two whole sectors.
__global__ void residual_coalesced_kernel(bf16* out, const bf16* inp1, const bf16* inp2, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) out[i] = from_float<bf16>(to_float(inp1[i]) + to_float(inp2[i]));
}

// Two elements per thread in one 4-byte access. N even.
__global__ void residual_pairs_kernel(bf16* out, const bf16* inp1, const bf16* inp2, int64_t N) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 2;
  if (i >= N) return;
  float x[2], y[2];
  load_floats<true>(x, inp1 + i, 2);
  load_floats<true>(y, inp2 + i, 2);
  x[0] += y[0];
  x[1] += y[1];
  store_floats<true>(out + i, x, 2);
}

bench::Ladder make(const bench::Problem& problem) {
  const int64_t rows = problem.size(16384, 256), C = 768, N = rows * C;
  const double bytes = 3.0 * N * sizeof(bf16);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, inp1, inp2;
  };
  auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, N, 1, 1}, {sets, N, 2, 1}});

  bench::Ladder ladder;
  ladder.operation = "residual_forward";
  ladder.size = "N=" + std::to_string(rows) + "*768 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / rows * 16384;
  ladder.versions = {
      {"a stretch a thread",
       "Each thread adds 64 neighbours, as a CPU's thread would: lanes lie 128 bytes apart, and "
       "each request fetches 32 sectors to use 2 bytes of each.",
       [=](int set, cudaStream_t stream) {
         launch(residual_stretches_kernel, grid_for(ceil_div<int64_t>(N, 64), 256), 256, 0, stream, t->out[set],
                t->inp1[set], t->inp2[set], N);
       }},
      {"coalesced",
       "Neighbouring lanes take neighbouring elements: a warp's request is 64 bytes in a row, two whole "
       "sectors.",
       [=](int set, cudaStream_t stream) {
         launch(residual_coalesced_kernel, grid_for(N, 256), 256, 0, stream, t->out[set], t->inp1[set], t->inp2[set],
                N);
       }},
      {"pairs",
       "Two elements in one access of 4 bytes: half the requests for the same bytes, and more of them in "
       "flight at once.",
       [=](int set, cudaStream_t stream) {
         launch(residual_pairs_kernel, grid_for(N / 2, 256), 256, 0, stream, t->out[set], t->inp1[set], t->inp2[set],
                N);
       }},
      {"16 bytes",
       "The widest access there is, 8 elements per thread: 512 bytes per request, a quarter of the pairs' "
       "requests.",
       [=](int set, cudaStream_t stream) {
         residual_forward(t->out[set], t->inp1[set], t->inp2[set], 0.0f, 0, 0, N, stream);
       }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(rows, 256)) {
      const int64_t at = first * C, n = count * C;
      const auto x = bench::to_doubles(t->inp1.host(0, at, n)), y = bench::to_doubles(t->inp2.host(0, at, n));
      std::vector<double> expected(n);
      cpu::residual_forward(expected.data(), x.data(), y.data(), n);
      bench::check_close("out", t->out.host(0, at, n), expected, 1, 0);
    }
  };
  return ladder;
}

const bench::Register registered("residual_forward", make);

}  // namespace
