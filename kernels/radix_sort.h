// Sorts positions by one key each, stably:  out = (key of p, p) for all positions p, by increasing key, and positions
// of the same key in increasing order. An item is 64 bits, the key in the upper half and the position in the lower.
//
// A radix sort: the keys' lowest 8 bits first, then the next 8, as many as the largest key has. Each pass keeps the
// order of items with the same digit, so at the end they are ordered by all digits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace cpu {

inline void radix_sort(uint64_t* out,        // (N)
                       const int32_t* keys,  // (N)  in [0, limit)
                       int N, int limit) {
  std::vector<uint64_t> items(static_cast<size_t>(N));
  for (int i = 0; i < N; ++i) out[i] = static_cast<uint64_t>(keys[i]) << 32 | static_cast<uint64_t>(i);

  for (int shift = 0; static_cast<int64_t>(limit - 1) >> shift > 0; shift += 8) {
    const auto digit_of = [&](uint64_t item) { return item >> 32 >> shift & 255; };
    items.assign(out, out + N);
    // how often each digit occurs
    int places[256] = {};
    for (const uint64_t item : items) ++places[digit_of(item)];
    // the first place of each digit: after all items of smaller ones
    int place = 0;
    for (int& count : places) place += std::exchange(count, place);
    // every item to the next free place of its digit
    for (const uint64_t item : items) out[places[digit_of(item)]++] = item;
  }
}

}  // namespace cpu
