// What finetune's three commands share and that is not the loop: tokenizers, how long, and saying how it
// goes.
#pragma once

#include <chrono>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "apps/device.h"
#include "llm/finetune/examples.h"
#include "llm/finetune/instructions.h"
#include "llm/flags/finetune_flags.h"
#include "llm/training/checkpoint.h"
#include "llm/training/report.h"

inline bool stopped() { return StopSignal::received() != 0; }

// ---- the tokenizer --------------------------------------------------------------------------------------------------

// Batches are padded with its end-of-text.
inline void check_end_of_text(const Tokenizer& tokenizer, const std::string& where) {
  if (tokenizer.end_of_text() < 0) {
    fail("%s: the tokenizer has no %s, which ends answers and fills batches up", where.c_str(),
         std::string(kEndOfText).c_str());
  }
}

// The tokenizer of the model to start from.
inline Tokenizer load_tokenizer(const std::string& dir, const ModelConfig& shape) {
  const Tokenizer tokenizer = Tokenizer::load(dir);
  check_tokenizer(tokenizer, shape, dir);
  check_end_of_text(tokenizer, dir);
  return tokenizer;
}

// ---- how long ------------------------------------------------------------------------------------------------------

// Settles --steps and --eval-every; returns the steps of an epoch. A last batch that is not full is left out.
inline int64_t settle_steps(FinetuneConfig& c, size_t examples) {
  const int64_t per_epoch = static_cast<int64_t>(examples) / c.batch_size;
  if (per_epoch == 0) {
    fail("the training set has %zu examples, fewer than one batch of --batch-size %d", examples, c.batch_size);
  }
  if (c.steps == 0) {
    c.steps = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(c.epochs * static_cast<double>(per_epoch) - 1e-9)));
  }
  c.epochs = static_cast<double>(c.steps) / static_cast<double>(per_epoch);
  c.warmup_steps = std::min(c.warmup_steps, c.steps);
  if (c.eval_every == 0) c.eval_every = per_epoch;
  return per_epoch;
}

// A step's batch in parts of --micro-batch examples.
inline std::vector<std::vector<size_t>> micro_batches(const std::vector<size_t>& batch, const FinetuneConfig& c) {
  const size_t n = static_cast<size_t>(c.micro_batch > 0 ? c.micro_batch : c.batch_size);
  std::vector<std::vector<size_t>> parts;
  for (size_t at = 0; at < batch.size(); at += n) {
    parts.emplace_back(batch.begin() + static_cast<ptrdiff_t>(at), batch.begin() + static_cast<ptrdiff_t>(at + n));
  }
  return parts;
}

// ---- watching ------------------------------------------------------------------------------------------------------

inline void say_truncation(const Truncation& t, size_t length, const char* what) {
  if (t.cut > 0) {
    say(strprintf(
        "length: %lld %s are longer than %zu tokens and lost their ends%s", static_cast<long long>(t.cut), what, length,
        t.dropped > 0
            ? strprintf("; %lld of them had nothing left to learn and are left out", static_cast<long long>(t.dropped))
                  .c_str()
            : ""));
  }
}

inline void say_model(const Model& model, const FinetuneConfig& c, const DeviceFlags& device, int64_t per_epoch,
                      const std::filesystem::path& run) {
  say(strprintf("model: %lld parameters, %lld of them train (%s)", static_cast<long long>(num_parameters(model.table)),
                static_cast<long long>(num_trainable(model.table)), c.train.c_str()));
  say(strprintf("training: %lld steps of %d, %lld an epoch, %s", static_cast<long long>(c.steps), c.batch_size,
                static_cast<long long>(per_epoch), device_name(device).c_str()));
  say("run: " + run.string());
}

inline nlohmann::json first_record(const FinetuneConfig& c, Task task, const DeviceFlags& device, const Model& model) {
  return {{"step", 0},
          {"config", to_json(c, task)},
          {"device", device_name(device)},
          {"parameters", num_parameters(model.table)},
          {"trainable", num_trainable(model.table)}};
}

// Ends the run if a set's loss is not finite: the last update broke the weights, and RUN/latest has those before it.
inline void check_loss(double loss, int64_t step, const char* set) {
  if (std::isfinite(loss)) return;
  fail("step %lld: the %s loss is not finite: %s", static_cast<long long>(step), set,
       step == 0 ? "the model to start from is damaged"
                 : "the weights are broken; start again with a lower --lr, more --warmup-steps or a --grad-clip");
}

// A line for each step, on the terminal and in metrics.jsonl; and the end of a run whose loss is not finite any more.
class FinetuneReport {
 public:
  FinetuneReport(const FinetuneConfig& config, MetricsLog& log)
      : config_(config), log_(log), progress_(0, config.steps) {}

  void start_clock() { clock_ = std::chrono::steady_clock::now(); }

  // `tokens`: that the step took, padding included; `line`, `more`: what else there is to say of it. Throws Error at
  // the fifth step in a row that is not finite.
  void operator()(int64_t step, const StepResult& result, double lr, int64_t tokens, const std::string& line = "",
                  const nlohmann::json& more = nlohmann::json::object()) {
    const double seconds = seconds_since(clock_), rate = static_cast<double>(tokens) / seconds;
    start_clock();
    bad_steps_ = result.updated ? 0 : bad_steps_ + 1;
    progress_.show(step, strprintf("step %lld/%lld | loss %.4f%s | norm %.3f | lr %.2e | %.0f ms | %.0f tok/s%s",
                                   static_cast<long long>(step), static_cast<long long>(config_.steps), result.loss,
                                   line.c_str(), result.grad_norm, lr, 1e3 * seconds, rate,
                                   result.updated ? "" : " | NOT FINITE: step skipped"));
    nlohmann::json metrics{{"step", step}, {"lr", lr}, {"ms", 1e3 * seconds}, {"tokens_per_second", rate}};
    metrics[result.updated ? "loss" : "skipped"] = result.updated ? nlohmann::json(result.loss) : nlohmann::json(true);
    if (result.updated) metrics["grad_norm"] = result.grad_norm;
    if (result.updated) metrics.update(more);
    log_.write(metrics);
    if (bad_steps_ == 5) fail_not_finite(step);
  }

  void clear() { progress_.clear(); }  // before anything else is printed
  bool good() const { return bad_steps_ == 0; }
  void finish(int64_t step) {
    clear();
    if (!good()) fail_not_finite(step);
  }

 private:
  void fail_not_finite(int64_t step) const {
    fail(
        "loss or gradients were not finite in %d step%s in a row, up to step %lld; start again with a lower --lr, "
        "more --warmup-steps or a --grad-clip",
        bad_steps_, bad_steps_ == 1 ? "" : "s", static_cast<long long>(step));
  }

  const FinetuneConfig& config_;
  MetricsLog& log_;
  Progress progress_;
  std::chrono::steady_clock::time_point clock_ = std::chrono::steady_clock::now();
  int bad_steps_ = 0;  // in a row
};

inline void print_finetune_end(const std::filesystem::path& run, int64_t step, double seconds,
                               const std::string& next) {
  Output::when_unread(Output::Unread::wait);
  const std::string dir = (run / "latest").string();
  if (stopped()) {
    return say(strprintf("stopped by signal %d after step %lld: the model so far is in %s", StopSignal::received(),
                         static_cast<long long>(step), dir.c_str()));
  }
  say(strprintf("done in %.0f s: the model is in %s", seconds, dir.c_str()));
  say("try next:  " + next);
}
