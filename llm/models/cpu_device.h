// The CPU as a model's device (family_model.h): memory, the place of a batch, and the arithmetic of an update.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "llm/models/activations.h"
#include "llm/models/cpu_ops.h"
#include "llm/models/model.h"
#include "llm/models/owned_memory.h"
#include "llm/models/update.h"
#include "llm/models/walk.h"

// Zeroed memory from mmap: page-aligned, and the system gives each page only when it is first touched, so what a pass
// does not use costs nothing.
struct HostPages {
  static void* allocate(int64_t bytes);
  static void release(void* data, int64_t bytes);
};
using Buffer = OwnedMemory<HostPages>;

// The fast kernels, or with `reference`, and for double, the plain ones. Throws Error if this machine has none for the
// precision.
template <class T>
const cpu::Kernels<T>& choose_kernels(bool reference, Precision precision);

template <class T>
class CpuDevice {
 public:
  using floatX = T;
  using grad_t = T;
  using state_t = T;
  using bf16 = cpu::bf16;
  using Ops = CpuOps<T>;
  using sum_t = typename Ops::sum_t;
  using Memory = Buffer;
  static constexpr Number kParamNumber = sizeof(T) == 8 ? Number::f64 : Number::f32, kGradNumber = kParamNumber;
  static constexpr bool kHasMaster = false, kSumsSquares = true, kUpdatesByTensor = true;
  static constexpr bool kHostFloats = sizeof(T) == sizeof(float);

  explicit CpuDevice(const cpu::Kernels<T>& kernels) : k_(kernels) {}

  // ---- memory
  Memory memory(int64_t bytes) const { return Buffer(bytes); }
  void reserve(const ModelConfig&, const ModelOptions&, int, int) {}
  void reserve_decoding(const ModelConfig&, int) {}
  void attach(const std::vector<ParamTensor>&, Exchange&) {}
  int64_t allocated_bytes() const { return 0; }
  // Those that are in memory at a time: all at once they would take most of it and fit into no cache.
  void begin_pass(const PassDropout&) {}
  void forget_parts() {}
  template <class Part>
  int64_t repeat(const StepPart&, Part&& part) {
    return part();
  }
  int64_t logits_rows(const ModelConfig& config, const ModelOptions& options, int64_t rows) const {
    return cpu_logits_rows(config, options, rows);
  }
  void wait() {}    // for all that is queued
  void finish() {}  // the same, before memory is freed: never throws
  void clear(T* out, int64_t n);
  void add(T* to, const T* from, int64_t n);
  template <class U>
  void read(const U* from, float* out, int64_t n) const {
    std::copy(from, from + n, out);
  }
  void write(T* to, const float* from, int64_t n);
  void write(bf16* to, const float* from, int64_t n) { std::transform(from, from + n, to, cpu::round_to_nearest); }
  template <class U>
  void copy(U* to, const U* from, int64_t n) const {
    std::copy(from, from + n, to);
  }
  double read_double(const double* from) const { return *from; }

  // ---- a batch, kept until the next one
  Ops ops(const AdapterPass<T>& adapters, Pass) { return Ops(k_, adapters, squares_); }
  BatchRows stage(const int32_t* tokens, const int32_t* documents, const float* pooling, int N);
  void stage_targets(BatchRows& batch, const int32_t* targets, const float* weights, int) {
    batch.targets = targets, batch.weights = weights;
  }
  void stage_rows(BatchRows& batch, const int32_t* rows, int n) {
    rows_.assign(rows, rows + n);
    batch.rows = rows_.data();
  }
  void used() {}
  // Up to n integers of a pass: host() is filled, send() has them on the device until the next pass.
  class Integers {
   public:
    explicit Integers(int64_t n) : values_(n * static_cast<int64_t>(sizeof(int32_t))) {}
    int32_t* host() { return values_.as<int32_t>(); }
    const int32_t* send(CpuDevice&, int64_t /* n */) { return values_.as<int32_t>(); }

   private:
    Buffer values_;
  };

  // ---- a step: its loss, the gradients' squares, its update
  void begin_step() { loss_ = squares_ = 0; }
  void add_loss(const sum_t* losses, const float* weights, int N);
  double sum(const sum_t* losses, int N) const;
  double loss() const { return loss_; }
  // The squares of these gradients, and with `known` those that linear_backward summed, are in squares() from now on.
  void queue_squares(const std::vector<std::pair<const T*, int64_t>>& stretches, bool known);
  double* squares() { return &sums_[2]; }
  double* gather_sums(double signal);                                      // loss, signal, squares
  bool prepare_update(const OptimizerConfig& optimizer, float grad_clip);  // false: the sums are not finite
  void update(const UpdateArenas<T, T, T>& at, const UpdatePlan& plan, const ModelOptions& options,
              const OptimizerConfig& optimizer);
  void finish_update() {}
  void exchange(T* params, T*, T* average, int64_t n) { std::swap_ranges(params, params + n, average); }
  int results() const { return static_cast<int>(results_.size()); }
  StepResult result(int steps_back) const { return results_[results_.size() - 1 - static_cast<size_t>(steps_back)]; }
  int64_t updates() const { return updates_; }
  void set_updates(int64_t count) { updates_ = count; }

 private:
  const cpu::Kernels<T>& k_;
  std::vector<int32_t> tokens_, documents_, rows_;
  std::vector<float> pooling_;
  double loss_ = 0;                  // of the step so far
  double squares_ = 0;               // of gradients that linear_backward set
  double sums_[3] = {};              // over all processes: loss, signal, squares
  float grad_scale_ = 1;             // of the update
  int64_t updates_ = 0;              // AdamW's t
  std::vector<StepResult> results_;  // of the last two updates, the newest last
};
