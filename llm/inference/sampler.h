// From logits to the next token.
#pragma once

#include <cstdint>
#include <span>

struct SamplerConfig {
  double temperature = 1.0;  // logits are divided by it; 0: greedy, the largest logit (the first of equals)
  int top_k = 0;             // only the k most likely tokens; ties at the threshold stay; 0: all
  double top_p = 1.0;        // then the fewest most likely tokens whose probabilities reach p (Holtzman et al. 2020)
};

// coin: uniform in [0, 1). A logit of -inf is never drawn. Throws Error if one is NaN or +inf, or all are -inf.
int sample(std::span<const float> logits, const SamplerConfig& config, double coin);
