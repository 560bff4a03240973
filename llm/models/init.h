// A new model's weights.
#pragma once

#include <cstdint>

#include "llm/models/model.h"

// GPT-2's initialisation, from numbers that depend only on the seed and the tensor's place in the table.
void init_weights(Model& model, uint64_t seed);
