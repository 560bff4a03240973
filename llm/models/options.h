// A model's options, in addition to its shape: arithmetic, memory, and which parameters are trained, by what.
#pragma once

#include <cstdint>
#include <string>

enum class Precision {
  fp32,
  tf32,  // fp32, but products may round their factors to 10 bits of mantissa
  bf16,  // parameters, activations and their gradients; statistics, sums and parameters' gradients stay float
};

// What backward recomputes instead of keeping it from forward; the results are the same bits.
enum class Recompute {
  none,
  gelu,   // the MLP's activation
  block,  // all of a block except the stream at its start
};

enum class Optimizer { adamw, muon };  // muon: for the blocks' weight matrices; AdamW for everything else

// Low-rank adapters (Hu et al. 2021): a frozen matrix W (out, in) gets A (rank, in) and B (out, rank), and
//   y = W x + alpha / rank * B A drop(x)
// B begins as zeros, so a new adapter changes nothing. With a rank, only adapters are trained.
struct LoraOptions {
  int rank = 0;  // 0: no adapters
  float alpha = 16, dropout = 0;
  // The matrices that have one: a comma list of q, k, v, attproj, fc, fcproj, head; "all": each that the model has (a
  // tied head is the embedding's matrix, and has none).
  std::string targets = "all";
};

// The part of a model without adapters that is trained. The rest has no gradient and no optimizer state.
struct TrainablePart {
  int first_block = 0;                                     // blocks from this one on
  bool embeddings = true, final_norm = true, head = true;  // head: one that is not tied
};

// Of what AdamW's moments m and v are. bf16: rounded stochastically (kernels/rounding.h). Not for Muon.
enum class Moments { f32, bf16 };

class Comm;

struct ModelOptions {
  Precision precision = Precision::fp32;
  Recompute recompute = Recompute::none;
  bool master_weights = true;  // bf16: AdamW works on a float copy; without it, updates are rounded stochastically
  Moments moments = Moments::f32;
  uint64_t seed = 0;  // of stochastic rounding
  bool graph = true;  // a GPU's step is queued as CUDA graphs, if one process trains; the same results either way
  Optimizer optimizer = Optimizer::adamw;
  // Rows of logits that are in memory at a time, with the loss and the head's backward pass computed chunk by chunk.
  // 0: all of a batch on a GPU, 8 MB of them on the CPU.
  int64_t loss_chunk = 0;
  LoraOptions lora = {};
  TrainablePart trainable = {};
  bool decay_all = false;        // weight decay for every tensor, not only for matrices
  float lr_decay_per_layer = 1;  // learning rate: full for the head, times this for each block further from it
  double ema = 0;  // decay of the average of the weights that is kept next to them (kernels/ema.h); 0: none
  // Data parallel training: one of `ranks` processes that see different data and keep the same weights. With zero 1
  // each keeps only its part of the optimizer's state (also of master weights and the average), with 2 also of the
  // gradients, with 3 also of the parameters (ZeRO: Rajbhandari et al. 2020). More than one process needs a `comm`
  // (llm/distributed/comm.h) that outlives the model.
  int ranks = 1, zero = 0;
  Comm* comm = nullptr;
};
