// From logits to a token: the possible tokens, their frequencies, transformers' probabilities, refused logits; the fast
// sampler against the plain one and against the tokens that earlier versions drew.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

#include "kernels/philox.h"
#include "llm/inference/sampler.h"
#include "llm/support/error.h"
#include "tests/helpers/golden.h"

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

// The logits of tests/golden/sampling.bin, and what transformers makes of them (dev/reference/sampling.py).
struct Reference {
  Golden file{"sampling.bin"};
  std::vector<int32_t> prompt = file.get<int32_t>("prompt"), generated = file.get<int32_t>("generated");
  std::vector<std::vector<float>> rows = split<float>("rows");
  std::vector<std::vector<double>> probabilities = split<double>("probabilities");  // of setting s, row r: rows * s + r
  std::vector<std::vector<double>> log_probabilities = split<double>("log_probabilities");
  std::vector<SamplerConfig> settings;
  static constexpr int kVocabulary = 200;

  Reference() {
    const std::vector<double> s = file.get("settings");
    for (size_t i = 0; i < s.size(); i += 7)
      settings.push_back({s[i], static_cast<int>(s[i + 1]), s[i + 2], s[i + 3], s[i + 4], s[i + 5], s[i + 6]});
  }
  template <class T>
  std::vector<std::vector<T>> split(const char* name) const {
    const std::vector<T> all = file.get<T>(name);
    std::vector<std::vector<T>> parts;
    for (size_t at = 0; at < all.size(); at += kVocabulary)
      parts.emplace_back(all.begin() + static_cast<int64_t>(at), all.begin() + static_cast<int64_t>(at) + kVocabulary);
    return parts;
  }
  // A sampler after the prompt and the generated tokens: each was the only possible one.
  Sampler primed(const SamplerConfig& config, uint64_t seed) const {
    Sampler sampler(config, seed, prompt, kVocabulary);
    std::vector<float> only(kVocabulary, -kInf);
    for (const int32_t id : generated) {
      only[static_cast<size_t>(id)] = 1;
      REQUIRE(sampler.next(only) == id);
      only[static_cast<size_t>(id)] = -kInf;
    }
    return sampler;
  }
};

// Whether counts of draws from p are as likely as at least one case in a million: Pearson's chi-square, cells of fewer
// than five expected draws taken together; its quantile by Wilson and Hilferty (1931).
bool drawn_from(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
  double chi = 0, rest = 0, rest_count = 0;
  int cells = 0;
  const auto add = [&](double count, double expected) {
    chi += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0 && counts[i] > 0) return false;
    if (draws * p[i] >= 5) {
      add(counts[i], draws * p[i]);
    } else {
      rest += draws * p[i];
      rest_count += counts[i];
    }
  }
  if (rest >= 5) add(rest_count, rest);
  const double k = cells - 1, z = 4.753424;  // of the normal distribution, 1e-6
  if (k < 1) return true;
  return chi <= k * std::pow(1 - 2 / (9 * k) + z * std::sqrt(2 / (9 * k)), 3);
}

// As in the runs whose tokens are listed below.
std::vector<std::vector<float>> numbered_rows(uint64_t count, uint64_t V) {
  std::vector<std::vector<float>> rows(count, std::vector<float>(V));
  for (uint64_t r = 0; r < count; ++r) {
    for (uint64_t v = 0; v < V; ++v) {
      const double u = golden_uniform(900 + r, v);
      rows[r][v] = static_cast<float>(9 * u * u * u);
    }
  }
  return rows;
}

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

TEST_CASE("the probabilities are those of transformers") {
  const Reference reference;
  REQUIRE(reference.settings.size() == 22);
  REQUIRE(reference.rows.size() == 4);
  for (size_t s = 0; s < reference.settings.size(); ++s) {
    const Sampler sampler = reference.primed(reference.settings[s], 1);
    for (size_t r = 0; r < reference.rows.size(); ++r) {
      CAPTURE(s);
      CAPTURE(r);
      const std::vector<double> p = sampler.probabilities(reference.rows[r]);
      const std::vector<double>& expected = reference.probabilities[reference.rows.size() * s + r];
      double worst = 0;
      bool same_tokens = true;
      for (size_t i = 0; i < p.size(); ++i) {
        same_tokens = same_tokens && (p[i] > 0) == (expected[i] > 0);
        if (expected[i] > 0) worst = std::max(worst, std::abs(p[i] / expected[i] - 1));
      }
      CHECK(same_tokens);
      // A difference of logits is rounded to float here: at most 2^-24 of 120, the farthest apart, over the smallest
      // temperature.
      CHECK(worst <= 0x1p-24 * 120 / 0.6);
    }
  }
}

