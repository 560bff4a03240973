// Parts of a model for several processes: units that go over the network, and each rank's part of the arenas.
#pragma once

#include <cstdint>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/options.h"
#include "llm/models/tensor_table.h"

// A unit goes over the network at once: the embeddings, each block, and the final norm with a head that is not tied.
// Each is a stretch of the arenas, padded so that all ranks' parts are of one size. If an arena is sharded
// (ModelOptions::zero), a rank keeps its parts of the units, one after the other.
struct ParamUnit {
  int64_t offset, size;  // in a whole arena; size: ranks * shard
  int64_t shard;         // a rank's part: of rank r the elements from offset + r * shard on
  int64_t kept_at;       // where that begins in a sharded arena
  int64_t whole_at;      // where the whole unit is among those that are temporarily whole (whole_size())
  int64_t number;        // of its first element (ParamTensor::number)
};
std::vector<ParamUnit> param_units(const std::vector<ParamTensor>& table, int ranks);

bool sharded(const ModelOptions& options, Arena arena);
// Elements of an arena that a rank keeps.
int64_t kept_size(const std::vector<ParamTensor>& table, const ModelOptions& options, Arena arena);
// Elements of the units of a sharded arena that are temporarily whole: the first, the last, and two blocks, where block
// l takes the place of block l - 2.
int64_t whole_size(const std::vector<ParamUnit>& units);

// The part of a tensor that a rank keeps: `count` elements from `from` on, at `kept_at` of a sharded arena.
struct TensorPart {
  int64_t from, count, kept_at;
};
TensorPart part_of(const ParamTensor& tensor, const ParamUnit& unit, int rank);

// Points `p` at the units that are temporarily whole.
template <class Family, class T>
void bind_units(const ModelConfig& config, const LoraOptions& lora, const std::vector<ParamTensor>& table,
                const std::vector<ParamUnit>& units, typename Family::template Params<T>& p, T* memory) {
  auto tensor = table.begin();
  Family::for_each_param(config, lora, p, [&](T*& pointer, const ParamTensor&) {
    const ParamUnit& unit = units[static_cast<size_t>(tensor->unit)];
    pointer = memory + unit.whole_at + tensor->offset - unit.offset;
    ++tensor;
  });
}
