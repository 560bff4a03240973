// Packing and tiles, here with the vectors that every machine has; tests/kernels/test_matmul_fast.cpp covers every
// instruction set.
#include "kernels/cpu/gemm.h"
#include "tests/helpers/finite_differences.h"

using namespace cpu::fast;

TEST_CASE("panels share a block's rows evenly") {
  for (int rows = 1; rows <= kBlockRows; ++rows) {
    const Panels panels(rows);
    CHECK(panels.begin(0) == 0);
    CHECK(panels.begin(panels.count) == rows);
    for (int p = 0; p < panels.count; ++p) {
      const int size = panels.begin(p + 1) - panels.begin(p);
      CHECK(size >= 1);
      CHECK(size <= kTileRows);
    }
  }
}

TEST_CASE("A packed by rows and by columns holds the same numbers") {
  const int rows = 2 * kTileRows + 3, depth = 7;
  const Floats a = random_tensor<float>(static_cast<size_t>(rows * depth), 1);
  Floats transposed(a.size());
  for (int r = 0; r < rows; ++r) {
    for (int k = 0; k < depth; ++k)
      transposed[static_cast<size_t>(k * rows + r)] = a[static_cast<size_t>(r * depth + k)];
  }
  Floats by_rows(kPanels * kPanelStride), by_cols(kPanels * kPanelStride);
  pack_a<false>(by_rows.data(), {a.data(), depth, false}, 0, rows, 0, depth);
  pack_a<false>(by_cols.data(), {transposed.data(), rows, true}, 0, rows, 0, depth);
  const Panels panels(rows);
  for (int p = 0; p < panels.count; ++p) {
    for (int r = panels.begin(p); r < panels.begin(p + 1); ++r) {
      for (int k = 0; k < depth; ++k) {
        const float expected = a[static_cast<size_t>(r * depth + k)];
        CHECK(by_rows[static_cast<size_t>(r * kRowStride + k)] == expected);
        CHECK(by_cols[static_cast<size_t>(p * kPanelStride + k * kColStride + r - panels.begin(p))] == expected);
      }
    }
  }
}

TEST_CASE("a panel of B, from a matrix and from its transpose, has zeros after the last column") {
  for (const int cols : {1, kLanes - 1, kLanes, kLanes + 1, kTileCols}) {
    for (const int depth : {1, kLanes, 2 * kLanes + 1}) {
      CAPTURE(cols);
      CAPTURE(depth);
      const Floats b = random_tensor<float>(static_cast<size_t>(cols * depth), 1);
      Floats transposed(b.size()), packed(static_cast<size_t>(depth * kTileCols), -1), again = packed;
      for (int k = 0; k < depth; ++k) {
        for (int j = 0; j < cols; ++j) {
          transposed[static_cast<size_t>(j * depth + k)] = b[static_cast<size_t>(k * cols + j)];
        }
      }
      pack_b<false>(packed.data(), {b.data(), cols, false}, 0, cols, 0, depth);
      pack_b<false>(again.data(), {transposed.data(), depth, true}, 0, cols, 0, depth);
      CHECK(same_bits(packed, again));
      for (int k = 0; k < depth; ++k) {
        for (int j = 0; j < kTileCols; ++j) {
          CHECK(packed[static_cast<size_t>(k * kTileCols + j)] ==
                (j < cols ? b[static_cast<size_t>(k * cols + j)] : 0));
        }
      }
    }
  }
}

TEST_CASE("bits do not depend on the number of threads") {
  const int M = 301, N = 157, K = 701;
  const Floats a = random_tensor<float>(M * K, 1), b = random_tensor<float>(N * K, 2);
  check_thread_independence([&] {
    Floats c(M * N);
    multiply<false>(M, N, K, {a.data(), K, false}, {b.data(), K, true}, {c.data(), N, nullptr, 0});
    return c;
  });
}
