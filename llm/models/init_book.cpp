#include "llm/models/init_book.h"

#include <cmath>
#include <span>
#include <vector>

#include "llm/support/error.h"

TorchRandom init_weights_book(Model& model, uint64_t seed) {
  const ModelConfig& config = model.config;
  if (config.tied_head || config.num_classes > 0) {
    fail("the book's initialisation needs a language model whose output head has its own matrix; this one %s",
         config.num_classes > 0 ? "is a classifier" : "has its token embedding for a head");
  }
  TorchRandom random(seed);
  for (size_t k = 0; k < model.table.size(); ++k) {
    const ParamTensor& tensor = model.table[k];
    std::vector<float> values(static_cast<size_t>(tensor.size()), tensor.init == Init::ones ? 1.0f : 0.0f);
    const auto in_file = std::span(values).first(static_cast<size_t>(tensor.file_size()));  // padding stays zero
    if (tensor.role == Role::embedding || tensor.role == Role::position) {
      random.normal(in_file);
    } else if (tensor.role == Role::weight || tensor.role == Role::head) {
      // Each of the stacked layers draws its weights and then its bias.
      const double in = static_cast<double>(tensor.cols);
      const double slope = std::sqrt(5.0);  // of kaiming_uniform_; 1 / sqrt(in), rounded as torch rounds it
      const double bound = std::sqrt(3.0) * (std::sqrt(2 / (1 + slope * slope)) / std::sqrt(in));
      const bool has_bias = k + 1 < model.table.size() && model.table[k + 1].role == Role::bias;
      const size_t layers = static_cast<size_t>(tensor.stacked), weights = in_file.size() / layers;
      std::vector<float> biases(has_bias ? static_cast<size_t>(tensor.rows) : 0);
      for (size_t layer = 0; layer < layers; ++layer) {
        random.uniform(in_file.subspan(layer * weights, weights), -bound, bound);
        const size_t n = biases.size() / layers;
        if (has_bias) random.uniform(std::span(biases).subspan(layer * n, n), -1 / std::sqrt(in), 1 / std::sqrt(in));
      }
      if (has_bias) model.write(Arena::params, model.table[++k], biases.data());
    }
    model.write(Arena::params, tensor, values.data());
  }
  return random;
}
