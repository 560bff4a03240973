// Shards -> inputs, targets and per-token weights, one batch at a time, prefetched on a thread.
//
// A window is T + 1 tokens: inputs are its first T, targets its last T. Windows start every `stride` tokens (default T).
//   sequential  windows in file order (llm.c's order: batch k of rank r holds windows (k*R + r)*B ...)
//   shuffled    each epoch starts at its own random phase in [0, stride) and visits all windows once, in the order of a
//               keyed permutation (nothing is stored; any position can be reached at once)
// Rank r of R takes every R-th batch: over an epoch each window goes to exactly one rank. Windows that do not fill a whole
// batch on every rank are dropped at the epoch's end (at most R*B - 1 of them).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gpt2/shards.h"

struct Batch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs, targets;  // (B, T)
  std::vector<float> weights;            // (B, T)  1 for every token in pretraining
};

struct LoaderConfig {
  int B = 4, T = 64;
  int64_t stride = 0;  // 0: T
  bool shuffled = true;
  uint64_t seed = 0;
  int rank = 0, ranks = 1;
};

struct LoaderPosition {  // of the next batch to be returned: part of the training state
  int64_t epoch = 0, batch = 0;
  bool operator==(const LoaderPosition&) const = default;
};

class DataLoader {
 public:
  // Throws Error if the sequence is too short for one batch on every rank (says how many tokens there are and are needed).
  DataLoader(TokenSequence tokens, const LoaderConfig& config);
  ~DataLoader();
  DataLoader(DataLoader&&) noexcept;

  const Batch& next();  // valid until the next call; goes on into the next epoch by itself
  LoaderPosition position() const;
  void seek(LoaderPosition position);  // throws Error if outside an epoch
  int64_t batches_per_epoch() const;   // of this rank

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
