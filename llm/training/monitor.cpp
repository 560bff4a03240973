#include "llm/training/monitor.h"

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "llm/formats/open_weights.h"
#include "llm/models/config.h"
#include "llm/models/count.h"
#include "llm/models/init.h"
#include "llm/models/init_book.h"
#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"
#include "llm/training/average.h"
#include "llm/training/checkpoint.h"
#include "llm/training/evaluate.h"
#include "llm/training/sample.h"

bool nothing_to_do(const Run& run) {
  const int64_t steps = run.config.steps;
  if (run.step < steps) return false;
  say(strprintf("nothing to do: %s has done %lld of %lld steps; go further with {steps} %lld", run.folder.c_str(),
                static_cast<long long>(run.step), static_cast<long long>(steps), static_cast<long long>(2 * run.step)));
  return true;
}

void load_or_initialise(Model& model, const Run& run) {
  if (!run.resume_from.empty()) {
    load_checkpoint(model, run.resume_from, run.updates);
    say(strprintf("resuming %s after step %lld", run.resume_from.c_str(), static_cast<long long>(run.step)));
  } else if (!run.weights_from.empty()) {
    load_weights(model, run.weights_from);
  } else if (run.config.init == "book") {
    init_weights_book(model, run.config.seed);
  } else {
    init_weights(model, run.config.seed);
  }
}

Schedule schedule_of(const TrainConfig& c) { return {c.schedule, c.lr, c.min_lr, c.warmup_steps, c.steps, c.start_lr}; }

void print_start(const Run& run, const std::string& device) {
  const TrainConfig& c = run.config;
  say(strprintf("model: %lld parameters (%d layers, %d heads, %d channels, context %d, vocabulary %d)",
                static_cast<long long>(num_parameters(param_table(run.shape))), run.shape.num_layers,
                run.shape.num_heads, run.shape.channels, run.shape.max_seq_len, run.shape.vocab_size));
  const std::string processes = c.ranks == 1 ? ""
                                             : strprintf("%d processes%s, each ", c.ranks,
                                                         c.zero > 0 ? strprintf(", ZeRO %d", c.zero).c_str() : "");
  say(strprintf("training: %lld tokens, %lld steps of %lld (B %d, T %d, %d micro-batches), %s%s",
                static_cast<long long>(run.train.size()), static_cast<long long>(c.steps),
                static_cast<long long>(c.total_batch_tokens), c.batch_size, c.seq_len, run.micro_batches,
                processes.c_str(), device.c_str()));
  if (c.ranks == 1 && c.zero > 0) {
    say(strprintf("{zero} %d shares nothing out: there is one process (mpirun -n N starts several)", c.zero));
  }
  say("run: " + run.folder.string());
}

RunMonitor::RunMonitor(Run& run, Model& model, Comm& comm, const DataLoader& loader, double peak_flops,
                       const EachEvaluation& each_evaluation)
    : run_(run),
      model_(model),
      comm_(comm),
      loader_(loader),
      each_evaluation_(each_evaluation),
      schedule_(schedule_of(run.config)),
      log_(run.group && run.group->rank() > 0 ? "" : run.folder, run.step + 1, run.lock.get()),
      report_(log_, run.step, run.config.steps,
              flops_per_token(run.shape, run.config.seq_len) / (peak_flops * run.config.ranks), run.group),
      saved_step_(run.resume_from.empty() ? -1 : run.step) {
  report_.advise(run.resume_from.empty()
                     ? "no checkpoint was saved yet; start again with"
                     : strprintf("the last good checkpoint is %s: start another run from it with {model} %s and",
                                 run.resume_from.c_str(), run.resume_from.c_str()));
  StopSignal::defer();
}

void RunMonitor::begin() {
  if (run_.resume_from.empty()) {
    log_.write({{"step", 0}, {"config", to_json(run_.config)}, {"parameters", num_parameters(model_.table)}});
    if (run_.val.size() > 0) {
      if (const auto loss = report_evaluation(model_, run_, 0, log_)) each_evaluation_(0, *loss);
    }
  }
  report_.start_clock();
}

