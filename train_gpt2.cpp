// Trains a GPT-2 on the CPU. From the top: --memory and --check, which look without training; one evaluation; samples;
// then the run itself, a flat loop.
//
//   build/train_gpt2                                        the built-in stories, about two minutes
//   build/train_gpt2 --data my.txt --run runs/mine          your text
//   build/train_gpt2 --run runs/mine --resume --steps 2000  go on
#include <chrono>
#include <cmath>
#include <cstdio>

#include "apps/progress.h"
#include "apps/stop_signal.h"
#include "apps/train_flags.h"
#include "gpt2/check.h"
#include "gpt2/checkpoint.h"
#include "gpt2/generate.h"
#include "gpt2/logger.h"
#include "gpt2/run.h"
#include "gpt2/schedule.h"
#include "kernels/philox.h"

#ifdef _OPENMP
#include <omp.h>
#else
inline void omp_set_num_threads(int) {}
inline int omp_get_max_threads() { return 1; }
#endif

namespace {

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// ---- looking without training --------------------------------------------------------------------------------------

void print_memory(const Run& run) {
  double total = 0;  // absurd sizes pass 2^63
  for (const MemoryRow& row : memory_plan(run.shape, run.config.batch_size, run.config.seq_len)) {
    std::printf("%-24s %-16s %14lld\n", row.name.c_str(), row.shape.c_str(), static_cast<long long>(row.bytes));
    total += static_cast<double>(row.bytes);
  }
  std::printf("%-41s %14.0f bytes\n", "total", total);
}

// One batch of random tokens through both paths.
void check(const Run& run) {
  const auto model = make_cpu_model(run.shape, false), reference = make_cpu_model(run.shape, true);
  for (Model* m : {model.get(), reference.get()}) {
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
  std::printf("%-24s %12s %12s %12s\n", "tensor", "largest |d|", "relative", "tolerance");
  for (const CheckRow& row : compare_models(*model, *reference, batch)) {
    std::printf("%-24s %12.3e %12.3e %12.0e%s\n", row.tensor.c_str(), row.max_abs, row.relative, row.tolerance,
                row.ok ? "" : "  <-- beyond");
    ok = ok && row.ok;
  }
  if (!ok) fail("the fast path differs from the reference beyond tolerance: see the rows marked above");
  say("the fast path agrees with the reference");
}

// ---- watching ------------------------------------------------------------------------------------------------------

void report_evaluation(Model& model, const Run& run, int64_t step, MetricsLog& log) {
  const std::optional<Evaluation> result = evaluate(model, run, [] { return StopSignal::received() != 0; });
  if (!result) return;
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
}

void print_sample(Model& model, const Run& run, int64_t step) {
  const Tokenizer& tokenizer = *run.tokenizer;
  GenerateConfig config;
  config.tokens = run.config.sample_tokens;
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
      return StopSignal::received() == 0;
    });
  } catch (const Error& error) {  // weights that have run away: the loop decides whether that ends the run
    return say(std::string("no sample: ") + error.what());
  }
  text += decoder.finish();
  say("--- sample ---\n" + text + "\n--------------");
}

// ---- the run -------------------------------------------------------------------------------------------------------

