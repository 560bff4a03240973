// JSON as wrought reads it from files that it did not write itself.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// Parses `text`. Throws Error beginning with `where` for anything that is not one JSON value in UTF-8, a key that
// occurs twice in one object, and nesting deeper than `max_depth` objects and arrays.
nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth);

// The text in quotes, for messages: control characters escaped, shortened if long.
std::string in_quotes(std::string_view text);
