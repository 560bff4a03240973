// The GPU as a model's device (family_model.h), for float or bf16.
//
// The host queues work and continues: inputs go through a ring of pinned buffers on their own stream; the norm,
// clipping and the decision whether to update are computed on the GPU; a step's result is copied to pinned memory and
// read when it is asked for.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/adamw.cuh"
#include "kernels/common.cuh"
#include "kernels/ema.cuh"
#include "kernels/global_norm.cuh"
#include "kernels/muon.cuh"
#include "kernels/residual.cuh"
#include "llm/models/activations.h"
#include "llm/models/gpu_ops.cuh"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "llm/models/owned_memory.h"
#include "llm/models/update.h"

// ---- memory and queues ---------------------------------------------------------------------------------------------

// Zeroed memory of the GPU. Throws std::bad_alloc if too little is free. In a dry run an address without memory.
struct DevicePages {
  static void* allocate(int64_t bytes);
  static void release(void* data, int64_t bytes);
};
using DeviceBuffer = OwnedMemory<DevicePages>;

// Memory of the host that the GPU can copy from and to while the host continues.
struct PinnedPages {
  static void* allocate(int64_t bytes);
  static void release(void* data, int64_t bytes);
};
using PinnedBuffer = OwnedMemory<PinnedPages>;

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

// Launches on a stream, recorded once, to be queued again by one call.
class GpuGraph {
 public:
  GpuGraph() = default;
  ~GpuGraph();
  GpuGraph(const GpuGraph&) = delete;
  GpuGraph& operator=(const GpuGraph&) = delete;

  // Records what `launches` queues on the stream, which is not run now.
  template <class Launches>
  void capture(cudaStream_t stream, Launches&& launches) {
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    try {
      launches();
    } catch (...) {
      end_capture(stream);
      throw;
    }
    instantiate(stream);
  }
  void launch(cudaStream_t stream) { CUDA_CHECK(cudaGraphLaunch(executable_, stream)); }
  explicit operator bool() const { return executable_ != nullptr; }

 private:
  static void end_capture(cudaStream_t stream);
  void instantiate(cudaStream_t stream);

  cudaGraphExec_t executable_ = nullptr;
};

// ---- the device ----------------------------------------------------------------------------------------------------

// The fastest tiers that this build has for a precision; `reference`: the plain ones.
GpuTiers gpu_tiers(Precision precision, bool reference);

// Tiers for decoding, which give a row the same bits whatever the number of rows in the product: kernels for few rows,
// with one order of additions; and where adapters need other products, our own kernels, which add up a sum's products
// in the order of k in each of their tiles, and do not divide k. (cuBLASLt chooses algorithms by the number of rows.)
// Attention over a cache has one kernel.
inline GpuTiers decode_tiers(GpuTiers tiers) {
  if (tiers.matmul.tier == MatmulTier::cublaslt) tiers.matmul.tier = MatmulTier::tensor_core;
  return tiers;
}
inline GpuTiers training_tiers(GpuTiers tiers) {
  tiers.packed = false;
  return tiers;
}

template <class T>
class GpuDevice {
 public:
  using floatX = T;
  using grad_t = float;
  using state_t = float;
  using bf16 = ::bf16;
  using Ops = GpuOps<T>;
  using Memory = DeviceBuffer;
  static constexpr Number kParamNumber = sizeof(T) == 2 ? Number::bf16 : Number::f32, kGradNumber = Number::f32;
  static constexpr bool kHasMaster = sizeof(T) == 2, kSumsSquares = false, kUpdatesByTensor = false,
                        kHostFloats = false;

  // graphs: repeat() makes them.
  GpuDevice(const GpuTiers& tiers, bool graphs)
      : tiers_(training_tiers(tiers)), decode_tiers_(decode_tiers(tiers)), graphs_(graphs && !DryRun::current()) {}

