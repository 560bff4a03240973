// A model directory as Hugging Face lays GPT-2 out, and a training state beside it.
//
//   config.json  model.safetensors  tokenizer.json                 a model: `transformers` opens it as it is
//   optimizer.safetensors  trainer_state.json                      what resuming needs besides
//   RUN/checkpoints/step_000100/                                   one checkpoint of a run
//   RUN/latest -> checkpoints/step_000100                          changed last and at once
//   RUN/best -> checkpoints/step_000060                            with --patience: where validation was best
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "gpt2/model.h"
#include "gpt2/tokenizer.h"

// ---- a model ----

// Shape from DIR/config.json; a field that is absent has the value that `transformers` gives it (GPT-2 small's). Throws
// Error: missing or not JSON, another model_type, a field of the wrong type or absurd, heads that do not divide
// channels, an activation other than gelu_new, untied embeddings, other options of GPT-2 that change the result and
// that wrought does not have.
ModelConfig read_model_config(const std::filesystem::path& dir);

// Fills the parameters from DIR/model.safetensors (or the shards that DIR/model.safetensors.index.json names), tensor
// by tensor: F32, F16 or BF16; names with or without the "transformer." prefix; "lm_head.weight" and the attention
// masks that old files carry are accepted, but the head must equal wte. Throws Error, before any parameter is changed,
// for a missing, extra or wrongly shaped tensor, and if DIR/config.json differs from the model's shape.
void load_weights(Model& model, const std::filesystem::path& dir);

// Throws what load_weights would throw for a model of this shape. It reads headers only: worth calling before a model's
// memory is allocated.
void check_weights(const ModelConfig& config, const std::filesystem::path& dir);

// Throws Error if the tokenizer has more ids than the model's vocabulary. Fewer are fine: vocabularies are often padded
// (50,304 for GPT-2's 50,257), and the ids above are then never seen.
void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where);

// Writes model.safetensors (F32), the tokenizer, if given (tokenizer.json, and tokenizer_config.json, which tells
// `transformers` how to open it), and config.json into an existing folder, each file in one step.
void save_model(const Model& model, const Tokenizer* tokenizer, const std::filesystem::path& dir);

// ---- a training state ----

// Writes RUN/checkpoints/step_NNNNNN whole under a temporary name, flushes it to the disk, renames it, points
// RUN/latest at it, then removes all but the `keep` newest (keep 0: keeps all; the one just written always stays). If
// anything fails (a full disk), the checkpoints that were there before stay and RUN/latest still names the last good
// one. A checkpoint of the same step is replaced; what a killed run left half-written is removed. `state` is the
// trainer's own (step, loader, configuration ...), an object; "checksums" of the other files are added. Returns the
// checkpoint's folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step, const Model& model,
                                      const Tokenizer* tokenizer, const nlohmann::json& state, int keep);

// Points RUN/best at one of its checkpoints, which then stays until another is the best, whatever `keep` says.
void mark_best(const std::filesystem::path& run, const std::filesystem::path& checkpoint);

// The folder RUN/latest names, or `run` itself if it is a checkpoint. Throws Error if there is none (says what was
// found).
std::filesystem::path latest_checkpoint(const std::filesystem::path& run);

// DIR/trainer_state.json, after checking the checksums of all files that it names.
nlohmann::json read_training_state(const std::filesystem::path& dir);

// Parameters and AdamW's moments. Throws Error, before anything is changed, for what does not fit the model.
void load_checkpoint(Model& model, const std::filesystem::path& dir);
