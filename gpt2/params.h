// What a GPT-2 is made of: its shape, and ONE table of its parameters. The table drives sizes, the arena,
// initialisation, weight decay, checkpoints and test labels; nothing else restates the layout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gpt2/error.h"
#include "gpt2/options.h"

struct ModelConfig {
  int max_seq_len = 1024;  // T at most (the rows of wpe)
  int vocab_size = 50257;  // V
  int num_layers = 12;     // L
  int num_heads = 12;      // NH
  int channels = 768;      // C
  bool tied_head = true;   // logits are products with wte; else with a matrix of their own
  bool qkv_bias = true;    // queries, keys and values have one
  int num_classes = 0;  // above 0: a classifier of sequences, whose head (not tied) has a row and a bias for each class
  bool causal = true;   // attention looks back only

  int padded_vocab_size() const { return padded(vocab_size); }  // Vp
  int outputs() const { return num_classes > 0 ? num_classes : vocab_size; }
  int padded_outputs() const { return padded(outputs()); }  // columns of the logits
  bool has_head() const { return !tied_head || num_classes > 0; }
  static int padded(int n) { return (n + 127) / 128 * 128; }
  int head_size() const { return channels / num_heads; }  // HS
  bool operator==(const ModelConfig&) const = default;
};

// Throws Error naming the first field that is out of range, `where` it was read, what was expected and found.
void validate(const ModelConfig& config, const std::string& where);
// The same of what does not fit the model: blocks that it does not have, adapters of a matrix that it does not have.
void validate(const ModelOptions& options, const ModelConfig& config, const std::string& where);

// Of a model that only computes.
inline TrainablePart trains_nothing(const ModelConfig& config) { return {config.num_layers, false, false, false}; }

// Whether adapters are on one of q, k, v, attproj, fc, fcproj, head.
bool lora_targets(const LoraOptions& lora, const ModelConfig& config, const char* matrix);

// Floating-point operations that training takes per token, forward and backward: 6 per parameter that is multiplied
// (PaLM, Chowdhery et al. 2022, appendix B), and 12 L C T for attention's two products.
double flops_per_token(const ModelConfig& config, int T);

// ---- pointers by name -----------------------------------------------------------------------------------------------

template <class floatX>
struct LoraParams {
  floatX* a = nullptr;  // (rank, in)   null: no adapter
  floatX* b = nullptr;  // (out, rank)
};

// Gradients are bound to the same structs: what is not trained is null there.
template <class floatX>
struct BlockParams {
  floatX *ln1w, *ln1b;          // (C)
  floatX *qkvw, *qkvb;          // (3C, C), (3C)  qkvb null (as resize() makes it): no bias
  floatX *attprojw, *attprojb;  // (C, C), (C)
  floatX *ln2w, *ln2b;          // (C)
  floatX *fcw, *fcb;            // (4C, C), (4C)
  floatX *fcprojw, *fcprojb;    // (C, 4C), (C)
  LoraParams<floatX> q, k, v, attproj, fc, fcproj;
};

template <class floatX>
struct Params {
  floatX* wte;  // (Vp, C)  rows from V on are zero; also a tied head
  floatX* wpe;  // (max_seq_len, C)
  std::vector<BlockParams<floatX>> block;
  floatX *lnfw, *lnfb;      // (C)
  floatX* head = nullptr;   // (padded outputs, C)  null: wte
  floatX* headb = nullptr;  // (padded outputs)  a classifier's
  LoraParams<floatX> head_lora;

  const floatX* output_matrix() const { return head ? head : wte; }
};

// ---- the table ------------------------------------------------------------------------------------------------------

enum class Init { zeros, ones, normal, uniform };

// params holds every tensor; grads and m what is trained, and so does average, where one is kept; v what AdamW trains.
// m of a tensor that is Muon's is its momentum.
enum class Arena { params, grads, m, v, average };

struct ParamTensor {
  std::string name;     // as in Params: "wte", "block.3.qkvw"
  std::string hf_name;  // as GPT2LMHeadModel saves it, without the leading "transformer."
  int64_t rows, cols;   // in memory, row-major; vectors are (1, n), headb (n, 1)
  int64_t file_rows;    // rows that files hold: V for wte, the outputs for a head, else rows
  bool transposed;      // files hold (cols, rows): GPT-2's Conv1D layout
  bool vector;          // one-dimensional
  Init init;
  float init_std;  // of Init::normal; of Init::uniform the bound
  bool decay;      // weight decay: matrices only, unless all are asked for
  int muon;        // matrices of rows / muon each, one below the other, that Muon makes orthogonal; 0: AdamW's
  int64_t offset;  // of the first element in the parameters' arena
  int64_t grad_offset = -1;  // in those of gradients and m; -1: not trained, so not there
  int64_t v_offset = -1;     // in AdamW's v; -1: not there
  float lr_scale = 1;        // of the learning rate
  bool averaged = false;     // has an average, at grad_offset of its arena
  int unit = 0;              // of ParamUnit
  int64_t padding = 0;       // elements of the arenas behind it, that belong to nothing

