// Continuing texts: forward passes over tokens of many sequences at once, each sequence at its own length, with the
// keys and values of earlier tokens in a cache of pages. Which page holds what is the caller's concern
// (inference/engine.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "llm/models/config.h"

// The tokens of a pass. Those of one sequence stand together, their positions ascend by 1, and all earlier positions
// are in the sequence's pages already. Host memory, not kept.
struct DecodeRows {
  std::span<const int32_t> tokens;     // (N)  in [0, V)
  std::span<const int32_t> positions;  // (N)  in [0, max_seq_len)
  std::span<const int32_t> sequences;  // (N)  whose the token is: a row of `pages`
  std::span<const int32_t> pages;      // (sequences, max_pages)  token t is in page number t / kPageTokens of the row
  int max_pages = 0;
  std::span<const int32_t> wanted;  // (W)  ascending: rows whose logits are wanted
};

// A causal model without dropout, and its cache.
class Decoder {
 public:
  virtual ~Decoder() = default;

  const ModelConfig config;
  const int pages, max_rows;  // of the cache, each for kPageTokens tokens (kernels/kv_cache.h); tokens per pass

  // Stores each token's keys and values, and computes the logits that are wanted. Throws Error for tokens or positions
  // out of range; std::logic_error for rows that break the rules above.
  void forward(const DecodeRows& rows);
  // The logits of wanted[i], wanted[i + 1] ... of the last pass, `count` rows of outputs() numbers, `stride` apart: as
  // many as are in memory at once, until the next call.
  struct Logits {
    const float* data;
    int count;
    int64_t stride;
  };
  virtual Logits logits(int i) = 0;
  void read_logits(int i, float* out) { std::copy_n(logits(i).data, config.outputs(), out); }
  // A sequence that begins as another one does, and ends within a page: the page's first tokens are copied.
  virtual void copy_page(int to, int from) = 0;

 protected:
  Decoder(const ModelConfig& config, int pages,
          int max_rows);                         // throws Error for a model that is not causal, a classifier
  virtual void run(const DecodeRows& rows) = 0;  // rows that were checked
};
