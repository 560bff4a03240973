// What training takes of memory, before anything is allocated.
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

// What training at (B, T) takes on the CPU, arena by arena and tensor by tensor, before anything is allocated. The
// GPU's plan is gpu_memory_plan() of gpu.h.
std::vector<MemoryRow> memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T);
// What the two share. `logits_rows`: rows of logits that are kept; `bf16`: weights and activations are stored in it.
std::vector<MemoryRow> arena_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                  int64_t logits_rows, bool bf16);
