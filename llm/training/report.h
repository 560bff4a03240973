// What train_gpt2.cpp and train_gpt2.cu share and that is not the loop: looking at a model, and saying how a run goes.
#pragma once

#include <stdlib.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "kernels/philox.h"
#include "llm/inference/generate.h"
#include "llm/models/check.h"
#include "llm/models/init_book.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/stop_signal.h"
#include "llm/support/terminal.h"
#include "llm/training/checkpoint.h"
#include "llm/training/logger.h"
#include "llm/training/lr_finder.h"
#include "llm/training/run.h"
#include "llm/training/schedule.h"

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// ---- looking without training --------------------------------------------------------------------------------------

inline void print_memory(const std::vector<MemoryRow>& rows) {
  double total = 0;  // absurd sizes pass 2^63
  for (const MemoryRow& row : rows) {
    std::printf("%-24s %-16s %14lld\n", row.name.c_str(), row.shape.c_str(), static_cast<long long>(row.bytes));
    total += static_cast<double>(row.bytes);
  }
  std::printf("%-41s %14.0f bytes\n", "total", total);
}

inline void print_kernels(const std::vector<KernelRow>& rows) {
  size_t widths[3] = {};  // of the first columns, as far as they are not the last of their line
  for (const KernelRow& row : rows) {
    const std::string* columns[3] = {&row.operation, &row.of, &row.shape};
    for (int k = 0; k < 3; ++k) widths[k] = std::max(widths[k], columns[k]->size() + (columns[k]->empty() ? 0 : 2));
  }
  const auto padded = [](const std::string& text, size_t width) {
    return text + std::string(width - text.size(), ' ');
  };
  for (const KernelRow& row : rows) {
    std::string line = padded(row.operation, widths[0]) + padded(row.of, widths[1]) + padded(row.shape, widths[2]);
    if (row.times > 0) line += strprintf("%4d x  ", row.times);
    line += row.tier + (row.why.empty() ? "" : ": " + row.why);
    line.resize(line.find_last_not_of(' ') + 1);
    say(line);
    for (const std::string& kernel : row.kernels) say("    " + kernel);
  }
}

// One batch of random tokens through both; throws Error if they differ beyond tolerance.
inline void check_against_reference(Model& model, Model& reference, const Run& run) {
  for (Model* m : {&model, &reference}) {
    init_weights(*m, run.config.seed);
    if (!run.weights_from.empty()) load_weights(*m, run.weights_from);
    m->set_dropout(static_cast<float>(run.config.dropout), run.config.seed, 0);
  }
  Batch batch;
  batch.B = run.config.batch_size;
  batch.T = run.config.seq_len;
  const size_t n = static_cast<size_t>(batch.B) * static_cast<size_t>(batch.T);
  for (size_t i = 0; i < 2 * n; ++i) {
    const double uniform = philox_uniform(run.config.seed, 0x636865636b, i);
    (i < n ? batch.inputs : batch.targets).push_back(static_cast<int32_t>(uniform * run.shape.vocab_size));
  }
  batch.weights.assign(n, 1.0f / static_cast<float>(n));

  bool ok = true;
  std::printf("%-24s %12s %12s %10s   %s\n", "tensor", "largest |d|", "relative", "1 - cosine", "bound");
  for (const CheckRow& row : compare_models(model, reference, batch, model_options(run.config).precision)) {
    std::printf("%-24s %12.3e %12.3e %10.1e   %s%s\n", row.tensor.c_str(), row.max_abs, row.relative, 1 - row.cosine,
                row.bound.c_str(), row.ok ? "" : "  <-- beyond");
    ok = ok && row.ok;
  }
  if (!ok) fail("the model differs from the reference beyond tolerance: see the rows marked above");
  say("the model agrees with the reference");
}

// ---- the average of the weights ------------------------------------------------------------------------------------

// While it lives, the model's weights are their average, if there is one.
class AverageInUse {
 public:
  explicit AverageInUse(Model& model) : model_(model) { model_.exchange_average(); }
  ~AverageInUse() { model_.exchange_average(); }
  AverageInUse(const AverageInUse&) = delete;
  AverageInUse& operator=(const AverageInUse&) = delete;

 private:
  Model& model_;
};

// ---- watching ------------------------------------------------------------------------------------------------------

// Told of each validation's loss; says whether the run is to go on.
using EachEvaluation = std::function<bool(int64_t step, double loss)>;

