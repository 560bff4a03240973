#include <cmath>

#include "kernels/kv_cache.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("keys and values go to their sequence, head and position; earlier entries stay") {
  for (const int NH : {3, 6, 9}) {
    const int B = 2, NKV = 3, HS = 5, max_T = 7, C = NH * HS, KV = NKV * HS;
    Doubles k(B * NKV * max_T * HS, 0.5), v(k);
    std::vector<int32_t> first = {0, -1};  // minus the tokens before, of each sequence
    for (const int T : {3, 1, 2}) {
      const AttentionShape s{B, T, NH, NKV, HS};
      const int row = s.packed_channels();
      const Doubles inp = random_tensor(static_cast<size_t>(B) * T * row, static_cast<uint64_t>(T));
      const Doubles k_before = k, v_before = v;
      Doubles q(static_cast<size_t>(B) * T * C, std::nan(""));
      cpu::kv_cache_append(T == 2 ? nullptr : q.data(), k.data(), v.data(), packed_qkv(inp.data(), s), first.data(), s,
                           max_T);
      for (int b = 0; b < B; ++b) {
        for (int h = 0; h < NKV; ++h) {
          for (int t = 0; t < max_T; ++t) {
            for (int i = 0; i < HS; ++i) {
              const int at = ((b * NKV + h) * max_T + t) * HS + i, token = b * T + t + first[b], c = h * HS + i;
              const bool is_new = t >= -first[b] && t < T - first[b];
              REQUIRE(k[at] == (is_new ? inp[token * row + C + c] : k_before[at]));
              REQUIRE(v[at] == (is_new ? inp[token * row + C + KV + c] : v_before[at]));
            }
          }
        }
      }
      for (int n = 0; n < B * T && T != 2; ++n) {
        for (int c = 0; c < C; ++c) REQUIRE(q[n * C + c] == inp[n * row + c]);
      }
      for (int32_t& f : first) f -= T;
    }
  }
}
