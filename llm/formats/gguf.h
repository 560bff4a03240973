// A model in one GGUF file (gguf_file.h), as llama.cpp reads GPT-2 and its converter writes it: architecture "gpt2",
// weights and tokenizer together.
//
//   token_embd.weight       wte           blk.N.attn_norm.weight, .bias     ln1w, ln1b
//   position_embd.weight    wpe           blk.N.attn_qkv.weight, .bias      qkvw, qkvb
//   output_norm.weight      lnfw          blk.N.attn_output.weight, .bias   attprojw, attprojb
//   output_norm.bias        lnfb          blk.N.ffn_norm.weight, .bias      ln2w, ln2b
//   output.weight           head          blk.N.ffn_up.weight, .bias        fcw, fcb
//     (unless it is tied)                 blk.N.ffn_down.weight, .bias      fcprojw, fcprojb
//
// Matrices are as in memory, one row per output; a shape in the file begins with the length of a row.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llm/formats/weights.h"
#include "llm/text/tokenizer.h"

// Q8_0: blocks of 32 values of a row, each an F16 scale d and 32 int8 q; a value is d q, and d the block's largest
// magnitude over 127.
enum class GgufType { f32, f16, bf16, q8_0 };

const char* gguf_type_name(GgufType type);                         // "Q8_0"
std::optional<GgufType> find_gguf_type(const std::string& dtype);  // nothing for the name of another type

// Whether a file is one by its first bytes, or only by its name, which then is an error when it is opened.
bool is_gguf(const std::filesystem::path& path);

// Throws Error for a damaged file (gguf_file.h), another architecture, a shape out of range, other options of GPT-2
// that change the result, a tensor that is missing, extra or of another shape, and metadata that contradicts it. Q8_0
// tensors are read as the F32 numbers that they stand for.
std::unique_ptr<Weights> open_gguf(const std::filesystem::path& path);

// Only the shape.
ModelConfig read_gguf_config(const std::filesystem::path& path);

// The tokenizer; nothing if the file says that it has none. Tokens of the type "unused" at the end are left out: they
// fill the vocabulary up. Throws Error for another kind of vocabulary than byte-level BPE, another pre-tokenizer than
// GPT-2's, tokens that every text begins or ends with, and a vocabulary that does not fit together.
std::optional<Tokenizer> read_gguf_tokenizer(const std::filesystem::path& path);

// The fields of config.json that the file gives: the ids of the tokens that begin and end a text.
nlohmann::json read_gguf_extras(const std::filesystem::path& path);

struct GgufOptions {
  GgufType type = GgufType::f32;  // of the matrices and of wte; norms, biases and wpe are F32
  nlohmann::json config = {};     // bos_token_id and eos_token_id in it replace the tokenizer's <|endoftext|>
};

struct GgufWritten {
  int64_t bytes;
  std::vector<std::string> not_in_blocks;  // tensors in F16 instead of Q8_0: their rows are not whole blocks
};

// Throws Error, naming what llama.cpp has no place for: another family than GPT-2, a classifier, attention that is not
// causal, a tokenizer that is not BPE or has no <|endoftext|>.
void check_gguf(const ModelConfig& config, const Tokenizer* tokenizer, const std::string& where);

// Writes the file in one step (a temporary file, renamed), tensor by tensor. Without a tokenizer the file says that it
// has none, and llama.cpp takes and gives ids only. Ids beyond the tokenizer are "[PAD300]" and so on, unused. Throws
// Error as above before anything is written, and for a value beyond what the type reaches.
GgufWritten save_gguf(const Weights& weights, const Tokenizer* tokenizer, const std::filesystem::path& path,
                      const GgufOptions& options);
