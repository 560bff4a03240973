// What a model is told besides its shape: arithmetic, memory, and which of its parameters are trained, by what.
#pragma once

#include <cstdint>
#include <string>

enum class Precision {
  fp32,
  tf32,  // fp32, but products may round their factors to 10 bits of mantissa
  bf16,  // parameters, activations and their gradients; statistics, sums and parameters' gradients stay float
};

// What backward computes again instead of keeping it from forward; the results are the same bits.
enum class Recompute {
  none,
  gelu,   // the MLP's activation
  block,  // all of a block but the stream at its start
};

enum class Optimizer { adamw, muon };  // muon: of the blocks' weight matrices; everything else is AdamW's

// Low-rank adapters (Hu et al. 2021): beside a frozen matrix W (out, in) stand A (rank, in) and B (out, rank), and
//   y = W x + alpha / rank * B A drop(x)
// B begins as zeros, so a new adapter changes nothing. With a rank, adapters alone are trained.
struct LoraOptions {
  int rank = 0;  // 0: no adapters
  float alpha = 16, dropout = 0;
  // Which matrices have one: a comma list of q, k, v, attproj, fc, fcproj, head; "all": each that the model has (a tied
  // head is the embedding's matrix, and has none).
  std::string targets = "all";
};

// What is trained of a model without adapters. What is not has no gradient and no state of the optimizer.
struct TrainablePart {
  int first_block = 0;                                     // blocks from this one on
  bool embeddings = true, final_norm = true, head = true;  // head: of its own, not a tied one
};

class Comm;

struct ModelOptions {
  Precision precision = Precision::fp32;
  Recompute recompute = Recompute::none;
  bool master_weights = true;  // bf16: AdamW works on a float copy; without it, updates are rounded stochastically
  uint64_t seed = 0;           // of that rounding
  Optimizer optimizer = Optimizer::adamw;
  LoraOptions lora = {};
  TrainablePart trainable = {};
  bool decay_all = false;        // weight decay of every tensor, not of matrices alone
  float lr_decay_per_layer = 1;  // the rate of the head, and by this factor less for each block further from it
  double ema = 0;  // decay of the average of the weights that is kept beside them (kernels/ema.h); 0: none is
  // Data parallel training: one of `ranks` processes that see different data and keep the same weights. With zero 1
  // each keeps its part alone of the optimizer's state (also of master weights and the average), with 2 of the
  // gradients, too, with 3 of the parameters, too (ZeRO: Rajbhandari et al. 2020). `comm` (llm/distributed/comm.h) is
  // needed by a model of more than one, and outlives it.
  int ranks = 1, zero = 0;
  Comm* comm = nullptr;
};
