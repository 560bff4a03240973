// The contract of a trainable GPT-2 on any device. model_base.cpp has the shared part, cpu_model.cpp runs on the CPU,
// gpu_model.cu on the GPU.
//
// One step, as the trainers write it:
//   model.zero_grad();
//   for each micro-batch:  model.forward(inputs, B, T, Pass::train);  model.backward(targets, weights);
//   model.update(optimizer, grad_clip);
// On a GPU these calls only queue work (arguments are copied and may change afterwards), so that it never waits for the
// host. A step's result is asked for later: result(1) after the next step has been queued. Calls that return numbers
// wait for them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "llm/distributed/comm.h"
#include "llm/models/config.h"
#include "llm/models/options.h"
#include "llm/models/sharding.h"
#include "llm/models/tensor_table.h"

enum class Pass {
  train,     // dropout on, logits for every position, activations kept for backward
  evaluate,  // dropout off, logits for every position
  generate,  // dropout off, logits of each row's last position only
};

// Settings of an update: betas and eps for AdamW, momentum for Muon.
struct OptimizerConfig {
  float lr = 3e-4f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, momentum = 0.95f;
  float signal = 0;  // summed over all processes into StepResult::signals: so they agree, e.g. on stopping
};

struct StepResult {
  double loss = 0;       // sum of weights * losses
  double own_loss = 0;   // this process' share of it
  double grad_norm = 0;  // before clipping
  bool updated = false;  // false: loss or norm was not finite, and weights, moments and their count stayed as they were
  double signals = 0;    // the sum of all processes' OptimizerConfig::signal
};

// The kernels of an operation of a training step.
struct KernelRow {
  std::string operation, of, shape;  // of: which of the model's products
  int times;                         // in a step of one micro-batch
  std::string tier, why;             // if there is a choice: what was taken, and why nothing faster
  std::vector<std::string> kernels;  // with their launches
};

// Dropout sites; each has its own random numbers.
enum class DropoutPlace { embedding, attention, attproj, mlp };
// Dropout sites of adapters, named after the matrix that an adapter belongs to.
enum class LoraPlace { q, k, v, attproj, fc, fcproj, head };

class Model {
 public:
  virtual ~Model() = default;

  const ModelConfig config;
  const ModelOptions options;
  const std::vector<ParamTensor> table;
  const std::vector<ParamUnit> units;  // none for a single process

  // Rows of the next forward, and of the backward after it, hold several documents one after the other: position t of
  // row b belongs to the document that begins at first[b,t], sees no other, and is position t - first[b,t] of it. first
  // (B, T), copied: t where a document begins, else first[b,t-1]. Only for causal models that are not classifiers.
  void set_documents(const int32_t* first, int B, int T);
  // inputs (B, T) in [0, V), T <= max_seq_len: throws Error otherwise. The first call and a larger B*T allocate.
  void forward(const int32_t* inputs, int B, int T, Pass pass);
  // Logits of the last forward: row r, outputs() values. There are B*T rows, or B after Pass::generate and in a
  // classifier; backward uses them up. Targets and weights below have as many rows.
  virtual void read_logits(int64_t row, float* out) = 0;
  // Mean loss of the targets that are not -1, after a forward for every position; `sum`, if given, receives their sum.
  virtual double loss(const int32_t* targets, double* sum = nullptr) = 0;
  // After Pass::train: adds to the gradients, and sum(weights * loss) to the step's loss. weights e.g. 1/(B*T).
  virtual void backward(const int32_t* targets, const float* weights) = 0;
  // After loss() or backward(): the loss of each row, 0 where its target is -1.
  virtual void read_losses(float* out) = 0;
  // Sets what a classifier's head reads from the next forward on: of sequence b, sum_t weights[b,t] lnf[b,t]. weights
  // (B, T): a single 1 selects a position, 1/T everywhere gives the mean. Needed before the first forward of another
  // shape.
  void set_pooling(const float* weights, int B, int T);

