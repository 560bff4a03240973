#include "gpt2/json.h"

#include <set>
#include <vector>

#include "gpt2/error.h"
#include "gpt2/file.h"

namespace fs = std::filesystem;
using nlohmann::json;

json parse_json(std::string_view text, const std::string& where, int max_depth) {
  const size_t nul = text.find('\0');  // the parser would take it for the end
  if (nul != std::string_view::npos) fail("%s: not JSON: a zero byte at offset %zu", where.c_str(), nul);

  std::vector<std::set<std::string>> keys;  // of every object that is open
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= max_depth) fail("%s: nested deeper than the %d levels expected", where.c_str(), max_depth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      fail("%s: the name %s occurs twice", where.c_str(), in_quotes(value.get<std::string>()).c_str());
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    std::string reason = error.what();
    reason.erase(0, reason.find("] ") + 2);  // the library's own number of the error
    fail("%s: not JSON: %s", where.c_str(), replace_invalid_utf8(reason.substr(0, 200)).c_str());
  }
}

std::string in_quotes(std::string_view text) {
  std::string shown(text.substr(0, 100));
  if (shown.size() < text.size()) shown += "...";
  return json(shown).dump(-1, ' ', false, json::error_handler_t::replace);
}

json read_json_object(const fs::path& path) {
  constexpr int kMaxDepth = 64;
  const MappedFile file(path);
  json value = parse_json(file.text(), path.string(), kMaxDepth);
  if (!value.is_object()) fail("%s: expected a JSON object", path.c_str());
  return value;
}

void write_json(const fs::path& path, const json& value) {
  FileWriter file(path);
  file.write(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  file.commit();
}

std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 100);
}
