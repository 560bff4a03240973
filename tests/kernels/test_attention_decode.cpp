#include <tuple>

#include "kernels/attention.h"
#include "kernels/attention_decode.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("attention_decode is the last row of attention_forward") {
  for (const auto& [T, NH, HS] : {std::tuple{1, 1, 1}, std::tuple{7, 3, 5}, std::tuple{33, 2, 16}}) {
    const int B = 2, C = NH * HS, max_T = T + 3;
    const Doubles inp = random_tensor(static_cast<size_t>(B) * T * 3 * C, 1, 2);
    Doubles out(static_cast<size_t>(B) * T * C), lse(static_cast<size_t>(B) * NH * T);
    cpu::attention_forward(out.data(), lse.data(), inp.data(), nullptr, 0, 0, 0, B, T, C, NH, true);

    const size_t row = static_cast<size_t>(max_T) * HS;
    Doubles q(static_cast<size_t>(B) * C), y(q.size());
    Doubles k(B * NH * row, std::nan("")), v(k);  // beyond the lengths: must not be read
    for (int b = 0; b < B; ++b) {
      for (int t = 0; t < T; ++t) {
        for (int c = 0; c < C; ++c) {
          const size_t from = (static_cast<size_t>(b) * T + t) * 3 * C + c;
          const size_t to = (static_cast<size_t>(b) * NH + c / HS) * row + static_cast<size_t>(t) * HS + c % HS;
          if (t == T - 1) q[static_cast<size_t>(b) * C + c] = inp[from];
          k[to] = inp[from + C];
          v[to] = inp[from + 2 * C];
        }
      }
    }
    const std::vector<int32_t> lengths(B, T);
    cpu::attention_decode(y.data(), q.data(), k.data(), v.data(), lengths.data(), B, NH, HS, max_T);
    for (int b = 0; b < B; ++b) {
      for (int c = 0; c < C; ++c) {
        const double expected = out[(static_cast<size_t>(b) * T + T - 1) * C + c];
        CHECK(std::abs(y[static_cast<size_t>(b) * C + c] - expected) < 1e-14);
      }
    }
  }
}
