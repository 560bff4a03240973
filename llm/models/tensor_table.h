// The table of a model's parameters: a family's for_each_param() (gpt2.h) gives its rows. It drives sizes, the arena,
// initialisation, weight decay, checkpoints and test labels; nothing else restates the layout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/ops.h"
#include "llm/models/options.h"
#include "llm/support/error.h"

// Throws Error, as validate() of a ModelConfig does, for options that do not fit the model: blocks or matrices that it
// does not have.
void validate(const ModelOptions& options, const ModelConfig& config, const std::string& where);

// For a model that only computes.
inline TrainablePart trains_nothing(const ModelConfig& config) { return {config.num_layers, false, false, false}; }

// Whether `matrix`, one of q, k, v, attproj, fc, fcproj, head, has adapters; its place in that list.
bool lora_targets(const LoraOptions& lora, const char* matrix);
int lora_place(const std::string& matrix);

// ---- the table -----------------------------------------------------------------------------------------------------

enum class Init { zeros, ones, normal, uniform };

// The purpose of a tensor. norm: the weight or the bias of a norm; weight: a matrix of a block; head: the output
// matrix, unless it is the token embedding; bias: that of a block's matrix or of the head. An adapter has the layer of
// its matrix.
enum class Role { none, embedding, position, norm, weight, bias, head, adapter };

// params holds every tensor; grads, m and (if one is kept) average hold those that are trained, v those that AdamW
// trains. For tensors that Muon trains, m is the momentum.
enum class Arena { params, grads, m, v, average };

// A tensor's names are for people and files. The code reads only the other fields.
struct ParamTensor {
  std::string name = "";     // as in Params: "wte", "block.3.qkvw"
  std::string hf_name = "";  // as GPT2LMHeadModel saves it, without the leading "transformer."
  int layer = -1;            // -1 before the blocks, 0 .. L-1 the blocks, L after them
  Role role = Role::none;
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
  int64_t number = 0;        // of its first element among the gradients of one process without ZeRO
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

// Visits the rows of a family's table, for its for_each_param(): visit(pointer member, tensor).
template <class T, class Visit>
class TableRows {
 public:
  TableRows(const LoraOptions& lora, Visit& visit) : lora_(lora), visit_(visit) {}

  void tensor(T*& to, ParamTensor t) {
    if (t.file_rows == 0) t.file_rows = t.rows;
    visit_(to, std::as_const(t));
  }
  // A table with a row for each token or position, drawn from N(0, std). hf: its name in files, without ".weight".
  void embedding(T*& to, const char* name, const std::string& hf, Role role, int64_t n, int64_t file_rows, int64_t C,
                 float std) {
    tensor(to, {.name = name,
                .hf_name = hf + ".weight",
                .role = role,
                .rows = n,
                .cols = C,
                .file_rows = file_rows,
                .product = role == Role::embedding ? "head" : "",
                .init = Init::normal,
                .init_std = std});
  }
  // The weight of an RMSNorm of C channels.
  void rms_norm(Norm<T>& to, const char* name, const std::string& at, const std::string& hf, int layer, int64_t C) {
    to.name = name;
    tensor(to.w, {.name = at + name + "w",
                  .hf_name = hf + ".weight",
                  .layer = layer,
                  .role = Role::norm,
                  .cols = C,
                  .init = Init::ones});
  }
  // Both tensors of a layer norm of C channels.
  void norm(Norm<T>& to, const char* name, const std::string& at, const std::string& hf, int layer, int64_t C) {
    rms_norm(to, name, at, hf, layer, C);
    tensor(to.b, {.name = at + name + "b", .hf_name = hf + ".bias", .layer = layer, .role = Role::norm, .cols = C});
  }
  // A block's matrix and its bias, if it has one. t: product, hf_name, layer, sizes and init_std. parts: the names by
  // which its adapters are asked for, one for each of its stacked parts of one size.
  void linear(Linear<T>& to, const std::string& at, const std::vector<const char*>& parts, bool bias, ParamTensor t) {
    const std::string full = at + t.product, hf = t.hf_name;
    t.name = full + "w", t.hf_name = hf + ".weight", t.role = Role::weight;
    t.transposed = true, t.init = Init::normal, t.stacked = static_cast<int>(parts.size());
    tensor(to.w, t);
    if (bias) {
      tensor(to.b, {.name = full + "b",
                    .hf_name = hf + ".bias",
                    .layer = t.layer,
                    .role = Role::bias,
                    .cols = t.rows,
                    .stacked = t.stacked});
    }
    t.hf_name = hf;
    adapted(to, at, parts, t);
  }
  // `of`: the row of the linear's matrix, with hf_name as adapters begin theirs. Sets the linear's sizes.
  void adapted(Linear<T>& to, const std::string& at, const std::vector<const char*>& parts, const ParamTensor& of) {
    to.in = static_cast<int>(of.cols), to.out = static_cast<int>(of.rows), to.name = of.product;
    to.used = of.file_rows > 0 ? static_cast<int>(of.file_rows) : to.out;
    linears_.push_back({&to, at, parts, of});
  }
  // The adapters of all linears, which follow all other rows: A begins as torch.nn.Linear's weights do, B as zeros.
  void adapters() {
    for (const Adapted& l : linears_) {
      for (size_t k = 0; k < l.parts.size(); ++k) {
        if (lora_targets(lora_, l.parts[k])) adapter(l, k);
      }
    }
  }

