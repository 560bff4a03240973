#include "llm/models/packed_decoder.h"

#include <cmath>

#include "llm/support/error.h"

PackedDecoder::PackedDecoder(const ModelConfig& c, const PackedOptions& o)
    : Decoder(c, o.pages, o.max_rows), table(param_table(c)), options(o) {
  for (const ParamTensor& tensor : table) {
    if (o.weights == WeightType::int8 && is_matrix(tensor) && tensor.cols > cpu::kMaxPackedC) {
      fail("%s has rows of %lld weights: int8 takes %d at most; take bf16", tensor.name.c_str(),
           static_cast<long long>(tensor.cols), cpu::kMaxPackedC);
    }
  }
}

bool PackedDecoder::is_matrix(const ParamTensor& tensor) {
  return tensor.role == Role::embedding || tensor.role == Role::weight || tensor.role == Role::head;
}

void PackedDecoder::check_scales(const ParamTensor& tensor, const cpu::PackedMatrix& matrix) {
  for (int o = 0; matrix.scales && o < matrix.OC; ++o) {
    if (!std::isfinite(matrix.scales[o])) {
      fail("%s has a weight in row %d that is not a finite number: int8 cannot hold it", tensor.name.c_str(), o);
    }
  }
}
