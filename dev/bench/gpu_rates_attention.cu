// gpu_rates' attention: forward and backward at the sizes of GPT-2 124M and 1558M, and with heads of 128 channels.
#include "dev/bench/gpu_rates.h"
#include "kernels/attention.cuh"

namespace rates {

namespace {

struct Tier {
  const char* name;
  AttentionTier tier;
};
#ifdef WROUGHT_CUDNN
constexpr Tier kTiers[] = {{"own", AttentionTier::tensor_core}, {"cuDNN", AttentionTier::cudnn}};
#else
constexpr Tier kTiers[] = {{"own", AttentionTier::tensor_core}};
#endif

struct Sizes {
  int B, NH, T, HS;
};

void measure_size(const bench::Timer& timer, const Options& options, const Sizes& s) {
  const int C = s.NH * s.HS;
  const int64_t tokens = static_cast<int64_t>(s.B) * s.T;
  const bench::Buffers<bf16> inp(1, 3 * tokens * C, 1, 1), dout(1, tokens * C, 2, 1);
  struct Results {
    bench::Buffers<bf16> out, dinp;
    bench::Buffers<float> lse;
  };
  std::vector<std::unique_ptr<Results>> results;
  const bench::Buffers<uint8_t> scratch(1, attention_backward_scratch(s.B, s.T, s.NH), 0, 0);
  for (const Tier& tier : kTiers) {
    results.push_back(std::unique_ptr<Results>(
        new Results{{1, tokens * C, 0, 0}, {1, 3 * tokens * C, 0, 0}, {1, tokens * s.NH, 0, 0}}));
    const Results &r = *results.back(), &first = *results.front();
    const AttentionShape shape{s.B, s.T, s.NH, s.NH, s.HS};
    const auto qkv = packed_qkv(static_cast<const bf16*>(inp[0]), shape);
    const auto forward = [&](int) {
      attention_forward<bf16>(r.out[0], r.lse[0], qkv, 0, 0, 0, shape, tier.tier, timer.stream());
    };
    const auto backward = [&](int) {
      attention_backward<bf16>(packed_qkv(static_cast<bf16*>(r.dinp[0]), shape), scratch[0], dout[0], r.out[0],
                               r.lse[0], qkv, 0, 0, 0, shape, tier.tier, timer.stream());
    };
    const auto row = [&](const char* pass, const bench::Buffers<bf16>& made, const bench::Buffers<bf16>& by_first,
                         double flops, const bench::Timing& timing) {
      const json difference = results.size() < 2 ? json(nullptr) : json(relative_difference(made, by_first));
      print({{"B", s.B},
             {"NH", s.NH},
             {"T", s.T},
             {"HS", s.HS},
             {"pass", pass},
             {"tier", tier.name},
             {"us", timing.median},
             {"us_p10", timing.p10},
             {"us_p90", timing.p90},
             {"tflops", 1e-6 * flops / timing.median},  // of the causal half: two products forward, five backward
             {"difference", difference}});
    };
    const double product = 1.0 * tokens * s.T * C;
    const int samples = options.small ? 3 : 15;
    const bench::Timing first_pass = timer.time(forward, samples, 0.3);
    row("forward", r.out, first.out, 2 * product, first_pass);
    const bench::Timing second_pass = timer.time(backward, samples, 0.3);
    row("backward", r.dinp, first.dinp, 5 * product, second_pass);
  }
}

}  // namespace

void measure_attention(const bench::Timer& timer, const Options& options) {
  std::vector<Sizes> all = {{16, 12, 1024, 64}, {16, 25, 1024, 64}, {4, 16, 2048, 128}};
  if (options.small) all = {{1, 2, 64, 64}};
  for (const Sizes& sizes : all) measure_size(timer, options, sizes);
}

}  // namespace rates
