// The rows of which the head makes logits: no sums, only reading and writing memory well.
#include "dev/bench/bench.h"
#include "kernels/take_rows.cuh"
#include "kernels/take_rows.h"

namespace {

constexpr int C = 768;

__global__ void take_rows_elements_kernel(bf16* out, const bf16* inp, const int32_t* rows, int n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < int64_t{n} * C) out[i] = inp[int64_t{rows[i / C]} * C + i % C];
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int kGpuRows = 8192;
  const int n = static_cast<int>(problem.size(kGpuRows, 256)), N = 2 * n;
  const double bytes = 2.0 * n * C * sizeof(bf16) + 4.0 * n;
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> out, inp;
    bench::Buffers<int32_t> rows;
  };
  const auto t =
      std::shared_ptr<Tensors>(new Tensors{{sets, int64_t{n} * C, 0, 0}, {sets, int64_t{N} * C, 1, 1}, {1, n, 0, 0}});
  std::vector<int32_t> rows(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = 2 * i + i % 2;
  t->rows.write(0, rows);
  bench::Ladder ladder;
  ladder.operation = "take_rows";
  ladder.size = "n=" + std::to_string(n) + " C=768 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 1.0 * n * C;  // moves
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / n * kGpuRows;
  ladder.versions = {
      {"elements", "One thread per channel: 64 bytes per request.",
       [=](int set, cudaStream_t stream) {
         launch(take_rows_elements_kernel, grid_for(int64_t{n} * C, 256), 256, 0, stream, t->out[set],
                static_cast<const bf16*>(t->inp[set]), static_cast<const int32_t*>(t->rows[0]), n);
       }},
      {"16 bytes", "8 channels per thread: 512 bytes per request, an eighth of them.",
       [=](int set, cudaStream_t stream) { take_rows<bf16>(t->out[set], t->inp[set], t->rows[0], n, C, stream); }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    std::vector<double> expected(static_cast<size_t>(n) * C);
    cpu::take_rows(expected.data(), bench::to_doubles(t->inp.host(0)).data(), rows.data(), n, C);
    bench::check_close("out", t->out.host(0), expected, 1, 0);
  };
  return ladder;
}

const bench::Register registered("take_rows", make);

}  // namespace
