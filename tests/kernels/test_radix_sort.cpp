#include <doctest/doctest.h>

#include <algorithm>

#include "kernels/radix_sort.h"
#include "tests/helpers/sort_cases.h"

TEST_CASE("the radix sort equals a stable sort by key") {
  for (const SortCase& test : sort_cases()) {
    CAPTURE(test.name);
    const int N = static_cast<int>(test.keys.size());
    std::vector<uint64_t> expected, sorted(test.keys.size());
    for (int i = 0; i < N; ++i)
      expected.push_back(static_cast<uint64_t>(test.keys[i]) << 32 | static_cast<uint64_t>(i));
    std::stable_sort(expected.begin(), expected.end(), [](uint64_t a, uint64_t b) { return a >> 32 < b >> 32; });
    cpu::radix_sort(sorted.data(), test.keys.data(), N, test.limit);
    CHECK(sorted == expected);
  }
}
