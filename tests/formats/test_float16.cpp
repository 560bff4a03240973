#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>

#include "llm/formats/float16.h"

TEST_CASE("bf16: every value survives conversion to float and back") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    CHECK(bf16_from_float(float_from_bf16(static_cast<uint16_t>(bits))) == bits);
  }
  for (const uint32_t nan : {0x7f800001u, 0xff80ffffu}) {  // the upper half by itself would be infinite
    CHECK(std::isnan(float_from_bf16(bf16_from_float(std::bit_cast<float>(nan)))));
  }
}

TEST_CASE("bf16 rounds to the nearest, ties to even") {
  const float ulp = 0x1p-7f;  // the ulp of bf16 between 1 and 2
  CHECK(float_from_bf16(bf16_from_float(1 + 0.49f * ulp)) == 1);
  CHECK(float_from_bf16(bf16_from_float(1 + 0.51f * ulp)) == 1 + ulp);
  CHECK(float_from_bf16(bf16_from_float(1 + 0.5f * ulp)) == 1);            // a tie: 1 is even
  CHECK(float_from_bf16(bf16_from_float(1 + 1.5f * ulp)) == 1 + 2 * ulp);  // a tie: 1 + ulp is odd
  CHECK(float_from_bf16(bf16_from_float(-1 - 1.5f * ulp)) == -1 - 2 * ulp);
  CHECK(std::isinf(float_from_bf16(bf16_from_float(std::numeric_limits<float>::max()))));
}

TEST_CASE("f16: every bit pattern has the value of its definition") {
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

TEST_CASE("f16: every value survives conversion to float and back") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    CHECK(f16_from_float(float_from_f16(static_cast<uint16_t>(bits))) == bits);
  }
  CHECK(std::isnan(float_from_f16(f16_from_float(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("f16 rounds to the nearest, ties to even: between any two neighbours") {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {  // subnormal and normal; halfway is exact in float
    const uint16_t next = static_cast<uint16_t>(bits + 1), even = bits % 2 == 0 ? bits : next;
    const float middle = (float_from_f16(bits) + float_from_f16(next)) / 2;
    CHECK(f16_from_float(middle) == even);
    CHECK(f16_from_float(std::nextafter(middle, 0.0f)) == bits);
    CHECK(f16_from_float(std::nextafter(middle, 1e9f)) == next);
    CHECK(f16_from_float(-middle) == (even | 0x8000));
  }
  CHECK(f16_from_float(std::nextafter(65520.0f, 0.0f)) == 0x7bff);
  CHECK(f16_from_float(65520.0f) == 0x7c00);
  CHECK(f16_from_float(std::numeric_limits<float>::max()) == 0x7c00);
  CHECK(f16_from_float(-std::numeric_limits<float>::infinity()) == 0xfc00);
  CHECK(f16_from_float(std::numeric_limits<float>::denorm_min()) == 0);
}
