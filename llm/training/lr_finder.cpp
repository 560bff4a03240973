#include "llm/training/lr_finder.h"

#include <algorithm>
#include <cmath>

#include "llm/support/error.h"

namespace {
constexpr double kSmoothing = 0.9;

auto lowest(const std::vector<LrFinder::Point>& points) {
  return std::min_element(points.begin(), points.end(),
                          [](const auto& a, const auto& b) { return a.smoothed < b.smoothed; });
}
}  // namespace

double LrFinder::lr(int64_t step) const {
  if (steps < 2) return from;
  return from * std::pow(to / from, static_cast<double>(step) / static_cast<double>(steps - 1));
}

bool LrFinder::add(double loss) {
  if (!std::isfinite(loss)) return false;
  const double n = static_cast<double>(points.size());
  const double before = points.empty() ? 0 : points.back().smoothed * (1 - std::pow(kSmoothing, n));
  const double mean = kSmoothing * before + (1 - kSmoothing) * loss;
  points.push_back({lr(static_cast<int64_t>(points.size())), loss, mean / (1 - std::pow(kSmoothing, n + 1))});
  const double low = lowest(points)->smoothed, first = points.front().smoothed;
  return points.size() < 10 || points.back().smoothed - low <= std::max(first - low, 0.1 * first);
}

double LrFinder::suggestion() const {
  if (points.empty() || lowest(points) == points.begin()) {
    fail("no learning rate from %g to %g lowered the loss: try other data, or a smaller model", from, to);
  }
  return lowest(points)->lr / 2;
}
