#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/exp.h"
#include "tests/helpers/finite_differences.h"

namespace {

double ulps(float got, double exact) {
  const float nearest = static_cast<float>(exact);
  const double ulp = static_cast<double>(std::nextafter(nearest, std::numeric_limits<float>::infinity())) - nearest;
  return std::abs(static_cast<double>(got) - exact) / ulp;
}

}  // namespace

TEST_CASE("fast exp is within 1.5 ulp of the exact value over its range") {
  Worst worst;
  for (double x = -87.3; x <= 88.0; x += 0.00037) {
    const float f = static_cast<float>(x);
    worst.see(ulps(cpu::fast::exp(f), std::exp(static_cast<double>(f))));
  }
  MESSAGE("worst: " << worst.error << " ulp");
  CHECK(worst.error <= 1.5);
  CHECK(cpu::fast::exp(0.0f) == 1.0f);
  CHECK(cpu::fast::exp(-0.0f) == 1.0f);
}

TEST_CASE("fast exp at the ends of the range") {
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(cpu::fast::exp(-100.0f) == 0.0f);
  CHECK(cpu::fast::exp(-infinity) == 0.0f);
  for (const float x : {88.5f, 1000.0f, infinity}) CHECK(cpu::fast::exp(x) == cpu::fast::exp(88.0f));
  CHECK(std::isnan(cpu::fast::exp(std::numeric_limits<float>::quiet_NaN())));
}
