// Dropout (Srivastava et al. 2014): each element is zeroed with chance `dropout`, the others scaled by 1 / (1 -
// dropout). Whether element i stays is number i of Philox's (seed, sequence): backward is forward applied to the
// gradient, with no mask stored.
#pragma once

#include <algorithm>

#include "kernels/common.h"
#include "kernels/philox.h"

namespace cpu {

// Dropout on part of a tensor: its elements first to first + N - 1.
template <class floatX>
void dropout_part(floatX* out,        // (N)  may be inp itself
                  const floatX* inp,  // (N)
                  float dropout, uint64_t seed, uint64_t sequence, int64_t first, int64_t N) {
  const floatX scale = floatX(1) / (floatX(1) - floatX(dropout));
#pragma omp parallel for
  for (int64_t four = first / 4 * 4; four < first + N; four += 4) {
    const Philox4 random = philox4(seed, sequence, four / 4);
    for (int64_t i = std::max(four, first); i < std::min(four + 4, first + N); ++i) {
      out[i - first] = uniform_from_bits(random.word[i - four]) < dropout ? floatX(0) : inp[i - first] * scale;
    }
  }
}

template <class floatX>
void dropout_forward(floatX* out,        // (N)  may be inp itself
                     const floatX* inp,  // (N)
                     float dropout, uint64_t seed, uint64_t sequence, int64_t N) {
  dropout_part(out, inp, dropout, seed, sequence, 0, N);
}

template <class floatX>
void dropout_backward(floatX* dinp,        // (N)  =, may be dout itself
                      const floatX* dout,  // (N)
                      float dropout, uint64_t seed, uint64_t sequence, int64_t N) {
  dropout_forward(dinp, dout, dropout, seed, sequence, N);
}

}  // namespace cpu
