// What the trainers show of a run without training: its memory, its kernels, the fast path against the reference.
#pragma once

#include <vector>

#include "llm/models/cpu.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "llm/training/run.h"

void print_memory(const std::vector<MemoryRow>& rows);
void print_kernels(const std::vector<KernelRow>& rows);

// Runs one batch of random tokens through both and prints, per tensor, how far they are apart. Throws Error beyond
// tolerance.
void check_against_reference(Model& model, Model& reference, const Run& run);
