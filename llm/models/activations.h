// ONE table of the activations, as tensor_table.h has one of the parameters: it drives the arena and the memory plan.
// Activations that backward recomputes (Recompute) share one buffer: the blocks' pointers are the same.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/common.h"
#include "llm/models/model.h"
#include "llm/models/tensor_table.h"
#include "llm/support/error.h"

// floatX: type of tensors; sum_t: type of statistics. N = B*T.
template <class floatX>
struct BlockActivations {
  using sum_t = cpu::accumulate_t<floatX>;
  floatX* ln1;                 // (N, C)
  sum_t *ln1_mean, *ln1_rstd;  // (N)
  floatX* qkv;                 // (N, 3C)
  floatX* atty;                // (N, C)
  sum_t* lse;                  // (B, NH, T)
  floatX* residual2;           // (N, C)  the stream after attention
  floatX* ln2;                 // (N, C)
  sum_t *ln2_mean, *ln2_rstd;  // (N)
  floatX* fch;                 // (N, 4C)
  floatX* fch_gelu;            // (N, 4C)
  floatX* residual3;           // (N, C)  the stream after the MLP
};

template <class floatX>
struct Activations {
  using sum_t = cpu::accumulate_t<floatX>;
  floatX* encoded;  // (N, C)  the stream at the start
  std::vector<BlockActivations<floatX>> block;
  floatX* lnf;                 // (N, C)
  sum_t *lnf_mean, *lnf_rstd;  // (N)
  floatX* pooled = nullptr;    // (B, C)  only in classifiers
  floatX* logits;              // (logits_rows, Vp)  dlogits in backward; the GPU holds all N rows, the CPU a chunk
  sum_t* losses;               // (N)
  floatX* sublayer;            // (N, C)  a sublayer's output before it joins the stream
  // gradients, used by one block after another
  floatX* dresidual;  // (N, C)  of the stream, through the whole network
  floatX* dsublayer;  // (N, C)
  floatX* dnorm;      // (N, C)
  floatX* datty;      // (N, C)
  floatX* dqkv;       // (N, 3C)
  floatX* dfch;       // (N, 4C)
  floatX* dpooled = nullptr;
  // of adapters, for one at a time
  floatX *lora_h = nullptr, *lora_dh = nullptr;     // (N, rank)
  floatX *lora_out = nullptr, *lora_inp = nullptr;  // (N, 4C) at least
};

// Rows of the head's input: a classifier has one for each sequence.
inline int64_t head_rows(const ModelConfig& config, int64_t B, int64_t T) { return config.num_classes > 0 ? B : B * T; }

// An adapter's output is computed in lora_out, which has room for N rows of 4C numbers and for at least one row of
// logits: lora_out_rows() rows of 4C, lora_rows_at_once() rows of OC.
inline int64_t lora_out_rows(const ModelConfig& config, int64_t N) {
  return std::max(N, (int64_t{config.padded_outputs()} + 4 * config.channels - 1) / (4 * config.channels));
}
inline int64_t lora_rows_at_once(const ModelConfig& config, int64_t N, int64_t OC) {
  return lora_out_rows(config, N) * 4 * config.channels / OC;
}

// Rows of logits that the CPU holds at a time, out of N: 8 MB, but at least 256 rows, so that with a large vocabulary
// the head's gradient is not read and written too often.
inline int64_t logits_chunk_rows(const ModelConfig& config, int64_t N) {
  return std::min<int64_t>(N, std::max<int64_t>(256, (8 << 20) / 4 / config.padded_outputs()));
}

