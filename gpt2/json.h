// JSON as wrought reads it from files that it did not write itself.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// Parses `text`. Throws Error beginning with `where` for anything that is not one JSON value in UTF-8, a key that
// occurs twice in one object, and nesting deeper than `max_depth` objects and arrays.
nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth);

// The text in quotes, for messages: control characters escaped, shortened if long.
std::string in_quotes(std::string_view text);

// A file that holds one object, which is all that wrought's own and the ecosystem's do. Throws Error as above.
nlohmann::json read_json_object(const std::filesystem::path& path);

// Writes it in one step, indented; what is not UTF-8 is replaced.
void write_json(const std::filesystem::path& path, const nlohmann::json& value);

// A value as messages show it: ASCII, shortened if long.
std::string shown(const nlohmann::json& value);
