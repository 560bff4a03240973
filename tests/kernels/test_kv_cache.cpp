#include <cmath>

#include "kernels/kv_cache.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/page_table.h"

TEST_CASE("keys and values go to their page, layer, head and token; all else stays") {
  for (const int NH : {3, 6, 9}) {
    const int NKV = 3, HS = 5, layers = 3, layer = 1;
    // Two rows of one sequence across the border of a page, single ones at both ends of a page and in the middle.
    const PageTable table({31, 32, 0, 63, 70}, {2, 2, 0, 3, 1}, 7);
    const AttentionShape s{5, 1, NH, NKV, HS};
    const int row = s.packed_channels();
    const Doubles inp = random_tensor(5 * static_cast<size_t>(row), 1);
    Doubles cache(table.elements(layers, s), 0.5), expected = cache;
    for (int n = 0; n < 5; ++n) {
      for (int c = 0; c < 2 * NKV * HS; ++c) {
        const size_t k = static_cast<size_t>(n);
        expected[table.at(table.sequences[k], table.positions[k], layer, layers, c / (NKV * HS), c / HS % NKV, c % HS,
                          s)] = inp[static_cast<size_t>(n * row + NH * HS + c)];
      }
    }
    cpu::kv_cache_append(cache.data(), packed_qkv(inp.data(), s), table.rows(), layer, layers, s);
    CHECK(same_bits(cache, expected));
  }
}
