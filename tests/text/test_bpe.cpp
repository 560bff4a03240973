#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <random>

#include "llm/text/bpe.h"

namespace {

using Ids = std::vector<int32_t>;

// BPE by its definition: merge the leftmost pair of lowest rank until none is left.
Ids merge_plainly(Ids ids, std::span<const Merge> merges) {
  for (;;) {
    size_t best_rank = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t r = 0; r < best_rank; ++r) {
        if (merges[r].left == ids[i] && merges[r].right == ids[i + 1]) {
          best_rank = r;
          at = i;
          break;
        }
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[at] = merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
  }
}

// Training by its definition: count all pairs anew for every step.
std::vector<Merge> learn_plainly(const std::map<std::string, int64_t>& pieces, int32_t first_id, size_t tokens) {
  std::vector<std::pair<Ids, int64_t>> words;
  for (const auto& [piece, count] : pieces) words.push_back({Ids(piece.begin(), piece.end()), count});
  std::vector<Merge> learnt;
  std::map<int32_t, std::string> spelling;
  for (int b = 0; b < 256; ++b) spelling[b] = std::string(1, static_cast<char>(b));
  std::map<std::string, int32_t> made;
  while (made.size() < tokens) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& [ids, count] : words) {
      for (size_t i = 0; i + 1 < ids.size(); ++i) counts[{ids[i], ids[i + 1]}] += count;
    }
    const auto best = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
      return a.second < b.second;  // the first of equals: the smallest pair
    });
    if (best == counts.end() || best->second < 2) break;
    const auto [left, right] = best->first;
    const std::string token = spelling[left] + spelling[right];
    const int32_t id = made.try_emplace(token, first_id + static_cast<int32_t>(made.size())).first->second;
    spelling[id] = token;
    learnt.push_back({left, right, id});
    for (auto& [ids, count] : words) ids = merge_plainly(ids, std::span(&learnt.back(), 1));
  }
  return learnt;
}

std::array<int32_t, 256> identity() {
  std::array<int32_t, 256> ids;
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

}  // namespace

TEST_CASE("merging equals the definition, at every length up to that of the heap") {
  // A random vocabulary, whose merges are not in training order.
  std::mt19937 rng(1);
  MergeTable table;
  int32_t next = 4;
  while (table.merges().size() < 120) {
    const auto left = static_cast<int32_t>(rng() % static_cast<uint32_t>(next)),
               right = static_cast<int32_t>(rng() % static_cast<uint32_t>(next));
    if (table.add({left, right, next})) ++next;
  }
  for (size_t n = 0; n < 900; n += n < 40 ? 1 : 37) {
    for (int round = 0; round < 4; ++round) {
      Ids ids(n);
      for (int32_t& id : ids) id = static_cast<int32_t>(rng() % (round == 0 ? 1 : 4));
      Ids merged = ids;
      merged.resize(table.apply(merged.data(), n));
      CAPTURE(n);
      REQUIRE(merged == merge_plainly(ids, table.merges()));
    }
  }
}

TEST_CASE("the table finds added pairs, refuses a pair twice and grows") {
  MergeTable table;
  for (int32_t k = 0; k < 5000; ++k) REQUIRE(table.add({k, MergeTable::kMaxId - 1 - k, k + 1}));
  CHECK_FALSE(table.add({7, MergeTable::kMaxId - 8, 1}));
  for (int32_t k = 0; k < 5000; ++k) REQUIRE(table.rank(k, MergeTable::kMaxId - 1 - k) == static_cast<uint32_t>(k));
  CHECK(table.rank(1, 1) == MergeTable::kNone);
  CHECK(table.rank(300, 300) == MergeTable::kNone);
}

TEST_CASE("learning equals the definition") {
  std::mt19937 rng(3);
  for (int round = 0; round < 60; ++round) {
    std::map<std::string, int64_t> words;
    for (int w = 0; w < 30; ++w) {
      std::string word;
      for (size_t k = 1 + rng() % 12; k > 0; --k) word += static_cast<char>('a' + rng() % (round % 3 + 1));
      words[word] = 1 + static_cast<int64_t>(rng() % 5);
    }
    std::unordered_map<std::string_view, int64_t> pieces(words.begin(), words.end());
    const auto plain = learn_plainly(words, 256, 80);
    REQUIRE(plain.size() > 3);
    REQUIRE(learn_merges(pieces, identity(), 256, 80) == plain);
  }
}

TEST_CASE("learning ends when no pair occurs twice") {
  CHECK(learn_merges({{"ab", 1}, {"cd", 1}}, identity(), 256, 10).empty());
  CHECK(learn_merges({{"ab", 2}}, identity(), 256, 10) == std::vector<Merge>{{'a', 'b', 256}});
  CHECK(learn_merges({}, identity(), 256, 10).empty());
}
