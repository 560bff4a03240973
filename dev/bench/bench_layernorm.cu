// Layer normalisation: rows of a few hundred numbers, read for their mean, for their spread, and to be normalised.
#include "dev/bench/bench.h"
#include "kernels/layernorm.cuh"
#include "kernels/layernorm.h"

namespace {

// ---- forward -------------------------------------------------------------------------------------------------------

// out, mean, rstd of one row by one thread: reads as the CPU twin does.
__global__ void layernorm_thread_kernel(bf16* out, float* mean, float* rstd, const bf16* inp, const bf16* weight,
                                        const bf16* bias, int N, int C) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= N) return;
  const bf16* x = inp + static_cast<int64_t>(row) * C;
  float sum = 0, squares = 0;
  for (int c = 0; c < C; ++c) sum += to_float(x[c]);
  const float m = sum / C;
  for (int c = 0; c < C; ++c) squares += (to_float(x[c]) - m) * (to_float(x[c]) - m);
  const float s = 1 / sqrtf(squares / C + 1e-5f);
  for (int c = 0; c < C; ++c) {
    const float norm = (to_float(x[c]) - m) * s;
    out[static_cast<int64_t>(row) * C + c] = from_float<bf16>(norm * to_float(weight[c]) + to_float(bias[c]));
  }
  mean[row] = m;
  rstd[row] = s;
}

// The sum over a block of 256 threads by halves in shared memory: nine barriers, and half the threads idle at once.
__device__ float tree_sum(float x) {
  __shared__ float sums[256];
  sums[threadIdx.x] = x;
  __syncthreads();
  for (unsigned half = 128; half > 0; half /= 2) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const float sum = sums[0];
  __syncthreads();  // before the next call writes
  return sum;
}

__global__ void layernorm_block_kernel(bf16* out, float* mean, float* rstd, const bf16* inp, const bf16* weight,
                                       const bf16* bias, int C) {
  const int row = blockIdx.x;
  const bf16* x = inp + static_cast<int64_t>(row) * C;
  float sum = 0, squares = 0;
  for (int c = threadIdx.x; c < C; c += 256) sum += to_float(x[c]);
  const float m = tree_sum(sum) / C;
  for (int c = threadIdx.x; c < C; c += 256) squares += (to_float(x[c]) - m) * (to_float(x[c]) - m);
  const float s = 1 / sqrtf(tree_sum(squares) / C + 1e-5f);
  for (int c = threadIdx.x; c < C; c += 256) {
    const float norm = (to_float(x[c]) - m) * s;
    out[static_cast<int64_t>(row) * C + c] = from_float<bf16>(norm * to_float(weight[c]) + to_float(bias[c]));
  }
  if (threadIdx.x == 0) {
    mean[row] = m;
    rstd[row] = s;
  }
}

// One warp per row, four per block.
__global__ void layernorm_warp_kernel(bf16* out, float* mean, float* rstd, const bf16* inp, const bf16* weight,
                                      const bf16* bias, int N, int C) {
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= N) return;
  const bf16* x = inp + static_cast<int64_t>(row) * C;
  float sum = 0, squares = 0;
  for (int c = lane; c < C; c += 32) sum += to_float(x[c]);
  const float m = warp_sum(sum) / C;
  for (int c = lane; c < C; c += 32) squares += (to_float(x[c]) - m) * (to_float(x[c]) - m);
  const float s = 1 / sqrtf(warp_sum(squares) / C + 1e-5f);
  for (int c = lane; c < C; c += 32) {
    const float norm = (to_float(x[c]) - m) * s;
    out[static_cast<int64_t>(row) * C + c] = from_float<bf16>(norm * to_float(weight[c]) + to_float(bias[c]));
  }
  if (lane == 0) {
    mean[row] = m;
    rstd[row] = s;
  }
}

// The same with the row in registers, C / 32 numbers per lane.
template <int C>
__global__ void __launch_bounds__(128) layernorm_registers_kernel(bf16* out, float* mean, float* rstd, const bf16* inp,
                                                                  const bf16* weight, const bf16* bias, int N) {
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= N) return;
  const int64_t start = static_cast<int64_t>(row) * C;
  float x[C / 32], sum = 0, squares = 0;
