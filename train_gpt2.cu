// Trains a GPT-2 on the GPU, in the order of train_gpt2.cpp. The differences: memory is on the GPU, and the host never
// waits for a step: it queues the next one first, then asks for the result of the last.
//
// Built twice: by nvcc as train_gpt2cu, and by g++ on dev/cudasim as train_gpt2sim, for machines without a GPU.
//
//   build/train_gpt2cu                                        the built-in stories
//   build/train_gpt2cu --data my.txt --run runs/mine          your text
//   build/train_gpt2cu --run runs/mine --resume --steps 2000  continue
//   mpirun -n 8 build/train_gpt2cu --zero 1                   eight GPUs, one model (docs/distributed.md)
#include "llm/distributed/comm_nccl.h"
#include "llm/distributed/processes.h"
#include "llm/flags/cli.h"
#include "llm/models/cpu.h"
#include "llm/models/gpu.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/stop_signal.h"
#include "llm/training/find_lr.h"
#include "llm/training/inspect.h"
#include "llm/training/monitor.h"
#include "llm/training/optimizer.h"
#include "llm/training/plan_file.h"
#include "llm/training/run_search.h"

namespace {

#ifdef WROUGHT_CUDASIM
constexpr const char* kProgram = "build/train_gpt2sim";
#else
constexpr const char* kProgram = "build/train_gpt2cu";
#endif

using Given = std::vector<std::string>;  // names of the flags on the command line

void check_device(const Run& run) {
  const TrainConfig& c = run.config;
  check_gpu_memory(run.shape, model_options(c), c.batch_size, c.seq_len, free_gpu_memory());
}

std::vector<KernelRow> step_kernels(const Run& run) {
  const TrainConfig& c = run.config;
  return gpu_kernels(run.shape, model_options(c), c.batch_size, c.seq_len, static_cast<float>(c.dropout), c.reference);
}

// The algorithms of the model's products, before it is made.
void choose_plans(const Run& run, const Group& group, bool keep_copy) {
  const TrainConfig& c = run.config;
  const auto make = [&](const MatmulPlans& known) {
    return make_gpu_plans(known, run.shape, model_options(c), c.batch_size, c.seq_len, static_cast<float>(c.dropout),
                          c.reference);
  };
  settle_plans(run, keep_copy, {no_gpu_plans(), make, use_gpu_plans}, group, say);
}

std::unique_ptr<Model> make_model(const Run& run, const ModelOptions& options) {
  const TrainConfig& c = run.config;
  return make_gpu_model(run.shape, options, c.batch_size, c.seq_len, c.reference);
}

void show_memory(const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  const TrainConfig& c = run.config;
  print_memory(built_memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len));
}

void show_kernels(const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  say(gpu_build());
  print_kernels(step_kernels(run));
}

void check_model(const Group& group, const TrainConfig& flags, const Given& given) {
  const Run run = plan_run(flags, given, say);
  choose_plans(run, group, false);
  const auto model = make_model(run, model_options(run.config));
  const auto reference = make_cpu_model(run.shape, true);
  check_against_reference(*model, *reference, run);
}

void find_lr(const Group& group, const TrainConfig& flags, const Given& given) {
  Output::when_unread(Output::Unread::drop);
  find_learning_rate(flags, given, check_device, [&](const Run& run) {
    choose_plans(run, group, false);
    return make_model(run, model_options(run.config));
  });
}

void train(const Group& group, const TrainConfig& flags, const Given& given, const EachEvaluation& each_evaluation) {
  const auto started = std::chrono::steady_clock::now();
  Output::when_unread(Output::Unread::drop);

  // 1. the run: configuration, tokenizer, shards, folder
  Run run = set_up_run(flags, given, say, check_device, group);
  const TrainConfig& c = run.config;
  if (c.threads > 0) set_cpu_threads(c.threads);  // on --resume the run's
  if (nothing_to_do(run)) return;

  // 2. the model and its data
  const std::unique_ptr<Comm> comm = group.size() > 1 ? make_nccl_comm(group) : make_single_comm();
  group.watch(comm->progress(), c.timeout);
  ModelOptions options = model_options(c);
  options.comm = comm.get();
  const double peak_flops = group.rank() == 0 ? measure_gpu_peak_flops(options.precision, c.reference) : 1;
  choose_plans(run, group, true);
  const std::unique_ptr<Model> model = make_model(run, options);
  load_or_initialise(*model, run);
  DataLoader loader(run.train, loader_config(run));
  if (!run.resume_from.empty()) loader.seek(run.position);
  print_start(run, strprintf("%s, %s, peak %.4g TFLOP/s", gpu_name().c_str(), c.precision.c_str(), peak_flops / 1e12));
  say(kernels_line(step_kernels(run)));
  say(graph_line(options));

  // 3. the steps
  const Schedule schedule = schedule_of(c);
  RunMonitor monitor(run, *model, *comm, loader, peak_flops, each_evaluation);
  int64_t step = run.step;  // steps queued
  int64_t reported = step;  // steps whose result is known: one fewer while the loop runs
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
      monitor.sent();

      // log the step before, which the GPU has done while this one was queued; and this one if the loop must wait for
      // it
      if (reported < step - 1) monitor.report_step(++reported, model->result(1));
      if (!monitor.must_wait(step)) continue;
      monitor.report_step(++reported, model->result(0));

      // what is due
      monitor.evaluate_sample_save(step);
    }
    if (reported < step) monitor.report_step(++reported, model->result(0));
    monitor.finish(step);
  } catch (...) {  // before the model is destroyed: other ranks may still read from it
    end_everywhere(group);
    throw;
  }
  monitor.print_end(kProgram, step, seconds_since(started));
}

}  // namespace

int main(int argc, char** argv) {
  StopSignal::watch();
  CLI::App app("Trains a GPT-2 on the GPU: text in, a model directory out.");
  TrainConfig config;
  config.precision = "bf16";
  add_train_flags(app, config);
  return run_program(app, argc, argv, [&] {
    const Given given = given_flags(app);
    run_in_group([&](const Group& group) {
      config.ranks = group.size();
      share_cores(config, group);
      if (config.threads > 0) set_cpu_threads(config.threads);
      validate(config);  // before looking for a device: a wrong flag is wrong anywhere
      if (config.memory || config.gpu_memory) return show_memory(config, given);
      if (config.kernels) return show_kernels(config, given);
      check_gpu();
      choose_gpu(group);
      if (!config.plans.empty() && no_gpu_plans().library.empty()) {
        fail_usage("{plans} is for products by cuBLASLt, and this program was built without it");
      }
      if (config.check) return check_model(group, config, given);
      if (config.find_lr) return find_lr(group, config, given);
      if (config.search.empty()) return train(group, config, given, [](int64_t, double) { return true; });
      search(config, [&](const TrainConfig& trial, const EachEvaluation& each) { train(group, trial, given, each); });
    });
  });
}
