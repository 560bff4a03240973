// What a family's forward and backward (gpt2.h) work on, apart from its operations: parameters, gradients, activations,
// the batch, and the layers as they are visited. Pointers are in the memory of the device.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>

#include "llm/models/config.h"
#include "llm/models/exchange.h"
#include "llm/models/ops.h"
#include "llm/models/options.h"

enum class Pass {
  train,     // dropout on, logits for every position, activations kept for backward
  evaluate,  // dropout off, logits for every position
  generate,  // dropout off, logits of each row's last position only
  decode,    // rows of a cache (decoder.h): T is 1, documents -positions; logits of some of them
};

// A batch on the device.
struct BatchRows {
  const int32_t* tokens = nullptr;     // (B, T)
  const int32_t* documents = nullptr;  // (B, T)  position t of a row is t - documents of its document; null: t
  const float* pooling = nullptr;      // (B, T)  only in classifiers
  const int32_t* rows = nullptr;       // (head rows)  those that the head reads, of takes_rows(); null: the first ones
  const int32_t* targets = nullptr;    // (head rows)  these two only in backward
  const float* weights = nullptr;      // (head rows)
};

// A part of a step. Equal parts make the same launches on the same memory; what differs from step to step (the batch,
// the learning rate, dropout's numbers) is in that memory.
struct StepPart {
  enum class What { forward, backward, update } what;
  int B = 0, T = 0;
  Pass pass = Pass::train;
  bool documents = false, pooling = false, set = false;  // set: backward sets gradients
  int64_t logits_at = -1;                                // as in Walk, when the part begins
  float dropout = 0;
  uint64_t seed = 0;
  std::array<float, 5> update = {};  // the optimizer's numbers
  auto operator<=>(const StepPart&) const = default;
};

template <class Family, class Ops>
struct Walk {
  using floatX = typename Ops::floatX;

  const ModelConfig& config;
  const typename Family::template Params<typename Ops::weight_t>& w;
  const typename Family::template Params<typename Ops::grad_t>& d;
  const typename Family::template Activations<floatX, typename Ops::sum_t>& a;
  Exchange& layers;  // visits them
  Recompute recompute;
  int B, T;
  Pass pass;
  BatchRows batch;
  PassDropout dropout;
  typename Ops::Cache cache;       // of Pass::decode
  int64_t head_rows, logits_rows;  // of logits: in all, and as many as a.logits holds at a time
  int64_t& logits_at;              // the first that is in a.logits; -1: none
  // Backward: the last layer that it visits, and whether it sets or adds.
  int end = 0;
  Sum sum = Sum::add;

  int N() const { return B * T; }
  int64_t NC() const { return int64_t{N()} * config.channels; }
  bool takes_rows() const { return pass == Pass::generate || pass == Pass::decode; }  // the head reads only some
  // Parameters, gradients and activations of a block.
  struct BlockParts {
    const typename Family::template Block<typename Ops::weight_t>& w;
    const typename Family::template Block<typename Ops::grad_t>& d;
    const typename Family::template BlockActivations<floatX, typename Ops::sum_t>& a;
  };
  BlockParts block(int l) const {
    const size_t k = static_cast<size_t>(l);
    return {w.block[k], d.block[k], a.block[k]};
  }
  Dropout dropout_at(int l, int place) const { return dropout.at(dropout_site(l, place)); }
  AttentionShape attention() const {
    return {B, T, config.num_heads, config.kv_heads(), config.head_size(), config.causal, batch.documents};
  }
};

// ---- the head of a family ------------------------------------------------------------------------------------------

// The logits of inp (head rows, C) from row `first` on, as many as there is room for, unless they are there already.
// Returns their number.
template <class Family, class Ops>
int head_forward(Ops& ops, const Walk<Family, Ops>& m, const typename Ops::floatX* inp, int64_t first) {
  const int rows = static_cast<int>(std::min(m.logits_rows, m.head_rows - first));
  if (m.logits_at != first && rows > 0)
    ops.linear_forward(m.a.logits, inp + first * m.w.head.in, m.w.head.from(first), rows);
  m.logits_at = first;
  return rows;
}

// Losses of the batch's targets, and dinp (head rows, C), unless that is null: chunk by chunk, logits become losses and
// dlogits, which give the gradients of the head and of its input. Uses up the logits.
template <class Family, class Ops>
void head_backward(Ops& ops, const Walk<Family, Ops>& m, typename Ops::floatX* dinp, const typename Ops::floatX* inp) {
  const int C = m.w.head.in;
  for (int64_t n = 0; n < m.head_rows; n += m.logits_rows) {
    const int rows = head_forward(ops, m, inp, n);
    const Sum sum = n == 0 && m.sum == Sum::set ? Sum::begin : Sum::add;
    m.logits_at = -1;
    ops.classifier_backward(m.a.logits, m.a.losses + n, m.batch.targets + n, m.batch.weights + n, rows,
                            m.config.outputs(), m.config.padded_outputs());
    ops.linear_backward(dinp ? dinp + n * C : nullptr, m.d.head, m.a.logits, nullptr, inp + n * C, m.w.head.from(n),
                        sum, rows);
  }
}
