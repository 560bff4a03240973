// When validation no longer gets better: the best evaluation so far, and how many have passed since.
#pragma once

#include <cstdint>
#include <limits>

struct EarlyStopping {
  int64_t best_step = -1;  // -1: nothing was evaluated yet
  double best_loss = std::numeric_limits<double>::infinity();
  int64_t since = 0;  // evaluations since then

  // Whether this one is the best so far; of equal losses the first is. A loss that is not finite never is.
  bool add(int64_t step, double loss) {
    if (!(loss < best_loss)) {
      ++since;
      return false;
    }
    best_step = step;
    best_loss = loss;
    since = 0;
    return true;
  }
  // patience: evaluations without improvement that end a run; 0: none do.
  bool exhausted(int64_t patience) const { return patience > 0 && since >= patience; }
};