TEST_CASE("tokens are drawn with transformers' probabilities") {
  const Reference reference;
  constexpr int draws = 20000;
  for (size_t s = 0; s < reference.settings.size(); ++s) {
    const SamplerConfig& config = reference.settings[s];
    const size_t r = s % 3;  // row 3 has one likely token or two
    const bool penalised =
        config.repetition_penalty != 1 || config.frequency_penalty != 0 || config.presence_penalty != 0;
    std::vector<int> counts(Reference::kVocabulary);
    Sampler sampler = reference.primed(config, 100 + s);
    for (int i = 0; i < draws; ++i) {
      if (penalised && i > 0) sampler = reference.primed(config, 1000 + static_cast<uint64_t>(i));  // the same history
      ++counts[static_cast<size_t>(sampler.next(reference.rows[r]))];
    }
    CAPTURE(s);
    CHECK(drawn_from(counts, reference.probabilities[reference.rows.size() * s + r], draws));
  }
  // Would it see a difference?
  std::vector<int> counts(Reference::kVocabulary);
  Sampler sampler({.temperature = 1.2}, 1, {}, Reference::kVocabulary);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sampler.next(reference.rows[1]))];
  CHECK_FALSE(drawn_from(counts, reference.probabilities[1], draws));
}

TEST_CASE("log-probabilities are those of the logits, the most likely first") {
  const Reference reference;
  for (size_t r = 0; r < reference.rows.size(); ++r) {
    const std::vector<double>& expected = reference.log_probabilities[r];
    std::vector<int> order(expected.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
    std::erase_if(order, [&](int id) { return reference.rows[r][static_cast<size_t>(id)] == -kInf; });
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return reference.rows[r][static_cast<size_t>(a)] > reference.rows[r][static_cast<size_t>(b)];
    });
    for (const int n : {0, 1, 5, 20, 199, 200, 1000}) {
      CAPTURE(r);
      CAPTURE(n);
      const LogProbabilities found = log_probabilities(reference.rows[r], 7 + n % 150, n);
      const double chosen = expected[static_cast<size_t>(7 + n % 150)];
      CHECK((found.chosen == chosen || std::abs(found.chosen - chosen) <= 1e-12));
      REQUIRE(found.top.size() == std::min(order.size(), static_cast<size_t>(n)));
      bool same = true;
      for (size_t i = 0; i < found.top.size(); ++i) {
        same = same && found.top[i].id == order[i] &&
               std::abs(found.top[i].log_probability - expected[static_cast<size_t>(order[i])]) <= 1e-12;
      }
      CHECK(same);
    }
  }
  CHECK(log_probabilities(std::vector<float>{-kInf, 0}, 0, 5).chosen == -kInf);
  CHECK(log_probabilities(std::vector<float>{-kInf, 3}, 1, 5).chosen == 0);
  CHECK_THROWS_AS(log_probabilities(std::vector<float>{1, NAN}, 0, 1), Error);
  CHECK_THROWS_AS(log_probabilities(std::vector<float>{1, 2}, 2, 1), std::logic_error);
  CHECK_THROWS_AS(log_probabilities(std::vector<float>{1, 2}, -1, 1), std::logic_error);
  CHECK_THROWS_AS(log_probabilities(std::vector<float>{1, 2}, 0, -1), std::logic_error);
}

TEST_CASE("the same seed draws the tokens that earlier versions drew") {
  struct Run {
    SamplerConfig config;
    std::vector<int> ids;
  };
  const Run runs[] = {
      {{.temperature = 1}, {356, 127, 972, 899, 627, 942, 258, 378, 435, 698, 14, 976, 742, 411, 188, 462}},
      {{.temperature = 0.8}, {356, 127, 972, 905, 627, 942, 258, 379, 431, 698, 14, 976, 739, 377, 246, 462}},
      {{.temperature = 0.7, .top_k = 40},
       {338, 127, 971, 905, 627, 942, 286, 379, 415, 698, 14, 976, 739, 376, 258, 462}},
      {{.temperature = 1.2, .top_p = 0.9},
       {15, 171, 898, 253, 723, 628, 295, 462, 303, 91, 971, 760, 36, 294, 601, 148}},
      {{.temperature = 0.9, .top_k = 100, .top_p = 0.5},
       {522, 698, 228, 732, 560, 294, 986, 930, 748, 438, 226, 728, 29, 411, 613, 576}},
      {{.temperature = 0}, {25, 127, 226, 976, 615, 823, 286, 606, 25, 127, 226, 976, 615, 823, 286, 606}}};
  const auto rows = numbered_rows(8, 1000);
  for (const Run& run : runs) {
    Sampler sampler(run.config, 1337, {}, 1000);
    std::vector<int> ids;
    for (size_t i = 0; i < 16; ++i) ids.push_back(sampler.next(rows[i % 8]));
    CHECK(ids == run.ids);
    CHECK(sampler.drawn() == 16);
  }
}

