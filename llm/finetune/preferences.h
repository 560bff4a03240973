// Preference data and DPO: direct preference optimization (Rafailov et al. 2023, "Your language model is secretly a
// reward model").
//
// For a prompt with a chosen answer c and a rejected one r, with pi(x) the policy's log-probability of answer x, ref(x)
// that of a frozen reference, and h = (pi(c) - pi(r)) - (ref(c) - ref(r)):
//   loss    -log sigmoid(beta h)             log 2 = 0.6931 at the start, where policy and reference are the same
//   reward  beta (pi(x) - ref(x)),           margin  reward(c) - reward(r) = beta h
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "llm/finetune/instructions.h"
#include "llm/text/chat_template.h"

struct Preference {
  Instruction row;  // its output is not used
  std::string chosen, rejected;
};

struct Preferences {
  std::vector<Preference> rows;
  int64_t equal = 0;  // rows whose two answers are the same: nothing to prefer, left out
};

// A JSON array, or .jsonl: {"instruction", "input", "chosen", "rejected"}; "input" may be left out, "output" is
// skipped. Throws Error naming the row for a key that is missing or not a string, and for an empty instruction or
// answer.
Preferences read_preferences(const std::filesystem::path& path);

struct PreferencePair {
  PromptedExample chosen, rejected;
};
std::vector<PreferencePair> encode(const std::vector<Preference>& rows, const ChatTemplate& chat,
                                   const Tokenizer& tokenizer);
// As for instructions with masked prompts, whose tokens are not targets: a pair is cut if one of its two is, and
// dropped if one has no token of its answer left, or if the two have become equal.
Truncation truncate(std::vector<PreferencePair>& pairs, size_t length);

// The pairs that `rows` names: the chosen ones, then the rejected ones (2B, T); targets of the prompts and of the
// padding are -1.
Batch preference_batch(const std::vector<PreferencePair>& pairs, const std::vector<size_t>& rows, int32_t pad);

// What a batch of B pairs is scored by: a log-probability for each of its 2B rows.
enum class LogProb {
  mean,  // over the answer's tokens, as in the book: long answers weigh as much as short ones
  sum,   // as in the paper
};
// losses (2B, T): those of batch.targets, as Model::read_losses gives them.
std::vector<double> sequence_log_probs(const Batch& batch, const std::vector<float>& losses, LogProb kind);

struct DpoResult {
  double loss = 0;  // mean over the pairs, as all of these
  double chosen_reward = 0, rejected_reward = 0;
  double margin = 0;
  double accuracy = 0;       // share of pairs with a margin above 0; one that is 0 counts half
  std::vector<double> pull;  // (B)  sigmoid(-beta h): how far each pair is from being settled
};
// policy, reference (2B) of the same batch.
DpoResult dpo(const std::vector<double>& policy, const std::vector<double>& reference, double beta);

// Sets batch.weights so that Model::backward(targets, weights) gives the gradient of sum_i loss_i / pairs.
//
// With h_i = (pi(c_i) - pi(r_i)) - const, d(-log sigmoid(beta h))/dh = -beta sigmoid(-beta h) = -beta pull. A
// sequence's log-probability is s sum_t log p(target_t), s = 1 / n for the mean over n tokens, 1 for the sum; and -log
// p(target_t) is what the classifier calls the loss of row t. So
//   d(loss / pairs) / d(row loss) = + beta pull_i s / pairs   in the chosen rows,
//                                   - beta pull_i s / pairs   in the rejected ones,
// and backward's gradient of sum_t w_t (row loss)_t with these w is that of the loss. `pairs`: in the whole step, of
// which the batch may be a part.
void set_dpo_weights(Batch& batch, const DpoResult& result, double beta, LogProb kind, int64_t pairs);

// The log-probabilities (2B) that a model gives a batch: a forward pass, after which backward may follow.
std::vector<double> log_probs(Model& model, const ForwardInput& input, const Batch& batch, LogProb kind);
