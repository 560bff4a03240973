// Text from a model: the window, the stop, the seed. A stand-in model records its calls.
#include <doctest/doctest.h>

#include <memory>
#include <new>

#include "kernels/kv_cache.h"
#include "llm/inference/generate.h"
#include "llm/support/error.h"

namespace {

// Predicts the token after the last one, modulo V, with certainty; `open`: all tokens equally likely.
class CountingModel : public Model {
 public:
  CountingModel(int V, int context, bool open) : Model({context, V, 1, 1, 1}, {}), open_(open) {}
  void run(const ForwardInput& in) override {
    CHECK(in.B == 1);
    CHECK(in.pass == Pass::generate);
    windows.emplace_back(in.tokens, in.tokens + in.T);
  }
  void read_logits(int64_t row, float* out) override {
    CHECK(row == 0);
    predict(out);
  }
  void predict(float* out) const {
    const int next = (windows.back().back() + 1) % config.vocab_size;
    for (int i = 0; i < config.vocab_size; ++i) out[i] = open_ ? 0.0f : i == next ? 100.0f : 0.0f;
  }
  std::unique_ptr<Decoder> make_decoder(int pages, int max_rows) override {
    if (full) throw std::bad_alloc();
    return std::make_unique<CountingDecoder>(*this, pages, max_rows);
  }
  double loss(const int32_t*, double*) override { return 0; }
  void backward(const int32_t*, const float*, bool) override {}
  void read_losses(float*) override {}
  void exchange_average() override {}
  void zero_grad() override {}
  double step_loss() override { return 0; }
  double grad_norm() override { return 0; }
  void update(const OptimizerConfig&, float) override {}
  StepResult result(int) override { return {}; }
  int64_t updates() const override { return 0; }
  void set_updates(int64_t) override {}
  void read(Arena, const ParamTensor&, float*) const override {}
  void write(Arena, const ParamTensor&, const float*) override {}

  std::vector<std::vector<int32_t>> windows;  // from which each new token was computed
  int room = 0, decodes = 0;                  // tokens of a decoder's passes, at most; passes that continue a window
  bool full = false;                          // no memory for a cache

 private:
  // One sequence; only the last row is wanted.
  struct CountingDecoder final : Decoder {
    CountingDecoder(CountingModel& model, int pages_, int rows) : Decoder(model.config, pages_, rows), of(model) {
      CHECK(pages == pages_of(rows));
      of.room = rows;
    }
    ~CountingDecoder() override { of.room = 0; }
    void run(const DecodeRows& rows) override {
      const size_t first = static_cast<size_t>(rows.positions[0]);
      CHECK(rows.sequences.back() == 0);
      CHECK(std::vector(rows.wanted.begin(), rows.wanted.end()) ==
            std::vector{static_cast<int32_t>(rows.tokens.size()) - 1});
      CHECK(first == (first > 0 ? of.windows.back().size() : 0));
      if (first > 0) of.windows.push_back(of.windows.back());
      if (first == 0) of.windows.emplace_back();
      of.windows.back().insert(of.windows.back().end(), rows.tokens.begin(), rows.tokens.end());
      of.decodes += first > 0;
    }
    Logits logits(int i) override {
      CHECK(i == 0);
      of.predict(row.data());
      return {row.data(), 1, 0};
    }
    void copy_page(int, int) override { FAIL("one sequence has nothing to copy"); }
    CountingModel& of;
    std::vector<float> row = std::vector<float>(static_cast<size_t>(config.vocab_size));
  };

  bool open_;
};

using Ids = std::vector<int32_t>;
GenerateConfig ask(int tokens, int end_of_text = -1, uint64_t seed = 1) {
  return {SamplerConfig{}, tokens, end_of_text, seed, 0};
}
const auto all = [](int32_t) { return true; };

}  // namespace

