#include "llm/finetune/preferences.h"

#include <cmath>
#include <stdexcept>

#include "llm/support/error.h"
#include "llm/support/json_rows.h"

Preferences read_preferences(const std::filesystem::path& path) {
  Preferences result;
  for_each_json_row(path, [&](const JsonRow& row) {
    Preference preference{{string_in(row, "instruction", false), string_in(row, "input", true), "", row.where},
                          string_in(row, "chosen", false),
                          string_in(row, "rejected", false)};
    if (preference.row.instruction.empty()) fail("%s: \"instruction\" is empty", row.where.c_str());
    if (preference.chosen.empty()) fail("%s: \"chosen\" is empty", row.where.c_str());
    if (preference.rejected.empty()) fail("%s: \"rejected\" is empty", row.where.c_str());
    if (preference.chosen == preference.rejected) {
      ++result.equal;
    } else {
      result.rows.push_back(std::move(preference));
    }
  });
  if (result.rows.empty()) {
    fail("%s: in each of its %lld rows \"chosen\" equals \"rejected\": there is nothing to prefer", path.c_str(),
         static_cast<long long>(result.equal));
  }
  return result;
}

std::vector<PreferencePair> encode(const std::vector<Preference>& rows, const ChatTemplate& chat,
                                   const Tokenizer& tokenizer) {
  std::vector<PreferencePair> pairs;
  for (const Preference& p : rows) {
    std::vector<TextRange> own;
    const std::string question = chat.question(p.row.instruction, p.row.input, &own);
    pairs.push_back({prompted_example(question, p.chosen, tokenizer, p.row.where, own),
                     prompted_example(question, p.rejected, tokenizer, p.row.where, own)});
  }
  return pairs;
}

Truncation truncate(std::vector<PreferencePair>& pairs, size_t length) {
  Truncation result;
  for (PreferencePair& pair : pairs) {
    bool cut = false;
    for (PromptedExample* example : {&pair.chosen, &pair.rejected}) {
      if (example->ids.size() <= length + 1) continue;
      example->ids.resize(length + 1);
      cut = true;
    }
    result.cut += cut;
  }
  result.dropped = static_cast<int64_t>(std::erase_if(pairs, [](const PreferencePair& pair) {
    return pair.chosen.ids.size() <= pair.chosen.prompt || pair.rejected.ids.size() <= pair.rejected.prompt ||
           pair.chosen.ids == pair.rejected.ids;
  }));
  return result;
}

Batch preference_batch(const std::vector<PreferencePair>& pairs, const std::vector<size_t>& rows, int32_t pad) {
  std::vector<PromptedExample> examples;
  std::vector<size_t> all;
  for (const size_t row : rows) examples.push_back(pairs.at(row).chosen);
  for (const size_t row : rows) examples.push_back(pairs.at(row).rejected);
  for (size_t k = 0; k < examples.size(); ++k) all.push_back(k);
  return prompted_batch(examples, all, pad, true, 0);
}

namespace {

// How many targets of row b are not -1.
int64_t answer_length(const Batch& batch, size_t b) {
  const size_t T = static_cast<size_t>(batch.T);
  int64_t n = 0;
  for (size_t t = b * T; t < (b + 1) * T; ++t) n += batch.targets[t] >= 0;
  return n;
}

}  // namespace

std::vector<double> sequence_log_probs(const Batch& batch, const std::vector<float>& losses, LogProb kind) {
  if (losses.size() != batch.targets.size()) throw std::logic_error("sequence_log_probs() of another batch's losses");
  const size_t T = static_cast<size_t>(batch.T);
  std::vector<double> result(static_cast<size_t>(batch.B));
  for (size_t b = 0; b < result.size(); ++b) {
    for (size_t t = b * T; t < (b + 1) * T; ++t) {
      if (batch.targets[t] >= 0) result[b] -= static_cast<double>(losses[t]);
    }
    if (kind == LogProb::mean) result[b] /= static_cast<double>(answer_length(batch, b));
  }
  return result;
}

DpoResult dpo(const std::vector<double>& policy, const std::vector<double>& reference, double beta) {
  if (policy.size() != reference.size() || policy.empty() || policy.size() % 2 != 0) {
    throw std::logic_error("dpo() of log-probabilities that are not those of pairs");
  }
  const size_t B = policy.size() / 2;
  DpoResult result;
  for (size_t i = 0; i < B; ++i) {
    const double chosen = beta * (policy[i] - reference[i]), rejected = beta * (policy[B + i] - reference[B + i]);
    const double margin = chosen - rejected;
    // log(1 + exp(-margin)), whose exp cannot overflow
    result.loss += std::max(-margin, 0.0) + std::log1p(std::exp(-std::abs(margin)));
    result.chosen_reward += chosen;
    result.rejected_reward += rejected;
    result.margin += margin;
    result.accuracy += margin > 0 ? 1 : margin == 0 ? 0.5 : 0;
    result.pull.push_back(1 / (1 + std::exp(margin)));
  }
  for (double* mean :
       {&result.loss, &result.chosen_reward, &result.rejected_reward, &result.margin, &result.accuracy}) {
    *mean /= static_cast<double>(B);
  }
  return result;
}

void set_dpo_weights(Batch& batch, const DpoResult& result, double beta, LogProb kind, int64_t pairs) {
  const size_t T = static_cast<size_t>(batch.T), B = result.pull.size();
  if (static_cast<size_t>(batch.B) != 2 * B) throw std::logic_error("set_dpo_weights() of another batch's result");
  for (size_t b = 0; b < 2 * B; ++b) {
    const double scale = kind == LogProb::mean ? 1 / static_cast<double>(answer_length(batch, b)) : 1;
    const double weight = (b < B ? 1 : -1) * beta * result.pull[b % B] * scale / static_cast<double>(pairs);
    for (size_t t = b * T; t < (b + 1) * T; ++t) {
      batch.weights[t] = batch.targets[t] >= 0 ? static_cast<float>(weight) : 0.0f;
    }
  }
}

std::vector<double> log_probs(Model& model, const ForwardInput& input, const Batch& batch, LogProb kind) {
  std::vector<float> losses(batch.targets.size());
  model.forward(input);
  model.loss(batch.targets.data());
  model.read_losses(losses.data());
  return sequence_log_probs(batch, losses, kind);
}
