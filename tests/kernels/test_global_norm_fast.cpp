#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast global norm: sizes around its chunks, large numbers, and numbers that are not finite") {
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    for (const int64_t N : {0, 1, 33, 65'535, 65'536, 65'537, 200'003}) {
      CAPTURE(N);
      const Floats grads = random_tensor<float>(static_cast<size_t>(N), 1);
      CHECK(fast.global_norm_squared(grads.data(), N) ==
            doctest::Approx(cpu::global_norm_squared(grads.data(), N)).epsilon(1e-13));
    }
    const Floats large = {1e30f, 1e30f};
    CHECK(fast.global_norm_squared(large.data(), 2) == doctest::Approx(2e60));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Floats grads(70'000, 1);
      grads[69'999] = bad;
      CHECK_FALSE(std::isfinite(fast.global_norm_squared(grads.data(), 70'000)));
    }
  });
}

TEST_CASE("fast global norm does not depend on the number of threads") {
  const Floats grads = random_tensor<float>(300'021, 1);
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    check_thread_independence([&] { return Doubles{fast.global_norm_squared(grads.data(), 300'021)}; });
  });
}
