// The fast path held against the reference, tensor by tensor (--check).
#pragma once

#include <string>
#include <vector>

#include "gpt2/dataloader.h"
#include "gpt2/model.h"

struct CheckRow {
  std::string tensor;   // "loss", "logits", then "d" and a parameter's name
  double max_abs = 0;   // largest |a - b|
  double relative = 0;  // |a - b| / |b| in the Euclidean norm
  double tolerance = 0; // of `relative` for gradients, of `max_abs` for loss and logits
  bool ok = false;
};

// Runs forward and backward of one batch on both; `reference` is b. fp32 tolerances: loss 1e-5, logits 1e-4 absolute,
// gradients 1e-4 relative in norm.
std::vector<CheckRow> compare_models(Model& model, Model& reference, const Batch& batch);
