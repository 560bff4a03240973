// The memory that training takes, computed before anything is allocated.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/options.h"

struct MemoryRow {
  std::string name, shape;
  int64_t bytes;
};

// Memory for training at (B, T) on the CPU, by arena and tensor.
std::vector<MemoryRow> memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// The same for a GPU. cublaslt, cudnn: with what these libraries take.
std::vector<MemoryRow> gpu_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                       bool cublaslt = true, bool cudnn = true);
inline constexpr const char* kLibraryRow = "libraries, at most";
// Scratch bytes of a GPU's kernels, the optimizer's included.
int64_t gpu_scratch_bytes(const ModelConfig& config, const ModelOptions& options, int B, int T);

// The ring of batches on their way to a GPU.
inline constexpr int kBatchSlots = 4;  // batches that the host may be ahead
inline constexpr int kSlotArrays = 4;  // tokens, targets, weights; pooling or documents
inline int64_t slot_elements(int64_t tokens) { return (tokens + 63) / 64 * 64; }  // each array begins on a cache line
inline constexpr int64_t kGpuStepBytes = 96;  // numbers of a step: GpuDevice's State
// The rows that both share. `logits_rows`: rows of logits that are kept; `bf16`: the type of weights and activations.
std::vector<MemoryRow> arena_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                  int64_t logits_rows, bool bf16);
