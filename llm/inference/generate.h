// Text from a model, token by token, each by a Decoder from the keys and values of those before it. Positions are
// learnt and absolute, so a window that has moved is a different text to the model: once the context is full, its
// tokens are computed again each time that it moves.
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
  int slide = 1;         // tokens by which a full window moves; 1: the last `context` tokens are always in view
  bool cache = true;     // false: every token recomputes the whole window
};

// Continues `ids` (not empty), keeping the last tokens in view (`context` of them; `slide` - 1 fewer after a move);
// calls `each` with every new id and stops early if it returns false. Returns the new ids.
std::vector<int32_t> generate(Model& model, std::vector<int32_t> ids, const GenerateConfig& config,
                              const std::function<bool(int32_t)>& each);
