// --check: agreement passes, and a single wrong number anywhere is detected.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "llm/models/check.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"

namespace {

const ModelConfig kShape = {.max_seq_len = 8, .vocab_size = 19, .num_layers = 2, .num_heads = 2, .channels = 12};

Batch make_batch() {
  Batch batch{2, 7, {}, {}, std::vector<float>(14, 1.0f / 14)};
  for (int i = 0; i < 14; ++i) {
    batch.inputs.push_back(i * 5 % 19);
    batch.targets.push_back(i * 7 % 19);
  }
  return batch;
}

// Sets element 0 of a parameter to `value`.
void set_first(Model& model, const std::string& name, float value) {
  const auto tensor =
      std::find_if(model.table.begin(), model.table.end(), [&](const ParamTensor& t) { return t.name == name; });
  REQUIRE(tensor != model.table.end());
  std::vector<float> values(static_cast<size_t>(tensor->size()));
  model.read(Arena::params, *tensor, values.data());
  values[0] = value;
  model.write(Arena::params, *tensor, values.data());
}

std::vector<CheckRow> compare_with_changed(const std::string& name, float value) {
  const auto a = make_cpu_model(kShape, false), b = make_cpu_model(kShape, true);
  init_weights(*a, 3);
  init_weights(*b, 3);
  if (!name.empty()) set_first(*a, name, value);
  return compare_models(*a, *b, make_batch(), Precision::fp32);
}

bool all_ok(const std::vector<CheckRow>& rows) {
  return std::all_of(rows.begin(), rows.end(), [](const CheckRow& row) { return row.ok; });
}

}  // namespace

TEST_CASE("the fast path agrees with the reference, tensor by tensor") {
  const std::vector<CheckRow> rows = compare_with_changed("", 0);
  REQUIRE(rows.size() == 2 + param_table(kShape).size());
  CHECK(rows[0].tensor == "loss");
  CHECK(rows[1].tensor == "logits");
  CHECK(rows[2].tensor == "dwte");
  CHECK(rows.back().tensor == "dlnfb");
  for (const CheckRow& row : rows) {
    CAPTURE(row.tensor);
    CHECK(row.ok);
    CHECK(std::isfinite(row.max_abs));
    CHECK(row.relative <= 1e-4);
  }
}

TEST_CASE("a single changed weight is detected") {
  for (const char* name : {"wte", "wpe", "block.0.qkvw", "block.1.attprojb", "block.1.fcw", "lnfw", "lnfb"}) {
    CAPTURE(name);
    CHECK(!all_ok(compare_with_changed(name, 0.5f)));
  }
}

TEST_CASE("NaN and infinity never pass") {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const std::vector<CheckRow> rows = compare_with_changed("lnfb", value);
    CHECK(!rows[1].ok);
    CHECK(!all_ok(rows));
  }
}
