// Microseconds per token on one core: how fast Sampler draws from a row of 50,257 logits, next to the plain sample().
// The logits have the shape of those of a language model: the token of rank r has a probability of about r^-a, with
// noise; a = 1.6 where the next token is nearly clear (half the probability on a few tokens), 1.2 where many fit.
// "left": the tokens that Sampler left to the plain code.
//   bench_sampler [SECONDS]     per figure, default 0.3
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "kernels/philox.h"
#include "llm/inference/sampler.h"
#include "llm/support/error.h"

namespace {

constexpr int kVocabulary = 50257, kRows = 8;

std::vector<std::vector<float>> make_rows(double a) {
  std::vector<std::vector<float>> rows(kRows, std::vector<float>(kVocabulary));
  for (uint64_t r = 0; r < kRows; ++r) {
    for (uint64_t i = 0; i < kVocabulary; ++i) {
      const uint64_t rank = (i * 20011 + r * 977) % kVocabulary + 1;
      const double noise = philox_uniform(1, r, i) + philox_uniform(2, r, i) - 1;
      rows[r][i] = static_cast<float>(-35 - a * std::log(static_cast<double>(rank)) + noise);
    }
  }
  return rows;
}

// The median of the times of single calls.
double microseconds(double seconds, const std::function<void(int)>& draw) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  const auto start = Clock::now();
  for (int i = 0; times.size() < 20 || std::chrono::duration<double>(Clock::now() - start).count() < seconds; ++i) {
    const auto begin = Clock::now();
    draw(i);
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<long>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

void report(const char* name, const SamplerConfig& config, double seconds) {
  SamplerConfig plain_config = config;  // sample() has no penalties
  plain_config.repetition_penalty = 1;
  plain_config.frequency_penalty = plain_config.presence_penalty = 0;
  std::printf("%-44s", name);
  for (const double a : {1.6, 1.2}) {
    const auto rows = make_rows(a);
    std::vector<int32_t> prompt(1000);
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * i % kVocabulary);
    Sampler sampler(config, 1, prompt, kVocabulary);
    const double fast = microseconds(seconds, [&](int i) { sampler.next(rows[static_cast<size_t>(i % kRows)]); });
    const double plain = microseconds(seconds, [&](int i) {
      sample(rows[static_cast<size_t>(i % kRows)], plain_config, philox_uniform(1, 1, static_cast<uint64_t>(i)));
    });
    std::printf("  %7.1f  %8.1f  %6.3f %%", fast, plain,
                100.0 * static_cast<double>(sampler.drawn_plainly()) / static_cast<double>(sampler.drawn()));
  }
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) try {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 0.3;
  std::printf("us per token, %d logits%15s  %29s  %29s\n", kVocabulary, "", "a = 1.6: Sampler, plain, left",
              "a = 1.2: Sampler, plain, left");
  report("greedy", {.temperature = 0}, seconds);
  report("temperature 0.8", {.temperature = 0.8}, seconds);
  report("top-k 50", {.temperature = 0.8, .top_k = 50}, seconds);
  report("top-p 0.9", {.temperature = 0.8, .top_p = 0.9}, seconds);
  report("top-p 0.9 at temperature 1", {.top_p = 0.9}, seconds);
  report("min-p 0.05", {.temperature = 0.8, .min_p = 0.05}, seconds);
  report("top-k 50, top-p 0.9", {.temperature = 0.8, .top_k = 50, .top_p = 0.9}, seconds);
  report("all, with penalties (plain: without)",
         {.temperature = 0.8,
          .top_k = 50,
          .top_p = 0.9,
          .min_p = 0.05,
          .repetition_penalty = 1.1,
          .frequency_penalty = 0.1,
          .presence_penalty = 0.1},
         seconds);
  for (const double a : {1.6, 1.2}) {
    const auto rows = make_rows(a);
    std::printf("log-probabilities of the chosen and 5 others   %7.1f (a = %g)\n",
                microseconds(seconds, [&](int i) { log_probabilities(rows[static_cast<size_t>(i % kRows)], 7, 5); }),
                a);
  }
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
