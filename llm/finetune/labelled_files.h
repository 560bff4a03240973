// Labelled texts in files: tables, lines of JSON, and folders named after the labels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

struct LabelledText {
  std::string label, text;
  std::string where;  // "mails.tsv: line 7": for messages
};

struct LabelledSource {
  std::string text_column = "text", label_column = "label";  // a name, or a number from 1
  std::string header = "auto";                               // yes | no | auto, for .tsv and .csv
  std::vector<std::string> labels;                           // only these; empty: all
  bool lossy = false;                                        // bytes that are not UTF-8 become U+FFFD
};

struct LabelledTexts {
  std::vector<LabelledText> rows;
  int64_t empty = 0;    // rows with no text but white space: left out
  int64_t others = 0;   // rows with other labels than those asked for: left out
  std::string header;   // the line taken for column names; "" if none
  bool pooled = false;  // texts of train/ and of test/ in one folder, together
};

// By the ending of the name, in small or capital letters:
//   .tsv    columns between tabs, taken as they are: a quote is a quote
//   .csv    RFC 4180: commas, fields in "quotes" with commas, line ends and doubled quotes in them
//   .jsonl  one object per line; labels may be strings, whole numbers, true or false
//   a folder: LABEL/*.txt in it, or train/LABEL/*.txt and test/LABEL/*.txt together, sorted by path
// With header "auto" the first line is a header if it holds a column's name, or, if both columns are given as numbers,
// if its label occurs nowhere else. Throws Error with file and line: a missing column (naming those that exist), a line
// with more or fewer columns than the first, quotes that are not balanced, an empty label, text that is not UTF-8, no
// row.
LabelledTexts read_labelled(const std::filesystem::path& path, const LabelledSource& source);
