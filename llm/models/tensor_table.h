// The parameters of a GPT-2 of a given shape (llm/models/config.h): ONE table. It drives sizes, the arena,
// initialisation, weight decay, checkpoints and test labels; nothing else restates the layout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/options.h"
#include "llm/support/error.h"

// Throws Error, as validate() of a ModelConfig does, for options that do not fit the model: blocks or matrices that it
// does not have.
void validate(const ModelOptions& options, const ModelConfig& config, const std::string& where);

// For a model that only computes.
inline TrainablePart trains_nothing(const ModelConfig& config) { return {config.num_layers, false, false, false}; }

// Whether `matrix`, one of q, k, v, attproj, fc, fcproj, head, has adapters.
bool lora_targets(const LoraOptions& lora, const char* matrix);

// ---- pointers by name -----------------------------------------------------------------------------------------------

template <class floatX>
struct LoraParams {
  floatX* a = nullptr;  // (rank, in)   null: no adapter
  floatX* b = nullptr;  // (out, rank)
};

// Gradients are bound to the same structs: tensors that are not trained are null there.
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
  floatX* headb = nullptr;  // (padded outputs)  only in classifiers
  LoraParams<floatX> head_lora;

  const floatX* output_matrix() const { return head ? head : wte; }
};

// ---- the table ------------------------------------------------------------------------------------------------------

enum class Init { zeros, ones, normal, uniform };

// The purpose of a tensor. norm: the weight or the bias of a layer norm; weight: a matrix of a block; head: the output
// matrix, unless it is the token embedding; bias: that of a block's matrix or of the head. An adapter has the layer of
// its matrix.
enum class Role { embedding, position, norm, weight, bias, head, adapter };

// params holds every tensor; grads, m and (if one is kept) average hold those that are trained, v those that AdamW
// trains. For tensors that Muon trains, m is the momentum.
enum class Arena { params, grads, m, v, average };

// A tensor's names are for people and files. The code reads only the other fields.
struct ParamTensor {
  std::string name = "";     // as in Params: "wte", "block.3.qkvw"
  std::string hf_name = "";  // as GPT2LMHeadModel saves it, without the leading "transformer."
  int layer = -1;            // -1 before the blocks, 0 .. L-1 the blocks, L after them
  Role role = Role::weight;
  int64_t rows = 1, cols = 1;  // in memory, row-major; vectors are (1, n), a head's bias (n, 1)
  int64_t file_rows = 0;       // rows that files hold: V for wte, the outputs for a head, else rows
  bool transposed = false;     // files hold (cols, rows): GPT-2's Conv1D layout
  int stacked = 1;             // parts of one size, one below the other: 3 for queries, keys and values
  const char* product = "";    // which product it is multiplied in: "qkv", "head"
  std::string adapts = "";     // the name of the matrix that an adapter adds to, from the row first_row on
  int64_t first_row = 0;
  Init init = Init::zeros;
  float init_std = 0;  // for Init::normal; for Init::uniform the bound

  // Set by param_table():
  bool decay = false;        // weight decay: matrices only, unless all are asked for
  bool muon = false;         // updated by Muon, which makes each of the stacked parts orthogonal; else by AdamW
  int64_t offset = 0;        // of the first element in the parameters' arena
  int64_t grad_offset = -1;  // in the arenas of gradients and m; -1: not trained
  int64_t v_offset = -1;     // in the arena of AdamW's v; -1: not in it
  float lr_scale = 1;        // factor of the learning rate
  bool averaged = false;     // has an average, at grad_offset of its arena
  int unit = 0;              // index of its ParamUnit
  int64_t padding = 0;       // unused elements after it in the arenas

  int64_t size() const { return rows * cols; }
  bool vector() const { return role == Role::norm || role == Role::bias; }  // one-dimensional
  bool trainable() const { return grad_offset >= 0; }
  bool adapter() const { return role == Role::adapter; }
  int64_t offset_in(Arena arena) const {
    if (arena == Arena::average && !averaged) return -1;
    return arena == Arena::params ? offset : arena == Arena::v ? v_offset : grad_offset;
  }
  int64_t file_size() const { return file_rows * cols; }
};

// Whether it is the head's own matrix or its bias.
inline bool of_head(const ParamTensor& tensor, const ModelConfig& config) {
  return tensor.role == Role::head || (tensor.role == Role::bias && tensor.layer == config.num_layers);
}

