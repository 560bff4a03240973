#include "llm/models/sharding.h"

#include <algorithm>
#include <cstddef>

std::vector<ParamUnit> param_units(const std::vector<ParamTensor>& table, int ranks) {
  std::vector<ParamUnit> units;
  for (const ParamTensor& tensor : table) {
    if (static_cast<size_t>(tensor.unit) == units.size()) units.push_back({tensor.offset, 0, 0, 0, 0, tensor.number});
    units[static_cast<size_t>(tensor.unit)].size += tensor.size() + tensor.padding;
  }
  int64_t kept = 0, whole = 0, second_block = 0;
  const size_t last = units.size() - 1;
  for (size_t u = 0; u <= last; ++u) {
    ParamUnit& unit = units[u];
    unit.shard = unit.size / ranks;
    unit.kept_at = kept;
    kept += unit.shard;
    if (u < 3 || u == last) {
      unit.whole_at = whole;
      whole += unit.size;
      if (u == 2) second_block = unit.whole_at;
    } else {
      unit.whole_at = u % 2 == 1 ? units[1].whole_at : second_block;
    }
  }
  return units;
}

bool sharded(const ModelOptions& options, Arena arena) {
  return options.ranks > 1 && options.zero >= (arena == Arena::params ? 3 : arena == Arena::grads ? 2 : 1);
}

int64_t kept_size(const std::vector<ParamTensor>& table, const ModelOptions& options, Arena arena) {
  return arena_size(table, arena) / (sharded(options, arena) ? options.ranks : 1);
}

int64_t whole_size(const std::vector<ParamUnit>& units) {
  int64_t size = 0;
  for (const ParamUnit& unit : units) size = std::max(size, unit.whole_at + unit.size);
  return size;
}

TensorPart part_of(const ParamTensor& tensor, const ParamUnit& unit, int rank) {
  const int64_t begin = unit.offset + rank * unit.shard, from = std::max(tensor.offset, begin),
                end = std::min(tensor.offset + tensor.size(), begin + unit.shard);
  if (end <= from) return {0, 0, unit.kept_at};
  return {from - tensor.offset, end - from, unit.kept_at + from - begin};
}
