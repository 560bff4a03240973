// Models of a family on the GPU, in float or bf16, their parts visible to tests; and the families that a program knows.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "llm/models/family_model.h"
#include "llm/models/gpt2.h"
#include "llm/models/gpu_device.cuh"

// ---- a model -------------------------------------------------------------------------------------------------------

template <class floatX, class Family = Gpt2>
class GpuModel final : public FamilyModel<Family, GpuDevice<floatX>> {
 public:
  // Allocates the memory to train at (B, T).
  GpuModel(const ModelConfig& config, const ModelOptions& options, int B, int T, const GpuTiers& tiers)
      : FamilyModel<Family, GpuDevice<floatX>>(config, options, tiers, options.graph && options.ranks == 1),
        tiers_(tiers) {
    this->resize(B, T);
    prepare(B, T);
  }

 private:
  void prepare(int B, int T) override;

  const GpuTiers tiers_;
  std::set<std::pair<int, int>> prepared_;  // batches (B, T)
};

// The launches of a training step of (B, T) micro-batches: from a dry run, which also makes the libraries' plans for
// it. The first micro-batch sets gradients, later ones add to them: other products.
template <class floatX, class Family = Gpt2>
std::vector<DryRun::Operation> dry_step(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                        float dropout, const GpuTiers& tiers, int micro_batches = 1) {
  ModelOptions alone = options;  // several processes launch the same kernels on parts
  alone.ranks = 1;
  alone.zero = 0;
  alone.comm = nullptr;
  const size_t rows = static_cast<size_t>(B) * static_cast<size_t>(T);
  const std::vector<int32_t> tokens(rows, 0);
  const std::vector<float> weights(rows, 1.0f);
  DryRun run;
  GpuModel<floatX, Family> model(config, alone, B, T, tiers);
  model.zero_grad();
  for (int micro = 0; micro < micro_batches; ++micro) {
    model.forward({.tokens = tokens.data(),
                   .B = B,
                   .T = T,
                   .dropout = {dropout, 0, 0},
                   .pooling = config.num_classes > 0 ? weights.data() : nullptr});
    model.backward(tokens.data(), weights.data());
  }
  model.update({}, 1);
  for (DryRun::Operation& operation : run.operations) {
    if (!operation.weight) continue;
    const ParamTensor* tensor = model.tensor_at(operation.weight);
    operation.of = tensor ? tensor->product : "";
  }
  return std::move(run.operations);
}

// Makes the plans and workspaces of the libraries that training at (B, T) calls, so that a step allocates nothing.
template <class floatX, class Family>
void GpuModel<floatX, Family>::prepare(int B, int T) {
  if (DryRun::current() || !prepared_.emplace(B, T).second) return;
#if defined(WROUGHT_CUBLASLT) || defined(WROUGHT_CUDNN)
  dry_step<floatX, Family>(this->config, this->options, B, T, 0, tiers_, 2);
#endif
#ifdef WROUGHT_CUBLASLT
  CublasLt::instance().prepare(this->device_.stream());
#endif
#ifdef WROUGHT_CUDNN
  attention_cudnn::prepare();
#endif
}

extern template class GpuDevice<float>;
extern template class GpuDevice<bf16>;
extern template class FamilyModel<Gpt2, GpuDevice<float>>;
extern template class FamilyModel<Gpt2, GpuDevice<bf16>>;

// ---- families ------------------------------------------------------------------------------------------------------

// What programs ask of a family on a GPU, for the precision in `options`.
struct GpuFamily {
  std::string name;
  std::unique_ptr<Model> (*make)(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                 const GpuTiers& tiers);
  std::vector<DryRun::Operation> (*dry_step)(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                             float dropout, const GpuTiers& tiers, int micro_batches);
};

template <class F>
GpuFamily make_gpu_family(const std::string& name) {
  return {name,
          [](const ModelConfig& config, const ModelOptions& options, int B, int T,
             const GpuTiers& tiers) -> std::unique_ptr<Model> {
            if (options.precision == Precision::bf16) {
              return std::make_unique<GpuModel<bf16, F>>(config, options, B, T, tiers);
            }
            return std::make_unique<GpuModel<float, F>>(config, options, B, T, tiers);
          },
          [](const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout, const GpuTiers& tiers,
             int micro_batches) {
            const auto dry = options.precision == Precision::bf16 ? dry_step<bf16, F> : dry_step<float, F>;
            return dry(config, options, B, T, dropout, tiers, micro_batches);
          }};
}

// With register_family() (families.h); throws std::logic_error if there is one of that name. gpt2 is always there.
void register_gpu_family(const GpuFamily& family);
// Throws Error if there is none of that name.
const GpuFamily& find_gpu_family(const std::string& name);
