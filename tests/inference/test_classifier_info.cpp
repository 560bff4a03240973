// A classifier: how texts are laid out for it, what its directory says, and its answers.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "llm/formats/huggingface.h"
#include "llm/inference/classifier.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "tests/helpers/temporary_folder.h"

using nlohmann::json;

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};

ModelConfig classifier_of(ModelConfig shape, int classes) {
  shape.num_classes = classes;
  shape.tied_head = false;
  return shape;
}

}  // namespace

TEST_CASE("a text in a row: its tokens, padding, and what the head reads") {
  const std::vector<int32_t> ids = {1, 2, 3};
  std::vector<int32_t> inputs(4, -1);
  const auto pooling = [&](const char* name) {
    std::vector<float> weights(4, 7.0f);
    lay_out(inputs.data(), weights.data(), ids, 4, 99, position_of(name));
    return weights;
  };
  CHECK(pooling("last") == std::vector<float>{0, 0, 0, 1});
  CHECK(inputs == std::vector<int32_t>{1, 2, 3, 99});
  CHECK(pooling("last-real") == std::vector<float>{0, 0, 1, 0});
  CHECK(pooling("first") == std::vector<float>{1, 0, 0, 0});
  CHECK(pooling("mean") == std::vector<float>(4, 0.25f));
  CHECK(pooling("mean-real") == std::vector<float>{1.0f / 3, 1.0f / 3, 1.0f / 3, 0});
  CHECK_THROWS_WITH_AS(position_of("middle"), doctest::Contains("\"last-real\""), Error);
}

TEST_CASE("a classifier's directory records how to use it") {
  const TemporaryFolder tmp;
  CpuModel<float> model(classifier_of(kTiny, 2), true);
  init_weights(model, 1);
  const Tokenizer tokenizer = Tokenizer::chars("abcdefghij");
  save_model(model, &tokenizer, tmp.path);
  CHECK_THROWS_WITH_AS((void)read_classifier_info([&] {
                         const auto dir = tmp.path / "lm";
                         std::filesystem::create_directories(dir);
                         CpuModel<float> other(kTiny, true);
                         save_model(other, &tokenizer, dir);
                         return dir;
                       }()),
                       doctest::Contains("is not a classifier"), Error);
  const ClassifierInfo info{{"ham", "spam"}, "mean", 5, 10};
  write_classifier_info(tmp.path, info);
  const ClassifierInfo back = read_classifier_info(tmp.path);
  CHECK(back.classes == info.classes);
  CHECK(back.position == "mean");
  CHECK(back.length == 5);
  CHECK(back.pad == 10);
  const auto p = classify(model, tokenizer, back, "abc");
  REQUIRE(p.size() == 2);
  CHECK(p[0] + p[1] == doctest::Approx(1));
  size_t length = 0;
  CHECK(classify(model, tokenizer, back, "abcdefgh", &length) == classify(model, tokenizer, back, "abcde"));
  CHECK(length == 8);
  CHECK_THROWS_AS(classify(model, tokenizer, back, ""), Error);
  const auto damage = [&](const char* key, const json& value, const char* message) {
    CAPTURE(key);
    write_classifier_info(tmp.path, info);
    const auto path = tmp.path / "config.json";
    json config = json::parse(std::ifstream(path));
    config[json::json_pointer(key)] = value;
    std::ofstream(path) << config;
    CHECK_THROWS_WITH_AS((void)read_classifier_info(tmp.path), doctest::Contains(message), Error);
  };
  damage("/id2label", {{"0", "ham"}, {"1", 5}}, "id2label");
  damage("/id2label", {{"0", "ham"}, {"2", "x"}}, "id2label");
  damage("/classifier/length", 9, "classifier.length is \"9\", expected a whole number from 1 to 8");
  damage("/classifier/position", "middle", "classifier.position");
  damage("/classifier/pad", 11, "classifier.pad");
}
