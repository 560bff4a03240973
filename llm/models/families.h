// The families of models that a program knows, by the name that config.json calls model_type. gpt2 is always there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llm/models/cpu.h"
#include "llm/models/cpu_device.h"
#include "llm/models/family_model.h"
#include "llm/models/model.h"
#include "llm/models/packed_model.h"
#include "llm/models/plan_ops.h"

struct Family {
  std::string name;
  // The rows of the table of parameters, as for_each_param() gives them.
  std::vector<ParamTensor> (*rows)(const ModelConfig& config, const LoraOptions& lora);
  Plan (*plan)(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t logits_rows, float dropout,
               bool bf16);
  std::unique_ptr<Model> (*make_cpu_model)(const ModelConfig& config, bool reference, const ModelOptions& options);
  std::unique_ptr<PackedDecoder> (*make_packed_decoder)(const ModelConfig& config, const PackedOptions& options);
};

// A family from its one file: struct F as Gpt2 (gpt2.h).
template <class F>
Family make_family(const std::string& name) {
  Family family;
  family.name = name;
  family.rows = [](const ModelConfig& config, const LoraOptions& lora) {
    std::vector<ParamTensor> rows;
    typename F::template Params<float> unused;
    F::for_each_param(config, lora, unused, [&](float*&, const ParamTensor& tensor) { rows.push_back(tensor); });
    return rows;
  };
  family.plan = [](const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t logits_rows,
                   float dropout, bool bf16) {
    return bf16 ? plan_of<F, uint16_t>(config, options, B, T, logits_rows, dropout)
                : plan_of<F, float>(config, options, B, T, logits_rows, dropout);
  };
  family.make_cpu_model = [](const ModelConfig& config, bool reference,
                             const ModelOptions& options) -> std::unique_ptr<Model> {
    return std::make_unique<FamilyModel<F, CpuDevice<float>>>(config, options,
                                                              choose_kernels<float>(reference, options.precision));
  };
  family.make_packed_decoder = [](const ModelConfig& config,
                                  const PackedOptions& options) -> std::unique_ptr<PackedDecoder> {
    return std::make_unique<PackedModel<F>>(config, options);
  };
  return family;
}

// Throws std::logic_error if there is one of that name.
void register_family(const Family& family);
// Throws Error, with the names that there are, for another name.
const Family& find_family(const std::string& name);
