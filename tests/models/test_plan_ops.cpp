// The walk on paper: what it records, the scratch that follows, and what its checks find.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "kernels/scratch.h"
#include "llm/models/plan_ops.h"
#include "llm/support/error.h"

namespace {

const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 33};

Plan small_plan(const ModelOptions& options = {}, const ModelConfig& config = kSmall, bool bf16 = false) {
  return plan_of(config, options, 2, 8, 16, 0.1f, bf16);
}

PlannedOp& find(Plan& plan, const char* name, const char* of, int layer, Phase phase = Phase::forward) {
  const auto found = std::find_if(plan.ops.begin(), plan.ops.end(), [&](const PlannedOp& op) {
    return std::strcmp(op.name, name) == 0 && std::strcmp(op.of, of) == 0 && op.layer == layer && op.phase == phase;
  });
  REQUIRE(found != plan.ops.end());
  return *found;
}

const PlannedBuffer& buffer(const Plan& plan, const std::string& name) {
  const auto found =
      std::find_if(plan.buffers.begin(), plan.buffers.end(), [&](const PlannedBuffer& b) { return b.name == name; });
  REQUIRE(found != plan.buffers.end());
  return *found;
}

// What used `from` uses `to` instead.
Plan with_alias(Plan plan, const std::string& from, const std::string& to) {
  const PlannedBuffer old = buffer(plan, from), other = buffer(plan, to);
  for (PlannedOp& op : plan.ops) {
    for (std::vector<Span>* spans : {&op.writes, &op.reads}) {
      for (Span& span : *spans) {
        if (span.data == old.data) span.data = other.data;
      }
    }
  }
  return plan;
}

}  // namespace

TEST_CASE("every kind of model passes the checks of its walk") {
  for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::block}) {
    for (const bool bf16 : {false, true}) {
      check_plan(small_plan({.recompute = recompute}, kSmall, bf16));
      check_plan(small_plan({.recompute = recompute, .lora = {.rank = 4, .dropout = 0.1f}}, kSmall, bf16));
      check_plan(small_plan({.recompute = recompute, .trainable = {.first_block = 2, .embeddings = false}}));
      ModelConfig classifier = kSmall;
      classifier.num_classes = 2;
      check_plan(small_plan({.recompute = recompute}, classifier));
    }
  }
}

TEST_CASE("the walk records layers, phases and what backward repeats") {
  Plan plan = small_plan({.recompute = Recompute::block});
  CHECK(find(plan, "embedding_forward", "", -1).N == 16);
  CHECK(find(plan, "norm_forward", "lnf", 3).layer == 3);
  CHECK(find(plan, "linear_gelu_backward", "fcproj", 1, Phase::backward).C == 4 * 33);
  const auto again = [&](int layer) {
    return std::count_if(plan.ops.begin(), plan.ops.end(),
                         [&](const PlannedOp& op) { return op.again && op.layer == layer; });
  };
  CHECK(again(2) == 0);  // the last block's activations are still there
  CHECK(again(1) == 7);
  CHECK(again(0) == 7);
}

TEST_CASE("an RMSNorm neither reads a bias nor has a mean, whether it is trained or not") {
  const ModelOptions options;
  const std::vector<ParamTensor> table = param_table(kSmall);
  const Exchange layers(kSmall.num_layers, options, table);
  const AdapterPass<float> adapters;
  PlanOps<float> ops(layers, adapters);
  std::vector<float> memory(9);
  float *x = memory.data(), *y = x + 1, *dx = x + 2, *dy = x + 3, *sums = x + 8;
  const Norm<float> rms{x + 4, nullptr, "rms"}, layer{x + 4, x + 5, "layer"};
  for (const Norm<float>& w : {rms, layer}) {
    const NormRows<float, float> rows{y, w.b ? x + 6 : nullptr, x + 7};
    ops.norm_forward(rows, x, w, 3, 5);
    ops.norm_backward(dx, w, sums, dy, x, w, rows, Sum::set, 3, 5);
    ops.norm_backward(dx, {}, nullptr, dy, x, w, rows, Sum::add, 3, 5);  // not trained
  }
  REQUIRE(ops.ops.size() == 6);
  for (size_t k = 0; k < 6; ++k) {
    const PlannedOp& op = ops.ops[k];
    CAPTURE(k);
    const bool centred = k >= 3, forward = k % 3 == 0;
    CHECK(op.centred == centred);
    CHECK(op.dweight == (k % 3 != 2));
    CHECK(op.set == (k % 3 == 1));
    CHECK(op.sums == (k % 3 == 1));
    CHECK(op.writes.size() == (forward ? 2 + centred : op.sums ? 2 : 1));
    CHECK(op.reads.size() == (forward ? 2 + centred : 5 + centred));
  }
}

TEST_CASE("scratch is that of the operation that needs most") {
  const Plan plan = small_plan();
  int64_t most = 0;
  for (const auto& [C, OC] : {std::pair{33, 99}, {33, 33}, {33, 132}, {132, 33}, {33, 128}}) {
    most = std::max(most, matmul_backward_scratch(16, C, OC));
  }
  most = std::max({most, attention_backward_scratch(2, 8, 3), layernorm_backward_scratch(16, 33),
                   embedding_backward_scratch(2, 8, 33, 61)});
  CHECK(gpu_scratch_bytes(plan.ops) == most);
}

TEST_CASE("the checks name what is wrong with a walk") {
  const auto wrong = [](Plan plan, const char* text) {
    CHECK_THROWS_WITH_AS(check_plan(plan), doctest::Contains(text), Error);
  };
  Plan plan = small_plan();
  check_plan(plan);

  Plan missing = plan;  // a step left out
  missing.ops.erase(std::find_if(missing.ops.begin(), missing.ops.end(),
                                 [](const PlannedOp& op) { return std::strcmp(op.name, "attention_forward") == 0; }));
  wrong(missing, "layer 0: linear_forward of attproj reads block.0.atty, which no operation has written");

  // Two blocks share a buffer that backward reads; in one block, a tensor takes the place of one that backward reads.
  wrong(with_alias(plan, "block.2.atty", "block.1.atty"),
        "layer 1: linear_backward of attproj reads block.1.atty as layer 2 left it: activations that alias");
  wrong(with_alias(plan, "block.1.ln2", "block.1.atty"),
        "reads block.1.atty, which two operations of the layer have set: activations that alias");

  Plan beyond = plan;
  find(beyond, "linear_forward", "qkv", 1).writes[0].bytes *= 2;
  wrong(beyond, "linear_forward of qkv goes beyond the end of block.1.qkv");

  Plan nowhere = plan;
  find(nowhere, "linear_forward", "qkv", 1).reads[0].data = reinterpret_cast<const void*>(uintptr_t{64});
  wrong(nowhere, "layer 1: linear_forward of qkv works on memory that is not in the tables");

  Plan both = plan;
  find(both, "norm_forward", "ln2", 0).writes[1].data = buffer(plan, "block.0.ln2").data;
  wrong(both, "norm_forward of ln2 writes two results to block.0.ln2");

  Plan shifted = plan;
  PlannedOp& gelu = find(shifted, "linear_gelu_backward", "fcproj", 1, Phase::backward);
  gelu.writes[0] = {static_cast<const std::byte*>(gelu.reads[0].data) + 64, 64};
  wrong(shifted, "reads dsublayer and writes another part of it");
}
