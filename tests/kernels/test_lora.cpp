#include "kernels/lora.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("an adapter's columns are added and taken, scaled, and other columns are not touched") {
  const int N = 3, OC = 5, stride = 12, column = 4;
  const Doubles before = random_tensor(static_cast<size_t>(N) * stride, 1), part = random_tensor(N * OC, 2);
  Doubles wide = before, taken(N * OC);
  cpu::lora_add(wide.data() + column, part.data(), 0.5f, N, OC, stride);
  cpu::lora_take(taken.data(), wide.data() + column, 2.0f, N, OC, stride);
  for (int n = 0; n < N; ++n) {
    for (int c = 0; c < stride; ++c) {
      const bool inside = c >= column && c < column + OC;
      const double added = inside ? 0.5 * part[n * OC + c - column] : 0;
      CHECK(wide[n * stride + c] == before[n * stride + c] + added);
      if (inside) CHECK(taken[n * OC + c - column] == 2 * wide[n * stride + c]);
    }
  }
}
