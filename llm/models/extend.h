// A model with a larger vocabulary, for special tokens that it was not trained with (chat marks, padding).
#pragma once

#include <memory>

#include "llm/models/model.h"

enum class NewRows {
  mean,   // of the embeddings of the vocabulary in use: a new token is as likely as an average one
  zeros,  // with a tied head its logit is 0, whatever the text
};

// A copy of the model's parameters in a CPU model of `vocab_size` tokens, no fewer than it has. Rows from `used` on, of
// the embedding and of a head of its own, are new: the model's vocabulary may be padded beyond its tokenizer's. Logits
// of tokens below `used` are what they were: bit for bit with the plain loops, where a logit is a sum of its own.
std::unique_ptr<Model> extend_vocabulary(const Model& model, int used, int vocab_size, NewRows init);