#pragma unroll
  for (int k = 0; k < C / 32; ++k) {
    x[k] = to_float(inp[start + k * 32 + lane]);
    sum += x[k];
  }
  const float m = warp_sum(sum) / C;
#pragma unroll
  for (int k = 0; k < C / 32; ++k) squares += (x[k] - m) * (x[k] - m);
  const float s = 1 / sqrtf(warp_sum(squares) / C + 1e-5f);
#pragma unroll
  for (int k = 0; k < C / 32; ++k) {
    const int c = k * 32 + lane;
    out[start + c] = from_float<bf16>((x[k] - m) * s * to_float(weight[c]) + to_float(bias[c]));
  }
  if (lane == 0) {
    mean[row] = m;
    rstd[row] = s;
  }
}

// ---- backward ------------------------------------------------------------------------------------------------------

// One thread per row; dweight and dbias, to which all rows add, by atomics.
__global__ void layernorm_backward_thread_kernel(bf16* dinp, float* dweight, float* dbias, const bf16* dout,
                                                 const bf16* inp, const bf16* weight, const float* mean,
                                                 const float* rstd, int N, int C) {
  const int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= N) return;
  const int64_t start = static_cast<int64_t>(row) * C;
  const float m = mean[row], s = rstd[row];
  float dnorm_sum = 0, dnorm_norm_sum = 0;
  for (int c = 0; c < C; ++c) {
    const float dnorm = to_float(dout[start + c]) * to_float(weight[c]);
    dnorm_sum += dnorm;
    dnorm_norm_sum += dnorm * (to_float(inp[start + c]) - m) * s;
  }
  for (int c = 0; c < C; ++c) {
    const float dy = to_float(dout[start + c]), norm = (to_float(inp[start + c]) - m) * s;
    const float dx = s * (dy * to_float(weight[c]) - dnorm_sum / C - norm * dnorm_norm_sum / C);
    dinp[start + c] = from_float<bf16>(to_float(dinp[start + c]) + dx);
    atomicAdd(dweight + c, dy * norm);
    atomicAdd(dbias + c, dy);
  }
}

// One warp per row. kAtomics: dweight and dbias too.
template <bool kAtomics>
__global__ void layernorm_backward_warp_kernel(bf16* dinp, float* dweight, float* dbias, const bf16* dout,
                                               const bf16* inp, const bf16* weight, const float* mean,
                                               const float* rstd, int N, int C) {
  const int row = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= N) return;
  const int64_t start = static_cast<int64_t>(row) * C;
  const float m = mean[row], s = rstd[row];
  float dnorm_sum = 0, dnorm_norm_sum = 0;
  for (int c = lane; c < C; c += 32) {
    const float dnorm = to_float(dout[start + c]) * to_float(weight[c]);
    dnorm_sum += dnorm;
    dnorm_norm_sum += dnorm * (to_float(inp[start + c]) - m) * s;
  }
  dnorm_sum = warp_sum(dnorm_sum);
  dnorm_norm_sum = warp_sum(dnorm_norm_sum);
  for (int c = lane; c < C; c += 32) {
    const float dy = to_float(dout[start + c]), norm = (to_float(inp[start + c]) - m) * s;
    const float dx = s * (dy * to_float(weight[c]) - dnorm_sum / C - norm * dnorm_norm_sum / C);
    dinp[start + c] = from_float<bf16>(to_float(dinp[start + c]) + dx);
    if constexpr (kAtomics) {
      atomicAdd(dweight + c, dy * norm);
      atomicAdd(dbias + c, dy);
    }
  }
}

