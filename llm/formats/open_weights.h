// Weights in files of any kind: a Hugging Face directory, an adapter, OpenAI's checkpoint, llm.c's or
// llama.cpp's file.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "llm/formats/weights.h"
#include "llm/models/model.h"
#include "llm/models/packed_decoder.h"

enum class WeightsKind { huggingface, tensorflow, llmc, gguf, adapter };

// Recognised by what is there: a folder with adapter_config.json, one with config.json, one with hparams.json, a GGUF
// file, another file. Throws Error if it is none of these.
WeightsKind weights_kind(const std::filesystem::path& path);
const char* describe(WeightsKind kind);  // "a Hugging Face directory"

// Checks everything but the tensors' bytes: shape, names, types and sizes. Throws Error naming file and tensor.
std::unique_ptr<Weights> open_weights(const std::filesystem::path& path);

// Only the model's shape.
ModelConfig read_model_config(const std::filesystem::path& path);

// Throws Error unless the model predicts the next token: it is not a classifier, and its attention is causal. `where`
// begins the message.
void check_language_model(const ModelConfig& config, const std::string& where);

// Throws what load_weights would throw for a model of this shape, except for damaged bytes. It reads only headers:
// worth calling before a model's memory is allocated.
void check_weights(const ModelConfig& config, const std::filesystem::path& path);

// Fills the parameters tensor by tensor. Throws Error, before any parameter is changed, if the file does not fit the
// model.
void load_weights(Model& model, const std::filesystem::path& path);
void load_weights(PackedDecoder& decoder, const std::filesystem::path& path);
