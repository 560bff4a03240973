#include "gpt2/lora.h"

#include <stdexcept>
#include <vector>

MergedLora::MergedLora(const Model& model) : Model(model.config, {}), model_(model) {
  for (const ParamTensor& tensor : model.table) tensors_[tensor.name] = &tensor;
}

void MergedLora::read(Arena arena, const ParamTensor& tensor, float* out) const {
  if (arena != Arena::params) no();
  model_.read(arena, *tensors_.at(tensor.name), out);
  if (model_.options.lora.rank == 0 || tensor.vector) return;
  const float scale = model_.options.lora.alpha / static_cast<float>(model_.options.lora.rank);
  std::vector<float> a, b;
  // Adds the adapter `name` to the rows of `tensor` from `row` on.
  const auto add = [&](const std::string& name, int64_t row) {
    const auto found = tensors_.find(name + ".lora_a");
    if (found == tensors_.end()) return;
    const ParamTensor &at = *found->second, &bt = *tensors_.at(name + ".lora_b");
    a.resize(static_cast<size_t>(at.size()));
    b.resize(static_cast<size_t>(bt.size()));
    model_.read(arena, at, a.data());
    model_.read(arena, bt, b.data());
    const int64_t rank = at.rows, in = at.cols;
#pragma omp parallel for
    for (int64_t o = 0; o < bt.rows; ++o) {
      float* w = out + (row + o) * in;
      for (int64_t r = 0; r < rank; ++r) {
        const float factor = scale * b[static_cast<size_t>(o * rank + r)];
        for (int64_t i = 0; i < in; ++i) w[i] += factor * a[static_cast<size_t>(r * in + i)];
      }
    }
  };
  add(tensor.name, 0);
  if (tensor.name.ends_with(".qkvw")) {
    const std::string block = tensor.name.substr(0, tensor.name.size() - 4);  // "block.3."
    const int64_t C = config.channels;
    add(block + "qw", 0);
    add(block + "kw", C);
    add(block + "vw", 2 * C);
  }
}

void MergedLora::no() { throw std::logic_error("merged adapters can only be read as parameters"); }
