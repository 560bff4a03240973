#include "llm/models/check.h"

#include <algorithm>
#include <cmath>

namespace {

CheckRow compare(const std::string& name, const std::vector<float>& a, const std::vector<float>& b) {
  CheckRow row;
  row.tensor = name;
  double difference = 0, aa = 0, bb = 0, ab = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i], d = x - y;
    row.max_abs = std::max(row.max_abs, std::isnan(d) ? INFINITY : std::abs(d));
    difference += d * d;
    aa += x * x;
    bb += y * y;
    ab += x * y;
  }
  if (bb > 0) {
    row.relative = std::sqrt(difference / bb);
    row.cosine = ab / std::sqrt(aa * bb);  // NaN, which meets no bound, if a is zero
    row.norm_error = std::abs(std::sqrt(aa / bb) - 1);
  } else {
    row.relative = row.norm_error = std::sqrt(difference);
  }
  return row;
}

void bound_absolute(CheckRow& row, double bound) {
  row.bound = strprintf("|d| <= %.1e", bound);
  row.ok = row.max_abs <= bound;
}

}  // namespace

std::vector<CheckRow> compare_models(Model& model, Model& reference, const Batch& batch, Precision precision,
                                     const PassDropout& dropout) {
  const int64_t V = model.config.outputs(), N = static_cast<int64_t>(batch.targets.size());
  std::vector<CheckRow> rows;
  std::vector<float> logits[2], loss[2];
  Model* both[2] = {&model, &reference};
  for (int k = 0; k < 2; ++k) {
    both[k]->zero_grad();
    both[k]->forward(input_of(batch, Pass::train, dropout));
    logits[k].resize(static_cast<size_t>(N * V));
    for (int64_t n = 0; n < N; ++n) both[k]->read_logits(n, logits[k].data() + n * V);
    both[k]->backward(batch.targets.data(), batch.weights.data());
    loss[k] = {static_cast<float>(both[k]->step_loss())};
  }
  rows.push_back(compare("loss", loss[0], loss[1]));
  rows.push_back(compare("logits", logits[0], logits[1]));
  const bool fp32 = precision == Precision::fp32;
  double squares = 0;
  for (const float logit : logits[1]) squares += static_cast<double>(logit) * logit;
  const double unit_roundoff = precision == Precision::bf16 ? 0x1p-8 : 0x1p-11;
  const double rounded =
      4 * unit_roundoff *
      std::sqrt((15.0 * model.config.num_layers + 4) * squares / static_cast<double>(logits[1].size()));
  bound_absolute(rows[0], fp32 ? 1e-5 : rounded);
  bound_absolute(rows[1], fp32 ? 1e-4 : rounded);
  for (const ParamTensor& tensor : model.table) {
    if (!tensor.trainable()) continue;
    std::vector<float> grads[2];
    for (int k = 0; k < 2; ++k) {
      grads[k].resize(static_cast<size_t>(tensor.size()));
      both[k]->read(Arena::grads, tensor, grads[k].data());
    }
    CheckRow row = compare("d" + tensor.name, grads[0], grads[1]);
    row.bound = fp32 ? "relative <= 1e-4" : "cosine >= 0.999, norm within 1e-2";
    row.ok = fp32 ? row.relative <= 1e-4 : row.cosine >= 0.999 && row.norm_error <= 1e-2;
    rows.push_back(row);
  }
  return rows;
}
