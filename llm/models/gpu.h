// The GPU model's interface for programs, without CUDA headers; gpu.cu, built by nvcc or for cudasim, implements it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llm/models/memory_plan.h"
#include "llm/models/model.h"

// Throws Error with advice if no GPU here can run this program's kernels.
void check_gpu();
std::string gpu_name();

// The memory that training at (B, T) takes, with that of cuBLASLt and cuDNN in builds that have them. Needs no GPU.
inline constexpr const char* kLibraryRow = "libraries, at most";
std::vector<MemoryRow> gpu_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// Throws Error if that is more than `free` bytes; lists what would help, and how much.
void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free);
int64_t free_gpu_memory();

// The kernels of a training step at (B, T), and why these, as the launchers themselves choose: they are called, but
// launch nothing. Without a GPU the rows name what only a GPU can tell.
std::vector<KernelRow> gpu_kernels(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout,
                                   bool reference);
// A summary in one line: products and attention.
std::string kernels_line(const std::vector<KernelRow>& rows);
// The device, and what the program was built with.
std::string gpu_build();

// FLOP/s of matrix products on this GPU: the best of a few large ones, computed as the model computes them.
double measure_gpu_peak_flops(Precision precision, bool reference);

// Allocates the memory to train at (B, T), as the plan says, at once. A larger batch allocates again.
std::unique_ptr<Model> make_gpu_model(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                      bool reference);