// A warp walks over rows and keeps its sums for dweight and dbias in shared memory (8 warps, 2, C); each block writes
// the sum over its warps to partials (blocks, 2, C). Each load waits for the one before: loaded values are used at
// once.
__global__ void __launch_bounds__(256, 2)
    layernorm_backward_shared_kernel(bf16* dinp, float* partials, const bf16* dout, const bf16* inp, const bf16* weight,
                                     const float* mean, const float* rstd, int N, int C) {
  float* all = dynamic_shared<float>();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *dw = all + warp * 2 * C, *db = dw + C;
  for (int c = lane; c < 2 * C; c += 32) dw[c] = 0;
  for (int row = blockIdx.x * 8 + warp; row < N; row += gridDim.x * 8) {
    const int64_t start = static_cast<int64_t>(row) * C;
    const float m = mean[row], s = rstd[row];
    float dnorm_sum = 0, dnorm_norm_sum = 0;
#pragma unroll 1
    for (int c = lane * 8; c < C; c += 256) {
      float x[8], dy[8], w[8];
      load_floats<true>(x, inp + start + c, 8);
      load_floats<true>(dy, dout + start + c, 8);
      load_floats<true>(w, weight + c, 8);
      for (int k = 0; k < 8; ++k) {
        dnorm_sum += dy[k] * w[k];
        dnorm_norm_sum += dy[k] * w[k] * (x[k] - m) * s;
      }
    }
    const float dnorm_avg = warp_sum(dnorm_sum) / C, dnorm_norm_avg = warp_sum(dnorm_norm_sum) / C;
#pragma unroll 1
    for (int c = lane * 8; c < C; c += 256) {
      float x[8], dy[8], w[8], dx[8];
      load_floats<true>(x, inp + start + c, 8);
      load_floats<true>(dy, dout + start + c, 8);
      load_floats<true>(w, weight + c, 8);
      load_floats<true>(dx, dinp + start + c, 8);
      for (int k = 0; k < 8; ++k) {
        const float norm = (x[k] - m) * s;
        dx[k] += s * (dy[k] * w[k] - dnorm_avg - norm * dnorm_norm_avg);
        dw[c + k] += dy[k] * norm;
        db[c + k] += dy[k];
      }
      store_floats<true>(dinp + start + c, dx, 8);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * C; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < 8; ++w) sum += all[w * 2 * C + i];
    partials[blockIdx.x * 2 * C + i] = sum;
  }
}

__global__ void layernorm_backward_partials_kernel(float* dweight, float* dbias, const float* partials, int blocks,
                                                   int C) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= 2 * C) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += partials[b * 2 * C + c];
  (c < C ? dweight[c] : dbias[c - C]) += sum;
}

// dweight and dbias without atomics: one lane per column, 32 warps that each sum every 32nd row, then one that adds
// them up.
__global__ void layernorm_backward_columns_kernel(float* dweight, float* dbias, const bf16* dout, const bf16* inp,
                                                  const float* mean, const float* rstd, int N, int C) {
  __shared__ float weight_sums[32][32], bias_sums[32][32];
  const int lane = threadIdx.x, warp = threadIdx.y, c = blockIdx.x * 32 + lane;
  float dw = 0, db = 0;
  for (int row = warp; row < N && c < C; row += 32) {
    const int64_t i = static_cast<int64_t>(row) * C + c;
    const float dy = to_float(dout[i]);
    dw += dy * (to_float(inp[i]) - mean[row]) * rstd[row];
    db += dy;
  }
  weight_sums[warp][lane] = dw;
  bias_sums[warp][lane] = db;
  __syncthreads();
  if (warp > 0 || c >= C) return;
  for (int w = 1; w < 32; ++w) {
    dw += weight_sums[w][lane];
    db += bias_sums[w][lane];
  }
  dweight[c] += dw;
  dbias[c] += db;
}

// ---- ladders -------------------------------------------------------------------------------------------------------

constexpr int C = 768;
constexpr int64_t kGpuRows = 16384;
// (x - mean) rstd is a difference of numbers up to 6, of which floats keep 24 bits; the same holds for backward's
// results.
constexpr double kLost = 4 * 0x1p-24 * 16;

