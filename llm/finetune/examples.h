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
// floor(n * train), floor(n * validation), and for test floor(n * test), or the rest if `test` is negative: the book's
// rounding. Throws UsageError if the shares are more than 1 together.
SplitSizes split_sizes(size_t n, double train, double validation, double test = -1);

enum class Batching {
  shuffled,   // examples in a new order each epoch
  by_length,  // the same, then sorted by length within stretches of 16 batches: less padding; batches shuffled again
};

// The batches of an epoch: indices into `lengths`, B each. A smaller last batch is dropped: every step then weighs its
// examples alike. Depends only on seed and epoch.
std::vector<std::vector<size_t>> epoch_batches(const std::vector<size_t>& lengths, size_t B, Batching batching,
                                               uint64_t seed, uint64_t epoch);

// Packs examples of these lengths, none above `length`, into rows of at most `length` tokens: each, in its order, goes
// into the first row that has room for it. All rows have the same length: of all lengths up to `length` the one with
// the fewest tokens together, so never more than with one row per example. Returns the examples in each row, as indices
// into `lengths`.
std::vector<std::vector<size_t>> pack_rows(const std::vector<size_t>& lengths, size_t length);

// 0 ... n-1 in order, at most B at a time: the batches of an evaluation.
std::vector<std::vector<size_t>> batches_in_order(size_t n, size_t B);
