// Trains a GPT-2 on the CPU. From the top: --memory and --check, which look without training; then the run itself, a
// flat loop. train_gpt2.cu is the same for a GPU.
//
//   build/train_gpt2                                        the built-in stories, about two minutes
//   build/train_gpt2 --data my.txt --run runs/mine          your text
//   build/train_gpt2 --run runs/mine --resume --steps 2000  go on
//   mpirun -n 4 build/train_gpt2 --zero 2                   four processes, one model (docs/distributed.md)
#include "llm/distributed/comm_mpi.h"
#include "llm/distributed/processes.h"
#include "llm/flags/cli.h"
#include "llm/training/report.h"
#include "llm/training/run_search.h"

namespace {

void train(const Group& group, const TrainConfig& flags, const std::vector<std::string>& given,
           const EachEvaluation& each_evaluation) {
  if (flags.threads > 0) set_cpu_threads(flags.threads);
  if (flags.memory || flags.kernels || flags.check) {
    const Run run = plan_run(flags, given, say);
    const TrainConfig& c = run.config;
    if (flags.memory) {
      check_cpu_precision(c);
      return print_memory(memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len));
    }
    if (flags.kernels) {
      check_cpu_precision(c);
      return print_kernels(cpu_kernels(model_options(c), c.dropout, flags.reference));
    }
    check_cpu(run);
    if (flags.reference)
      fail_usage("--check compares with the reference, which --reference asks for: give one of them");
    const auto model = make_cpu_model(run.shape, false, model_options(c));
    const auto reference = make_cpu_model(run.shape, true);
    return check_against_reference(*model, *reference, run);
  }
  Output::when_unread(Output::Unread::drop);
  if (flags.find_lr) {
    return find_learning_rate(flags, given, check_cpu, [](const Run& run) {
      return make_cpu_model(run.shape, run.config.reference, model_options(run.config));
    });
  }
  const auto started = std::chrono::steady_clock::now();
  Run run = set_up_run(flags, given, say, check_cpu, group);
  const TrainConfig& config = run.config;
  if (config.threads > 0) set_cpu_threads(config.threads);  // on --resume the run's
  const bool root = group.rank() == 0;
  const int B = config.batch_size, T = config.seq_len;
  int64_t step = run.step;  // steps done
  bool enough = false;      // validation says that there is no use in going on
  bool stop = false;        // a signal does, to this process or another
  if (step >= config.steps) {
    say(strprintf("nothing to do: %s has done %lld of %lld steps; go further with --steps %lld", run.folder.c_str(),
                  static_cast<long long>(step), static_cast<long long>(config.steps),
                  static_cast<long long>(2 * step)));
    return;
  }

  // model
  const std::unique_ptr<Comm> comm = group.size() > 1 ? make_mpi_comm() : make_single_comm();
  group.watch(comm->progress(), config.timeout);
  ModelOptions options = model_options(config);
  options.comm = comm.get();
  const double peak_flops = measure_peak_flops(options.precision);
  const std::unique_ptr<Model> model = make_cpu_model(run.shape, flags.reference, options);
  load_or_initialise(*model, run);
  DataLoader loader(run.train, loader_config(run));
  if (!run.resume_from.empty()) loader.seek(run.position);
  print_start(run, strprintf("%d threads, peak %.0f GFLOP/s", cpu_threads(), peak_flops / 1e9));

  const Schedule schedule{config.schedule,     config.lr,    config.min_lr,
                          config.warmup_steps, config.steps, config.start_lr};
  MetricsLog log(root ? run.folder : "", step + 1, run.lock.get());
  StopSignal::defer();
  StepReport report(run, schedule, peak_flops, log);
  int64_t saved_step = run.resume_from.empty() ? -1 : step;
  const auto save = [&] {
    if (run.lock) run.lock->check();
    const AverageInUse average(*model);
    report.saved(save_checkpoint(run.folder, step, *model, run.tokenizer ? &*run.tokenizer : nullptr,
                                 training_state(run, step, model->updates(), loader.position()), config.keep, &group));
    saved_step = step;
  };
  if (run.resume_from.empty()) {
    log.write({{"step", 0}, {"config", to_json(config)}, {"parameters", num_parameters(model->table)}});
    if (run.val.size() > 0) {
      if (const auto loss = report_evaluation(*model, run, 0, log)) each_evaluation(0, *loss);
    }
  }

  try {
    report.start_clock();
    while (step < config.steps && !enough && !stop) {
      // forward and backward, micro-batch by micro-batch
      model->zero_grad();
      for (int micro = 0; micro < run.micro_batches; ++micro) {
        Batch batch = loader.next();
        for (float& weight : batch.weights) weight /= static_cast<float>(config.total_batch_tokens);
        model->set_dropout(static_cast<float>(config.dropout), config.seed,
                           static_cast<uint64_t>((step * run.micro_batches + micro) * group.size() + group.rank()));
        model->forward(batch.inputs.data(), B, T, Pass::train);
        if (micro + 1 == run.micro_batches) model->sum_gradients();
        model->backward(batch.targets.data(), batch.weights.data());
      }

      // update
      model->update(optimizer_of(config, learning_rate(schedule, step)), static_cast<float>(config.grad_clip));
      ++step;

      // log
      const StepResult result = model->result(0);
      stop = result.signals > 0;
      report.sent(comm->take_traffic());
      report(step, result, comm->take_time());

      // evaluate, sample, save
      const bool last = step == config.steps || stop;
      const auto due = [&](int64_t every) { return last || enough || (every > 0 && step % every == 0); };
      if (run.val.size() > 0 && due(config.eval_every) && !stop) {
        report.clear();
        if (const auto loss = report_evaluation(*model, run, step, log)) {
          report.evaluated(step, *loss);
          if (config.patience > 0 && run.stopping.add(step, *loss) && report.good()) {
            save();
            if (root) mark_best(run.folder, latest_checkpoint(run.folder));
          }
          enough = run.stopping.exhausted(config.patience) || !each_evaluation(step, *loss);
        }
      }
      if (run.tokenizer && config.sample_tokens > 0 && due(config.sample_every) && !stop) {
        report.clear();
        print_sample(*model, run, step);
      }
      if (due(config.save_every) && report.good() && saved_step != step) save();
      // What went over the network for these is no step's.
      comm->take_traffic();
      comm->take_time();
      report.start_clock();
    }

    report.finish();
    if (saved_step != step) save();  // the signal came before the first step, or after the loop had asked for one
  } catch (...) {                    // before the model goes, which others still want numbers of
    end_everywhere(group);
    throw;
  }
  print_end(run, "build/train_gpt2", step, stop, seconds_since(started));
}

}  // namespace

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Trains a GPT-2 on the CPU: text in, a model directory out.");
  TrainConfig config;
  add_train_flags(app, config);
  return run_program(app, argc, argv, [&] {
    const std::vector<std::string> given = given_flags(app);
    // As on a GPU: bf16 where there are products of it. On --resume the run's own precision takes its place.
    const bool chosen = config.reference || std::find(given.begin(), given.end(), "precision") != given.end();
    if (!chosen && cpu_can(Precision::bf16)) config.precision = "bf16";
    run_in_group(config, [&](const Group& group) {
      config.ranks = group.size();
      if (config.search.empty()) return train(group, config, given, [](int64_t, double) { return true; });
      validate(config);
      search(config, [&](const TrainConfig& trial, const EachEvaluation& each) { train(group, trial, given, each); });
    });
  });
}
