// The text that a run prints from time to time.
#pragma once

#include <cstdint>

#include "llm/models/model.h"
#include "llm/training/run.h"

// Prints how the model continues {prompt}. Only rank 0 generates, unless the weights are sharded: then all ranks take
// part.
void print_sample(Model& model, const Run& run, int64_t step);
