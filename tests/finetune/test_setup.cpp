// How finetuning begins and ends: weights taken over, new heads, a run's folder.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "llm/finetune/setup.h"
#include "llm/flags/finetune_flags.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/training/checkpoint.h"
#include "tests/helpers/temporary_folder.h"

using nlohmann::json;

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};

ModelConfig classifier_of(ModelConfig shape, int classes) {
  shape.num_classes = classes;
  shape.tied_head = false;
  return shape;
}

std::vector<float> values_of(const Model& model, const std::string& name) {
  for (const ParamTensor& tensor : model.table) {
    if (tensor.name != name) continue;
    std::vector<float> values(static_cast<size_t>(tensor.size()));
    model.read(Arena::params, tensor, values.data());
    return values;
  }
  return {};
}

}  // namespace

TEST_CASE("a classifier takes all weights but the head, which is new") {
  const TemporaryFolder tmp;
  CpuModel<float> base(kTiny, true);
  init_weights(base, 7);
  save_model(base, nullptr, tmp.path);
  CpuModel<float> classifier(classifier_of(kTiny, 3), true);
  init_weights(classifier, 8);
  init_head(classifier, "torch", 1);
  const std::vector<float> head = values_of(classifier, "head");
  load_base_weights(classifier, tmp.path, false);
  for (const ParamTensor& tensor : base.table) {
    CAPTURE(tensor.name);
    CHECK(values_of(classifier, tensor.name) == values_of(base, tensor.name));
  }
  CHECK(values_of(classifier, "head") == head);
  CpuModel<float> wider(
      classifier_of({.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 8}, 3), true);
  CHECK_THROWS_WITH_AS(load_base_weights(wider, tmp.path, false), doctest::Contains("another shape"), Error);
}

TEST_CASE("the initial weights of a head") {
  ModelConfig shape = classifier_of(kTiny, 400);
  CpuModel<float> model(shape, true);
  init_head(model, "torch", 1);
  const auto size = static_cast<size_t>(400 * 6);
  std::vector<float> w = values_of(model, "head");
  double mean = 0, square = 0, most = 0;
  for (size_t i = 0; i < size; ++i) {
    mean += static_cast<double>(w[i]) / static_cast<double>(size);
    square += static_cast<double>(w[i]) * static_cast<double>(w[i]) / static_cast<double>(size);
    most = std::max(most, std::abs(static_cast<double>(w[i])));
  }
  const double bound = 1 / std::sqrt(6.0);
  CHECK(most <= bound);
  CHECK(most > 0.99 * bound);
  CHECK(std::abs(mean) < 4 * bound / std::sqrt(3.0 * static_cast<double>(size)));
  CHECK(square == doctest::Approx(bound * bound / 3).epsilon(0.08));
  CHECK(values_of(model, "headb")[0] != 0);
  init_head(model, "normal", 1);
  w = values_of(model, "head");
  square = 0;
  for (size_t i = 0; i < size; ++i)
    square += static_cast<double>(w[i]) * static_cast<double>(w[i]) / static_cast<double>(size);
  CHECK(std::sqrt(square) == doctest::Approx(0.02).epsilon(0.06));
  CHECK(values_of(model, "headb")[0] == 0);
}

TEST_CASE("a folder that holds a run is refused; latest is replaced as a whole") {
  const TemporaryFolder tmp;
  FinetuneConfig config = finetune_defaults(Task::instruct);
  config.run = (tmp.path / "run").string();
  CHECK(finetune_folder(config, "x") == config.run);
  CpuModel<float> model(kTiny, true);
  init_weights(model, 1);
  const Tokenizer tokenizer = Tokenizer::chars("abcdefghij");
  std::filesystem::create_directories(config.run);
  save_finetuned(model, tokenizer, "", config.run, [](const auto& dir) { std::ofstream(dir / "one"); });
  CHECK(std::filesystem::exists(tmp.path / "run/latest/one"));
  save_finetuned(model, tokenizer, "", config.run, [](const auto& dir) { std::ofstream(dir / "two"); });
  CHECK(std::filesystem::exists(tmp.path / "run/latest/two"));
  CHECK_FALSE(std::filesystem::exists(tmp.path / "run/latest/one"));
  CHECK_THROWS_AS(save_finetuned(model, tokenizer, "", config.run, [](const auto&) { fail("no"); }), Error);
  CHECK(std::filesystem::exists(tmp.path / "run/latest/two"));
  CHECK(std::distance(std::filesystem::directory_iterator(tmp.path / "run"), {}) == 1);
  CHECK_THROWS_WITH_AS(finetune_folder(config, "x"), doctest::Contains("already holds a run (it has latest)"), Error);
}
