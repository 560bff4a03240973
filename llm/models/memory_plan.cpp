#include "llm/models/memory_plan.h"

#include "llm/models/activations.h"
#include "llm/models/sharding.h"
#include "llm/models/tensor_table.h"
#include "llm/support/error.h"

std::vector<MemoryRow> arena_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                  int64_t logits_rows, bool bf16) {
  std::vector<MemoryRow> rows;
  const std::vector<ParamTensor> table = param_table(config, options);
  const auto arena_row = [&](const char* name, Arena arena, int64_t element) {
    int64_t elements = 0;
    for (const ParamTensor& tensor : table) elements += tensor.offset_in(arena) >= 0 ? tensor.file_size() : 0;
    if (sharded(options, arena)) elements = (elements + options.ranks - 1) / options.ranks;
    rows.push_back({name, std::to_string(elements), kept_size(table, options, arena) * element});
  };
  const auto whole_row = [&](const char* name, Arena arena, int64_t element) {
    if (!sharded(options, arena)) return;
    const int64_t whole = whole_size(param_units(table, options.ranks));
    rows.push_back({name, std::to_string(whole), whole * element});
  };
  arena_row("parameters", Arena::params, bf16 ? 2 : 4);
  whole_row("gathered parameters", Arena::params, bf16 ? 2 : 4);
  if (bf16 && options.master_weights) arena_row("master weights", Arena::m, 4);
  arena_row("gradients", Arena::grads, 4);
  whole_row("gradients to sum", Arena::grads, 4);
  const bool muon = options.optimizer == Optimizer::muon;
  arena_row(muon ? "Muon, AdamW m" : "AdamW m", Arena::m, 4);
  arena_row("AdamW v", Arena::v, 4);
  if (options.ema > 0) arena_row("average of weights", Arena::average, 4);
  if (muon) rows.push_back({"Muon scratch", "", muon_scratch(table) * (bf16 ? 2 : 4)});
  const auto activations = [&](auto acts) {
    for_each_activation(
        config, options, B, T, logits_rows, acts, [&](auto*& pointer, const std::string& name, int64_t r, int64_t c) {
          rows.push_back({name, strprintf("(%lld, %lld)", static_cast<long long>(r), static_cast<long long>(c)),
                          activation_bytes(r, c, sizeof(*pointer))});
        });
  };
  if (bf16) {
    activations(Activations<uint16_t>());  // of the same size as bf16
  } else {
    activations(Activations<float>());
  }
  return rows;
}

std::vector<MemoryRow> memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  return arena_plan(config, options, B, T, logits_chunk_rows(config, head_rows(config, B, T)), false);
}