  // Generation with a cache of keys and values. set_cache() makes room for those of B sequences of up to T tokens;
  // zeros free it. A forward(Pass::generate) of B sequences, not longer, then fills it, and decode() continues: its
  // result is that of a forward of every sequence with its new token, ids (B), at the end, but only the new tokens are
  // computed. decode() throws Error without such a forward and beyond T; set_cache() for a model that is not causal,
  // where each new token changes the keys and values of the others.
  void set_cache(int B, int T);
  void decode(const int32_t* ids);

  // Several processes (ModelOptions::comm) all make the same calls in the same order, reads included; each backward has
  // a part of the batch, but weights for the whole. sum_gradients(): the next backward is the step's last, and
  // gradients are summed over the processes while it still runs. Without this call update() and grad_norm() sum them.
  void sum_gradients() { last_backward_ = true; }

  virtual void zero_grad() = 0;  // begins a step, whose loss is then 0, too
  // The loss of the step so far, in this process.
  virtual double step_loss() = 0;
  virtual double grad_norm() = 0;
  // One step of AdamW, and of Muon for the tensors that the table gives to it, t = updates() + 1, with gradients scaled
  // down to the norm grad_clip if theirs is larger (0: never). Does nothing if the step's loss or norm is not finite.
  virtual void update(const OptimizerConfig& optimizer, float grad_clip) = 0;
  // The result of the last update() (steps_back 0) or the one before it (1). Waits only for that one, not for work
  // queued since.
  virtual StepResult result(int steps_back) = 0;
  // With options.ema: exchanges the weights with their average; a second call undoes it. Does nothing without an
  // average and before the first update.
  virtual void exchange_average() = 0;
  // Updates that changed the weights: AdamW's t, part of a checkpoint.
  virtual int64_t updates() = 0;
  virtual void set_updates(int64_t count) = 0;

  // Copies one tensor between an arena and host memory, tensor.size() floats in the layout of the table. For
  // checkpoints: the moments read as zeros before the first update.
  virtual void read(Arena arena, const ParamTensor& tensor, float* out) const = 0;
  virtual void write(Arena arena, const ParamTensor& tensor, const float* in) = 0;
  // The same numbers in place, without a copy; null if they are not in host memory as floats. Valid until the next call
  // that changes them.
  virtual const float* view(Arena, const ParamTensor&) const { return nullptr; }

  // Sets dropout and its place in the random sequence; the trainer derives it from step and micro-batch, so that a
  // resumed run draws the numbers of an unbroken one. Called before forward; backward repeats the masks of forward.
  virtual void set_dropout(float dropout, uint64_t seed, uint64_t sequence) = 0;

 protected:
  // Throws std::logic_error for several processes without a Comm of that size.
  Model(const ModelConfig& c, const ModelOptions& o);
  // A forward() that was checked, or decode(): one token of each sequence, after its cached_ tokens.
  virtual void run(const int32_t* inputs, int B, int T, Pass pass) = 0;
  // Frees the cache, and allocates cache_elements(B, T) unless that is 0. May throw std::bad_alloc.
  virtual void resize_cache(int B, int T) = 0;
  int64_t cache_elements(int64_t B, int64_t T) const { return 2 * config.num_layers * B * T * config.channels; }

  // ---- several processes: units of parameters and gradients on their way (ParamUnit) ----
  bool parallel() const { return options.ranks > 1; }
  Comm& comm() const { return *comm_; }
  const ParamUnit& unit(int u) const { return units[static_cast<size_t>(u)]; }
  int last_unit() const { return static_cast<int>(units.size()) - 1; }
  // With sharded parameters: queues gathering the unit's into the place where they are whole, unless they are there.
  void gather(int u);
  void need(int u);                // before its parameters are used: waits until they have arrived
  void gather_changed();           // own parts of all parameters have changed: all ranks get them, now or when needed
  void settle_params();            // waits for all parameters on their way
  void begin_backward();           // throws std::logic_error if the gradients are sums already
  void begin_gradients(int u);     // before a backward writes its gradients: clears them if they are sharded
  void reduce(int u);              // a backward has completed its gradients: queues their sum, if it is due
  void settle();                   // waits for all that is on its way: before memory is freed
  void finish_gradients();         // waits for the sums
  void arrive(Arena arena) const;  // waits for what is on its way to an arena, for read() and view()
  void forget_gradients();         // zero_grad() is about to clear them
  // Whether an update works only on this rank's parts.
  bool in_parts() const { return parallel() && options.zero > 0; }
  // The address of a whole unit of an arena (parameters, gradients), and of this rank's own part of it.
  void* whole(Arena arena, int u) const;
  void* own(Arena arena, int u) const;
  // From the implementation: the memory of an arena, and of the units that are temporarily whole if it is sharded; the
  // types of parameters and gradients; sums and zeros among gradients.
  virtual void* arena_memory(Arena) const { return nullptr; }
  virtual void* whole_memory(Arena) const { return nullptr; }
  virtual Number param_number() const { return Number::f32; }
  virtual Number grad_number() const { return Number::f32; }
  virtual void add_grads(void*, const void*, int64_t) {}
  virtual void clear_grads(void*, int64_t) {}

