// Rows that hold several documents, for the tests of code that separates them (kernels/attention.h, embedding.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// (B, T): the beginning of each position's document. Rows are filled with documents of these lengths in turn, the last
// one cut off; each row begins with the next length.
inline std::vector<int32_t> documents_of(int B, int T, const std::vector<int>& lengths) {
  std::vector<int32_t> first(static_cast<size_t>(B) * T);
  for (int b = 0; b < B; ++b) {
    size_t next = b;
    for (int t = 0, begin = 0, left = lengths[next % lengths.size()]; t < T; ++t, --left) {
      if (left == 0) {
        begin = t;
        left = lengths[++next % lengths.size()];
      }
      first[static_cast<size_t>(b) * T + t] = begin;
    }
  }
  return first;
}