void RunMonitor::report_step(int64_t step, const StepResult& result) {
  stop_ = stop_ || result.signals > 0;
  StepLine line{step, learning_rate(schedule_, step - 1), static_cast<double>(run_.config.total_batch_tokens)};
  const CommTime time = comm_.take_time();
  if (run_.group) {
    line.traffic["sent_elements"] = traffic_.front().volume();
    if (time.busy > 0) line.traffic["sent_beside_computing"] = time.beside_computing();
  }
  traffic_.pop_front();
  report_(line, result);
}

// After the last step everything is due.
bool RunMonitor::due(int64_t step, int64_t every) const { return ended(step) || (every > 0 && step % every == 0); }

bool RunMonitor::must_wait(int64_t step) const {
  const TrainConfig& c = run_.config;
  return due(step, c.eval_every) || due(step, c.sample_every) || due(step, c.save_every);
}

void RunMonitor::evaluate_sample_save(int64_t step) {
  const TrainConfig& c = run_.config;
  if (run_.val.size() > 0 && due(step, c.eval_every) && !stop_) evaluate(step);
  if (run_.tokenizer && c.sample_tokens > 0 && due(step, c.sample_every) && !stop_) {
    report_.clear();
    print_sample(model_, run_, step);
  }
  if (due(step, c.save_every) && report_.good() && saved_step_ != step) save(step);
  // What these sent belongs to no step.
  comm_.take_traffic();
  comm_.take_time();
  report_.start_clock();
}

void RunMonitor::evaluate(int64_t step) {
  report_.clear();
  const std::optional<double> loss = report_evaluation(model_, run_, step, log_);
  if (!loss) return;
  report_.evaluated(step, *loss);
  const int64_t patience = run_.config.patience;
  if (patience > 0 && run_.stopping.add(step, *loss) && report_.good()) {
    save(step);
    if (!run_.group || run_.group->rank() == 0) mark_best(run_.folder, latest_checkpoint(run_.folder));
  }
  stop_improving_ = run_.stopping.exhausted(patience) || !each_evaluation_(step, *loss);
}

void RunMonitor::save(int64_t step) {
  if (run_.lock) run_.lock->check();
  const std::string saved =
      save_checkpoint(run_.folder, step, model_, run_.tokenizer ? &*run_.tokenizer : nullptr,
                      training_state(run_, step, model_.updates(), loader_.position()), run_.config.keep, run_.group);
  report_.advise(strprintf("the last good checkpoint is %s: start another run from it with {model} %s and",
                           saved.c_str(), saved.c_str()));
  saved_step_ = step;
}

void RunMonitor::finish(int64_t step) {
  report_.finish();
  if (saved_step_ != step) save(step);  // the signal came before the first step, or after the loop had asked for one
}

void RunMonitor::print_end(const char* trainer, int64_t step, double seconds) const {
  const Run& run = run_;
  Output::when_unread(Output::Unread::wait);
  if (stop_) {
    const std::string signal =
        StopSignal::received() != 0 ? strprintf("signal %d", StopSignal::received()) : "a signal to another process";
    return say(strprintf("stopped by %s after step %lld; continue with: %s {run} %s {resume}", signal.c_str(),
                         static_cast<long long>(step), trainer, run.folder.c_str()));
  }
  const std::string dir = (run.folder / "latest").string();
  say(strprintf("done in %.0f s: the model is in %s", seconds, dir.c_str()));
  if (run.config.patience > 0 && run.stopping.best_step >= 0) {
    say(strprintf("%svalidation was best at step %lld, with %.4f: that model is in %s",
                  run.stopping.exhausted(run.config.patience) ? "stopped early: " : "",
                  static_cast<long long>(run.stopping.best_step), run.stopping.best_loss,
                  (run.folder / "best").c_str()));
  }
  if (run.tokenizer) say("try next:  make && build/generate {model} " + dir + " {prompt} \"Once\"");
  say(strprintf("           %s {run} %s {resume} {steps} %lld", trainer, run.folder.c_str(),
                static_cast<long long>(2 * run.config.steps)));
}
