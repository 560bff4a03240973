// The input of a training step.
#pragma once

#include <cstdint>
#include <vector>

struct Batch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs, targets;  // (B, T)
  std::vector<float> weights;            // (B, T)  1 for every token in pretraining
  std::vector<int32_t> documents = {};   // (B, T)  for Model::set_documents(); empty: each row is one
};
