// AdamW with bf16 parameters and a float master copy: seven numbers per parameter are read and written, 30 bytes in
// all.
#include <bit>

#include "dev/bench/bench.h"
#include "kernels/adamw.cuh"
#include "kernels/adamw.h"

namespace {

// The same numbers for all versions; a training step would take them from its flags.
constexpr float kLr = 6e-4f, kBeta1 = 0.9f, kBeta2 = 0.95f, kEps = 1e-8f, kWeightDecay = 0.1f;
constexpr unsigned kFirstV = 0x3A;  // each byte of v at the start: 7.1e-4, about the mean square of such gradients

// ---- a pass a formula ----------------------------------------------------------------------------------------------

__global__ void adamw_m_kernel(float* m, const float* grads, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) m[i] = kBeta1 * m[i] + (1 - kBeta1) * step->grad_scale * grads[i];
}

__global__ void adamw_v_kernel(float* v, const float* grads, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float g = step->grad_scale * grads[i];
  v[i] = kBeta2 * v[i] + (1 - kBeta2) * g * g;
}

__global__ void adamw_master_kernel(float* master, const float* m, const float* v, const uint8_t* decay,
                                    const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  const float direction = m[i] / step->beta1_correction / (sqrtf(v[i] / step->beta2_correction) + kEps);
  master[i] -= kLr * (direction + (decay[i / 64] ? kWeightDecay : 0) * master[i]);
}

__global__ void adamw_params_kernel(bf16* params, const float* master, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) params[i] = from_float<bf16>(master[i]);
}

// ---- one pass ------------------------------------------------------------------------------------------------------

__device__ void update(int64_t i, bf16* params, float* master, float* m, float* v, const float* grads,
                       const uint8_t* decay, const AdamWStep* step) {
  const float g = step->grad_scale * grads[i];
  const float mi = kBeta1 * m[i] + (1 - kBeta1) * g, vi = kBeta2 * v[i] + (1 - kBeta2) * g * g;
  const float direction = mi / step->beta1_correction / (sqrtf(vi / step->beta2_correction) + kEps);
  const float before = master[i], after = before - kLr * (direction + (decay[i / 64] ? kWeightDecay : 0) * before);
  m[i] = mi;
  v[i] = vi;
  master[i] = after;
  params[i] = from_float<bf16>(after);
}

// kStretch neighbours per thread, one after another.
template <int kStretch>
__global__ void adamw_fused_kernel(bf16* params, float* master, float* m, float* v, const float* grads,
                                   const uint8_t* decay, const AdamWStep* step, int64_t N) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kStretch;
  for (int64_t i = begin; i < begin + kStretch && i < N; ++i) update(i, params, master, m, v, grads, decay, step);
}

// ---- the ladder ----------------------------------------------------------------------------------------------------

struct Tensors {
  bench::Buffers<bf16> params;
  bench::Buffers<float> master, m, v, grads, first_master, first_m;
  bench::Buffers<uint8_t> decay, step_bytes;
  AdamWStep step;
  const AdamWStep* device_step() const { return reinterpret_cast<const AdamWStep*>(step_bytes[0]); }
};

void check(const Tensors& t, int64_t N) {
  const std::vector<uint8_t> decay = t.decay.host(0);
  for (const auto [first, count] : bench::sample_rows(N / 64, 1 << 14)) {
    const int64_t at = first * 64, n = count * 64;
    auto p = bench::to_doubles(t.first_master.host(0, at, n)), m = bench::to_doubles(t.first_m.host(0, at, n));
    const auto g = bench::to_doubles(t.grads.host(0, at, n));
    std::vector<double> v(n, std::bit_cast<float>(0x01010101u * kFirstV));
    for (int64_t i = 0; i < n; i += 64) {
      cpu::adamw_update<double>(&p[i], &m[i], &v[i], &g[i], t.step.grad_scale, kLr, kBeta1, kBeta2,
                                t.step.beta1_correction, t.step.beta2_correction, kEps,
                                decay[(at + i) / 64] ? kWeightDecay : 0, 64);
    }
    bench::check_close("m", t.m.host(0, at, n), m, 4, 0);
    bench::check_close("v", t.v.host(0, at, n), v, 8, 0);  // 1 - beta2 as a float: a rounding that grows 20 times
    bench::check_close("master", t.master.host(0, at, n), p, 8, 0);
    bench::check_close("params", t.params.host(0, at, n), p, 8, 0);
  }
}

