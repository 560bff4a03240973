// The CPU's GPT-2, open to tests: float trains, double serves finite differences of the whole model.
#pragma once

#include <utility>
#include <vector>

#include "gpt2/activations.h"
#include "gpt2/model.h"
#include "kernels/attention.h"
#include "kernels/classifier.h"
#include "kernels/gelu.h"
#include "kernels/matmul.h"

// Zeroed memory from mmap: page-aligned, and the system gives each page only when it is first touched, so what a pass
// does not use costs nothing.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t bytes);  // throws std::bad_alloc
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// The operations that have a fast version (kernels/X_fast.h) beside the plain one; signatures as in kernels/X.h.
template <class floatX>
struct CpuKernels {
  decltype(&cpu::matmul_forward<floatX>) matmul_forward;
  decltype(&cpu::matmul_backward<floatX>) matmul_backward;
  decltype(&cpu::attention_forward<floatX>) attention_forward;
  decltype(&cpu::attention_backward<floatX>) attention_backward;
  decltype(&cpu::gelu_forward<floatX>) gelu_forward;
  decltype(&cpu::gelu_backward<floatX>) gelu_backward;
  decltype(&cpu::classifier_forward<floatX>) classifier_forward;
  decltype(&cpu::classifier_backward<floatX>) classifier_backward;
};

// The plain ones, or the fastest there are: for double, and where oneDNN is missing, some of them are the same.
template <class floatX>
const CpuKernels<floatX>& cpu_kernels(bool reference);

template <class floatX>
class CpuModel final : public Model {
 public:
  CpuModel(const ModelConfig& config, bool reference, Recompute recompute = Recompute::none,
           Optimizer optimizer = Optimizer::adamw);

  void forward(const int32_t* inputs, int B, int T, Pass pass) override;
  void read_logits(int64_t row, float* out) override;
  double loss(const int32_t* targets, double* sum) override;
  void backward(const int32_t* targets, const float* weights) override;
  void zero_grad() override;
  double step_loss() override { return loss_; }
  double grad_norm() override;
  void update(const OptimizerConfig& optimizer, float grad_clip) override;
  StepResult result(int steps_back) override;
  int64_t updates() override { return updates_; }
  void set_updates(int64_t count) override { updates_ = count; }
  void read(Arena arena, const ParamTensor& tensor, float* out) const override;
  void write(Arena arena, const ParamTensor& tensor, const float* in) override;
  void set_dropout(float dropout, uint64_t seed, uint64_t sequence) override;

  Params<floatX> params, grads;  // grads are bound from the first zero_grad or backward on
  Activations<floatX> acts;      // bound from the first forward on

 private:
  using sum_t = cpu::accumulate_t<floatX>;
  void forward_block(int l, float dropout);         // from the stream to what the MLP's second product reads
  void forward_block_output(int l, float dropout);  // that product, and the stream after it
  void backward_block(int l);
  const floatX* stream(int l) const { return l == 0 ? acts.encoded : acts.block[static_cast<size_t>(l - 1)].residual3; }
  void resize(int B, int T);
  void allocate_grads();
  const floatX* arena(Arena which) const;  // null if not allocated
  int64_t arena_bytes(Arena which) const;
  uint64_t sequence(int layer, DropoutPlace place) const { return dropout_sequence(dropout_base_, layer, place); }

  const CpuKernels<floatX>& k_;
  Buffer param_memory_, grad_memory_, m_memory_, v_memory_, muon_memory_, activation_memory_;
  std::vector<int32_t> inputs_;
  int B_ = 0, T_ = 0;
  int64_t logits_rows_ = 0;  // of the last forward; none once backward has made them dlogits
  Pass pass_ = Pass::evaluate;
  const Recompute recompute_;
  double loss_ = 0;                  // of the step so far
  int64_t updates_ = 0;              // AdamW's t
  std::vector<StepResult> results_;  // of the last two updates, the newest last
  float dropout_ = 0;
  uint64_t dropout_seed_ = 0, dropout_base_ = 0;
};
