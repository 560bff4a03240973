// Muon for a weight matrix of 768 x 3072: what it reads and writes before and after the iteration (bound by memory),
// and the iteration's fifteen products in bf16.
#include <bit>

#include "dev/bench/bench.h"
#include "kernels/muon.cuh"

namespace {

constexpr float kMomentum = 0.95f, kLr = 6e-4f, kWeightDecay = 0.1f, kClip = 0.5f;

// The step as adamw_prepare leaves it, on the device.
std::shared_ptr<bench::Buffers<uint8_t>> device_step() {
  AdamWStep step = {};
  step.grad_scale = kClip, step.updated = 1, step.updates = 10;
  std::vector<uint8_t> bytes(sizeof step);
  std::memcpy(bytes.data(), &step, sizeof step);
  const std::shared_ptr<bench::Buffers<uint8_t>> buffer(new bench::Buffers<uint8_t>(1, sizeof step, 0, 0));
  buffer->write(0, bytes);
  return buffer;
}
const AdamWStep* step_of(const bench::Buffers<uint8_t>& buffer) {
  return reinterpret_cast<const AdamWStep*>(buffer[0]);
}

constexpr int64_t kGpuElements = int64_t{768} * 3072;

// ---- momentum and norm ---------------------------------------------------------------------------------------------

__global__ void muon_m_kernel(float* m, const float* grads, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) m[i] = kMomentum * m[i] + step->grad_scale * grads[i];
}

// sums (gridDim.x): a block of 256 sums as many elements.
__global__ void muon_norm_kernel(double* sums, const float* m, const float* grads, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const float u = i < N ? step->grad_scale * grads[i] + kMomentum * m[i] : 0;
  const double sum = block_sum(static_cast<double>(u) * u);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

bench::Ladder momentum(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuElements, 1 << 17);
  const double bytes = 12.0 * static_cast<double>(N);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<float> m, grads, first_m;
    bench::Buffers<double> sums;
  };
  const auto t = std::shared_ptr<Tensors>(
      new Tensors{{sets, N, 0, 0}, {sets, N, 1, 0.1}, {1, N, 2, 0.1}, {1, ceil_div<int64_t>(N, 256), 0, 0}});
  const auto step = device_step();

  bench::Ladder ladder;
  ladder.operation = "muon_momentum";
  ladder.size = "N=" + std::to_string(N) + " float";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 6.0 * static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = 12.0 * kGpuElements;
  ladder.versions = {
      {"two passes", "The momentum, then the norm of what it gives: m and the gradient are read twice.",
       [=](int set, cudaStream_t stream) {
         const dim3 grid = grid_for(N, 256);
         launch(muon_m_kernel, grid, 256, 0, stream, t->m[set], t->grads[set], step_of(*step), N);
         launch(muon_norm_kernel, grid, 256, 0, stream, t->sums[0], t->m[set], t->grads[set], step_of(*step), N);
       }},
      {"one pass, 16 bytes",
       "The squares come from registers; four elements per access, sixteen per thread before the block's sum.",
       [=](int set, cudaStream_t stream) {
         muon_momentum(t->sums[0], t->m[set], t->grads[set], step_of(*step), kMomentum, N, stream);
       }}};
  ladder.reset = [=] {
    t->m.copy(0, t->first_m);
    CUDA_CHECK(cudaMemset(t->sums[0], 0, t->sums.size() * sizeof(double)));
  };
  ladder.check = [=] {
    auto m = bench::to_doubles(t->first_m.host(0));
    const auto grads = bench::to_doubles(t->grads.host(0));
    const double squares = cpu::muon_momentum<double>(m.data(), grads.data(), kClip, kMomentum, N);
    bench::check_close("m", t->m.host(0), m, 2, 0);
    double sum = 0;
    for (const double part : t->sums.host(0)) sum += part;
    if (std::abs(sum / squares - 1) > 1e-6) throw std::runtime_error("the squared norm differs");
  };
  return ladder;
}

// ---- X -------------------------------------------------------------------------------------------------------------

__global__ void muon_u_kernel(bf16* x, const float* m, const float* grads, const AdamWStep* step, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) x[i] = from_float<bf16>(step->grad_scale * grads[i] + kMomentum * m[i]);
}

__global__ void muon_scale_kernel(bf16* x, const double* sums, int chunks, int64_t N) {
  __shared__ float scale;
  if (threadIdx.x == 0) {
    double squares = 0;
    for (int k = 0; k < chunks; ++k) squares += sums[k];
    scale = static_cast<float>(1 / (sqrt(squares) + static_cast<double>(kMuonEps)));
  }
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) x[i] = from_float<bf16>(to_float(x[i]) * scale);
}

