// Data sets in JSON: a file of objects, row by row.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

struct JsonRow {
  nlohmann::json value;  // an object
  std::string where;     // "rows.json: row 3", "rows.jsonl: line 3": for messages
};

// The objects of a .jsonl file, one per line (empty lines are skipped), or of a JSON array (any other ending). Throws
// Error for anything that is not an object, naming file and row, counted from 1; and if there is no row. Holds no more
// than one row at a time.
void for_each_json_row(const std::filesystem::path& path, const std::function<void(const JsonRow& row)>& visit);
std::vector<JsonRow> read_json_rows(const std::filesystem::path& path);

// The string under `key`; "" if it is absent and `optional`. Throws Error naming the row and the keys it has.
std::string string_in(const JsonRow& row, const char* key, bool optional);
