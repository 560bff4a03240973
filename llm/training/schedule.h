// Learning rate by step. A linear warm-up of W steps, in which step k has peak (k + 1) / W or, with a `start` above 0,
// start + (peak - start) k / W; then one of
//   constant  peak
//   linear    from peak to `end`, which the step after the last would have
//   cosine    the same along half a cosine (Loshchilov and Hutter 2017)
//   wsd       constant, then linear to `end` over the last fifth ("warm-up, stable, decay", Hu et al. 2024)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

struct Schedule {
  std::string kind = "cosine";
  double peak = 1e-3, end = 1e-4;
  int64_t warmup_steps = 0, steps = 1;
  double start = 0;
};

// step = 0, 1, ..., steps - 1; after these the rate of the end.
inline double learning_rate(const Schedule& s, int64_t step) {
  if (step < s.warmup_steps) {
    const double warmup = static_cast<double>(s.warmup_steps);
    if (s.start > 0) return s.start + (s.peak - s.start) * static_cast<double>(step) / warmup;
    return s.peak * static_cast<double>(step + 1) / warmup;
  }
  const int64_t from = s.kind == "wsd" ? std::max(s.warmup_steps, s.steps - s.steps / 5) : s.warmup_steps;
  const double progress = std::clamp(
      static_cast<double>(step - from) / static_cast<double>(std::max<int64_t>(1, s.steps - from)), 0.0, 1.0);
  if (s.kind == "constant") return s.peak;
  if (s.kind == "cosine") return s.end + (s.peak - s.end) * 0.5 * (1 + std::cos(3.141592653589793 * progress));
  return s.peak + (s.end - s.peak) * progress;  // linear, and wsd's last fifth
}
