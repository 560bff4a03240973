// A model directory as Hugging Face lays GPT-2 out, and a training state beside it.
//
//   config.json  model.safetensors  tokenizer.json                 a model: `transformers` opens it as it is
//   optimizer.safetensors  trainer_state.json                      what resuming needs besides
//   RUN/checkpoints/step_000100/                                   one checkpoint of a run
//   RUN/latest -> checkpoints/step_000100                          changed last and at once
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "gpt2/model.h"
#include "gpt2/tokenizer.h"

// ---- a model ----

// Shape from DIR/config.json. Throws Error: missing or not JSON, another model_type, a field missing, of the wrong type or
// absurd, heads that do not divide channels, an activation other than gelu_new, untied embeddings, other options of GPT-2
// that change the result and that wrought does not have.
ModelConfig read_model_config(const std::filesystem::path& dir);

// Fills the parameters from DIR/model.safetensors, tensor by tensor (F32, F16 or BF16; names with or without the
// "transformer." prefix; "lm_head.weight" and the attention masks that old files carry are accepted: the head must equal
// wte). Throws Error for a missing, extra or wrongly shaped tensor.
void load_weights(Model& model, const std::filesystem::path& dir);

// Writes config.json, model.safetensors (F32) and, if given, tokenizer.json into an existing folder.
void save_model(const Model& model, const Tokenizer* tokenizer, const std::filesystem::path& dir);

// ---- a training state ----

// Writes RUN/checkpoints/step_NNNNNN whole under a temporary name, flushes it to the disk, renames it, points RUN/latest at
// it, then removes all but the `keep` newest (keep 0: keeps all). If anything fails (a full disk), the checkpoints that were
// there before stay and RUN/latest still names the last good one. `state` is the trainer's own (step, loader, configuration
// ...); checksums of the other files are added. Returns the checkpoint's folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step, const Model& model,
                                      const Tokenizer* tokenizer, const nlohmann::json& state, int keep);

// The folder RUN/latest names, or `run` itself if it is a checkpoint. Throws Error if there is none (says what was found).
std::filesystem::path latest_checkpoint(const std::filesystem::path& run);

// DIR/trainer_state.json, after checking the checksums of all files that it names.
nlohmann::json read_training_state(const std::filesystem::path& dir);

// Parameters and AdamW's moments.
void load_checkpoint(Model& model, const std::filesystem::path& dir);
