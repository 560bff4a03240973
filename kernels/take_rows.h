// Some rows of a matrix:  out[i] = inp[rows[i]]. What the head of a model reads if few logits are wanted.
#pragma once

#include <algorithm>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void take_rows(floatX* out,          // (n, C)
               const floatX* inp,    // (N, C)
               const int32_t* rows,  // (n)  in [0, N)
               int n, int C) {
  for (int64_t i = 0; i < n; ++i) std::copy_n(inp + int64_t{rows[i]} * C, C, out + i * C);
}

}  // namespace cpu
