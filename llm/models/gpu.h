// The GPU model's interface for programs, without CUDA headers; gpu.cu, built by nvcc or for cudasim, implements it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llm/models/cpu.h"
#include "llm/models/matmul_plans.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"

// Throws Error with advice if no GPU here can run this program's kernels.
void check_gpu();
std::string gpu_name();

// gpu_memory_plan() (memory_plan.h) with the libraries that this build has. Needs no GPU.
std::vector<MemoryRow> built_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// Throws Error if that is more than `free` bytes; lists what would help, and how much.
void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free);
int64_t free_gpu_memory();

// The kernels of a training step at (B, T), and why these, as the launchers themselves choose: they are called, but
// launch nothing. Without a GPU the rows name what only a GPU can tell.
std::vector<KernelRow> gpu_kernels(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout,
                                   bool reference);
// A summary in one line: products and attention.
std::string kernels_line(const std::vector<KernelRow>& rows);
// How a step is queued: as graphs, or why not.
std::string graph_line(const ModelOptions& options);
// The device, and what the program was built with.
std::string gpu_build();

// Plans without products, for this device and library; both names are empty if this build has no cuBLASLt.
MatmulPlans no_gpu_plans();
// From now on this process's products run by these algorithms where the library accepts them; any other product by the
// first algorithm that the library offers. Before the models are made.
void use_gpu_plans(const MatmulPlans& plans);
// The same, then measures those products of a training step at (B, T) that `known` does not have or that the library
// does not accept: tens of milliseconds each, in memory that is freed again. Returns the step's products, measured ones
// included. Throws CudaError.
MatmulPlans make_gpu_plans(const MatmulPlans& known, const ModelConfig& config, const ModelOptions& options, int B,
                           int T, float dropout, bool reference);

// FLOP/s of matrix products on this GPU: the best of a few large ones, computed as the model computes them.
double measure_gpu_peak_flops(Precision precision, bool reference);

// Allocates the memory to train at (B, T), as the plan says, at once. A larger batch allocates again.
std::unique_ptr<Model> make_gpu_model(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                      bool reference);
