// The arena of activations, from a family's table of them, and sizes that follow from it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "llm/models/adapters.h"
#include "llm/models/config.h"
#include "llm/models/options.h"
#include "llm/models/tensor_table.h"

// Rows of the head's input: a classifier has one for each sequence.
inline int64_t head_rows(const ModelConfig& config, int64_t B, int64_t T) { return config.num_classes > 0 ? B : B * T; }

// Rows of logits that a GPU holds at a time, out of N.
inline int64_t gpu_logits_rows(const ModelOptions& options, int64_t N) {
  return options.loss_chunk > 0 ? std::min(options.loss_chunk, N) : N;
}

// The same for the CPU. Without ModelOptions::loss_chunk: 8 MB, but at least 256 rows, so that with a large vocabulary
// the head's gradient is not read and written too often.
inline int64_t cpu_logits_rows(const ModelConfig& config, const ModelOptions& options, int64_t N) {
  const int64_t chunk = std::max<int64_t>(256, (8 << 20) / 4 / config.padded_outputs());
  return std::min(N, options.loss_chunk > 0 ? options.loss_chunk : chunk);
}

inline constexpr int64_t kActivationAlignment = 64;  // bytes: every tensor begins on a cache line

inline int64_t activation_bytes(int64_t rows, int64_t cols, size_t element) {
  const int64_t bytes = rows * cols * static_cast<int64_t>(element);
  return (bytes + kActivationAlignment - 1) / kActivationAlignment * kActivationAlignment;
}

// Calls visit(pointer member, name, rows, cols) for everything in the arena of a (B, T) batch, in its order: a family's
// activations, and the scratch of adapters. `table`: param_table() of the same.
template <class Family, class T, class Activations, class Visit>
void for_each_in_arena(const ModelConfig& config, const ModelOptions& options, const std::vector<ParamTensor>& table,
                       int64_t B, int64_t T_, int64_t logits_rows, Activations& a, AdapterScratch<T>& adapters,
                       Visit&& visit) {
  Family::for_each_activation(config, options.recompute, B, T_, logits_rows, a, visit);
  for_each_adapter_scratch(table, options.lora.rank, B * T_, adapters, visit);
}

// Returns the arena's bytes; points `a` and `adapters` into `arena` unless that is null.
template <class Family, class T, class Activations>
int64_t bind_activations(const ModelConfig& config, const ModelOptions& options, const std::vector<ParamTensor>& table,
                         int64_t B, int64_t T_, int64_t logits_rows, Activations& a, AdapterScratch<T>& adapters,
                         std::byte* arena) {
  int64_t offset = 0;
  for_each_in_arena<Family>(config, options, table, B, T_, logits_rows, a, adapters,
                            [&](auto*& pointer, const std::string&, int64_t rows, int64_t cols) {
                              if (arena) {
                                using Pointer = std::remove_reference_t<decltype(pointer)>;
                                pointer = reinterpret_cast<Pointer>(arena + offset);
                              }
                              offset += activation_bytes(rows, cols, sizeof(*pointer));
                            });
  return offset;
}
