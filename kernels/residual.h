// The residual connection:  out = inp1 + inp2, where inp1 is the stream and inp2 a sublayer's output.
//
// Backward has no function: both inputs get dout. The stream's gradient lives in one buffer through the whole network,
// to which layernorm adds its part, so it is the gradient of inp1 in place, and a sublayer reads it as the gradient of
// inp2.
#pragma once

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

}  // namespace cpu
