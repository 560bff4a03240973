// The rows of a file, for programs that read rows and write some of them back: a JSON array of objects (.json), one
// JSON object per line (.jsonl), columns below a line of names (.tsv; .csv as in RFC 4180, where a quoted field may
// hold line ends), or bare lines (any other ending).
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
  std::vector<std::string> text;        // for each row: the chosen fields, one per line
  std::vector<int64_t> number;          // for each row: its line in the file, or its place in the array, from 1
  std::vector<std::string_view> lines;  // as in the file, without the line end (LF for a .csv); not for .json
  std::string header;                   // the line of names of a .tsv or .csv
  MappedFile file;                      // write_rows() reads it again
};

// `fields`: names of fields or columns; none: every string of an object, every column of a .tsv or .csv. Bare lines
// have none. Throws Error naming the line that is malformed or lacks a field, and UsageError for fields of bare lines.
Rows read_rows(const std::filesystem::path& path, const std::vector<std::string>& fields);

// Writes the rows to keep, in the same form, in one step.
void write_rows(const Rows& rows, const std::vector<bool>& keep, const std::filesystem::path& path);
