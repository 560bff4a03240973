// Text from a model, one token after another, each by Model::decode() from the keys and values of those before it.
// Positions are learnt and absolute, so a window that has moved on is another text to the model: once the context is
// full, its tokens are computed again each time that it moves.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "llm/inference/sampler.h"
#include "llm/models/model.h"

struct GenerateConfig {
  SamplerConfig sampler;
  int tokens = 200;      // at most
  int end_of_text = -1;  // stops there (and does not report it); -1: never
  uint64_t seed = 1337;  // token i draws number i of Philox's sequence
  int context = 0;       // tokens in view, at most; 0: the model's context
  int slide = 1;         // tokens by which a full window moves on; 1: the last `context` tokens are in view, always
  bool cache = true;     // false: every token computes the whole window again
};

// Continues `ids` (not empty), keeping the last tokens in view (`context` of them; `slide` - 1 less after a move);
// calls `each` with every new id, stops early if it returns false. Returns the new ids.
std::vector<int32_t> generate(Model& model, std::vector<int32_t> ids, const GenerateConfig& config,
                              const std::function<bool(int32_t)>& each);
