// What programs need of the GPU's model, without a CUDA header: gpu.cu has it, built by nvcc or for cudasim.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "llm/models/memory_plan.h"
#include "llm/models/model.h"

// Throws Error, which says what to do, if there is no GPU here that this program's kernels run on.
void check_gpu();
std::string gpu_name();

// What training at (B, T) takes; in builds with cuBLASLt or cuDNN also what these take. Needs no GPU.
inline constexpr const char* kLibraryRow = "libraries, at most";
std::vector<MemoryRow> gpu_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// Throws Error if that is more than `free` bytes: with what would help, and how much.
void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free);
int64_t free_gpu_memory();

// Which kernels a training step at (B, T) takes, and why, by the launchers' own choice: they are called, and launch
// nothing. Without a GPU the rows say what only one can tell.
std::vector<KernelRow> gpu_kernels(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout,
                                   bool reference);
// The same in a line: products and attention.
std::string kernels_line(const std::vector<KernelRow>& rows);
// The device, and what the program was built with.
std::string gpu_build();

// What matrix products reach on this GPU, FLOP/s: the best of a few large ones in the way of the model's.
double measure_gpu_peak_flops(Precision precision, bool reference);

// With the memory to train at (B, T): as the plan says, allocated at once. A larger batch allocates again.
std::unique_ptr<Model> make_gpu_model(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                      bool reference);
