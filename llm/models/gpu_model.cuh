// GPT-2 on the GPU, in float or bf16, its parts visible to tests. The order of operations is that of cpu_model.cpp, but
// one launch does the residual connection and the layernorm after it, and products do bias and GELU in their epilogues.
//
// The host queues work and continues: inputs go through a ring of pinned buffers on their own stream; the norm,
// clipping and the decision whether to update are computed on the GPU; a step's result is copied to pinned memory and
// read when it is asked for.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/adamw.cuh"
#include "kernels/attention.cuh"
#include "kernels/common.cuh"
#include "kernels/matmul.cuh"
#include "llm/models/activations.h"
#include "llm/models/model.h"

// ---- tiers ---------------------------------------------------------------------------------------------------------

struct GpuTiers {
  MatmulMode matmul;
  AttentionTier attention;
};
// The fastest that this build has for a precision; `reference`: the plain ones.
GpuTiers gpu_tiers(Precision precision, bool reference);

inline constexpr int kBatchSlots = 4;  // batches that the host may be ahead
inline constexpr int kSlotArrays = 4;  // inputs, targets, weights; pooling or documents
inline int64_t slot_elements(int64_t tokens) { return (tokens + 63) / 64 * 64; }  // each array begins on a cache line
// Scratch bytes of the operations of a (B, T) batch and of the optimizer.
int64_t gpu_scratch_bytes(const ModelConfig& config, const ModelOptions& options, int B, int T);

// ---- the model -----------------------------------------------------------------------------------------------------

// Zeroed memory of the GPU. Throws std::bad_alloc if too little is free. In a dry run an address without memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Memory of the host that the GPU can copy from and to while the host continues.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

