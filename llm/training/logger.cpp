#include "llm/training/logger.h"

#include <cerrno>
#include <cstring>

#include "llm/support/error.h"
#include "llm/support/metrics.h"

MetricsLog::MetricsLog(const std::filesystem::path& run, int64_t first_step, const RunLock* lock)
    : path_(run / "metrics.jsonl"), lock_(lock) {
  if (run.empty()) return;
  if (std::filesystem::exists(path_)) cut_metrics(path_, first_step);
  file_ = std::fopen(path_.c_str(), "a");
  if (!file_) fail("%s: cannot be written: %s", path_.c_str(), std::strerror(errno));
}

MetricsLog::~MetricsLog() {
  if (file_) std::fclose(file_);
}

void MetricsLog::write(const nlohmann::json& line) {
  if (!file_) return;
  if (lock_) lock_->check();
  const std::string text = metrics_line(line);
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
    fail("%s: cannot be written: %s", path_.c_str(), std::strerror(errno));
  }
}
