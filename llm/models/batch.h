// The input of a training step.
#pragma once

#include <cstdint>
#include <vector>

#include "llm/models/model.h"

struct Batch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs, targets;  // (B, T); a classifier's targets (B)
  std::vector<float> weights;            // as targets; 1 for every token in pretraining
  std::vector<int32_t> documents = {};   // (B, T)  for ForwardInput; empty: each row is one
  std::vector<float> pooling = {};       // (B, T)  for ForwardInput; only for classifiers
};

inline ForwardInput input_of(const Batch& batch, Pass pass, const PassDropout& dropout = {}) {
  return {.tokens = batch.inputs.data(),
          .B = batch.B,
          .T = batch.T,
          .pass = pass,
          .dropout = dropout,
          .documents = batch.documents.empty() ? nullptr : batch.documents.data(),
          .pooling = batch.pooling.empty() ? nullptr : batch.pooling.data()};
}
