// Greedy texts against those of Hugging Face transformers (dev/reference/transformers_greedy.py), one by one and in a
// batch. Where the two largest logits lie within 1e-4 of each other, rounding decides, and the comparison ends.
#include <doctest/doctest.h>

#include <map>

#include "kernels/kv_cache.h"
#include "llm/inference/engine.h"
#include "llm/models/packed_decoder.h"
#include "tests/helpers/golden.h"

namespace {

constexpr uint64_t kHeadStream = 1100;

struct GreedyCase {
  GreedyCase(const Golden& golden, const std::string& name) {
    const auto shape = golden.get<int>(name);
    const double scale = golden.get(name + ":scale")[0];
    config.max_seq_len = shape[0], config.vocab_size = shape[1], config.num_layers = shape[2];
    config.num_heads = shape[3], config.channels = shape[4], config.tied_head = shape[5] != 0;
    decoder = make_packed_decoder(config, {.pages = 4 * (pages_of(config.max_seq_len)), .max_rows = 48});
    std::vector<float> values;
    for (size_t k = 0; k < decoder->table.size(); ++k) {
      const ParamTensor& tensor = decoder->table[k];
      const double base = tensor.init == Init::ones ? 1 : 0;
      values.assign(static_cast<size_t>(tensor.size()), 0.0f);
      for (size_t i = 0; i < static_cast<size_t>(tensor.file_size()); ++i) {
        const double x = golden_uniform(tensor.role == Role::head ? kHeadStream : k, i);
        values[i] = static_cast<float>(base + scale * x);
      }
      decoder->write(tensor, values.data());
    }
    for (int p = 0; p < 3; ++p) {
      const std::string of = std::to_string(p);
      prompts.push_back(golden.get<int32_t>(name + ":prompt" + of));
      texts.push_back(golden.get<int32_t>(name + ":text" + of));
      gaps.push_back(golden.get(name + ":gap" + of));
    }
  }
  Request request(size_t p) const {
    Request request;
    request.prompt = prompts[p], request.tokens = static_cast<int>(texts[p].size());
    request.sampler.temperature = 0;
    return request;
  }
  void check(size_t p, const std::vector<int32_t>& text) const {
    CAPTURE(p);
    REQUIRE(text.size() == texts[p].size());
    size_t clear = 0;
    while (clear < text.size() && gaps[p][clear] > 1e-4) ++clear;
    CHECK(clear > 20);
    for (size_t i = 0; i < clear; ++i) {
      CAPTURE(i);
      REQUIRE(text[i] == texts[p][i]);
    }
  }

  ModelConfig config;
  std::unique_ptr<PackedDecoder> decoder;
  std::vector<std::vector<int32_t>> prompts, texts;
  std::vector<std::vector<double>> gaps;
};

}  // namespace

TEST_CASE("greedy texts are those of transformers, one by one and in batches") {
  const Golden golden("transformers_greedy.bin");
  for (const char* name : {"small", "deep", "wide"}) {
    INFO(std::string(name));
    const GreedyCase c(golden, name);
    std::vector<std::vector<int32_t>> alone;
    for (size_t p = 0; p < 3; ++p) {
      Engine engine(*c.decoder, 1);
      engine.add(c.request(p));
      std::vector<int32_t> text;
      while (engine.busy()) {
        engine.step([&](const NewToken& token) {
          text.push_back(token.token);
          return true;
        });
      }
      c.check(p, text);
      alone.push_back(text);
    }
    // All at once, each twice.
    Engine engine(*c.decoder, 4);
    std::map<int64_t, std::vector<int32_t>> texts;
    for (size_t i = 0; i < 6; ++i) engine.add(c.request(i % 3));
    while (engine.busy()) {
      engine.step([&](const NewToken& token) {
        texts[token.request].push_back(token.token);
        return true;
      });
    }
    for (size_t i = 0; i < 6; ++i) CHECK(texts.at(static_cast<int64_t>(i)) == alone[i % 3]);
  }
}
