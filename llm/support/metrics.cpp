#include "llm/support/metrics.h"

#include <algorithm>
#include <string_view>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

// ---- writing -------------------------------------------------------------------------------------------------------

std::string metrics_line(const json& record) {
  return record.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
}

void cut_metrics(const fs::path& path, int64_t first_step) {
  const MappedFile before(path);
  FileWriter kept(path);
  std::string_view rest = before.text();
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    const json j = parse_json_if_whole(line, 64);  // a line cut off by a crash is dropped too
    if (j.is_object() && j.contains("step") && j["step"].is_number() && j["step"] < first_step) {
      kept.write(line);
      kept.write("\n");
    }
  }
  kept.commit();
}

// ---- reading -------------------------------------------------------------------------------------------------------

Metrics::Metrics(const std::string& run)
    : given(run), path(fs::is_directory(run) ? fs::path(run) / "metrics.jsonl" : fs::path(run)) {
  if (!fs::exists(path)) fail("%s: missing, expected a run's folder, which has it, or the file", path.c_str());
  const MappedFile file(path);
  for_each_line(file, [&](std::string_view text, size_t) {
    const json line = parse_json_if_whole(text, 64);
    if (!line.is_object()) return;  // cut off by a crash
    for (const auto& [name, value] : line.items()) {
      if (!value.is_number()) continue;
      const size_t index = present.emplace(name, present.size()).first->second;
      numbers.emplace_back(static_cast<uint32_t>(index), value.get<double>());
    }
    ends.push_back(numbers.size());
    if (line.contains("config") && line["config"].is_object()) {
      const auto value = line["config"].find("total-batch-tokens");
      if (value != line["config"].end() && value->is_number()) batch_tokens = *value;
    }
  });
  if (present.empty()) fail("%s: no line with numbers, expected a run's metrics", path.c_str());
}

std::vector<std::pair<double, double>> Metrics::points(const std::string& field, const std::string& x,
                                                       double scale) const {
  std::vector<std::pair<double, double>> all;
  for_each_pair(x, field, [&](double at, double value) { all.emplace_back(at, scale * value); });
  const auto before = [](const auto& a, const auto& b) { return a.first < b.first; };
  if (!std::is_sorted(all.begin(), all.end(), before)) std::stable_sort(all.begin(), all.end(), before);
  size_t kept = 0;
  for (size_t k = 0; k < all.size(); ++k) {
    if (k + 1 == all.size() || all[k + 1].first != all[k].first) all[kept++] = all[k];
  }
  all.resize(kept);
  return all;
}
