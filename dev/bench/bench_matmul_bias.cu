// The bias gradient, step by step: dbias (OC) += the column sums of dout (N, OC), bf16 into float. One addition per two
// bytes: bound by memory. docs/writing-a-kernel.md follows it from the first version to the last.
#include <memory>

#include "dev/bench/bench.h"
#include "kernels/matmul.cuh"
#include "kernels/matmul.h"

using namespace bench;

namespace {

// A thread sums one column.
__global__ void bias_naive_kernel(float* dbias, const bf16* dout, int N, int OC) {
  const int o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= OC) return;
  float sum = 0;
  for (int n = 0; n < N; ++n) sum += to_float(dout[static_cast<int64_t>(n) * OC + o]);
  dbias[o] += sum;
}

// A thread sums one column of a chunk of rows, into partial (chunks, OC); then add_parts_kernel adds the chunks up.
constexpr int kChunk = 64;
__global__ void bias_chunk_kernel(float* partial, const bf16* dout, int N, int OC) {
  const int o = blockIdx.x * blockDim.x + threadIdx.x, first = blockIdx.y * kChunk;
  if (o >= OC) return;
  float sum = 0;
  for (int n = first; n < min(first + kChunk, N); ++n) sum += to_float(dout[static_cast<int64_t>(n) * OC + o]);
  partial[blockIdx.y * OC + o] = sum;
}

// A block sums 32 columns of a chunk of 512 rows: each of its eight warps takes every 8th row, and the first adds up
// the eight sums.
constexpr int kBlockChunk = 512;
__global__ void __launch_bounds__(256) bias_block_kernel(float* partial, const bf16* dout, int N, int OC) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int o = blockIdx.x * 32 + lane, first = blockIdx.y * kBlockChunk;
  float sum = 0;
  if (o < OC) {
    for (int n = first + warp; n < min(first + kBlockChunk, N); n += 8) {
      sum += to_float(dout[static_cast<int64_t>(n) * OC + o]);
    }
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || o >= OC) return;
  for (int w = 1; w < 8; ++w) sum += sums[w][lane];
  partial[blockIdx.y * OC + o] = sum;
}

// The same with 16 bytes per load, eight columns per lane. A warp adds a row before it loads its next.
__global__ void __launch_bounds__(256) bias_vector_kernel(float* partial, const bf16* dout, int N, int OC) {
  __shared__ float sums[8][8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int o = (blockIdx.x * 32 + lane) * 8, first = blockIdx.y * kBlockChunk;
  float sum[8] = {};
  if (o < OC) {
#pragma unroll 1
    for (int n = first + warp; n < min(first + kBlockChunk, N); n += 8) {
      float x[8];
      load_floats<true>(x, dout + static_cast<int64_t>(n) * OC + o, OC - o);
      for (int j = 0; j < 8; ++j) sum[j] += x[j];
    }
  }
  for (int j = 0; j < 8; ++j) sums[warp][j][lane] = sum[j];
  __syncthreads();
  const int column = threadIdx.x, to = blockIdx.x * 256 + column;
  if (to >= OC) return;
  float total = 0;
  for (int w = 0; w < 8; ++w) total += sums[w][column % 8][column / 8];
  partial[blockIdx.y * OC + to] = total;
}

struct Sizes {
  int N, OC;
};

struct Bias : Sizes {
  int sets;
  Buffers<bf16> dout;
  Buffers<float> dbias, partial;
  std::vector<float> before;
  std::vector<double> expected;

  explicit Bias(const Problem& problem)
      : Sizes(sizes(problem.on_gpu())),
        sets(problem.sets(bytes(*this))),
        dout(sets, static_cast<int64_t>(N) * OC, 1, 1),
        dbias(sets, OC, 2, 1),
        partial(sets, static_cast<int64_t>(ceil_div(N, kChunk)) * OC, 0, 0),  // the launcher in kernels/ needs less
        before(dbias.host(0)) {}

  static Sizes sizes(bool on_gpu) { return on_gpu ? Sizes{16384, 3072} : Sizes{2048, 512}; }
  static double bytes(const Sizes& s) { return 2.0 * s.N * s.OC + 8.0 * s.OC; }
  void check() {
    if (expected.empty()) {
      expected = to_doubles(before);
      cpu::bias_backward<double>(expected.data(), to_doubles(dout.host(0)).data(), N, OC);
    }
    check_close("dbias", dbias.host(0), expected, N, 0);
  }
};

// Two kernels: `sum` leaves partial (chunks, OC), which the second adds to dbias in order.
Version in_chunks(const std::shared_ptr<Bias>& p, const char* name, const char* idea,
                  void (*sum)(float*, const bf16*, int, int), int chunk, int columns, int threads) {
  return {name, idea, [=](int set, cudaStream_t stream) {
            const int chunks = ceil_div(p->N, chunk);
            launch(sum, dim3(ceil_div(p->OC, columns), chunks), threads, 0, stream, p->partial[set],
                   static_cast<const bf16*>(p->dout[set]), p->N, p->OC);
            add_parts(p->dbias[set], p->partial[set], false, chunks, p->OC, stream);
          }};
}

const Register bias("matmul_backward_bias", [](const Problem& problem) {
  const auto p = std::make_shared<Bias>(problem);
  Ladder ladder;
  ladder.operation = "matmul_backward_bias";
  ladder.size = "N=" + std::to_string(p->N) + " OC=" + std::to_string(p->OC) + " bf16";
  ladder.limit = Limit::memory;
  ladder.bytes = p->bytes(*p);
  ladder.gpu_bytes = p->bytes(p->sizes(true));
  ladder.flops = 1.0 * p->N * p->OC;
  ladder.sets = p->sets;
  ladder.check = [p] { p->check(); };
  ladder.reset = [p] { p->dbias.write(0, p->before); };
  ladder.versions = {
      {"naive",
       "A thread sums one column: a few thousand threads, where a large GPU has room for 200,000 and needs them to "
       "keep its memory busy.",
       [p](int set, cudaStream_t stream) {
         launch(bias_naive_kernel, grid_for(p->OC, 64), 64, 0, stream, p->dbias[set],
                static_cast<const bf16*>(p->dout[set]), p->N, p->OC);
       }},
      in_chunks(
          p, "chunks",
          "The rows are cut into chunks of 64, one thread per column and chunk, and a second kernel adds the chunks in "
          "order: enough threads, but 6 % more bytes.",
          bias_chunk_kernel, kChunk, 256, 256),
      in_chunks(
          p, "shared memory",
          "Eight warps of a block share a chunk of 512 rows and add up through shared memory: as many threads, an "
          "eighth of the partial sums.",
          bias_block_kernel, kBlockChunk, 32, 256),
      in_chunks(p, "16 bytes", "16 bytes per load, eight columns per lane: an eighth of the requests.",
                bias_vector_kernel, kBlockChunk, 256, 256),
      {"rows ahead",
       "Eight rows are under way while eight are added: a load takes as long as some hundred instructions, and a warp "
       "that waits for each moves a fraction of what memory could.",
       [p](int set, cudaStream_t stream) {
         bias_backward<bf16>(p->dbias[set], p->partial[set], p->dout[set], false, p->N, p->OC, stream);
       }},
  };
  return ladder;
});

}  // namespace
