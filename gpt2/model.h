// The contract of a GPT-2 that can be trained, whatever it runs on. model.cpp is the CPU's.
//
// One step, as the trainers write it:
//   model.zero_grad();
//   for each micro-batch:  model.forward(inputs, B, T, Pass::train);  loss += model.backward(targets, weights);
//   norm = model.grad_norm();  model.update(optimizer, step, clip);
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpt2/params.h"

enum class Pass {
  train,     // dropout on, logits for every position, activations kept for backward
  evaluate,  // dropout off, logits for every position
  generate,  // dropout off, logits of each row's last position only
};

struct AdamW {
  float lr = 3e-4f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
};

enum class Arena { params, grads, m, v };  // m, v: AdamW's moments

struct MemoryRow {
  std::string name, shape;
  int64_t bytes;
};

class Model {
 public:
  virtual ~Model() = default;

  const ModelConfig config;
  const std::vector<ParamTensor> table;

  // inputs (B, T) in [0, V), T <= max_seq_len: throws Error otherwise. The first call, and one with larger B*T,
  // allocates.
  virtual void forward(const int32_t* inputs, int B, int T, Pass pass) = 0;
  // Logits of the last forward: row r, V values. Rows are (B*T), or (B) after Pass::generate; backward uses them up.
  virtual void read_logits(int64_t row, float* out) = 0;
  // Mean loss of the targets (B, T) that are not -1, after a forward for every position. Also their sum, if asked for.
  virtual double loss(const int32_t* targets, double* sum = nullptr) = 0;
  // After Pass::train: adds to the gradients; returns sum(weights * loss). weights (B, T) e.g. 1/(B*T) each.
  virtual double backward(const int32_t* targets, const float* weights) = 0;

  virtual void zero_grad() = 0;
  virtual double grad_norm() = 0;
  // One AdamW step, t = 1, 2, ...; gradients count times grad_scale.
  virtual void update(const AdamW& optimizer, int64_t t, float grad_scale) = 0;

  // One tensor between an arena and host memory, tensor.size() floats in the layout of the table. For checkpoints:
  // the moments read as zeros before the first update.
  virtual void read(Arena arena, const ParamTensor& tensor, float* out) const = 0;
  virtual void write(Arena arena, const ParamTensor& tensor, const float* in) = 0;

  // Dropout's place in its random sequence; the trainer sets it from step and micro-batch, so that a resumed run draws
  // what the unbroken one would have. Before forward, which backward then repeats.
  virtual void set_dropout(float dropout, uint64_t seed, uint64_t sequence) = 0;

 protected:
  explicit Model(const ModelConfig& c) : config(c), table(param_table(c)) {}
};

// The CPU's. `reference`: plain loops only, no oneDNN.
std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference);

// What matrix products reach on this machine, FLOP/s: the best of a few square ones by the fast path.
double measure_peak_flops();

// GPT-2's initialisation, from numbers that depend only on the seed and the tensor's place in the table.
void init_weights(Model& model, uint64_t seed);

// What training at (B, T) takes, arena by arena, before anything is allocated.
std::vector<MemoryRow> memory_plan(const ModelConfig& config, int B, int T);
