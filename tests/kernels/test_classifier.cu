#include "kernels/classifier.cuh"
#include "kernels/classifier.h"
#include "tests/helpers/device.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

// Rows of V random logits; the padding up to Vp is NaN, so that reading it shows.
template <class floatX>
std::vector<floatX> random_logits(int N, int V, int Vp, double scale) {
  Floats logits = random_tensor<float>(static_cast<size_t>(N) * Vp, 1, scale);
  for (int n = 0; n < N; ++n)
    std::fill(&logits[static_cast<size_t>(n) * Vp + V], &logits[static_cast<size_t>(n) * Vp] + Vp, kNaN);
  return to_storage<floatX>(logits);
}

struct Result {
  Floats forward_losses, losses;
  Doubles dlogits;
};

template <class floatX>
Result run_classifier(const std::vector<floatX>& logits, const std::vector<int32_t>& targets, const Floats& weights,
                      int V, int Vp, bool unaligned) {
  const int N = static_cast<int>(targets.size());
  const DeviceArray<floatX> device_logits(logits, unaligned);
  const DeviceArray<int32_t> device_targets(targets);
  const DeviceArray<float> device_weights(weights), losses(N);
  Result result;
  classifier_forward(losses.data(), device_logits.data(), device_targets.data(), N, V, Vp, nullptr);
  result.forward_losses = losses.host();
  CHECK(same_bits(device_logits.host(), logits));
  losses.write(Floats(N, kNaN));  // backward computes them itself
  classifier_backward(device_logits.data(), losses.data(), device_targets.data(), device_weights.data(), N, V, Vp,
                      nullptr);
  result.losses = losses.host();
  result.dlogits = to_numbers(device_logits.host());
  return result;
}

}  // namespace

// This test comes first, because it checks which kernels ran.
TEST_CASE_TEMPLATE("the classifier takes 16-byte accesses where rows and tensors allow it", floatX, float, bf16) {
  run_classifier(random_logits<floatX>(2, 61, 64, 5), {3, 4}, {1, 1}, 61, 64, false);
  check_ran<floatX>("classifier_forward_kernel<floatX, true");
  check_ran<floatX>("classifier_backward_kernel<floatX, true, true");
}

