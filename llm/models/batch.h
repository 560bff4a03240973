// What a training step is given.
#pragma once

#include <cstdint>
#include <vector>

struct Batch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs, targets;  // (B, T)
  std::vector<float> weights;            // (B, T)  1 for every token in pretraining
  std::vector<int32_t> documents = {};   // (B, T)  Model::set_documents(); empty: a row is one
};
