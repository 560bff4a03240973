#include <array>

#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast classifier equals the plain one in double") {
  const float poison = std::numeric_limits<float>::quiet_NaN();
  for (const auto& [N, V, Vp] :
       {std::array{1, 1, 1}, std::array{3, 2, 128}, std::array{7, 129, 256}, std::array{5, 1003, 1024}}) {
    for (const double scale : {1.0, 60.0}) {
      CAPTURE(V);
      CAPTURE(scale);
      Floats logits = random_tensor<float>(static_cast<size_t>(N) * Vp, 1, scale);
      for (int n = 0; n < N; ++n) std::fill(logits.begin() + n * Vp + V, logits.begin() + (n + 1) * Vp, poison);
      std::vector<int32_t> targets = random_ints(N, 2, V);
      if (N > 2) targets[1] = -1;
      const Floats weights = random_tensor<float>(N, 3);
      Doubles exact(logits.begin(), logits.end()), exact_losses(N);
      cpu::classifier_backward(exact.data(), exact_losses.data(), targets.data(), weights.data(), N, V, Vp);

      for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
        Floats dlogits = logits, losses(N), forward_losses(N);
        fast.classifier_forward(forward_losses.data(), logits.data(), targets.data(), N, V, Vp);
        fast.classifier_backward(dlogits.data(), losses.data(), targets.data(), weights.data(), N, V, Vp);
        const double loss_tolerance = sum_tolerance<float>(V, std::max(1.0, 2 * scale));
        CHECK(max_difference(losses, exact_losses) <= loss_tolerance);
        CHECK(max_difference(forward_losses, exact_losses) <= loss_tolerance);
        // p <= 1 is off by the rounding of its exponent's argument (|logit - max| <= 2 scale) and of the sum.
        CHECK(max_difference(dlogits, exact) <= sum_tolerance<float>(V, 1) + 4 * 0x1p-24 * 2 * scale);
        for (int n = 0; n < N; ++n) {
          for (int v = V; v < Vp; ++v) CHECK(dlogits[n * Vp + v] == 0);
        }
      });
    }
  }
}

TEST_CASE("fast classifier: a NaN logit makes the loss NaN") {
  Floats logits(128, 0.5f), losses(1);
  logits[40] = std::numeric_limits<float>::quiet_NaN();
  const int32_t target = 3;
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    fast.classifier_forward(losses.data(), logits.data(), &target, 1, 100, 128);
    CHECK(std::isnan(losses[0]));
  });
}
