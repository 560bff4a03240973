// Our version of PyTorch's random numbers, compared with PyTorch (dev/reference/torch_random.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "llm/models/torch_random.h"
#include "llm/support/error.h"
#include "tests/helpers/golden.h"

namespace {

const Golden& golden() {
  static const Golden file("torch_random.bin");
  return file;
}

// Tensors of these sizes, drawn one after another.
std::vector<float> normals(uint64_t seed, const std::vector<size_t>& sizes) {
  TorchRandom random(seed);
  std::vector<float> all;
  for (const size_t n : sizes) {
    std::vector<float> x(n);
    random.normal(x);
    all.insert(all.end(), x.begin(), x.end());
  }
  return all;
}

// A number in [0, 1) shows 24 bits of a word of the generator, as in a block of normal().
std::vector<float> uniforms(uint64_t seed, size_t n) {
  std::vector<float> x(n);
  TorchRandom(seed).uniform(x, 0, 1);
  return x;
}

}  // namespace

TEST_CASE("uniform numbers equal those of torch, bit for bit") {
  const auto draw = [](uint64_t seed, double from, double to) {
    std::vector<float> x(50);
    TorchRandom(seed).uniform(x, from, to);
    return x;
  };
  const double bound = 1 / std::sqrt(768.0);
  CHECK(draw(123, -bound, bound) == golden().get<float>("uniform"));
  CHECK(draw((uint64_t{1} << 40) + 5, -bound, bound) == golden().get<float>("uniform_wide"));  // seeds of 32 bits
  CHECK(draw(5, -bound, bound) == golden().get<float>("uniform_wide"));
  CHECK(draw(7, 0.3, 5) == golden().get<float>("uniform_shifted"));
}

TEST_CASE("normal numbers equal those of torch") {
  const std::vector<std::pair<const char*, std::vector<size_t>>> cases = {
      {"normal_5_4", {5, 4}}, {"normal_16", {16}}, {"normal_37_15", {37, 15}}, {"normal_4096", {4096}}};
  for (const auto& [name, sizes] : cases) {
    CAPTURE(name);
    const std::vector<float> x = normals(123, sizes), plain = golden().get<float>(name),
                             vector = golden().get<float>(std::string(name) + "_vector");
    REQUIRE(x.size() == plain.size());
    REQUIRE(x.size() == vector.size());
    // Three functions of the C library, each right to about an ulp, make a number of at most 6: with another library,
    // some ulps of 4. Their vector versions are not worse in so few draws; among millions the difference was up to
    // 2.5e-6.
    const double some_ulps = 4 * 0x1p-21;
    double worst = 0, worst_vector = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, std::abs(double{x[i]} - plain[i]));
      worst_vector = std::max(worst_vector, std::abs(double{x[i]} - vector[i]));
    }
    MESSAGE(std::string(name) << ": largest difference " << worst << ", to torch's vectors " << worst_vector);
    CHECK(worst <= some_ulps);
    CHECK(worst_vector <= some_ulps);
  }
}

TEST_CASE("a partial block redraws the last 16") {
  const std::vector<float> whole = normals(9, {32}), rest = normals(9, {41});
  CHECK(std::equal(rest.begin(), rest.begin() + 25, whole.begin()));
  const std::vector<float> u = uniforms(9, 41 + 16);  // 41 for the blocks, then 16 for the partial block
  for (size_t j = 0; j < 8; ++j) {
    const double radius = std::sqrt(-2 * std::log(1 - double{u[41 + j]})), angle = 2 * std::numbers::pi * u[49 + j];
    CHECK(rest[25 + j] == doctest::Approx(radius * std::cos(angle)).epsilon(1e-5));
    CHECK(rest[33 + j] == doctest::Approx(radius * std::sin(angle)).epsilon(1e-5));
  }
}

TEST_CASE("whole numbers and permutations equal those of torch") {
  TorchRandom random(123);
  const std::vector<int32_t> halves = golden().get<int32_t>("integer");
  for (size_t i = 0; i + 1 < halves.size(); i += 2) {
    const uint64_t high = static_cast<uint32_t>(halves[i]), low = static_cast<uint32_t>(halves[i + 1]);
    CHECK(static_cast<uint64_t>(random.integer()) == (high << 32 | low));
  }
  random = TorchRandom(123);
  std::vector<int32_t> orders;
  for (const int64_t n : {18, 1, 100}) {
    for (const int64_t i : random.permutation(n)) orders.push_back(static_cast<int32_t>(i));
  }
  CHECK(orders == golden().get<int32_t>("permutation"));
  CHECK(random.permutation(0).empty());
  CHECK_THROWS_WITH_AS(random.permutation(int64_t{1} << 40), doctest::Contains("1099511627776"), Error);
  CHECK_THROWS_AS(random.permutation(-1), Error);
}

TEST_CASE("draws from probabilities equal those of torch") {
  const std::vector<float> p = golden().get<float>("p");
  TorchRandom random(123);
  std::vector<int32_t> ids;
  for (int i = 0; i < 200; ++i) ids.push_back(random.multinomial(p));
  CHECK(ids == golden().get<int32_t>("multinomial"));
  for (int i = 0; i < 100; ++i) CHECK(random.multinomial(std::vector<float>{0, 0, 3, 0}) == 2);
}

TEST_CASE("weights that are not a distribution are refused") {
  TorchRandom random(1);
  for (const std::vector<float>& p : {std::vector<float>{}, {0, 0}, {0.5f, -0.1f}, {1, NAN}, {1, INFINITY}}) {
    CHECK_THROWS_WITH_AS(random.multinomial(p), doctest::Contains("finite numbers, none below 0"), Error);
  }
}
