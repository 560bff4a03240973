// matmul.h by oneDNN's sgemm (row-major, transposes by flag, beta = 1 accumulates). Bit-stable for a given number of
// threads. Only where oneDNN was found (WROUGHT_ONEDNN).
#pragma once

#include "kernels/matmul.h"

#ifdef WROUGHT_ONEDNN
#include <dnnl.h>

#include <stdexcept>

namespace cpu::fast {

// c (M, N) = op(a) (M, K) @ op(b) (K, N) + beta c
inline void sgemm(char op_a, char op_b, int M, int N, int K, const float* a, int lda, const float* b, int ldb,
                  float beta, float* c) {
  if (dnnl_sgemm(op_a, op_b, M, N, K, 1.0f, a, lda, b, ldb, beta, c, N) != dnnl_success) {
    throw std::runtime_error("oneDNN failed to multiply matrices, most likely for want of memory");
  }
}

inline void matmul_forward(float* out, const float* inp, const float* weight, const float* bias, int N, int C, int OC) {
  if (bias) {
#pragma omp parallel for
    for (int n = 0; n < N; ++n) std::copy(bias, bias + OC, out + static_cast<int64_t>(n) * OC);
  }
  sgemm('N', 'T', N, OC, C, inp, C, weight, C, bias ? 1.0f : 0.0f, out);
}

inline void matmul_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp,
                            const float* weight, int N, int C, int OC) {
  if (dinp) sgemm('N', 'N', N, C, OC, dout, OC, weight, C, 0.0f, dinp);
  if (dweight) sgemm('T', 'N', OC, C, N, dout, OC, inp, C, 1.0f, dweight);
  if (dbias) cpu::bias_backward(dbias, dout, N, OC);
}

}  // namespace cpu::fast

#endif  // WROUGHT_ONEDNN