bench::Ladder make(const bench::Problem& problem) {
  constexpr int64_t kGpuN = 124'475'904;  // GPT-2 124M with its padded vocabulary
  const int64_t N = problem.size(kGpuN, 1 << 17);
  const double bytes = (4 * 4 + 3 * 4 + 2 + 1.0 / 64) * static_cast<double>(N);
  const int sets = problem.sets(bytes);
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0},
                                                      {sets, N, 1, 0.02},
                                                      {sets, N, 2, 0.01},
                                                      {sets, N, 0, 0},
                                                      {sets, N, 3, 0.1},
                                                      {1, N, 1, 0.02},
                                                      {1, N, 2, 0.01},
                                                      {1, N / 64, 0, 0},
                                                      {1, sizeof(AdamWStep), 0, 0},
                                                      {}});
  std::vector<uint8_t> decay(N / 64);  // matrices decay, and most parameters are in matrices
  for (size_t i = 0; i < decay.size(); ++i) decay[i] = i % 16 != 0;
  t->decay.write(0, decay);
  t->step = {.loss = 1,
             .norm = 2,
             .lr = 0,
             .grad_scale = 0.5f,
             .beta1_correction = 0,
             .beta2_correction = 0,
             .updated = 1,
             .updates = 10};
  t->step.beta1_correction = 1 - std::pow(kBeta1, 10.0f);
  t->step.beta2_correction = 1 - std::pow(kBeta2, 10.0f);
  std::vector<uint8_t> step_bytes(sizeof(AdamWStep));
  std::memcpy(step_bytes.data(), &t->step, sizeof(AdamWStep));
  t->step_bytes.write(0, step_bytes);

  bench::Ladder ladder;
  ladder.operation = "adamw_update";
  ladder.size = "N=" + std::to_string(N) + " bf16 with float masters";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 16.0 * static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = bytes / static_cast<double>(N) * kGpuN;
  const auto fused = [=](auto kernel, int stretch, int set, cudaStream_t stream) {
    launch(kernel, grid_for(ceil_div<int64_t>(N, stretch), 256), 256, 0, stream, t->params[set], t->master[set],
           t->m[set], t->v[set], t->grads[set], t->decay[0], t->device_step(), N);
  };
  ladder.versions = {
      {"a pass a formula",
       "m, v, the master copy and its rounding, one kernel each: 46 bytes per parameter, because each "
       "kernel reads again what the one before wrote.",
       [=](int set, cudaStream_t stream) {
         const dim3 grid = grid_for(N, 256);
         const AdamWStep* step = t->device_step();
         launch(adamw_m_kernel, grid, 256, 0, stream, t->m[set], t->grads[set], step, N);
         launch(adamw_v_kernel, grid, 256, 0, stream, t->v[set], t->grads[set], step, N);
         launch(adamw_master_kernel, grid, 256, 0, stream, t->master[set], t->m[set], t->v[set], t->decay[0], step, N);
         launch(adamw_params_kernel, grid, 256, 0, stream, t->params[set], t->master[set], N);
       }},
      {"one pass, in stretches",
       "Each number is read once and written once. But a thread updates 16 neighbours one after "
       "another, so lanes lie 64 bytes apart and a request touches 32 sectors.",
       [=](int set, cudaStream_t stream) { fused(adamw_fused_kernel<16>, 16, set, stream); }},
      {"one pass, coalesced",
       "One thread per parameter, neighbouring lanes neighbouring parameters: each request is 128 bytes "
       "in a row.",
       [=](int set, cudaStream_t stream) { fused(adamw_fused_kernel<1>, 1, set, stream); }},
      {"16 bytes",
       "Four parameters per thread: one access to each tensor, a quarter of the requests, four loads in flight.",
       [=](int set, cudaStream_t stream) {
         adamw_update(t->params[set], t->master[set], t->m[set], t->v[set], t->grads[set], t->decay[0],
                      t->device_step(), kLr, kBeta1, kBeta2, kEps, kWeightDecay, 1, N, stream);
       }}};
  ladder.reset = [=] {
    t->params.poison(0);
    t->master.copy(0, t->first_master);
    t->m.copy(0, t->first_m);
    CUDA_CHECK(cudaMemset(t->v[0], kFirstV, N * sizeof(float)));
  };
  ladder.check = [=] { check(*t, N); };
  return ladder;
}

const bench::Register registered("adamw_update", make);

}  // namespace
