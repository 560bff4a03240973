// A run's record: metrics.jsonl, one JSON object per line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "llm/formats/run_folder.h"

class MetricsLog {
 public:
  // Opens RUN/metrics.jsonl to append. Lines of steps from `first_step` on, left by a run that went further than its
  // last checkpoint, are dropped first. An empty `run`: nothing is written. `lock`: that of the run, which must outlive
  // this; each write checks it.
  MetricsLog(const std::filesystem::path& run, int64_t first_step, const RunLock* lock = nullptr);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  void write(const nlohmann::json& line);  // {"step": n, ...}; throws Error if it cannot be written

 private:
  std::filesystem::path path_;
  const RunLock* lock_;
  std::FILE* file_ = nullptr;
};
