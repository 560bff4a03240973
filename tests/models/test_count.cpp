// Bytes and FLOPs of a step, counted from the operations of the walk, against sums made by hand.
#include <doctest/doctest.h>

#include "llm/models/count.h"

namespace {

const ModelConfig kGpt2 = {.vocab_size = 50257, .num_layers = 12, .num_heads = 12, .channels = 768};

double trainer_flops(const StepConfig& step) {
  double flops = 0;
  for (const LaunchRow& row : count_step(step)) flops += row.launches * row.trainer_flops;
  return flops;
}

// Launches whose operation begins with this, and whose part too.
int launches(const StepConfig& step, const std::string& operation, const std::string& part = "") {
  int n = 0;
  for (const LaunchRow& row : count_step(step)) {
    if (row.operation.starts_with(operation) && row.part.starts_with(part)) n += row.launches;
  }
  return n;
}

}  // namespace

TEST_CASE("flops per token: six per multiplied parameter, and attention's share grows with T") {
  const double multiplied = 12 * 12 * 768.0 * 768 + 50257 * 768.0;
  CHECK(flops_per_token(kGpt2, 1024) == doctest::Approx(6 * multiplied + 12.0 * 12 * 768 * 1024).epsilon(1e-12));
  CHECK(flops_per_token(kGpt2, 2) - flops_per_token(kGpt2, 1) == doctest::Approx(12.0 * 12 * 768));
}

TEST_CASE("a trainer's count does not depend on recomputation, libraries or the number type") {
  const double flops = trainer_flops({.shape = kGpt2, .B = 2, .T = 64});
  for (const Recompute recompute : {Recompute::gelu, Recompute::block}) {
    CHECK(trainer_flops({.shape = kGpt2, .B = 2, .T = 64, .options = {.recompute = recompute}}) == flops);
  }
  CHECK(trainer_flops({.shape = kGpt2, .B = 2, .T = 64, .cublaslt = true, .cudnn = true}) == flops);
  CHECK(trainer_flops({.shape = kGpt2, .B = 2, .T = 64, .bf16 = false}) == flops);
}

TEST_CASE("launches follow the options: what is recomputed, dropped, adapted or frozen") {
  const StepConfig step{.shape = kGpt2, .B = 2, .T = 64};
  CHECK(launches(step, "matmul_forward") == 12 * 4 + 1);
  CHECK(launches(step, "matmul_forward", "attproj, residual") == 12);
  CHECK(launches(step, "layernorm_forward") == 25);
  CHECK(launches(step, "zero_grad", "") == 2);                       // the positions' gradient, and that of the stream
  CHECK(launches(step, "matmul_backward", "attproj: dbias") == 12);  // from the sums of the stream's gradient
  CHECK(launches(step, "matmul_backward", "fc: dbias") == 24);
  CHECK(launches(step, "dropout_backward") == 0);
  StepConfig changed = step;
  changed.options.recompute = Recompute::block;
  CHECK(launches(changed, "matmul_forward") == 12 * 4 + 1 + 11 * 3);
  CHECK(launches(changed, "layernorm_forward", "ln1, again") == 11);
  changed = step;
  changed.options.recompute = Recompute::gelu;
  CHECK(launches(changed, "gelu_forward", "again") == 11);
  changed = step;
  changed.dropout = 0.1f;
  CHECK(launches(changed, "dropout_backward") == 24);
  CHECK(launches(changed, "residual_forward") == 24);
  CHECK(launches(changed, "matmul_backward", "attproj: dbias") == 24);
  changed.cudnn = true;  // which has another mask
  CHECK(launches(changed, "attention_backward", "dq") == 12);
  changed.dropout = 0;
  CHECK(launches(changed, "attention_backward", "dq") == 0);
  CHECK(launches(changed, "attention_backward") == 12);
  changed.B = 19, changed.T = 1024;  // in three pieces, the last a smaller one
  CHECK(launches(changed, "attention_backward") == 36);
  CHECK(trainer_flops(changed) == doctest::Approx(19 * 1024 * flops_per_token(kGpt2, 1024)).epsilon(1e-12));
  changed.cudnn_workspace = int64_t{1} << 20;
  CHECK(launches(changed, "attention_backward", "dq") == 12);
  changed.cudnn_workspace = kCudnnWorkspaceLimit, changed.B = step.B, changed.T = step.T;
  changed = step;
  changed.options.lora = {.rank = 4, .targets = "q,v"};
  CHECK(launches(changed, "lora_take") == 24);
  CHECK(launches(changed, "matmul_backward", "adapter: dweight") == 48);
  CHECK(launches(changed, "matmul_backward", "qkv: dweight") == 0);
  CHECK(launches(changed, "embedding_backward") == 0);
  changed = step;
  changed.options.trainable = {.first_block = 10, .embeddings = false};
  CHECK(launches(changed, "attention_backward", "dq") == 2);
  changed = step;
  changed.cublaslt = true;  // whose dweight sums dout
  CHECK(launches(changed, "matmul_backward", "fc: dbias") == 0);
  CHECK(launches(changed, "matmul_backward", "fc: dweight, dbias") == 12);
  CHECK(launches(changed, "matmul_backward", "attproj: dbias") == 12);
  changed.bf16 = false;  // which tf32 would round
  CHECK(launches(changed, "matmul_backward", "fc: dbias") == 24);
  changed = step;
  changed.options.optimizer = Optimizer::muon;
  CHECK(launches(changed, "muon_momentum") == 12 * 6);
}
