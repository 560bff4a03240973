#include "llm/models/memory_plan.h"

#include <algorithm>

#include "kernels/scratch.h"
#include "llm/models/activations.h"
#include "llm/models/plan_ops.h"
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
  const int64_t moment = options.moments == Moments::bf16 ? 2 : 4;
  arena_row(muon ? "Muon, AdamW m" : "AdamW m", Arena::m, moment);
  arena_row("AdamW v", Arena::v, moment);
  if (options.ema > 0) arena_row("average of weights", Arena::average, 4);
  if (muon) rows.push_back({"Muon scratch", "", muon_scratch(table) * (bf16 ? 2 : 4)});
  for (const PlannedBuffer& buffer : plan_of(config, options, B, T, logits_rows, 0, bf16).buffers) {
    if (!buffer.activation) continue;
    rows.push_back({buffer.name,
                    strprintf("(%lld, %lld)", static_cast<long long>(buffer.rows), static_cast<long long>(buffer.cols)),
                    buffer.room});
  }
  return rows;
}

std::vector<MemoryRow> memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  return arena_plan(config, options, B, T, cpu_logits_rows(config, options, head_rows(config, B, T)), false);
}

int64_t gpu_scratch_bytes(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  const bool bf16 = options.precision == Precision::bf16;
  const Plan plan = plan_of(config, options, B, T, gpu_logits_rows(options, head_rows(config, B, T)), 0, bf16);
  const std::vector<ParamTensor> table = param_table(config, options);
  int64_t muon = 0;
  for (const ParamTensor& t : table) {
    if (t.muon) muon = std::max<int64_t>(muon, muon_chunks(t.size() / t.stacked));
  }
  return std::max({gpu_scratch_bytes(plan.ops),
                   // Each part of a unit ends in its own chunk.
                   global_norm_scratch(arena_size(table, Arena::grads)) + (config.num_layers + 2) * 8,
                   muon * static_cast<int64_t>(sizeof(double)), int64_t{256}});
}

std::vector<MemoryRow> gpu_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                       bool cublaslt, bool cudnn) {
  const int64_t tokens = int64_t{B} * T;
  const int64_t logits_rows = gpu_logits_rows(options, head_rows(config, B, T));
  std::vector<MemoryRow> rows = arena_plan(config, options, B, T, logits_rows, options.precision == Precision::bf16);
  for (const char* name : {"inputs", "targets", "weights", config.num_classes > 0 ? "pooling" : "documents"}) {
    rows.push_back({name, strprintf("(%d, %lld)", kBatchSlots, static_cast<long long>(tokens)),
                    kBatchSlots * slot_elements(tokens) * 4});
  }
  rows.push_back({"scratch", "", gpu_scratch_bytes(config, options, B, T)});
  rows.push_back({"decay", "", arena_size(param_table(config, options), Arena::grads) / kParamAlignment});
  rows.push_back({"step", "", kGpuStepBytes});
  const int64_t libraries = (cublaslt ? 2 * kCublasLtWorkspace : 0) +  // one for the model, one for measuring
                            (cudnn && options.precision == Precision::bf16 ? kCudnnWorkspaceLimit : 0);
  if (libraries > 0) rows.push_back({kLibraryRow, "", libraries});
  return rows;
}