  int64_t size() const { return rows * cols; }
  bool trainable() const { return grad_offset >= 0; }
  bool adapter() const { return name.find(".lora_") != std::string::npos; }
  int64_t offset_in(Arena arena) const {
    if (arena == Arena::average && !averaged) return -1;
    return arena == Arena::params ? offset : arena == Arena::v ? v_offset : grad_offset;
  }
  int64_t file_size() const { return file_rows * cols; }
};

// Calls visit(pointer member, tensor without offset) for every parameter, in the order of the arena.
template <class floatX, class Visit>
void for_each_param(const ModelConfig& config, const LoraOptions& lora, Params<floatX>& p, Visit&& visit) {
  const int64_t C = config.channels, V = config.vocab_size, Vp = config.padded_vocab_size();
  // GPT-2's initialisation (Radford et al. 2019, section 2.3): N(0, 0.02), positions half of that, and the layers that
  // write to the residual stream scaled down by the square root of their number. Models narrower than GPT-2's 768
  // channels scale it up by sqrt(768 / C), which keeps what a product of a normalised row and a weight matrix has at
  // that width: with 0.02 at C = 128, attention begins all but uniform and learns late (docs/performance.md has what it
  // costs).
  const float std = 0.02f * std::sqrt(std::max(1.0f, 768.0f / static_cast<float>(C)));
  const float residual_std = std / std::sqrt(2.0f * static_cast<float>(config.num_layers));
  const auto matrix = [&](floatX*& to, const std::string& name, const std::string& hf, int64_t rows, int64_t cols,
                          float s, int muon = 1) {
    visit(to, ParamTensor{name, hf, rows, cols, rows, true, false, Init::normal, s, true, muon, 0});
  };
  const auto vector = [&](floatX*& to, const std::string& name, const std::string& hf, int64_t n, Init init) {
    visit(to, ParamTensor{name, hf, 1, n, 1, false, true, init, 0, false, 0, 0});
  };

  visit(p.wte, ParamTensor{"wte", "wte.weight", Vp, C, V, false, false, Init::normal, std, true, 0, 0});
  visit(p.wpe, ParamTensor{"wpe", "wpe.weight", config.max_seq_len, C, config.max_seq_len, false, false, Init::normal,
                           std / 2, true, 0, 0});
  p.block.resize(static_cast<size_t>(config.num_layers));
  for (int l = 0; l < config.num_layers; ++l) {
    BlockParams<floatX>& w = p.block[static_cast<size_t>(l)];
    const std::string at = strprintf("block.%d.", l), h = strprintf("h.%d.", l);
    vector(w.ln1w, at + "ln1w", h + "ln_1.weight", C, Init::ones);
    vector(w.ln1b, at + "ln1b", h + "ln_1.bias", C, Init::zeros);
    matrix(w.qkvw, at + "qkvw", h + "attn.c_attn.weight", 3 * C, C, std, 3);  // queries, keys, values
    if (config.qkv_bias) vector(w.qkvb, at + "qkvb", h + "attn.c_attn.bias", 3 * C, Init::zeros);
    matrix(w.attprojw, at + "attprojw", h + "attn.c_proj.weight", C, C, residual_std);
    vector(w.attprojb, at + "attprojb", h + "attn.c_proj.bias", C, Init::zeros);
    vector(w.ln2w, at + "ln2w", h + "ln_2.weight", C, Init::ones);
    vector(w.ln2b, at + "ln2b", h + "ln_2.bias", C, Init::zeros);
    matrix(w.fcw, at + "fcw", h + "mlp.c_fc.weight", 4 * C, C, std);
    vector(w.fcb, at + "fcb", h + "mlp.c_fc.bias", 4 * C, Init::zeros);
    matrix(w.fcprojw, at + "fcprojw", h + "mlp.c_proj.weight", C, 4 * C, residual_std);
    vector(w.fcprojb, at + "fcprojb", h + "mlp.c_proj.bias", C, Init::zeros);
  }
  vector(p.lnfw, "lnfw", "ln_f.weight", C, Init::ones);
  vector(p.lnfb, "lnfb", "ln_f.bias", C, Init::zeros);
  if (config.num_classes > 0) {  // as torch.nn.Linear begins
    const int64_t rows = config.padded_outputs();
    const float bound = 1 / std::sqrt(static_cast<float>(C));
    visit(p.head, ParamTensor{"head", "score.weight", rows, C, config.num_classes, false, false, Init::uniform, bound,
                              true, 0, 0});
    visit(p.headb, ParamTensor{"headb", "score.bias", rows, 1, config.num_classes, false, true, Init::uniform, bound,
                               false, 0, 0});
  } else if (!config.tied_head) {
    visit(p.head, ParamTensor{"head", "lm_head.weight", Vp, C, V, false, false, Init::normal, std, true, 0, 0});
  }

  // Adapters: A begins as torch.nn.Linear's weights do, B as zeros.
  const auto adapter = [&](LoraParams<floatX>& to, const char* target, const std::string& name, const std::string& hf,
                           int64_t out, int64_t file_out, int64_t in) {
    if (!lora_targets(lora, config, target)) return;
    const float bound = 1 / std::sqrt(static_cast<float>(in));
    visit(to.a, ParamTensor{name + ".lora_a", hf + ".lora_A.weight", lora.rank, in, lora.rank, false, false,
                            Init::uniform, bound, true, 0, 0});
    visit(to.b, ParamTensor{name + ".lora_b", hf + ".lora_B.weight", out, lora.rank, file_out, false, false,
                            Init::zeros, 0, true, 0, 0});
  };
  for (int l = 0; l < config.num_layers; ++l) {
    BlockParams<floatX>& w = p.block[static_cast<size_t>(l)];
    const std::string at = strprintf("block.%d.", l), h = strprintf("h.%d.", l);
    adapter(w.q, "q", at + "qw", h + "attn.c_attn.q", C, C, C);
    adapter(w.k, "k", at + "kw", h + "attn.c_attn.k", C, C, C);
    adapter(w.v, "v", at + "vw", h + "attn.c_attn.v", C, C, C);
    adapter(w.attproj, "attproj", at + "attprojw", h + "attn.c_proj", C, C, C);
    adapter(w.fc, "fc", at + "fcw", h + "mlp.c_fc", 4 * C, 4 * C, C);
    adapter(w.fcproj, "fcproj", at + "fcprojw", h + "mlp.c_proj", C, C, 4 * C);
  }
  adapter(p.head_lora, "head", "head", config.num_classes > 0 ? "score" : "lm_head", config.padded_outputs(),
          config.outputs(), C);
}

