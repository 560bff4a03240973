// A model directory in Hugging Face's layout of GPT-2: `transformers` opens what is written here as it is.
//
//   config.json         the shape
//   model.safetensors   the weights; or model-00001-of-00003.safetensors ... with model.safetensors.index.json
//   pytorch_model.bin   instead, in older models; or shards with pytorch_model.bin.index.json; never written
//   tokenizer.json      the vocabulary
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "llm/formats/weights.h"
#include "llm/text/tokenizer.h"

// Shape from DIR/config.json; an absent field has the default of `transformers` (that of GPT-2 small). Throws Error if
// the file is missing or not JSON, for another model_type than "gpt2" and wrought's own (below), a field of the wrong
// type or absurd, heads that do not divide channels, an activation other than gelu_new, and other options of GPT-2 that
// change the result and that wrought does not have. GPT2ForSequenceClassification is a classifier; wrought's own
// "qkv_bias" and "causal" are true if absent.
ModelConfig read_huggingface_config(const std::filesystem::path& dir);

// The weights, in F32, F16 or BF16; names with or without the prefix "transformer.", and with "module." and
// "_orig_mod." if the model was saved during training: the same prefix on all of them. Tensors that say nothing about
// the model are skipped: the attention masks of old files, the "lm_head.weight" of a tied head, which must equal wte, a
// bias of zeros if the model has none. An absent bias of a classifier is zero. Throws Error for a missing, extra,
// repeated or wrongly shaped tensor, and for an index of shards that does not fit them.
std::unique_ptr<Weights> open_huggingface(const std::filesystem::path& dir);

// Throws Error if the tokenizer has more ids than the model's vocabulary. Fewer are fine: vocabularies are often padded
// (50,304 for GPT-2's 50,257), and the ids above are then never seen.
void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where);

// The tokenizer in a model's folder of any kind: tokenizer.json, or vocab.bpe with encoder.json (also merges.txt with
// vocab.json); or that in a GGUF file. Nothing if there is none.
std::optional<Tokenizer> find_tokenizer(const std::filesystem::path& model);

// That of a GGUF file, or what Tokenizer::load reads. Throws Error if there is none.
Tokenizer load_tokenizer(const std::filesystem::path& path);

struct HuggingfaceOptions {
  std::optional<Dtype> dtype = Dtype::f32;  // of every tensor; nothing: each keeps the stored one
  int64_t shard_bytes = 0;                  // of tensors per file, at most, unless a tensor is larger; 0: one file
  nlohmann::json config = {};               // fields to set in config.json; null: none
  const Group* group = nullptr;             // several processes write it by the same call (SafetensorsWriter)
};

// Writes the weights, the tokenizer, if given (tokenizer.json, and tokenizer_config.json, which tells `transformers`
// how to open it), and config.json into an existing folder, each file in one step. Removes other files of weights that
// were there. Throws Error for a value that is too large for F16.
void save_huggingface(const Weights& weights, const Tokenizer* tokenizer, const std::filesystem::path& dir,
                      const HuggingfaceOptions& options = {});

// The fields of DIR/config.json, other than the shape, that are worth keeping with the weights: a classifier's classes
// and the layout of its texts, and special tokens.
nlohmann::json read_huggingface_extras(const std::filesystem::path& dir);

// Whether `transformers` computes the same as wrought from a config.json: attention is causal, and a classifier reads
// the last token before the padding. If not, the file gets wrought's own model_type, which the Auto classes refuse:
// they would open the model as a GPT-2 and answer differently.
bool opens_in_transformers(const nlohmann::json& config);
void set_model_type(nlohmann::json& config);

// Saves a model, F32 in one file.
void save_model(const Model& model, const Tokenizer* tokenizer, const std::filesystem::path& dir,
                const Group* group = nullptr, Arena weights = Arena::params);
