// A cache of pages for the tests of its kernels.
#pragma once

#include <numeric>
#include <random>
#include <vector>

#include "kernels/kv_cache.h"

// Rows of a pass, and pages for their sequences in a shuffled order. `more`: pages that the table has room for beyond
// the longest sequence. Entries beyond a sequence's last token lead out of the cache.
struct PageTable {
  std::vector<int32_t> positions, sequences, pages;
  int max_pages = 0, count = 1;  // of pages; one belongs to no sequence

  PageTable(std::vector<int32_t> positions_, std::vector<int32_t> sequences_, uint64_t seed, int more = 1)
      : positions(std::move(positions_)), sequences(std::move(sequences_)) {
    std::vector<int> used;  // pages of each sequence
    for (size_t n = 0; n < positions.size(); ++n) {
      const size_t s = static_cast<size_t>(sequences[n]);
      used.resize(std::max(used.size(), s + 1), 0);
      used[s] = std::max(used[s], pages_of(positions[n] + 1));
      max_pages = std::max(max_pages, used[s]);
    }
    max_pages += more;
    count += std::accumulate(used.begin(), used.end(), 0);
    std::vector<int32_t> shuffled(static_cast<size_t>(count));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    std::mt19937_64 engine(seed);
    for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[engine() % i]);
    pages.assign(used.size() * static_cast<size_t>(max_pages), INT32_MAX / 2);
    auto next = shuffled.begin();
    for (size_t s = 0; s < used.size(); ++s) {
      for (int i = 0; i < used[s]; ++i) pages[s * static_cast<size_t>(max_pages) + static_cast<size_t>(i)] = *next++;
    }
  }
  CacheRows rows() const { return {positions.data(), sequences.data(), pages.data(), max_pages}; }
  size_t elements(int layers, const AttentionShape& s) const {
    return static_cast<size_t>(count) * static_cast<size_t>(layers) * 2 * kPageTokens *
           static_cast<size_t>(s.kv_channels());
  }
  // Channel i of head h of token t of a sequence, in its keys (0) or values (1).
  size_t at(int sequence, int t, int layer, int layers, int kind, int h, int i, const AttentionShape& s) const {
    const int64_t page = pages[static_cast<size_t>(sequence * max_pages + t / 32)];
    return static_cast<size_t>(((((page * layers + layer) * 2 + kind) * s.NKV + h) * 32 + t % 32) * s.HS + i);
  }
};

// Each row is of another sequence.
inline std::vector<int32_t> own_sequences(size_t rows) {
  std::vector<int32_t> sequences(rows);
  std::iota(sequences.begin(), sequences.end(), 0);
  return sequences;
}