inline constexpr int64_t kParamAlignment =
    64;  // elements: every tensor begins on a cache line, and can be read by vectors

// The table with offsets.
std::vector<ParamTensor> param_table(const ModelConfig& config, const ModelOptions& options = {});
// Elements of an arena, alignment and padding included.
int64_t arena_size(const std::vector<ParamTensor>& table, Arena arena = Arena::params);
int64_t num_parameters(const std::vector<ParamTensor>& table);  // elements without either: 124,439,808 for GPT-2
int64_t num_trainable(const std::vector<ParamTensor>& table);   // those that are trained

// A stretch of the arenas: its place in each, its elements up to the next tensor.
struct ParamRun {
  int64_t offset, grad_offset, v_offset, size;
  float lr_scale;
};
std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table);    // all AdamW's, at one rate
std::vector<ParamRun> trained_runs(const std::vector<ParamTensor>& table);  // all trained: not of v, nor of one rate

// ---- parts of a model, for several processes ----------------------------------------------------------------------

// What goes over the network at a time: the embeddings, each block, and the final norm with a head of its own. Each is
// a stretch of the arenas, padded so that every rank's part is as large. Where an arena is sharded
// (ModelOptions::zero), a rank keeps its part of each unit, one behind the other.
struct ParamUnit {
  int64_t offset, size;  // in a whole arena; size: ranks * shard
  int64_t shard;         // a rank's part: of rank r the elements from offset + r * shard on
  int64_t kept_at;       // where that begins in a sharded arena
  int64_t whole_at;      // where the unit lies whole among those that are so for a while (whole_size())
};
std::vector<ParamUnit> param_units(const std::vector<ParamTensor>& table, int ranks);

bool sharded(const ModelOptions& options, Arena arena);
// Elements of an arena that a rank keeps.
int64_t kept_size(const std::vector<ParamTensor>& table, const ModelOptions& options, Arena arena);
// Elements of what is whole for a while of a sharded arena: the first and the last unit, and two blocks, of which block
// l takes the place of block l - 2.
int64_t whole_size(const std::vector<ParamUnit>& units);

// The part of a tensor that a rank keeps: `count` elements from `from` on, at `kept_at` of a sharded arena.
struct TensorPart {
  int64_t from, count, kept_at;
};
TensorPart part_of(const ParamTensor& tensor, const ParamUnit& unit, int rank);

// Points `p` at the units that are whole for a while.
template <class floatX>
void bind_units(const ModelConfig& config, const LoraOptions& lora, const std::vector<ParamTensor>& table,
                const std::vector<ParamUnit>& units, Params<floatX>& p, floatX* memory) {
  auto tensor = table.begin();
  for_each_param(config, lora, p, [&](floatX*& pointer, const ParamTensor&) {
    const ParamUnit& unit = units[static_cast<size_t>(tensor->unit)];
    pointer = memory + unit.whole_at + tensor->offset - unit.offset;
    ++tensor;
  });
}

// The most elements of scratch that a matrix of Muon's needs (kernels/muon.h); 0 if there is none.
int64_t muon_scratch(const std::vector<ParamTensor>& table);

// Points `p` into one of the arenas; null what is not there. `table`: param_table() of the same.
template <class floatX>
void bind_params(const ModelConfig& config, const LoraOptions& lora, const std::vector<ParamTensor>& table,
                 Params<floatX>& p, floatX* memory, Arena arena = Arena::params) {
  auto tensor = table.begin();
  for_each_param(config, lora, p, [&](floatX*& pointer, const ParamTensor&) {
    const int64_t offset = (tensor++)->offset_in(arena);
    pointer = offset < 0 ? nullptr : memory + offset;
  });
}