struct Tensors {
  int64_t N;
  int sets;
  bench::Buffers<bf16> out{sets, N*C, 0, 0}, inp{sets, N*C, 1, 1}, weight{1, C, 3, 1}, bias{1, C, 4, 1};
  bench::Buffers<float> mean{1, N, 0, 0}, rstd{1, N, 0, 0};
};

void check_forward(const Tensors& t) {
  for (const auto [first, count] : bench::sample_rows(t.N, 1024)) {
    const int64_t at = first * C, n = count * C;
    std::vector<double> x = bench::to_doubles(t.inp.host(0, at, n)), out(n), mean(count), rstd(count);
    const auto w = bench::to_doubles(t.weight.host(0)), b = bench::to_doubles(t.bias.host(0));
    cpu::layernorm_forward(out.data(), mean.data(), rstd.data(), x.data(), w.data(), b.data(), static_cast<int>(count),
                           C);
    bench::check_close("out", t.out.host(0, at, n), out, C, kLost);
    bench::check_close("mean", t.mean.host(0, first, count), mean, C, kLost);
    bench::check_close("rstd", t.rstd.host(0, first, count), rstd, C, kLost);
  }
}

bench::Ladder make_forward(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuRows, 128);
  const auto t = std::shared_ptr<Tensors>(new Tensors{N, problem.sets(2.0 * N * C * sizeof(bf16))});
  const int rows = static_cast<int>(N);
  const auto bytes = [](int64_t n) {
    return static_cast<double>(2 * n * C * sizeof(bf16) + 2 * n * sizeof(float) + 2 * C * sizeof(bf16));
  };
  bench::Ladder ladder;
  ladder.operation = "layernorm_forward";
  ladder.size = "N=" + std::to_string(N) + " C=768 bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes(N);
  ladder.flops = 8.0 * static_cast<double>(N * C);
  ladder.sets = t->sets;
  ladder.gpu_bytes = bytes(kGpuRows);
  ladder.reset = [=] {
    t->out.poison(0);
    t->mean.poison(0);
    t->rstd.poison(0);
  };
  ladder.check = [=] { check_forward(*t); };
  ladder.versions = {
      {"a thread a row",
       "As on a CPU: one thread per row, three loops. Lanes lie a row apart, so each request touches 32 "
       "sectors for 32 numbers, 16 times as many as needed.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_thread_kernel, grid_for(N, 64), 64, 0, stream, t->out[set], t->mean[0], t->rstd[0],
                t->inp[set], t->weight[0], t->bias[0], rows, C);
       }},
      {"a block a row",
       "256 threads share a row, so neighbouring lanes read neighbouring numbers. Their sums are combined in "
       "shared memory by halves: 20 barriers per row, at which all threads wait for the slowest.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_block_kernel, grid_for(N, 1), 256, 0, stream, t->out[set], t->mean[0], t->rstd[0],
                t->inp[set], t->weight[0], t->bias[0], C);
       }},
      {"a warp a row",
       "32 lanes share a row and add up by shuffles, from register to register: no shared memory and no "
       "barrier at all.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_warp_kernel, grid_for(N, 4), 128, 0, stream, t->out[set], t->mean[0], t->rstd[0], t->inp[set],
                t->weight[0], t->bias[0], rows, C);
       }},
      {"row in registers",
       "The row is read once, 24 numbers per lane, instead of three times; that needs a length known to "
       "the compiler.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_registers_kernel<C>, grid_for(N, 4), 128, 0, stream, t->out[set], t->mean[0], t->rstd[0],
                t->inp[set], t->weight[0], t->bias[0], rows);
       }},
      {"row in shared memory",
       "Accesses of 16 bytes, and the row kept in shared memory, each lane its own part: no barrier "
       "either, any length, and registers are free for warps that hide each other's waiting.",
       [=](int set, cudaStream_t stream) {
         layernorm_forward(t->out[set], t->mean[0], t->rstd[0], t->inp[set], t->weight[0], t->bias[0], rows, C, stream);
       }}};
  return ladder;
}

