#include "llm/finetune/dpo.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "llm/finetune/examples.h"
#include "llm/finetune/loop.h"
#include "llm/finetune/preferences.h"
#include "llm/finetune/setup.h"
#include "llm/formats/open_weights.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/stop_signal.h"
#include "llm/training/optimizer.h"

namespace {

// The frozen reference's log-probabilities of any batch: from a second model, or computed once and kept.
class Reference {
 public:
  Reference(std::unique_ptr<Model> model, LogProb kind) : model_(std::move(model)), kind_(kind) {}
  // Does not keep `model`, which may be the policy before it is trained.
  void cache(Model& model, const std::vector<PreferencePair>& pairs, int32_t pad, size_t B) {
    std::vector<double>& values = cached_[&pairs];  // chosen and rejected of pair k at 2k and 2k + 1
    for (const std::vector<size_t>& rows : batches_in_order(pairs.size(), B)) {
      if (stop_requested()) return;
      const Batch batch = preference_batch(pairs, rows, pad);
      const std::vector<double> found = log_probs(model, input_of(batch, Pass::evaluate), batch, kind_);
      for (size_t k = 0; k < rows.size(); ++k) {
        values.push_back(found[k]);
        values.push_back(found[rows.size() + k]);
      }
    }
  }
  // (2B), in the order of preference_batch.
  std::vector<double> operator()(const std::vector<PreferencePair>& pairs, const std::vector<size_t>& rows,
                                 const Batch& batch) {
    if (model_) return log_probs(*model_, input_of(batch, Pass::evaluate), batch, kind_);
    std::vector<double> result(2 * rows.size());
    for (size_t k = 0; k < rows.size(); ++k) {
      result[k] = cached_.at(&pairs).at(2 * rows[k]);
      result[rows.size() + k] = cached_.at(&pairs).at(2 * rows[k] + 1);
    }
    return result;
  }

 private:
  std::unique_ptr<Model> model_;
  LogProb kind_;
  std::map<const std::vector<PreferencePair>*, std::vector<double>> cached_;
};

void add_pairs(DpoResult& sum, const DpoResult& part, double share) {
  sum.loss += share * part.loss;
  sum.chosen_reward += share * part.chosen_reward;
  sum.rejected_reward += share * part.rejected_reward;
  sum.margin += share * part.margin;
  sum.accuracy += share * part.accuracy;
}

std::string dpo_line(const DpoResult& r) {
  return strprintf(" | margin %+.4f (chosen %+.4f, rejected %+.4f) | accuracy %.2f", r.margin, r.chosen_reward,
                   r.rejected_reward, r.accuracy);
}

nlohmann::json dpo_metrics(const DpoResult& r, const std::string& prefix) {
  return {{prefix + "margin", r.margin},
          {prefix + "chosen_reward", r.chosen_reward},
          {prefix + "rejected_reward", r.rejected_reward},
          {prefix + "accuracy", r.accuracy}};
}

}  // namespace

