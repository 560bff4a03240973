// What happens around the steps of a training run, the same on every device: weights to begin with, lines, validations,
// samples, checkpoints, and when the run ends.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "llm/distributed/comm.h"
#include "llm/models/model.h"
#include "llm/text/dataloader.h"
#include "llm/training/logger.h"
#include "llm/training/report.h"
#include "llm/training/run.h"
#include "llm/training/schedule.h"

// Told each validation's loss; returns whether the run continues.
using EachEvaluation = std::function<bool(int64_t step, double loss)>;

// Whether all steps are done already, which is then printed.
bool nothing_to_do(const Run& run);

// The weights to begin with; on resume also the moments.
void load_or_initialise(Model& model, const Run& run);

Schedule schedule_of(const TrainConfig& config);

// Prints the model and the training that begin; `device` ends the line on training.
void print_start(const Run& run, const std::string& device);

class RunMonitor {
 public:
  // All arguments outlive the monitor. `peak_flops`: of the device, per second; only rank 0's is used.
  RunMonitor(Run& run, Model& model, Comm& comm, const DataLoader& loader, double peak_flops,
             const EachEvaluation& each_evaluation);

  // The first line of a new run's metrics.jsonl, and validation before its first step; then the clock runs.
  void begin();

  // Whether the loop is over: all steps are done, a signal came to any rank, or validation stopped improving.
  bool ended(int64_t step) const { return step >= run_.config.steps || stop_improving_ || stop_; }

  // A step is queued: takes what it sends, for its line.
  void sent() { traffic_.push_back(comm_.take_traffic()); }
  // A step is done: prints its line. Steps come in order.
  void report_step(int64_t step, const StepResult& result);

  // Whether a validation, a sample or a checkpoint is due after this step, so that the loop must wait for the model.
  bool must_wait(int64_t step) const;
  // Makes those that are due.
  void evaluate_sample_save(int64_t step);

  // After the loop: saves what is not saved yet. Throws Error if the run is no longer finite.
  void finish(int64_t step);
  // The last lines, once the model is saved. `trainer`: the program that continues the run.
  void print_end(const char* trainer, int64_t step, double seconds) const;

 private:
  bool due(int64_t step, int64_t every) const;
  void evaluate(int64_t step);
  void save(int64_t step);

  Run& run_;
  Model& model_;
  Comm& comm_;
  const DataLoader& loader_;
  const EachEvaluation each_evaluation_;
  const Schedule schedule_;
  MetricsLog log_;
  StepReport report_;
  std::deque<Traffic> traffic_;  // of steps that are not reported yet
  int64_t saved_step_;           // -1: none
  bool stop_improving_ = false, stop_ = false;
};
