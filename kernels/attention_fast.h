// attention.h by tiles of kRows queries: scores, outputs and gradients are small matrix products (oneDNN's sgemm on one
// thread, one head of one sequence per task), the softmax between them runs on vectors. A tile of scores is (kRows, T);
// keys beyond the tile's last query are never multiplied.
#pragma once

#include <stdexcept>

#include "kernels/attention.h"
#include "kernels/exp_fast.h"

#ifdef WROUGHT_ONEDNN
#include <dnnl.h>

namespace cpu::fast {

inline constexpr int kRows = 64;  // queries of a tile

// drop(p): what p of query t and keys [0, t] is multiplied by; leaves p alone where dropout is 0.
inline void multiply_dropout(float* p, int t, int T, int64_t bh, float dropout, uint64_t seed, uint64_t sequence) {
  if (dropout == 0) return;
  const uint64_t element =
      (static_cast<uint64_t>(bh) * static_cast<uint64_t>(T) + static_cast<uint64_t>(t)) * static_cast<uint64_t>(T);
  for (int u = 0; u <= t; ++u)
    p[u] *= dropout_factor<float>(dropout, seed, sequence, element + static_cast<uint64_t>(u));
}

inline void attention_forward(float* out, float* lse, const float* inp, float dropout, uint64_t seed, uint64_t sequence,
                              int B, int T, int C, int NH) {
  const int HS = C / NH, row = 3 * C;
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
  for (int bh = 0; bh < B * NH; ++bh) {
    const int b = bh / NH, h = bh % NH;
    const float* q = inp + static_cast<int64_t>(b) * T * row + h * HS;
    const float *k = q + C, *v = k + C;
    float* y = out + static_cast<int64_t>(b) * T * C + h * HS;
    std::vector<float> scores(static_cast<size_t>(std::min(kRows, T)) * static_cast<size_t>(T));
    for (int t0 = 0; t0 < T; t0 += kRows) {
      const int U = std::min(T, t0 + kRows), R = U - t0;  // keys, queries
      float* s = scores.data();                           // (R, U)
      failed |= dnnl_sgemm('N', 'T', R, U, HS, scale, q + static_cast<int64_t>(t0) * row, row, k, row, 0, s, U);
      for (int t = t0; t < U; ++t) {
        float* p = s + static_cast<int64_t>(t - t0) * U;
        float max = p[0], sum = 0;
#pragma omp simd reduction(max : max)
        for (int u = 0; u <= t; ++u) max = std::max(max, p[u]);
#pragma omp simd reduction(+ : sum)
        for (int u = 0; u <= t; ++u) sum += p[u] = exp(p[u] - max);
        lse[static_cast<int64_t>(bh) * T + t] = max + std::log(sum);
        const float inverse = 1 / sum;
#pragma omp simd
        for (int u = 0; u <= t; ++u) p[u] *= inverse;
        std::fill(p + t + 1, p + U, 0.0f);
        multiply_dropout(p, t, T, bh, dropout, seed, sequence);
      }
      failed |= dnnl_sgemm('N', 'N', R, HS, U, 1, s, U, v, row, 0, y + static_cast<int64_t>(t0) * C, C);
    }
  }
  if (failed) throw std::runtime_error("oneDNN failed to multiply matrices, most likely for want of memory");
}

inline void attention_backward(float* dinp, const float* dout, const float* out, const float* lse, const float* inp,
                               float dropout, uint64_t seed, uint64_t sequence, int B, int T, int C, int NH) {
  const int HS = C / NH, row = 3 * C;
  const float scale = 1 / std::sqrt(static_cast<float>(HS));
  int failed = 0;
#pragma omp parallel for schedule(dynamic) reduction(| : failed)
  for (int bh = 0; bh < B * NH; ++bh) {
    const int b = bh / NH, h = bh % NH;
    const int64_t at = static_cast<int64_t>(b) * T * row + h * HS;
    const float *q = inp + at, *k = q + C, *v = k + C;
    float *dq = dinp + at, *dk = dq + C, *dv = dk + C;
    const size_t tile = static_cast<size_t>(std::min(kRows, T)) * static_cast<size_t>(T);
    std::vector<float> probabilities(tile), gradients(tile);
    // From the last tile, which has all the keys and sets dk and dv, to the first; the others add.
    for (int t0 = (T - 1) / kRows * kRows; t0 >= 0; t0 -= kRows) {
      const int U = std::min(T, t0 + kRows), R = U - t0;
      const float beta = U == T ? 0.0f : 1.0f;
      const float* qt = q + static_cast<int64_t>(t0) * row;
      const int64_t row_out = (static_cast<int64_t>(b) * T + t0) * C + h * HS;
      const float *dy = dout + row_out, *y = out + row_out;
      float *p = probabilities.data(), *ds = gradients.data();  // (R, U)
      failed |= dnnl_sgemm('N', 'T', R, U, HS, scale, qt, row, k, row, 0, p, U);
      failed |= dnnl_sgemm('N', 'T', R, U, HS, 1, dy, C, v, row, 0, ds, U);  // dp, without its mask yet
      for (int t = t0; t < U; ++t) {
        const int64_t r = t - t0;
        float *pt = p + r * U, *dst = ds + r * U;
        const float log_sum = lse[static_cast<int64_t>(bh) * T + t], dp_sum = dot(dy + r * C, y + r * C, HS);
        multiply_dropout(dst, t, T, bh, dropout, seed, sequence);
#pragma omp simd
        for (int u = 0; u <= t; ++u) {
          pt[u] = exp(pt[u] - log_sum);
          dst[u] = scale * pt[u] * (dst[u] - dp_sum);
        }
        std::fill(pt + t + 1, pt + U, 0.0f);
        std::fill(dst + t + 1, dst + U, 0.0f);
        multiply_dropout(pt, t, T, bh, dropout, seed, sequence);  // now what multiplied v
      }
      failed |= dnnl_sgemm('T', 'N', U, HS, R, 1, p, U, dy, C, beta, dv, row);
      failed |= dnnl_sgemm('T', 'N', U, HS, R, 1, ds, U, qt, row, beta, dk, row);
      failed |= dnnl_sgemm('N', 'N', R, HS, U, 1, ds, U, k, row, 0, dq + static_cast<int64_t>(t0) * row, row);
    }
  }
  if (failed) throw std::runtime_error("oneDNN failed to multiply matrices, most likely for want of memory");
}

}  // namespace cpu::fast

#endif  // WROUGHT_ONEDNN
