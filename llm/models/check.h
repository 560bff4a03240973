// Compares a fast path with the reference, tensor by tensor (--check).
#pragma once

#include <string>
#include <vector>

#include "llm/models/batch.h"
#include "llm/models/model.h"

struct CheckRow {
  std::string tensor;     // "loss", "logits", then "d" and a parameter's name
  double max_abs = 0;     // largest |a - b|
  double relative = 0;    // |a - b| / |b| in the Euclidean norm
  double cosine = 1;      // a . b / (|a| |b|)
  double norm_error = 0;  // | |a| / |b| - 1 |
  std::string bound;      // the bound that decides `ok`
  bool ok = false;
};

// Runs forward and backward of one batch on both; `reference` is b, in fp32. Bounds by `model`'s precision:
//   fp32         loss 1e-5, logits 1e-4 absolute, gradients 1e-4 relative in norm
//   tf32, bf16   gradients: cosine >= 0.999 and norms within 1e-2. Logits: 4 u sqrt(K) rms (docs/testing.md), with u
//                the type's unit round-off and K = 15 L + 4 the number of roundings from the tokens to a logit: in a
//                block two norms, four weights, four products' results, the probabilities, the outputs of attention
//                and gelu, and two sums; then embedding, last norm, wte and the logit itself. Loss: the same bound, as
//                a token's loss changes by as much as its target's logit.
std::vector<CheckRow> compare_models(Model& model, Model& reference, const Batch& batch, Precision precision,
                                     const PassDropout& dropout = {});