// The loss; nothing if a signal came in between.
inline std::optional<double> report_evaluation(Model& model, const Run& run, int64_t step, MetricsLog& log) {
  const AverageInUse average(model);
  const std::optional<Evaluation> result = evaluate(model, run, [] { return StopSignal::received() != 0; });
  if (!result) return std::nullopt;
  const Evaluation& e = *result;
  std::string line =
      strprintf("step %lld | validation loss %.4f a token", static_cast<long long>(step), e.nats_per_token);
  nlohmann::json metrics{{"step", step}, {"val_loss", e.nats_per_token}, {"val_tokens", e.tokens}};
  if (e.nats_per_byte > 0) {
    line += strprintf(", %.4f nats a byte", e.nats_per_byte);
    metrics["val_nats_per_byte"] = e.nats_per_byte;
  }
  if (run.floor && e.nats_per_byte > 0) {
    line += strprintf(" (floor %.4f: %+.1f %%)", *run.floor, 100 * (e.nats_per_byte / *run.floor - 1));
    metrics["floor_nats_per_byte"] = *run.floor;
  }
  say(line);
  log.write(metrics);
  return e.nats_per_token;
}

// Rank 0's; the others take part where the weights that it needs are with all of them.
inline void print_sample(Model& model, const Run& run, int64_t step) {
  const bool in_parts = run.config.zero == 3 || (run.config.zero > 0 && run.config.ema > 0);
  if (run.group && run.group->rank() > 0 && !in_parts) return;
  const Tokenizer& tokenizer = *run.tokenizer;
  const AverageInUse average(model);
  GenerateConfig config;
  config.tokens = run.config.sample_tokens;
  // What the memory for training holds: a sample must not need more in the middle of a run.
  config.context = static_cast<int>(std::min<int64_t>(int64_t{run.config.batch_size} * run.config.seq_len, 1 << 30));
  config.end_of_text = tokenizer.end_of_text();
  config.sampler.temperature = 0.8;
  config.seed = run.config.seed + static_cast<uint64_t>(step);
  std::vector<int32_t> ids = tokenizer.encode(run.config.prompt);
  if (ids.empty())
    ids = {tokenizer.end_of_text() >= 0 && tokenizer.end_of_text() < model.config.vocab_size ? tokenizer.end_of_text()
                                                                                             : 0};
  StreamDecoder decoder(tokenizer);
  std::string text = run.config.prompt;
  try {
    generate(model, ids, config, [&](int32_t id) {
      if (id < tokenizer.vocab_size()) text += decoder.next(id);
      return run.group || StopSignal::received() == 0;
    });
  } catch (const Error& error) {  // weights that have run away: the loop decides whether that ends the run
    return say(std::string("no sample: ") + error.what());
  }
  text += decoder.finish();
  print_text("--- sample ---\n" + text + "\n--------------\n");
}

// ---- the run -------------------------------------------------------------------------------------------------------

// Weights and, on resume, moments, to begin with.
inline void load_or_initialise(Model& model, const Run& run) {
  if (!run.resume_from.empty()) {
    load_checkpoint(model, run.resume_from);
    model.set_updates(run.updates);
    model.exchange_average();  // as it was saved, the average is in the weights' place
    say(strprintf("resuming %s after step %lld", run.resume_from.c_str(), static_cast<long long>(run.step)));
  } else if (!run.weights_from.empty()) {
    load_weights(model, run.weights_from);
  } else if (run.config.init == "book") {
    init_weights_book(model, run.config.seed);
  } else {
    init_weights(model, run.config.seed);
  }
}

// What will run; `device` ends the line on training.
inline void print_start(const Run& run, const std::string& device) {
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
    say(strprintf("--zero %d shares nothing out: there is one process (mpirun -n N starts several)", c.zero));
  }
  say("run: " + run.folder.string());
}

// Of a TrainConfig or a FinetuneConfig.
template <class Config>
OptimizerConfig optimizer_of(const Config& c, double lr) {
  OptimizerConfig o;
  o.signal = StopSignal::received() != 0;
  o.lr = static_cast<float>(lr);
  o.beta1 = static_cast<float>(c.beta1);
  o.beta2 = static_cast<float>(c.beta2);
  o.eps = static_cast<float>(c.eps);
  o.weight_decay = static_cast<float>(c.weight_decay);
  return o;
}

