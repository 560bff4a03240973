// A run's metrics.jsonl: one JSON object per line. Each has "step" and what was measured there; the first has the run's
// "config". A line that a crash cut off does not count.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

// A record as a line of the file, with its end. A prompt or a path need not be UTF-8, but JSON must be: such bytes are
// replaced.
std::string metrics_line(const nlohmann::json& record);

// Cuts a file back to the lines of steps below `first_step`, which stay byte for byte: for a run that continues from
// its last checkpoint. Throws Error if it cannot be written.
void cut_metrics(const std::filesystem::path& path, int64_t first_step);

// The numbers in such a file, line by line.
struct Metrics {
  std::string given;  // as the constructor got it
  std::filesystem::path path;
  std::map<std::string, size_t> present;             // names of numbers -> their indices
  std::vector<std::pair<uint32_t, double>> numbers;  // of all lines: index of the name, value
  std::vector<size_t> ends;                          // of each line's numbers
  double batch_tokens = 0;                           // per step, where the run's first line says so

  // A run's folder, or the file. Throws Error if there is none, or no number in it.
  explicit Metrics(const std::string& run);

  // Calls visit(x, y) for each line that has both numbers.
  template <class Visit>
  void for_each_pair(const std::string& x, const std::string& y, Visit&& visit) const {
    const auto index = [&](const std::string& name) {
      const auto found = present.find(name);
      return found == present.end() ? SIZE_MAX : found->second;
    };
    const size_t ix = index(x), iy = index(y);
    size_t k = 0;
    for (const size_t end : ends) {
      const double *px = nullptr, *py = nullptr;
      for (; k < end; ++k) {
        if (numbers[k].first == ix) px = &numbers[k].second;
        if (numbers[k].first == iy) py = &numbers[k].second;
      }
      if (px && py) visit(*px, *py);
    }
  }

  // Values of `field`, times `scale`, over x. A line that lacks one of the two, or has something other than a number,
  // does not count; of several at one x the last counts.
  std::vector<std::pair<double, double>> points(const std::string& field, const std::string& x, double scale) const;
};
