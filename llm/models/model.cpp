// What models of all families on all devices refuse.
#include "llm/models/model.h"

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

void Model::forward(const ForwardInput& in) {
  check_sizes(in, config);
  if ((config.num_classes > 0) != (in.pooling != nullptr)) {
    throw std::logic_error("forward() of a classifier without pooling, or of another model with it");
  }
  if (in.documents && (!config.causal || config.num_classes > 0)) {
    throw std::logic_error("documents of a classifier, or of a model that is not causal");
  }
  if (in.documents) check_documents(in);
  if (in.pass == Pass::decode) throw std::logic_error("forward() with Pass::decode, which is make_decoder()'s");
  run(in);
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
