// A model that transformers would open but compute differently gets a model_type unknown to transformers.
#include <doctest/doctest.h>

#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/classifier.h"
#include "llm/models/cpu_model.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const ModelConfig kTiny{4, 7, 2, 1, 3};

ModelConfig classifier(bool causal) {
  ModelConfig config = kTiny;
  config.num_classes = 2;
  config.tied_head = false;
  config.causal = causal;
  return config;
}

}  // namespace

TEST_CASE("a classifier's model_type depends on the position its head reads and on causal attention") {
  const struct {
    const char* position;
    bool causal, opens;
  } cases[] = {{"last-real", true, true},  {"last", true, false},       {"first", true, false}, {"mean", true, false},
               {"mean-real", true, false}, {"last-real", false, false}, {"last", false, false}};
  for (const auto& c : cases) {
    CAPTURE(c.position);
    CAPTURE(c.causal);
    const Folder folder;
    const auto model = random_model(classifier(c.causal), 1);
    save_model(*model, nullptr, folder.path);
    CHECK(write_classifier_info(folder.path, {{"a", "b"}, c.position, 4, 6}) == c.opens);
    const char* type = c.opens ? "gpt2" : "wrought_gpt2";
    CHECK(read_json(folder.path / "config.json")["model_type"] == type);
    CHECK(read_json(folder.path / "config.json")["architectures"] == json::array({"GPT2ForSequenceClassification"}));

    // It survives loading, and copying to another folder; also when written as "gpt2", as an earlier version did.
    for (const char* written : {type, "gpt2"}) {
      json config = read_json(folder.path / "config.json");
      config["model_type"] = written;
      write_json(folder.path / "config.json", config);
      CHECK(read_classifier_info(folder.path).position == c.position);
      const auto loaded = random_model(read_model_config(folder.path), 2);
      load_weights(*loaded, folder.path);
      CHECK(same(*loaded, *model, {Arena::params}));
      const fs::path copy = folder.path / "copy";
      fs::create_directories(copy);
      HuggingfaceOptions options;
      options.config = read_huggingface_extras(folder.path);
      save_huggingface(*open_weights(folder.path), nullptr, copy, options);
      CHECK(read_json(copy / "config.json")["model_type"] == type);
      CHECK(read_classifier_info(copy).position == c.position);
    }
  }
}

TEST_CASE("language models, and classifiers that transformers saved, have the model_type gpt2") {
  const Folder folder;
  save_model(*random_model(kTiny, 1), nullptr, folder.path);
  CHECK(read_json(folder.path / "config.json")["model_type"] == "gpt2");
  save_model(*random_model(classifier(true), 1), nullptr, folder.path);
  CHECK(read_json(folder.path / "config.json")["model_type"] == "gpt2");
  CHECK(read_classifier_info(folder.path).position == "last-real");
  ModelConfig looks_ahead = kTiny;
  looks_ahead.causal = false;
  save_model(*random_model(looks_ahead, 1), nullptr, folder.path);
  CHECK(read_json(folder.path / "config.json")["model_type"] == "wrought_gpt2");
  CHECK_FALSE(read_model_config(folder.path).causal);
}
