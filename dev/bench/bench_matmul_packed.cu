// A linear layer of one or eight rows, as in decoding, step by step: bound by memory, as the weights are read for a few
// multiplications each. Weights in bf16 and int8 with inputs in bf16, and both in float.
#include <memory>

#include "dev/bench/bench.h"
#include "kernels/matmul_packed.cuh"
#include "kernels/matmul_packed.h"

using namespace bench;

namespace {

constexpr int kC = 768;
constexpr int kThreads = 256;

// A warp has one element of out: each row of inp reads all weights.
template <class floatX, class Weight>
__global__ void __launch_bounds__(kThreads)
    packed_element_kernel(floatX* out, const floatX* inp, const Weight* weight, const float* scales, int N, int OC) {
  const int64_t element = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32, n = element / OC;
  if (n >= N) return;
  const int64_t o = element % OC;
  float sum = 0;
  for (int c = threadIdx.x % 32; c < kC; c += 32) sum += to_float(inp[n * kC + c]) * weight_number(weight[o * kC + c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) out[element] = from_float<floatX>(sum * (scales ? scales[o] : 1));
}

// A warp has one row of weights, 16 bytes of it per lane, and all rows of inp, at most 8.
template <class floatX, class Weight>
__global__ void __launch_bounds__(kThreads)
    packed_row_kernel(floatX* out, const floatX* inp, const Weight* weight, const float* scales, int N, int OC) {
  constexpr int n = Pack<Weight>::size;
  const int64_t o = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (o >= OC) return;
  float sums[8] = {};
  for (int c = threadIdx.x % 32 * n; c < kC; c += 32 * n) {
    const Pack<Weight> w = load_pack(weight + o * kC + c);
#pragma unroll
    for (int r = 0; r < 8; ++r) {
      if (r >= N) break;
      float x[n];
      load_floats<true>(x, inp + r * kC + c, n);
#pragma unroll
      for (int k = 0; k < n; ++k) sums[r] += x[k] * weight_number(w[k]);
    }
  }
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    if (r >= N) break;
    const float sum = warp_sum(sums[r]);
    if (threadIdx.x % 32 == 0) out[r * OC + o] = from_float<floatX>(sum * (scales ? scales[o] : 1));
  }
}

// ---- the ladders ---------------------------------------------------------------------------------------------------

template <class floatX, class Weight>
struct Packed {
  static constexpr bool kScaled = std::is_same_v<Weight, int8_t>;
  // Tensor cores truncate (docs/testing.md): a unit for 16 terms, of sums with an rms of sqrt(768) = 28.
  static constexpr double kTruncation = std::is_same_v<floatX, bf16> ? kC / 16 * 0x1p-24 * 28 : 0;
  int N, OC, sets;
  Buffers<floatX> inp, out;
  Buffers<Weight> weight;
  Buffers<float> scales;

  Packed(const Problem& problem, int N_)
      : N(N_),
        OC(static_cast<int>(problem.size(kGpuOC, 768))),
        sets(problem.sets(bytes(OC))),
        inp(1, int64_t{N} * kC, 1, 1),
        out(sets, int64_t{N} * OC, 0, 0),
        weight(sets, int64_t{OC} * kC, 2, kScaled ? 0 : 1),
        scales(sets, OC, 0, 0) {
    if constexpr (kScaled) quantize();
  }

  static constexpr int kGpuOC = 50304;  // larger than a GPU's cache
  double bytes(int rows) const {
    return static_cast<double>(rows) * kC * sizeof(Weight) + (kScaled ? 4.0 * rows : 0) +
           static_cast<double>(N) * (kC + rows) * sizeof(floatX);
  }
  const float* scales_of(int set) const { return kScaled ? scales[set] : nullptr; }

  void quantize() const {
    const Buffers<float> normal(1, int64_t{OC} * kC, 2, 1);
    const std::vector<float> exact = normal.host(0);
    std::vector<int8_t> numbers(exact.size());
    std::vector<float> steps(static_cast<size_t>(OC));
    std::vector<int32_t> q(kC);
    for (int64_t o = 0; o < OC; ++o) {
      steps[o] = cpu::quantize_row(q.data(), &exact[o * kC], kC, cpu::kMaxWeight);
      std::copy(q.begin(), q.end(), numbers.begin() + o * kC);
    }
    for (int set = 0; set < sets; ++set) {
      weight.write(set, numbers);
      scales.write(set, steps);
    }
  }

