#include "llm/inference/evaluation.h"

#include <algorithm>
#include <cmath>

#include "llm/support/error.h"
#include "llm/support/json.h"

// ---- text ----------------------------------------------------------------------------------------------------------

namespace {

// Counts bytes and words of tokens passed in order.
class TextCounter {
 public:
  explicit TextCounter(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  void pass(int32_t id, TextScore* count) {  // count null: seen, not counted
    if (!tokenizer_) return;
    const std::string_view text = id < tokenizer_->vocab_size() ? tokenizer_->bytes_of(id) : std::string_view();
    if (text.empty()) in_word_ = false;  // a special token
    for (const char c : text) {
      const bool space = c == ' ' || (c >= '\t' && c <= '\r');
      if (!space && !in_word_ && count) ++count->words;
      in_word_ = !space;
    }
    if (count) count->bytes += static_cast<int64_t>(text.size());
  }

 private:
  const Tokenizer* tokenizer_;
  bool in_word_ = false;
};

}  // namespace

TextScore score_text(Model& model, const Tokens& tokens, const Tokenizer* tokenizer, int T, int64_t stride, int B,
                     const EachBatch& each) {
  if (T < 1 || T > model.config.max_seq_len) {
    fail_usage("{seq-len} is %d, expected 1 to the model's context of %d", T, model.config.max_seq_len);
  }
  if (stride < 0 || stride > T) {
    fail_usage("{stride} is %lld, expected 0 to the window's %d tokens", static_cast<long long>(stride), T);
  }
  const int64_t n = tokens.size;
  if (n < 2) fail("%lld tokens, expected two or more: the first has nothing before it", static_cast<long long>(n));

  // Window w: inputs from w * step on, targets one later; those before `reach` have been scored.
  const int64_t step = stride > 0 ? stride : T, span = stride > 0 ? T - 1 : T;  // targets in a window
  if (span == 0) fail_usage("{stride} with a window of one token scores nothing: raise {seq-len}");
  int64_t windows = 1 + (std::max<int64_t>(0, n - 1 - span) + step - 1) / step;
  if ((windows - 1) * step == n - 1) --windows;  // only a first token, which no window scores

  TextScore score;
  TextCounter counter(tokenizer);
  int64_t reach = 1;  // the first target that is not scored yet
  std::vector<int32_t> ids(static_cast<size_t>(span) + 1), inputs, targets;
  tokens.copy(0, 1, ids.data());
  counter.pass(ids[0], nullptr);
  for (int64_t first = 0; first < windows; first += B) {
    const int64_t rows = std::min<int64_t>(B, windows - first);
    inputs.assign(static_cast<size_t>(rows * span), 0);  // past the text's end: unseen, as attention only looks back
    targets.assign(inputs.size(), -1);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t begin = (first + r) * step, count = std::min(span, n - 1 - begin);
      tokens.copy(begin, count + 1, ids.data());
      if (begin >= reach) counter.pass(ids[0], nullptr);
      for (int64_t t = 0; t < count; ++t) {
        const int64_t position = begin + t + 1;
        const int32_t target = ids[static_cast<size_t>(t) + 1];
        inputs[static_cast<size_t>(r * span + t)] = ids[static_cast<size_t>(t)];
        if (position < reach) continue;
        targets[static_cast<size_t>(r * span + t)] = target;
        counter.pass(target, &score);
        ++score.tokens;
      }
      reach = std::max(reach, begin + count + 1);
    }
    double sum = 0;
    model.forward(inputs.data(), static_cast<int>(rows), static_cast<int>(span), Pass::evaluate);
    model.loss(targets.data(), &sum);
    if (!std::isfinite(sum)) fail("the loss is not finite: the model's weights are damaged");
    score.nats += sum;
    score.windows += rows;
    each(std::min(reach - 1, n - 1), n - 1);
  }
  return score;
}

// ---- answers -------------------------------------------------------------------------------------------------------

std::vector<ContinuationScore> score_continuations(Model& model, std::span<const Continuation> batch, bool greedy) {
  size_t T = 1;
  for (const Continuation& c : batch) T = std::max(T, c.ids.size() - 1);
  std::vector<int32_t> inputs(batch.size() * T, 0), targets(inputs.size(), -1);
  for (size_t b = 0; b < batch.size(); ++b) {
    const Continuation& c = batch[b];
    std::copy(c.ids.begin(), c.ids.end() - 1, inputs.begin() + static_cast<ptrdiff_t>(b * T));
    for (size_t i = c.first; i < c.ids.size(); ++i) targets[b * T + i - 1] = c.ids[i];
  }
  model.forward(inputs.data(), static_cast<int>(batch.size()), static_cast<int>(T), Pass::evaluate);
  model.loss(targets.data());
  std::vector<float> losses(inputs.size()), logits(static_cast<size_t>(model.config.vocab_size));
  model.read_losses(losses.data());

  std::vector<ContinuationScore> scores(batch.size());
  for (size_t b = 0; b < batch.size(); ++b) {
    ContinuationScore& score = scores[b];
    score.greedy = greedy;
    for (size_t i = batch[b].first; i < batch[b].ids.size(); ++i) {
      const size_t row = b * T + i - 1;
      score.nats += losses[row];
      ++score.tokens;
      // A token with more than half of the probability is the likeliest; for others the logits decide.
      if (!score.greedy || losses[row] < 0.69f) continue;
      model.read_logits(static_cast<int64_t>(row), logits.data());
      score.greedy = std::max_element(logits.begin(), logits.end()) - logits.begin() == targets[row];
    }
    if (!std::isfinite(score.nats)) fail("the loss is not finite: the model's weights are damaged");
  }
  return scores;
}

