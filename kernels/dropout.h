// Dropout (Srivastava et al. 2014): each element is zeroed with chance `dropout`, the others scaled by 1 / (1 -
// dropout). Whether element i stays is number i of Philox's (seed, sequence): backward is forward applied to the
// gradient, with no mask stored.
#pragma once

#include "kernels/common.h"
#include "kernels/philox.h"

namespace cpu {

template <class floatX>
void dropout_forward(floatX* out,        // (N)  may be inp itself
                     const floatX* inp,  // (N)
                     float dropout, uint64_t seed, uint64_t sequence, int64_t N) {
  const floatX scale = floatX(1) / (floatX(1) - floatX(dropout));
#pragma omp parallel for
  for (int64_t i = 0; i < N; i += 4) {
    const Philox4 random = philox4(seed, sequence, i / 4);
    for (int64_t j = i; j < N && j < i + 4; ++j) {
      out[j] = uniform_from_bits(random.word[j - i]) < dropout ? floatX(0) : inp[j] * scale;
    }
  }
}

template <class floatX>
void dropout_backward(floatX* dinp,        // (N)  =, may be dout itself
                      const floatX* dout,  // (N)
                      float dropout, uint64_t seed, uint64_t sequence, int64_t N) {
  dropout_forward(dinp, dout, dropout, seed, sequence, N);
}

}  // namespace cpu