  void check() const {
    const std::vector<double> x = to_doubles(inp.host(0));
    for (const auto [first, count] : sample_rows(OC, 1024)) {
      const std::vector<Weight> w = weight.host(0, first * kC, count * kC);
      const std::vector<float> scale = scales.host(0, first, count);
      for (int n = 0; n < N; ++n) {
        std::vector<double> expected(static_cast<size_t>(count));
        for (int64_t o = 0; o < count; ++o) {
          for (int c = 0; c < kC; ++c) expected[o] += x[n * kC + c] * static_cast<double>(number(w[o * kC + c]));
          if (kScaled) expected[o] *= scale[o];
        }
        check_close("out", out.host(0, n * int64_t{OC} + first, count), expected, kC, kTruncation);
      }
    }
  }
  static float number(float x) { return x; }
  static float number(bf16 x) { return __bfloat162float(x); }
  static float number(int8_t x) { return static_cast<float>(x); }
};

template <class floatX, class Weight>
Version by_warps(const std::shared_ptr<Packed<floatX, Weight>>& p, const char* name, const char* idea,
                 void (*kernel)(floatX*, const floatX*, const Weight*, const float*, int, int), int64_t warps) {
  return {name, idea, [=](int set, cudaStream_t stream) {
            launch(kernel, grid_for(warps * 32, kThreads), kThreads, 0, stream, p->out[set],
                   static_cast<const floatX*>(p->inp[0]), static_cast<const Weight*>(p->weight[set]), p->scales_of(set),
                   p->N, p->OC);
          }};
}

template <class floatX, class Weight>
Ladder make(const Problem& problem, const char* type, int N) {
  const auto p = std::make_shared<Packed<floatX, Weight>>(problem, N);
  Ladder ladder;
  ladder.operation = "matmul_packed_" + std::string(type) + "_" + std::to_string(N);
  ladder.size = "N=" + std::to_string(N) + " C=768 OC=" + std::to_string(p->OC);
  ladder.limit = Limit::memory;
  ladder.bytes = p->bytes(p->OC);
  ladder.gpu_bytes = p->bytes(p->kGpuOC);
  ladder.flops = 2.0 * N * kC * p->OC;
  ladder.sets = p->sets;
  ladder.check = [p] { p->check(); };
  ladder.reset = [p] { p->out.poison(0); };
  ladder.versions = {
      by_warps<floatX, Weight>(p, "naive",
                               "A warp per element of out: neighbouring lanes read neighbouring numbers, but each row "
                               "of inp reads all weights once more.",
                               packed_element_kernel, int64_t{N} * p->OC),
      by_warps<floatX, Weight>(p, "a warp a row",
                               "A warp per row of weights, 16 bytes per load: weights are read once for all rows of "
                               "inp, whose numbers every warp loads for itself.",
                               packed_row_kernel, p->OC),
      {"tiles",
       "Eight warps share C and use each input for 16 rows of weights on tensor cores (floats: 8 rows, plain units); "
       "several packs per thread are requested before the first is used; any size.",
       [p](int set, cudaStream_t stream) {
         matmul_packed<floatX, Weight>(p->out[set], p->inp[0], p->weight[set], p->scales_of(set),
                                       {nullptr, false, nullptr}, p->N, kC, p->OC, stream);
       }},
  };
  return ladder;
}

template <class floatX, class Weight>
MakeLadder with(const char* type, int N) {
  return [=](const Problem& problem) { return make<floatX, Weight>(problem, type, N); };
}

const Register bf16_1("matmul_packed_bf16_1", with<bf16, bf16>("bf16", 1)),
    bf16_8("matmul_packed_bf16_8", with<bf16, bf16>("bf16", 8)),
    int8_1("matmul_packed_int8_1", with<bf16, int8_t>("int8", 1)),
    int8_8("matmul_packed_int8_8", with<bf16, int8_t>("int8", 8)),
    float_1("matmul_packed_float_1", with<float, float>("float", 1)),
    float_8("matmul_packed_float_8", with<float, float>("float", 8));

}  // namespace