struct Gradients {
  int64_t N, C;
  int sets;
  bench::Buffers<bf16> dinp{sets, N*C, 5, 1}, first_dinp{1, N*C, 5, 1}, dout{sets, N*C, 6, 1}, inp{sets, N*C, 1, 1},
      weight{1, C, 3, 1};
  bench::Buffers<float> dweight{1, C, 7, 1}, dbias{1, C, 8, 1}, first_dweight{1, C, 7, 1}, first_dbias{1, C, 8, 1},
      dinp_sums{1, C, 0, 0}, mean{1, N, 0, 0}, rstd{1, N, 0, 0};
  bench::Buffers<uint8_t> scratch{1, layernorm_backward_scratch(static_cast<int>(N), static_cast<int>(C)), 0, 0};
};

void check_backward(const Gradients& t) {
  const int rows = static_cast<int>(t.N), C = static_cast<int>(t.C);
  const auto x = bench::to_doubles(t.inp.host(0)), dy = bench::to_doubles(t.dout.host(0)),
             w = bench::to_doubles(t.weight.host(0)), mean = bench::to_doubles(t.mean.host(0)),
             rstd = bench::to_doubles(t.rstd.host(0));
  auto dx = bench::to_doubles(t.first_dinp.host(0)), dw = bench::to_doubles(t.first_dweight.host(0)),
       db = bench::to_doubles(t.first_dbias.host(0));
  cpu::layernorm_backward(dx.data(), dw.data(), db.data(), dy.data(), x.data(), w.data(), mean.data(), rstd.data(),
                          rows, C);
  bench::check_close("dinp", t.dinp.host(0), dx, C, kLost);
  bench::check_close("dweight", t.dweight.host(0), dw, t.N + 1, std::sqrt(t.N) * kLost);
  bench::check_close("dbias", t.dbias.host(0), db, t.N + 1, 0);
}

// The ladder of N rows of C channels, without versions.
bench::Ladder backward_ladder(const char* operation, const bench::Problem& problem, int64_t N, int C, int64_t gpu_N,
                              int64_t gpu_C, std::shared_ptr<Gradients>& t) {
  const auto bytes = [](int64_t rows, int64_t C) {
    return static_cast<double>(4 * rows * C * sizeof(bf16) + 2 * rows * sizeof(float) + C * sizeof(bf16) +
                               4 * C * sizeof(float));
  };
  t = std::shared_ptr<Gradients>(new Gradients{N, C, problem.sets(bytes(N, C))});
  const int rows = static_cast<int>(N);
  {  // statistics of set 0; any will do for the others, which are only timed
    std::vector<float> mean(N), rstd(N), out(N * C);
    std::vector<float> x(N * C);
    const std::vector<double> stored = bench::to_doubles(t->inp.host(0));
    std::copy(stored.begin(), stored.end(), x.begin());
    const std::vector<float> ones(C, 1);
    cpu::layernorm_forward(out.data(), mean.data(), rstd.data(), x.data(), ones.data(), ones.data(), rows, C);
    t->mean.write(0, mean);
    t->rstd.write(0, rstd);
  }
  bench::Ladder ladder;
  ladder.operation = operation;
  ladder.size = "N=" + std::to_string(N) + " C=" + std::to_string(C) + " bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes(N, C);
  ladder.flops = 17.0 * static_cast<double>(N * C);
  ladder.sets = t->sets;
  ladder.gpu_bytes = bytes(gpu_N, gpu_C);
  ladder.reset = [t] {
    t->dinp.copy(0, t->first_dinp);
    t->dweight.copy(0, t->first_dweight);
    t->dbias.copy(0, t->first_dbias);
    t->scratch.poison(0);
  };
  ladder.check = [t] { check_backward(*t); };
  return ladder;
}

// A version: the launcher in kernels/.
bench::Version backward_version(const std::shared_ptr<Gradients>& t, const char* name, const char* idea) {
  return {name, idea, [t](int set, cudaStream_t stream) {
            layernorm_backward(t->dinp[set], t->dweight[0], t->dbias[0], t->dinp_sums[0], t->scratch[0], t->dout[set],
                               t->inp[set], t->weight[0], t->mean[0], t->rstd[0], false, static_cast<int>(t->N),
                               static_cast<int>(t->C), stream);
          }};
}

