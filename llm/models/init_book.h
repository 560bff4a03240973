// PyTorch's default weights of the model of "Build a Large Language Model (From Scratch)", in the order in which that
// model makes its layers: the same numbers as after torch.manual_seed(seed).
//   embeddings      N(0, 1)
//   linear layers   U(-1/sqrt(fan in), 1/sqrt(fan in)), the weights and then the bias (He et al. 2015, a = sqrt(5))
//   layernorms      ones and zeros, which draw nothing
#pragma once

#include <cstdint>

#include "llm/models/model.h"
#include "llm/models/torch_random.h"

// Returns the generator afterwards: shuffling the data draws from it next. Throws Error for a model with a tied head,
// whose logits would be some 30 times as large as in the book, and for a classifier.
TorchRandom init_weights_book(Model& model, uint64_t seed);
