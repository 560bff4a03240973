#include <tuple>

#include "kernels/attention.h"
#include "kernels/attention_decode.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/page_table.h"

TEST_CASE("rows of attention_decode are those of attention_forward") {
  for (const auto& [T, NH, NKV, HS] : {std::tuple{1, 1, 1, 1}, std::tuple{7, 3, 3, 5}, std::tuple{33, 2, 2, 16},
                                       std::tuple{70, 4, 2, 5}, std::tuple{9, 4, 1, 3}}) {
    const int B = 2, C = NH * HS, layers = 2, layer = 1;
    const AttentionShape s{B, T, NH, NKV, HS}, rows{3, 1, NH, NKV, HS};
    const Doubles inp = random_tensor(static_cast<size_t>(s.tokens()) * s.packed_channels(), 1, 2);
    Doubles out(static_cast<size_t>(B) * T * C), lse(static_cast<size_t>(B) * NH * T);
    cpu::attention_forward(out.data(), lse.data(), packed_qkv(inp.data(), s), 0, 0, 0, s);

    // The last token of both sequences, and one of the second's before it.
    const PageTable table({T - 1, T / 2, T - 1}, {0, 1, 1}, 3);
    Doubles cache(table.elements(layers, rows), std::nan(""));  // other layers, and beyond the sequences: not read
    const auto row_of = [&](int b, int t) { return inp.begin() + (int64_t{b} * T + t) * s.packed_channels(); };
    for (int b = 0; b < B; ++b) {
      for (int t = 0; t < T; ++t) {
        for (int c = 0; c < 2 * s.kv_channels(); ++c) {
          const size_t to = table.at(b, t, layer, layers, c / s.kv_channels(), c / HS % NKV, c % HS, s);
          cache[to] = row_of(b, t)[C + c];
        }
      }
    }
    Doubles q, y(3 * static_cast<size_t>(C));
    for (size_t n = 0; n < 3; ++n) {  // rows of 2 C: what follows a query is not read
      const auto from = row_of(table.sequences[n], table.positions[n]);
      q.insert(q.end(), from, from + C);
      q.insert(q.end(), static_cast<size_t>(C), std::nan(""));
    }
    cpu::attention_decode<double>(y.data(), cache.data(), {q.data(), nullptr, nullptr, 2 * C, 0}, table.rows(), layer,
                                  layers, rows);
    for (int n = 0; n < 3; ++n) {
      const size_t k = static_cast<size_t>(n);
      const auto expected = out.begin() + (int64_t{table.sequences[k]} * T + table.positions[k]) * C;
      CHECK(max_difference(Doubles(y.begin() + n * C, y.begin() + (n + 1) * C), Doubles(expected, expected + C)) <
            1e-14);
    }
  }
}
