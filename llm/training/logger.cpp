#include "llm/training/logger.h"

#include <cerrno>
#include <cstring>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

MetricsLog::MetricsLog(const std::filesystem::path& run, int64_t first_step, const RunLock* lock)
    : path_(run / "metrics.jsonl"), lock_(lock) {
  if (run.empty()) return;
  if (std::filesystem::exists(path_)) {
    const MappedFile before(path_);
    FileWriter kept(path_);
    {
      std::string_view rest = before.text();
      while (!rest.empty()) {
        const size_t end = rest.find('\n');
        const std::string_view line = rest.substr(0, end);
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        const nlohmann::json j = parse_json_if_whole(line, 64);  // a line cut off by a crash is dropped too
        if (j.is_object() && j.contains("step") && j["step"].is_number() && j["step"] < first_step) {
          kept.write(line);
          kept.write("\n");
        }
      }
    }
    kept.commit();
  }
  file_ = std::fopen(path_.c_str(), "a");
  if (!file_) fail("%s: cannot be written: %s", path_.c_str(), std::strerror(errno));
}

MetricsLog::~MetricsLog() {
  if (file_) std::fclose(file_);
}

void MetricsLog::write(const nlohmann::json& line) {
  if (!file_) return;
  if (lock_) lock_->check();
  // A prompt or a path need not be UTF-8; JSON must be.
  const std::string text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
    fail("%s: cannot be written: %s", path_.c_str(), std::strerror(errno));
  }
}
