// A model directory as Hugging Face lays GPT-2 out: `transformers` opens what is written here as it is.
//
//   config.json         the shape
//   model.safetensors   the weights; or model-00001-of-00003.safetensors ... with model.safetensors.index.json
//   pytorch_model.bin   in its place, of older models; or shards with pytorch_model.bin.index.json; never written
//   tokenizer.json      the vocabulary
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "llm/formats/weights.h"
#include "llm/text/tokenizer.h"

// Shape from DIR/config.json; a field that is absent has the value that `transformers` gives it (GPT-2 small's). Throws
// Error: missing or not JSON, another model_type than "gpt2" and wrought's own (below), a field of the wrong type or
// absurd, heads that do not divide channels, an activation other than gelu_new, other options of GPT-2 that change the
// result and that wrought does not have. GPT2ForSequenceClassification is a classifier; wrought's own "qkv_bias" and
// "causal" are true where absent.
ModelConfig read_huggingface_config(const std::filesystem::path& dir);

// The weights, in F32, F16 or BF16; names with or without the prefix "transformer.", and with "module." and
// "_orig_mod." of models that were saved as they trained, the same on all of them. What says nothing about the model is
// passed over: the attention masks of old files, the "lm_head.weight" of a tied head, which must equal wte, a bias of
// zeros where there is none. A classifier's bias that is absent is zero. Throws Error for a missing, extra, repeated or
// wrongly shaped tensor, and for an index of shards that does not fit them.
std::unique_ptr<Weights> open_huggingface(const std::filesystem::path& dir);

// Throws Error if the tokenizer has more ids than the model's vocabulary. Fewer are fine: vocabularies are often padded
// (50,304 for GPT-2's 50,257), and the ids above are then never seen.
void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where);

// The tokenizer in a model's folder, of whatever kind that is: tokenizer.json, or vocab.bpe with encoder.json (also
// merges.txt with vocab.json). Nothing if there is none.
std::optional<Tokenizer> find_tokenizer(const std::filesystem::path& model);

struct HuggingfaceOptions {
  std::optional<Dtype> dtype = Dtype::f32;  // of every tensor; nothing: that in which each is stored
  int64_t shard_bytes = 0;                  // of tensors in one file, at most, unless a tensor is larger; 0: one file
  nlohmann::json config = {};               // fields of config.json that are to be these; null: none
  const Group* group = nullptr;             // several processes write it, all by the same call (SafetensorsWriter)
};

// Writes the weights, the tokenizer, if given (tokenizer.json, and tokenizer_config.json, which tells `transformers`
// how to open it), and config.json into an existing folder, each file in one step. Files of weights that were there and
// do not belong to these are removed. Throws Error for a value that is too large for F16.
void save_huggingface(const Weights& weights, const Tokenizer* tokenizer, const std::filesystem::path& dir,
                      const HuggingfaceOptions& options = {});

// What DIR/config.json says beside the shape and is worth keeping when the weights go elsewhere: a classifier's classes
// and how its texts are laid out, and special tokens.
nlohmann::json read_huggingface_extras(const std::filesystem::path& dir);

// Whether `transformers` computes what wrought does from a config.json: attention is causal, and a classifier reads the
// last token before the padding. If not, the file gets a model_type of wrought's own, at which its Auto classes stop:
// they would open the model as a GPT-2 and answer otherwise.
bool opens_in_transformers(const nlohmann::json& config);
void set_model_type(nlohmann::json& config);

// A model's, F32 in one file.
void save_model(const Model& model, const Tokenizer* tokenizer, const std::filesystem::path& dir,
                const Group* group = nullptr);