class GpuStream {
 public:
  GpuStream();
  ~GpuStream();
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class GpuEvent {
 public:
  GpuEvent();
  ~GpuEvent();
  GpuEvent(const GpuEvent&) = delete;
  GpuEvent& operator=(const GpuEvent&) = delete;
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// The launches of a training step at (B, T): from a dry run, which also makes the libraries' plans for it.
template <class floatX>
std::vector<DryRun::Operation> dry_step(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                        float dropout, const GpuTiers& tiers);

template <class floatX>
class GpuModel final : public Model {
 public:
  GpuModel(const ModelConfig& config, const ModelOptions& options, int B, int T, const GpuTiers& tiers);
  ~GpuModel() override;

  void read_logits(int64_t row, float* out) override;
  double loss(const int32_t* targets, double* sum) override;
  void backward(const int32_t* targets, const float* weights) override;
  void zero_grad() override;
  double step_loss() override;
  double grad_norm() override;
  void update(const OptimizerConfig& optimizer, float grad_clip) override;
  void read_losses(float* out) override;
  StepResult result(int steps_back) override;
  void exchange_average() override;
  int64_t updates() override;
  void set_updates(int64_t count) override;
  void read(Arena arena, const ParamTensor& tensor, float* out) const override;
  void write(Arena arena, const ParamTensor& tensor, const float* in) override;
  void set_dropout(float dropout, uint64_t seed, uint64_t sequence) override;

  int64_t allocated_bytes() const;                         // of GPU memory
  const ParamTensor* tensor_at(const void* params) const;  // the tensor whose parameters begin there, or null

 private:
  static constexpr int kResults = 2;  // updates whose results are kept

  // Numbers of a step that live on the GPU.
  struct State {
    double loss;        // of the step so far, in this process
    double sums[3];     // over all processes: loss, signals, the gradients' squares
    double evaluation;  // the sum that loss() makes
    AdamWStep step;
  };
  // A batch on its way: its memory on the host and on the GPU.
  struct Slot {
    int32_t *host_inputs, *host_targets, *inputs, *targets;  // (N)
    float *host_weights, *weights, *host_pooling, *pooling;  // (N)  pooling: only in classifiers
    int32_t *host_documents, *documents;                     // (N)  in the memory of pooling
    GpuEvent copied, done;                                   // done: the GPU no longer needs it
  };

  void run(const int32_t* inputs, int B, int T, Pass pass) override;
  void resize_cache(int B, int T) override;
  void forward_attention(int l, float dropout);
  void forward_block(int l, float dropout);         // from ln1 to what the MLP's second product reads
  void forward_block_output(int l, float dropout);  // that product, the stream after it and its norm
  void backward_block(int l);
  // As in CpuModel.
  void lora_forward(const LoraParams<floatX>& w, floatX* out, const floatX* inp, int64_t N, int C, int OC, int stride,
                    int layer, LoraPlace place);
  void lora_backward(const LoraParams<floatX>& w, const LoraParams<float>& dw, floatX* dinp, const floatX* dout,
                     const floatX* inp, int64_t N, int C, int OC, int stride, int layer, LoraPlace place);
  const floatX* lora_hidden(const LoraParams<floatX>& w, const floatX* inp, int64_t N, int C, int layer,
                            LoraPlace place);
  void* arena_memory(Arena arena) const override;
  void* whole_memory(Arena arena) const override {
    return (arena == Arena::params ? whole_params_ : whole_grads_).template as<void>();
  }
  Number param_number() const override { return sizeof(floatX) == 2 ? Number::bf16 : Number::f32; }
  Number grad_number() const override { return Number::f32; }
  void add_grads(void* to, const void* from, int64_t n) override;
  void clear_grads(void* grads, int64_t n) override;
  float unit_lr_scale(int u) const;
  float* own_floats(Arena arena, int u) const { return static_cast<float*>(own(arena, u)); }
  floatX* own_params(int u) const { return static_cast<floatX*>(own(Arena::params, u)); }
  void queue_squares();  // of the gradients, into state_->sums[2]
  template <class Number>
  void read_parts(const Number* own, const ParamTensor& tensor, float* out) const;
  const int32_t* documents() const { return !documents_.empty() ? slots_[slot_].documents : nullptr; }
  const floatX* head_input() const { return config.num_classes > 0 ? acts_.pooled : acts_.lnf; }
  const floatX* stream(int l) const {
    return l == 0 ? acts_.encoded : acts_.block[static_cast<size_t>(l - 1)].residual3;
  }
  void resize(int B, int T);
  void prepare(int B, int T);
  template <class T>
  void copy_in(Slot& slot, T* device, T* host, const T* from, int n);
  void copy_now(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const;
  double read_double(const double* from) const;
  template <class Number>
  void read_floats(const Number* from, float* out, int64_t n) const;
  template <class Number>
  void write_floats(Number* to, const float* in, int64_t n) const;
  float* float_arena(Arena arena) const;
  const float* float_weights(const floatX* params, int64_t i) const;
  // Each stretch of the arena that is updated separately draws its own numbers for stochastic rounding.
  uint64_t rounding_seed(int64_t offset) const { return options.seed + static_cast<uint64_t>(offset); }
  template <class Place>
  uint64_t sequence(int layer, Place place) const {
    return dropout_sequence(dropout_base_, layer, place);
  }

  const GpuTiers tiers_;
  GpuStream compute_, copies_;
  DeviceBuffer param_memory_, master_memory_, grad_memory_, m_memory_, v_memory_, average_memory_, whole_params_,
      whole_grads_, activation_memory_, scratch_memory_, muon_memory_, cache_memory_, batch_memory_, decay_memory_,
      state_memory_;
  PinnedBuffer pinned_batches_, pinned_results_;
  Params<floatX> params_;
  Params<float> grads_;
  Activations<floatX> acts_;
  State* state_ = nullptr;     // on the GPU
  State* results_ = nullptr;   // (kResults)  pinned
  double* signals_ = nullptr;  // (kBatchSlots)  pinned
  GpuEvent result_copied_[kResults];
  Slot slots_[kBatchSlots];
  int slot_ = 0;              // of the last forward
  int64_t batch_tokens_ = 0;  // that a slot holds
  int64_t update_calls_ = 0;
  std::set<std::pair<int, int>> prepared_;  // batches (B, T)
  int B_ = 0, T_ = 0;
  int64_t logits_rows_ = 0;  // of the last forward; 0 once backward has overwritten them with dlogits
  Pass pass_ = Pass::evaluate;
  float dropout_ = 0;
  uint64_t dropout_seed_ = 0, dropout_base_ = 0;
};
