#include <doctest/doctest.h>

#include "kernels/rounding.h"
#include "tests/helpers/finite_differences.h"

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("rounding to bf16 by chance: exact numbers stay, others become a neighbour") {
  const float unit = 0x1p-7f;  // bf16's step from 1 on
  struct Draw {
    float x;
    uint32_t random16;
    float expected;
  };
  for (const Draw& draw :
       {Draw{1, 65535, 1}, Draw{1 + unit / 4, 49151, 1}, Draw{1 + unit / 4, 49152, 1 + unit},
        Draw{-1 - unit / 4, 49152, -1 - unit}, Draw{2 - unit / 4, 65535, 2}, Draw{0, 65535, 0},
        Draw{kInfinity, 65535, kInfinity}, Draw{-kInfinity, 1, -kInfinity}, Draw{3.4e38f, 65535, kInfinity},
        Draw{3.4e38f, 0, 0x1.fep127f}, Draw{1e-45f, 65535, 0x1p-133f}, Draw{1e-45f, 65534, 0}}) {
    CAPTURE(draw.x);
    CAPTURE(draw.random16);
    CHECK(cpu::round_stochastically(draw.x, draw.random16) == draw.expected);
  }
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xffffffffu, 0xff80ffffu}) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    CHECK(std::isnan(cpu::round_stochastically(x, 1)));
    CHECK(std::isnan(cpu::round_to_nearest(x)));
  }
  CHECK(std::isnan(cpu::round_to_nearest(kNaN)));
}

TEST_CASE("rounding to the nearest bf16, ties to even") {
  const float unit = 0x1p-7f;
  for (const auto& [x, expected] :
       {std::pair(1.0f, 1.0f), std::pair(1 + unit * 0.499f, 1.0f), std::pair(1 + unit * 0.501f, 1 + unit),
        std::pair(1 + unit / 2, 1.0f), std::pair(1 + unit * 1.5f, 1 + 2 * unit),
        std::pair(-1 - unit * 1.5f, -1 - 2 * unit), std::pair(3.4e38f, kInfinity), std::pair(kInfinity, kInfinity)}) {
    CAPTURE(x);
    CHECK(cpu::round_to_nearest(x) == expected);
  }
  for (const float x : random_tensor<float>(1000, 1)) {  // what bf16 holds survives
    const cpu::bf16 once = cpu::round_to_nearest(x);
    CHECK(cpu::round_to_nearest(once).bits == once.bits);
    CHECK(std::abs(once - x) <= 0x1p-8f * std::abs(x));
  }
}

TEST_CASE("moments draw from sequences from 2^63 on, each element 16 bits for m and 16 for v") {
  const Philox4 random = draw_moments(5, 7, 11), expected = philox4(5, (uint64_t{1} << 63) + 7, 11);
  for (int k = 0; k < 4; ++k) {
    CHECK(random.word[k] == expected.word[k]);
    CHECK((bits_of_m(random.word[k]) << 16 | bits_of_v(random.word[k])) == expected.word[k]);
  }
}
