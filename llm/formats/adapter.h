// Low-rank adapters in files, and merged: W + alpha / rank * B A, a model like any other.
//
// An adapter's folder has PEFT's layout (github.com/huggingface/peft):
//   adapter_config.json          rank, alpha, matrices, the base model (llm/formats/adapter_config.h)
//   adapter_model.safetensors    lora_A (rank, in) and lora_B (out, rank) of each matrix; PEFT's first versions wrote
//                                adapter_model.bin instead (llm/formats/pytorch.h)
// GPT-2 keeps queries, keys and values in one matrix, c_attn. wrought has an adapter for each of the three, PEFT one
// for all: its A has theirs one below the other, its B theirs along the diagonal, and its rank and alpha are their
// sums. PEFT saves a classifier's head whole, not as an adapter.
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
  std::map<std::string, const ParamTensor*> tensors_;  // of the model, by name
};

// Writes a model's adapters into an existing folder. `base`: the model directory of its other weights, whose checksum
// is kept. `opens_in_peft`: whether PEFT computes the same as wrought, which opens_in_transformers() tells from a
// classifier's config.json; if not, the adapter gets a peft_type that PEFT refuses.
void save_adapter(const Model& model, const std::filesystem::path& base, const std::filesystem::path& dir,
                  bool opens_in_peft);

bool is_adapter(const std::filesystem::path& dir);

// Opens a base model of any kind: open_weights() (llm/formats/open_weights.h), which itself opens adapters.
using OpenBase = std::function<std::unique_ptr<Weights>(const std::filesystem::path&)>;

// The base with the adapter merged. A classifier's folder also has its config.json. Throws Error for a base that is
// missing, is not the one that the adapter was trained on, or has other shapes; for PEFT options that change the result
// and that wrought does not have (llm/formats/adapter_config.h); for a tensor that is missing, extra or wrongly shaped.
// An adapter or a copy of the token embedding or of the head unties the two if the base ties them.
std::unique_ptr<Weights> open_adapter(const std::filesystem::path& dir, const OpenBase& open_base);
