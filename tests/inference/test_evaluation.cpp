// Losses of text by window and stride, answers and last words, compared with sums of log-softmax over single forward
// passes, one per token.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "llm/inference/evaluation.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"

namespace {

using Ids = std::vector<int32_t>;

constexpr int kContext = 8;

std::unique_ptr<Model> some_model() {
  auto model = make_cpu_model({kContext, 257, 2, 2, 16}, true);
  init_weights(*model, 3);
  return model;
}

// -log p of every token that could follow `context`.
std::vector<double> losses_after(Model& model, const Ids& context) {
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  model.forward(context.data(), 1, static_cast<int>(context.size()), Pass::generate);
  model.read_logits(0, logits.data());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  std::vector<double> losses;
  for (const float logit : logits) losses.push_back(std::log(sum) - static_cast<double>(logit));
  return losses;
}

double loss_of(Model& model, const Ids& ids, size_t first) {
  double nats = 0;
  for (size_t i = first; i < ids.size(); ++i) {
    const size_t begin = i > kContext ? i - kContext : 0;
    nats += losses_after(model, Ids(ids.begin() + static_cast<ptrdiff_t>(begin),
                                    ids.begin() + static_cast<ptrdiff_t>(i)))[static_cast<size_t>(ids[i])];
  }
  return nats;
}

Ids ids_of(const std::string& text) { return Tokenizer::bytes().encode(text, Special::parsed); }

Tokens tokens_of(const Ids& ids) {
  return {static_cast<int64_t>(ids.size()),
          [&ids](int64_t from, int64_t count, int32_t* to) { std::copy_n(ids.begin() + from, count, to); }};
}

const auto quiet = [](int64_t, int64_t) {};
const std::string kText = "The quick brown fox jumps over a lazy dog and sleeps.";

}  // namespace

TEST_CASE("windows side by side score every token but the first") {
  const auto model = some_model();
  for (const size_t n : {2u, 5u, 8u, 9u, 10u, 17u, 53u}) {
    const Ids ids = ids_of(kText.substr(0, n));
    double expected = 0;
    for (size_t p = 1; p < n; ++p) {
      const auto begin = static_cast<ptrdiff_t>((p - 1) / 5 * 5);
      expected += losses_after(*model, Ids(ids.begin() + begin, ids.begin() + static_cast<ptrdiff_t>(p)))[ids[p]];
    }
    for (const int B : {1, 3, 100}) {
      CAPTURE(n);
      CAPTURE(B);
      int64_t done = 0;
      const TextScore score = score_text(*model, tokens_of(ids), nullptr, 5, 0, B, [&](int64_t d, int64_t total) {
        CHECK(d > done);
        CHECK(total == static_cast<int64_t>(n) - 1);
        done = d;
      });
      CHECK(done == static_cast<int64_t>(n) - 1);
      CHECK(score.tokens == static_cast<int64_t>(n) - 1);
      CHECK(score.windows == static_cast<int64_t>((n - 1 + 4) / 5));
      CHECK(score.nats == doctest::Approx(expected).epsilon(1e-6));
    }
  }
}

TEST_CASE("with a stride each token is scored once, in the first window that reaches it") {
  const auto model = some_model();
  const Ids ids = ids_of(kText);
  for (const int64_t stride : {1, 3, 6, 7}) {
    double expected = 0;
    for (int64_t p = 1; p < static_cast<int64_t>(ids.size()); ++p) {
      int64_t begin = 0;
      while (begin + kContext <= p) begin += stride;  // the window with p is [begin, begin + T)
      expected += losses_after(*model, Ids(ids.begin() + begin, ids.begin() + p))[ids[static_cast<size_t>(p)]];
    }
    for (const int B : {1, 2, 50}) {
      CAPTURE(stride);
      const TextScore score = score_text(*model, tokens_of(ids), nullptr, kContext, stride, B, quiet);
      CHECK(score.tokens == static_cast<int64_t>(ids.size()) - 1);
      CHECK(score.nats == doctest::Approx(expected).epsilon(1e-6));
    }
  }
  // A stride of a whole window leaves each window's first token out.
  const TextScore score = score_text(*model, tokens_of(ids), nullptr, kContext, kContext, 2, quiet);
  CHECK(score.windows == 7);
  CHECK(score.tokens == static_cast<int64_t>(ids.size()) - 7);
  const Ids one_more(ids.begin(), ids.begin() + 17);  // the third window would hold a first token only
  CHECK(score_text(*model, tokens_of(one_more), nullptr, kContext, kContext, 2, quiet).windows == 2);
}

