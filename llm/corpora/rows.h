// The rows of a file, for programs that look at rows and write some of them again: a JSON array of objects (.json), one
// JSON object a line (.jsonl), columns with a line of names first (.tsv; .csv as in RFC 4180, where a field in quotes
// may hold line ends), or bare lines (any other ending).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "llm/support/file.h"

struct Rows {
  enum class Kind { json, jsonl, tsv, csv, lines };
  Kind kind = Kind::lines;
  std::vector<std::string> text;  // of each row: the chosen fields, each on a line of its own
  std::vector<int64_t> number;    // its line in the file, or its place in the array, from 1
  std::vector<std::string_view>
      lines;           // as they stand in the file, without the line's end (of a .csv its LF); not for .json
  std::string header;  // of a .tsv or .csv
  MappedFile file;     // which write_rows() reads again
};

// `fields`: names of fields or columns; none: every string of an object, every column of a .tsv or .csv. Bare lines
// have none. Throws Error naming the line for what is not of the form or lacks a field, and UsageError for fields of
// bare lines.
Rows read_rows(const std::filesystem::path& path, const std::vector<std::string>& fields);

// The rows for which `keep` says so, in the same form, in one step.
void write_rows(const Rows& rows, const std::vector<bool>& keep, const std::filesystem::path& path);