// ---- finding a learning rate ---------------------------------------------------------------------------------------

// --find-lr: rates from 1e-6 to 1 on a model and data that nothing is kept of. `make_model(run)` makes the model.
template <class MakeModel>
void find_learning_rate(TrainConfig flags, const std::vector<std::string>& given, const CheckDevice& check,
                        MakeModel&& make_model) {
  LrFinder finder;
  if (flags.steps > 0) finder.steps = flags.steps;
  char folder[] = "/tmp/wrought-find-lr-XXXXXX";
  if (!::mkdtemp(folder)) fail("%s: a temporary folder cannot be made", folder);
  struct Removed {
    const char* folder;
    explicit Removed(const char* f) : folder(f) {}  // nvcc knows no aggregates in parentheses
    ~Removed() {
      std::error_code ignored;
      std::filesystem::remove_all(folder, ignored);
    }
  };
  std::optional<Removed> removed(folder);
  flags.run = folder;
  const Run run = set_up_run(flags, given, say, check);
  removed.reset();  // the data stays in memory
  StopSignal::defer();

  const TrainConfig& c = run.config;
  const std::unique_ptr<Model> model = make_model(run);
  load_or_initialise(*model, run);
  DataLoader loader(run.train, loader_config(run));
  Progress progress(0, finder.steps);
  for (int64_t step = 0; step < finder.steps && StopSignal::received() == 0; ++step) {
    model->zero_grad();
    for (int micro = 0; micro < run.micro_batches; ++micro) {
      Batch batch = loader.next();
      for (float& weight : batch.weights) weight /= static_cast<float>(c.total_batch_tokens);
      model->set_dropout(static_cast<float>(c.dropout), c.seed,
                         static_cast<uint64_t>(step * run.micro_batches + micro));
      model->forward(batch.inputs.data(), c.batch_size, c.seq_len, Pass::train);
      model->backward(batch.targets.data(), batch.weights.data());
    }
    model->update(optimizer_of(c, finder.lr(step)), static_cast<float>(c.grad_clip));
    const StepResult result = model->result(0);
    if (!finder.add(result.loss)) break;
    if (step % std::max<int64_t>(1, finder.steps / 20) == 0) {
      const LrFinder::Point& p = finder.points.back();
      progress.show(step + 1, strprintf("lr %.2e | loss %.4f | smoothed %.4f", p.lr, p.loss, p.smoothed));
    }
  }
  progress.clear();
  Output::when_unread(Output::Unread::wait);
  if (StopSignal::received() != 0) return say("stopped by a signal: no learning rate was found");
  const double lr = finder.suggestion();
  say(strprintf("tried %zu rates, up to %.2e; the smoothed loss was lowest at %.2e", finder.points.size(),
                finder.points.back().lr, 2 * lr));
  say(strprintf("suggestion: --lr %.1e", lr));
}

// After an update that was not made: who had a loss that is not finite. All processes call it.
inline std::string not_finite_where(const Group& group, const StepResult& result) {
  std::string who;
  const std::vector<std::string> all = group.all_gather(std::isfinite(result.own_loss) ? "" : "!");
  for (int r = 0; r < group.size(); ++r) {
    if (!all[static_cast<size_t>(r)].empty()) who += (who.empty() ? "" : ", ") + group.name(r);
  }
  return who.empty() ? "the gradients are not finite" : "the loss is not finite on " + who;
}

// A line for each step, on the terminal and in metrics.jsonl; and the end of a run whose loss is not finite any more.
class StepReport {
 public:
  StepReport(const Run& run, const Schedule& schedule, double peak_flops, MetricsLog& log)
      : run_(run),
        schedule_(schedule),
        log_(log),
        progress_(run.step, run.config.steps),
        last_checkpoint_(run.resume_from),
        tokens_(static_cast<double>(run.config.total_batch_tokens)),
        peak_share_(flops_per_token(run.shape, run.config.seq_len) / (peak_flops * run.config.ranks)) {}

  // Time from here on counts for the next step that is reported.
  void start_clock() { clock_ = std::chrono::steady_clock::now(); }

  // What goes over the network for the next step; as many steps may be reported later.
  void sent(const Traffic& traffic) { traffic_.push_back(traffic); }