TEST_CASE("the fast sampler draws what the plain one draws, for every setting and shape of logits") {
  std::vector<std::vector<float>> rows;
  for (const uint64_t V : {1, 2, 63, 64, 65, 1000, 5003}) {
    const std::vector<float> row = numbered_rows(1, V)[0];
    rows.push_back(row);
    std::vector<float> steps = row, holes = row, wide = row, far = row;
    for (float& x : steps) x = std::round(x);
    for (size_t i = 0; i + 1 < V; ++i) holes[i] = i % 3 == 1 || i / 64 % 2 == 0 ? -kInf : holes[i];
    for (float& x : wide) x *= 100;
    for (float& x : far) x = x * 1e-3f - 1e6f;
    rows.insert(rows.end(), {steps, holes, wide, far, std::vector<float>(V, -2.5f)});
    std::vector<float> one(V, -3e38f);
    one[V / 2] = 3e38f;
    rows.push_back(one);
  }
  std::vector<SamplerConfig> settings;
  for (const double temperature : {0.0, 0.3, 1.0, 7.0}) {
    for (const int top_k : {0, 1, 10, 100, 4000}) {
      for (const double top_p : {1.0, 0.999999, 0.9, 0.3, 1e-12, 0.0}) {
        for (const double min_p : {0.0, 0.02, 1.0}) settings.push_back({temperature, top_k, top_p, min_p});
      }
    }
  }
  for (const double temperature : {1e-320, 1e-30, 1e30, 1.7e308}) {
    settings.push_back({.temperature = temperature});
    settings.push_back({.temperature = temperature, .top_p = 0.5});
    settings.push_back({.temperature = temperature, .min_p = 0.5});
  }
  settings.push_back({.min_p = 1e-310});
  settings.push_back({.top_p = std::nextafter(1.0, 0.0)});
  uint64_t drawn = 0, plainly = 0;
  for (const SamplerConfig& config : settings) {
    for (size_t r = 0; r < rows.size(); ++r) {
      Sampler sampler(config, 5 + r, {}, static_cast<int>(rows[r].size()));
      for (uint64_t i = 0; i < 3; ++i) {
        const int id = sampler.next(rows[r]);
        const int expected = sample(rows[r], config, philox_uniform(5 + r, 0x73616d706c65, i));
        if (id == expected) continue;
        CAPTURE(config.temperature);
        CAPTURE(config.top_k);
        CAPTURE(config.top_p);
        CAPTURE(config.min_p);
        CAPTURE(r);
        CHECK(id == expected);
      }
      drawn += sampler.drawn();
      plainly += sampler.drawn_plainly();
    }
  }
  MESSAGE(plainly, " of ", drawn, " tokens were left to the plain sampler");
  CHECK(plainly * 10 < drawn);  // equal logits and settings beyond the bounds are
}

TEST_CASE("what is common is proved fast") {
  const auto rows = numbered_rows(8, 5003);
  for (const SamplerConfig& config : {SamplerConfig{.temperature = 0.8}, SamplerConfig{.top_k = 50},
                                      SamplerConfig{.top_p = 0.9}, SamplerConfig{.min_p = 0.05}}) {
    Sampler sampler(config, 3, {}, 5003);
    for (size_t i = 0; i < 2000; ++i) sampler.next(rows[i % 8]);
    CHECK(sampler.drawn_plainly() <= 1);
  }
}

