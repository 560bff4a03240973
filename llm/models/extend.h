// A model with a larger vocabulary, for special tokens that it was not trained with (chat marks, padding).
#pragma once

#include <memory>

#include "llm/models/model.h"

enum class NewRows {
  mean,   // of the embeddings in use: a new token is as likely as an average one
  zeros,  // with a tied head its logit is 0, whatever the text
};

// A copy of the model's parameters in a CPU model of `vocab_size` tokens, at least as many as it has. Rows from `used`
// on, of the embedding and of a head that is not tied, are new: the model's vocabulary may be padded beyond that of its
// tokenizer. Logits of tokens below `used` stay the same: bit for bit with the plain loops, which sum each logit
// separately.
std::unique_ptr<Model> extend_vocabulary(const Model& model, int used, int vocab_size, NewRows init);
