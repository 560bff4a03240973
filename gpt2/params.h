// What a GPT-2 is made of: its shape, and ONE table of its parameters. The table drives sizes, the arena,
// initialisation, weight decay, checkpoints and test labels; nothing else restates the layout.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gpt2/error.h"

struct ModelConfig {
  int max_seq_len = 1024;  // T at most (the rows of wpe)
  int vocab_size = 50257;  // V
  int num_layers = 12;     // L
  int num_heads = 12;      // NH
  int channels = 768;      // C

  int padded_vocab_size() const { return (vocab_size + 127) / 128 * 128; }  // Vp
  int head_size() const { return channels / num_heads; }                    // HS
  bool operator==(const ModelConfig&) const = default;
};

// Throws Error naming the first field that is out of range, `where` it was read, what was expected and found.
void validate(const ModelConfig& config, const std::string& where);

// Floating-point operations that training takes per token, forward and backward: 6 per parameter that is multiplied
// (PaLM, Chowdhery et al. 2022, appendix B), and 12 L C T for attention's two products.
double flops_per_token(const ModelConfig& config, int T);

// ---- pointers by name -----------------------------------------------------------------------------------------------

template <class floatX>
struct BlockParams {
  floatX *ln1w, *ln1b;          // (C)
  floatX *qkvw, *qkvb;          // (3C, C), (3C)
  floatX *attprojw, *attprojb;  // (C, C), (C)
  floatX *ln2w, *ln2b;          // (C)
  floatX *fcw, *fcb;            // (4C, C), (4C)
  floatX *fcprojw, *fcprojb;    // (C, 4C), (C)
};

template <class floatX>
struct Params {
  floatX* wte;  // (Vp, C)  rows from V on are zero; also the output head
  floatX* wpe;  // (max_seq_len, C)
  std::vector<BlockParams<floatX>> block;
  floatX *lnfw, *lnfb;  // (C)
};

// ---- the table ------------------------------------------------------------------------------------------------------

enum class Init { zeros, ones, normal };
enum class Optimizer { adamw, muon };  // muon: of the blocks' weight matrices; everything else is AdamW's

struct ParamTensor {
  std::string name;     // as in Params: "wte", "block.3.qkvw"
  std::string hf_name;  // as GPT2LMHeadModel saves it, without the leading "transformer."
  int64_t rows, cols;   // in memory, row-major; vectors are (1, n)
  int64_t file_rows;    // rows that files hold: V for wte, else rows
  bool transposed;      // files hold (cols, rows): GPT-2's Conv1D layout
  bool vector;          // one-dimensional
  Init init;
  float init_std;         // of Init::normal
  bool decay;             // weight decay: matrices only
  int muon;               // matrices of rows / muon each, one below the other, that Muon makes orthogonal; 0: AdamW's
  int64_t offset;         // of the first element in an arena
  int64_t v_offset = -1;  // in AdamW's v, which has only what is AdamW's; -1: not there

  int64_t size() const { return rows * cols; }
  int64_t offset_in(bool v) const { return v ? v_offset : offset; }
  int64_t file_size() const { return file_rows * cols; }
};

// Calls visit(pointer member, tensor without offset) for every parameter, in the order of the arena.
template <class floatX, class Visit>
void for_each_param(const ModelConfig& config, Params<floatX>& p, Visit&& visit) {
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
    vector(w.qkvb, at + "qkvb", h + "attn.c_attn.bias", 3 * C, Init::zeros);
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
}

inline constexpr int64_t kParamAlignment =
    64;  // elements: every tensor begins on a cache line, and can be read by vectors

// The table with offsets; the arena's size is that of the last tensor's end.
std::vector<ParamTensor> param_table(const ModelConfig& config, Optimizer optimizer = Optimizer::adamw);
int64_t arena_size(const std::vector<ParamTensor>& table);      // elements, alignment and padding included
int64_t v_size(const std::vector<ParamTensor>& table);          // the same of AdamW's v
int64_t num_parameters(const std::vector<ParamTensor>& table);  // elements without either: 124,439,808 for GPT-2

// A stretch of an arena whose tensors are all AdamW's: its place there and in v, its elements up to the next tensor.
struct ParamRun {
  int64_t offset, v_offset, size;
};
std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table);

// The most elements of scratch that a matrix of Muon's needs (kernels/muon.h); 0 if there is none.
int64_t muon_scratch(const std::vector<ParamTensor>& table);

// Points `p` into an arena.
template <class floatX>
void bind_params(const ModelConfig& config, Params<floatX>& p, floatX* arena) {
  int64_t offset = 0;
  for_each_param(config, p, [&](floatX*& pointer, const ParamTensor& tensor) {
    pointer = arena + offset;
    offset += (tensor.size() + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
  });
}
