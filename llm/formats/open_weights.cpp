#include "llm/formats/open_weights.h"

#include <vector>

#include "llm/formats/adapter.h"
#include "llm/formats/gguf.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/tensorflow.h"
#include "llm/support/error.h"

namespace fs = std::filesystem;

WeightsKind weights_kind(const fs::path& path) {
  if (fs::is_directory(path)) {
    if (is_adapter(path)) return WeightsKind::adapter;
    if (fs::exists(path / "config.json")) return WeightsKind::huggingface;
    if (fs::exists(path / "hparams.json")) return WeightsKind::tensorflow;
    fail(
        "%s: no model: expected config.json (Hugging Face), adapter_config.json (PEFT) or hparams.json (OpenAI's "
        "TensorFlow checkpoint) in it",
        path.c_str());
  }
  if (fs::exists(path)) return is_gguf(path) ? WeightsKind::gguf : WeightsKind::llmc;
  fail(
      "%s: no such file or folder; expected a model's folder (config.json, model.safetensors), a .gguf or llm.c's .bin",
      path.c_str());
}

const char* describe(WeightsKind kind) {
  return kind == WeightsKind::huggingface  ? "a Hugging Face directory"
         : kind == WeightsKind::tensorflow ? "OpenAI's TensorFlow checkpoint"
         : kind == WeightsKind::adapter    ? "an adapter and its base model"
         : kind == WeightsKind::gguf       ? "a GGUF file"
                                           : "llm.c's .bin";
}

std::unique_ptr<Weights> open_weights(const fs::path& path) {
  switch (weights_kind(path)) {
    case WeightsKind::huggingface:
      return open_huggingface(path);
    case WeightsKind::tensorflow:
      return open_tensorflow(path);
    case WeightsKind::adapter:
      return open_adapter(path, open_weights);
    case WeightsKind::gguf:
      return open_gguf(path);
    default:
      return open_llmc(path);
  }
}

ModelConfig read_model_config(const fs::path& path) {
  switch (weights_kind(path)) {
    case WeightsKind::huggingface:
      return read_huggingface_config(path);
    case WeightsKind::tensorflow:
      return read_hparams(path);
    case WeightsKind::adapter:
      return open_adapter(path, open_weights)->config;
    case WeightsKind::gguf:
      return read_gguf_config(path);
    default:
      return read_llmc_header(path).config;
  }
}

void check_language_model(const ModelConfig& config, const std::string& where) {
  if (config.num_classes == 0 && config.causal) return;
  const std::string found = config.num_classes > 0 ? strprintf("a classifier of %d classes", config.num_classes)
                                                   : "attention that is not causal";
  fail("%s: %s, expected a model that predicts the next token", where.c_str(), found.c_str());
}

namespace {

void check_config(const ModelConfig& file, const ModelConfig& model, const fs::path& path) {
  std::string differences;
  const auto compare = [&](const char* field, int in_file, int in_model) {
    if (in_file != in_model)
      differences += strprintf("%s %s %d, expected %d", differences.empty() ? "" : ";", field, in_file, in_model);
  };
  compare("n_positions", file.max_seq_len, model.max_seq_len);
  compare("vocab_size", file.vocab_size, model.vocab_size);
  compare("n_layer", file.num_layers, model.num_layers);
  compare("n_head", file.num_heads, model.num_heads);
  compare("n_embd", file.channels, model.channels);
  compare("tie_word_embeddings", !file.has_head(), !model.has_head());
  compare("qkv_bias", file.qkv_bias, model.qkv_bias);
  compare("num_labels", file.num_classes, model.num_classes);
  compare("causal", file.causal, model.causal);
  if (!differences.empty()) fail("%s: the model has another shape:%s", path.c_str(), differences.c_str());
}

}  // namespace

void check_weights(const ModelConfig& config, const fs::path& path) {
  check_config(open_weights(path)->config, config, path);
}

void load_weights(Model& model, const fs::path& path) {
  const std::unique_ptr<Weights> weights = open_weights(path);
  check_config(weights->config, model.config, path);
  std::vector<float> values;
  for (const ParamTensor& tensor : model.table) {
    if (tensor.adapter()) continue;
    values.resize(static_cast<size_t>(tensor.size()));
    weights->read(tensor, values.data());
    model.write(Arena::params, tensor, values.data());
  }
}

void load_weights(PackedDecoder& decoder, const fs::path& path) {
  const std::unique_ptr<Weights> weights = open_weights(path);
  check_config(weights->config, decoder.config, path);
  std::vector<float> values;
  for (const ParamTensor& tensor : decoder.table) decoder.write(tensor, view_or_read(*weights, tensor, values));
}
