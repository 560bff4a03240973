#include "llm/models/extend.h"

#include <algorithm>

#include "llm/models/cpu.h"
#include "llm/support/error.h"

std::unique_ptr<Model> extend_vocabulary(const Model& model, int used, int vocab_size, NewRows init) {
  if (used < 1 || used > model.config.vocab_size || vocab_size < model.config.vocab_size) {
    fail("a vocabulary of %d tokens, %d of them in use, cannot become one of %d", model.config.vocab_size, used,
         vocab_size);
  }
  ModelConfig config = model.config;
  config.vocab_size = vocab_size;
  validate(config, "the extended model");
  auto extended = make_cpu_model(config, true);

  std::vector<float> from, to;
  for (size_t k = 0; k < model.table.size(); ++k) {
    const ParamTensor &old = model.table[k], &tensor = extended->table[k];
    from.resize(static_cast<size_t>(old.size()));
    model.read(Arena::params, old, from.data());
    to.assign(static_cast<size_t>(tensor.size()), 0.0f);
    const bool by_token = tensor.role == Role::embedding || (tensor.role == Role::head && config.num_classes == 0);
    const int64_t kept = by_token ? used * tensor.cols : old.size();
    std::copy_n(from.begin(), kept, to.begin());
    if (by_token && init == NewRows::mean) {
      for (int64_t c = 0; c < tensor.cols; ++c) {
        double sum = 0;
        for (int64_t row = 0; row < used; ++row)
          sum += static_cast<double>(from[static_cast<size_t>(row * tensor.cols + c)]);
        const float mean = static_cast<float>(sum / used);
        for (int64_t row = used; row < vocab_size; ++row) to[static_cast<size_t>(row * tensor.cols + c)] = mean;
      }
    }
    extended->write(Arena::params, tensor, to.data());
  }
  return extended;
}
