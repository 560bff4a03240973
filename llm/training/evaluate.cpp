#include "llm/training/evaluate.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"
#include "llm/training/average.h"

using nlohmann::json;

std::optional<Evaluation> evaluate(Model& model, const Run& run, const std::function<bool()>& stop) {
  const int T = run.config.seq_len, ranks = run.group ? run.group->size() : 1, rank = run.group ? run.group->rank() : 0;
  const int64_t B = run.config.batch_size, windows = (run.val.size() - 1) / T;
  int64_t batches = (windows + B - 1) / B;
  if (run.config.eval_steps > 0) batches = std::min(batches, run.config.eval_steps);
  Evaluation result;
  double nats = 0;
  int64_t bytes = 0;
  for (int64_t first = 0; first < batches; first += ranks) {
    if (ranks == 1 && stop()) return std::nullopt;
    const bool counts = first + rank < batches;
    const int64_t batch = counts ? first + rank : 0;                      // every rank computes, so each needs a batch
    const int rows = static_cast<int>(std::min(B, windows - batch * B));  // the last batch may be smaller
    std::vector<int32_t> inputs(static_cast<size_t>(rows) * static_cast<size_t>(T)), targets(inputs.size());
    run.val.copy(batch * B * T, int64_t{rows} * T, inputs.data());
    run.val.copy(batch * B * T + 1, int64_t{rows} * T, targets.data());
    model.forward(inputs.data(), rows, T, Pass::evaluate);
    double sum = 0;
    model.loss(targets.data(), &sum);
    if (!counts) continue;
    nats += sum;
    result.tokens += int64_t{rows} * T;
    if (run.tokenizer) {
      for (const int32_t id : targets) {
        if (id < run.tokenizer->vocab_size()) bytes += static_cast<int64_t>(run.tokenizer->bytes_of(id).size());
      }
    }
  }
  if (run.group) {
    const std::vector<std::string> all = run.group->all_gather(json{nats, result.tokens, bytes}.dump());
    nats = 0;
    result.tokens = bytes = 0;
    for (const std::string& one : all) {
      const json parts = json::parse(one);
      nats += parts[0].is_null() ? std::nan("") : parts[0].get<double>();  // what is not finite has no number in JSON
      result.tokens += parts[1].get<int64_t>();
      bytes += parts[2].get<int64_t>();
    }
  }
  result.nats_per_token = nats / static_cast<double>(result.tokens);
  if (bytes > 0) result.nats_per_byte = nats / static_cast<double>(bytes);
  return result;
}

std::optional<double> report_evaluation(Model& model, const Run& run, int64_t step, MetricsLog& log) {
  const AverageInUse average(model);
  const std::optional<Evaluation> result = evaluate(model, run, [] { return StopSignal::received() != 0; });
  if (!result) return std::nullopt;
  const Evaluation& e = *result;
  std::string line =
      strprintf("step %lld | validation loss %.4f per token", static_cast<long long>(step), e.nats_per_token);
  nlohmann::json metrics{{"step", step}, {"val_loss", e.nats_per_token}, {"val_tokens", e.tokens}};
  if (e.nats_per_byte > 0) {
    line += strprintf(", %.4f nats per byte", e.nats_per_byte);
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
