// Keys to be sorted, with sizes and ranges at which a radix sort by 8 bits and tiles of 1,024 may fail.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/helpers/finite_differences.h"

struct SortCase {
  const char* name;
  int limit;  // keys are below it
  std::vector<int32_t> keys;
};

inline std::vector<SortCase> sort_cases() {
  std::vector<SortCase> all = {{"one key, of one possible", 1, {0}},
                               {"one key", 5, {4}},
                               {"only one key is possible", 1, std::vector<int32_t>(1500, 0)},
                               {"two keys", 2, random_ints(33, 1, 2)},
                               {"less than a warp", 256, random_ints(31, 2, 256)},
                               {"a warp", 256, random_ints(32, 3, 256)},
                               {"one more than a warp", 256, random_ints(33, 4, 256)},
                               {"a warp's part of a tile and one more", 100, random_ints(129, 5, 100)},
                               {"one less than a tile", 200, random_ints(1023, 6, 200)},
                               {"a tile", 200, random_ints(1024, 7, 200)},
                               {"one more than a tile", 200, random_ints(1025, 8, 200)},
                               {"the largest limit of one pass", 256, random_ints(700, 9, 256)},
                               {"the smallest limit of two passes", 257, random_ints(700, 10, 257)},
                               {"the largest limit of two passes", 1 << 16, random_ints(1300, 11, 1 << 16)},
                               {"the smallest limit of three passes", (1 << 16) + 1, random_ints(1300, 12, 1 << 16)},
                               {"four passes", INT32_MAX, random_ints(2049, 13, INT32_MAX)},
                               {"more than 32 tiles", 300, random_ints(33 * 1024 + 7, 14, 300)},
                               {"all the same", 70'000, std::vector<int32_t>(3000, 69'999)},
                               {"in order", 1100, {}},
                               {"in reverse order", 1100, {}},
                               {"two digits in turn", 513, {}}};
  for (const int last : {256, (1 << 16)}) {  // the key that needs the next pass
    for (SortCase& test : all) {
      if (test.limit == last + 1) test.keys[test.keys.size() / 3] = last;
    }
  }
  for (int32_t i = 0; i < 1100; ++i) {
    all[all.size() - 3].keys.push_back(i);
    all[all.size() - 2].keys.push_back(1099 - i);
    all[all.size() - 1].keys.push_back(i % 2 == 0 ? 512 : 0);
  }
  return all;
}
