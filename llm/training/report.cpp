#include "llm/training/report.h"

#include <cmath>
#include <vector>

#include "llm/support/error.h"

namespace {

// After an update that was skipped: which ranks had a loss that is not finite. All ranks call it.
std::string not_finite_where(const Group& group, const StepResult& result) {
  std::string who;
  const std::vector<std::string> all = group.all_gather(std::isfinite(result.own_loss) ? "" : "!");
  for (int r = 0; r < group.size(); ++r) {
    if (!all[static_cast<size_t>(r)].empty()) who += (who.empty() ? "" : ", ") + group.name(r);
  }
  return who.empty() ? "the gradients are not finite" : "the loss is not finite on " + who;
}

}  // namespace

void StepReport::operator()(const StepLine& line, const StepResult& result) {
  const double seconds = seconds_since(clock_), rate = line.tokens / seconds;
  start_clock();
  bad_steps_ = result.updated ? 0 : bad_steps_ + 1;
  const std::string peak = peak_share_ > 0 ? strprintf(" | %.0f %% of peak", 100 * rate * peak_share_) : "";
  progress_.show(line.step, strprintf("step %lld/%lld | loss %.4f%s | norm %.3f | lr %.2e | %.0f ms | %.0f tok/s%s%s",
                                      static_cast<long long>(line.step), static_cast<long long>(steps_), result.loss,
                                      line.text.c_str(), result.grad_norm, line.lr, 1e3 * seconds, rate, peak.c_str(),
                                      result.updated ? "" : " | NOT FINITE: step skipped"));
  nlohmann::json metrics{{"step", line.step}, {"lr", line.lr}, {"ms", 1e3 * seconds}, {"tokens_per_second", rate}};
  if (result.updated) {
    metrics["loss"] = result.loss;
    metrics["grad_norm"] = result.grad_norm;
    metrics.update(line.metrics);
  } else {
    metrics["skipped"] = true;
  }
  metrics.update(line.traffic);
  log_.write(metrics);
  reported_ = line.step;
  if (!result.updated && group_) where_ = not_finite_where(*group_, result) + ": ";
  if (bad_steps_ == 5) fail_not_finite();
}

void StepReport::evaluated(int64_t step, double loss) { bad_validation_ = std::isfinite(loss) ? -1 : step; }

void StepReport::finish() {
  clear();
  if (!good()) fail_not_finite();
}

void StepReport::fail_not_finite() const {
  const std::string what =
      bad_steps_ > 0
          ? strprintf("%sloss or gradients were not finite in %d step%s in a row, up to step %lld", where_.c_str(),
                      bad_steps_, bad_steps_ == 1 ? "" : "s", static_cast<long long>(reported_))
          : strprintf("the validation loss after step %lld was not finite: the weights are broken",
                      static_cast<long long>(bad_validation_));
  fail("%s; %s a lower {lr}, more {warmup-steps} or a {grad-clip}", what.c_str(), advice_.c_str());
}
