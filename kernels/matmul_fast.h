// matmul.h by oneDNN's sgemm (row-major, transposes by flag, beta = 1 accumulates). Bit-stable for a given number of
// threads. Only where oneDNN was found (WROUGHT_ONEDNN), and only for float; all else runs the plain loops.
#pragma once

#include "kernels/matmul.h"

#ifdef WROUGHT_ONEDNN
#include <dnnl.h>
#endif

namespace cpu::fast {

template <class floatX>
void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, const floatX* bias, int N, int C, int OC) {
  cpu::matmul_forward(out, inp, weight, bias, N, C, OC);
}

template <class floatX>
void matmul_backward(floatX* dinp, floatX* dweight, floatX* dbias, const floatX* dout, const floatX* inp,
                     const floatX* weight, int N, int C, int OC) {
  cpu::matmul_backward(dinp, dweight, dbias, dout, inp, weight, N, C, OC);
}

#ifdef WROUGHT_ONEDNN

inline void matmul_forward(float* out, const float* inp, const float* weight, const float* bias, int N, int C, int OC) {
  if (bias) {
#pragma omp parallel for
    for (int n = 0; n < N; ++n) std::copy(bias, bias + OC, out + static_cast<int64_t>(n) * OC);
  }
  dnnl_sgemm('N', 'T', N, OC, C, 1.0f, inp, C, weight, C, bias ? 1.0f : 0.0f, out, OC);
}

inline void matmul_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp,
                            const float* weight, int N, int C, int OC) {
  if (dinp) dnnl_sgemm('N', 'N', N, C, OC, 1.0f, dout, OC, weight, C, 0.0f, dinp, C);
  if (dweight) dnnl_sgemm('T', 'N', OC, C, N, 1.0f, dout, OC, inp, C, 1.0f, dweight, C);
  if (dbias) cpu::bias_backward(dbias, dout, N, OC);
}

#endif

}  // namespace cpu::fast
