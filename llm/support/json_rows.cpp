#include "llm/support/json_rows.h"

#include <utility>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kMaxRowDepth = 16;

std::string keys_of(const json& object) {
  std::string keys;
  for (const auto& [key, value] : object.items()) keys += (keys.empty() ? "" : ", ") + in_quotes(key);
  return keys.empty() ? "none" : keys;
}

}  // namespace

void for_each_json_row(const fs::path& path, const std::function<void(const JsonRow& row)>& visit) {
  const MappedFile file(path);
  check_not_utf16(file.text(), path);
  size_t rows = 0;
  const auto take = [&](json value, const std::string& where) {
    if (!value.is_object()) fail("%s: expected an object such as {\"key\": \"value\"}", where.c_str());
    visit(JsonRow{std::move(value), where});
    ++rows;
  };
  if (ending_of(path) == ".jsonl") {
    for_each_line(file, [&](std::string_view text, size_t number) {
      if (text.find_first_not_of(" \t\r") == std::string_view::npos) return;
      const std::string where = strprintf("%s: line %zu", path.c_str(), number);
      take(parse_json(text, where, kMaxRowDepth), where);
    });
  } else {
    const json all = parse_json(file, kMaxRowDepth + 1, [&](JsonPath at, json& value) {
      if (at.size() != 1 || !at[0].empty()) return true;  // not in an array
      take(std::move(value), strprintf("%s: row %zu", path.c_str(), rows + 1));
      return false;
    });
    if (!all.is_array()) {
      fail("%s: expected an array of objects, found %s; a file with one object per line ends in .jsonl", path.c_str(),
           all.type_name());
    }
  }
  if (rows == 0) fail("%s: there are no rows in it", path.c_str());
}

std::vector<JsonRow> read_json_rows(const fs::path& path) {
  std::vector<JsonRow> rows;
  for_each_json_row(path, [&](const JsonRow& row) { rows.push_back(row); });
  return rows;
}

std::string string_in(const JsonRow& row, const char* key, bool optional) {
  const auto found = row.value.find(key);
  if (found == row.value.end()) {
    if (optional) return "";
    fail("%s: the key \"%s\" is missing, found %s", row.where.c_str(), key, keys_of(row.value).c_str());
  }
  if (!found->is_string()) {
    fail("%s: \"%s\" is %s, expected a string", row.where.c_str(), key, shown(*found).c_str());
  }
  return found->get<std::string>();
}
