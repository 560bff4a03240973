// The contract of a GPT-2 that can be trained, whatever it runs on. model_base.cpp has what all share, cpu_model.cpp is
// the CPU's, gpu_model.cu the GPU's.
//
// One step, as the trainers write it:
//   model.zero_grad();
//   for each micro-batch:  model.forward(inputs, B, T, Pass::train);  model.backward(targets, weights);
//   model.update(optimizer, grad_clip);
// On a GPU these calls only queue work (what they are given is copied, and may change after), so that it never waits
// for the host. How a step went is asked later: result(1) after the next one has been queued. Everything that returns
// numbers waits for them.
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

// What an update is told; the betas and eps are AdamW's, momentum is Muon's.
struct OptimizerConfig {
  float lr = 3e-4f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f, momentum = 0.95f;
  float signal = 0;  // comes back in the StepResult, summed over all processes: so they agree, e.g. on stopping
};

struct StepResult {
  double loss = 0;       // sum of weights * losses
  double own_loss = 0;   // this process' share of it
  double grad_norm = 0;  // before clipping
  bool updated = false;  // false: loss or norm was not finite, and weights, moments and their count stayed as they were
  double signals = 0;    // the sum of all processes' OptimizerConfig::signal
};

// What runs for an operation of a training step.
struct KernelRow {
  std::string operation, of, shape;  // of: which of the model's products
  int times;                         // in a step of one micro-batch
  std::string tier, why;             // where there is a choice: what was taken, and why nothing faster
  std::vector<std::string> kernels;  // and how they are launched
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
  const std::vector<ParamUnit> units;  // none of a single process

  // Rows of the next forward, and of the backward after it, hold several documents one behind the other: position t of
  // row b belongs to the one that begins at first[b,t], sees no other, and its place in it is t - first[b,t]. first
  // (B, T), copied: t where a document begins, else as at t - 1. Only for causal models that are no classifiers.
  void set_documents(const int32_t* first, int B, int T);
  // inputs (B, T) in [0, V), T <= max_seq_len: throws Error otherwise. The first call, and one with larger B*T,
  // allocates.
  void forward(const int32_t* inputs, int B, int T, Pass pass);
  // Logits of the last forward: row r, outputs() values. Rows are (B*T), or (B) after Pass::generate and of a
  // classifier; backward uses them up. Targets and weights below have as many rows.
  virtual void read_logits(int64_t row, float* out) = 0;
  // Mean loss of the targets that are not -1, after a forward for every position. Also their sum, if asked for.
  virtual double loss(const int32_t* targets, double* sum = nullptr) = 0;
  // After Pass::train: adds to the gradients, and sum(weights * loss) to the step's loss. weights e.g. 1/(B*T).
  virtual void backward(const int32_t* targets, const float* weights) = 0;
  // After loss() or backward(): the loss of each row, 0 where its target is -1.
  virtual void read_losses(float* out) = 0;
  // What a classifier's head sees of the positions in the forwards from now on: of sequence b,
  // sum_t weights[b,t] lnf[b,t]. weights (B, T): one 1 looks at one position, 1/T at the mean. Needed before the first
  // forward of another shape.
  void set_pooling(const float* weights, int B, int T);

  // Generation without doing everything again for each token. set_cache() makes room for the keys and values of B
  // sequences of up to T tokens; (0, 0) gives it back. A forward(Pass::generate) of B sequences, not longer, then
  // leaves its own there, and decode() goes on: like that forward of every sequence with its new token behind it, ids
  // (B), but only the new tokens are computed. decode() throws Error without such a forward and beyond T; set_cache()
  // for a model that is not causal, where each new token changes what the others are.
  void set_cache(int B, int T);
  void decode(const int32_t* ids);

  // Of several processes (ModelOptions::comm) all make the same calls in the same order, those that read included;
  // each backward has a part of the batch, and weights of the whole. The next backward is the step's last: gradients
  // are summed over the processes while it still runs. Without this call update() and grad_norm() do it.
  void sum_gradients() { last_backward_ = true; }

  virtual void zero_grad() = 0;  // begins a step: its loss is 0 again, too
  // The step's so far, of this process.
  virtual double step_loss() = 0;
  virtual double grad_norm() = 0;
  // One step of AdamW, and of Muon for what is Muon's in the table, t = updates() + 1, with gradients scaled down to
  // the norm grad_clip if theirs is larger (0: never). Does nothing if the step's loss or norm is not finite.
  virtual void update(const OptimizerConfig& optimizer, float grad_clip) = 0;
  // Of the last update() (steps_back 0) or the one before it (1). Waits for that one, not for what was queued since.
  virtual StepResult result(int steps_back) = 0;
  // With options.ema: the average of the weights takes their place, and they the average's; a second call undoes it.
  // Without an average, and before the first update, nothing happens.
  virtual void exchange_average() = 0;
  // Updates that changed the weights: AdamW's t, part of a checkpoint.
  virtual int64_t updates() = 0;
  virtual void set_updates(int64_t count) = 0;

  // One tensor between an arena and host memory, tensor.size() floats in the layout of the table. For checkpoints:
  // the moments read as zeros before the first update.
  virtual void read(Arena arena, const ParamTensor& tensor, float* out) const = 0;
  virtual void write(Arena arena, const ParamTensor& tensor, const float* in) = 0;
  // The same numbers where they are, without a copy; null if they are not in host memory as floats. Good until the next
  // call that changes them.
  virtual const float* view(Arena, const ParamTensor&) const { return nullptr; }

  // Dropout's place in its random sequence; the trainer sets it from step and micro-batch, so that a resumed run draws
  // what the unbroken one would have. Before forward, which backward then repeats.
  virtual void set_dropout(float dropout, uint64_t seed, uint64_t sequence) = 0;

