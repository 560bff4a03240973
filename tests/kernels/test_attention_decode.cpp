#include <tuple>

#include "kernels/attention.h"
#include "kernels/attention_decode.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("attention_decode is the last row of attention_forward") {
  for (const auto& [T, NH, NKV, HS] : {std::tuple{1, 1, 1, 1}, std::tuple{7, 3, 3, 5}, std::tuple{33, 2, 2, 16},
                                       std::tuple{7, 4, 2, 5}, std::tuple{9, 4, 1, 3}}) {
    const int B = 2, C = NH * HS, max_T = T + 3;
    const AttentionShape s{B, T, NH, NKV, HS};
    const Doubles inp = random_tensor(static_cast<size_t>(s.tokens()) * s.packed_channels(), 1, 2);
    Doubles out(static_cast<size_t>(B) * T * C), lse(static_cast<size_t>(B) * NH * T);
    cpu::attention_forward(out.data(), lse.data(), packed_qkv(inp.data(), s), 0, 0, 0, s);

    const size_t row = static_cast<size_t>(max_T) * HS;
    Doubles q(static_cast<size_t>(B) * C), y(q.size());
    Doubles k(B * NKV * row, std::nan("")), v(k);  // beyond the lengths: must not be read
    for (int b = 0; b < B; ++b) {
      for (int t = 0; t < T; ++t) {
        const auto from = inp.begin() + (static_cast<std::ptrdiff_t>(b) * T + t) * s.packed_channels();
        if (t == T - 1) std::copy_n(from, C, q.begin() + static_cast<std::ptrdiff_t>(b) * C);
        for (int c = 0; c < s.kv_channels(); ++c) {
          const size_t to = (static_cast<size_t>(b) * NKV + c / HS) * row + static_cast<size_t>(t) * HS + c % HS;
          k[to] = from[C + c];
          v[to] = from[C + s.kv_channels() + c];
        }
      }
    }
    const std::vector<int32_t> lengths(B, T);
    cpu::attention_decode(y.data(), q.data(), k.data(), v.data(), lengths.data(), B, NH, NKV, HS, max_T);
    for (int b = 0; b < B; ++b) {
      for (int c = 0; c < C; ++c) {
        const double expected = out[(static_cast<size_t>(b) * T + T - 1) * C + c];
        CHECK(std::abs(y[static_cast<size_t>(b) * C + c] - expected) < 1e-14);
      }
    }
  }
}
