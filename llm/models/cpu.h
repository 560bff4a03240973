// The CPU's model for programs, and what they ask about this machine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/options.h"

class Model;

// The kernels of an operation of a training step.
struct KernelRow {
  std::string operation, of, shape;  // of: which of the model's products
  int times;                         // in a step of one micro-batch
  std::string tier, why;             // if there is a choice: what was taken, and why nothing faster
  std::vector<std::string> kernels;  // with their launches
};

// The model on the CPU. `reference`: only plain loops, in float whatever the precision. With bf16 the factors of matrix
// products are rounded to it, and weights, activations, gradients and sums stay float; throws Error if the machine has
// no such products.
std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference, const ModelOptions& options = {});

// The operations of a training step, and which kernels make_cpu_model()'s model takes for them.
std::vector<KernelRow> cpu_kernels(const ModelConfig& config, const ModelOptions& options, double dropout,
                                   bool reference);

// Whether this machine's CPU can train in that precision; check_cpu_can() throws Error where it cannot.
bool cpu_can(Precision precision);
void check_cpu_can(Precision precision);

// FLOP/s of the CPU's matrix products on the fast path: the best of the square ones that fit into 0.2 s.
double measure_peak_flops(Precision precision = Precision::fp32);

// Sets, and tells, the number of threads of the CPU's loops, at least 1.
void set_cpu_threads(int threads);
int cpu_threads();
