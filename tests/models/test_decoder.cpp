// Decoding over a cache of pages: what rows are refused, and that a row depends only on its own sequence.
#include "llm/models/cpu_model.h"
#include "llm/models/decoder.h"
#include "llm/support/error.h"
#include "tests/helpers/decoding.h"
#include "tests/helpers/model_variants.h"

namespace {

const ModelConfig kSmall = {.max_seq_len = 140, .vocab_size = 61, .num_layers = 2, .num_heads = 3, .channels = 33};

// Rows that are good until a test changes them: tokens 0, 1 and 2 of sequence 1, tokens 35 and 36 of sequence 0.
struct Rows {
  std::vector<int32_t> tokens = {1, 2, 3, 4, 5}, positions = {0, 1, 2, 35, 36}, sequences = {1, 1, 1, 0, 0},
                       pages = {3, 0, 1, -1}, wanted = {2, 4};
  int max_pages = 2;
  operator DecodeRows() const { return {tokens, positions, sequences, pages, max_pages, wanted}; }
};

}  // namespace

TEST_CASE("a row that is decoded has the same bits in any batch, after any beginning, on any number of threads") {
  for (const Variant& v : model_variants(kSmall)) {
    if (v.config.num_classes > 0 || !v.config.causal) continue;
    INFO(v.name);
    CpuModel<float> model(v.config, true, v.options);
    random_weights(model, 0.5);
    check_bits_of_rows(model, 36);
  }
  CpuModel<double> exact(kSmall, true);
  random_weights(exact, 0.5);
  check_bits_of_rows(exact, 35);
  CpuModel<float> model(kSmall, true);
  random_weights(model, 0.5);
  check_bits_of_rows(model, 135);  // beyond a chunk of the GPU's keys
  const auto decoded = [&](int threads) {
    const ThreadCount count(threads);
    return decoded_logits(model, VariantBatch(kSmall, 3, 40, 4), 33);
  };
  CHECK(same_bits(decoded(1), decoded(3)));
}

TEST_CASE("sequences of different lengths are decoded together, each as it would be by itself") {
  for (const bool reference : {true, false}) {
    CpuModel<float> model(kSmall, reference);
    random_weights(model, 0.5);
    const VariantBatch batch(kSmall, 3, 70, 4);
    const int lengths[] = {5, 1, 66};
    const auto tokens = [&](int b, int first, int count) {
      return std::span(batch.inputs).subspan(static_cast<size_t>(b * batch.T + first), static_cast<size_t>(count));
    };
    PagedTexts texts(model, 3, 72);
    Floats decoded = texts.feed({{0, tokens(0, 0, 5)}, {2, tokens(2, 0, 66)}, {1, tokens(1, 0, 1)}});
    for (int step = 0; step < 4; ++step) {
      const Floats next =
          texts.feed({{0, tokens(0, 5 + step, 1)}, {2, tokens(2, 66 + step, 1)}, {1, tokens(1, 1 + step, 1)}});
      decoded.insert(decoded.end(), next.begin(), next.end());
    }
    Floats expected, row(static_cast<size_t>(kSmall.vocab_size));
    for (int step = 0; step <= 4; ++step) {
      for (const int b : {0, 2, 1}) {
        model.forward(tokens(b, 0, 1).data(), 1, lengths[b] + step, Pass::generate);
        model.read_logits(0, row.data());
        expected.insert(expected.end(), row.begin(), row.end());
      }
    }
    CHECK(relative_difference(decoded, expected) < (reference ? 1e-6 : 1e-5));
  }
}

