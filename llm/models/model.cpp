// What models of all families on all devices refuse.
#include "llm/models/model.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "llm/support/error.h"

Model::Model(const ModelConfig& c, const ModelOptions& o)
    : config((validate(c, "the model"), c)), options(o), table(param_table(c, o)) {}

static void check_documents(const ForwardInput& in) {
  for (int i = 0; i < in.B * in.T; ++i) {
    const int t = i % in.T;
    if (in.documents[i] != t && (t == 0 || in.documents[i] != in.documents[i - 1])) {
      throw std::logic_error("documents: position " + std::to_string(t) + " of row " + std::to_string(i / in.T) +
                             " neither begins a document nor belongs to the one before it");
    }
  }
}

static void check_sizes(const ForwardInput& in, const ModelConfig& config) {
  const int B = in.B, T = in.T;
  if (B < 1 || T < 1) fail("a batch of %d sequences of %d tokens: expected at least one of each", B, T);
  if (T > config.max_seq_len) {
    fail("a sequence of %d tokens does not fit the model's context of %d", T, config.max_seq_len);
  }
  if (B > std::numeric_limits<int>::max() / T) {
    fail("a batch of %d sequences of %d tokens: expected below 2^31 in all", B, T);
  }
  for (int i = 0; i < B * T; ++i) {
    if (in.tokens[i] < 0 || in.tokens[i] >= config.vocab_size) {
      fail("token %d at position %d is outside the vocabulary of %d", in.tokens[i], i, config.vocab_size);
    }
  }
  if (!(in.dropout.rate >= 0 && in.dropout.rate < 1)) {
    fail("dropout is %g, expected 0 <= dropout < 1", static_cast<double>(in.dropout.rate));
  }
}

static void check_cache(const ForwardInput& in) {
  const KeyValueCache& cache = *in.cache;
  const auto [shortest, longest] = std::minmax_element(cache.lengths.begin(), cache.lengths.end());
  if (in.B != cache.B || in.T > cache.room) {
    fail("a batch of %d sequences of %d tokens does not fit the cache, which holds %d of %d", in.B, in.T, cache.B,
         cache.room);
  }
  if (*longest == 0) return;
  if (*shortest == 0 || in.T != 1 || in.lengths) {
    throw std::logic_error("a cache that is not empty takes one token of each sequence, after those that it has");
  }
  if (*longest >= cache.room) {
    fail("a sequence of %d tokens does not fit the cache, which holds %d", *longest + 1, cache.room);
  }
}

void Model::forward(const ForwardInput& in) {
  check_sizes(in, config);
  if ((config.num_classes > 0) != (in.pooling != nullptr)) {
    throw std::logic_error("forward() of a classifier without pooling, or of another model with it");
  }
  if (in.documents && (!config.causal || config.num_classes > 0 || in.cache)) {
    throw std::logic_error("documents of a classifier, of a model that is not causal, or with a cache");
  }
  if (in.documents) check_documents(in);
  if ((in.cache || in.lengths) && in.pass != Pass::generate) {
    throw std::logic_error("a cache or lengths in another pass than Pass::generate");
  }
  for (int b = 0; in.lengths && b < in.B; ++b) {
    if (in.lengths[b] < 1 || in.lengths[b] > in.T) {
      fail("sequence %d has %d tokens before padding, expected 1 to %d", b, in.lengths[b], in.T);
    }
  }
  if (in.cache) check_cache(in);
  run(in);
  for (int b = 0; in.cache && b < in.B; ++b) {
    in.cache->lengths[static_cast<size_t>(b)] += in.lengths ? in.lengths[b] : in.T;
  }
}

std::unique_ptr<KeyValueCache> Model::make_cache(int B, int room) {
  if (config.num_classes > 0) throw std::logic_error("a cache for a classifier");
  if (!config.causal) {
    fail("keys and values of a model that is not causal cannot be kept: each new token changes them");
  }
  if (B < 1 || room < 1 || room > config.max_seq_len) {
    fail("a cache of %d sequences of %d tokens: expected at least one of each, and the model's context of %d at most",
         B, room, config.max_seq_len);
  }
  return allocate_cache(B, room);
}

int64_t Model::check_targets(const int32_t* targets, int N) const {
  int64_t counted = 0;
  for (int n = 0; n < N; ++n) {
    counted += targets[n] >= 0;
    if (targets[n] < -1 || targets[n] >= config.outputs()) {
      if (config.num_classes > 0) fail("class %d of sequence %d is not among %d", targets[n], n, config.num_classes);
      fail("target %d at position %d is outside the vocabulary of %d", targets[n], n, config.vocab_size);
    }
  }
  return counted;
}
