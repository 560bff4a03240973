// Softmax and cross-entropy over rows of 50,304 logits: the largest tensor in training GPT-2 124M.
#include "dev/bench/bench.h"
#include "kernels/classifier.cuh"
#include "kernels/classifier.h"

namespace {

// ---- forward -------------------------------------------------------------------------------------------------------

__global__ void classifier_thread_kernel(float* losses, const bf16* logits, const int32_t* targets, int N, int V,
                                         int Vp) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n >= N) return;
  const bf16* row = logits + static_cast<int64_t>(n) * Vp;
  float max = -INFINITY, sum = 0;
  for (int v = 0; v < V; ++v) max = fmaxf(max, to_float(row[v]));
  for (int v = 0; v < V; ++v) sum += expf(to_float(row[v]) - max);
  losses[n] = max + logf(sum) - to_float(row[targets[n]]);
}

// The row's maximum and sum of exp(x - max), by a block.
__device__ void two_passes(float& max, float& sum, const bf16* row, int V) {
  float m = -INFINITY, s = 0;
  for (int v = threadIdx.x; v < V; v += blockDim.x) m = fmaxf(m, to_float(row[v]));
  max = block_max(m);
  for (int v = threadIdx.x; v < V; v += blockDim.x) s += expf(to_float(row[v]) - max);
  sum = block_sum(s);
}

// Both in one pass: each thread scales its sum when it meets a larger maximum, and so does the block at the end.
__device__ void one_pass(float& max, float& sum, const bf16* row, int V) {
  float m = -INFINITY, s = 0;
  for (int v = threadIdx.x; v < V; v += blockDim.x) {
    const float x = to_float(row[v]);
    if (x > m) {
      s *= expf(m - x);
      m = x;
    }
    s += expf(x - m);
  }
  max = block_max(m);
  sum = block_sum(s * expf(m - max));
}

template <bool kOnePass>
__global__ void classifier_block_kernel(float* losses, const bf16* logits, const int32_t* targets, int V, int Vp) {
  const int n = blockIdx.x;
  const bf16* row = logits + static_cast<int64_t>(n) * Vp;
  float max, sum;
  kOnePass ? one_pass(max, sum, row, V) : two_passes(max, sum, row, V);
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - to_float(row[targets[n]]);
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Operation by operation: probabilities over the logits, the loss from them, then the gradient over the probabilities.
__global__ void softmax_kernel(bf16* logits, int V, int Vp) {
  bf16* row = logits + static_cast<int64_t>(blockIdx.x) * Vp;
  float max, sum;
  two_passes(max, sum, row, V);
  for (int v = threadIdx.x; v < Vp; v += blockDim.x) {
    row[v] = from_float<bf16>(v < V ? expf(to_float(row[v]) - max) / sum : 0);
  }
}

__global__ void loss_kernel(float* losses, const bf16* probabilities, const int32_t* targets, int N, int Vp) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n < N) losses[n] = -logf(to_float(probabilities[static_cast<int64_t>(n) * Vp + targets[n]]));
}

__global__ void gradient_kernel(bf16* probabilities, const int32_t* targets, const float* weights, int V, int Vp) {
  const int n = blockIdx.x;
  bf16* row = probabilities + static_cast<int64_t>(n) * Vp;
  for (int v = threadIdx.x; v < V; v += blockDim.x) {
    row[v] = from_float<bf16>(weights[n] * (to_float(row[v]) - (v == targets[n] ? 1.0f : 0.0f)));
  }
}

template <bool kOnePass>
__global__ void classifier_fused_kernel(bf16* dlogits, float* losses, const int32_t* targets, const float* weights,
                                        int V, int Vp) {
  const int n = blockIdx.x, target = targets[n];
  bf16* row = dlogits + static_cast<int64_t>(n) * Vp;
  const float target_logit = to_float(row[target]), weight = weights[n];  // read before the barriers, overwritten after
  float max, sum;
  kOnePass ? one_pass(max, sum, row, V) : two_passes(max, sum, row, V);
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - target_logit;
  for (int v = threadIdx.x; v < Vp; v += blockDim.x) {
    const float p = v < V ? expf(to_float(row[v]) - max) / sum : 0;
    row[v] = from_float<bf16>(weight * (p - (v == target ? 1.0f : 0.0f)));
  }
}