  // ---- memory: clear(), add() and copies are queued, but read() and write() wait
  Memory memory(int64_t bytes) const { return DeviceBuffer(bytes); }
  void reserve(const ModelConfig& config, const ModelOptions& options, int B, int T_);
  void reserve_decoding(const ModelConfig& config, int rows);
  void attach(const std::vector<ParamTensor>& table, Exchange& exchange);
  int64_t allocated_bytes() const {
    return scratch_memory_.bytes() + batch_memory_.bytes() + decay_memory_.bytes() + state_memory_.bytes();
  }
  int64_t logits_rows(const ModelConfig&, const ModelOptions& options, int64_t rows) const {
    return gpu_logits_rows(options, rows);
  }
  void wait() { CUDA_CHECK(cudaStreamSynchronize(compute_)); }
  void finish();
  void clear(float* out, int64_t n) {
    CUDA_CHECK(cudaMemsetAsync(out, 0, static_cast<size_t>(n) * sizeof(float), compute_));
  }
  void add(float* to, const float* from, int64_t n) { residual_forward<float>(to, to, from, 0, 0, 0, n, compute_); }
  template <class U>
  void read(const U* from, float* out, int64_t n) const;
  template <class U>
  void write(U* to, const float* from, int64_t n) const;
  template <class U>
  void copy(U* to, const U* from, int64_t n) const {
    CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(n) * sizeof(U), cudaMemcpyDeviceToDevice, compute_));
  }
  double read_double(const double* from) const;
  cudaStream_t stream() const { return compute_; }

  // ---- a batch, in the ring until used() and as many batches later
  Ops ops(const AdapterPass<T>& adapters, Pass pass) {
    return Ops(pass == Pass::decode ? decode_tiers_ : tiers_, adapters, scratch_memory_.template as<void>(),
               graphs_ ? &state_->pass : nullptr, compute_);
  }
  BatchRows stage(const int32_t* tokens, const int32_t* documents, const float* pooling, int N);
  void stage_targets(BatchRows& batch, const int32_t* targets, const float* weights, int N);
  void stage_rows(BatchRows& batch, const int32_t* rows, int n);  // in the place of targets
  // Dropout's pass: before its operations, and before those of its backward pass.
  void begin_pass(const PassDropout& dropout);
  // Calls part(), which queues a part of a step and returns a number; from the third time on the graph of its launches,
  // captured the second time, is queued instead, and the same number returned. (The first time, kernels and libraries
  // may still set themselves up.)
  template <class Part>
  int64_t repeat(const StepPart& name, Part&& part);
  void forget_parts() { parts_.clear(); }  // before memory that they work on is freed
  void used() { CUDA_CHECK(cudaEventRecord(slots_[slot_].done, compute_)); }

  // Up to n integers of a pass: host() is filled, send() queues one copy; they are on the device until the next pass.
  class Integers {
   public:
    explicit Integers(int64_t n);
    int32_t* host();
    const int32_t* send(GpuDevice& device, int64_t n);

   private:
    DeviceBuffer device_;
    PinnedBuffer pinned_;  // (kBatchSlots, n)
    GpuEvent copied_[kBatchSlots];
    const int64_t n_;
    int slot_ = 0;
  };

  // ---- a step
  void begin_step() { CUDA_CHECK(cudaMemsetAsync(&state_->loss, 0, sizeof(double), compute_)); }
  void add_loss(const float* losses, const float* weights, int N) {
    classifier_loss(&state_->loss, losses, weights, N, compute_);
  }
  double sum(const float* losses, int N);
  double loss() const { return read_double(&state_->loss); }
  void queue_squares(const std::vector<std::pair<const float*, int64_t>>& stretches, bool known);
  double* squares() { return &state_->sums[2]; }
  double* gather_sums(double signal);
  bool prepare_update(const OptimizerConfig& optimizer, float grad_clip);
  void update(const UpdateArenas<T, float, float>& at, const UpdatePlan& plan, const ModelOptions& options,
              const OptimizerConfig& optimizer);
  void finish_update();
  void exchange(T* params, float* master, float* average, int64_t n) {
    ema_exchange(params, master, average, n, compute_);
  }
  int results() const { return static_cast<int>(std::min<int64_t>(update_calls_, kResults)); }
  StepResult result(int steps_back);
  int64_t updates() const;
  void set_updates(int64_t count);

 private:
  static constexpr int kResults = 2;  // updates whose results are kept
  static constexpr size_t kMostParts =
      256;  // that are remembered: batches of ever new shapes are queued kernel by kernel

  // Numbers of a step that live on the GPU.
  struct State {
    double loss;        // of the step so far, in this process
    double sums[3];     // over all processes: loss, signals, the gradients' squares
    double evaluation;  // what sum() makes
    uint64_t pass;      // that of dropout, plus one
    AdamWStep step;
  };
  struct RepeatedPart {
    GpuGraph graph;
    int64_t result = 0;
  };
  static_assert(sizeof(State) == kGpuStepBytes);
  // A batch on its way: its memory on the host and on the GPU.
  struct Slot {
    int32_t *host_tokens, *host_targets, *tokens, *targets;  // (N)
    float *host_weights, *weights, *host_pooling, *pooling;  // (N)  pooling: only in classifiers
    int32_t *host_documents, *documents;                     // (N)  in the memory of pooling
    GpuEvent copied, done;                                   // done: the GPU no longer needs it
  };

  template <class U>
  void send(U* device, U* host, const U* from, int n);
  void copy_now(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const;

  const GpuTiers tiers_, decode_tiers_;
  GpuStream compute_, copies_;
  DeviceBuffer scratch_memory_, batch_memory_, decay_memory_, state_memory_;
  PinnedBuffer pinned_batches_, pinned_results_;
  State* state_ = nullptr;      // on the GPU
  State* results_ = nullptr;    // (kResults)  pinned
  double* signals_ = nullptr;   // (kBatchSlots)  pinned
  uint64_t* passes_ = nullptr;  // (kBatchSlots)  pinned
  const bool graphs_;
  std::map<std::pair<StepPart, int>, RepeatedPart> parts_;  // by name and slot
  GpuEvent result_copied_[kResults];
  Slot slots_[kBatchSlots];
  int slot_ = 0;              // of the last batch
  int64_t batch_tokens_ = 0;  // that a slot holds
  int64_t update_calls_ = 0;
};

