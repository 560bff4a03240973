// The residual connection:  out = inp1 + inp2, where inp1 is the stream and inp2 a sublayer's output.
//
// Backward: both inputs get dout. The stream's gradient lives in one buffer through the whole network (layernorm adds
// its part to it), so dinp1 is dout itself and needs no work; dinp2 is a copy that the sublayer may change.
#pragma once

#include <algorithm>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void residual_forward(floatX* out,         // (N)
                      const floatX* inp1,  // (N)
                      const floatX* inp2,  // (N)
                      int64_t N) {
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) out[i] = inp1[i] + inp2[i];
}

template <class floatX>
void residual_backward(floatX* dinp2,       // (N)  =
                       const floatX* dout,  // (N)  and dinp1, in place
                       int64_t N) {
#pragma omp parallel for
  for (int64_t i = 0; i < N; ++i) dinp2[i] = dout[i];
}

}  // namespace cpu
