// kernels/sampling.h on vectors of every instruction set against the plain loops.
#include <limits>

#include "kernels/sampling.h"
#include "tests/helpers/fast_kernels.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

template <class Run>
void for_each_sampling(Run&& run) {
  for (const cpu::Isa isa : cpu::kIsas) {
    const cpu::SamplingKernels* kernels = cpu::fast_sampling_kernels(isa);
    CHECK((kernels != nullptr) == cpu::can_run(isa));
    if (!kernels) continue;
    const std::string which = cpu::name_of(isa);
    CAPTURE(which);
    run(*kernels);
  }
}

size_t blocks(int V) { return static_cast<size_t>((V + cpu::kSamplingBlock - 1) / cpu::kSamplingBlock); }

}  // namespace

TEST_CASE("fast sampling: maxima, weights and sums of rows of every length") {
  for_each_sampling([&](const cpu::SamplingKernels& fast) {
    for (const int V : {0, 1, 3, 17, 63, 64, 65, 127, 1000, 50257}) {
      CAPTURE(V);
      Floats logits = random_tensor<float>(static_cast<size_t>(V), 3);
      for (float& x : logits) x = 40 * x * x * x;
      if (V > 2) logits[1] = -kInf;
      Floats maxima(blocks(V), 7), expected_maxima(blocks(V));
      CHECK(fast.block_maxima(maxima.data(), logits.data(), V));
      CHECK(cpu::block_maxima(expected_maxima.data(), logits.data(), V));
      CHECK(maxima == expected_maxima);
      if (V == 0) continue;
      const float max = *std::max_element(maxima.begin(), maxima.end());
      for (const double scale : {0.0, 1.0, 1.25, 1e6}) {
        CAPTURE(scale);
        if (scale == 0 && V > 2) logits[1] = -3;  // 0 times infinity
        if (scale != 0 && V > 2) logits[1] = -kInf;
        Doubles weights(static_cast<size_t>(V)), expected(static_cast<size_t>(V)), sums(blocks(V)),
            expected_sums(blocks(V));
        fast.softmax_weights(weights.data(), logits.data(), max, scale, V);
        cpu::softmax_weights(expected.data(), logits.data(), max, scale, V);
        fast.softmax_block_sums(sums.data(), logits.data(), max, scale, V);
        cpu::softmax_block_sums(expected_sums.data(), logits.data(), max, scale, V);
        double worst = 0;
        for (size_t i = 0; i < weights.size(); ++i) {
          const double error = std::abs(weights[i] - expected[i]);
          if (error > 1e-307) worst = std::max(worst, error / expected[i]);
        }
        for (size_t b = 0; b < sums.size(); ++b) {
          const double error = std::abs(sums[b] - expected_sums[b]);
          if (error > 1e-305) worst = std::max(worst, error / expected_sums[b]);
        }
        CHECK(worst <= cpu::kSamplingError);
      }
      CHECK(fast.softmax_sum(logits.data(), max, V) ==
            doctest::Approx(cpu::softmax_sum(logits.data(), max, V)).epsilon(cpu::kSamplingError));
    }
  });
}

TEST_CASE("fast sampling: the exponential over its range") {
  for_each_sampling([&](const cpu::SamplingKernels& fast) {
    Floats logits;
    for (float x = 0; x > -707; x -= 0.0137f) logits.push_back(x);
    Doubles weights(logits.size());
    fast.softmax_weights(weights.data(), logits.data(), 0, 1, static_cast<int>(logits.size()));
    double worst = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      worst = std::max(worst, std::abs(weights[i] / std::exp(static_cast<double>(logits[i])) - 1));
    }
    MESSAGE("worst: ", worst);
    CHECK(worst <= cpu::kSamplingError);
    const Floats ends = {0, -709, -1e10f, -3e38f, -kInf};
    fast.softmax_weights(weights.data(), ends.data(), 0, 1, 5);
    CHECK(weights[0] == 1);
    for (size_t i = 1; i < 5; ++i) CHECK(weights[i] == 0);
  });
}

TEST_CASE("fast sampling: NaN is seen wherever it is, and infinities are maxima") {
  for_each_sampling([&](const cpu::SamplingKernels& fast) {
    for (const int V : {1, 5, 64, 70, 200}) {
      Floats maxima(blocks(V));
      for (int at = 0; at < V; ++at) {
        CAPTURE(at);
        Floats logits(static_cast<size_t>(V), -1);
        logits[static_cast<size_t>(at)] = std::numeric_limits<float>::quiet_NaN();
        CHECK_FALSE(fast.block_maxima(maxima.data(), logits.data(), V));
        logits[static_cast<size_t>(at)] = kInf;
        CHECK(fast.block_maxima(maxima.data(), logits.data(), V));
        CHECK(maxima[static_cast<size_t>(at / cpu::kSamplingBlock)] == kInf);
      }
      const Floats none(static_cast<size_t>(V), -kInf);
      CHECK(fast.block_maxima(maxima.data(), none.data(), V));
      CHECK(maxima[0] == -kInf);
    }
  });
}
