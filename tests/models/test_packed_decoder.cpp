// The CPU's decoder against the model that trains, and against itself: the same bits in passes of any shape.
#include <numeric>

#include "kernels/kv_cache.h"
#include "llm/models/cpu_model.h"
#include "llm/models/packed_decoder.h"
#include "llm/support/error.h"
#include "tests/helpers/model_variants.h"

namespace {

const ModelConfig kShape = {.max_seq_len = 70, .vocab_size = 131, .num_layers = 2, .num_heads = 3, .channels = 33};

// Passes over sequences that have pages in turn: sequence s has s, s + n, s + 2n ...
struct Passes {
  Passes(const ModelConfig& config, const Model& weights, WeightType type, bool cache_bf16, int sequences_ = 4,
         int max_rows = 300)
      : sequences(sequences_), max_pages(pages_of(config.max_seq_len)) {
    decoder = make_packed_decoder(config, {type, cache_bf16, sequences * max_pages, max_rows});
    Floats values;
    for (size_t i = 0; i < weights.table.size(); ++i) {
      values.resize(static_cast<size_t>(weights.table[i].size()));
      weights.read(Arena::params, weights.table[i], values.data());
      decoder->write(decoder->table[i], values.data());
    }
    for (int s = 0; s < sequences; ++s) {
      for (int p = 0; p < max_pages; ++p) pages.push_back(p * sequences + s);
    }
  }
  struct Stretch {
    int sequence, first, n;
  };
  // Tokens of `text` for each sequence; the logits of all of them.
  std::vector<Floats> run(const std::vector<int32_t>& text, const std::vector<Stretch>& stretches) {
    std::vector<int32_t> tokens, positions, of;
    for (const auto [s, first, n] : stretches) {
      for (int t = first; t < first + n; ++t) {
        tokens.push_back(text[static_cast<size_t>(t)]);
        positions.push_back(t);
        of.push_back(s);
      }
    }
    std::vector<int32_t> wanted(tokens.size());
    std::iota(wanted.begin(), wanted.end(), 0);
    decoder->forward({tokens, positions, of, pages, max_pages, wanted});
    std::vector<Floats> logits;
    while (logits.size() < wanted.size()) {
      const Decoder::Logits some = decoder->logits(static_cast<int>(logits.size()));
      for (int i = 0; i < some.count; ++i) {
        logits.emplace_back(some.data + i * some.stride, some.data + i * some.stride + decoder->config.vocab_size);
      }
    }
    return logits;
  }

  int sequences, max_pages;
  std::unique_ptr<PackedDecoder> decoder;
  std::vector<int32_t> pages;
};

std::vector<ModelConfig> shapes() {
  ModelConfig untied = kShape, wide = kShape;
  untied.tied_head = untied.qkv_bias = false;
  wide.num_layers = 1, wide.num_heads = 2, wide.channels = 192;
  return {kShape, untied, wide};
}

double similarity(const Floats& a, const Floats& b) { return dot_product(a, b) / norm(a) / norm(b); }

}  // namespace

TEST_CASE("the decoder has the model's logits: in float to rounding, in bf16 and int8 nearly") {
  for (const ModelConfig& config : shapes()) {
    CAPTURE(config.channels);
    CAPTURE(config.tied_head);
    CpuModel<float> model(config, true);
    random_weights(model, 0.1);
    const auto text = random_ints(70, 5, config.vocab_size);
    model.forward(text.data(), 1, 70, Pass::evaluate);
    Passes exact(config, model, WeightType::f32, false), bf16(config, model, WeightType::bf16, true),
        int8(config, model, WeightType::int8, false), small_cache(config, model, WeightType::int8, true);
    const auto f = exact.run(text, {{0, 0, 70}}), h = bf16.run(text, {{1, 0, 70}}), q = int8.run(text, {{2, 0, 70}}),
               s = small_cache.run(text, {{2, 0, 70}});
    for (size_t t = 0; t < 70; ++t) {
      Floats expected(static_cast<size_t>(config.vocab_size));
      model.read_logits(static_cast<int64_t>(t), expected.data());
      CHECK(relative_difference(f[t], expected) <= 1e-5);
      CHECK(similarity(h[t], expected) >= 0.999);
      CHECK(similarity(q[t], expected) >= 0.999);
      CHECK(similarity(s[t], expected) >= 0.999);
      CHECK(relative_difference(h[t], expected) >= 1e-4);  // another type, indeed
      CHECK(relative_difference(q[t], expected) >= 1e-4);
    }
  }
}

