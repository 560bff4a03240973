// The timed operations of dev/bench give the bits of those that they time, and a step's rows are complete.
#include <doctest/doctest.h>

#include "dev/bench/timed_ops.h"
#include "llm/models/batch.h"
#include "llm/models/init.h"

TEST_CASE("a timed step has the same bits as the model's step, and times every operation as often as it runs") {
  const ModelConfig config = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 33};
  Timings timings;
  TimedModel timed(config, {}, choose_kernels<float>(false, Precision::fp32), timings);
  CpuModel<float> model(config, false);
  Batch batch{2, 16, {}, {}, std::vector<float>(32, 1.0f / 32)};
  for (int i = 0; i < 32; ++i) batch.inputs.push_back(i % 61), batch.targets.push_back((i * 7 + 1) % 61);
  std::vector<float> values[2];
  for (int k = 0; k < 2; ++k) {
    Model& m = k == 0 ? static_cast<Model&>(model) : timed;
    init_weights(m, 1);
    for (int step = 0; step < 2; ++step) {
      timings.begin_step();
      m.zero_grad();
      m.forward(input_of(batch, Pass::train));
      m.backward(batch.targets.data(), batch.weights.data());
      m.update({.lr = 1e-2f}, 1);
    }
    values[k] = {static_cast<float>(m.result(0).loss), static_cast<float>(m.result(0).grad_norm)};
    for (const ParamTensor& tensor : m.table) {
      std::vector<float> weights(static_cast<size_t>(tensor.size()));
      m.read(Arena::params, tensor, weights.data());
      values[k].insert(values[k].end(), weights.begin(), weights.end());
    }
  }
  CHECK(values[0] == values[1]);
  const auto calls = [&](const char* operation, const char* of) {
    for (const Row& row : timings.rows) {
      if (row.operation == operation && row.of == of) return row.calls;
    }
    return 0;
  };
  CHECK(calls("matmul_forward", "qkv") == 3);
  CHECK(calls("matmul_forward", "head") == 1);
  CHECK(calls("matmul_backward", "fcproj: dinp") == 3);
  CHECK(calls("matmul_dweight", "fc") == 3);
  CHECK(calls("matmul_backward", "attproj: dbias") == 3);
  CHECK(calls("layernorm_forward", "lnf") == 1);
  CHECK(calls("adamw_update", "") == 1);
}