// 16 bytes per access: a running maximum and sum in each thread, then the gradient while the row is read again.
__global__ void __launch_bounds__(1024, 2)
    classifier_vector_kernel(bf16* dlogits, float* losses, const int32_t* targets, const float* weights, int V,
                             int Vp) {
  const int n = blockIdx.x, target = targets[n];
  bf16* row = dlogits + static_cast<int64_t>(n) * Vp;
  const float target_logit = to_float(row[target]), weight = weights[n];
  float m = -INFINITY, s = 0, x[8];
  for (int v = threadIdx.x * 8; v < V; v += blockDim.x * 8) {
    load_floats<true>(x, row + v, 8);
    float pack_max = m;
    for (int k = 0; k < 8; ++k) pack_max = fmaxf(pack_max, v + k < V ? x[k] : m);
    s *= m == -INFINITY ? 0 : __expf(m - pack_max);
    m = pack_max;
    for (int k = 0; k < 8; ++k) s += v + k < V ? __expf(x[k] - m) : 0;
  }
  const float max = block_max(m), sum = block_sum(s * __expf(m - max));
  if (threadIdx.x == 0) losses[n] = max + logf(sum) - target_logit;
  for (int v = threadIdx.x * 8; v < Vp; v += blockDim.x * 8) {
    load_floats<true>(x, row + v, 8);
    for (int k = 0; k < 8; ++k) {
      x[k] = v + k < V ? __expf(x[k] - max) / sum * weight - (v + k == target ? weight : 0) : 0;
    }
    store_floats<true>(row + v, x, 8);
  }
}

// ---- the loss of a batch -------------------------------------------------------------------------------------------

__global__ void loss_thread_kernel(double* loss, const float* losses, const float* weights, int N) {
  double sum = 0;
  for (int n = 0; n < N; ++n) sum += static_cast<double>(weights[n]) * losses[n];
  *loss += sum;
}

__global__ void loss_atomics_kernel(double* loss, const float* losses, const float* weights, int N) {
  const int n = blockIdx.x * blockDim.x + threadIdx.x;
  if (n < N) atomicAdd(loss, static_cast<double>(weights[n]) * losses[n]);
}

// ---- ladders -------------------------------------------------------------------------------------------------------

struct Sizes {
  int N, V, Vp;
};
// In cudasim fewer and shorter rows. The ratio of a row to the smaller cache is then that of the rows in flight to a
// GPU's cache: about half.
constexpr Sizes kGpu = {16384, 50257, 50304}, kSim = {64, 4059, 4096};
constexpr int kThreads = 1024;

struct Tensors {
  Sizes s;
  int sets;
  bool in_place;  // then the original logits are kept
  bench::Buffers<bf16> logits{sets, static_cast<int64_t>(s.N) * s.Vp, 1, 2},
      first_logits{in_place, static_cast<int64_t>(s.N) * s.Vp, 1, 2};
  bench::Buffers<float> losses{1, s.N, 0, 0}, weights{1, s.N, 2, 1.0 / s.N};
  bench::Buffers<int32_t> targets{1, s.N, 0, 0};
};

std::shared_ptr<Tensors> make_tensors(const Sizes& s, int sets, bool in_place) {
  const auto t = std::shared_ptr<Tensors>(new Tensors{s, sets, in_place});
  std::vector<int32_t> targets(s.N);
  for (int n = 0; n < s.N; ++n) targets[n] = static_cast<int32_t>(int64_t{n} * 7919 % s.V);
  t->targets.write(0, targets);
  return t;
}

std::string size_text(const Sizes& s) {
  return "N=" + std::to_string(s.N) + " V=" + std::to_string(s.V) + " Vp=" + std::to_string(s.Vp) + " bf16";
}

double forward_bytes(const Sizes& s) { return 2.0 * s.N * s.V + 8.0 * s.N; }
double backward_bytes(const Sizes& s) { return 2.0 * s.N * (s.V + s.Vp) + 12.0 * s.N; }

// The loss is a difference of numbers up to `largest`, the maximum logit and the logarithm of the sum, and its fast
// exponentials are off by 2 + 1.2 |x| units.
double lost(double largest) { return 0x1p-24 * (8 + 4 * largest); }