bench::Ladder normalize(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuElements, 1 << 17);
  const double bytes = 10.0 * static_cast<double>(N);
  const int sets = problem.sets(bytes), chunks = muon_chunks(N);
  struct Tensors {
    bench::Buffers<bf16> x;
    bench::Buffers<float> m, grads;
    bench::Buffers<double> sums;
  };
  const auto t =
      std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, N, 2, 0.1}, {sets, N, 1, 0.1}, {1, chunks, 0, 0}});
  t->sums.write(0, std::vector<double>(static_cast<size_t>(chunks), 2.5));  // any will do
  const auto step = device_step();

  bench::Ladder ladder;
  ladder.operation = "muon_normalize";
  ladder.size = "N=" + std::to_string(N) + " bf16";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 4.0 * static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = 10.0 * kGpuElements;
  ladder.versions = {
      {"u, then its scale",
       "u is written and read again to be scaled, and rounded twice; one thread of each block adds the sums up.",
       [=](int set, cudaStream_t stream) {
         const dim3 grid = grid_for(N, 256);
         launch(muon_u_kernel, grid, 256, 0, stream, t->x[set], t->m[set], t->grads[set], step_of(*step), N);
         launch(muon_scale_kernel, grid, 256, 0, stream, t->x[set], t->sums[0], chunks, N);
       }},
      {"one pass, 16 bytes", "u is scaled in registers; a block adds the sums up together, once for 4,096 elements.",
       [=](int set, cudaStream_t stream) {
         muon_normalize(t->x[set], t->m[set], t->grads[set], t->sums[0], step_of(*step), kMomentum, N, stream);
       }}};
  ladder.reset = [=] { t->x.poison(0); };
  ladder.check = [=] {
    const auto m = bench::to_doubles(t->m.host(0)), grads = bench::to_doubles(t->grads.host(0));
    std::vector<double> x(static_cast<size_t>(N));
    cpu::muon_normalize<double>(x.data(), m.data(), grads.data(), 2.5 * chunks, kClip, kMomentum, N);
    double largest = 0;
    for (const double value : x) largest = std::max(largest, std::abs(value));
    bench::check_close("x", t->x.host(0), x, 4, largest / 256);  // the first version rounds twice
  };
  return ladder;
}

// ---- the iteration -------------------------------------------------------------------------------------------------

// b = kMuonB a + kMuonC b
__global__ void muon_combine_kernel(bf16* b, const bf16* a, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) b[i] = from_float<bf16>(kMuonB * to_float(a[i]) + kMuonC * to_float(b[i]));
}

// next += kMuonA x
__global__ void muon_add_kernel(bf16* next, const bf16* x, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < N) next[i] = from_float<bf16>(to_float(next[i]) + kMuonA * to_float(x[i]));
}

bench::Ladder orthogonalize(const bench::Problem& problem) {
  const int n = static_cast<int>(problem.size(768, 192)), cols = static_cast<int>(problem.size(3072, 256));
  const int64_t N = int64_t{n} * cols, square = int64_t{n} * n;
  const double d = n, bytes = 4.0 * static_cast<double>(N);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> scratch, x;
    std::vector<float> expected;  // computed once
  };
  const auto t = std::shared_ptr<Tensors>(new Tensors{{sets, muon_scratch(n, cols), 0, 0}, {1, N, 1, 0.01}, {}});
  std::vector<bf16> x = t->x.host(0);
  double squares = 0;
  for (const double value : bench::to_doubles(x)) squares += value * value;
  for (bf16& value : x) value = __float2bfloat16_rn(__bfloat162float(value) / static_cast<float>(std::sqrt(squares)));
  t->x.write(0, x);
  const MatmulMode mode{MatmulTier::tensor_core, false};

  bench::Ladder ladder;
  ladder.operation = "muon_orthogonalize";
  ladder.size = std::to_string(n) + " x " + std::to_string(cols) + " bf16, five steps";
  ladder.limit = bench::Limit::tensor_cores;
  ladder.bytes = bytes;
  ladder.flops = kMuonSteps * (d * static_cast<double>(N) + d * d * d + 2 * d * static_cast<double>(N));
  ladder.sets = sets;
  ladder.gpu_bytes = 4.0 * kGpuElements;
  ladder.versions = {
      {"as it is written",
       "A = X X^T, A A, b A + c A A, its product with X, and a X added: three whole products, five launches per step.",
       [=](int set, cudaStream_t stream) {
         MuonScratch<bf16> s(t->scratch[set], n, cols);
         bf16* none = nullptr;
         for (int step = 0; step < kMuonSteps; ++step) {
           matmul_forward(s.a, none, s.x, s.x, none, n, cols, n, mode, stream);
           matmul_forward(s.b, none, s.a, s.a, none, n, n, n, mode, stream);
           launch(muon_combine_kernel, grid_for(square, 256), 256, 0, stream, s.b, s.a, square);
           matmul_backward(s.next, static_cast<float*>(nullptr), nullptr, nullptr, s.b, none, s.x, none, n, cols, n,
                           mode, stream);
           launch(muon_add_kernel, grid_for(N, 256), 256, 0, stream, s.next, s.x, N);
           std::swap(s.x, s.next);
         }
       }},
      {"symmetric",
       "Of A and A A only the tiles up to the diagonal; a I + b A + c A A is computed in the epilogue, so X is "
       "multiplied once and three launches make a step.",
       [=](int set, cudaStream_t stream) {
         MuonScratch<bf16> s(t->scratch[set], n, cols);
         muon_orthogonalize(s, n, cols, mode, stream);
       }}};
  ladder.reset = [=] {
    t->scratch.poison(0);
    CUDA_CHECK(cudaMemcpy(t->scratch[0], t->x[0], N * sizeof(bf16), cudaMemcpyDeviceToDevice));
  };
  // bf16 compared with the twin in float, as vectors: every product is rounded to 2^-9 of its elements, and small
  // differences grow.
  ladder.check = [=] {
    if (t->expected.empty()) {
      std::vector<float> scratch(static_cast<size_t>(muon_scratch(n, cols)));
      MuonScratch<float> s(scratch.data(), n, cols);
      const auto start = bench::to_doubles(t->x.host(0));
      std::copy(start.begin(), start.end(), s.x);
      cpu::muon_orthogonalize<float>(s, n, cols, cpu::matmul_forward<float>, cpu::matmul_backward<float>);
      t->expected.assign(s.x, s.x + N);
    }
    const MuonScratch<bf16> s(t->scratch[0], n, cols);
    const auto found =
        bench::to_doubles(t->scratch.host(0, s.next - t->scratch[0], N));  // after an odd number of steps
    double difference = 0, size = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      difference += (found[i] - t->expected[i]) * (found[i] - t->expected[i]);
      size += double{t->expected[i]} * t->expected[i];
    }
    if (!(std::sqrt(difference / size) < 0.05)) {
      throw std::runtime_error("x differs from the twin by " + std::to_string(std::sqrt(difference / size)) +
                               " of its norm, allowed 0.05");
    }
  };
  return ladder;
}

