// A model's low-rank adapters added to the matrices that they stand beside: W + alpha / rank * B A, a model like any
// other, which is what files hold.
#pragma once

#include <map>
#include <string>

#include "gpt2/model.h"

// Has no adapters in its table, and reads as the model behind it would act. Only to be read: it computes nothing.
class MergedLora final : public Model {
 public:
  explicit MergedLora(const Model& model);
  void read(Arena arena, const ParamTensor& tensor, float* out) const override;  // params only

  void write(Arena, const ParamTensor&, const float*) override { no(); }
  void forward(const int32_t*, int, int, Pass) override { no(); }
  void read_logits(int64_t, float*) override { no(); }
  double loss(const int32_t*, double*) override { no(); }
  void backward(const int32_t*, const float*) override { no(); }
  void read_losses(float*) override { no(); }
  void set_pooling(const float*, int, int) override { no(); }
  void zero_grad() override { no(); }
  double step_loss() override { no(); }
  double grad_norm() override { no(); }
  void update(const OptimizerConfig&, float) override { no(); }
  StepResult result(int) override { no(); }
  int64_t updates() override { no(); }
  void set_updates(int64_t) override { no(); }
  void set_dropout(float, uint64_t, uint64_t) override { no(); }

 private:
  [[noreturn]] static void no();
  const Model& model_;
  std::map<std::string, const ParamTensor*> tensors_;  // the model's, by name
};
