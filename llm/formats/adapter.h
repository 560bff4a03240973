// Low-rank adapters in files, and merged: W + alpha / rank * B A, a model like any other.
//
// An adapter's folder is PEFT's (github.com/huggingface/peft):
//   adapter_config.json          rank, alpha, matrices, the base model (llm/formats/adapter_config.h)
//   adapter_model.safetensors    lora_A (rank, in) and lora_B (out, rank) of each matrix; in its place, of PEFT's first
//                                versions, adapter_model.bin (llm/formats/pytorch.h)
// GPT-2 keeps queries, keys and values in one matrix, c_attn, with an adapter for each here and one for all there: its
// A has theirs one below the other, its B theirs along the diagonal, so its rank is their sum, and its alpha too. A
// classifier's head is not low-rank there but saved whole.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "llm/formats/weights.h"
#include "llm/models/model.h"

// A model's weights with its adapters merged.
class MergedLora final : public Weights {
 public:
  explicit MergedLora(const Model& model);
  void read(const ParamTensor& tensor, float* out) const override;

 private:
  const Model& model_;
  std::map<std::string, const ParamTensor*> tensors_;  // the model's, by name
};

// Writes a model's adapters into an existing folder. `base`: the model directory that its other weights are from, whose
// checksum is kept. `opens_in_peft`: whether PEFT computes what wrought does, as opens_in_transformers() says of a
// classifier's config.json; if not, the adapter gets a peft_type at which PEFT stops.
void save_adapter(const Model& model, const std::filesystem::path& base, const std::filesystem::path& dir,
                  bool opens_in_peft);

bool is_adapter(const std::filesystem::path& dir);

// Opens a base model, of whatever kind: open_weights() (llm/formats/open_weights.h), which itself opens adapters.
using OpenBase = std::function<std::unique_ptr<Weights>(const std::filesystem::path&)>;

// The base with the adapter merged. A classifier's folder holds its config.json, too. Throws Error: a base that is not
// there, is another than the adapter was trained on, or has other shapes; options of PEFT's that change the result and
// that wrought does not have (llm/formats/adapter_config.h); a tensor that is missing, extra or wrongly shaped. An
// adapter or a copy of the token embedding or of the head parts the two where the base ties them.
std::unique_ptr<Weights> open_adapter(const std::filesystem::path& dir, const OpenBase& open_base);
