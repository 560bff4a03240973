#include "kernels/global_norm.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("the global norm matches PyTorch") {
  const Golden golden("global_norm.bin");
  const Floats grads = golden.get<float>("grads");
  CHECK(std::sqrt(cpu::global_norm_squared(grads.data(), static_cast<int64_t>(grads.size()))) ==
        doctest::Approx(golden.get("norm")[0]).epsilon(1e-14));
}

TEST_CASE("the global norm is right at sizes around its chunks") {
  for (const int64_t N : {0, 1, 33, 4095, 4096, 4097, 12'289}) {
    CAPTURE(N);
    const Floats ones(static_cast<size_t>(N), -1);
    CHECK(cpu::global_norm_squared(ones.data(), N) == static_cast<double>(N));
  }
}

TEST_CASE("the global norm handles squares beyond float's range, and a NaN or an infinity anywhere") {
  const Floats large = {1e30f, 1e30f};
  CHECK(cpu::global_norm_squared(large.data(), 2) == doctest::Approx(2e60));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Floats grads(5000, 1);
    grads[4999] = bad;
    CHECK_FALSE(std::isfinite(cpu::global_norm_squared(grads.data(), 5000)));
  }
}

TEST_CASE("the global norm does not depend on the number of threads") {
  const Floats grads = random_tensor<float>(50'021, 1);
  check_thread_independence([&] { return Doubles{cpu::global_norm_squared(grads.data(), 50'021)}; });
}