TEST_CASE("a pass reads the weights as they are then; logits are read until another pass") {
  CpuModel<float> model(kSmall, true), other(kSmall, true);
  random_weights(model, 0.5);
  random_weights(other, 0.25);
  const std::vector<int32_t> text = random_ints(9, 1, kSmall.vocab_size);
  PagedTexts texts(model, 1, 9);
  texts.feed({{0, std::span(text).first(4)}});
  for (const ParamTensor& tensor : model.table) {
    model.write(Arena::params, tensor, tensor_of(other, Arena::params, tensor).data());
  }
  PagedTexts again(model, 1, 9);
  CHECK(same_bits(again.feed({{0, text}}), PagedTexts(other, 1, 9).feed({{0, text}})));

  const auto first = model.make_decoder(4, 8), second = model.make_decoder(4, 8);
  const Rows rows;
  Floats logits(static_cast<size_t>(kSmall.vocab_size));
  CHECK_THROWS_AS(first->read_logits(0, logits.data()), std::logic_error);  // no pass yet
  first->forward(rows);
  first->read_logits(1, logits.data());
  CHECK_THROWS_AS(first->read_logits(2, logits.data()), std::logic_error);
  CHECK_THROWS_AS(first->read_logits(-1, logits.data()), std::logic_error);
  CHECK_THROWS_AS(second->read_logits(0, logits.data()), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(0, logits.data()), std::logic_error);  // those of the decoder
  CHECK_THROWS_AS(model.loss(rows.tokens.data(), nullptr), std::logic_error);
  second->forward(rows);
  CHECK_THROWS_AS(first->read_logits(0, logits.data()), std::logic_error);
  second->read_logits(0, logits.data());
  model.forward(text.data(), 1, 9, Pass::evaluate);
  CHECK_THROWS_AS(second->read_logits(0, logits.data()), std::logic_error);
  model.read_logits(8, logits.data());
}

TEST_CASE("rows of which none is wanted, some, or all; more than there are logits at a time") {
  CpuModel<float> model(kSmall, true), chunked(kSmall, true, {.loss_chunk = 2});
  random_weights(model, 0.5);
  random_weights(chunked, 0.5);
  const size_t V = static_cast<size_t>(kSmall.vocab_size);
  const auto whole = model.make_decoder(4, 5), few = chunked.make_decoder(4, 7);
  Rows rows;
  rows.positions = {0, 1, 2, 0, 1};
  rows.wanted = {0, 1, 2, 3, 4};
  Floats all(5 * V), row(V);
  whole->forward(rows);
  for (int i = 0; i < 5; ++i) whole->read_logits(i, &all[static_cast<size_t>(i) * V]);
  rows.wanted.clear();
  few->forward(rows);
  CHECK_THROWS_AS(few->read_logits(0, row.data()), std::logic_error);
  rows.wanted = {0, 2, 3, 4};
  few->forward(rows);
  for (const int i : {3, 0, 1, 2}) {
    few->read_logits(i, row.data());
    const auto expected = all.begin() + static_cast<int64_t>(V) * rows.wanted[static_cast<size_t>(i)];
    CHECK(same_bits(row, Floats(expected, expected + static_cast<int64_t>(V))));
  }
}