TEST_CASE("penalties need what was generated: each token counts from its draw on") {
  const std::vector<float> flat = {1, 1, 1, 1};
  Sampler presence({.temperature = 0, .presence_penalty = 1}, 1, {}, 4);
  for (const int id : {0, 1, 2, 3, 0}) CHECK(presence.next(flat) == id);
  Sampler frequency({.temperature = 0, .frequency_penalty = 0.1}, 1, std::vector<int32_t>{0, 0, 0}, 4);
  for (const int id : {0, 1, 2, 3, 0, 1}) CHECK(frequency.next(flat) == id);  // the prompt is not counted
  Sampler repetition({.temperature = 0, .repetition_penalty = 2}, 1, std::vector<int32_t>{0, 0, 2}, 4);
  for (const int id : {1, 3, 0, 0}) CHECK(repetition.next(flat) == id);
  CHECK(repetition.probabilities(flat) == std::vector<double>{1, 0, 0, 0});

  // Logits: positive ones are divided, negative ones multiplied, -inf stays; nothing leaves float's range.
  Sampler all({.repetition_penalty = 4, .frequency_penalty = 0.5, .presence_penalty = -1}, 1,
              std::vector<int32_t>{0, 1, 2, 3, 4}, 6);
  const std::vector<double> p = all.probabilities(std::vector<float>{2, -0.5f, 0, -kInf, -3e38f, 0});
  const double sum = std::exp(0.5) + std::exp(-2) + 1 + 1;
  CHECK(p[0] == doctest::Approx(std::exp(0.5) / sum).epsilon(1e-14));
  CHECK(p[1] == doctest::Approx(std::exp(-2) / sum).epsilon(1e-14));
  CHECK(p[2] == doctest::Approx(1 / sum).epsilon(1e-14));
  CHECK((p[3] == 0 && p[4] == 0));
  Sampler single({.repetition_penalty = 10}, 1, std::vector<int32_t>{0}, 1);
  CHECK(single.next(std::vector<float>{-3e38f}) == 0);
  CHECK(single.next(std::vector<float>{3e38f}) == 0);
}

TEST_CASE("tokens outside the vocabulary and wrong numbers of logits are refused") {
  CHECK_THROWS_WITH_AS(Sampler({}, 1, std::vector<int32_t>{0, 4}, 4),
                       doctest::Contains("token 4 at position 1 of the prompt is outside"), Error);
  CHECK_THROWS_WITH_AS(Sampler({.presence_penalty = 1}, 1, std::vector<int32_t>{-1}, 4),
                       doctest::Contains("outside the vocabulary of 4"), Error);
  Sampler sampler({}, 1, {}, 4);
  CHECK_THROWS_AS(sampler.next(std::vector<float>(5)), std::logic_error);
  CHECK_THROWS_AS(sampler.probabilities(std::vector<float>(3)), std::logic_error);
  CHECK_THROWS_AS(sampler.next(std::vector<float>{1, NAN, 0, 0}), Error);
  CHECK_THROWS_AS(sampler.next(std::vector<float>{1, kInf, 0, 0}), Error);
  CHECK_THROWS_AS(sampler.next(std::vector<float>(4, -kInf)), Error);
  CHECK(sampler.drawn() == 0);
  CHECK_THROWS_AS(Sampler({}, 1, {}, 0), std::logic_error);
  CHECK_THROWS_AS(sample(std::vector<float>{1}, {.presence_penalty = 1}, 0.5), std::logic_error);
}

TEST_CASE("each setting has its range, and NaN is in none") {
  const auto refuse = [](const SamplerConfig& config, const char* name) {
    CHECK_THROWS_WITH_AS(validate(config), doctest::Contains(name), UsageError);
    CHECK_THROWS_AS(Sampler(config, 1, {}, 4), UsageError);
  };
  for (const double bad : {-0.1, static_cast<double>(kInf), std::nan("")}) {
    refuse({.temperature = bad}, "{temperature}");
    refuse({.top_p = bad}, "{top-p}");
    refuse({.min_p = bad}, "{min-p}");
    refuse({.repetition_penalty = bad}, "{repetition-penalty}");
    refuse({.frequency_penalty = bad * 21}, "{frequency-penalty}");
    refuse({.presence_penalty = bad * 21}, "{presence-penalty}");
  }
  refuse({.top_k = -1}, "{top-k}");
  refuse({.top_p = 1.001}, "{top-p} is 1.001: expected 0 to 1");
  refuse({.min_p = 1.001}, "{min-p}");
  refuse({.repetition_penalty = 0}, "{repetition-penalty}");
  refuse({.frequency_penalty = 2.001}, "{frequency-penalty}");
  refuse({.presence_penalty = 2.001}, "{presence-penalty}");
  validate(
      {.temperature = 0, .top_k = 1 << 30, .top_p = 0, .min_p = 1, .frequency_penalty = -2, .presence_penalty = 2});
}
