// Trains a GPT-2 on the CPU. train() is the run, a flat loop; the functions before it show a model without training it.
// train_gpt2.cu is the same for a GPU.
//
//   build/train_gpt2                                        the built-in stories, about two minutes
//   build/train_gpt2 --data my.txt --run runs/mine          your text
//   build/train_gpt2 --run runs/mine --resume --steps 2000  continue
//   mpirun -n 4 build/train_gpt2 --zero 2                   four processes, one model (docs/distributed.md)
#include "llm/distributed/comm_mpi.h"
#include "llm/distributed/processes.h"
#include "llm/flags/cli.h"
#include "llm/models/cpu.h"
#include "llm/models/cpu_model.h"
#include "llm/models/memory_plan.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/stop_signal.h"
#include "llm/training/find_lr.h"
#include "llm/training/inspect.h"
#include "llm/training/monitor.h"
#include "llm/training/optimizer.h"
#include "llm/training/report.h"
#include "llm/training/run_search.h"

namespace {

using Given = std::vector<std::string>;  // names of the flags on the command line

void show_memory(const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  const TrainConfig& c = run.config;
  if (c.gpu_memory) return print_memory(gpu_memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len));
  check_cpu_precision(c);
  print_memory(memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len));
}

void show_kernels(const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  check_cpu_precision(run.config);
  print_kernels(cpu_kernels(run.shape, model_options(run.config), run.config.dropout, flags.reference));
}

void check_model(const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  check_cpu(run);
  if (flags.reference) fail_usage("--check compares with the reference, which --reference asks for: give one of them");
  const auto model = make_cpu_model(run.shape, false, model_options(run.config));
  const auto reference = make_cpu_model(run.shape, true);
  check_against_reference(*model, *reference, run);
}

void find_lr(const TrainConfig& flags, const Given& given) {
  Output::when_unread(Output::Unread::drop);
  find_learning_rate(flags, given, check_cpu, [](const Run& run) {
    return make_cpu_model(run.shape, run.config.reference, model_options(run.config));
  });
}

void train(const Group& group, const TrainConfig& flags, const Given& given, const EachEvaluation& each_evaluation) {
  const auto started = std::chrono::steady_clock::now();
  Output::when_unread(Output::Unread::drop);

  // 1. the run: configuration, tokenizer, shards, folder
  Run run = set_up_run(flags, given, say, check_cpu, group);
  const TrainConfig& c = run.config;
  if (c.threads > 0) set_cpu_threads(c.threads);  // on --resume the run's
  if (nothing_to_do(run)) return;

  // 2. the model and its data
  const std::unique_ptr<Comm> comm = group.size() > 1 ? make_mpi_comm() : make_single_comm();
  group.watch(comm->progress(), c.timeout);
  ModelOptions options = model_options(c);
  options.comm = comm.get();
  const double peak_flops = measure_peak_flops(options.precision);
  const std::unique_ptr<Model> model = make_cpu_model(run.shape, flags.reference, options);
  load_or_initialise(*model, run);
  DataLoader loader(run.train, loader_config(run));
  if (!run.resume_from.empty()) loader.seek(run.position);
  print_start(run, strprintf("%d threads, peak %.0f GFLOP/s", cpu_threads(), peak_flops / 1e9));

  // 3. the steps
  const Schedule schedule = schedule_of(c);
  RunMonitor monitor(run, *model, *comm, loader, peak_flops, each_evaluation);
  int64_t step = run.step;  // steps done
  try {
    monitor.begin();
    while (!monitor.ended(step)) {
      // forward and backward, micro-batch by micro-batch
      model->zero_grad();
      for (int micro = 0; micro < run.micro_batches; ++micro) {
        Batch batch = loader.next();
        for (float& weight : batch.weights) weight /= static_cast<float>(c.total_batch_tokens);
        model->forward(input_of(batch, Pass::train, dropout_of(run, step, micro)));
        model->backward(batch.targets.data(), batch.weights.data(), micro + 1 == run.micro_batches);
      }

      // update
      model->update(optimizer_of(c, learning_rate(schedule, step)), static_cast<float>(c.grad_clip));
      ++step;

      // log
      const StepResult result = model->result(0);
      monitor.sent();
      monitor.report_step(step, result);

      // what is due
      monitor.evaluate_sample_save(step);
    }
    monitor.finish(step);
  } catch (...) {  // before the model is destroyed: other ranks may still read from it
    end_everywhere(group);
    throw;
  }
  monitor.print_end("build/train_gpt2", step, seconds_since(started));
}

}  // namespace

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Trains a GPT-2 on the CPU: text in, a model directory out.");
  TrainConfig config;
  add_train_flags(app, config);
  return run_program(app, argc, argv, [&] {
    const Given given = given_flags(app);
    // As on a GPU: bf16 where there are products of it. On --resume the run's own precision takes its place.
    const bool chosen = config.reference || std::find(given.begin(), given.end(), "precision") != given.end();
    if (!chosen && (config.gpu_memory || cpu_can(Precision::bf16))) config.precision = "bf16";
    run_in_group([&](const Group& group) {
      config.ranks = group.size();
      share_cores(config, group);
      if (config.threads > 0) set_cpu_threads(config.threads);
      if (config.memory || config.gpu_memory) return show_memory(config, given);
      if (config.kernels) return show_kernels(config, given);
      if (config.check) return check_model(config, given);
      if (config.find_lr) return find_lr(config, given);
      if (config.search.empty()) return train(group, config, given, [](int64_t, double) { return true; });
      search(config, [&](const TrainConfig& trial, const EachEvaluation& each) { train(group, trial, given, each); });
    });
  });
}
