// A search over the trainers' flags: a file has their names and values to try; every combination is a run.
//
//   {"method": "random", "trials": 12, "seed": 1, "median_stopping": true,
//    "flags": {"lr": {"min": 1e-4, "max": 1e-2, "log": true}, "dropout": [0, 0.1, 0.2],
//              "optimizer": ["adamw", "muon"]}}
//
// "grid" (the default) takes every combination of the lists, the last flag changing fastest; "random" draws "trials" of
// them, from lists and from ranges (of whole numbers where both ends are).
#pragma once

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "llm/flags/train_flags.h"

struct SearchPlan {
  std::vector<nlohmann::ordered_json> trials;  // of each: flag: value
  bool median_stopping = false;
};

// Throws Error naming the file and what is wrong: not of the form, an unknown flag or a value that it cannot have,
// more than 10,000 trials.
SearchPlan read_search(const std::filesystem::path& path);

// A trial's validation losses, in order.
struct Trial {
  nlohmann::ordered_json flags;
  struct Loss {
    int64_t step;
    double value;
  };
  std::vector<Loss> losses;
  bool stopped = false;  // by the median
  std::string failed;    // the error that ended it; empty: none

  double best() const;
};

// The median stopping rule (Golovin et al. 2017, "Google Vizier"): a trial ends at an evaluation if its best loss is
// above the median of what the trials before it had as mean loss up to that step. Asked from the second evaluation on
// (step 0 left aside), where three trials or more got as far.
bool below_median(const std::vector<Trial>& before, const Trial& trial);