 private:
  struct Adapted {
    Linear<T>* linear;
    std::string at;
    std::vector<const char*> parts;
    ParamTensor of;
  };

  void adapter(const Adapted& l, size_t part) {
    const bool whole = l.parts.size() == 1;
    const int64_t rows = l.of.rows / static_cast<int64_t>(l.parts.size()), first = static_cast<int64_t>(part) * rows;
    const std::string name = whole ? l.of.name : l.at + l.parts[part] + "w",
                      hf = whole ? l.of.hf_name : l.of.hf_name + "." + l.parts[part];
    LoraParams<T>& to = l.linear->adapters[part];
    to.first = static_cast<int>(first), to.out = static_cast<int>(rows);
    to.site = adapter_site(l.of.layer, lora_place(l.parts[part]));
    tensor(to.a, {.name = name + ".lora_a",
                  .hf_name = hf + ".lora_A.weight",
                  .layer = l.of.layer,
                  .role = Role::adapter,
                  .rows = lora_.rank,
                  .cols = l.of.cols,
                  .product = "lora_a",
                  .adapts = l.of.name,
                  .first_row = first,
                  .init = Init::uniform,
                  .init_std = 1 / std::sqrt(static_cast<float>(l.of.cols))});
    tensor(to.b, {.name = name + ".lora_b",
                  .hf_name = hf + ".lora_B.weight",
                  .layer = l.of.layer,
                  .role = Role::adapter,
                  .rows = rows,
                  .cols = lora_.rank,
                  .file_rows = whole ? l.of.file_rows : rows,
                  .product = "lora_b",
                  .adapts = l.of.name,
                  .first_row = first});
  }

  const LoraOptions& lora_;
  Visit& visit_;
  std::vector<Adapted> linears_;
};

inline constexpr int64_t kParamAlignment =
    64;  // elements: every tensor begins on a cache line, and can be read by vectors

// The table with offsets. Throws Error, naming the tensor, for one without a role and for two of one name.
std::vector<ParamTensor> param_table(const ModelConfig& config, const ModelOptions& options = {});
// The same, from a family's rows.
std::vector<ParamTensor> arrange_table(std::vector<ParamTensor> rows, const ModelConfig& config,
                                       const ModelOptions& options);
// Elements of an arena, alignment and padding included.
int64_t arena_size(const std::vector<ParamTensor>& table, Arena arena = Arena::params);
int64_t num_parameters(const std::vector<ParamTensor>& table);  // elements without either: 124,439,808 for GPT-2
int64_t num_trainable(const std::vector<ParamTensor>& table);   // those that are trained

// How far down backward goes: to the first block with anything to train in or below it; num_layers: to no block, but
// the final norm; num_layers + 1: only to the head.
int last_trained_layer(const std::vector<ParamTensor>& table, int num_layers);

// A stretch of the arenas: its place in each, its elements up to the next tensor.
struct ParamRun {
  int64_t offset, grad_offset, v_offset, number, size;
  float lr_scale;
};
std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table);    // that AdamW trains, each run at one rate
std::vector<ParamRun> trained_runs(const std::vector<ParamTensor>& table);  // all trained; v and rate undefined

// All trained whose gradients a step's first backward sets, or all that it adds to; v and rate undefined.
std::vector<ParamRun> grad_runs(const std::vector<ParamTensor>& table, const ModelConfig& config, bool set_first);

// The most elements of scratch that a matrix trained by Muon needs (kernels/muon.h); 0 if there is none.
int64_t muon_scratch(const std::vector<ParamTensor>& table);

// Points `p` into one of the arenas; null for what is not in it. `table`: param_table() of the same.
template <class Family, class T>
void bind_params(const ModelConfig& config, const LoraOptions& lora, const std::vector<ParamTensor>& table,
                 typename Family::template Params<T>& p, T* memory, Arena arena = Arena::params) {
  auto tensor = table.begin();
  Family::for_each_param(config, lora, p, [&](T*& pointer, const ParamTensor&) {
    const int64_t offset = (tensor++)->offset_in(arena);
    pointer = offset < 0 ? nullptr : memory + offset;
  });
}
