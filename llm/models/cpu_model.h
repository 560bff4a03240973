// GPT-2 on the CPU, its parts visible to tests: float trains, double serves finite differences of the whole model.
#pragma once

#include <utility>
#include <vector>

#include "kernels/cpu/dispatch.h"
#include "llm/models/activations.h"
#include "llm/models/model.h"

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

template <class floatX>
class CpuModel final : public Model {
 public:
  // Throws Error if the machine lacks what options.precision needs.
  CpuModel(const ModelConfig& config, bool reference, const ModelOptions& options = {});
  ~CpuModel() override;

  void read_logits(int64_t row, float* out) override;
  double loss(const int32_t* targets, double* sum) override;
  void backward(const int32_t* targets, const float* weights) override;
  void zero_grad() override;
  double step_loss() override { return loss_; }
  double grad_norm() override;
  void update(const OptimizerConfig& optimizer, float grad_clip) override;
  void read_losses(float* out) override;
  StepResult result(int steps_back) override;
  void exchange_average() override;
  int64_t updates() override { return updates_; }
  void set_updates(int64_t count) override { updates_ = count; }
  void read(Arena arena, const ParamTensor& tensor, float* out) const override;
  void write(Arena arena, const ParamTensor& tensor, const float* in) override;
  const float* view(Arena arena, const ParamTensor& tensor) const override;
  void set_dropout(float dropout, uint64_t seed, uint64_t sequence) override;

  int64_t allocated_bytes() const;

  Params<floatX> params, grads;  // grads are bound from the first zero_grad or backward on
  Activations<floatX> acts;      // bound from the first forward on

 private:
  using sum_t = cpu::accumulate_t<floatX>;
  static constexpr Number kNumber = sizeof(floatX) == 8 ? Number::f64 : Number::f32;

  void run(const int32_t* inputs, int B, int T, Pass pass) override;
  void resize_cache(int B, int T) override;
  void forward_attention(int l, float dropout);     // its weighted sums; fills and reads the cache
  void forward_block(int l, float dropout);         // from the stream to the input of the MLP's second product
  void forward_block_output(int l, float dropout);  // that product, and the stream after it
  void backward_block(int l);
  // Adds an adapter's part to a product out (N, OC) = inp (N, C) @ W^T, whose rows are `stride` apart; does nothing
  // without an adapter.
  void lora_forward(const LoraParams<floatX>& w, floatX* out, const floatX* inp, int64_t N, int C, int OC, int stride,
                    int layer, LoraPlace place);
  // Its backward pass: adds to dinp and to the adapter's gradients.
  void lora_backward(const LoraParams<floatX>& w, const LoraParams<floatX>& dw, floatX* dinp, const floatX* dout,
                     const floatX* inp, int64_t N, int C, int OC, int stride, int layer, LoraPlace place);
  int64_t lora_dropout_at(const floatX* inp, LoraPlace place) const;  // the index of inp's first element in the mask
  // acts.lora_h = drop(inp) @ A^T. Returns drop(inp), which is inp itself without dropout.
  const floatX* lora_hidden(const LoraParams<floatX>& w, const floatX* inp, int64_t N, int C, int layer,
                            LoraPlace place);
  // Backward pass of a product; `first`: dweight has nothing of this micro-batch yet.
  void matmul_backward(floatX* dinp, floatX* dweight, floatX* dbias, const floatX* dout, const floatX* inp,
                       const floatX* weight, int N, int C, int OC, bool first);
  void* arena_memory(Arena arena) const override;
  void* whole_memory(Arena arena) const override {
    return (arena == Arena::params ? whole_params_ : whole_grads_).data();
  }
  Number param_number() const override { return kNumber; }
  Number grad_number() const override { return kNumber; }
  void add_grads(void* to, const void* from, int64_t n) override;
  void clear_grads(void* grads, int64_t n) override;
  double squares();  // sum over the gradients; over this rank's part if the optimizer's state is sharded
  // A piece of an update: `count` elements of a tensor, from `at` in gradients, m and average, from `v_at` in v.
  struct Piece {
    const ParamTensor* tensor;
    floatX* param;
    const floatX* grad;
    int64_t at, v_at, count;
  };
  std::vector<Piece> adamw_pieces();
  bool reads_parts(Arena which) const;
  floatX* own_part(Arena which, int u) const { return static_cast<floatX*>(own(which, u)); }
  void clear_kept_grads(bool of_weights) const;
  void settle_grads() const;
  const int32_t* documents() const { return documents_.empty() ? nullptr : documents_.data(); }
  const floatX* head_input() const { return config.num_classes > 0 ? acts.pooled : acts.lnf; }
  int64_t logits_chunk() const;      // rows of logits that are in memory at a time
  int64_t make_logits(int64_t row);  // computes the chunk with this row; returns its rows
  const floatX* stream(int l) const { return l == 0 ? acts.encoded : acts.block[static_cast<size_t>(l - 1)].residual3; }
  void resize(int B, int T);
  void allocate_grads();
  floatX* arena(Arena which) const { return static_cast<floatX*>(arena_memory(which)); }  // null if not allocated
  int64_t arena_bytes(Arena which) const;
  template <class Place>
  uint64_t sequence(int layer, Place place) const {
    return dropout_sequence(dropout_base_, layer, place);
  }

  const cpu::Kernels<floatX>& k_;
  Buffer param_memory_, grad_memory_, whole_params_, whole_grads_, m_memory_, v_memory_, average_memory_, muon_memory_,
      activation_memory_;
  std::vector<int32_t> inputs_;
  Buffer cache_memory_;
  int B_ = 0, T_ = 0;
  int64_t logits_rows_ = 0;        // that the last forward offers; 0 after backward
  int64_t first_logits_row_ = -1;  // the first in acts.logits; -1: none
  Pass pass_ = Pass::evaluate;
  // After zero_grad() the gradients of the products' matrices are stale and count as zeros. The first backward
  // overwrites them; settle_grads() clears them for readers before that.
  mutable bool weight_grads_unset_ = false;
  double squares_ = 0;               // of the block weights' gradients, summed when they were set
  bool squares_known_ = false;       // whether nothing was added to them since
  double loss_ = 0;                  // of the step so far
  int64_t updates_ = 0;              // AdamW's t
  std::vector<StepResult> results_;  // of the last two updates, the newest last
  float dropout_ = 0;
  uint64_t dropout_seed_ = 0, dropout_base_ = 0;
};