bench::Ladder make_forward(const bench::Problem& problem) {
  const Sizes s = problem.on_gpu() ? kGpu : kSim;
  const auto t = make_tensors(s, problem.sets(forward_bytes(s)), false);

  bench::Ladder ladder;
  ladder.operation = "classifier_forward";
  ladder.size = size_text(s);
  ladder.limit = bench::Limit::memory;
  ladder.bytes = forward_bytes(s);
  ladder.flops = 4.0 * s.N * s.V;
  ladder.sets = t->sets;
  ladder.gpu_bytes = forward_bytes(kGpu);
  ladder.versions = {
      {"a thread a row",
       "One thread per row, two loops: lanes lie 100 KB apart, each request touches 32 sectors, and the rest "
       "of a sector, meant for the next element, is evicted from the cache before it is used.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_thread_kernel, grid_for(s.N, 64), 64, 0, stream, t->losses[0], t->logits[set], t->targets[0],
                s.N, s.V, s.Vp);
       }},
      {"a block a row", "Coalesced: 1,024 threads share a row, read it for the maximum and again for the sum.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_block_kernel<false>, grid_for(s.N, 1), kThreads, 0, stream, t->losses[0], t->logits[set],
                t->targets[0], s.V, s.Vp);
       }},
      {"one pass", "Maximum and sum at once: a thread that meets a larger maximum scales the sum it has so far.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_block_kernel<true>, grid_for(s.N, 1), kThreads, 0, stream, t->losses[0], t->logits[set],
                t->targets[0], s.V, s.Vp);
       }},
      {"16 bytes",
       "Eight logits per access, one maximum for the eight, and a fast exponential, whose error bf16 hides.",
       [=](int set, cudaStream_t stream) {
         classifier_forward(t->losses[0], t->logits[set], t->targets[0], s.N, s.V, s.Vp, stream);
       }}};
  ladder.reset = [=] { t->losses.poison(0); };
  ladder.check = [=] {
    for (const auto [first, count] : bench::sample_rows(s.N, 256)) {
      const auto logits = bench::to_doubles(t->logits.host(0, first * s.Vp, count * s.Vp));
      std::vector<double> expected(count);
      cpu::classifier_forward(expected.data(), logits.data(), t->targets.host(0, first, count).data(),
                              static_cast<int>(count), s.V, s.Vp);
      bench::check_close("losses", t->losses.host(0, first, count), expected, s.V, lost(25));
    }
  };
  return ladder;
}

void check_backward(const Tensors& t) {
  const Sizes& s = t.s;
  for (const auto [first, count] : bench::sample_rows(s.N, 64)) {
    auto expected = bench::to_doubles(t.first_logits.host(0, first * s.Vp, count * s.Vp));
    std::vector<double> losses(count);
    const std::vector<float> weights = t.weights.host(0, first, count);
    cpu::classifier_backward(expected.data(), losses.data(), t.targets.host(0, first, count).data(), weights.data(),
                             static_cast<int>(count), s.V, s.Vp);
    // Probabilities that were stored before they became gradients are off by half a unit of bf16, and the loss -log p
    // by as much: the cost of keeping them. The other versions get the same tolerance; the tests of kernels/ are
    // stricter.
    double largest = 0;
    for (const float weight : weights) largest = std::max<double>(largest, std::abs(weight));
    bench::check_close("dlogits", t.logits.host(0, first * s.Vp, count * s.Vp), expected, s.V, largest * 0x1p-8);
    bench::check_close("losses", t.losses.host(0, first, count), losses, s.V, lost(25) + 0x1p-8);
  }
}

