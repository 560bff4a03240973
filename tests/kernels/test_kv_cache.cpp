#include <cmath>

#include "kernels/kv_cache.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("keys and values go to their sequence, head and position; earlier entries stay") {
  const int B = 2, NH = 3, HS = 5, max_T = 7, C = NH * HS;
  Doubles k(B * NH * max_T * HS, 0.5), v(k);
  int first = 0;
  for (const int T : {4, 1, 2}) {
    const Doubles inp = random_tensor(static_cast<size_t>(B) * T * 3 * C, static_cast<uint64_t>(T));
    const Doubles k_before = k, v_before = v;
    Doubles q(static_cast<size_t>(B) * T * C, std::nan(""));
    cpu::kv_cache_append(T == 2 ? nullptr : q.data(), k.data(), v.data(), inp.data(), first, B, T, NH, HS, max_T);
    for (int b = 0; b < B; ++b) {
      for (int h = 0; h < NH; ++h) {
        for (int t = 0; t < max_T; ++t) {
          for (int i = 0; i < HS; ++i) {
            const int at = ((b * NH + h) * max_T + t) * HS + i, token = b * T + t - first, c = h * HS + i;
            const bool is_new = t >= first && t < first + T;
            REQUIRE(k[at] == (is_new ? inp[(token * 3 + 1) * C + c] : k_before[at]));
            REQUIRE(v[at] == (is_new ? inp[(token * 3 + 2) * C + c] : v_before[at]));
            if (is_new && T != 2) REQUIRE(q[token * C + c] == inp[token * 3 * C + c]);
          }
        }
      }
    }
    first += T;
  }
}