TEST_CASE("each new token joins the window, which keeps the last max_seq_len") {
  CountingModel model(10, 3, false);
  CHECK(generate(model, {4}, ask(5), all) == Ids{5, 6, 7, 8, 9});
  CHECK(model.windows == std::vector<Ids>{{4}, {4, 5}, {4, 5, 6}, {5, 6, 7}, {6, 7, 8}});
  CHECK(model.decodes == 2);  // a window that has moved is computed again
  CHECK(model.room == 0);
}

TEST_CASE("a full window moves by more than a token, and decoding continues from there") {
  GenerateConfig config = ask(7);
  config.slide = 3;
  CountingModel model(20, 4, false), plain(20, 4, false);
  CHECK(generate(model, {4}, config, all) == Ids{5, 6, 7, 8, 9, 10, 11});
  CHECK(model.windows == std::vector<Ids>{{4}, {4, 5}, {4, 5, 6}, {4, 5, 6, 7}, {7, 8}, {7, 8, 9}, {7, 8, 9, 10}});
  CHECK(model.decodes == 5);
  plain.full = true;
  generate(plain, {4}, config, all);
  CHECK(plain.windows == model.windows);
  CHECK(plain.decodes == 0);
  plain.windows.clear();
  config.cache = false;
  generate(plain, {4}, config, all);
  CHECK(plain.windows == model.windows);
  CHECK(plain.decodes == 0);
  config.slide = 5;
  CHECK_THROWS_WITH_AS(generate(model, {4}, config, all), doctest::Contains("expected 1 to 4"), Error);
  config.slide = 0;
  CHECK_THROWS_AS(generate(model, {4}, config, all), Error);
}

TEST_CASE("only the end of a prompt longer than the context is used") {
  CountingModel model(10, 3, false);
  CHECK(generate(model, {0, 1, 2, 3, 4, 5}, ask(1), all) == Ids{6});
  CHECK(model.windows == std::vector<Ids>{{3, 4, 5}});
}

TEST_CASE("a requested context is limited by that of the model") {
  GenerateConfig config = ask(3);
  config.context = 2;
  CountingModel model(10, 3, false), wide(10, 3, false);
  CHECK(generate(model, {4, 5, 6}, config, all) == Ids{7, 8, 9});
  CHECK(model.windows == std::vector<Ids>{{5, 6}, {6, 7}, {7, 8}});
  config.context = 1000;
  generate(wide, {1, 2, 3, 4, 5}, config, all);
  CHECK(wide.windows.front() == Ids{3, 4, 5});
}

TEST_CASE("end_of_text stops and is not reported") {
  CountingModel model(10, 8, false);
  Ids seen;
  CHECK(generate(model, {4}, ask(50, 8), [&](int32_t id) {
          seen.push_back(id);
          return true;
        }) == Ids{5, 6, 7});
  CHECK(seen == Ids{5, 6, 7});
  CHECK(generate(model, {8}, ask(2, 8), all) == Ids{9, 0});  // end_of_text in the prompt does not stop generation
  CHECK(generate(model, {4}, ask(5, -1), all).size() == 5);
}

TEST_CASE("the caller can stop generation") {
  CountingModel model(10, 8, false);
  CHECK(generate(model, {0}, ask(50), [](int32_t id) { return id < 3; }) == Ids{1, 2, 3});
}

TEST_CASE("zero tokens can be asked for; an empty prompt is an error") {
  CountingModel model(10, 8, false);
  CHECK(generate(model, {1}, ask(0), all).empty());
  CHECK(model.windows.empty());
  CHECK_THROWS_AS(generate(model, {}, {}, all), Error);
}

TEST_CASE("the seed determines the text") {
  CountingModel model(1000, 8, true);
  const Ids first = generate(model, {1}, ask(30, -1, 5), all);
  CHECK(generate(model, {1}, ask(30, -1, 5), all) == first);
  CHECK(generate(model, {1}, ask(30, -1, 6), all) != first);
  const Ids shorter = generate(model, {1}, ask(10, -1, 5), all);
  CHECK(Ids(first.begin(), first.begin() + 10) == shorter);  // token i does not depend on how many are asked for
}