bench::Ladder make_backward(const bench::Problem& problem) {
  // As many rows as on a GPU, so that the blocks' sums are relatively as small; narrower rows where counting takes
  // time.
  const int64_t N = kGpuRows;
  const int C = static_cast<int>(problem.size(768, 256)), rows = static_cast<int>(N);
  std::shared_ptr<Gradients> t;
  bench::Ladder ladder = backward_ladder("layernorm_backward", problem, N, C, kGpuRows, 768, t);
  ladder.versions = {
      {"a thread a row",
       "One thread per row, two loops, and atomics for dweight and dbias, which all rows add to: their "
       "order, and so the last digits, change from run to run.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_backward_thread_kernel, grid_for(N, 64), 64, 0, stream, t->dinp[set], t->dweight[0],
                t->dbias[0], t->dout[set], t->inp[set], t->weight[0], t->mean[0], t->rstd[0], rows, C);
       }},
      {"a warp a row", "Coalesced, with shuffles for the two sums of a row. Two atomics per element are left.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_backward_warp_kernel<true>, grid_for(N, 4), 128, 0, stream, t->dinp[set], t->dweight[0],
                t->dbias[0], t->dout[set], t->inp[set], t->weight[0], t->mean[0], t->rstd[0], rows, C);
       }},
      {"rows, then columns",
       "A second kernel sums the columns, each by one owner: no atomics, the same bits every time. But "
       "it reads inp and dout once more.",
       [=](int set, cudaStream_t stream) {
         launch(layernorm_backward_warp_kernel<false>, grid_for(N, 4), 128, 0, stream, t->dinp[set], t->dweight[0],
                t->dbias[0], t->dout[set], t->inp[set], t->weight[0], t->mean[0], t->rstd[0], rows, C);
         launch(layernorm_backward_columns_kernel, grid_for(C, 32), dim3(32, 32), 0, stream, t->dweight[0], t->dbias[0],
                t->dout[set], t->inp[set], t->mean[0], t->rstd[0], rows, C);
       }},
      {"sums in shared memory",
       "A warp walks over many rows and holds its sums of all columns in shared memory, which a "
       "second, small kernel adds up in order: no atomics, 16 bytes at a time.",
       [=](int set, cudaStream_t stream) {
         const int blocks = kLayernormBackwardBlocks;
         float* partials = reinterpret_cast<float*>(t->scratch[0]);
         launch(layernorm_backward_shared_kernel, blocks, 256, static_cast<size_t>(8 * 2 * C) * sizeof(float), stream,
                t->dinp[set], partials, t->dout[set], t->inp[set], t->weight[0], t->mean[0], t->rstd[0], rows, C);
         launch(layernorm_backward_partials_kernel, grid_for(2 * C, 256), 256, 0, stream, t->dweight[0], t->dbias[0],
                partials, blocks, C);
       }},
      backward_version(
          t, "a thread a pack",
          "A thread keeps to eight columns and holds their sums in registers; the three tensors of two rows are all "
          "asked for before the first is used, so six loads are under way instead of one, and each tensor is "
          "read once.")};
  return ladder;
}

// Rows of more packs than a block has threads.
bench::Ladder make_wide_backward(const bench::Problem& problem) {
  const int64_t N = problem.size(2048, 64);
  const int C = 8200;
  std::shared_ptr<Gradients> t;
  bench::Ladder ladder = backward_ladder("layernorm_backward_wide", problem, N, C, 2048, C, t);
  ladder.versions = {
      backward_version(t, "a block a row",
                       "A block walks over rows and reads each twice, the second time from the cache; its "
                       "sums of all columns lie in scratch.")};
  return ladder;
}

const bench::Register forward("layernorm_forward", make_forward);
const bench::Register backward("layernorm_backward", make_backward);
const bench::Register wide_backward("layernorm_backward_wide", make_wide_backward);

}  // namespace
