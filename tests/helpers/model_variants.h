// The shapes and parts of a model other than GPT-2's own, for the tests of both models: heads, classifiers, attention
// that is not causal, parts that are not trained, adapters.
#pragma once

#include <string>
#include <vector>

#include "llm/models/model.h"
#include "llm/text/dataloader.h"
#include "tests/helpers/decoding.h"
#include "tests/helpers/finite_differences.h"

struct Variant {
  std::string name;
  ModelConfig config;
  ModelOptions options = {};
};

inline std::vector<Variant> model_variants(const ModelConfig& base) {
  std::vector<Variant> all;
  const auto add = [&](const std::string& name, auto change) {
    Variant v{name, base};
    change(v.config, v.options);
    all.push_back(v);
  };
  const auto classifier = [](ModelConfig& c) {
    c.num_classes = 3;
    c.tied_head = false;
  };
  add("the book's model: untied head, no bias of q, k and v, decay of everything", [](ModelConfig& c, ModelOptions& o) {
    c.tied_head = c.qkv_bias = false;
    o.decay_all = true;
  });
  add("not causal, lower learning rates farther from the head", [](ModelConfig& c, ModelOptions& o) {
    c.causal = false;
    o.lr_decay_per_layer = 0.5f;
  });
  add("a classifier", [&](ModelConfig& c, ModelOptions&) { classifier(c); });
  add("only a classifier's head", [&](ModelConfig& c, ModelOptions& o) {
    classifier(c);
    o.trainable = {.first_block = c.num_layers, .embeddings = false, .final_norm = false};
  });
  add("only the final norm and an untied head", [](ModelConfig& c, ModelOptions& o) {
    c.tied_head = false;
    o.trainable = {.first_block = c.num_layers, .embeddings = false};
  });
  add("a classifier's last block, norm and head", [&](ModelConfig& c, ModelOptions& o) {
    classifier(c);
    c.causal = false;
    o.trainable = {.first_block = c.num_layers - 1, .embeddings = false};
  });
  add("all but the embeddings", [](ModelConfig&, ModelOptions& o) { o.trainable.embeddings = false; });
  add("adapters everywhere", [](ModelConfig& c, ModelOptions& o) {
    c.tied_head = false;
    o.lora = {.rank = 2, .alpha = 3};
  });
  add("a classifier's adapters, with dropout", [&](ModelConfig& c, ModelOptions& o) {
    classifier(c);
    o.lora = {.rank = 3, .alpha = 6, .dropout = 0.3f};
  });
  add("adapters of q, v and the MLP", [](ModelConfig&, ModelOptions& o) {
    o.lora = {.rank = 4, .alpha = 4, .dropout = 0, .targets = "q,v,fc,fcproj"};
  });
  return all;
}

// Random tokens and targets for the head, and the pooling weights of a classifier.
struct VariantBatch : Batch {
  VariantBatch(const ModelConfig& config, int B_, int T_, uint64_t seed) {
    B = B_;
    T = T_;
    const size_t tokens = static_cast<size_t>(B) * T, rows = config.num_classes > 0 ? static_cast<size_t>(B) : tokens;
    inputs = random_ints(tokens, seed, config.vocab_size);
    targets = random_ints(rows, seed + 1, config.outputs());
    weights.assign(rows, 1.0f / static_cast<float>(rows));
    if (config.num_classes == 0) return;
    pooling.assign(tokens, 0);
    for (int b = 0; b < B; ++b) {  // one position, the mean
      for (int t = 0; t < T; ++t) pooling[b * T + t] = b % 2 == 0 ? t == T - 1 - b : 1.0f / static_cast<float>(T);
    }
  }
};

// Random numbers everywhere, also where training begins with zeros: then the gradients depend on every weight. They
// have 8 bits, so that bf16 holds them exactly and a model in bf16 differs only in its arithmetic.
inline void random_weights(Model& model, double scale) {
  for (size_t k = 0; k < model.table.size(); ++k) {
    const ParamTensor& tensor = model.table[k];
    std::vector<float> values = random_tensor<float>(static_cast<size_t>(tensor.size()), k, scale);
    for (float& x : values) {
      const float unit = static_cast<float>(scale) / 64;
      x = std::round(x / unit) * unit + (tensor.init == Init::ones ? 1.0f : 0.0f);
    }
    std::fill(values.begin() + tensor.file_size(), values.end(), 0.0f);  // padding
    model.write(Arena::params, tensor, values.data());
  }
}

inline std::vector<float> tensor_of(const Model& model, Arena arena, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  model.read(arena, tensor, values.data());
  return values;
}

// Logits (T - T0 + 1, B, outputs) of each sequence's last token, for T0 tokens and then one more each time until T:
// with the cache, and without it.
inline Floats decoded_logits(Model& model, const VariantBatch& batch, int T0) {
  PagedTexts texts(model, batch.B, batch.B * T0);
  Floats all;
  for (int t = 0, next = T0; t < batch.T; t = next++) {
    std::vector<PagedTexts::Part> parts;
    for (int b = 0; b < batch.B; ++b) {
      parts.push_back(
          {b, std::span(batch.inputs).subspan(static_cast<size_t>(b * batch.T + t), static_cast<size_t>(next - t))});
    }
    const Floats logits = texts.feed(parts);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}
inline Floats evaluated_logits(Model& model, const VariantBatch& batch, int T0) {
  const size_t columns = static_cast<size_t>(model.config.outputs());
  Floats all(static_cast<size_t>(batch.T - T0 + 1) * static_cast<size_t>(batch.B) * columns);
  model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
  float* to = all.data();
  for (int t = T0 - 1; t < batch.T; ++t) {
    for (int b = 0; b < batch.B; ++b, to += columns) model.read_logits(int64_t{b} * batch.T + t, to);
  }
  return all;
}
