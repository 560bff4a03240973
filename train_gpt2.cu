// Trains a GPT-2 on the GPU. The order is train_gpt2.cpp's; the differences are that memory is the GPU's, and that the
// host never waits for a step: it queues the next one first, then asks how the last one went.
//
// Built twice: by nvcc as train_gpt2cu, and by g++ on dev/cudasim as train_gpt2sim, for machines without a GPU.
//
//   build/train_gpt2cu                                        the built-in stories
//   build/train_gpt2cu --data my.txt --run runs/mine          your text
//   build/train_gpt2cu --run runs/mine --resume --steps 2000  go on
//   mpirun -n 8 build/train_gpt2cu --zero 1                   eight GPUs, one model (docs/distributed.md)
#include "llm/distributed/comm_nccl.h"
#include "llm/distributed/processes.h"
#include "llm/flags/cli.h"
#include "llm/models/gpu.h"
#include "llm/training/report.h"
#include "llm/training/run_search.h"

namespace {

#ifdef WROUGHT_CUDASIM
constexpr const char* kProgram = "build/train_gpt2sim";
#else
constexpr const char* kProgram = "build/train_gpt2cu";
#endif

void check_device(const Run& run) {
  const TrainConfig& c = run.config;
  check_gpu_memory(run.shape, model_options(c), c.batch_size, c.seq_len, free_gpu_memory());
}

std::vector<KernelRow> step_kernels(const Run& run) {
  const TrainConfig& c = run.config;
  return gpu_kernels(run.shape, model_options(c), c.batch_size, c.seq_len, static_cast<float>(c.dropout), c.reference);
}

void train(const Group& group, const TrainConfig& flags, const std::vector<std::string>& given,
           const EachEvaluation& each_evaluation) {
  validate(flags);  // before looking for a device: a wrong flag is wrong anywhere
  if (!flags.memory && !flags.kernels) {
    check_gpu();
    choose_gpu(group);
  }
  if (flags.threads > 0) set_cpu_threads(flags.threads);
  if (flags.memory || flags.kernels || flags.check) {
    const Run run = plan_run(flags, given, say);
    const TrainConfig& c = run.config;
    if (flags.memory) {
      return print_memory(gpu_memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len));
    }
    if (flags.kernels) {
      say(gpu_build());
      return print_kernels(step_kernels(run));
    }
    const auto model = make_gpu_model(run.shape, model_options(c), c.batch_size, c.seq_len, flags.reference);
    const auto reference = make_cpu_model(run.shape, true);
    return check_against_reference(*model, *reference, run);
  }
  Output::when_unread(Output::Unread::drop);
  if (flags.find_lr) {
    return find_learning_rate(flags, given, check_device, [](const Run& run) {
      return make_gpu_model(run.shape, model_options(run.config), run.config.batch_size, run.config.seq_len,
                            run.config.reference);
    });
  }
  const auto started = std::chrono::steady_clock::now();
  Run run = set_up_run(flags, given, say, check_device, group);
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
  const std::unique_ptr<Comm> comm = group.size() > 1 ? make_nccl_comm(group) : make_single_comm();
  group.watch(comm->progress(), config.timeout);
  ModelOptions options = model_options(config);
  options.comm = comm.get();
  // Of the first process' GPU: it is the one that prints.
  const double peak_flops = root ? measure_gpu_peak_flops(options.precision, flags.reference) : 1;
  const std::unique_ptr<Model> model = make_gpu_model(run.shape, options, B, T, flags.reference);
  load_or_initialise(*model, run);
  DataLoader loader(run.train, loader_config(run));
  if (!run.resume_from.empty()) loader.seek(run.position);
  print_start(run,
              strprintf("%s, %s, peak %.4g TFLOP/s", gpu_name().c_str(), config.precision.c_str(), peak_flops / 1e12));
  say(kernels_line(step_kernels(run)));

  const Schedule schedule{config.schedule,     config.lr,    config.min_lr,
                          config.warmup_steps, config.steps, config.start_lr};
  MetricsLog log(root ? run.folder : "", step + 1, run.lock.get());
  StopSignal::defer();
  StepReport report(run, schedule, peak_flops, log);
  int64_t reported_step = step;  // runs a step behind
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
      report.sent(comm->take_traffic());

      // log: of the step before, which the GPU has done while this one was queued; and of this one where the loop is to
      // look at the model
      const auto look = [&](const StepResult& result) {
        stop = stop || result.signals > 0;
        report(++reported_step, result, comm->take_time());
      };
      if (reported_step < step - 1) look(model->result(1));
      const bool last = step == config.steps || stop;
      const auto due = [&](int64_t every) { return last || enough || (every > 0 && step % every == 0); };
      const bool looks = due(config.eval_every) || due(config.sample_every) || due(config.save_every);
      if (!looks) continue;
      look(model->result(0));

      // evaluate, sample, save
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

    if (reported_step < step) report(++reported_step, model->result(0), comm->take_time());
    report.finish();
    if (saved_step != step) save();  // the signal came before the first step, or after the loop had asked for one
  } catch (...) {                    // before the model goes, which others still want numbers of
    end_everywhere(group);
    throw;
  }
  print_end(run, kProgram, step, stop, seconds_since(started));
}

}  // namespace

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Trains a GPT-2 on the GPU: text in, a model directory out.");
  TrainConfig config;
  config.precision = "bf16";
  add_train_flags(app, config);
  return run_program(app, argc, argv, [&] {
    const std::vector<std::string> given = given_flags(app);
    run_in_group(config, [&](const Group& group) {
      config.ranks = group.size();
      if (config.search.empty()) return train(group, config, given, [](int64_t, double) { return true; });
      validate(config);
      search(config, [&](const TrainConfig& trial, const EachEvaluation& each) { train(group, trial, given, each); });
    });
  });
}
