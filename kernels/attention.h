// Attention (Vaswani et al. 2017, section 3.2) of each head of queries to its head of keys and values
// (attention_shape.h); causal: u <= t, else every u:
//   s[t,u] = q[t] . k[u] / sqrt(HS)     p[t,:] = softmax(s[t,:])     out[t] = sum_u drop(p[t,u]) v[u]
// `documents` (B, T), unless null: a row holds several documents one after the other, and documents[t] is where that of
// position t begins (documents[t] = t, or documents[t-1]); attention, which must be causal, then sees documents[t] <= u
// <= t, as if each document had its own row.
//
// drop zeroes a probability with chance `dropout` and scales the others by 1 / (1 - dropout). Number
// ((b*NH + h)*T + t)*T + u of Philox's (seed, sequence) decides whether (t, u) stays, so backward recomputes the mask.
//
// Nothing of size T x T is kept: only lse[t] = log(sum_u exp(s[t,u])), from which p[t,u] = exp(s[t,u] - lse[t]).
//
// Backward, with m[t,u] the mask's factor (0 or 1 / (1 - dropout)):
//   dv[u] += m p dout[t]       dp = m (dout[t] . v[u])
//   ds = p (dp - sum_w p[t,w] dp[t,w]),  where that sum is dout[t] . out[t]  (Dao et al. 2022, appendix B.4)
//   dq[t] += ds k[u] / sqrt(HS)      dk[u] += ds q[t] / sqrt(HS)
// dk and dv sum over the heads of queries that share them, from the first to the last.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention_shape.h"
#include "kernels/common.h"
#include "kernels/philox.h"

namespace cpu {

// The factor by which dropout multiplies element i: 0, or 1 / (1 - dropout).
template <class floatX>
floatX dropout_factor(float dropout, uint64_t seed, uint64_t sequence, uint64_t i) {
  if (dropout == 0) return 1;
  return philox_uniform(seed, sequence, i) < dropout ? floatX(0) : floatX(1) / (floatX(1) - floatX(dropout));
}

template <class floatX>
floatX dot(const floatX* a, const floatX* b, int n) {
  floatX sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class floatX>
void attention_forward(floatX* out,                   // (B, T, NH, HS)
                       accumulate_t<floatX>* lse,     // (B, NH, T)  saved for backward
                       const Qkv<const floatX>& inp,  // q, k, v
                       float dropout, uint64_t seed, uint64_t sequence, const AttentionShape& s) {
  using sum_t = accumulate_t<floatX>;
  const int T = s.T, HS = s.HS;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(HS));
#pragma omp parallel for schedule(dynamic)
  for (int bh = 0; bh < s.B * s.NH; ++bh) {
    const int64_t b = bh / s.NH, h = bh % s.NH, kv_start = b * T * inp.kv_row + h / s.sharing() * HS;
    const floatX* q = inp.q + b * T * inp.q_row + h * HS;
    const floatX *k = inp.k + kv_start, *v = inp.v + kv_start;
    floatX* y = out + (b * T * s.NH + h) * HS;
    std::vector<sum_t> p(T);
    for (int t = 0; t < T; ++t) {
      const int begin = s.documents ? s.documents[b * T + t] : 0, seen = s.causal ? t + 1 : T;
      for (int u = begin; u < seen; ++u) p[u] = scale * dot(q + t * inp.q_row, k + u * inp.kv_row, HS);
      const sum_t max = *std::max_element(p.begin() + begin, p.begin() + seen);
      sum_t sum = 0;
      for (int u = begin; u < seen; ++u) sum += p[u] = std::exp(p[u] - max);
      lse[static_cast<int64_t>(bh) * T + t] = max + std::log(sum);

      floatX* yt = y + static_cast<int64_t>(t) * s.channels();
      std::fill(yt, yt + HS, floatX(0));
      for (int u = begin; u < seen; ++u) {
        const uint64_t element = (static_cast<uint64_t>(bh) * T + t) * T + u;
        const sum_t pu = p[u] / sum * dropout_factor<sum_t>(dropout, seed, sequence, element);
        const floatX* vu = v + u * inp.kv_row;
        for (int i = 0; i < HS; ++i) yt[i] += pu * vu[i];
      }
    }
  }
}

template <class floatX>
void attention_backward(const Qkv<floatX>& dinp,          // =
                        const floatX* dout,               // (B, T, NH, HS)
                        const floatX* out,                // (B, T, NH, HS)
                        const accumulate_t<floatX>* lse,  // (B, NH, T)
                        const Qkv<const floatX>& inp,     // q, k, v
                        float dropout, uint64_t seed, uint64_t sequence, const AttentionShape& s) {
  using sum_t = accumulate_t<floatX>;
  const int T = s.T, HS = s.HS;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(HS));
#pragma omp parallel for schedule(dynamic)
  for (int b_kv = 0; b_kv < s.B * s.NKV; ++b_kv) {
    const int64_t b = b_kv / s.NKV, kv = b_kv % s.NKV;
    const floatX *k = inp.k + b * T * inp.kv_row + kv * HS, *v = inp.v + b * T * inp.kv_row + kv * HS;
    floatX *dk = dinp.k + b * T * dinp.kv_row + kv * HS, *dv = dinp.v + b * T * dinp.kv_row + kv * HS;
    for (int t = 0; t < T; ++t) {
      for (floatX* d : {dk, dv}) std::fill_n(d + t * dinp.kv_row, HS, floatX(0));
    }
    for (int64_t h = kv * s.sharing(); h < (kv + 1) * s.sharing(); ++h) {
      const int64_t bh = b * s.NH + h;
      for (int t = 0; t < T; ++t) {
        const int64_t row = b * T + t;
        const floatX* qt = inp.q + row * inp.q_row + h * HS;
        const floatX* dy = dout + (row * s.NH + h) * HS;
        const sum_t log_sum = lse[bh * T + t];
        const sum_t dp_sum = dot(dy, out + (row * s.NH + h) * HS, HS);
        floatX* dqt = dinp.q + row * dinp.q_row + h * HS;
        std::fill(dqt, dqt + HS, floatX(0));
        for (int u = s.documents ? s.documents[row] : 0; u < (s.causal ? t + 1 : T); ++u) {
          const floatX* ku = k + u * inp.kv_row;
          const uint64_t element = (static_cast<uint64_t>(bh) * T + t) * T + u;
          const sum_t factor = dropout_factor<sum_t>(dropout, seed, sequence, element);
          const sum_t p = std::exp(scale * dot(qt, ku, HS) - log_sum);
          const sum_t dp = factor * dot(dy, v + u * inp.kv_row, HS);
          const sum_t ds = scale * p * (dp - dp_sum);
          floatX *dku = dk + u * dinp.kv_row, *dvu = dv + u * dinp.kv_row;
          for (int i = 0; i < HS; ++i) {
            dqt[i] += ds * ku[i];
            dku[i] += ds * qt[i];
            dvu[i] += factor * p * dy[i];
          }
        }
      }
    }
  }
}

}  // namespace cpu
