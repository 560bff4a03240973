// From logits to a token: the possible tokens, their frequencies, and refused logits.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kernels/philox.h"
#include "llm/inference/sampler.h"
#include "llm/support/error.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int> draw(const std::vector<float>& logits, const SamplerConfig& config, int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i)
    ++counts[static_cast<size_t>(sample(logits, config, philox_uniform(7, 1, static_cast<uint64_t>(i))))];
  return counts;
}

std::set<int> drawn(const std::vector<float>& logits, const SamplerConfig& config) {
  std::set<int> ids;
  const std::vector<int> counts = draw(logits, config, 2000);
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) ids.insert(static_cast<int>(i));
  }
  return ids;
}

// Nine logits of "Build a Large Language Model (From Scratch)", chapter 5, which reports 582, 343 and 73 in 1,000
// draws.
const std::vector<float> kNine = {4.51f, 0.89f, -1.90f, 6.75f, 1.63f, -1.62f, -1.89f, 6.28f, 1.79f};

}  // namespace

TEST_CASE("tokens are drawn as often as softmax gives") {
  const int draws = 20000;
  for (const double temperature : {0.5, 1.0, 5.0}) {
    const std::vector<int> counts = draw(kNine, {.temperature = temperature}, draws);
    double total = 0;
    for (const float logit : kNine) total += std::exp(logit / temperature);
    for (size_t i = 0; i < kNine.size(); ++i) {
      const double p = std::exp(kNine[i] / temperature) / total;
      CAPTURE(temperature);
      CAPTURE(i);
      CHECK(std::abs(counts[i] - draws * p) <= 4 * std::sqrt(draws * p * (1 - p)) + 1);
    }
  }
}

TEST_CASE("the book's counts of 1,000 draws are met within four standard deviations") {
  const std::vector<int> counts = draw(kNine, {}, 1000);
  CHECK(std::abs(counts[3] - 582) <= 62);
  CHECK(std::abs(counts[7] - 343) <= 60);
  CHECK(std::abs(counts[0] - 73) <= 33);
  CHECK(counts[3] + counts[7] + counts[0] >= 985);
}

TEST_CASE("greedy takes the largest logit, the first among equals, whatever the coin") {
  for (const double coin : {0.0, 0.5, 0.999999}) {
    CHECK(sample(kNine, {.temperature = 0}, coin) == 3);
    CHECK(sample(std::vector<float>{1, 5, 5, 2}, {.temperature = 0}, coin) == 1);
    CHECK(sample(kNine, {.top_k = 1}, coin) == 3);
    CHECK(sample(kNine, {.top_p = 0}, coin) == 3);
    CHECK(sample(kNine, {.temperature = 1e-30}, coin) == 3);
    CHECK(sample(std::vector<float>{-3}, {}, coin) == 0);
  }
}

TEST_CASE("top-k keeps the k largest, and ties at the threshold") {
  CHECK(drawn(kNine, {.temperature = 5, .top_k = 3}) == std::set<int>{0, 3, 7});
  CHECK(drawn({1, 2, 2, 2, 0}, {.temperature = 5, .top_k = 2}) == std::set<int>{1, 2, 3});
  CHECK(drawn({1, 1, 0}, {.temperature = 5, .top_k = 1}) == std::set<int>{0, 1});
  CHECK(drawn({1, 2, 3}, {.temperature = 5, .top_k = 3}) == std::set<int>{0, 1, 2});
  CHECK(drawn({1, 2, 3}, {.temperature = 5, .top_k = 1000}) == std::set<int>{0, 1, 2});
}

TEST_CASE("top-p keeps the fewest tokens that reach p") {
  // Probabilities 0.5, 0.3, 0.15, 0.05, in another order.
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  CHECK(drawn(logits, {.top_p = 0.45}) == std::set<int>{1});
  CHECK(drawn(logits, {.top_p = 0.75}) == std::set<int>{1, 3});
  CHECK(drawn(logits, {.top_p = 0.90}) == std::set<int>{0, 1, 3});
  CHECK(drawn(logits, {.top_p = 1.00}) == std::set<int>{0, 1, 2, 3});
  // Within top-k: of {0.5, 0.3} the first has 0.625.
  CHECK(drawn(logits, {.top_k = 2, .top_p = 0.6}) == std::set<int>{1});
  CHECK(drawn(logits, {.top_k = 2, .top_p = 0.7}) == std::set<int>{1, 3});
  const std::vector<int> counts = draw(logits, {.top_p = 0.75}, 8000);  // the remaining tokens keep their proportions
  CHECK(std::abs(counts[1] - 5000) <= 180);
}

TEST_CASE("the coin's extremes choose the first and the last possible token") {
  const std::vector<float> logits = {-kInf, 0, 0, -kInf};
  CHECK(sample(logits, {}, 0.0) == 1);
  CHECK(sample(logits, {}, std::nextafter(1.0, 0.0)) == 2);
  CHECK(sample(logits, {.top_k = 3}, std::nextafter(1.0, 0.0)) == 2);
  CHECK(sample(logits, {.top_p = 0.999}, std::nextafter(1.0, 0.0)) == 2);
  CHECK(sample(std::vector<float>{3e38f, -3e38f}, {}, 0.9999) == 0);
}

TEST_CASE("logits that are not numbers are an error") {
  CHECK_THROWS_AS(sample(std::vector<float>{NAN, 1, 2}, {}, 0.5), Error);
  CHECK_THROWS_AS(sample(std::vector<float>{1, NAN, 2}, {}, 0.5), Error);
  CHECK_THROWS_AS(sample(std::vector<float>{1, 2, NAN}, {.temperature = 0}, 0.5), Error);
  CHECK_THROWS_AS(sample(std::vector<float>{1, kInf}, {}, 0.5), Error);
  CHECK_THROWS_AS(sample(std::vector<float>{-kInf, -kInf}, {}, 0.5), Error);
  CHECK_THROWS_AS(sample(std::vector<float>{}, {}, 0.5), Error);
}
