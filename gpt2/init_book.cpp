#include "gpt2/init_book.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "gpt2/error.h"

TorchRandom init_weights_book(Model& model, uint64_t seed) {
  const ModelConfig& config = model.config;
  if (config.tied_head || config.num_classes > 0) {
    fail("the book's initialisation is of a language model whose output head is a matrix of its own; this one %s",
         config.num_classes > 0 ? "is a classifier" : "has its token embedding for a head");
  }
  TorchRandom random(seed);
  std::set<std::string> written;
  // fill(values, tensor) makes what files hold of the tensor; padding stays zero.
  const auto set = [&](const std::string& name, auto&& fill) {
    for (const ParamTensor& tensor : model.table) {
      if (tensor.name != name) continue;
      std::vector<float> values(static_cast<size_t>(tensor.size()));
      fill(std::span(values).first(static_cast<size_t>(tensor.file_size())), tensor);
      model.write(Arena::params, tensor, values.data());
      written.insert(name);
      return;
    }
    fail("the model has no parameter %s", name.c_str());
  };
  const auto embedding = [&](const std::string& name) {
    set(name, [&](std::span<float> values, const ParamTensor&) { random.normal(values); });
  };
  // `parts` layers of `in` inputs, one below the other in `weight`, which each draw their weights and then their bias.
  const auto linear = [&](const std::string& weight, const std::string& bias, int parts, double in) {
    const double slope = std::sqrt(5.0);  // of kaiming_uniform_; 1 / sqrt(in), rounded as torch rounds it
    const double bound = std::sqrt(3.0) * (std::sqrt(2 / (1 + slope * slope)) / std::sqrt(in));
    std::vector<float> biases;
    set(weight, [&](std::span<float> values, const ParamTensor& tensor) {
      const size_t size = values.size() / static_cast<size_t>(parts), rows = static_cast<size_t>(tensor.file_rows);
      for (int k = 0; k < parts; ++k) {
        random.uniform(values.subspan(static_cast<size_t>(k) * size, size), -bound, bound);
        if (bias.empty()) continue;
        const size_t first = biases.size();
        biases.resize(first + rows / static_cast<size_t>(parts));
        random.uniform(std::span(biases).subspan(first), -1 / std::sqrt(in), 1 / std::sqrt(in));
      }
    });
    if (bias.empty()) return;
    set(bias,
        [&](std::span<float> values, const ParamTensor&) { std::copy(biases.begin(), biases.end(), values.begin()); });
  };

  const double C = config.channels;
  embedding("wte");
  embedding("wpe");
  for (int l = 0; l < config.num_layers; ++l) {
    const std::string at = strprintf("block.%d.", l);
    linear(at + "qkvw", config.qkv_bias ? at + "qkvb" : "", 3, C);
    linear(at + "attprojw", at + "attprojb", 1, C);
    linear(at + "fcw", at + "fcb", 1, C);
    linear(at + "fcprojw", at + "fcprojb", 1, 4 * C);
  }
  linear("head", "", 1, C);
  for (const ParamTensor& tensor : model.table) {  // layernorms
    if (written.contains(tensor.name)) continue;
    const std::vector<float> values(static_cast<size_t>(tensor.size()), tensor.init == Init::ones ? 1.0f : 0.0f);
    model.write(Arena::params, tensor, values.data());
  }
  return random;
}
