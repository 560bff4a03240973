// From logits to the next token, in the order of transformers' GenerationMixin (5.x, _get_logits_processor):
//
//   1. repetition_penalty: of each token of the prompt or the text so far, a positive logit is divided by it, any other
//      multiplied (Keskar et al. 2019, section 4.1; transformers' RepetitionPenaltyLogitsProcessor)
//   2. frequency_penalty * count + presence_penalty is subtracted from the logit of each generated token; `count` is
//   how
//      often it was generated, the prompt left out (OpenAI's API reference, which vLLM follows)
//   3. temperature: logits are divided by it.  0: greedy, the largest logit (the first of equals), and nothing below
//   4. top_k: the k largest logits; those that equal the k-th stay too
//   5. top_p: of what is left, renormalised, the fewest most likely tokens whose probabilities reach p, at least one
//      (Holtzman et al. 2020); of equally likely tokens, those with smaller ids first
//   6. min_p: of what is left, the tokens with at least min_p times the probability of the most likely (Nguyen et al.
//      2024)
//   7. one token is drawn, each with its probability among those left
//
// transformers has no frequency and presence penalties, and leaves ties of top_p to its sort. Penalties are
// computed in double and rounded once to float.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

struct SamplerConfig {
  double temperature = 1.0;         // 0 or more
  int top_k = 0;                    // 0: all
  double top_p = 1.0;               // 0 to 1; 1: all
  double min_p = 0.0;               // 0 to 1; 0: all
  double repetition_penalty = 1.0;  // above 0; 1: none, more: fewer repetitions
  double frequency_penalty = 0.0;   // -2 to 2
  double presence_penalty = 0.0;    // -2 to 2
};

// Throws UsageError for a value that is NaN or out of these ranges, naming it as {temperature}, {top-k}, ...
void validate(const SamplerConfig& config);

// ---- one sequence --------------------------------------------------------------------------------------------------

// Draws a sequence's tokens and remembers them for the penalties. Token number i depends on the logits, the settings,
// what came before and number i of Philox's sequence for the seed; not on the instruction set: the fast path decides
// only where its error bound proves that sample() draws the same token, and leaves the rest to it. In the long run
// next() allocates nothing; its scratch memory, at most 56 bytes per token of the vocabulary, belongs to the thread.
class Sampler {
 public:
  // Throws UsageError as validate() does, and Error for a token of the prompt that is not in [0, vocab_size).
  Sampler(const SamplerConfig& config, uint64_t seed, std::span<const int32_t> prompt, int vocab_size);

  // logits (vocab_size). A logit of -inf is never drawn. Throws Error if one is NaN or +inf, or all are -inf.
  int next(std::span<const float> logits);

  // The distribution from which next() would draw now, (vocab_size): 0 for tokens that the settings exclude. Plain and
  // slow. Throws as next() does.
  std::vector<double> probabilities(std::span<const float> logits) const;

  uint64_t drawn() const { return drawn_; }                  // how many tokens
  uint64_t drawn_plainly() const { return drawn_plainly_; }  // and for how many the fast path could prove nothing

 private:
  struct Seen {
    int32_t id, generated;  // how often; 0: only in the prompt
  };
  void remember(int32_t id, bool generated);
  std::span<const float> penalised(std::span<const float> logits) const;

  SamplerConfig config_;
  uint64_t seed_, drawn_ = 0, drawn_plainly_ = 0;
  int vocab_size_;
  std::vector<Seen> seen_;        // each token once; empty without penalties
  std::vector<int32_t> seen_at_;  // (vocab_size): a token's place in seen_, or -1; empty without penalties
};

// ---- without memory ------------------------------------------------------------------------------------------------

// One token by steps 3 to 7, in plain code: what Sampler draws if no penalty is set. coin: uniform in [0, 1). Throws
// Error as Sampler::next() does, std::logic_error if a penalty is set.
int sample(std::span<const float> logits, const SamplerConfig& config, double coin);

struct TokenLogProbability {
  int id;
  double log_probability;
};

struct LogProbabilities {
  double chosen;                         // of the token that was drawn
  std::vector<TokenLogProbability> top;  // the most likely, in order; equals by id
};

// Natural logarithms of the model's own distribution, softmax(logits), in double: no penalty, temperature or filter
// changes them, as in OpenAI's API and vLLM (its logprobs_mode raw_logprobs, the default). `top` has `alternatives`
// tokens, or fewer if all others' logits are -inf; `chosen` of such a token is -inf. Throws Error as Sampler::next()
// does, std::logic_error for a token outside the logits or a negative number of alternatives.
LogProbabilities log_probabilities(std::span<const float> logits, int chosen, int alternatives);