template <class T>
template <class Part>
int64_t GpuDevice<T>::repeat(const StepPart& name, Part&& part) {
  if (!graphs_) return part();
  const std::pair key(name, name.what == StepPart::What::update ? 0 : slot_);
  const auto found = parts_.find(key);
  if (found == parts_.end()) {
    const int64_t result = part();
    if (parts_.size() < kMostParts) parts_[key];
    return result;
  }
  RepeatedPart& known = found->second;
  if (!known.graph) known.graph.capture(compute_, [&] { known.result = part(); });
  known.graph.launch(compute_);
  return known.result;
}

template <class T>
template <class U>
void GpuDevice<T>::read(const U* from, float* out, int64_t n) const {
  if constexpr (std::is_same_v<U, float>) {
    copy_now(out, from, static_cast<size_t>(n) * sizeof(float), cudaMemcpyDeviceToHost);
  } else {
    std::vector<bf16> values(static_cast<size_t>(n));
    copy_now(values.data(), from, values.size() * sizeof(bf16), cudaMemcpyDeviceToHost);
    std::transform(values.begin(), values.end(), out, [](bf16 x) { return __bfloat162float(x); });
  }
}

template <class T>
template <class U>
void GpuDevice<T>::write(U* to, const float* from, int64_t n) const {
  if constexpr (std::is_same_v<U, float>) {
    copy_now(to, from, static_cast<size_t>(n) * sizeof(float), cudaMemcpyHostToDevice);
  } else {
    std::vector<bf16> values(static_cast<size_t>(n));
    std::transform(from, from + n, values.begin(), [](float x) { return __float2bfloat16_rn(x); });
    copy_now(to, values.data(), values.size() * sizeof(bf16), cudaMemcpyHostToDevice);
  }
}