TEST_CASE("counts of the bytes and words that are scored") {
  const auto model = some_model();
  const Tokenizer tokenizer = Tokenizer::bytes();
  const auto count = [&](const std::string& text, int64_t stride) {
    const Ids ids = ids_of(text);
    const TextScore score = score_text(*model, tokens_of(ids), &tokenizer, 4, stride, 2, quiet);
    return std::vector<int64_t>{score.tokens, score.bytes, score.words};
  };
  CHECK(count("one two\nthree", 0) == std::vector<int64_t>{12, 12, 2});  // "ne" continues a word
  CHECK(count(" one\ttwo  ", 0) == std::vector<int64_t>{9, 9, 2});
  CHECK(count("<|endoftext|>one<|endoftext|>two", 0) == std::vector<int64_t>{7, 6, 2});
  CHECK(count("one two three", 2) == std::vector<int64_t>{12, 12, 2});
  CHECK(count("abcd efg", 4) == std::vector<int64_t>{6, 6, 1});  // the second "word" begins with an unscored space
}

TEST_CASE("text that cannot be scored is refused") {
  const auto model = some_model();
  const Ids one = {1}, two = {1, 2};
  CHECK_THROWS_WITH_AS(score_text(*model, tokens_of(one), nullptr, 4, 0, 1, quiet),
                       doctest::Contains("1 tokens, expected two or more"), Error);
  CHECK_THROWS_WITH_AS(score_text(*model, tokens_of(two), nullptr, 9, 0, 1, quiet), doctest::Contains("context of 8"),
                       UsageError);
  CHECK_THROWS_WITH_AS(score_text(*model, tokens_of(two), nullptr, 4, 5, 1, quiet), doctest::Contains("{stride} is 5"),
                       UsageError);
  CHECK_THROWS_WITH_AS(score_text(*model, tokens_of(two), nullptr, 1, 1, 1, quiet), doctest::Contains("{seq-len}"),
                       UsageError);
}

TEST_CASE("continuations of different lengths are scored in one batch") {
  const auto model = some_model();
  std::vector<Continuation> batch = {{ids_of("ab cd"), 2}, {ids_of("x"), 1}, {ids_of("abcdefghi"), 1}};
  batch[1].ids.push_back(7);
  const auto scores = score_continuations(*model, batch, true);
  for (size_t k = 0; k < batch.size(); ++k) {
    CHECK(scores[k].nats == doctest::Approx(loss_of(*model, batch[k].ids, batch[k].first)).epsilon(1e-6));
    CHECK(scores[k].tokens == static_cast<int64_t>(batch[k].ids.size() - batch[k].first));
  }
}

TEST_CASE("the choice with the largest probability, and with the largest per token") {
  const auto model = some_model();
  const Tokenizer tokenizer = Tokenizer::bytes();
  std::vector<Question> questions;
  int64_t right = 0, right_mean = 0;
  for (int k = 0; k < 23; ++k) {
    Question q;
    q.context = kText.substr(static_cast<size_t>(k), 1 + static_cast<size_t>(k % 3));
    for (int c = 0; c < 2 + k % 3; ++c) {
      q.choices.push_back(kText.substr(static_cast<size_t>(2 * k % 40 + c), 1 + static_cast<size_t>(c + k) % 4));
    }
    q.answer = k % static_cast<int>(q.choices.size());
    double best = 1e9, best_mean = 1e9;
    int at = 0, at_mean = 0;
    for (size_t c = 0; c < q.choices.size(); ++c) {
      const double nats = loss_of(*model, ids_of(q.context + q.choices[c]), q.context.size());
      const double mean = nats / static_cast<double>(q.choices[c].size());
      if (nats < best) best = nats, at = static_cast<int>(c);
      if (mean < best_mean) best_mean = mean, at_mean = static_cast<int>(c);
    }
    right += at == q.answer;
    right_mean += at_mean == q.answer;
    questions.push_back(q);
  }
  for (const int B : {1, 4, 9, 1000}) {
    int64_t done = 0;
    const ChoiceScore score = score_choices(*model, tokenizer, questions, B, [&](int64_t d, int64_t) { done = d; });
    CHECK(score.questions == 23);
    CHECK(done == 23);
    CHECK(score.right == right);
    CHECK(score.right_mean == right_mean);
    CHECK(score.shortened == 0);
  }
  CHECK((right > 0 && right < 23));
  CHECK(right != right_mean);
}

