#include "llm/finetune/loop.h"

#include <algorithm>
#include <cmath>

#include "llm/finetune/setup.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"

bool stop_requested() { return StopSignal::received() != 0; }

void check_end_of_text(const Tokenizer& tokenizer, const std::string& where) {
  if (tokenizer.end_of_text() < 0) {
    fail("%s: the tokenizer has no %s, which ends answers and pads batches", where.c_str(),
         std::string(kEndOfText).c_str());
  }
}

Tokenizer load_tokenizer(const std::string& dir, const ModelConfig& shape) {
  const Tokenizer tokenizer = load_tokenizer(dir);
  check_tokenizer(tokenizer, shape, dir);
  check_end_of_text(tokenizer, dir);
  return tokenizer;
}

int64_t settle_steps(FinetuneConfig& c, size_t examples) {
  const int64_t per_epoch = static_cast<int64_t>(examples) / c.batch_size;
  if (per_epoch == 0) {
    fail("the training set has %zu examples, fewer than one batch of {batch-size} %d", examples, c.batch_size);
  }
  if (c.steps == 0) {
    c.steps = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(c.epochs * static_cast<double>(per_epoch) - 1e-9)));
  }
  c.epochs = static_cast<double>(c.steps) / static_cast<double>(per_epoch);
  c.warmup_steps = std::min(c.warmup_steps, c.steps);
  if (c.eval_every == 0) c.eval_every = per_epoch;
  return per_epoch;
}

int micro_batch_size(const FinetuneConfig& c) { return c.micro_batch > 0 ? c.micro_batch : c.batch_size; }

std::vector<std::vector<size_t>> micro_batches(const std::vector<size_t>& batch, const FinetuneConfig& c) {
  const size_t n = static_cast<size_t>(micro_batch_size(c));
  std::vector<std::vector<size_t>> parts;
  for (size_t at = 0; at < batch.size(); at += n) {
    parts.emplace_back(batch.begin() + static_cast<ptrdiff_t>(at), batch.begin() + static_cast<ptrdiff_t>(at + n));
  }
  return parts;
}

uint64_t dropout_sequence(int64_t step) { return static_cast<uint64_t>(step) << 20; }

void check_loss(double loss, int64_t step, const char* set) {
  if (std::isfinite(loss)) return;
  fail("step %lld: the %s loss is not finite: %s", static_cast<long long>(step), set,
       step == 0 ? "the model to start from is damaged"
                 : "the weights are broken; start again with a lower {lr}, more {warmup-steps} or a {grad-clip}");
}

void print_truncation(const Truncation& t, size_t length, const char* what) {
  if (t.cut > 0) {
    say(strprintf(
        "length: %lld %s are longer than %zu tokens and lost their ends%s", static_cast<long long>(t.cut), what, length,
        t.dropped > 0
            ? strprintf("; %lld of them had nothing left to learn and are left out", static_cast<long long>(t.dropped))
                  .c_str()
            : ""));
  }
}

FinetuneRun::FinetuneRun(const FinetuneConfig& config, Task task, const Device& device, const Model& model,
                         int64_t per_epoch, const std::filesystem::path& run)
    : config_(config),
      model_(model),
      per_epoch_(per_epoch),
      run_(run),
      schedule_{config.schedule, config.lr, config.min_lr, config.warmup_steps, config.steps},
      lock_(claim_finetune_folder(run, say)),
      log_(run, 0, lock_.get()),
      report_(log_, 0, config.steps) {
  StopSignal::defer();
  const long long parameters = num_parameters(model.table), trainable = num_trainable(model.table);
  say(strprintf("model: %lld parameters, %lld of them train (%s)", parameters, trainable, config.train.c_str()));
  say(strprintf("training: %lld steps of %d, %lld per epoch, %s", static_cast<long long>(config.steps),
                config.batch_size, static_cast<long long>(per_epoch), device.name.c_str()));
  say("run: " + run.string());
  log_.write({{"step", 0},
              {"config", to_json(config, task)},
              {"device", device.name},
              {"parameters", parameters},
              {"trainable", trainable}});
}

const std::vector<size_t>& FinetuneRun::batch(int64_t step, const std::vector<size_t>& lengths) {
  if (batches_.empty() || step % per_epoch_ == 0) {
    const Batching batching = config_.batching == "by-length" ? Batching::by_length : Batching::shuffled;
    batches_ = epoch_batches(lengths, static_cast<size_t>(config_.batch_size), batching, config_.seed,
                             static_cast<uint64_t>(step / per_epoch_));
  }
  return batches_[static_cast<size_t>(step % per_epoch_)];
}

void FinetuneRun::report_step(int64_t step, const StepResult& result, int64_t tokens, const std::string& text,
                              const nlohmann::json& metrics) {
  report_({step, learning_rate(schedule_, step - 1), static_cast<double>(tokens), text, metrics}, result);
}

void FinetuneRun::evaluate_save(int64_t step, const std::function<void()>& evaluate,
                                const std::function<void()>& save) {
  const bool due = is_last(step) || step % config_.eval_every == 0;
  if (!due || !report_.good() || stop_requested()) return;
  report_.clear();
  evaluate();
  save();
  report_.start_clock();
}

void FinetuneRun::save(const Tokenizer& tokenizer, const std::string& base,
                       const std::function<void(const std::filesystem::path&)>& add) {
  lock_->check();
  save_finetuned(model_, tokenizer, base, run_, add);
}

void FinetuneRun::finish(const std::function<void()>& save) {
  report_.finish();
  if (stop_requested()) save();
}

void FinetuneRun::print_end(int64_t step, double seconds, const std::string& next) const {
  Output::when_unread(Output::Unread::wait);
  const std::string dir = (run_ / "latest").string();
  if (stop_requested()) {
    return say(strprintf("stopped by signal %d after step %lld: the model so far is in %s", StopSignal::received(),
                         static_cast<long long>(step), dir.c_str()));
  }
  say(strprintf("done in %.0f s: the model is in %s", seconds, dir.c_str()));
  say("try next:  build/generate {model} " + dir + " " + next);
}

void print_sets(size_t train, size_t validation, size_t test) {
  say(strprintf("sets: %zu to train, %zu to validate, %zu to test", train, validation, test));
}

ChatTemplate choose_template(const FinetuneConfig& c) {
  if (!c.chat_template.empty()) return make_template(c.chat_template);
  return has_template(c.model) ? read_template(c.model) : alpaca_template();
}

size_t length_limit(const FinetuneConfig& c, int context) {
  if (c.max_length > context) fail_usage("{max-length} is %d, but the model's context is %d", c.max_length, context);
  return static_cast<size_t>(c.max_length > 0 ? c.max_length : context);
}

ModelConfig read_language_model(const std::string& dir) {
  const ModelConfig base = read_model_config(dir);
  if (base.num_classes > 0) fail("%s: the model is a classifier; it has no words to answer with", dir.c_str());
  check_weights(base, dir);
  return base;
}