  // Of steps one after another; `time` since the last. Throws Error at the fifth in a row that is not finite.
  void operator()(int64_t step, const StepResult& result, const CommTime& time) {
    const double seconds = seconds_since(clock_), lr = learning_rate(schedule_, step - 1);
    start_clock();
    bad_steps_ = result.updated ? 0 : bad_steps_ + 1;
    progress_.show(
        step, strprintf("step %lld/%lld | loss %.4f | norm %.3f | lr %.2e | %.0f ms | %.0f tok/s | %.0f %% of peak%s",
                        static_cast<long long>(step), static_cast<long long>(run_.config.steps), result.loss,
                        result.grad_norm, lr, 1e3 * seconds, tokens_ / seconds, 100 * tokens_ / seconds * peak_share_,
                        result.updated ? "" : " | NOT FINITE: step skipped"));
    nlohmann::json metrics{{"step", step}, {"lr", lr}, {"ms", 1e3 * seconds}, {"tokens_per_second", tokens_ / seconds}};
    metrics[result.updated ? "loss" : "skipped"] = result.updated ? nlohmann::json(result.loss) : nlohmann::json(true);
    if (result.updated) metrics["grad_norm"] = result.grad_norm;
    if (run_.group) {
      metrics["sent_elements"] = traffic_.front().volume();
      if (time.busy > 0) metrics["sent_beside_computing"] = time.beside_computing();
    }
    traffic_.pop_front();
    log_.write(metrics);
    reported_ = step;
    if (!result.updated && run_.group) where_ = not_finite_where(*run_.group, result) + ": ";
    if (bad_steps_ == 5) fail_not_finite();
  }

  // The validation loss after a step. One that is not finite comes from weights that the update broke.
  void evaluated(int64_t step, double loss) { bad_validation_ = std::isfinite(loss) ? -1 : step; }

  void clear() { progress_.clear(); }  // before anything else is printed
  void saved(const std::filesystem::path& checkpoint) { last_checkpoint_ = checkpoint; }
  // False after a step or a validation that was not finite: what an update broke is not worth keeping.
  bool good() const { return bad_steps_ == 0 && bad_validation_ < 0; }
  // The end of the run; throws Error if that is not good.
  void finish() {
    clear();
    if (!good()) fail_not_finite();
  }

 private:
  void fail_not_finite() const {
    const std::string from = last_checkpoint_.string();
    const std::string advice = from.empty() ? "no checkpoint was saved yet; start again with"
                                            : "the last good checkpoint is " + from +
                                                  ": start another run from it with --model " + from + " and";
    const std::string what =
        bad_steps_ > 0
            ? strprintf("%sloss or gradients were not finite in %d step%s in a row, up to step %lld", where_.c_str(),
                        bad_steps_, bad_steps_ == 1 ? "" : "s", static_cast<long long>(reported_))
            : strprintf("the validation loss after step %lld was not finite: the weights are broken",
                        static_cast<long long>(bad_validation_));
    fail("%s; %s a lower --lr, more --warmup-steps or a --grad-clip", what.c_str(), advice.c_str());
  }

  const Run& run_;
  const Schedule schedule_;
  MetricsLog& log_;
  Progress progress_;
  std::filesystem::path last_checkpoint_;
  double tokens_, peak_share_;  // of a step; of the device's peak that a token a second takes
  std::chrono::steady_clock::time_point clock_ = std::chrono::steady_clock::now();
  int64_t reported_ = 0;
  int bad_steps_ = 0;            // in a row
  int64_t bad_validation_ = -1;  // after which step the last validation was not finite; -1: it was
  std::string where_;            // of several processes
  std::deque<Traffic> traffic_;  // of steps that were not reported yet
};

// `trainer`: the program to go on with.
inline void print_end(const Run& run, const char* trainer, int64_t step, bool stopped, double seconds) {
  Output::when_unread(Output::Unread::wait);
  if (stopped) {
    const std::string signal =
        StopSignal::received() != 0 ? strprintf("signal %d", StopSignal::received()) : "a signal to another process";
    return say(strprintf("stopped by %s after step %lld; go on with: %s --run %s --resume", signal.c_str(),
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
  if (run.tokenizer) say("try next:  make && build/generate --model " + dir + " --prompt \"Once\"");
  say(strprintf("           %s --run %s --resume --steps %lld", trainer, run.folder.c_str(),
                static_cast<long long>(2 * run.config.steps)));
}
