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

// Memory for training at (B, T) on the CPU, by arena and tensor. For the GPU: gpu_memory_plan() of gpu.h.
std::vector<MemoryRow> memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// The rows that both share. `logits_rows`: rows of logits that are kept; `bf16`: the type of weights and activations.
std::vector<MemoryRow> arena_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                  int64_t logits_rows, bool bf16);
