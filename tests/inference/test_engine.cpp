// The scheduling of requests. A stand-in decoder keeps tokens in its pages where a real one keeps keys and values, and
// makes logits from what it finds there: a wrong page, a lost copy or a token out of place changes the text.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

#include "kernels/kv_cache.h"
#include "llm/inference/engine.h"
#include "llm/support/error.h"

namespace {

using Tokens = std::vector<int32_t>;

constexpr int kVocabulary = 50;

// The logits of a text: they depend on all of it.
std::vector<float> logits_of(const Tokens& text) {
  uint32_t hash = 2166136261u;
  for (const int32_t token : text) hash = (hash ^ static_cast<uint32_t>(token)) * 16777619u;
  std::vector<float> logits;
  for (int i = 0; i < kVocabulary; ++i) {
    hash = hash * 1664525u + 1013904223u;
    logits.push_back(static_cast<float>(hash >> 16) / 16384);
  }
  return logits;
}

ModelConfig shape(int context) {
  ModelConfig config;
  config.max_seq_len = context, config.vocab_size = kVocabulary;
  config.num_layers = config.num_heads = 1, config.channels = 4;
  return config;
}

class TokenDecoder final : public Decoder {
 public:
  TokenDecoder(int pages, int max_rows, int context = 256)
      : Decoder(shape(context), pages, max_rows), memory_(static_cast<size_t>(pages) * kPageTokens, -1) {}

  Logits logits(int i) override { return {out_[static_cast<size_t>(i)].data(), 1, 0}; }
  void copy_page(int to, int from) override {
    CHECK(to != from);
    std::copy_n(memory_.begin() + from * kPageTokens, kPageTokens, memory_.begin() + to * kPageTokens);
    ++copies;
  }

  int passes = 0, rows = 0, copies = 0, most_rows = 0;

 private:
  void run(const DecodeRows& in) override {
    const int N = static_cast<int>(in.tokens.size());
    const auto at = [&](int n, int position) -> int32_t& {
      const int page =
          in.pages[static_cast<size_t>(in.sequences[static_cast<size_t>(n)] * in.max_pages + position / kPageTokens)];
      return memory_[static_cast<size_t>(page * kPageTokens + position % kPageTokens)];
    };
    const auto position = [&](int n) { return in.positions[static_cast<size_t>(n)]; };
    for (int n = 0; n < N; ++n) at(n, position(n)) = in.tokens[static_cast<size_t>(n)];
    out_.clear();
    for (const int32_t n : in.wanted) {
      Tokens text;
      for (int t = 0; t <= position(n); ++t) text.push_back(at(n, t));
      out_.push_back(logits_of(text));
    }
    ++passes;
    rows += N;
    most_rows = std::max(most_rows, N);
  }

  Tokens memory_;
  std::vector<std::vector<float>> out_;
};

// What a request gives, computed without a cache or other requests.
Tokens expected(const Request& request, int context) {
  Tokens window = request.prompt, made;
  Sampler sampler(request.sampler, request.seed, request.prompt, kVocabulary);
  while (static_cast<int>(made.size()) < request.tokens) {
    if (static_cast<int>(window.size()) > context) {
      window.erase(window.begin(), window.end() - (context - request.slide + 1));
    }
    const int32_t token = sampler.next(logits_of(window));
    if (std::find(request.end_tokens.begin(), request.end_tokens.end(), token) != request.end_tokens.end()) break;
    window.push_back(token);
    made.push_back(token);
  }
  return made;
}

// Runs all requests to their ends; the texts by request.
std::map<int64_t, Tokens> run(Engine& engine) {
  std::map<int64_t, Tokens> texts;
  for (int passes = 0; engine.busy(); ++passes) {
    REQUIRE(passes < 100'000);
    engine.step([&](const NewToken& token) {
      if (token.token >= 0) texts[token.request].push_back(token.token);
      return true;
    });
  }
  return texts;
}

Request request_of(const Tokens& prompt, int tokens, uint64_t seed = 1) {
  Request request;
  request.prompt = prompt, request.tokens = tokens, request.seed = seed;
  return request;
}

Tokens random_tokens(std::mt19937& random, int n) {
  Tokens tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random() % kVocabulary));
  return tokens;
}

}  // namespace

