#include "llm/models/update.h"

namespace {

// This rank's part of a unit, from element `from` of that on.
Stretch part_of_unit(const Exchange& exchange, int u, int64_t from, int64_t size) {
  const ParamUnit& unit = exchange.units()[static_cast<size_t>(u)];
  return {.param = exchange.own_at(Arena::params, u) + from,
          .grad = exchange.own_at(Arena::grads, u) + from,
          .kept = unit.kept_at + from,
          .v = unit.kept_at + from,
          .whole = unit.offset + exchange.rank() * unit.shard + from,
          .number = unit.number + exchange.rank() * unit.shard + from,
          .size = size,
          .lr_scale = 1,
          .decay = false,
          .averaged = true};
}

Stretch of_run(const ParamRun& run) {
  return {run.offset, run.grad_offset, run.grad_offset, run.v_offset, run.grad_offset,
          run.number, run.size,        run.lr_scale,    false,        true};
}

Stretch of_tensor(const ParamTensor& t) {
  return {t.offset, t.grad_offset, t.grad_offset, t.v_offset, t.grad_offset,
          t.number, t.size(),      t.lr_scale,    t.decay,    t.averaged};
}

}  // namespace

UpdatePlan update_plan(const std::vector<ParamTensor>& table, const Exchange& exchange, bool by_tensor) {
  UpdatePlan plan;
  if (exchange.in_parts()) {
    for (size_t u = 0; u < exchange.units().size(); ++u) {
      plan.averaged.push_back(part_of_unit(exchange, static_cast<int>(u), 0, exchange.units()[u].shard));
    }
  } else {
    for (const ParamRun& run : trained_runs(table)) plan.averaged.push_back(of_run(run));
  }
  for (const ParamTensor& t : table) {
    if (t.muon && t.trainable()) {
      const int rows = static_cast<int>(t.rows / t.stacked), cols = static_cast<int>(t.cols);
      for (int64_t k = 0; k < t.size(); k += int64_t{rows} * cols) {
        Stretch s = of_tensor(t);
        s.param += k, s.grad += k, s.kept += k, s.whole += k, s.number += k, s.size = int64_t{rows} * cols;
        plan.muon.push_back({s, rows, cols});
      }
    }
    if (!by_tensor || t.v_offset < 0) continue;
    Stretch s = of_tensor(t);
    if (exchange.in_parts()) {
      const ParamUnit& unit = exchange.units()[static_cast<size_t>(t.unit)];
      const TensorPart part = part_of(t, unit, exchange.rank());
      s = part_of_unit(exchange, t.unit, part.kept_at - unit.kept_at, part.count);
      s.lr_scale = t.lr_scale, s.decay = t.decay, s.averaged = t.averaged;
    }
    plan.adamw.push_back(s);
  }
  if (by_tensor) return plan;
  if (exchange.in_parts()) {
    plan.adamw = plan.averaged;
    for (const ParamTensor& t : table) plan.adamw[static_cast<size_t>(t.unit)].lr_scale = t.lr_scale;
  } else {
    for (const ParamRun& run : adamw_runs(table)) plan.adamw.push_back(of_run(run));
  }
  return plan;
}
