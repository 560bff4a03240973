// A line per step, on the terminal and in metrics.jsonl, and the end of a run whose loss is no longer finite: of
// training and of finetuning.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/philox.h"
#include "llm/distributed/group.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/generate.h"
#include "llm/models/check.h"
#include "llm/models/init.h"
#include "llm/models/init_book.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/training/logger.h"

struct StepLine {
  int64_t step;  // from 1
  double lr;
  double tokens;                                      // in the step, padding included
  std::string text = "";                              // printed after the loss
  nlohmann::json metrics = nlohmann::json::object();  // added to a finite step's record
  nlohmann::json traffic = nlohmann::json::object();  // added to every step's record
};

class StepReport {
 public:
  // For the steps after `first`, up to `steps`. `peak_share`: the share of the device's peak that one token per second
  // takes; 0: not printed. With a group every rank makes the same calls.
  StepReport(MetricsLog& log, int64_t first, int64_t steps, double peak_share = 0, const Group* group = nullptr)
      : log_(log), steps_(steps), peak_share_(peak_share), group_(group), progress_(first, steps) {}

  // From now on time counts towards the next step that is reported.
  void start_clock() { clock_ = std::chrono::steady_clock::now(); }

  // Reports steps in order. Throws Error at the fifth in a row that is not finite.
  void operator()(const StepLine& line, const StepResult& result);

  // The validation loss after a step. One that is not finite comes from weights that the update broke.
  void evaluated(int64_t step, double loss);

  void clear() { progress_.clear(); }  // before anything else is printed
  // What a run that is no longer finite is told to do: "start again with", then the settings to try.
  void advise(const std::string& how) { advice_ = how; }
  // False after a step or a validation that was not finite: what an update broke is not worth keeping.
  bool good() const { return bad_steps_ == 0 && bad_validation_ < 0; }
  // The end of the run; throws Error if it is not good.
  void finish();

 private:
  [[noreturn]] void fail_not_finite() const;

  MetricsLog& log_;
  const int64_t steps_;
  const double peak_share_;
  const Group* group_;
  Progress progress_;
  std::chrono::steady_clock::time_point clock_ = std::chrono::steady_clock::now();
  int64_t reported_ = 0;
  int bad_steps_ = 0;            // in a row
  int64_t bad_validation_ = -1;  // the step after which validation was not finite; -1: it was
  std::string where_;            // the ranks that are not finite
  std::string advice_ = "start again with";
};