 protected:
  // Throws std::logic_error for several processes without a Comm of as many.
  Model(const ModelConfig& c, const ModelOptions& o);
  // forward() of what was found good, and decode(): one token each, behind the cached_ ones that there are.
  virtual void run(const int32_t* inputs, int B, int T, Pass pass) = 0;
  // Gives the cache back, and takes cache_elements(B, T) if there are any. May throw std::bad_alloc.
  virtual void resize_cache(int B, int T) = 0;
  int64_t cache_elements(int64_t B, int64_t T) const { return 2 * config.num_layers * B * T * config.channels; }

  // ---- several processes: units of parameters and gradients on their way (ParamUnit) ----
  bool parallel() const { return options.ranks > 1; }
  Comm& comm() const { return *comm_; }
  const ParamUnit& unit(int u) const { return units[static_cast<size_t>(u)]; }
  int last_unit() const { return static_cast<int>(units.size()) - 1; }
  // Of a sharded arena of parameters: queues that the unit's come to where it is whole, unless they are there.
  void gather(int u);
  void need(int u);             // before its parameters are used: waits for them, where they are on their way
  void gather_changed();        // own parts of all parameters have changed: they go to everybody, now or when asked for
  void settle_params();         // nothing is on its way
  void begin_backward();        // throws std::logic_error if the gradients are sums already
  void begin_gradients(int u);  // before a backward's are written: they begin as zeros where an arena is sharded
  void reduce(int u);           // a backward's are complete: queues their sum, if it is due
  void settle();                // nothing is on its way: before its memory goes
  void finish_gradients();      // the sums are there
  void arrive(Arena arena) const;  // what is on its way to parameters or gradients is there, for read() and view()
  void forget_gradients();         // zero_grad() is about to clear them
  // Whether an update works on this rank's parts alone.
  bool in_parts() const { return parallel() && options.zero > 0; }
  // Where a unit of an arena lies whole (parameters, gradients), and where this rank's own part of it.
  void* whole(Arena arena, int u) const;
  void* own(Arena arena, int u) const;
  // The implementation's: the memory of an arena, and of units that are whole for a while where it is sharded; the
  // types of parameters and gradients; and sums and zeros among gradients.
  virtual void* arena_memory(Arena) const { return nullptr; }
  virtual void* whole_memory(Arena) const { return nullptr; }
  virtual Number param_number() const { return Number::f32; }
  virtual Number grad_number() const { return Number::f32; }
  virtual void add_grads(void*, const void*, int64_t) {}
  virtual void clear_grads(void*, int64_t) {}

  // What forward, backward and loss, set_dropout promise to refuse.
  void check_batch(const int32_t* inputs, int B, int T) const;
  int64_t check_targets(const int32_t* targets, int N) const;  // how many are not -1
  static void check_dropout(float dropout);
  float lora_scale() const { return options.lora.alpha / static_cast<float>(options.lora.rank); }
  // How far down backward goes: the first block with anything to train in or below it; num_layers: none, but the final
  // norm; num_layers + 1: the head alone.
  int last_block_of_backward() const;
  // Philox's sequence for a place of a layer. `base` is set_dropout's; the first 2^16 of a seed are init_weights'.
  static uint64_t dropout_sequence(uint64_t base, int layer, DropoutPlace place) {
    return ((base + 1) << 16) + static_cast<uint64_t>(layer) * 4 + static_cast<uint64_t>(place);
  }
  static uint64_t dropout_sequence(uint64_t base, int layer, LoraPlace place) {  // behind 4,096 layers of the others
    return ((base + 1) << 16) + (1 << 14) + static_cast<uint64_t>(layer) * 8 + static_cast<uint64_t>(place);
  }

  std::vector<int32_t> documents_;              // (B, T) of the last forward; empty: a row each
  std::vector<float> pooling_;                  // (B, T)
  int cache_B_ = 0, cache_T_ = 0, cached_ = 0;  // (layers, keys | values, cache_B, NH, cache_T, HS); tokens it has

 private:
  void wait_for(std::vector<Comm::Ticket>& tickets);
  int64_t element_bytes(Arena arena) const;

  enum class Sums { none, queued, done };  // of gradients that are whole; those of a sharded arena are always sums
  Comm* comm_;
  std::vector<Comm::Ticket> gathering_, reducing_;  // of units; 0: nothing to wait for
  std::vector<bool> whole_;                         // of a sharded arena: whether a unit's parameters are whole
  bool last_backward_ = false;                      // sum_gradients() was called
  Sums sums_ = Sums::none;
  std::vector<int32_t> next_documents_;  // set_documents()'s, until a forward takes them
  int documents_B_ = 0, documents_T_ = 0, pooling_B_ = 0, pooling_T_ = 0;
};

// The CPU's. `reference`: plain loops only, in float whatever the precision. With bf16 the factors of matrix products
// are rounded to it, and weights, activations, gradients and sums stay float; throws Error where the machine has no
// such products.
std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference, const ModelOptions& options = {});

// The operations of a training step, and which kernels make_cpu_model()'s model takes for them.
std::vector<KernelRow> cpu_kernels(const ModelOptions& options, double dropout, bool reference);

// Whether this machine's CPU can train in that precision; check_cpu_can() throws Error where it cannot.
bool cpu_can(Precision precision);
void check_cpu_can(Precision precision);

// What the CPU's matrix products reach, FLOP/s: the best of the square ones that fit into 0.2 s, by the fast path.
double measure_peak_flops(Precision precision = Precision::fp32);

// Threads of the CPU's loops from now on, at least 1; how many that are.
void set_cpu_threads(int threads);
int cpu_threads();
