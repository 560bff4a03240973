// Reads JSON from files that wrought did not write itself: in time linear in the text, however it is nested, and part
// by part if a file is large.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

class MappedFile;

// Parses `text`. Throws Error beginning with `where`, naming the byte, for anything that is not one JSON value in
// UTF-8, a key that occurs twice in one object, and nesting deeper than `max_depth` objects and arrays.
nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth);
nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& where, int max_depth);

// The same, but returns a discarded value instead of throwing: for lines that a crash may have cut off.
nlohmann::json parse_json_if_whole(std::string_view text, int max_depth);

// A value's place: the keys that lead to it from the outermost object, "" for an array element.
using JsonPath = std::span<const std::string>;

// Called when a value ends, innermost first, with the value's place. If it returns false, the value is left out of the
// object or array around it, so that a file is never held whole. Keys left out this way are not checked for occurring
// twice.
template <class Json>
using JsonVisitor = std::function<bool(JsonPath path, Json& value)>;

// Parses a mapped file, whose path begins the errors; its pages are returned to the system as they are read.
nlohmann::json parse_json(const MappedFile& file, int max_depth, const JsonVisitor<nlohmann::json>& visit = nullptr);
nlohmann::ordered_json parse_ordered_json(const MappedFile& file, int max_depth,
                                          const JsonVisitor<nlohmann::ordered_json>& visit = nullptr);
// Parses a part of one, `begin` bytes after its start; errors begin with `where` and count bytes from there.
nlohmann::json parse_json(const MappedFile& file, size_t begin, size_t bytes, const std::string& where, int max_depth,
                          const JsonVisitor<nlohmann::json>& visit);

// The text in quotes, for messages: control characters escaped, shortened if long.
std::string in_quotes(std::string_view text);
// Names in quotes, one after another, 20 of them at most.
std::string list_of(const std::vector<std::string>& names);

// Reads a file that holds one object, as all files of wrought and its ecosystem do. Throws Error as above.
nlohmann::json read_json_object(const std::filesystem::path& path);

// Writes it in one step, indented; what is not UTF-8 is replaced.
void write_json(const std::filesystem::path& path, const nlohmann::json& value);

// A value as messages show it: ASCII, shortened if long.
std::string shown(const nlohmann::json& value);