  // The refusals that forward, backward and loss, set_dropout promise.
  void check_batch(const int32_t* inputs, int B, int T) const;
  int64_t check_targets(const int32_t* targets, int N) const;  // returns how many are not -1
  static void check_dropout(float dropout);
  float lora_scale() const { return options.lora.alpha / static_cast<float>(options.lora.rank); }
  // How far down backward goes: to the first block with anything to train in or below it; num_layers: to no block, but
  // the final norm; num_layers + 1: only to the head.
  int last_block_of_backward() const;
  // Philox's sequence for a dropout site of a layer. `base` is that of set_dropout; a seed's first 2^16 are for
  // init_weights.
  static uint64_t dropout_sequence(uint64_t base, int layer, DropoutPlace place) {
    return ((base + 1) << 16) + static_cast<uint64_t>(layer) * 4 + static_cast<uint64_t>(place);
  }
  static uint64_t dropout_sequence(uint64_t base, int layer, LoraPlace place) {  // after 4,096 layers of the others
    return ((base + 1) << 16) + (1 << 14) + static_cast<uint64_t>(layer) * 8 + static_cast<uint64_t>(place);
  }

  std::vector<int32_t> documents_;              // (B, T) of the last forward; empty: each row is one
  std::vector<float> pooling_;                  // (B, T)
  int cache_B_ = 0, cache_T_ = 0, cached_ = 0;  // (layers, keys | values, cache_B, NH, cache_T, HS); tokens in it

 private:
  void wait_for(std::vector<Comm::Ticket>& tickets);
  int64_t element_bytes(Arena arena) const;

  enum class Sums { none, queued, done };  // of gradients that are not sharded; sharded ones are always sums
  Comm* comm_;
  std::vector<Comm::Ticket> gathering_, reducing_;  // of units; 0: nothing to wait for
  std::vector<bool> whole_;                         // of a sharded arena: whether a unit's parameters are whole
  bool last_backward_ = false;                      // sum_gradients() was called
  Sums sums_ = Sums::none;
  std::vector<int32_t> next_documents_;  // from set_documents(), until a forward takes them
  int documents_B_ = 0, documents_T_ = 0, pooling_B_ = 0, pooling_T_ = 0;
};

// The model on the CPU. `reference`: only plain loops, in float whatever the precision. With bf16 the factors of matrix
// products are rounded to it, and weights, activations, gradients and sums stay float; throws Error if the machine has
// no such products.
std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference, const ModelOptions& options = {});

// The operations of a training step, and which kernels make_cpu_model()'s model takes for them.
std::vector<KernelRow> cpu_kernels(const ModelOptions& options, double dropout, bool reference);

// Whether this machine's CPU can train in that precision; check_cpu_can() throws Error where it cannot.
bool cpu_can(Precision precision);
void check_cpu_can(Precision precision);

// FLOP/s of the CPU's matrix products on the fast path: the best of the square ones that fit into 0.2 s.
double measure_peak_flops(Precision precision = Precision::fp32);

// Sets, and tells, the number of threads of the CPU's loops, at least 1.
void set_cpu_threads(int threads);
int cpu_threads();
