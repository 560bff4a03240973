// The book's initialisation, tensor by tensor compared with PyTorch (dev/reference/init_book.py), and its loss.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "llm/models/cpu.h"
#include "llm/models/init_book.h"
#include "llm/support/error.h"
#include "tests/helpers/golden.h"

namespace {

const Golden& golden() {
  static const Golden file("init_book.bin");
  return file;
}

ModelConfig config_of(bool qkv_bias) {
  const std::vector<int> sizes = golden().get<int>("sizes");  // C, NH, L, V, context
  ModelConfig config{sizes[4], sizes[3], sizes[2], sizes[1], sizes[0]};
  config.tied_head = false;
  config.qkv_bias = qkv_bias;
  return config;
}

}  // namespace

TEST_CASE("every tensor equals that of PyTorch, and so does the loss") {
  for (const bool qkv_bias : {false, true}) {
    const std::string kind = qkv_bias ? "bias." : "plain.";
    const auto model = make_cpu_model(config_of(qkv_bias), true);
    init_weights_book(*model, 123);
    for (const ParamTensor& tensor : model->table) {
      CAPTURE(kind);
      CAPTURE(tensor.name);
      std::vector<float> values(static_cast<size_t>(tensor.size()));
      model->read(Arena::params, tensor, values.data());
      const auto all_of = [&](size_t from, float x) {
        return std::all_of(values.begin() + static_cast<ptrdiff_t>(from), values.end(),
                           [&](float v) { return v == x; });
      };
      if (tensor.name.find("ln") != std::string::npos) {
        CHECK(all_of(0, tensor.name.back() == 'w' ? 1.0f : 0.0f));
        continue;
      }
      const std::vector<float> expected = golden().get<float>(kind + tensor.name);
      REQUIRE(static_cast<int64_t>(expected.size()) == tensor.file_size());
      CHECK(all_of(expected.size(), 0));  // padding
      values.resize(expected.size());
      if (tensor.name == "wte" || tensor.name == "wpe") {  // equal within some ulps: tests/models/test_torch_random.cpp
        for (size_t i = 0; i < expected.size(); ++i) CHECK(std::abs(values[i] - expected[i]) <= 4 * 0x1p-21f);
      } else {
        CHECK(values == expected);
      }
    }
    const std::vector<int32_t> inputs = golden().get<int32_t>("inputs"), targets = golden().get<int32_t>("targets");
    model->forward(inputs.data(), 2, static_cast<int>(inputs.size() / 2), Pass::evaluate);
    CHECK(model->loss(targets.data()) == doctest::Approx(golden().get(kind + "loss")[0]).epsilon(1e-5));
  }
}

TEST_CASE("the returned generator continues after the last weight") {
  const auto model = make_cpu_model(config_of(false), true);
  TorchRandom after = init_weights_book(*model, 5);
  const ModelConfig& c = model->config;
  const int64_t C = c.channels;
  TorchRandom random(5);
  for (const int64_t n : {c.vocab_size * C, c.max_seq_len * C}) {
    std::vector<float> embedding(static_cast<size_t>(n));
    random.normal(embedding);
  }
  std::vector<float> linear(static_cast<size_t>(c.num_layers * (12 * C * C + C + 4 * C + C) + c.vocab_size * C));
  random.uniform(linear, 0, 1);
  CHECK(after.integer() == random.integer());
}

TEST_CASE("tied models and classifiers cannot have the book's initialisation") {
  ModelConfig tied = config_of(true), classifier = config_of(true);
  tied.tied_head = true;
  classifier.num_classes = 2;
  CHECK_THROWS_WITH_AS(init_weights_book(*make_cpu_model(tied, true), 1),
                       doctest::Contains("token embedding for a head"), Error);
  CHECK_THROWS_WITH_AS(init_weights_book(*make_cpu_model(classifier, true), 1), doctest::Contains("is a classifier"),
                       Error);
}