TEST_CASE("a context that does not fit is cut on the left; an empty one begins with end-of-text") {
  const auto model = some_model();
  const Tokenizer tokenizer = Tokenizer::bytes();
  // The winning choice depends on the 8 tokens before; the answer is the choice by the cut context.
  const std::string context = kText.substr(0, 30);
  std::vector<Question> questions = {{"f: line 1", context, {"abc", "xyz"}, 0}, {"f: line 2", "", {"abc", "xyz"}, 0}};
  Ids empty = ids_of("<|endoftext|>abc"), other = ids_of("<|endoftext|>xyz");
  const auto winner = [&](const Ids& a, const Ids& b, size_t first) {
    return loss_of(*model, a, first) <= loss_of(*model, b, first) ? 0 : 1;
  };
  const std::string cut = context.substr(30 - 6);  // 6 + 3 = context + 1
  questions[0].answer = winner(ids_of(cut + "abc"), ids_of(cut + "xyz"), 6);
  questions[1].answer = winner(empty, other, 1);
  const ChoiceScore score = score_choices(*model, tokenizer, questions, 4, quiet);
  CHECK(score.right == 2);
  CHECK(score.shortened == 1);

  questions[0].choices[1] = "123456789";
  CHECK_THROWS_WITH_AS(score_choices(*model, tokenizer, questions, 4, quiet),
                       "f: line 1: \"123456789\" has 9 tokens, expected at most the model's context of 8", Error);
  const Tokenizer letters = Tokenizer::chars("abc");
  CHECK_THROWS_WITH_AS(score_choices(*model, letters, questions, 4, quiet),
                       doctest::Contains("f: line 1: the vocabulary lacks the character"), Error);
}

TEST_CASE("the last word counts as right when greedy decoding writes all of it") {
  const auto model = some_model();
  const Tokenizer tokenizer = Tokenizer::bytes();
  std::vector<Passage> passages;
  double nats = 0;
  for (int k = 0; k < 4; ++k) {
    Ids ids = ids_of(kText.substr(static_cast<size_t>(5 * k), 4));
    const std::string context = tokenizer.decode(ids);
    for (int i = 0; i < 3; ++i) {
      const auto losses = losses_after(*model, ids);
      ids.push_back(static_cast<int32_t>(std::min_element(losses.begin(), losses.end()) - losses.begin()));
    }
    if (k == 2) ids.back() = (ids.back() + 1) % 256;  // one byte off: the model would write another
    REQUIRE(*std::max_element(ids.begin(), ids.end()) < 256);
    passages.push_back({"f", context, tokenizer.decode(ids).substr(4)});
    nats += loss_of(*model, ids, 4);
  }
  for (const int B : {1, 3}) {
    const LastWordScore score = score_last_words(*model, tokenizer, passages, B, quiet);
    CHECK(score.passages == 4);
    CHECK(score.right == 3);
    CHECK(score.nats == doctest::Approx(nats).epsilon(1e-6));
  }
}

TEST_CASE("standard errors follow the formula") {
  CHECK(standard_error(0, 0) == 0);
  CHECK(standard_error(1, 1) == 0);
  CHECK(standard_error(50, 101) == doctest::Approx(std::sqrt(50.0 / 101 * 51 / 101 / 100)));
}