TEST_CASE_TEMPLATE("the classifier on the device against the CPU", floatX, float, bf16) {
  struct Sizes {
    int N, V, Vp;
  };
  for (const auto [N, V, Vp] :
       {Sizes{1, 1, 1}, Sizes{3, 1, 128}, Sizes{5, 33, 33}, Sizes{4, 61, 128}, Sizes{3, 256, 256}, Sizes{2, 1003, 1024},
        Sizes{2, 12'007, 12'007}, Sizes{2, 50'257, 50'304}, Sizes{1, 60'001, 60'032}}) {
    for (const bool unaligned : {false, true}) {
      CAPTURE(V);
      CAPTURE(unaligned);
      auto logits = random_logits<floatX>(N, V, Vp, 5);
      std::vector<int32_t> targets = random_ints(N, 2, V);
      targets[0] = V - 1;
      if (N > 2) {  // ignored, whatever its logits are
        targets[1] = -1;
        logits[Vp] = to_storage<floatX>({kNaN})[0];
      }
      if (N > 3) targets[2] = 0;
      const Floats weights = random_tensor<float>(N, 3);
      Doubles expected = to_numbers(logits), expected_losses(N);
      cpu::classifier_backward(expected.data(), expected_losses.data(), targets.data(), weights.data(), N, V, Vp);

      const Result result = run_classifier(logits, targets, weights, V, Vp, unaligned);
      CHECK(same_bits(result.forward_losses, result.losses));
      check_close("losses", result.losses, expected_losses, V);
      // An exponential of float is wrong by some units in its last place, and so is the sum of V: relative to each
      // probability 4 u (sqrt(V) + 8), of which a logit's own rounding by |x - max| <= 10 is the 8.
      for (int n = 0; n < N; ++n) {
        for (int v = 0; v < Vp; ++v) {
          const size_t i = static_cast<size_t>(n) * Vp + v;
          if (v >= V || targets[n] < 0) {
            REQUIRE(result.dlogits[i] == 0);
            continue;
          }
          const double probability = expected[i] + (v == targets[n] ? weights[n] : 0);
          const double tolerance = 4 * 0x1p-24 * (std::sqrt(V) + 8) * (std::abs(probability) + std::abs(expected[i])) +
                                   unit_roundoff<floatX>() * std::abs(expected[i]) +
                                   0x1p-24 * std::abs(weights[n]) * (v == targets[n]);
          REQUIRE(std::abs(result.dlogits[i] - expected[i]) <= tolerance);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("the classifier reads rows again that do not fit shared memory, with the same bits", floatX, float,
                   bf16) {
  const int most = classifier_kept_bytes() / static_cast<int>(sizeof(floatX)), V = most + 8, Vp = V;  // a pack too many
  const auto kept_bytes = [&](int V) {
    DryRun dry;
    floatX* no_logits = nullptr;
    classifier_backward<floatX>(no_logits, nullptr, nullptr, nullptr, 1, V, V, nullptr);
    return dry.operations.at(0).launches.at(0).shared_bytes;
  };
  CHECK(kept_bytes(most) == static_cast<size_t>(classifier_kept_bytes()));
#ifdef WROUGHT_CUDASIM
  CHECK(classifier_kept_bytes() == 112 * 1024);  // of 228 KiB, as on an H100
#endif
  CHECK(kept_bytes(V) == 0);
  const auto logits = random_logits<floatX>(1, V, Vp, 5);
  run_classifier(logits, {7}, {1}, V, Vp, false);
  check_ran<floatX>("classifier_backward_kernel<floatX, true, false");
  const auto shorter = random_logits<floatX>(2, 1003, 1024, 5);
  const Result kept = run_classifier(shorter, {7, 1002}, {1, 0.5f}, 1003, 1024, false);
  const Result again =
      run_classifier(shorter, {7, 1002}, {1, 0.5f}, 1003, 1024, true);  // unaligned: element by element
  CHECK(same_bits(kept.losses, again.losses));
  CHECK(same_bits(kept.dlogits, again.dlogits));
}

TEST_CASE("the classifier takes a vocabulary of a million, in rows beyond element 2^31") {
  // All rows but the last are ignored and not read, so only the last one needs memory.
  const int V = (1 << 20) - 3, Vp = 1 << 20, N = 2050;
  const auto logits = random_logits<float>(1, V, Vp, 5);
  std::vector<int32_t> targets(N, -1);
  targets[N - 1] = V - 1;
  const Doubles exact = to_numbers(logits);
  double expected = 0;
  cpu::classifier_forward(&expected, exact.data(), &targets[N - 1], 1, V, Vp);
  const DeviceArray<float> last_row(logits), losses(N);
  const DeviceArray<int32_t> device_targets(targets);
  const auto first_row = reinterpret_cast<uintptr_t>(last_row.data()) - int64_t{N - 1} * Vp * sizeof(float);
  classifier_forward(losses.data(), reinterpret_cast<const float*>(first_row), device_targets.data(), N, V, Vp,
                     nullptr);
  Doubles all(N);
  all[N - 1] = expected;
  check_close("losses", losses.host(), all, V);
}

TEST_CASE_TEMPLATE("the classifier on the device treats extreme logits as the CPU does", floatX, float, bf16) {
  const int V = 300, Vp = 384;
  const auto check = [&](const std::string& name, int target, auto&& change) {
    CAPTURE(name);
    CAPTURE(target);
    Floats logits = random_tensor<float>(Vp, 1);
    change(logits);
    const auto stored = to_storage<floatX>(logits);
    Floats expected = to_numbers<float>(stored), loss(1);
    const std::vector<int32_t> targets = {target};
    const Floats weights = {0.25f};
    cpu::classifier_backward(expected.data(), loss.data(), targets.data(), weights.data(), 1, V, Vp);
    const Result result = run_classifier(stored, targets, weights, V, Vp, 0);
    for (const float actual : {result.losses[0], result.forward_losses[0]}) {
      CHECK(std::isnan(actual) == std::isnan(loss[0]));
      if (!std::isnan(loss[0])) CHECK((actual == loss[0] || std::abs(actual - loss[0]) <= 1e-6 * std::abs(loss[0])));
    }
    for (int v = 0; v < Vp; ++v) {
      REQUIRE(std::isnan(result.dlogits[v]) == std::isnan(expected[v]));
      if (!std::isnan(expected[v])) {
        REQUIRE(std::abs(result.dlogits[v] - expected[v]) <= (unit_roundoff<floatX>() + 1e-5) * std::abs(expected[v]));
      }
    }
  };
  for (const int target : {0, 7, 299}) {
    check("huge", target, [](Floats& x) { x[7] = 3e38f, x[8] = -3e38f; });
    check("all huge", target, [](Floats& x) { x.assign(x.size(), -1e38f); });
    check("-infinity but one", target, [](Floats& x) { x.assign(x.size(), -kInfinity), x[7] = 1; });
    check("some -infinity", target, [](Floats& x) { x[7] = x[100] = x[299] = -kInfinity; });
    check("first -infinity", target, [](Floats& x) { std::fill(x.begin(), x.begin() + 64, -kInfinity); });
    check("all -infinity", target, [](Floats& x) { x.assign(x.size(), -kInfinity); });
    check("+infinity", target, [](Floats& x) { x[7] = kInfinity; });
    check("NaN", target, [](Floats& x) { x[7] = kNaN; });
    check("NaN first", target, [](Floats& x) { x[0] = kNaN; });
    check("all NaN", target, [](Floats& x) { x.assign(x.size(), kNaN); });
  }
}

TEST_CASE("the sum of weighted losses on the device") {
  for (const int N : {1, 33, 1000, 5003}) {
    CAPTURE(N);
    const Floats losses = random_tensor<float>(N, 1, 10), weights = random_tensor<float>(N, 2);
    const DeviceArray<float> device_losses(losses), device_weights(weights);
    const DeviceArray<double> loss(Doubles{3});
    const double tolerance = sum_tolerance<double>(N, 10 * std::sqrt(N));
    classifier_loss(loss.data(), device_losses.data(), device_weights.data(), N, nullptr);
    CHECK(std::abs(loss.host()[0] - 3 - dot_product(losses, weights)) <= tolerance);
    classifier_loss(loss.data(), device_losses.data(), nullptr, N, nullptr);
    const double expected = 3 + dot_product(losses, weights) + dot_product(losses, Floats(N, 1));
    CHECK(std::abs(loss.host()[0] - expected) <= tolerance);
  }
}

TEST_CASE("the classifier does not depend on the schedule") {
  const int N = 3, V = 5003, Vp = 5120;
  const auto logits = random_logits<float>(N, V, Vp, 5);
  const DeviceArray<int32_t> targets(std::vector<int32_t>{5, -1, 5002});
  const DeviceArray<float> dlogits(N * Vp), losses(N), weights(Floats{0.5f, 1, -1});
  const DeviceArray<double> loss(1);
  same_under_all_schedules([&] {
    dlogits.write(logits);
    loss.write({0});
    classifier_forward(losses.data(), dlogits.data(), targets.data(), N, V, Vp, nullptr);
    classifier_loss(loss.data(), losses.data(), weights.data(), N, nullptr);
    classifier_backward(dlogits.data(), losses.data(), targets.data(), weights.data(), N, V, Vp, nullptr);
    Doubles all = to_numbers(dlogits.host());
    for (const float x : losses.host()) all.push_back(x);
    all.push_back(loss.host()[0]);
    return all;
  });
}

TEST_CASE("the classifier's threads: one per 16 bytes of a row, in whole warps, at most 512") {
  CHECK(classifier_threads<float>(1) == 32);
  CHECK(classifier_threads<float>(128) == 32);
  CHECK(classifier_threads<float>(132) == 64);
  CHECK(classifier_threads<bf16>(256) == 32);
  CHECK(classifier_threads<float>(2047) == 512);
  CHECK(classifier_threads<float>(50'304) == 512);
}
