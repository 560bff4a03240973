#include "kernels/ema.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("the average of the weights is first the weights, then over the last ninth of the steps, then by the decay") {
  CHECK(cpu::ema_rate(0.999, 1) == 1);
  CHECK(cpu::ema_rate(0.999, 10) == 0.5);
  CHECK(cpu::ema_rate(0.999, 991) == doctest::Approx(9.0 / 999));
  CHECK(cpu::ema_rate(0.999, 1'000'000) == doctest::Approx(0.001));
  CHECK(cpu::ema_rate(0.5, 100) == 0.5);

  // Weights whose step t is t: the average lags by an amount that follows from the rates.
  const size_t N = 5;
  Doubles average(N, 0), expected(N, 0);
  for (int64_t t = 1; t <= 200; ++t) {
    Doubles weights = random_tensor(N, static_cast<uint64_t>(t));
    for (double& w : weights) w += static_cast<double>(t);
    const double rate = std::max(0.02, 9.0 / static_cast<double>(t + 8));
    for (size_t i = 0; i < N; ++i) expected[i] = t == 1 ? weights[i] : (1 - rate) * expected[i] + rate * weights[i];
    cpu::ema_update(average.data(), weights.data(), cpu::ema_rate(0.98, t), N);
  }
  for (size_t i = 0; i < N; ++i) CHECK(average[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}
