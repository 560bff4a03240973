// Random numbers for measurements: their range, their period, and that sequences differ.
#include <doctest/doctest.h>

#include "kernels/random_fill.cuh"
#include "tests/helpers/device.h"

namespace {

template <class floatX>
void check_fill(int64_t n) {
  CAPTURE(n);
  DeviceArray<floatX> filled(n), other(n);
  random_fill(filled.data(), n, 0, nullptr);
  random_fill(other.data(), n, 1, nullptr);
  const auto values = filled.host(), others = other.host();
  int64_t outside = 0, unequal = 0, same = 0;
  double sum = 0, squares = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double x = static_cast<double>(static_cast<float>(values[i]));
    outside += !(x >= -1 && x <= 1);
    unequal += i >= kRandomPattern && x != static_cast<double>(static_cast<float>(values[i - kRandomPattern]));
    same += x == static_cast<double>(static_cast<float>(others[i]));
    sum += x;
    squares += x * x;
  }
  CHECK(outside == 0);
  CHECK(unequal == 0);
  CHECK(same <= n / 50);
  if (n < 1000) return;
  CHECK(std::fabs(sum / static_cast<double>(n)) < 0.05);
  CHECK(squares / static_cast<double>(n) == doctest::Approx(1.0 / 3).epsilon(0.05));
}

}  // namespace

TEST_CASE("random_fill: numbers in [-1, 1), others for another sequence, repeating after the pattern") {
  for (const int64_t n : {int64_t{1}, int64_t{2}, int64_t{5}, int64_t{1003}, kRandomPattern - 1, kRandomPattern,
                          kRandomPattern + 1, 2 * kRandomPattern + 7, 5 * kRandomPattern / 2}) {
    check_fill<float>(n);
  }
  check_fill<bf16>(1009);
  check_fill<bf16>(kRandomPattern + 12);
}
