// An update: its settings, its result, and what it works on.
#pragma once

#include <cstdint>
#include <vector>

#include "llm/models/exchange.h"
#include "llm/models/tensor_table.h"

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

template <class floatX, class grad_t, class state_t>
struct UpdateArenas {
  floatX* params;
  state_t* master;  // null: there is none
  const grad_t* grads;
  void *m, *v;  // of state_t, or, as ModelOptions::moments says, of the device's bf16
  state_t* average;
  floatX* muon;  // scratch for one matrix
};

// `size` elements: where they are in the memory of parameters, of gradients, of master weights, m and average (kept),
// and of v.
struct Stretch {
  int64_t param, grad, kept, v;
  int64_t whole;   // in the gradients of a single process: for flags of decay, and seeds of stochastic rounding
  int64_t number;  // the same without the padding of ZeRO: for the random numbers of moments
  int64_t size;
  float lr_scale;
  bool decay, averaged;  // of a single tensor's stretch
};

struct Matrix {
  Stretch at;
  int rows, cols;
};

struct UpdatePlan {
  std::vector<Stretch> adamw;     // that AdamW trains
  std::vector<Matrix> muon;       // that Muon trains: each of a tensor's stacked parts
  std::vector<Stretch> averaged;  // all that is trained: lr_scale, decay and v are undefined
};

// by_tensor: a stretch of `adamw` is one tensor, or this rank's part of it; else as long as rates allow, or this rank's
// part of a unit.
UpdatePlan update_plan(const std::vector<ParamTensor>& table, const Exchange& exchange, bool by_tensor);