void train(const TrainConfig& flags, const std::vector<std::string>& given) {
  if (flags.threads > 0) omp_set_num_threads(flags.threads);
  if (flags.memory || flags.check) {
    const Run run = plan_run(flags, given, say);
    return flags.memory ? print_memory(run) : check(run);
  }
  const auto started = std::chrono::steady_clock::now();
  Run run = set_up_run(flags, given, say);
  const TrainConfig& config = run.config;
  const int B = config.batch_size, T = config.seq_len;
  int64_t step = run.step, updates = run.updates;  // steps done; those of them that changed the weights
  if (step >= config.steps) {
    say(strprintf("nothing to do: %s has done %lld of %lld steps; go further with --steps %lld", run.folder.c_str(),
                  static_cast<long long>(step), static_cast<long long>(config.steps),
                  static_cast<long long>(2 * step)));
    return;
  }

  // model
  const std::unique_ptr<Model> model = make_cpu_model(run.shape, flags.reference);
  DataLoader loader(run.train, LoaderConfig{B, T, config.stride, config.data_order == "shuffled", config.seed, 0, 1});
  if (!run.resume_from.empty()) {
    load_checkpoint(*model, run.resume_from);
    loader.seek(run.position);
    say(strprintf("resuming %s after step %lld", run.resume_from.c_str(), static_cast<long long>(step)));
  } else if (!run.weights_from.empty()) {
    load_weights(*model, run.weights_from);
  } else {
    init_weights(*model, config.seed);
  }
  const Schedule schedule{config.schedule, config.lr, config.min_lr, config.warmup_steps, config.steps};
  const double flops_per_step = flops_per_token(run.shape, T) * static_cast<double>(config.total_batch_tokens);
  const double peak_flops = measure_peak_flops();
  say(strprintf("model: %lld parameters (%d layers, %d heads, %d channels, context %d, vocabulary %d)",
                static_cast<long long>(num_parameters(model->table)), run.shape.num_layers, run.shape.num_heads,
                run.shape.channels, run.shape.max_seq_len, run.shape.vocab_size));
  say(strprintf(
      "training: %lld tokens, %lld steps of %lld (B %d, T %d, %d micro-batches), %d threads, peak %.0f GFLOP/s",
      static_cast<long long>(run.train.size()), static_cast<long long>(config.steps),
      static_cast<long long>(config.total_batch_tokens), B, T, run.micro_batches, omp_get_max_threads(),
      peak_flops / 1e9));
  say("run: " + run.folder.string());

  MetricsLog log(run.folder, step + 1);
  StopSignal::defer();
  Progress progress(step, config.steps);
  std::filesystem::path last_checkpoint = run.resume_from;
  int64_t saved_step = run.resume_from.empty() ? -1 : step;
  int bad_steps = 0;  // in a row; what follows an update that broke the weights is not worth keeping
  const auto save = [&] {
    const LoaderPosition at = loader.position();
    const nlohmann::json state{
        {"step", step},      {"updates", updates},        {"epoch", at.epoch},
        {"batch", at.batch}, {"config", to_json(config)}, {"data_checksum", run.train.checksum()}};
    last_checkpoint =
        save_checkpoint(run.folder, step, *model, run.tokenizer ? &*run.tokenizer : nullptr, state, config.keep);
    saved_step = step;
  };
  const auto fail_not_finite = [&] {
    const std::string from = last_checkpoint.string();
    const std::string advice = from.empty() ? "no checkpoint was saved yet; start again with"
                                            : "the last good checkpoint is " + from +
                                                  ": start another run from it with --model " + from + " and";
    fail(
        "loss or gradients were not finite in %d step%s in a row, up to step %lld; %s a lower --lr, more "
        "--warmup-steps or a --grad-clip",
        bad_steps, bad_steps == 1 ? "" : "s", static_cast<long long>(step), advice.c_str());
  };
  if (run.resume_from.empty()) {
    log.write({{"step", 0}, {"config", to_json(config)}, {"parameters", num_parameters(model->table)}});
    if (run.val.size() > 0) report_evaluation(*model, run, 0, log);
  }

  while (step < config.steps && StopSignal::received() == 0) {
    const auto step_started = std::chrono::steady_clock::now();
    const double lr = learning_rate(schedule, step);

    // forward and backward, micro-batch by micro-batch
    model->zero_grad();
    double loss = 0;
    for (int micro = 0; micro < run.micro_batches; ++micro) {
      Batch batch = loader.next();
      for (float& weight : batch.weights) weight /= static_cast<float>(config.total_batch_tokens);
      model->set_dropout(static_cast<float>(config.dropout), config.seed,
                         static_cast<uint64_t>(step * run.micro_batches + micro));
      model->forward(batch.inputs.data(), B, T, Pass::train);
      loss += model->backward(batch.targets.data(), batch.weights.data());
    }

    // update
    const double norm = model->grad_norm();
    const bool good = std::isfinite(loss) && std::isfinite(norm);
    if (good) {
      const float clip =
          config.grad_clip > 0 && norm > config.grad_clip ? static_cast<float>(config.grad_clip / norm) : 1.0f;
      const AdamW adamw{static_cast<float>(lr), static_cast<float>(config.beta1), static_cast<float>(config.beta2),
                        static_cast<float>(config.eps), static_cast<float>(config.weight_decay)};
      model->update(adamw, ++updates, clip);
    }
    bad_steps = good ? 0 : bad_steps + 1;
    ++step;

    // log
    const double seconds = seconds_since(step_started);
    const double tokens_per_second = static_cast<double>(config.total_batch_tokens) / seconds;
    progress.show(
        step, strprintf("step %lld/%lld | loss %.4f | norm %.3f | lr %.2e | %.0f ms | %.0f tok/s | %.0f %% of peak%s",
                        static_cast<long long>(step), static_cast<long long>(config.steps), loss, norm, lr,
                        1e3 * seconds, tokens_per_second, 100 * flops_per_step / seconds / peak_flops,
                        good ? "" : " | NOT FINITE: step skipped"));
    nlohmann::json metrics{{"step", step}, {"lr", lr}, {"ms", 1e3 * seconds}, {"tokens_per_second", tokens_per_second}};
    metrics[good ? "loss" : "skipped"] = good ? nlohmann::json(loss) : nlohmann::json(true);
    if (good) metrics["grad_norm"] = norm;
    log.write(metrics);
    if (bad_steps == 5) fail_not_finite();

    // evaluate, sample, save
    const bool last = step == config.steps || StopSignal::received() != 0;
    const auto due = [&](int64_t every) { return last || (every > 0 && step % every == 0); };
    if (run.val.size() > 0 && due(config.eval_every) && StopSignal::received() == 0) {
      progress.clear();
      report_evaluation(*model, run, step, log);
    }
    if (run.tokenizer && config.sample_tokens > 0 && due(config.sample_every) && StopSignal::received() == 0) {
      progress.clear();
      print_sample(*model, run, step);
    }
    if (due(config.save_every) && bad_steps == 0) save();
  }

  progress.clear();
  if (bad_steps > 0) fail_not_finite();
  if (saved_step != step) save();  // the signal came before the first step, or after the loop had asked for one
  const std::string dir = (run.folder / "latest").string();
  if (StopSignal::received() != 0) {
    say(strprintf("stopped by signal %d after step %lld; go on with: build/train_gpt2 --run %s --resume",
                  StopSignal::received(), static_cast<long long>(step), run.folder.c_str()));
    return;
  }
  say(strprintf("done in %.0f s: the model is in %s", seconds_since(started), dir.c_str()));
  if (run.tokenizer) say("try next:  build/generate --model " + dir + " --prompt \"Once\"");
  say("           build/train_gpt2 --run " + run.folder.string() + " --resume --steps " +
      std::to_string(2 * config.steps));
}

}  // namespace

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Trains a GPT-2 on the CPU: text in, a model directory out.");
  TrainConfig config;
  add_train_flags(app, config);
  return run_program(app, argc, argv, [&] { train(config, given_flags(app)); });
}
