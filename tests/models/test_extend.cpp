// A larger vocabulary: the same old logits, new rows, special tokens that are encoded, saved and loaded.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>

#include "llm/models/cpu.h"
#include "llm/models/extend.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/text/tokenizer.h"

namespace fs = std::filesystem;

namespace {

const std::vector<int32_t> kIds = {3, 100, 7, 256, 0, 41};

std::vector<float> logits_of(Model& model) {
  const auto V = static_cast<size_t>(model.config.vocab_size);
  std::vector<float> logits(kIds.size() * V);
  model.forward(kIds.data(), 2, static_cast<int>(kIds.size()) / 2, Pass::evaluate);
  for (size_t row = 0; row < kIds.size(); ++row) model.read_logits(static_cast<int64_t>(row), logits.data() + row * V);
  return logits;
}

}  // namespace

TEST_CASE("old logits keep their bits, new rows are the mean or zero") {
  for (const bool tied : {true, false}) {
    ModelConfig config{8, 300, 2, 2, 16};
    config.tied_head = tied;
    const int used = 257;  // the remaining rows are padding
    const auto model = make_cpu_model(config, true);
    init_weights(*model, 9);
    const std::vector<float> before = logits_of(*model);
    for (const int vocab_size : {300, 301, 384, 385, 700}) {
      for (const NewRows init : {NewRows::mean, NewRows::zeros}) {
        CAPTURE(tied);
        CAPTURE(vocab_size);
        const auto extended = extend_vocabulary(*model, used, vocab_size, init);
        REQUIRE(extended->config.vocab_size == vocab_size);
        const std::vector<float> after = logits_of(*extended);
        for (size_t row = 0; row < kIds.size(); ++row) {
          const float* was = before.data() + row * 300;
          const float* is = after.data() + row * static_cast<size_t>(vocab_size);
          CHECK(std::memcmp(was, is, used * sizeof(float)) == 0);
          double mean = 0;
          for (int v = 0; v < used; ++v) mean += static_cast<double>(was[v]) / used;
          for (int v = used; v < vocab_size; ++v) {
            REQUIRE(is[v] == doctest::Approx(init == NewRows::mean ? mean : 0).epsilon(1e-4));
          }
        }
      }
    }
  }
}

TEST_CASE("a classifier with a larger vocabulary keeps its head") {
  ModelConfig config{8, 257, 1, 2, 16};
  config.num_classes = 3;
  config.tied_head = false;
  const auto model = make_cpu_model(config, true);
  init_weights(*model, 2);
  const auto extended = extend_vocabulary(*model, 257, 260, NewRows::mean);
  std::vector<float> pooling(6, 0.5f), before(6), after(6);
  const auto run = [&](Model& m, float* out) {
    m.forward({.tokens = kIds.data(), .B = 2, .T = 3, .pass = Pass::evaluate, .pooling = pooling.data()});
    for (int row = 0; row < 2; ++row) m.read_logits(row, out + 3 * row);
  };
  run(*model, before.data());
  run(*extended, after.data());
  CHECK(before == after);
}

TEST_CASE("impossible sizes are refused") {
  const auto model = make_cpu_model({4, 20, 1, 1, 4}, true);
  CHECK_THROWS_AS(extend_vocabulary(*model, 20, 19, NewRows::mean), Error);
  CHECK_THROWS_AS(extend_vocabulary(*model, 21, 30, NewRows::mean), Error);
  CHECK_THROWS_AS(extend_vocabulary(*model, 0, 30, NewRows::mean), Error);
}

TEST_CASE("special tokens are added after the others, and kept in a file") {
  char name[] = "/tmp/wrought-extend-XXXXXX";
  const fs::path folder = ::mkdtemp(name);
  const std::string text = "a ab abba <|user|>";
  for (const Tokenizer& old : {Tokenizer::bytes(), Tokenizer::chars(text), Tokenizer::train_bpe("ab ab ab ab", 258)}) {
    const std::vector<std::string> tokens = {"<|user|>", "[PAD]"};
    const Tokenizer more = old.with_special_tokens(tokens);
    const int V = old.vocab_size();
    CHECK(more.vocab_size() == V + 2);
    CHECK(more.end_of_text() == old.end_of_text());
    CHECK(more.is_special(V + 1));
    CHECK(more.encode(text) == old.encode(text));  // in a user's text they are text
    std::vector<int32_t> expected = old.encode("a ab abba ");
    expected.push_back(V);
    CHECK(more.encode(text, Special::parsed) == expected);
    more.save(folder / "tokenizer.json");
    CHECK(Tokenizer::load(folder / "tokenizer.json").checksum() == more.checksum());
    CHECK(old.vocab_size() == V);

    const auto refuse = [&](std::vector<std::string> list, const char* message) {
      CHECK_THROWS_WITH_AS(old.with_special_tokens(list), doctest::Contains(message), Error);
    };
    refuse({""}, "the special token \"\": expected one or more");
    refuse({"a b"}, "from ! to ~");
    refuse({"\u00e9"}, "from ! to ~");
    refuse({"<|endoftext|>"}, "is there already, with the id");
    refuse({"a"}, "\"a\" is there already");
    refuse({"<x>", "<x>"}, "\"<x>\" is there already");
  }
  fs::remove_all(folder);
}
