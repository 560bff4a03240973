#include "kernels/global_norm.cuh"
#include "kernels/global_norm.h"
#include "tests/helpers/device.h"

namespace {

double device_norm_squared(const Floats& grads, bool unaligned) {
  const auto N = static_cast<int64_t>(grads.size());
  const DeviceArray<float> from(grads, unaligned);
  const DeviceArray<char> scratch(global_norm_scratch(N));
  const DeviceArray<double> out(1);
  global_norm_squared(out.data(), scratch.data(), from.data(), N, nullptr);
  return out.host()[0];
}

}  // namespace

TEST_CASE("the global norm on the device against the CPU") {
  // Sums of N positive numbers in double: relative errors of 1.1e-16 times a small multiple of sqrt(N).
  for (const int64_t N : {1, 3, 33, 1024, 16383, 16384, 16385, 100'003}) {
    for (const bool unaligned : {false, true}) {
      CAPTURE(N);
      CAPTURE(unaligned);
      for (const double scale : {1.0, 1e30, 1e-30}) {  // squares beyond float's range on either side
        const Floats grads = random_tensor<float>(N, 1, scale);
        const double expected = cpu::global_norm_squared(grads.data(), N);
        CHECK(std::abs(device_norm_squared(grads, unaligned) - expected) <=
              sum_tolerance<double>(static_cast<double>(N), 1) * expected);
      }
    }
  }
  check_ran<float>("global_norm_chunk_kernel<256, true");
}

TEST_CASE("the global norm is right for more chunks than the last block has threads") {
  const int64_t N = 1030 * kGlobalNormChunk + 5;
  const Floats grads(N, 0.5f);
  CHECK(device_norm_squared(grads, 0) == 0.25 * static_cast<double>(N));
}

TEST_CASE("the global norm is not finite if one gradient is not") {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Floats grads = random_tensor<float>(20'000, 1);
    grads[19'999] = bad;
    CHECK_FALSE(std::isfinite(device_norm_squared(grads, 0)));
  }
}

TEST_CASE("the global norm does not depend on the schedule") {
  const Floats grads = random_tensor<float>(100'003, 1);
  same_under_all_schedules([&] { return Doubles{device_norm_squared(grads, 0)}; });
}
