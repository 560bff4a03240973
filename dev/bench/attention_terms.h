// The size of the terms of attention's sums: tests and benchmarks of its kernels compare their differences with it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/attention.h"

// Root of the sum of squares of the terms of each sum: the rms of such a sum if the signs were random. Elements differ
// (row 0 of out is one term, row 100 a mean of 101), so each has its own. dinp's terms contain ds = p (dp - delta),
// where the two sometimes nearly cancel: `parts` counts them separately, with the sizes at which float rounded them.
struct AttentionTerms {
  std::vector<double> out, dinp, parts;
};

inline AttentionTerms attention_terms(const std::vector<double>& x,    // packed_qkv()
                                      const std::vector<double>& dy,   // dout (B, T, NH, HS)
                                      const std::vector<double>& y,    // out (B, T, NH, HS)
                                      const std::vector<double>& lse,  // (B, NH, T)
                                      float dropout, uint64_t seed, uint64_t sequence, const AttentionShape& s) {
  const size_t T = s.T, NH = s.NH, HS = s.HS, C = s.channels(), row = s.packed_channels();
  AttentionTerms terms{std::vector<double>(y.size()), std::vector<double>(x.size()), std::vector<double>(x.size())};
  const double scale = 1 / std::sqrt(s.HS);
  const auto add = [](double& sum, double term) { sum += term * term; };
  for (size_t bh = 0; bh < static_cast<size_t>(s.B) * NH; ++bh) {
    for (size_t t = 0; t < T; ++t) {
      const size_t begin = s.documents ? static_cast<size_t>(s.documents[bh / NH * T + t]) : 0;
      for (size_t u = begin; u < (s.causal ? t + 1 : T); ++u) {
        const size_t token = bh / NH * T, head = bh % NH * HS, kv_head = bh % NH / s.sharing() * HS;
        const size_t q = (token + t) * row + head, k = (token + u) * row + C + kv_head, v = k + s.kv_channels();
        const size_t o = (token + t) * C + head;
        double score = 0, dp = 0, delta = 0, dp_squares = 0, delta_squares = 0;
        for (size_t i = 0; i < HS; ++i) {
          score += x[q + i] * x[k + i];
          dp += dy[o + i] * x[v + i];
          delta += dy[o + i] * y[o + i];
          add(dp_squares, dy[o + i] * x[v + i]);
          add(delta_squares, dy[o + i] * y[o + i]);
        }
        const double factor = cpu::dropout_factor<double>(dropout, seed, sequence, (bh * T + t) * T + u);
        const double p = std::exp(score * scale - lse[bh * T + t]), ds = p * (factor * dp - delta) * scale;
        const double parts = p * (factor * std::sqrt(dp_squares) + std::sqrt(delta_squares)) * scale;
        for (size_t i = 0; i < HS; ++i) {
          add(terms.out[o + i], factor * p * x[v + i]);
          add(terms.dinp[q + i], ds * x[k + i]);
          add(terms.dinp[k + i], ds * x[q + i]);
          add(terms.dinp[v + i], factor * p * dy[o + i]);
          add(terms.parts[q + i], parts * x[k + i]);
          add(terms.parts[k + i], parts * x[q + i]);
          add(terms.parts[v + i], factor * p * dy[o + i]);
        }
      }
    }
  }
  for (std::vector<double>* squares : {&terms.out, &terms.dinp, &terms.parts}) {
    for (double& value : *squares) value = std::sqrt(value);
  }
  return terms;
}

// The allowed error of an element, except for the storage of the result:
//   4 u sqrt(K) parts   for sums in float (docs/testing.md), K = T + HS: over keys, of products of HS channels
//   4 u terms           with u = 2^-8 where p and ds are rounded to bf16 before the second product: n roundings of at
//                       most u of a term each, independent of each other, add up to less than u times the terms' root
//                       of the sum of squares (half of it on average); four times that for the largest of many
// and K / 16 2^-24 terms, because the tensor cores that add there truncate their sums (docs/testing.md).
inline double attention_tolerance(double parts, double terms, double K, bool rounded_factors) {
  return 4 * 0x1p-24 * std::sqrt(K) * parts + (rounded_factors ? (4 * 0x1p-8 + K / 16 * 0x1p-24) * terms : 0);
}