TEST_CASE(
    "a token's logits have the same bits by themselves, in any pass, on any number of threads, with a copied "
    "beginning") {
  for (const ModelConfig& config : shapes()) {
    CpuModel<float> model(config, true);
    random_weights(model, 0.3);
    const auto text = random_ints(70, 5, config.vocab_size);
    for (const auto& [type, cache_bf16] : {std::pair{WeightType::f32, false}, std::pair{WeightType::f32, true},
                                           std::pair{WeightType::bf16, true}, std::pair{WeightType::int8, true}}) {
      Passes passes(config, model, type, cache_bf16);
      const auto all = passes.run(text, {{0, 0, 70}});
      const auto check = [&](const std::vector<Floats>& some, size_t from, int first, int n) {
        for (int t = 0; t < n; ++t) {
          CHECK(same_bits(some[from + static_cast<size_t>(t)], all[static_cast<size_t>(first + t)]));
        }
      };
      for (int t = 0; t < 70; ++t) check(passes.run(text, {{1, t, 1}}), 0, t, 1);
      for (int t = 0; t < 70; t += 7) {  // among others, of other lengths
        const auto some = passes.run(text, {{3, 0, 40}, {2, t, 7}, {1, 69, 1}});
        check(some, 40, t, 7);
        check(some, 47, 69, 1);
      }
      for (const int shared : {1, 31, 32, 33, 69}) {  // of sequence 0, which has all pages
        Passes other(config, model, type, cache_bf16);
        other.run(text, {{0, 0, 70}});
        for (int page = 0; page <= (shared - 1) / kPageTokens; ++page) {
          other.decoder->copy_page(page * other.sequences + 2, page * other.sequences);
        }
        check(other.run(text, {{2, shared, 70 - shared}}), 0, shared, 70 - shared);
      }
      for (const int threads : {1, 3}) {
        const ThreadCount count(threads);
        Passes other(config, model, type, cache_bf16);
        check(other.run(text, {{0, 0, 70}}), 0, 0, 70);
        check(other.run(text, {{1, 0, 1}, {2, 0, 30}}), 1, 0, 30);
      }
    }
  }
}

TEST_CASE("passes of more rows than logits are kept at a time, and passes without any") {
  CpuModel<float> model(kShape, true);
  random_weights(model, 0.3);
  const auto text = random_ints(70, 5, kShape.vocab_size);
  Passes passes(kShape, model, WeightType::f32, false);
  const auto all = passes.run(text, {{0, 0, 70}, {1, 0, 70}});
  for (size_t t = 0; t < 70; ++t) CHECK(same_bits(all[t], all[70 + t]));
  const Floats late(passes.decoder->logits(100).data, passes.decoder->logits(100).data + 131),
      early(passes.decoder->logits(3).data, passes.decoder->logits(3).data + 131);  // computed again
  CHECK(same_bits(late, all[30]));
  CHECK(same_bits(early, all[3]));

  const std::vector<int32_t> tokens(text.begin(), text.begin() + 9), sequences(9, 2), none;
  std::vector<int32_t> positions(9);
  std::iota(positions.begin(), positions.end(), 0);
  passes.decoder->forward({tokens, positions, sequences, passes.pages, passes.max_pages, none});
  CHECK(same_bits(passes.run(text, {{2, 9, 1}})[0], all[9]));
}

TEST_CASE("a decoder's memory is known, and int8 takes a quarter of float's") {
  const ModelConfig config = {.max_seq_len = 64, .vocab_size = 1000, .num_layers = 2, .num_heads = 4, .channels = 128};
  const auto make = [&](WeightType type, bool cache_bf16) {
    return make_packed_decoder(config, {type, cache_bf16, 3, 5});
  };
  const auto f = make(WeightType::f32, false), h = make(WeightType::bf16, true), q = make(WeightType::int8, true);
  const int64_t matrices = 2 * 12 * 128 * 128 + 1024 * 128, vectors = 2 * 13 * 128 + 2 * 128;
  CHECK(f->bytes_per_pass() == 4 * (matrices + vectors));
  CHECK(h->bytes_per_pass() == 2 * matrices + 4 * vectors);
  CHECK(q->bytes_per_pass() == matrices + 4 * vectors);
  CHECK(f->bytes().weights == f->bytes_per_pass() + 4 * 64 * 128);
  CHECK(f->bytes().cache == 3 * kPageTokens * 2 * 2 * 128 * 4);
  CHECK(h->bytes().cache == f->bytes().cache / 2);
  CHECK(f->bytes().total() > f->bytes().weights + f->bytes().cache);
}

TEST_CASE("a decoder refuses weights that int8 cannot hold, and models that do not predict the next token") {
  CpuModel<float> model(kShape, true);
  random_weights(model, 0.3);
  Passes passes(kShape, model, WeightType::int8, false);
  const ParamTensor& tensor = passes.decoder->table[0];
  Floats values(static_cast<size_t>(tensor.size()), 1.0f);
  for (const float bad : {std::nanf(""), INFINITY}) {
    values[33 * 7 + 2] = bad;
    CHECK_THROWS_WITH_AS(passes.decoder->write(tensor, values.data()),
                         doctest::Contains("wte has a weight in row 7 that is not a finite number"), Error);
  }
  ModelConfig wide = kShape;
  wide.num_heads = 1, wide.channels = 65'537, wide.num_layers = 1, wide.vocab_size = 2, wide.max_seq_len = 1;
  CHECK_THROWS_WITH_AS(make_packed_decoder(wide, {WeightType::int8, false, 1, 1}),
                       doctest::Contains("int8 takes 65536 at most"), Error);
}
