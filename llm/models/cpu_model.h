// GPT-2 on the CPU, its parts visible to tests: float trains, double serves finite differences of the whole model.
#pragma once

#include "llm/models/cpu_device.h"
#include "llm/models/family_model.h"
#include "llm/models/gpt2.h"

template <class floatX>
class CpuModel final : public FamilyModel<Gpt2, CpuDevice<floatX>> {
 public:
  // Throws Error if the machine lacks what options.precision needs.
  CpuModel(const ModelConfig& config, bool reference, const ModelOptions& options = {});
};

extern template class FamilyModel<Gpt2, CpuDevice<float>>;
extern template class FamilyModel<Gpt2, CpuDevice<double>>;