TEST_CASE("errors: rows that break the rules are refused before anything is computed") {
  CpuModel<float> model(kSmall, true);
  const auto decoder = model.make_decoder(4, 6);
  CHECK(decoder->pages == 4);
  CHECK(decoder->max_rows == 6);
  CHECK_NOTHROW(decoder->forward(Rows()));
  const auto refused = [&](auto change, const char* says) {
    Rows rows;
    change(rows);
    CHECK_THROWS_WITH_AS(decoder->forward(rows), doctest::Contains(says), std::logic_error);
  };
  const auto impossible = [&](auto change, const char* says) {
    Rows rows;
    change(rows);
    CHECK_THROWS_WITH_AS(decoder->forward(rows), doctest::Contains(says), Error);
  };
  impossible([](Rows& r) { r.tokens[4] = 61; }, "token 61 of row 4 is outside the vocabulary of 61");
  impossible([](Rows& r) { r.tokens[0] = -1; }, "token -1 of row 0");
  impossible([](Rows& r) { r.positions[4] = 140; }, "position 140 of row 4 does not fit the model's context of 140");
  impossible([](Rows& r) { r.positions[0] = -1; }, "position -1 of row 0");
  refused([](Rows& r) { r = {{}, {}, {}, {0}, {}, 1}; }, "no rows");
  refused([](Rows& r) { r.tokens.push_back(1); }, "differ in size");
  refused([](Rows& r) { r.positions.push_back(37); }, "differ in size");
  refused([](Rows& r) { r.sequences.push_back(0); }, "differ in size");
  refused([](Rows& r) { r.tokens.resize(7), r.positions = {0, 1, 2, 35, 36, 37, 38}, r.sequences.resize(7); },
          "7 rows, more than the 6 that it was made for");
  refused([](Rows& r) { r.max_pages = 0; }, "rows of max_pages");
  refused([](Rows& r) { r.pages.pop_back(); }, "rows of max_pages");
  refused([](Rows& r) { r.sequences[0] = r.sequences[1] = r.sequences[2] = 2; },
          "row 0 is of a sequence without pages");
  refused([](Rows& r) { r.sequences[3] = r.sequences[4] = -1; }, "row 3 is of a sequence without pages");
  refused([](Rows& r) { r.sequences = {1, 1, 0, 0, 1}, r.positions = {0, 1, 0, 1, 2}; }, "row 4 is apart");
  refused([](Rows& r) { r.positions[2] = 1; }, "row 2 does not follow");
  refused([](Rows& r) { r.positions[1] = 2; }, "row 1 does not follow");
  refused([](Rows& r) { r.positions = {0, 1, 2, 63, 64}; }, "row 4 is beyond max_pages");
  refused([](Rows& r) { r.pages[0] = 4; }, "row 3 is in or after a page that does not exist");
  refused([](Rows& r) { r.pages[1] = -1; }, "row 3 is in or after");
  refused([](Rows& r) { r.positions = {31, 32, 33, 35, 36}; }, "row 1 is in or after");
  refused([](Rows& r) { r.pages[1] = 1; }, "row 3 writes to a page that another sequence writes to");
  refused([](Rows& r) { r.positions[3] = 31, r.positions[4] = 32, r.pages[1] = 1; }, "row 4 writes to a page");
  refused([](Rows& r) { r.wanted = {2, 2}; }, "do not ascend");
  refused([](Rows& r) { r.wanted = {4, 2}; }, "do not ascend");
  refused([](Rows& r) { r.wanted = {5}; }, "do not exist");
  refused([](Rows& r) { r.wanted = {-1, 2}; }, "do not ascend");
}

TEST_CASE("errors: pages that cannot be copied, models that do not decode, a cache beyond memory") {
  CpuModel<float> model(kSmall, true);
  const auto decoder = model.make_decoder(4, 6);
  CHECK_THROWS_AS(decoder->copy_page(4, 0), std::logic_error);
  CHECK_THROWS_AS(decoder->copy_page(0, 4), std::logic_error);
  CHECK_THROWS_AS(decoder->copy_page(-1, 0), std::logic_error);
  CHECK_THROWS_AS(decoder->copy_page(0, -1), std::logic_error);
  CHECK_THROWS_AS(decoder->copy_page(1, 1), std::logic_error);
  CHECK_NOTHROW(decoder->copy_page(3, 0));
  CHECK_THROWS_WITH_AS(model.make_decoder(0, 1), doctest::Contains("a cache of 0 pages"), Error);
  CHECK_THROWS_WITH_AS(model.make_decoder(1, 0), doctest::Contains("for passes of 0 tokens"), Error);
  ModelConfig config = kSmall;
  config.num_layers = 16;
  CHECK_THROWS_AS(CpuModel<double>(config, true).make_decoder(1 << 30, 1), std::bad_alloc);  // 2^48 bytes and more
  const std::vector<int32_t> text = random_ints(9, 1, kSmall.vocab_size);
  model.forward(text.data(), 1, 9, Pass::generate);  // the model is whole
  CHECK_THROWS_AS(model.forward(text.data(), 1, 9, Pass::decode), std::logic_error);
  config = kSmall;
  config.causal = false;
  CHECK_THROWS_WITH_AS(CpuModel<float>(config, true).make_decoder(4, 6), doctest::Contains("not causal"), Error);
  config = kSmall;
  config.num_classes = 2;
  CHECK_THROWS_WITH_AS(CpuModel<float>(config, true).make_decoder(4, 6), doctest::Contains("a classifier"), Error);
}
