#include "kernels/cpu/simd.h"
#include "tests/helpers/finite_differences.h"

// Here: the vectors that every machine has. Wider ones are tested through the kernels built from them (test_gemm).
using namespace cpu::fast;

TEST_CASE("load_first reads exactly the given count of numbers") {
  for (int n = 0; n <= kLanes; ++n) {
    const Floats exact = random_tensor<float>(static_cast<size_t>(n), 1);  // ASan reports reads past its end
    const Vec v = load_first(exact.data(), n);
    for (int i = 0; i < kLanes; ++i) CHECK(v[i] == (i < n ? exact[static_cast<size_t>(i)] : 0));
  }
}

TEST_CASE("transpose swaps rows and columns") {
  Vec v[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) v[i][j] = static_cast<float>(10 * i + j);
  }
  transpose(v);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < kLanes; ++j) CHECK(v[i][j] == static_cast<float>(10 * j + i));
  }
}

TEST_CASE("unaligned loads and stores, and broadcast") {
  Floats values = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  store(&values[1], load(&values[3]) + broadcast(0.5f));
  for (int i = 0; i < kLanes; ++i) CHECK(values[static_cast<size_t>(1 + i)] == static_cast<float>(3 + i) + 0.5f);
}
