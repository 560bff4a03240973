// Adding low-rank adapters (Hu et al. 2021) to the model. An adapter's own products are matmul.h's; its output is
// added, scaled, to columns of a wider tensor (queries, keys and values are columns of one):
//   add:   out[n,o] += scale * inp[n,o]        take:  out[n,o] = scale * inp[n,o]
// with `stride` from one row to the next of the wide tensor, which is out in add and inp in take. With h = x A^T,
//   forward    add(y, h B^T, alpha / rank)
//   backward   dpart = take(dy, alpha / rank)    dB += dpart^T h    dh = dpart B    dA += dh^T x    add(dx, dh A, 1)
#pragma once

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void lora_add(floatX* out,        // (N, stride), from its column on  +=
              const floatX* inp,  // (N, OC)
              float scale, int N, int OC, int stride) {
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    floatX* to = out + static_cast<int64_t>(n) * stride;
    const floatX* from = inp + static_cast<int64_t>(n) * OC;
    for (int o = 0; o < OC; ++o) to[o] += scale * from[o];
  }
}

template <class floatX>
void lora_take(floatX* out,        // (N, OC)  =
               const floatX* inp,  // (N, stride), from its column on
               float scale, int N, int OC, int stride) {
#pragma omp parallel for
  for (int n = 0; n < N; ++n) {
    floatX* to = out + static_cast<int64_t>(n) * OC;
    const floatX* from = inp + static_cast<int64_t>(n) * stride;
    for (int o = 0; o < OC; ++o) to[o] = scale * from[o];
  }
}

}  // namespace cpu
