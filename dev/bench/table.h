// Tables of the benchmarks, for a terminal or as Markdown.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

// The first row is the heading; the first `left` columns are aligned to the left.
inline void print_table(const std::vector<std::vector<std::string>>& rows, size_t left, bool markdown) {
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line = markdown ? "|" : "";
    for (size_t c = 0; c < rows[r].size(); ++c) {
      const std::string space(widths[c] - rows[r][c].size(), ' ');
      if (markdown) {
        line += " " + rows[r][c] + " |";
      } else {
        line += (c ? "  " : "") + (c < left ? rows[r][c] + space : space + rows[r][c]);
      }
    }
    std::printf("%s\n", line.c_str());
    if (markdown && r == 0) {
      line = "|";
      for (size_t c = 0; c < widths.size(); ++c) line += c < left ? "---|" : "---:|";
      std::printf("%s\n", line.c_str());
    }
  }
}
