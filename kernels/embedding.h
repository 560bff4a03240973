// Token and position embedding:  out[b,t] = wte[inp[b,t]] + wpe[t]. Where a row holds several documents (`first`,
// attention.h), positions begin anew with each: wpe[t - first[b,t]].
//
// Backward adds each dout row to the rows of its token and of its position. Tokens repeat, so the work is divided by
// channels, not by rows: every element of dwte has one owner, which adds in the order of (b, t).
#pragma once

#include <algorithm>

#include "kernels/common.h"

namespace cpu {

template <class floatX>
void embedding_forward(floatX* out,           // (B, T, C)
                       const int32_t* inp,    // (B, T)  in [0, V)
                       const floatX* wte,     // (V, C)
                       const floatX* wpe,     // (>= T, C)
                       const int32_t* first,  // (B, T)  null: a row is one document
                       int B, int T, int C) {
#pragma omp parallel for
  for (int bt = 0; bt < B * T; ++bt) {
    const floatX* token = wte + static_cast<int64_t>(inp[bt]) * C;
    const floatX* position = wpe + static_cast<int64_t>(bt % T - (first ? first[bt] : 0)) * C;
    floatX* row = out + static_cast<int64_t>(bt) * C;
    for (int c = 0; c < C; ++c) row[c] = token[c] + position[c];
  }
}

template <class floatX>
void embedding_backward(floatX* dwte,          // (V, C)  +=
                        floatX* dwpe,          // (>= T, C)  +=
                        const floatX* dout,    // (B, T, C)
                        const int32_t* inp,    // (B, T)
                        const int32_t* first,  // (B, T) or null
                        int B, int T, int C) {
  constexpr int kSlice = 16;  // channels per owner: one cache line of floats
#pragma omp parallel for
  for (int c0 = 0; c0 < C; c0 += kSlice) {
    const int c1 = std::min(C, c0 + kSlice);
    for (int bt = 0; bt < B * T; ++bt) {
      const floatX* row = dout + static_cast<int64_t>(bt) * C;
      floatX* token = dwte + static_cast<int64_t>(inp[bt]) * C;
      floatX* position = dwpe + static_cast<int64_t>(bt % T - (first ? first[bt] : 0)) * C;
      for (int c = c0; c < c1; ++c) {
        token[c] += row[c];
        position[c] += row[c];
      }
    }
  }
}

}  // namespace cpu