// ---- the update ----------------------------------------------------------------------------------------------------

__global__ void muon_apply_scalar_kernel(bf16* params, float* master, const bf16* x, float scale, int64_t N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N) return;
  master[i] -= kLr * (scale * to_float(x[i]) + kWeightDecay * master[i]);
  params[i] = from_float<bf16>(master[i]);
}

bench::Ladder apply(const bench::Problem& problem) {
  const int64_t N = problem.size(kGpuElements, 1 << 17);
  const double bytes = 12.0 * static_cast<double>(N);
  const int sets = problem.sets(bytes);
  struct Tensors {
    bench::Buffers<bf16> params, x;
    bench::Buffers<float> master, first_master;
  };
  const auto t =
      std::shared_ptr<Tensors>(new Tensors{{sets, N, 0, 0}, {sets, N, 1, 0.02}, {sets, N, 0, 0}, {1, N, 2, 0.02}});
  const auto step = device_step();
  const float scale = muon_scale(768, 3072);

  bench::Ladder ladder;
  ladder.operation = "muon_apply";
  ladder.size = "N=" + std::to_string(N) + " bf16 with float masters";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 5.0 * static_cast<double>(N);
  ladder.sets = sets;
  ladder.gpu_bytes = 12.0 * kGpuElements;
  ladder.versions = {{"a thread a parameter",
                      "Neighbouring lanes have neighbouring parameters: whole sectors, but 2 or 4 bytes per access.",
                      [=](int set, cudaStream_t stream) {
                        launch(muon_apply_scalar_kernel, grid_for(N, 256), 256, 0, stream, t->params[set],
                               t->master[set], t->x[set], scale, N);
                      }},
                     {"four a thread", "16 bytes of floats per access and 8 of bf16: a quarter of the requests.",
                      [=](int set, cudaStream_t stream) {
                        muon_apply(t->params[set], t->master[set], t->x[set], step_of(*step), kLr, scale, kWeightDecay,
                                   1, N, stream);
                      }}};
  ladder.reset = [=] {
    t->params.poison(0);
    t->master.copy(0, t->first_master);
  };
  ladder.check = [=] {
    auto p = bench::to_doubles(t->first_master.host(0));
    const auto x = bench::to_doubles(t->x.host(0));
    cpu::muon_apply<double>(p.data(), x.data(), kLr, scale, kWeightDecay, N);
    bench::check_close("master", t->master.host(0), p, 4, 0);
    bench::check_close("params", t->params.host(0), p, 4, 0);
  };
  return ladder;
}

const bench::Register of_momentum("muon_momentum", momentum), of_normalize("muon_normalize", normalize),
    of_apply("muon_apply", apply), of_orthogonalize("muon_orthogonalize", orthogonalize);

}  // namespace
