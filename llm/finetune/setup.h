// How finetuning begins and ends: weights taken over from a model that had another head, the run's folder, what is
// saved.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "llm/flags/finetune_flags.h"
#include "llm/formats/run_folder.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// ---- weights --------------------------------------------------------------------------------------------------------

// Fills the tensors that the model shares with the one in DIR (by name and shape), those of the head only if `head`;
// leaves the others, such as adapters. Throws Error as load_weights does, and if the two differ in more than the head.
void load_base_weights(Model& model, const std::filesystem::path& dir, bool head);

// A head's weights (k, C) and biases. `kind`: torch | normal.
void init_head(Model& model, const std::string& kind, uint64_t seed);

// ---- a run's folder -------------------------------------------------------------------------------------------------

// The run's folder: {run}, else the next free runs/NAME. Throws Error if it holds a run already. Makes nothing yet.
std::filesystem::path finetune_folder(const FinetuneConfig& config, const std::string& name);

// Makes and locks the folder; removes what is left of a run that ended before its first save. Throws Error as
// finetune_folder does, or if another process holds the lock.
std::unique_ptr<const RunLock> claim_finetune_folder(const std::filesystem::path& run, const Say& say);

// Writes RUN/latest, whole or not at all: the model with adapters merged, its tokenizer, and what `add` writes next to
// them; in RUN/latest/adapter only the adapters, if there are any and `base` names what they were trained on. An
// earlier RUN/latest is replaced in one step.
void save_finetuned(const Model& model, const Tokenizer& tokenizer, const std::filesystem::path& base,
                    const std::filesystem::path& run, const std::function<void(const std::filesystem::path&)>& add);