void finetune_dpo(FinetuneConfig c, const Device& device) {
  const auto started = std::chrono::steady_clock::now();
  const std::filesystem::path folder = finetune_folder(c, std::filesystem::path(c.data).stem().string());
  const LogProb kind = c.log_prob == "mean" ? LogProb::mean : LogProb::sum;

  // 1. the data
  const ModelConfig shape = read_language_model(c.model);
  const std::string reference_dir = c.reference_model.empty() ? c.model : c.reference_model;
  const ModelConfig reference_shape = read_language_model(reference_dir);
  const Tokenizer tokenizer = load_tokenizer(c.model, shape);
  if (load_tokenizer(reference_dir, reference_shape).checksum() != tokenizer.checksum()) {
    fail("%s: the reference's tokenizer is not that of %s: their log-probabilities are of other tokens",
         reference_dir.c_str(), c.model.c_str());
  }
  const ChatTemplate chat = choose_template(c);
  const PromptedRows<Preference> rows = split_rows<Preference>(c, [](const std::string& path) {
    Preferences read = read_preferences(path);
    if (read.equal > 0) {
      say(strprintf("data: %lld pairs of %s are left out: chosen and rejected are equal",
                    static_cast<long long>(read.equal), path.c_str()));
    }
    return std::move(read.rows);
  });
  std::vector<PreferencePair> train = encode(rows.train, chat, tokenizer);
  std::vector<PreferencePair> validation = encode(rows.validation, chat, tokenizer);
  std::vector<PreferencePair> test = encode(rows.test, chat, tokenizer);
  const size_t limit = length_limit(c, std::min(shape.max_seq_len, reference_shape.max_seq_len));
  print_truncation(truncate(train, limit), limit, "pairs to train on");
  print_truncation(truncate(validation, limit), limit, "pairs to validate on");
  print_truncation(truncate(test, limit), limit, "pairs to test on");
  std::vector<size_t> lengths;
  for (const PreferencePair& pair : train) {
    lengths.push_back(std::max(pair.chosen.ids.size(), pair.rejected.ids.size()) - 1);
  }
  const int64_t per_epoch = settle_steps(c, train.size());
  const int B = micro_batch_size(c);
  const int T = static_cast<int>(*std::max_element(lengths.begin(), lengths.end()));

  // 2. the model and its reference
  const std::unique_ptr<Model> model = device.make_model(shape, model_options(c, shape), 2 * B, T);
  init_weights(*model, c.seed);
  load_base_weights(*model, c.model, true);
  const int32_t pad = tokenizer.end_of_text();
  StopSignal::defer();
  std::unique_ptr<Model> second;
  if (!c.cache_reference || !c.reference_model.empty()) {
    second = device.make_model(reference_shape, {.trainable = trains_nothing(reference_shape)}, 2 * B, T);
    load_weights(*second, reference_dir);
  }
  Reference reference(c.cache_reference ? nullptr : std::move(second), kind);
  if (c.cache_reference) {
    for (const auto* pairs : {&train, &validation, &test}) {
      reference.cache(second ? *second : *model, *pairs, pad, static_cast<size_t>(B));
    }
    second.reset();
    say("reference: its log-probabilities are computed");
  } else {
    say("reference: " + reference_dir);
  }

  // 3. the steps
  FinetuneRun run(c, Task::dpo, device, *model, per_epoch, folder);
  const auto save = [&] { run.save(tokenizer, c.model, [&](const auto& dir) { write_template(chat, dir); }); };
  int64_t step = 0;
  const auto evaluate = [&](const char* name, const std::string& prefix, const std::vector<PreferencePair>& pairs) {
    const size_t some = run.is_last(step) ? 0 : static_cast<size_t>(c.eval_examples);
    const size_t n = some > 0 ? std::min(some, pairs.size()) : pairs.size();
    if (n == 0) return;
    DpoResult sum;
    for (const std::vector<size_t>& part : batches_in_order(n, static_cast<size_t>(B))) {
      if (stop_requested()) return;
      const Batch batch = preference_batch(pairs, part, pad);
      const std::vector<double> policy = log_probs(*model, input_of(batch, Pass::evaluate), batch, kind);
      add_pairs(sum, dpo(policy, reference(pairs, part, batch), c.beta),
                static_cast<double>(part.size()) / static_cast<double>(n));
    }
    check_loss(sum.loss, step, name);
    say(strprintf("step %lld | %s loss %.4f", static_cast<long long>(step), name, sum.loss) + dpo_line(sum));
    nlohmann::json metrics = dpo_metrics(sum, prefix);
    metrics["step"] = step;
    metrics[prefix + "loss"] = sum.loss;
    run.log().write(metrics);
  };
  evaluate("validation", "val_", validation);
  run.begin();
  while (!run.ended(step)) {
    // forward, loss and backward, micro-batch by micro-batch
    model->zero_grad();
    DpoResult sum;
    int64_t tokens = 0;
    uint64_t sequence = dropout_sequence(step);
    for (const std::vector<size_t>& part : micro_batches(run.batch(step, lengths), c)) {
      Batch batch = preference_batch(train, part, pad);
      const std::vector<double> frozen = reference(train, part, batch);
      const PassDropout dropout{static_cast<float>(c.dropout), c.seed, sequence++};
      const DpoResult result =
          dpo(log_probs(*model, input_of(batch, Pass::train, dropout), batch, kind), frozen, c.beta);
      set_dpo_weights(batch, result, c.beta, kind, c.batch_size);
      model->backward(batch.targets.data(), batch.weights.data());
      add_pairs(sum, result, static_cast<double>(part.size()) / c.batch_size);
      tokens += int64_t{batch.B} * batch.T;
    }

    // update
    model->update(optimizer_of(c, learning_rate(run.schedule(), step)), static_cast<float>(c.grad_clip));
    ++step;

    // log, evaluate, save
    StepResult result = model->result(0);
    result.loss = sum.loss;  // result(0) has the weighted sum that backward was given
    run.report_step(step, result, tokens, dpo_line(sum), dpo_metrics(sum, ""));
    run.evaluate_save(
        step,
        [&] {
          evaluate("validation", "val_", validation);
          if (run.is_last(step)) evaluate("test", "test_", test);
        },
        save);
  }
  run.finish(save);
  run.print_end(step, seconds_since(started), "{prompt} ...");
}
