#include "gpt2/float16.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

TEST_CASE("bf16: every value survives the way to float and back") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = float_from_bf16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      CHECK(std::isnan(float_from_bf16(bf16_from_float(value))));
    } else {
      CHECK(bf16_from_float(value) == bits);
    }
  }
}

TEST_CASE("bf16 rounds to the nearest, ties to even") {
  const float ulp = 0x1p-7f;  // of bf16 between 1 and 2
  CHECK(float_from_bf16(bf16_from_float(1 + 0.49f * ulp)) == 1);
  CHECK(float_from_bf16(bf16_from_float(1 + 0.51f * ulp)) == 1 + ulp);
  CHECK(float_from_bf16(bf16_from_float(1 + 0.5f * ulp)) == 1);            // a tie: 1 is even
  CHECK(float_from_bf16(bf16_from_float(1 + 1.5f * ulp)) == 1 + 2 * ulp);  // a tie: 1 + ulp is odd
  CHECK(float_from_bf16(bf16_from_float(-1 - 1.5f * ulp)) == -1 - 2 * ulp);
  CHECK(std::isinf(float_from_bf16(bf16_from_float(std::numeric_limits<float>::max()))));
}

TEST_CASE("f16: every pattern against its definition") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = float_from_f16(static_cast<uint16_t>(bits));
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const double mantissa = (bits & 1023) / 1024.0, sign = bits & 0x8000 ? -1 : 1;
    CAPTURE(bits);
    if (exponent == 31) {
      CHECK((mantissa == 0 ? value == sign * std::numeric_limits<double>::infinity() : std::isnan(value)));
    } else {
      const double exact = exponent == 0 ? std::ldexp(mantissa, -14) : std::ldexp(1 + mantissa, exponent - 15);
      CHECK(value == sign * exact);
      CHECK(std::signbit(value) == (sign < 0));
    }
  }
}
