#include "kernels/take_rows.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("rows are taken in the order in which they are named, also more than once") {
  const int C = 5;
  const Doubles inp = random_tensor(4 * C, 1);
  const std::vector<int32_t> rows = {3, 0, 0, 2};
  Doubles out(4 * C), expected;
  for (const int row : rows) expected.insert(expected.end(), inp.begin() + row * C, inp.begin() + (row + 1) * C);
  cpu::take_rows(out.data(), inp.data(), rows.data(), 4, C);
  CHECK(same_bits(out, expected));
}
