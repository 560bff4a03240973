#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/model_files.h"

TEST_CASE("initial weights follow the table and the seed, with zero padding") {
  const ModelConfig config = {.max_seq_len = 64, .vocab_size = 1003, .num_layers = 2, .num_heads = 4, .channels = 64};
  const auto a = make_cpu_model(config, true), b = make_cpu_model(config, true), c = make_cpu_model(config, true);
  init_weights(*a, 1);
  init_weights(*b, 1);
  init_weights(*c, 2);
  CHECK(same(*a, *b, {Arena::params}));
  CHECK_FALSE(same(*a, *c, {Arena::params}));
  for (const ParamTensor& tensor : a->table) {
    CAPTURE(tensor.name);
    Floats values(static_cast<size_t>(tensor.size()));
    a->read(Arena::params, tensor, values.data());
    CHECK(std::all_of(values.begin() + tensor.file_size(), values.end(), [](float x) { return x == 0; }));
    values.resize(static_cast<size_t>(tensor.file_size()));
    const double n = static_cast<double>(values.size());
    if (tensor.init == Init::normal) {  // the rms of n normals: five standard deviations of 1 / sqrt(2n)
      CHECK(std::abs(rms(values) / tensor.init_std - 1) < 5 / std::sqrt(2 * n));
    } else {
      const float constant = tensor.init == Init::ones ? 1 : 0;
      CHECK(std::all_of(values.begin(), values.end(), [&](float x) { return x == constant; }));
    }
  }
}
