// A range test for the learning rate (Smith 2017): every step has a higher rate than the one before it, and the loss
// tells where learning begins and where it breaks.
#pragma once

#include <cstdint>
#include <vector>

struct LrFinder {
  double from = 1e-6, to = 1;  // rates of the first and the last step, in equal ratios
  int64_t steps = 100;

  struct Point {
    double lr, loss, smoothed;  // smoothed: exponential mean with a factor of 0.9, corrected for its start
  };
  std::vector<Point> points = {};

  double lr(int64_t step) const;  // step = 0, 1, ..., steps - 1
  // Adds the next step's loss. Returns false when further steps are useless: the loss is not finite, or the smoothed
  // loss has risen from its lowest by more than it had fallen to there from the first.
  bool add(double loss);

  // Half of the rate at which the smoothed loss is lowest: smoothing lags, and at half of that rate the loss still
  // falls fast. Throws Error if the loss never fell.
  double suggestion() const;
};
