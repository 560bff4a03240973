// Weights in whatever kind of file they come: a Hugging Face directory, an adapter, OpenAI's checkpoint, llm.c's.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "llm/formats/weights.h"
#include "llm/models/model.h"

enum class WeightsKind { huggingface, tensorflow, llmc, adapter };

// By what is there: a folder with adapter_config.json, one with config.json, one with hparams.json, a file. Throws
// Error if it is none of these.
WeightsKind weights_kind(const std::filesystem::path& path);
const char* describe(WeightsKind kind);  // "a Hugging Face directory"

// Checks everything but the tensors' bytes: shape, names, types and sizes. Throws Error naming file and tensor.
std::unique_ptr<Weights> open_weights(const std::filesystem::path& path);

// The model's shape alone.
ModelConfig read_model_config(const std::filesystem::path& path);

// Throws Error unless the model predicts the next token: no classifier, no attention that sees it. `where` begins the
// message.
void check_language_model(const ModelConfig& config, const std::string& where);

// Throws what load_weights would throw for a model of this shape, but for damaged bytes. It reads headers only: worth
// calling before a model's memory is allocated.
void check_weights(const ModelConfig& config, const std::filesystem::path& path);

// Fills the parameters tensor by tensor. Throws Error, before any parameter is changed, for what does not fit the
// model.
void load_weights(Model& model, const std::filesystem::path& path);
