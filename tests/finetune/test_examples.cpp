// Seeded orders, splits and batches.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "llm/finetune/examples.h"
#include "llm/support/error.h"
#include "tests/helpers/temporary_folder.h"

namespace {

using Batches = std::vector<std::vector<size_t>>;

std::vector<size_t> sorted(const Batches& batches) {
  std::vector<size_t> all;
  for (const auto& batch : batches) all.insert(all.end(), batch.begin(), batch.end());
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<size_t> counted(size_t n) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), size_t{0});
  return all;
}

}  // namespace

TEST_CASE("a permutation has every number once, and depends on seed and sequence") {
  for (const size_t n : {0, 1, 2, 17, 1000}) {
    auto order = permutation(n, 5, 1);
    CHECK(order == permutation(n, 5, 1));
    if (n > 10) CHECK(order != permutation(n, 6, 1));
    if (n > 10) CHECK(order != permutation(n, 5, 2));
    std::sort(order.begin(), order.end());
    CHECK(order == counted(n));
  }
  // Every place is equally likely for every number: 0's mean place over 2,000 orders of 11.
  double mean = 0;
  for (uint64_t k = 0; k < 2000; ++k) {
    const auto order = permutation(11, 9, k);
    mean += static_cast<double>(std::find(order.begin(), order.end(), size_t{0}) - order.begin()) / 2000;
  }
  CHECK(std::abs(mean - 5) < 4 * 3.17 / std::sqrt(2000.0));
}

TEST_CASE("splits are rounded as in the book") {
  const auto is = [](SplitSizes s, size_t train, size_t validation, size_t test) {
    return s.train == train && s.validation == validation && s.test == test;
  };
  CHECK(is(split_sizes(1494, 0.7, 0.1), 1045, 149, 300));
  CHECK(is(split_sizes(50000, 0.7, 0.1), 35000, 5000, 10000));
  CHECK(is(split_sizes(1100, 0.85, 0.05, 0.1), 935, 55, 110));
  CHECK(is(split_sizes(100, 0.29, 0), 29, 0, 71));  // 0.29 * 100 is below 29 in binary
  CHECK(is(split_sizes(7, 1, 0), 7, 0, 0));
  CHECK(is(split_sizes(10, 0.5, 0.2, 0.1), 5, 2, 1));
  CHECK_THROWS_AS(split_sizes(10, 0.8, 0.3), UsageError);
  CHECK_THROWS_AS(split_sizes(10, 0, 0.3), UsageError);
}

TEST_CASE("an epoch has every example once, except those of an incomplete last batch") {
  std::vector<size_t> lengths;
  for (size_t k = 0; k < 100; ++k) lengths.push_back(1 + k * 37 % 50);
  for (const Batching batching : {Batching::shuffled, Batching::by_length}) {
    const Batches even = epoch_batches(lengths, 4, batching, 1, 0);
    CHECK(even.size() == 25);
    CHECK(sorted(even) == counted(100));
    CHECK(even == epoch_batches(lengths, 4, batching, 1, 0));
    CHECK(even != epoch_batches(lengths, 4, batching, 1, 1));
    CHECK(even != epoch_batches(lengths, 4, batching, 2, 0));
    const Batches uneven = epoch_batches(lengths, 8, batching, 1, 0);
    CHECK(uneven.size() == 12);
    for (const auto& batch : uneven) CHECK(batch.size() == 8);
    CHECK(epoch_batches(lengths, 101, batching, 1, 0).empty());
  }
  // Sorting by length pads far fewer tokens.
  const auto padded = [&](Batching batching) {
    size_t tokens = 0;
    for (const auto& batch : epoch_batches(lengths, 5, batching, 3, 0)) {
      size_t most = 0;
      for (const size_t k : batch) most = std::max(most, lengths[k]);
      for (const size_t k : batch) tokens += most - lengths[k];
    }
    return tokens;
  };
  CHECK(padded(Batching::by_length) * 4 < padded(Batching::shuffled));
}

TEST_CASE("packing: each example goes into the first row with room, with the fewest tokens") {
  CHECK(pack_rows({5, 6, 3, 2, 4, 8, 1}, 8) == Batches{{0, 2}, {1, 3}, {4, 6}, {5}});
  CHECK(pack_rows({8, 8}, 8) == Batches{{0}, {1}});
  CHECK(pack_rows({8, 8}, 16) == Batches{{0}, {1}});        // nothing to save
  CHECK(pack_rows({8, 4, 4}, 16) == Batches{{0}, {1, 2}});  // rows of 8: not longer than necessary
  CHECK(pack_rows({3, 3, 3, 3, 3, 3}, 14) == Batches{{0}, {1}, {2}, {3}, {4}, {5}});
  CHECK(pack_rows({7, 1, 2, 3}, 64) == Batches{{0, 1, 2, 3}});
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<size_t> lengths;
    for (const size_t k : permutation(20, seed, 1)) lengths.push_back(1 + k % (2 + seed % 19));
    const size_t longest = *std::max_element(lengths.begin(), lengths.end());
    for (const size_t length : {longest, 2 * longest, size_t{100}, size_t{1000}}) {
      const Batches rows = pack_rows(lengths, length);
      CHECK(sorted(rows) == counted(20));
      size_t used = 0;
      for (const auto& row : rows) {
        size_t tokens = 0;
        for (const size_t k : row) tokens += lengths[k];
        CHECK(tokens <= length);
        CHECK(std::is_sorted(row.begin(), row.end()));
        used = std::max(used, tokens);
      }
      CHECK(rows.size() * used <= 20 * longest);
    }
  }
  CHECK(pack_rows({}, 8).empty());
  CHECK_THROWS_AS(pack_rows({5, 9}, 8), std::logic_error);
}

TEST_CASE("batches are made in order") {
  CHECK(batches_in_order(5, 2) == Batches{{0, 1}, {2, 3}, {4}});
  CHECK(batches_in_order(4, 4) == Batches{{0, 1, 2, 3}});
  CHECK(batches_in_order(0, 4).empty());
}
