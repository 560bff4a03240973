#include "kernels/philox.h"
#include "tests/helpers/finite_differences.h"

// The known answers that Random123 publishes for philox4x32-10, least significant word first. Our counter is (index,
// sequence), our key the seed.
TEST_CASE("philox gives Random123's known answers") {
  const auto words = [](uint64_t seed, uint64_t sequence, uint64_t index) {
    const Philox4 r = philox4(seed, sequence, index);
    return std::vector<uint32_t>(r.word, r.word + 4);
  };
  const uint64_t ones = ~uint64_t{0};
  CHECK(words(0, 0, 0) == std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(words(ones, ones, ones) == std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(words(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) ==
        std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform numbers have the right range, mean and variance; element i is word i % 4 of counter i / 4") {
  CHECK(uniform_from_bits(0) == 0);
  CHECK(uniform_from_bits(0xFFFFFFFF) == 1 - 0x1p-24f);
  CHECK(philox_uniform(1, 2, 4 * 7 + 3) == uniform_from_bits(philox4(1, 2, 7).word[3]));
  const int n = 200'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = philox_uniform(3, 4, static_cast<uint64_t>(i)) - 0.5;
    sum += u;
    squares += u * u;
  }
  // Five standard deviations: u - 1/2 has variance 1/12, its square has variance 1/180.
  CHECK(std::abs(sum / n) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(squares / n - 1.0 / 12) < 5 * std::sqrt(1.0 / 180 / n));
}

TEST_CASE("normal numbers have the right moments and tails, and uncorrelated neighbours") {
  const int n = 400'000;
  std::vector<float> x(n);
  for (int i = 0; i < n; i += 4) philox_normal4(&x[i], 5, 6, static_cast<uint64_t>(i / 4));
  double moment[5] = {}, neighbours = 0;
  int beyond2 = 0, beyond4 = 0;
  for (int i = 0; i < n; ++i) {
    double power = 1;
    for (double& m : moment) {
      m += power / n;
      power *= x[i];
    }
    neighbours += static_cast<double>(x[i]) * x[(i + 1) % n] / n;
    beyond2 += std::abs(x[i]) > 2;
    beyond4 += std::abs(x[i]) > 4;
  }
  // Five standard deviations: x^k has variance E x^2k - (E x^k)^2 = 1, 2, 15, 96.
  CHECK(std::abs(moment[1]) < 5 * std::sqrt(1.0 / n));
  CHECK(std::abs(moment[2] - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(moment[3]) < 5 * std::sqrt(15.0 / n));
  CHECK(std::abs(moment[4] - 3) < 5 * std::sqrt(96.0 / n));
  CHECK(std::abs(neighbours) < 5 * std::sqrt(1.0 / n));
  const double p2 = std::erfc(2 / std::sqrt(2.0)), p4 = std::erfc(4 / std::sqrt(2.0));
  CHECK(std::abs(beyond2 - n * p2) < 5 * std::sqrt(n * p2));
  CHECK(std::abs(beyond4 - n * p4) < 5 * std::sqrt(n * p4));
}

TEST_CASE("no normal exceeds the largest that 24 bits can give") {
  float out[4];
  for (uint64_t i = 0; i < 100'000; ++i) {
    philox_normal4(out, 7, 8, i);
    for (const float x : out) REQUIRE(std::abs(x) < 6);  // sqrt(-2 log 2^-25) = 5.89
  }
}
