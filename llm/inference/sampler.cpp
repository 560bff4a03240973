#include "llm/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "llm/support/error.h"

int sample(std::span<const float> logits, const SamplerConfig& config, double coin) {
  float max = -INFINITY;
  bool damaged = false;  // -inf is a valid logit: never this token
  for (const float logit : logits) {
    max = std::max(max, logit);
    damaged = damaged || std::isnan(logit);
  }
  if (damaged || !std::isfinite(max)) fail("the model's logits are not finite: its weights are damaged");
  if (config.temperature == 0) {
    return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }

  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  if (config.top_k > 0 && static_cast<size_t>(config.top_k) < ids.size()) {
    std::vector<float> sorted(logits.begin(), logits.end());
    std::nth_element(sorted.begin(), sorted.begin() + config.top_k - 1, sorted.end(), std::greater<>());
    const float threshold = sorted[static_cast<size_t>(config.top_k) - 1];
    std::erase_if(ids, [&](int id) { return !(logits[static_cast<size_t>(id)] >= threshold); });
  }

  std::vector<double> p(ids.size());
  const auto weight = [&](int id) { return std::exp((logits[static_cast<size_t>(id)] - max) / config.temperature); };
  if (config.top_p < 1) {
    std::stable_sort(ids.begin(), ids.end(),
                     [&](int a, int b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
  }
  std::transform(ids.begin(), ids.end(), p.begin(), weight);
  double total = std::accumulate(p.begin(), p.end(), 0.0);
  if (config.top_p < 1) {
    size_t n = 0;
    double sum = 0;
    while (n < p.size() && sum < config.top_p * total) sum += p[n++];
    p.resize(std::max<size_t>(1, n));
    total = std::accumulate(p.begin(), p.end(), 0.0);
  }
  double left = coin * total;
  size_t chosen = 0;
  for (size_t i = 0; i < p.size() && left >= 0; ++i) {
    left -= p[i];
    if (p[i] > 0) chosen = i;  // if rounding leaves a remainder, the last possible token
  }
  return ids[chosen];
}
