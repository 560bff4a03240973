#include "llm/training/find_lr.h"

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/stop_signal.h"
#include "llm/text/dataloader.h"
#include "llm/training/lr_finder.h"
#include "llm/training/monitor.h"
#include "llm/training/optimizer.h"

void find_learning_rate(TrainConfig flags, const std::vector<std::string>& given, const CheckDevice& check,
                        const MakeModel& make_model) {
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
      model->forward(input_of(batch, Pass::train, dropout_of(run, step, micro)));
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
  say(strprintf("suggestion: {lr} %.1e", lr));
}
