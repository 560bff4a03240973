// Evaluates a model on text that it did not train on: the loss of every token, and which of several answers it finds
// likeliest. Needs a language model: logits for the vocabulary and causal attention.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "llm/inference/tasks.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// Called after each batch with the number done and the total (tokens, or examples).
using EachBatch = std::function<void(int64_t done, int64_t total)>;

// ---- text ----

struct Tokens {  // of shards, or of a text in memory
  int64_t size = 0;
  std::function<void(int64_t from, int64_t count, int32_t* to)> copy;
};

struct TextScore {
  double nats = 0;                           // sum over the tokens scored
  int64_t tokens = 0, bytes = 0, words = 0;  // scored; bytes and words (split at white space) only with a tokenizer
  int64_t windows = 0;
};

// The loss of every token but the first, B windows at a time, in one of two ways.
//   stride 0  windows of T tokens side by side, each with the next token as its last target, as in llm.c and nanoGPT
//   stride N  windows of T tokens that begin every N; each scores the targets that the previous one did not reach:
//             every token is scored once, those after the first window with T - N to T - 1 tokens before them. As in
//             Hugging Face's guide to perplexity, N = T leaves out the first token of every window.
// Throws Error for fewer than two tokens, UsageError unless 1 <= T <= max_seq_len and 0 <= stride <= T.
TextScore score_text(Model& model, const Tokens& tokens, const Tokenizer* tokenizer, int T, int64_t stride, int B,
                     const EachBatch& each);

// ---- answers ----

// `ids` from `first` on are scored, given those before.
struct Continuation {
  std::vector<int32_t> ids;
  size_t first = 1;
};

struct ContinuationScore {
  double nats = 0;  // over all its tokens
  int64_t tokens = 0;
  bool greedy = false;  // each token is the likeliest one
};

// Scores one batch, in the order given. Each has a token before `first`, and at most max_seq_len + 1 tokens. `greedy`:
// whether to compute that field, which costs logits.
std::vector<ContinuationScore> score_continuations(Model& model, std::span<const Continuation> batch, bool greedy);

struct ChoiceScore {
  int64_t questions = 0;
  int64_t right = 0;       // the right choice has the largest probability
  int64_t right_mean = 0;  // the right choice has the largest mean log-probability per token; ties go to the first
  int64_t shortened = 0;   // questions whose context was cut at its left to fit
};

// All choices of a question go in one batch, and several questions together if they have at most B sequences. A context
// without tokens begins with <|endoftext|>. Throws Error naming the line of a choice that does not fit the model's
// context by itself, or of a text that the tokenizer cannot encode.
ChoiceScore score_choices(Model& model, const Tokenizer& tokenizer, std::span<const Question> questions, int B,
                          const EachBatch& each);

struct LastWordScore {
  int64_t passages = 0;
  int64_t right = 0;  // greedy decoding would write the word
  double nats = 0;    // over the last words
  int64_t shortened = 0;
};
LastWordScore score_last_words(Model& model, const Tokenizer& tokenizer, std::span<const Passage> passages, int B,
                               const EachBatch& each);

// Standard error of a share of n independent trials; 0 for fewer than two.
double standard_error(int64_t right, int64_t n);
