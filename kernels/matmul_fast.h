// matmul.h by blocks and tiles (cpu/gemm.h).
#pragma once

#include <cmath>

#include "kernels/cpu/gemm.h"

namespace cpu::WROUGHT_ISA {

// Rows so few that packing the weights would cost more than the product: each output is a dot product.
inline constexpr int kFewRows = 3;

[[gnu::noinline]] inline float dot_product(const float* x, const float* w, int C) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int c = 0; c < C; ++c) sum += x[c] * w[c];
  return sum;
}

inline void multiply_few_rows(float* out, const float* inp, const float* weight, const float* bias, int N, int C,
                              int OC) {
  for_each_index(OC, static_cast<int64_t>(OC) * C > 50000, [&](int64_t o) {
    const float* w = weight + o * C;
    for (int64_t n = 0; n < N; ++n) {
      out[n * OC + o] = dot_product(inp + n * C, w, C) + (bias ? bias[o] : 0);
    }
  });
}

template <bool kBf16>
void matmul_forward(float* out, const float* inp, const float* weight, const float* bias, int N, int C, int OC) {
  if (N <= kFewRows) return multiply_few_rows(out, inp, weight, bias, N, C, OC);
  multiply<kBf16>(N, OC, C, {inp, C, false}, {weight, C, true}, {out, OC, bias, 0});
}

inline void bias_backward(float* dbias, const float* dout, int N, int OC) {
  constexpr int kSlice = 64;  // columns per owner
  for_each_index((OC + kSlice - 1) / kSlice, static_cast<int64_t>(N) * OC > 50000, [&](int64_t slice) {
    const int o0 = static_cast<int>(slice) * kSlice, width = std::min(kSlice, OC - o0);
    float sum[kSlice] = {};
    for (int n = 0; n < N; ++n) {
      const float* row = dout + static_cast<int64_t>(n) * OC + o0;
      if (width == kSlice) {
        for (int o = 0; o < kSlice; ++o) sum[o] += row[o];
      } else {
        for (int o = 0; o < width; ++o) sum[o] += row[o];
      }
    }
    for (int o = 0; o < width; ++o) dbias[o0 + o] += sum[o];
  });
}

template <bool kBf16>
void matmul_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp,
                     const float* weight, int N, int C, int OC) {
  if (dinp) multiply<kBf16>(N, C, OC, {dout, OC, false}, {weight, C, false}, {dinp, C, nullptr, 0});
  if (dweight) multiply<kBf16>(OC, C, N, {dout, OC, true}, {inp, C, false}, {dweight, C, dweight, C});
  if (dbias) bias_backward(dbias, dout, N, OC);
}

template <bool kBf16>
void matmul_dweight(float* dweight, double* squares, const float* dout, const float* inp, int N, int C, int OC) {
  multiply<kBf16>(OC, C, N, {dout, OC, true}, {inp, C, false}, {dweight, C, nullptr, 0}, squares);
}

}  // namespace cpu::WROUGHT_ISA
