#include <tuple>

#include "kernels/pool.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("pooling takes one position or the mean, and its gradient follows") {
  for (const auto& [B, T, C] : {std::tuple{1, 1, 1}, std::tuple{3, 5, 7}, std::tuple{2, 9, 33}}) {
    const size_t rows = static_cast<size_t>(B) * T, size = rows * C;
    Doubles inp = random_tensor(size, 1), out(static_cast<size_t>(B) * C);
    Floats weights(rows, 0);
    for (int b = 0; b < B; ++b) weights[b * T + (b + 2) % T] = 1;
    cpu::pool_forward(out.data(), inp.data(), weights.data(), B, T, C);
    for (int b = 0; b < B; ++b) {
      for (int c = 0; c < C; ++c) CHECK(out[b * C + c] == inp[(b * T + (b + 2) % T) * C + c]);
    }
    std::fill(weights.begin(), weights.end(), 1.0f / 4);
    cpu::pool_forward(out.data(), inp.data(), weights.data(), B, T, C);
    double sum = 0;
    for (int t = 0; t < T; ++t) sum += inp[t * C] / 4;
    CHECK(out[0] == doctest::Approx(sum).epsilon(1e-14));

    weights = random_tensor<float>(rows, 3);
    weights[0] = 0;
    const Doubles dout = random_tensor(out.size(), 2);
    Doubles dinp(size, std::numeric_limits<double>::quiet_NaN());  // dinp is set, not added to
    cpu::pool_backward(dinp.data(), dout.data(), weights.data(), B, T, C);
    check_gradient("inp", inp, dinp, [&] {
      cpu::pool_forward(out.data(), inp.data(), weights.data(), B, T, C);
      return dot_product(out, dout);
    });
  }
}
