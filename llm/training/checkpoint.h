// A run's checkpoints: a model directory (llm/formats/huggingface.h) with a training state next to it.
//
//   config.json  model.safetensors  tokenizer.json  tokenizer_config.json   a model: `transformers` opens it as it is
//   optimizer.safetensors  trainer_state.json                               what else resuming needs
//
// llm/formats/run_folder.h has where a run keeps them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "llm/formats/huggingface.h"
#include "llm/formats/run_folder.h"
#include "llm/formats/weights.h"

// The version of trainer_state.json. 1: has neither "version" nor "checksum"; 2: has both, and the checksums of the
// run's data.
inline constexpr int kStateVersion = 2;

// Writes RUN/checkpoints/step_NNNNNN whole under a temporary name, flushes it to the disk, renames it, points
// RUN/latest at it, then removes all but the `keep` newest (keep 0: keeps all; the one just written always stays). Only
// checkpoints of this run (the state's "run_id") and of earlier steps are counted and removed: what else is in
// RUN/checkpoints stays. If anything fails (a full disk), the checkpoints that were there before stay and RUN/latest
// still names the last good one. A checkpoint of the same step is replaced; what a killed run left half-written is
// removed. `state` is the trainer's own (step, loader, configuration ...), an object; "checksums" of the other files,
// "version" and a "checksum" of the state itself are added. Returns the checkpoint's folder. With a group all its
// processes make the call, each writes a part of the two large files, and rank 0 does the rest; the files are those
// that one process would have written.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, int64_t step, const Model& model,
                                      const Tokenizer* tokenizer, const nlohmann::json& state, int keep,
                                      const Group* group = nullptr);

// Repairs RUN/latest and RUN/best if they are folders, as after a copy that followed links: the folder moves to its
// place in RUN/checkpoints, or is removed if it is a copy of the checkpoint there, and the link is made again; reports
// each. Throws Error, and changes nothing, if the folder is not an undamaged checkpoint.
void repair_links(const std::filesystem::path& run, const Say& say);

// DIR/trainer_state.json, after checking its version, its own checksum and those of all files that it names. Throws
// Error if it is damaged, changed by hand, or of a newer version.
nlohmann::json read_training_state(const std::filesystem::path& dir);

// Loads parameters and AdamW's moments, and sets the number of updates. A run with an average of the weights has that
// as the checkpoint's model, and the weights that training continues from with the moments. Throws Error, before
// anything is changed, for what does not fit the model.
void load_checkpoint(Model& model, const std::filesystem::path& dir, int64_t updates);
