// The CPU's decoder: weights as they are multiplied (kernels/matmul_packed.h), keys and values in pages.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/matmul_packed.h"
#include "llm/models/decoder.h"
#include "llm/models/tensor_table.h"

using cpu::WeightType;

struct PackedOptions {
  WeightType weights = WeightType::f32;
  bool cache_bf16 = false;  // else float
  int pages = 1, max_rows = 1;
};

// What it takes, before it is allocated.
struct PackedBytes {
  int64_t weights, cache, activations;
  int64_t total() const { return weights + cache + activations; }
};

class PackedDecoder : public Decoder {
 public:
  const std::vector<ParamTensor> table;
  const PackedOptions options;

  // The values of a tensor of the table: tensor.size() floats in its layout. All must be set before the first pass.
  // Throws Error, with the tensor's name, for int8 of a value that is not finite.
  virtual void write(const ParamTensor& tensor, const float* values) = 0;
  virtual PackedBytes bytes() const = 0;
  // The bytes of weights that a pass of a row reads: not the table of positions, nor that of embeddings if the
  // head has another matrix.
  virtual int64_t bytes_per_pass() const = 0;

 protected:
  PackedDecoder(const ModelConfig& config, const PackedOptions& options);
  static bool is_matrix(const ParamTensor& tensor);  // else it is kept as floats
  static void check_scales(const ParamTensor& tensor, const cpu::PackedMatrix& matrix);
};

// Throws Error as Decoder does, for a model too wide for int8, and std::bad_alloc.
std::unique_ptr<PackedDecoder> make_packed_decoder(const ModelConfig& config, const PackedOptions& options);