// Calls visit(pointer member, name, rows, cols) for every activation of a (B, T) batch, in the order of the arena.
template <class floatX, class Visit>
void for_each_activation(const ModelConfig& config, const ModelOptions& options, int64_t B, int64_t T,
                         int64_t logits_rows, Activations<floatX>& a, Visit&& visit) {
  const int64_t C = config.channels, NH = config.num_heads, Vp = config.padded_outputs(), N = B * T;
  const Recompute recompute = options.recompute;
  visit(a.encoded, "encoded", N, C);
  a.block.resize(static_cast<size_t>(config.num_layers));
  for (int l = 0; l < config.num_layers; ++l) {
    BlockActivations<floatX>& b = a.block[static_cast<size_t>(l)];
    if (l > 0) b = a.block[0];  // keeps what is shared; the rest is set below
    const bool all_shared = recompute == Recompute::block, gelu_shared = recompute != Recompute::none;
    const std::string own = strprintf("block.%d.", l), shared = "blocks.", at = all_shared ? shared : own;
    if (l == 0 || !all_shared) {
      visit(b.ln1, at + "ln1", N, C);
      visit(b.ln1_mean, at + "ln1_mean", N, int64_t{1});
      visit(b.ln1_rstd, at + "ln1_rstd", N, int64_t{1});
      visit(b.qkv, at + "qkv", N, 3 * C);
      visit(b.atty, at + "atty", N, C);
      visit(b.lse, at + "lse", B * NH, T);
      visit(b.residual2, at + "residual2", N, C);
      visit(b.ln2, at + "ln2", N, C);
      visit(b.ln2_mean, at + "ln2_mean", N, int64_t{1});
      visit(b.ln2_rstd, at + "ln2_rstd", N, int64_t{1});
      visit(b.fch, at + "fch", N, 4 * C);
    }
    if (l == 0 || !gelu_shared) visit(b.fch_gelu, (gelu_shared ? shared : own) + "fch_gelu", N, 4 * C);
    visit(b.residual3, own + "residual3", N, C);
  }
  visit(a.lnf, "lnf", N, C);
  visit(a.lnf_mean, "lnf_mean", N, int64_t{1});
  visit(a.lnf_rstd, "lnf_rstd", N, int64_t{1});
  if (config.num_classes > 0) visit(a.pooled, "pooled", B, C);
  visit(a.logits, "logits", logits_rows, Vp);
  visit(a.losses, "losses", N, int64_t{1});
  visit(a.sublayer, "sublayer", N, C);
  visit(a.dresidual, "dresidual", N, C);
  visit(a.dsublayer, "dsublayer", N, C);
  visit(a.dnorm, "dnorm", N, C);
  visit(a.datty, "datty", N, C);
  visit(a.dqkv, "dqkv", N, 3 * C);
  visit(a.dfch, "dfch", N, 4 * C);
  if (config.num_classes > 0) visit(a.dpooled, "dpooled", B, C);
  if (const int64_t rank = options.lora.rank; rank > 0) {
    visit(a.lora_h, "lora_h", N, rank);
    visit(a.lora_dh, "lora_dh", N, rank);
    visit(a.lora_out, "lora_out", lora_out_rows(config, N), 4 * C);
    visit(a.lora_inp, "lora_inp", N, 4 * C);
  }
}

inline constexpr int64_t kActivationAlignment = 64;  // bytes: every tensor begins on a cache line

inline int64_t activation_bytes(int64_t rows, int64_t cols, size_t element) {
  const int64_t bytes = rows * cols * static_cast<int64_t>(element);
  return (bytes + kActivationAlignment - 1) / kActivationAlignment * kActivationAlignment;
}

// Returns the arena's bytes; points `a` into `arena` unless that is null.
template <class floatX>
int64_t bind_activations(const ModelConfig& config, const ModelOptions& options, int64_t B, int64_t T,
                         int64_t logits_rows, Activations<floatX>& a, std::byte* arena) {
  int64_t offset = 0;
  for_each_activation(config, options, B, T, logits_rows, a,
                      [&](auto*& pointer, const std::string&, int64_t rows, int64_t cols) {
                        if (arena)
                          pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(arena + offset);
                        offset += activation_bytes(rows, cols, sizeof(*pointer));
                      });
  return offset;
}