namespace {

// The ids of context and continuation, each encoded by itself, as llm.c and nanoGPT do; the context is cut at its left
// if both do not fit.
Continuation encode(const Model& model, const Tokenizer& tokenizer, const std::string& context,
                    const std::string& continuation, const std::string& where, bool* shortened) {
  Continuation c;
  std::vector<int32_t> end;
  try {
    c.ids = tokenizer.encode(context);
    end = tokenizer.encode(continuation);
  } catch (const Error& error) {
    fail("%s: %s", where.c_str(), error.what());
  }
  if (c.ids.empty() && tokenizer.end_of_text() < 0) {
    fail("%s: the context is empty, and the vocabulary has no %s to begin with", where.c_str(), kEndOfText.data());
  }
  if (c.ids.empty()) c.ids = {tokenizer.end_of_text()};
  const size_t room = static_cast<size_t>(model.config.max_seq_len) + 1;
  if (end.size() >= room) {
    fail("%s: %s has %zu tokens, expected at most the model's context of %d", where.c_str(),
         in_quotes(continuation).c_str(), end.size(), model.config.max_seq_len);
  }
  if (c.ids.size() + end.size() > room) {
    c.ids.erase(c.ids.begin(), c.ids.end() - static_cast<ptrdiff_t>(room - end.size()));
    *shortened = true;
  }
  c.first = c.ids.size();
  c.ids.insert(c.ids.end(), end.begin(), end.end());
  return c;
}

}  // namespace

ChoiceScore score_choices(Model& model, const Tokenizer& tokenizer, std::span<const Question> questions, int B,
                          const EachBatch& each) {
  ChoiceScore total;
  for (size_t next = 0; next < questions.size();) {
    std::vector<Continuation> batch;
    const size_t first = next;
    do {
      const Question& q = questions[next];
      bool shortened = false;
      for (const std::string& choice : q.choices) {
        batch.push_back(encode(model, tokenizer, q.context, choice, q.where, &shortened));
      }
      total.shortened += shortened;
      ++next;
    } while (next < questions.size() && batch.size() + questions[next].choices.size() <= static_cast<size_t>(B));

    const std::vector<ContinuationScore> scores = score_continuations(model, batch, false);
    auto score = scores.begin();
    for (size_t k = first; k < next; ++k) {
      const auto end = score + static_cast<ptrdiff_t>(questions[k].choices.size());
      const auto mean = [](const ContinuationScore& s) { return s.nats / static_cast<double>(s.tokens); };
      const auto sum_best = std::min_element(score, end, [](const auto& a, const auto& b) { return a.nats < b.nats; });
      const auto mean_best =
          std::min_element(score, end, [&](const auto& a, const auto& b) { return mean(a) < mean(b); });
      total.right += sum_best - score == questions[k].answer;
      total.right_mean += mean_best - score == questions[k].answer;
      score = end;
    }
    total.questions = static_cast<int64_t>(next);
    each(total.questions, static_cast<int64_t>(questions.size()));
  }
  return total;
}

LastWordScore score_last_words(Model& model, const Tokenizer& tokenizer, std::span<const Passage> passages, int B,
                               const EachBatch& each) {
  LastWordScore total;
  for (size_t next = 0; next < passages.size();) {
    std::vector<Continuation> batch;
    for (; next < passages.size() && batch.size() < static_cast<size_t>(B); ++next) {
      const Passage& p = passages[next];
      bool shortened = false;
      batch.push_back(encode(model, tokenizer, p.context, p.last_word, p.where, &shortened));
      total.shortened += shortened;
    }
    for (const ContinuationScore& score : score_continuations(model, batch, true)) {
      total.right += score.greedy;
      total.nats += score.nats;
    }
    total.passages = static_cast<int64_t>(next);
    each(total.passages, static_cast<int64_t>(passages.size()));
  }
  return total;
}

double standard_error(int64_t right, int64_t n) {
  if (n < 2) return 0;
  const double p = static_cast<double>(right) / static_cast<double>(n);
  return std::sqrt(p * (1 - p) / static_cast<double>(n - 1));
}
