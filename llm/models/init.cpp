#include "llm/models/init.h"

#include <vector>

#include "kernels/philox.h"

void init_weights(Model& model, uint64_t seed) {
  std::vector<float> values;
  for (size_t k = 0; k < model.table.size(); ++k) {
    const ParamTensor& tensor = model.table[k];
    values.assign(static_cast<size_t>(tensor.size()), tensor.init == Init::ones ? 1.0f : 0.0f);
    const int64_t n = tensor.file_size();  // the padding of wte stays zero
    if (tensor.init == Init::normal) {
#pragma omp parallel for
      for (int64_t i = 0; i < n; i += 4) {
        float normal[4];
        philox_normal4(normal, seed, k, static_cast<uint64_t>(i / 4));
        for (int64_t j = i; j < n && j < i + 4; ++j) values[static_cast<size_t>(j)] = tensor.init_std * normal[j - i];
      }
    } else if (tensor.init == Init::uniform) {
      for (int64_t i = 0; i < n; ++i) {
        values[static_cast<size_t>(i)] = tensor.init_std * (2 * philox_uniform(seed, k, static_cast<uint64_t>(i)) - 1);
      }
    }
    model.write(Arena::params, tensor, values.data());
  }
}
