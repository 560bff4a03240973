#include "gpt2/check.h"

#include <algorithm>
#include <cmath>

namespace {

CheckRow compare(const std::string& name, const std::vector<float>& a, const std::vector<float>& b, double absolute,
                 double relative) {
  CheckRow row;
  row.tensor = name;
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    row.max_abs = std::max(row.max_abs, std::isnan(d) ? INFINITY : std::abs(d));
    difference += d * d;
    norm += static_cast<double>(b[i]) * b[i];
  }
  row.relative = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  row.tolerance = absolute > 0 ? absolute : relative;
  row.ok = (absolute > 0 ? row.max_abs : row.relative) <= row.tolerance;
  return row;
}

}  // namespace

std::vector<CheckRow> compare_models(Model& model, Model& reference, const Batch& batch) {
  const int64_t V = model.config.vocab_size, N = int64_t{batch.B} * batch.T;
  std::vector<CheckRow> rows;
  std::vector<float> logits[2], loss[2];
  Model* both[2] = {&model, &reference};
  for (int k = 0; k < 2; ++k) {
    both[k]->zero_grad();
    both[k]->forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
    logits[k].resize(static_cast<size_t>(N * V));
    for (int64_t n = 0; n < N; ++n) both[k]->read_logits(n, logits[k].data() + n * V);
    loss[k] = {static_cast<float>(both[k]->backward(batch.targets.data(), batch.weights.data()))};
  }
  rows.push_back(compare("loss", loss[0], loss[1], 1e-5, 0));
  rows.push_back(compare("logits", logits[0], logits[1], 1e-4, 0));
  for (const ParamTensor& tensor : model.table) {
    std::vector<float> grads[2];
    for (int k = 0; k < 2; ++k) {
      grads[k].resize(static_cast<size_t>(tensor.size()));
      both[k]->read(Arena::grads, tensor, grads[k].data());
    }
    rows.push_back(compare("d" + tensor.name, grads[0], grads[1], 0, 1e-4));
  }
  return rows;
}
