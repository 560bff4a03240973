// ONE table of the activations, as params.h has one of the parameters: it drives the arena and the memory plan.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gpt2/error.h"
#include "gpt2/params.h"
#include "kernels/common.h"

// floatX holds tensors, sum_t statistics. N = B*T.
template <class floatX>
struct BlockActivations {
  using sum_t = cpu::accumulate_t<floatX>;
  floatX* ln1;                // (N, C)
  sum_t *ln1_mean, *ln1_rstd;  // (N)
  floatX* qkv;                // (N, 3C)
  floatX* atty;               // (N, C)
  sum_t* lse;                 // (B, NH, T)
  floatX* residual2;          // (N, C)  the stream after attention
  floatX* ln2;                // (N, C)
  sum_t *ln2_mean, *ln2_rstd;  // (N)
  floatX* fch;                // (N, 4C)
  floatX* fch_gelu;           // (N, 4C)
  floatX* residual3;          // (N, C)  the stream after the MLP
};

template <class floatX>
struct Activations {
  using sum_t = cpu::accumulate_t<floatX>;
  floatX* encoded;  // (N, C)  the stream at the start
  std::vector<BlockActivations<floatX>> block;
  floatX* lnf;                 // (N, C)
  sum_t *lnf_mean, *lnf_rstd;  // (N)
  floatX* logits;              // (N, Vp)  dlogits in backward
  sum_t* losses;               // (N)
  floatX* sublayer;            // (N, C)  a sublayer's output before it joins the stream
  // gradients, used by one block after another
  floatX* dresidual;  // (N, C)  of the stream, through the whole network
  floatX* dsublayer;  // (N, C)
  floatX* dnorm;      // (N, C)
  floatX* datty;      // (N, C)
  floatX* dqkv;       // (N, 3C)
  floatX* dfch;       // (N, 4C)
};

// Calls visit(pointer member, name, rows, cols) for every activation of a (B, T) batch, in the order of the arena.
template <class floatX, class Visit>
void for_each_activation(const ModelConfig& config, int64_t B, int64_t T, Activations<floatX>& a, Visit&& visit) {
  const int64_t C = config.channels, NH = config.num_heads, Vp = config.padded_vocab_size(), N = B * T;
  visit(a.encoded, "encoded", N, C);
  a.block.resize(static_cast<size_t>(config.num_layers));
  for (int l = 0; l < config.num_layers; ++l) {
    BlockActivations<floatX>& b = a.block[static_cast<size_t>(l)];
    const std::string at = strprintf("block.%d.", l);
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
    visit(b.fch_gelu, at + "fch_gelu", N, 4 * C);
    visit(b.residual3, at + "residual3", N, C);
  }
  visit(a.lnf, "lnf", N, C);
  visit(a.lnf_mean, "lnf_mean", N, int64_t{1});
  visit(a.lnf_rstd, "lnf_rstd", N, int64_t{1});
  visit(a.logits, "logits", N, Vp);
  visit(a.losses, "losses", N, int64_t{1});
  visit(a.sublayer, "sublayer", N, C);
  visit(a.dresidual, "dresidual", N, C);
  visit(a.dsublayer, "dsublayer", N, C);
  visit(a.dnorm, "dnorm", N, C);
  visit(a.datty, "datty", N, C);
  visit(a.dqkv, "dqkv", N, 3 * C);
  visit(a.dfch, "dfch", N, 4 * C);
}
