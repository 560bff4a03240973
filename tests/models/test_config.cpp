#include <doctest/doctest.h>

#include "llm/models/config.h"
#include "llm/support/error.h"

namespace {

ModelConfig gpt2(int L, int NH, int C) {
  return {.max_seq_len = 1024, .vocab_size = 50257, .num_layers = L, .num_heads = NH, .channels = C};
}

const ModelConfig kOdd = {.max_seq_len = 19, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 51};

}  // namespace

TEST_CASE("validate names the field out of range, its file, and its value") {
  CHECK_NOTHROW(validate(kOdd, "a test"));
  CHECK_NOTHROW(validate(gpt2(48, 25, 1600), "a test"));
  const auto message = [](auto change) {
    ModelConfig config = kOdd;
    change(config);
    try {
      validate(config, "some/config.json");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto check = [&](auto change, const char* what, const char* found) {
    const std::string text = message(change);
    CHECK_MESSAGE(text.find("some/config.json") == 0, text);
    CHECK_MESSAGE(text.find(what) != std::string::npos, text);
    CHECK_MESSAGE(text.find(found) != std::string::npos, text);
  };
  check([](ModelConfig& c) { c.max_seq_len = 0; }, "context length", "0");
  check([](ModelConfig& c) { c.vocab_size = -1; }, "vocabulary", "-1");
  check([](ModelConfig& c) { c.vocab_size = 1 << 30; }, "vocabulary", "1073741824");
  check([](ModelConfig& c) { c.num_layers = 0; }, "layers", "0");
  check([](ModelConfig& c) { c.num_layers = 1 << 20; }, "layers", "1048576");
  check([](ModelConfig& c) { c.num_heads = 0; }, "heads", "0");
  check([](ModelConfig& c) { c.channels = 0; }, "channels", "0");
  check([](ModelConfig& c) { c.channels = 52; }, "3 heads do not divide 52 channels", "52");
}
