// Merging in pieces of text too long for the heap.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "llm/text/bpe.h"

namespace {

using Ids = std::vector<int32_t>;

// Words of at most 500 ids, which are merged one by one for comparison, separated by an id that no merge has.
void check_against_words(const MergeTable& table, size_t n, const std::vector<int32_t>& letters, uint32_t seed) {
  constexpr int32_t kBorder = 9;
  std::mt19937 rng(seed);
  Ids ids, expected;
  while (ids.size() < n) {
    Ids word(1 + rng() % 500);
    for (int32_t& id : word) id = letters[rng() % letters.size()];
    ids.insert(ids.end(), word.begin(), word.end());
    ids.push_back(kBorder);
    word.resize(table.apply(word.data(), word.size()));
    expected.insert(expected.end(), word.begin(), word.end());
    expected.push_back(kBorder);
  }
  ids.resize(table.apply(ids.data(), ids.size()));
  CHECK(ids == expected);
}

}  // namespace

TEST_CASE("a word of a million bytes merges as short ones do, in any order of the merges") {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    std::vector<Merge> merges;
    int32_t next = 10;
    MergeTable in_order;
    while (merges.size() < 100) {
      const auto pick = [&] {
        const auto k = static_cast<int32_t>(rng() % static_cast<uint32_t>(next - 6));
        return k < 4 ? k : k + 6;
      };
      const Merge merge{pick(), pick(), next};
      if (in_order.add(merge)) {
        merges.push_back(merge);
        ++next;
      }
    }
    // In training order, and shuffled: then a merge creates pairs that rank before it.
    if (seed % 2 == 1) std::shuffle(merges.begin(), merges.end(), rng);
    MergeTable table;
    for (const Merge& merge : merges) table.add(merge);
    check_against_words(table, 400'000, {0, 1, 2, 3}, seed);
    // One letter nearly everywhere: it has more pairs than a band holds.
    Ids letters(50, 0);
    letters.push_back(1);
    check_against_words(table, 1'000'000, letters, seed);
  }
}

TEST_CASE("one letter a million times merges in pairs of pairs") {
  MergeTable table;
  table.add({0, 0, 10});
  table.add({10, 10, 11});
  table.add({11, 0, 12});
  for (const size_t n : {size_t{1'000'000}, size_t{1'000'001}, size_t{1'000'003}}) {
    Ids ids(n, 0), expected(n / 4, 11);
    if (n % 4 >= 2) expected.push_back(10);
    if (n % 4 == 1) expected.back() = 12;
    if (n % 4 == 3) expected.push_back(0);
    ids.resize(table.apply(ids.data(), n));
    CHECK(ids == expected);
  }
}
