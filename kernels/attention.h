// Multi-head attention (Vaswani et al. 2017, section 3.2), HS = C / NH channels per head; causal: u <= t, else every u:
//   s[t,u] = q[t] . k[u] / sqrt(HS)     p[t,:] = softmax(s[t,:])     out[t] = sum_u drop(p[t,u]) v[u]
// `first` (B, T), unless null: a row holds several documents one after the other, and first[t] is where the document of
// position t begins (first[t] = t, or first[t-1]); causal attention then sees first[t] <= u <= t, as if each document
// had its own row.
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
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

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
void attention_forward(floatX* out,                // (B, T, C)
                       accumulate_t<floatX>* lse,  // (B, NH, T)  saved for backward
                       const floatX* inp,          // (B, T, 3, NH, HS)  q, k, v
                       const int32_t* first,       // (B, T)  null: a row is one document; only with causal
                       float dropout, uint64_t seed, uint64_t sequence, int B, int T, int C, int NH, bool causal) {
  using sum_t = accumulate_t<floatX>;
  const int HS = C / NH;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(HS));
  const int64_t row = 3 * static_cast<int64_t>(C);  // from one token to the next in inp
#pragma omp parallel for schedule(dynamic)
  for (int bh = 0; bh < B * NH; ++bh) {
    const int b = bh / NH, h = bh % NH;
    const floatX* q = inp + b * T * row + h * HS;
    const floatX* k = q + C;
    const floatX* v = k + C;
    floatX* y = out + static_cast<int64_t>(b) * T * C + h * HS;
    std::vector<sum_t> p(T);
    for (int t = 0; t < T; ++t) {
      const int begin = first ? first[static_cast<int64_t>(b) * T + t] : 0, seen = causal ? t + 1 : T;
      for (int u = begin; u < seen; ++u) p[u] = scale * dot(q + t * row, k + u * row, HS);
      const sum_t max = *std::max_element(p.begin() + begin, p.begin() + seen);
      sum_t sum = 0;
      for (int u = begin; u < seen; ++u) sum += p[u] = std::exp(p[u] - max);
      lse[static_cast<int64_t>(bh) * T + t] = max + std::log(sum);

      floatX* yt = y + static_cast<int64_t>(t) * C;
      std::fill(yt, yt + HS, floatX(0));
      for (int u = begin; u < seen; ++u) {
        const uint64_t element = (static_cast<uint64_t>(bh) * T + t) * T + u;
        const sum_t pu = p[u] / sum * dropout_factor<sum_t>(dropout, seed, sequence, element);
        const floatX* vu = v + u * row;
        for (int i = 0; i < HS; ++i) yt[i] += pu * vu[i];
      }
    }
  }
}

template <class floatX>
void attention_backward(floatX* dinp,                     // (B, T, 3, NH, HS)  =
                        const floatX* dout,               // (B, T, C)
                        const floatX* out,                // (B, T, C)
                        const accumulate_t<floatX>* lse,  // (B, NH, T)
                        const floatX* inp,                // (B, T, 3, NH, HS)
                        const int32_t* first,             // (B, T) or null
                        float dropout, uint64_t seed, uint64_t sequence, int B, int T, int C, int NH, bool causal) {
  using sum_t = accumulate_t<floatX>;
  const int HS = C / NH;
  const sum_t scale = 1 / std::sqrt(static_cast<sum_t>(HS));
  const int64_t row = 3 * static_cast<int64_t>(C);
#pragma omp parallel for schedule(dynamic)
  for (int bh = 0; bh < B * NH; ++bh) {
    const int b = bh / NH, h = bh % NH;
    const floatX* q = inp + b * T * row + h * HS;
    const floatX* k = q + C;
    const floatX* v = k + C;
    floatX* dq = dinp + b * T * row + h * HS;
    floatX* dk = dq + C;
    floatX* dv = dk + C;
    for (int t = 0; t < T; ++t) {
      for (floatX* d : {dq, dk, dv}) std::fill(d + t * row, d + t * row + HS, floatX(0));
    }
    for (int t = 0; t < T; ++t) {
      const floatX* qt = q + t * row;
      const floatX* dy = dout + (static_cast<int64_t>(b) * T + t) * C + h * HS;
      const floatX* y = out + (static_cast<int64_t>(b) * T + t) * C + h * HS;
      const sum_t log_sum = lse[static_cast<int64_t>(bh) * T + t];
      const sum_t dp_sum = dot(dy, y, HS);
      floatX* dqt = dq + t * row;
      const int begin = first ? first[static_cast<int64_t>(b) * T + t] : 0;
      for (int u = begin; u < (causal ? t + 1 : T); ++u) {
        const floatX* ku = k + u * row;
        const uint64_t element = (static_cast<uint64_t>(bh) * T + t) * T + u;
        const sum_t factor = dropout_factor<sum_t>(dropout, seed, sequence, element);
        const sum_t p = std::exp(scale * dot(qt, ku, HS) - log_sum);
        const sum_t dp = factor * dot(dy, v + u * row, HS);
        const sum_t ds = scale * p * (dp - dp_sum);
        floatX* dku = dk + u * row;
        floatX* dvu = dv + u * row;
        for (int i = 0; i < HS; ++i) {
          dqt[i] += ds * ku[i];
          dku[i] += ds * qt[i];
          dvu[i] += factor * p * dy[i];
        }
      }
    }
  }
}

}  // namespace cpu