TEST_CASE("requests of any length, joining and leaving, each get the text that they get by themselves") {
  std::mt19937 random(1);
  for (const int max_rows : {3, 8, 200}) {
    for (const int pages : {9, 12, 40}) {
      CAPTURE(max_rows);
      CAPTURE(pages);
      TokenDecoder decoder(pages, max_rows);
      Engine engine(decoder, 7);
      std::map<int64_t, Request> requests;
      std::map<int64_t, Tokens> texts;
      const Tokens common = random_tokens(random, 150);
      for (int i = 0; i < 60; ++i) {
        Request request = request_of({}, 1 + static_cast<int>(random() % 90), i);
        if (i % 3) request.prompt.assign(common.begin(), common.begin() + static_cast<int>(random() % 150));
        const Tokens own = random_tokens(random, 1 + static_cast<int>(random() % 20));
        request.prompt.insert(request.prompt.end(), own.begin(), own.end());
        request.sampler.temperature = i % 2;
        request.end_tokens = {7};
        requests[engine.add(request)] = request;
        engine.step([&](const NewToken& token) {
          if (token.token >= 0) texts[token.request].push_back(token.token);
          return true;
        });
      }
      for (const auto& [number, text] : run(engine))
        texts[number].insert(texts[number].end(), text.begin(), text.end());
      for (const auto& [number, request] : requests) {
        CAPTURE(number);
        CHECK(texts[number] == expected(request, 256));
      }
      CHECK(decoder.most_rows <= max_rows);
      CHECK(engine.counts().reused > 1000);
      CHECK(engine.counts().rows == decoder.rows);
    }
  }
}

TEST_CASE("what requests begin with in common is computed once") {
  std::mt19937 random(2);
  const Tokens prompt = random_tokens(random, 100);
  TokenDecoder decoder(64, 256);
  Engine engine(decoder, 8);
  std::map<int64_t, Request> requests;
  for (int i = 0; i < 8; ++i) {
    const Request request = request_of(prompt, 10, i);
    requests[engine.add(request)] = request;
  }
  const auto texts = run(engine);
  for (const auto& [number, request] : requests) CHECK(texts.at(number) == expected(request, 256));
  // The others need only the last token, whose logits are theirs to draw from.
  CHECK(engine.counts().prompt == 100 + 7);
  CHECK(engine.counts().reused == 7 * 99);
  CHECK(decoder.copies == 7);  // of the page that the prompt ends in

  // A later turn finds the text of an earlier one, the tokens that were made included.
  Tokens turn = prompt;
  turn.insert(turn.end(), texts.at(0).begin(), texts.at(0).end());
  turn.push_back(3);
  const int before = decoder.rows;
  const Request request = request_of(turn, 1);
  const int64_t number = engine.add(request);
  CHECK(run(engine).at(number) == expected(request, 256));
  CHECK(decoder.rows - before <= 2);  // the last token made had not been computed, and the new one
}

TEST_CASE("a full window moves by `slide` tokens, also where requests share one") {
  std::mt19937 random(3);
  for (const int slide : {1, 5, 40}) {
    CAPTURE(slide);
    TokenDecoder decoder(6, 100, 40);
    Engine engine(decoder, 4);
    std::map<int64_t, Request> requests;
    const Tokens prompt = random_tokens(random, 30);
    for (int i = 0; i < 5; ++i) {
      Request request = request_of(prompt, 100, i % 2);
      request.slide = slide;
      if (i == 3) request.prompt = random_tokens(random, 90);  // longer than the context
      if (i == 4) request.context = 40;
      requests[engine.add(request)] = request;
    }
    const auto texts = run(engine);
    for (const auto& [number, request] : requests) CHECK(texts.at(number) == expected(request, 40));
    CHECK(engine.counts().moved > 0);
  }
}

