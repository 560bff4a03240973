// The contract of a trainable model, of any family on any device.
//
// One step, as the trainers write it:
//   model.zero_grad();
//   for each micro-batch:  model.forward({tokens, B, T, Pass::train});  model.backward(targets, weights, is_last);
//   model.update(optimizer, grad_clip);
// On a GPU these calls only queue work (arguments are copied and may change afterwards), so that it never waits for the
// host. A step's result is asked for later: result(1) after the next step has been queued. Calls that return numbers
// wait for them. Several processes (ModelOptions::comm) all make the same calls in the same order, reads included; each
// backward has a part of the batch, but weights for the whole.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/decoder.h"
#include "llm/models/options.h"
#include "llm/models/tensor_table.h"
#include "llm/models/update.h"
#include "llm/models/walk.h"

struct ForwardInput {
  const int32_t* tokens;  // (B, T)  in [0, V); T <= max_seq_len
  int B, T;
  Pass pass = Pass::train;   // not decode
  PassDropout dropout = {};  // acts only in Pass::train; backward repeats its masks
  // Rows of several documents one after the other: position t of row b belongs to the document that begins at
  // documents[b,t], sees no other, and is position t - documents[b,t] of it. (B, T): t where a document begins, else
  // documents[b,t-1]; null: each row is one. Only for causal models that are not classifiers.
  const int32_t* documents = nullptr;
  // A classifier's head reads, of sequence b, sum_t pooling[b,t] lnf[b,t]. (B, T): a single 1 selects a position, 1/T
  // everywhere gives the mean. Only for classifiers, and always for these.
  const float* pooling = nullptr;
};

class Model {
 public:
  virtual ~Model() = default;

  const ModelConfig config;
  const ModelOptions options;
  const std::vector<ParamTensor> table;

  // Throws Error for tokens or sizes out of range; std::logic_error for inputs that the model does not have. The first
  // call and a larger B*T allocate, and may throw std::bad_alloc.
  void forward(const ForwardInput& in);
  void forward(const int32_t* tokens, int B, int T, Pass pass) { forward({tokens, B, T, pass}); }
  // Decodes with this model, which must outlive it, and with its activations: a pass of one overwrites what a pass of
  // the other left. Each pass reads the weights as they are then. Throws Error as Decoder's constructor does;
  // std::bad_alloc if the pages, or activations of max_rows tokens, do not fit.
  virtual std::unique_ptr<Decoder> make_decoder(int pages, int max_rows) = 0;
  // Logits of the last forward: row r, outputs() values. There are B*T rows, or B after Pass::generate and in a
  // classifier; backward uses them up. Targets and weights below have as many rows.
  virtual void read_logits(int64_t row, float* out) = 0;
  // Mean loss of the targets that are not -1, after a forward for every position; `sum`, if given, receives their sum.
  virtual double loss(const int32_t* targets, double* sum = nullptr) = 0;
  // After Pass::train: adds to the gradients, and sum(weights * loss) to the step's loss. weights e.g. 1/(B*T).
  // is_last: it is the step's last, so that gradients are summed over the processes while it still runs; else update()
  // and grad_norm() sum them.
  virtual void backward(const int32_t* targets, const float* weights, bool is_last = false) = 0;
  // After loss() or backward(): the loss of each row, 0 where its target is -1.
  virtual void read_losses(float* out) = 0;

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
  virtual int64_t updates() const = 0;
  virtual void set_updates(int64_t count) = 0;

  // Copies one tensor between an arena and host memory, tensor.size() floats in the layout of the table. For
  // checkpoints: the moments read as zeros before the first update.
  virtual void read(Arena arena, const ParamTensor& tensor, float* out) const = 0;
  virtual void write(Arena arena, const ParamTensor& tensor, const float* in) = 0;
  // The same numbers in place, without a copy; null if they are not in host memory as floats. Valid until the next call
  // that changes them.
  virtual const float* view(Arena, const ParamTensor&) const { return nullptr; }

 protected:
  Model(const ModelConfig& c, const ModelOptions& o);
  int64_t check_targets(const int32_t* targets, int N) const;  // throws Error; returns how many are not -1
  virtual void run(const ForwardInput& in) = 0;                // one that was checked
};
