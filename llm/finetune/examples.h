// What finetuning's data sets share: seeded orders, splits, batches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// ---- orders --------------------------------------------------------------------------------------------------------

// 0 ... n-1 in an order that depends on seed and sequence only.
std::vector<size_t> permutation(size_t n, uint64_t seed, uint64_t sequence);

struct SplitSizes {
  size_t train = 0, validation = 0, test = 0;
};
// floor(n * train), floor(n * validation), and the rest, which is floor(n * test) if `test` is not negative: the book's
// rounding. Throws UsageError if the shares are together more than 1.
SplitSizes split_sizes(size_t n, double train, double validation, double test = -1);

enum class Batching {
  shuffled,   // examples in a new order each epoch
  by_length,  // the same, then sorted by length within stretches of 16 batches: less padding; batches shuffled again
};

// The batches of an epoch: indices into `lengths`, B each. The last, if it would be smaller, is dropped: every step
// then weighs its examples alike. Follows from seed and epoch alone.
std::vector<std::vector<size_t>> epoch_batches(const std::vector<size_t>& lengths, size_t B, Batching batching,
                                               uint64_t seed, uint64_t epoch);

// Shares rows of at most `length` tokens among examples of these lengths, none above it: each, in its order, goes into
// the first row that has room for it. Rows are all as long as the longest; of all lengths up to `length` that one is
// taken for which they have the fewest tokens together, so never more than with a row each. What the rows hold, as
// indices into `lengths`.
std::vector<std::vector<size_t>> pack_rows(const std::vector<size_t>& lengths, size_t length);

// 0 ... n-1 in order, at most B at a time: what an evaluation goes through.
std::vector<std::vector<size_t>> batches_in_order(size_t n, size_t B);