bench::Ladder make_backward(const bench::Problem& problem) {
  const Sizes s = problem.on_gpu() ? kGpu : kSim;
  const auto t = make_tensors(s, problem.sets(backward_bytes(s)), true);

  bench::Ladder ladder;
  ladder.operation = "classifier_backward";
  ladder.size = size_text(s);
  ladder.limit = bench::Limit::memory;
  ladder.bytes = backward_bytes(s);
  ladder.flops = 8.0 * s.N * s.V;
  ladder.sets = t->sets;
  ladder.gpu_bytes = backward_bytes(kGpu);
  ladder.versions = {
      {"operation by operation",
       "Softmax, loss and gradient, one kernel each: the probabilities go to memory and come back, "
       "rounded to bf16 on the way, four tensors of traffic where two would do.",
       [=](int set, cudaStream_t stream) {
         launch(softmax_kernel, grid_for(s.N, 1), kThreads, 0, stream, t->logits[set], s.V, s.Vp);
         launch(loss_kernel, grid_for(s.N, 256), 256, 0, stream, t->losses[0], t->logits[set], t->targets[0], s.N,
                s.Vp);
         launch(gradient_kernel, grid_for(s.N, 1), kThreads, 0, stream, t->logits[set], t->targets[0], t->weights[0],
                s.V, s.Vp);
       }},
      {"fused", "One kernel: maximum, sum, gradient in three passes over the row, the later two from the cache.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_fused_kernel<false>, grid_for(s.N, 1), kThreads, 0, stream, t->logits[set], t->losses[0],
                t->targets[0], t->weights[0], s.V, s.Vp);
       }},
      {"one pass for the sum", "Maximum and sum at once, so two passes in all.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_fused_kernel<true>, grid_for(s.N, 1), kThreads, 0, stream, t->logits[set], t->losses[0],
                t->targets[0], t->weights[0], s.V, s.Vp);
       }},
      {"16 bytes", "Eight logits per access and a fast exponential: an eighth of the requests.",
       [=](int set, cudaStream_t stream) {
         launch(classifier_vector_kernel, grid_for(s.N, 1), kThreads, 0, stream, t->logits[set], t->losses[0],
                t->targets[0], t->weights[0], s.V, s.Vp);
       }},
      {"row in shared memory",
       "The row is copied to shared memory, all of it under way at once, and memory is read once whatever the cache "
       "keeps; whole packs are processed without a test, the target's column is corrected at the end.",
       [=](int set, cudaStream_t stream) {
         classifier_backward(t->logits[set], t->losses[0], t->targets[0], t->weights[0], s.N, s.V, s.Vp, stream);
       }}};
  ladder.reset = [=] {
    t->logits.copy(0, t->first_logits);
    t->losses.poison(0);
  };
  ladder.check = [=] { check_backward(*t); };
  return ladder;
}

bench::Ladder make_loss(const bench::Problem& problem) {
  const int N = static_cast<int>(problem.size(kGpu.N, 2048));
  struct Losses {
    bench::Buffers<float> losses, weights;
    bench::Buffers<double> loss;
  };
  const double bytes = 8.0 * N + 16;
  const int sets = problem.sets(bytes);
  const auto t = std::shared_ptr<Losses>(new Losses{{sets, N, 1, 1}, {sets, N, 2, 1.0 / N}, {1, 1, 0, 0}});

  bench::Ladder ladder;
  ladder.operation = "classifier_loss";
  ladder.size = "N=" + std::to_string(N) + " float";
  ladder.limit = bench::Limit::memory;
  ladder.bytes = bytes;
  ladder.flops = 2.0 * N;
  ladder.sets = sets;
  ladder.gpu_bytes = 8.0 * kGpu.N + 16;
  ladder.versions = {
      {"a thread", "One thread adds all losses in order: one request per number, and one of 2,048 threads at work.",
       [=](int set, cudaStream_t stream) {
         launch(loss_thread_kernel, 1, 1, 0, stream, t->loss[0], t->losses[set], t->weights[set], N);
       }},
      {"atomics", "One thread per loss, all adding to one place: they queue there, in an order that changes.",
       [=](int set, cudaStream_t stream) {
         launch(loss_atomics_kernel, grid_for(N, 256), 256, 0, stream, t->loss[0], t->losses[set], t->weights[set], N);
       }},
      {"a block",
       "1,024 threads add every 1,024th loss each, then their sums are combined in shared memory: the same order every "
       "time. More blocks would only wait for each other: it is 128 KB.",
       [=](int set, cudaStream_t stream) { classifier_loss(t->loss[0], t->losses[set], t->weights[set], N, stream); }}};
  ladder.reset = [=] { t->loss.write(0, {1.0}); };
  ladder.check = [=] {
    const std::vector<float> losses = t->losses.host(0), weights = t->weights.host(0);
    double expected = 1;
    for (int n = 0; n < N; ++n) expected += static_cast<double>(weights[n]) * losses[n];
    bench::check_close("loss", t->loss.host(0), {expected}, N, 0);
  };
  return ladder;
}

const bench::Register forward("classifier_forward", make_forward);
const bench::Register backward("classifier_backward", make_backward);
const bench::Register loss("classifier_loss", make_loss);

}  // namespace
