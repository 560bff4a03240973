#include <doctest/doctest.h>

#include "llm/models/activations.h"
#include "llm/models/gpt2.h"
#include "llm/models/memory_plan.h"
#include "llm/models/tensor_table.h"

namespace {

const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 2, .num_heads = 3, .channels = 33};

}  // namespace

TEST_CASE("the memory plan lists what is allocated") {
  std::vector<MemoryRow> plan = memory_plan(kSmall, {}, 2, 8);
  const int64_t arena = arena_size(param_table(kSmall)) * 4;
  for (int k = 0; k < 4; ++k) CHECK(plan[static_cast<size_t>(k)].bytes == arena);
  Gpt2::Activations<float, float> acts;
  AdapterScratch<float> adapters;
  int64_t activations = 0;
  for (size_t k = 4; k < plan.size(); ++k) activations += plan[k].bytes;
  CHECK(activations == bind_activations<Gpt2>(kSmall, {}, param_table(kSmall), 2, 8, 16, acts, adapters, nullptr));
  const auto bytes = [&](const std::string& name) {
    for (const MemoryRow& row : plan) {
      if (row.name == name) return row.bytes;
    }
    return int64_t{-1};
  };
  CHECK(bytes("logits") == 16 * 128 * 4);
  CHECK(bytes("block.1.fch") == 16 * 4 * 33 * 4);
  CHECK(bytes("block.0.lse") == 2 * 3 * 8 * 4);

  // The CPU keeps float in every precision, and a chunk of the logits.
  plan = memory_plan(kSmall, {.precision = Precision::bf16}, 2, 8);
  CHECK(bytes("parameters") == arena);
  plan = memory_plan({.vocab_size = 50257}, {}, 4, 1024);
  CHECK(bytes("logits") == 256 * 50304 * 4);
  plan = memory_plan({.vocab_size = 50257}, {.loss_chunk = 1000}, 4, 1024);
  CHECK(bytes("logits") == 1000 * 50304 * 4);
  plan = gpu_memory_plan({.vocab_size = 50257}, {.precision = Precision::bf16, .loss_chunk = 1000}, 4, 1024);
  CHECK(bytes("logits") == 1000 * 50304 * 2);
  plan = gpu_memory_plan({.vocab_size = 50257}, {.precision = Precision::bf16, .loss_chunk = 5000}, 4, 1024);
  CHECK(bytes("logits") == 4096 * 50304 * 2);
  // Stored in bf16, as on a GPU.
  plan = arena_plan(kSmall, {.precision = Precision::bf16, .recompute = Recompute::block}, 2, 8, 16, true);
  CHECK(bytes("parameters") == arena / 2);
  CHECK(bytes("master weights") == arena);
  CHECK(bytes("gradients") == arena);
  CHECK(bytes("logits") == 16 * 128 * 2);
  CHECK(bytes("losses") == 16 * 4);
  CHECK(bytes("blocks.fch") == 16 * 4 * 33 * 2);
  CHECK(bytes("block.1.residual3") == 1088);  // 16 * 33 * 2, to whole cache lines
  CHECK(bytes("block.1.fch") == -1);
  plan = arena_plan(kSmall, {.precision = Precision::bf16, .master_weights = false}, 2, 8, 16, true);
  CHECK(bytes("master weights") == -1);
  plan = arena_plan(kSmall, {.precision = Precision::bf16, .moments = Moments::bf16}, 2, 8, 16, true);
  CHECK(bytes("master weights") == arena);
  CHECK(bytes("AdamW m") == arena / 2);
  CHECK(bytes("AdamW v") == arena / 2);
  plan = memory_plan(kSmall, {.moments = Moments::bf16}, 2, 8);
  CHECK(bytes("AdamW m") == arena / 2);
  plan = memory_plan(kSmall, {.optimizer = Optimizer::muon}, 2, 8);
  CHECK(bytes("Muon, AdamW m") == arena);
  CHECK(bytes("AdamW m") == -1);
  const auto whole = [](int64_t n) { return (n + 63) / 64 * 64 * 4; };
  CHECK(bytes("AdamW v") == arena - 2 * (whole(3 * 33 * 33) + whole(33 * 33) + 2 * whole(4 * 33 * 33)));
  CHECK(bytes("Muon scratch") == 2 * whole(4 * 33 * 33) + 2 * whole(33 * 33));
  plan = arena_plan(kSmall, {.precision = Precision::bf16, .optimizer = Optimizer::muon}, 2, 8, 16, true);
  CHECK(bytes("Muon scratch") == whole(4 * 33 * 33) + whole(33 * 33));
}