TEST_CASE("a request ends with its last token, at an end token, when it is told to, or when it is cancelled") {
  std::mt19937 random(4);
  TokenDecoder decoder(4, 16);
  Engine engine(decoder, 2);
  Request request = request_of(random_tokens(random, 5), 9);
  const Tokens all = expected(request, 256);
  std::map<int64_t, Ended> ended;
  std::map<int64_t, Tokens> texts;
  const auto run_until = [&](int64_t number, size_t stop) {
    while (engine.busy()) {
      engine.step([&](const NewToken& token) {
        CHECK(token.request == number);
        if (token.token >= 0) texts[number].push_back(token.token);
        if (token.ended != Ended::not_yet) ended[number] = token.ended;
        return texts[number].size() < stop;
      });
    }
  };
  const int64_t whole = engine.add(request);
  run_until(whole, 100);
  CHECK(ended.at(whole) == Ended::length);
  CHECK(texts.at(whole) == all);
  request.end_tokens = {49, all[4]};
  const int64_t at_end = engine.add(request);
  run_until(at_end, 100);
  CHECK(ended.at(at_end) == Ended::end_token);
  CHECK(texts.at(at_end) == Tokens(all.begin(), std::find(all.begin(), all.end(), all[4])));
  request.end_tokens = {};
  const int64_t told = engine.add(request);
  run_until(told, 3);
  CHECK(texts.at(told) == Tokens(all.begin(), all.begin() + 3));

  const int64_t cancelled = engine.add(request), waiting = engine.add(request), third = engine.add(request);
  engine.step([](const NewToken&) { return true; });
  engine.cancel(cancelled);
  engine.cancel(waiting);
  engine.cancel(99);  // ended long ago, or never was
  std::set<int64_t> seen;
  while (engine.busy()) {
    engine.step([&](const NewToken& token) {
      seen.insert(token.request);
      return true;
    });
  }
  CHECK(seen == std::set<int64_t>{third});
  CHECK(std::string(name_of(Ended::end_token)) == "end_token");
  engine.step([](const NewToken&) { return true; });  // nothing to do
}

TEST_CASE("log-probabilities come with the tokens, if they are wanted") {
  TokenDecoder decoder(4, 16);
  Engine engine(decoder, 2);
  Request request = request_of({1, 2, 3}, 4);
  request.sampler.temperature = 0;
  request.top = 3;
  Tokens text = request.prompt;
  engine.add(request);
  while (engine.busy()) {
    engine.step([&](const NewToken& token) {
      const LogProbabilities own = log_probabilities(logits_of(text), token.token, 3);
      CHECK(token.probabilities.chosen == own.chosen);
      REQUIRE(token.probabilities.top.size() == 3);
      CHECK(token.probabilities.top[0].id == token.token);  // greedy
      text.push_back(token.token);
      return true;
    });
  }
}

TEST_CASE("bad requests are refused when they are made") {
  TokenDecoder decoder(2, 16);
  Engine engine(decoder, 2);
  const auto refused = [&](const Request& request, const char* why) {
    CHECK_THROWS_WITH_AS(engine.add(request), doctest::Contains(why), Error);
  };
  refused(request_of({}, 5), "the prompt is empty");
  refused(request_of({1, kVocabulary}, 5), "token 50 of the prompt is outside the vocabulary of 50");
  refused(request_of({-1}, 5), "token -1");
  refused(request_of({1}, 0), "0 tokens are asked for");
  refused(request_of(Tokens(60, 1), 5), "takes 96 tokens of cache; there are 64");
  refused(request_of({1}, 1 << 30), "takes 256 tokens of cache");
  Request request = request_of({1}, 5);
  request.slide = 0;
  refused(request, "cannot move by 0");
  request.slide = 257;
  refused(request, "expected 1 to 256");
  request.slide = 1, request.context = -1;
  refused(request, "a context of -1 tokens");
  request.context = 0, request.top = -1;
  refused(request, "log-probabilities of -1 tokens");
  request.top = 0, request.sampler.temperature = std::nan("");
  CHECK_THROWS_AS(engine.add(request), std::exception);
  CHECK(!engine.busy());
  CHECK_THROWS_AS(Engine(decoder, 0), Error);
}
