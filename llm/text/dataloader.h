// Shards -> inputs, targets and per-token weights, one batch at a time, the next one prefetched on a thread.
//
// A window is T + 1 tokens: inputs are its first T, targets its last T. Windows start every `stride` tokens.
//   sequential  windows in file order from token 0. With stride T and one shard this is llm.c's loader without
//               shuffling, for one process: the same tokens in the same batches, (tokens - 1) / (B*T) of them an epoch.
//               (Of several shards llm.c drops each one's remainder; here windows cross the borders.)
//   shuffled    each epoch starts at its own random phase in [0, stride) and visits all windows that fit at every
//               phase once, in the order of a keyed permutation (nothing is stored; any position is reached at once)
//   fixed       shuffled, but always the sequential order's windows: epoch after epoch the same ones
// Batch k of an epoch holds the B windows from number k*B of that order; at most B - 1 windows at its end are left out,
// other ones in each shuffled epoch. The batches of all epochs, one behind the other, are dealt to the R ranks in turn:
// so each batch goes to exactly one rank, and what R ranks see in a step is what one process sees in R micro-batches.
//
// Everything follows from the tokens, the configuration and the position: a loader that seeks to the position of
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
  bool fixed = false;  // of shuffled windows
};

struct LoaderPosition {  // of the next batch, of all ranks, to be returned by rank 0: part of the training state
  int64_t epoch = 0, batch = 0;
  bool operator==(const LoaderPosition&) const = default;
};

class DataLoader {
 public:
  // Throws Error if the sequence is too short for one batch (how many tokens there are and are needed).
  DataLoader(TokenSequence tokens, const LoaderConfig& config);
  ~DataLoader();
  DataLoader(DataLoader&&) noexcept;

  // Valid until the next call; goes on into the next epoch by itself. If the data cannot be read (Shard::copy) this
  // throws and the position stays.
  const Batch& next();
  LoaderPosition position() const;
  void seek(LoaderPosition position);  // throws Error if outside an epoch
  int64_t batches_per_epoch() const;   // of all ranks; the same for every epoch

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
