// Validation of a run's model.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "llm/models/model.h"
#include "llm/training/logger.h"
#include "llm/training/run.h"

// Mean loss over every whole window of the validation sequence (or the first eval_steps batches), dropout off.
struct Evaluation {
  double nats_per_token = 0;
  double nats_per_byte = 0;  // 0 without a tokenizer: comparable over tokenizers, unlike the former
  int64_t tokens = 0;
};
// Processes share the batches. `stop` is asked between batches: if it says so, there is no result; in a group it is not
// asked.
std::optional<Evaluation> evaluate(Model& model, const Run& run, const std::function<bool()>& stop);

// The same with the average of the weights, if there is one, printed and written to `log`. Returns the loss; nothing if
// a signal came in between.
std::optional<double> report_evaluation(Model& model, const Run& run, int64_t step, MetricsLog& log);