// Calls visit(pointer member, tensor) for every parameter, in the order of the arena: a matrix's bias follows it, and
// an adapter's B follows its A.
template <class floatX, class Visit>
void for_each_param(const ModelConfig& config, const LoraOptions& lora, Params<floatX>& p, Visit&& visit) {
  const int L = config.num_layers;
  const int64_t C = config.channels, V = config.vocab_size, Vp = config.padded_vocab_size();
  // GPT-2's initialisation (Radford et al. 2019, section 2.3): N(0, 0.02), positions half of that, and the layers that
  // write to the residual stream scaled down by the square root of their number. Models narrower than GPT-2's 768
  // channels scale it up by sqrt(768 / C), so that a product of a normalised row and a weight matrix is as large as at
  // that width: with 0.02 at C = 128, attention begins almost uniform and learns late (docs/performance.md has what it
  // costs).
  const float std = 0.02f * std::sqrt(std::max(1.0f, 768.0f / static_cast<float>(C)));
  const float residual_std = std / std::sqrt(2.0f * static_cast<float>(L));
  const auto row = [&](floatX*& to, ParamTensor tensor) {
    if (tensor.file_rows == 0) tensor.file_rows = tensor.rows;
    visit(to, std::as_const(tensor));
  };
  // Both tensors of a layer norm.
  const auto norm = [&](floatX*& weight, floatX*& bias, int l, const std::string& name, const std::string& hf) {
    row(weight,
        {.name = name + "w", .hf_name = hf + ".weight", .layer = l, .role = Role::norm, .cols = C, .init = Init::ones});
    row(bias, {.name = name + "b", .hf_name = hf + ".bias", .layer = l, .role = Role::norm, .cols = C});
  };

  row(p.wte, {.name = "wte",
              .hf_name = "wte.weight",
              .role = Role::embedding,
              .rows = Vp,
              .cols = C,
              .file_rows = V,
              .product = "head",
              .init = Init::normal,
              .init_std = std});
  row(p.wpe, {.name = "wpe",
              .hf_name = "wpe.weight",
              .role = Role::position,
              .rows = config.max_seq_len,
              .cols = C,
              .init = Init::normal,
              .init_std = std / 2});
  p.block.resize(static_cast<size_t>(L));
  for (int l = 0; l < L; ++l) {
    BlockParams<floatX>& w = p.block[static_cast<size_t>(l)];
    const std::string at = strprintf("block.%d.", l), h = strprintf("h.%d.", l);
    // A matrix and its bias, if it has one. A row below gives product, hf_name, sizes and init_std.
    const auto linear = [&](floatX*& weight, floatX** bias, ParamTensor t) {
      const std::string name = at + t.product, hf = h + t.hf_name;
      t.name = name + "w", t.hf_name = hf + ".weight", t.layer = l, t.transposed = true, t.init = Init::normal;
      row(weight, t);
      if (!bias) return;
      row(*bias, {.name = name + "b",
                  .hf_name = hf + ".bias",
                  .layer = l,
                  .role = Role::bias,
                  .cols = t.rows,
                  .stacked = t.stacked});
    };
    norm(w.ln1w, w.ln1b, l, at + "ln1", h + "ln_1");
    linear(w.qkvw, config.qkv_bias ? &w.qkvb : nullptr,
           {.hf_name = "attn.c_attn", .rows = 3 * C, .cols = C, .stacked = 3, .product = "qkv", .init_std = std});
    linear(w.attprojw, &w.attprojb,
           {.hf_name = "attn.c_proj", .rows = C, .cols = C, .product = "attproj", .init_std = residual_std});
    norm(w.ln2w, w.ln2b, l, at + "ln2", h + "ln_2");
    linear(w.fcw, &w.fcb, {.hf_name = "mlp.c_fc", .rows = 4 * C, .cols = C, .product = "fc", .init_std = std});
    linear(w.fcprojw, &w.fcprojb,
           {.hf_name = "mlp.c_proj", .rows = C, .cols = 4 * C, .product = "fcproj", .init_std = residual_std});
  }
  norm(p.lnfw, p.lnfb, L, "lnf", "ln_f");
  const bool classifies = config.num_classes > 0;
  if (config.has_head()) {
    const float bound = 1 / std::sqrt(static_cast<float>(C));  // a classifier's head begins as torch.nn.Linear does
    row(p.head, {.name = "head",
                 .hf_name = classifies ? "score.weight" : "lm_head.weight",
                 .layer = L,
                 .role = Role::head,
                 .rows = config.padded_outputs(),
                 .cols = C,
                 .file_rows = config.outputs(),
                 .product = "head",
                 .init = classifies ? Init::uniform : Init::normal,
                 .init_std = classifies ? bound : std});
    if (classifies) {
      row(p.headb, {.name = "headb",
                    .hf_name = "score.bias",
                    .layer = L,
                    .role = Role::bias,
                    .rows = config.padded_outputs(),
                    .file_rows = config.outputs(),
                    .init = Init::uniform,
                    .init_std = bound});
    }
  }

  // The adapter of a matrix, or of the part of one, that a row below names: A begins as torch.nn.Linear's weights do, B
  // as zeros.
  const auto adapter = [&](LoraParams<floatX>& to, const char* target, const ParamTensor& of) {
    if (!lora_targets(lora, target)) return;
    const std::string matrix = of.adapts.empty() ? of.name : of.adapts;
    row(to.a, {.name = of.name + ".lora_a",
               .hf_name = of.hf_name + ".lora_A.weight",
               .layer = of.layer,
               .role = Role::adapter,
               .rows = lora.rank,
               .cols = of.cols,
               .product = "lora_a",
               .adapts = matrix,
               .first_row = of.first_row,
               .init = Init::uniform,
               .init_std = 1 / std::sqrt(static_cast<float>(of.cols))});
    row(to.b, {.name = of.name + ".lora_b",
               .hf_name = of.hf_name + ".lora_B.weight",
               .layer = of.layer,
               .role = Role::adapter,
               .rows = of.rows,
               .cols = lora.rank,
               .file_rows = of.file_rows,
               .product = "lora_b",
               .adapts = matrix,
               .first_row = of.first_row});
  };
  for (int l = 0; l < L; ++l) {
    BlockParams<floatX>& w = p.block[static_cast<size_t>(l)];
    const std::string at = strprintf("block.%d.", l), h = strprintf("h.%d.", l), qkv = at + "qkvw",
                      c_attn = h + "attn.c_attn.";
    adapter(w.q, "q", {.name = at + "qw", .hf_name = c_attn + "q", .layer = l, .rows = C, .cols = C, .adapts = qkv});
    adapter(
        w.k, "k",
        {.name = at + "kw", .hf_name = c_attn + "k", .layer = l, .rows = C, .cols = C, .adapts = qkv, .first_row = C});
    adapter(w.v, "v",
            {.name = at + "vw",
             .hf_name = c_attn + "v",
             .layer = l,
             .rows = C,
             .cols = C,
             .adapts = qkv,
             .first_row = 2 * C});
    adapter(w.attproj, "attproj",
            {.name = at + "attprojw", .hf_name = h + "attn.c_proj", .layer = l, .rows = C, .cols = C});
    adapter(w.fc, "fc", {.name = at + "fcw", .hf_name = h + "mlp.c_fc", .layer = l, .rows = 4 * C, .cols = C});
    adapter(w.fcproj, "fcproj",
            {.name = at + "fcprojw", .hf_name = h + "mlp.c_proj", .layer = l, .rows = C, .cols = 4 * C});
  }
  if (!config.has_head()) return;
  adapter(p.head_lora, "head",
          {.name = "head",
           .hf_name = classifies ? "score" : "lm_head",
           .layer = L,
           .rows = config.padded_outputs(),
           .cols = C,
           .file_rows = config.outputs()});
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
std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table);    // that AdamW trains, each run at one rate
std::vector<ParamRun> trained_runs(const std::vector<ParamTensor>& table);  // all trained; v and rate undefined

// The most elements of scratch that a matrix trained by Muon needs (kernels/muon.h); 0 if there is none.
int64_t muon_scratch(const std::vector<ParamTensor>& table);

// Points `p` into one of the arenas; null for what is not in it. `table`: param_table() of the same.
template <class floatX>
void bind_params(const ModelConfig& config, const LoraOptions& lora, const std::vector<ParamTensor>& table,
                 Params<floatX>& p, floatX* memory, Arena arena = Arena::params) {
  auto tensor = table.begin();
  for_each_param(config, lora, p, [&](floatX*& pointer, const ParamTensor&) {
    const int64_t offset = (tensor++)->offset_in(arena);
    pointer = offset < 0 ? nullptr : memory + offset;
  });
}
