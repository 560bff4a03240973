// Shards -> inputs, targets and per-token weights, one batch at a time, the next one prefetched on a thread.
//
// A window is T + 1 tokens: inputs are its first T, targets its last T. Windows start every `stride` tokens.
//   sequential  windows in file order from token 0. With stride T and one shard this is llm.c's loader without
//               shuffling, for one process: the same tokens in the same batches, (tokens - 1) / (B*T) of them per
//               epoch. (llm.c drops the remainder of each of several shards; here windows cross the borders.)
//   shuffled    each epoch starts at its own random phase in [0, stride) and visits all windows that fit at every
//               phase once, in the order of a keyed permutation (nothing is stored; any position is reached at once)
//   fixed       shuffled, but always the windows of the sequential order: the same ones in every epoch
// Batch k of an epoch holds the B windows from number k*B of that order; at most B - 1 windows at its end are left out,
// different ones in each shuffled epoch. The batches of all epochs, one after the other, are dealt to the R ranks in
// turn: so each batch goes to exactly one rank, and what R ranks see in a step is what one process sees in R
// micro-batches.
//
// Everything is determined by the tokens, the configuration and the position: a loader that seeks to the position of
// another continues exactly as that one does.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "llm/models/batch.h"
#include "llm/text/shards.h"

struct LoaderConfig {
  int B = 4, T = 64;
  int64_t stride = 0;  // 0: T
  bool shuffled = true;
  uint64_t seed = 0;
  int rank = 0, ranks = 1;
  bool fixed = false;  // for shuffled windows
};

struct LoaderPosition {  // the next batch for rank 0, counted over all ranks: part of the training state
  int64_t epoch = 0, batch = 0;
  bool operator==(const LoaderPosition&) const = default;
};

class DataLoader {
 public:
  // Throws Error if the sequence is too short for one batch (naming the tokens there are and the tokens needed).
  DataLoader(TokenSequence tokens, const LoaderConfig& config);
  ~DataLoader();
  DataLoader(DataLoader&&) noexcept;

  // Valid until the next call; continues into the next epoch by itself. If the data cannot be read (Shard::copy) this
  // throws and the position stays.
  const Batch& next();
  LoaderPosition position() const;
  void seek(LoaderPosition position);  // throws Error if outside an epoch
  int64_t batches_per_epoch() const;   // over all ranks; the same for every epoch

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
