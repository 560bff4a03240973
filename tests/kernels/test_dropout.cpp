#include "kernels/dropout.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("dropout zeroes its share and scales the rest") {
  const int64_t N = 100'003;
  const Doubles ones(N, 1);
  for (const float dropout : {0.1f, 0.5f, 0.9f}) {
    CAPTURE(dropout);
    Doubles out(N);
    cpu::dropout_forward(out.data(), ones.data(), dropout, 1, 2, N);
    const double kept = 1 / (1 - static_cast<double>(dropout));
    int64_t zeros = 0;
    for (const double x : out) {
      zeros += x == 0;
      if (x != 0) REQUIRE(x == kept);
    }
    // The share of N draws: five standard deviations. The mean of `out` is then one, within the same bound.
    CHECK(std::abs(static_cast<double>(zeros) / N - dropout) < 5 * std::sqrt(dropout * (1 - dropout) / N));
  }
}

TEST_CASE("dropout of zero changes nothing") {
  const Floats inp = random_tensor<float>(33, 1);
  Floats out(33);
  cpu::dropout_forward(out.data(), inp.data(), 0.0f, 1, 2, 33);
  CHECK(same_bits(out, inp));
}

TEST_CASE("dropout's gradient matches finite differences: backward draws the mask of forward, also in place") {
  for (const size_t N : {1, 3, 4, 33, 257}) {
    const auto n = static_cast<int64_t>(N);
    Doubles inp = random_tensor(N, 1);
    const Doubles dout = random_tensor(N, 2);
    Doubles dinp = random_tensor(N, 3), in_place = dout;
    cpu::dropout_backward(dinp.data(), dout.data(), 0.4f, 5, 6, n);
    cpu::dropout_backward(in_place.data(), in_place.data(), 0.4f, 5, 6, n);
    CHECK(same_bits(dinp, in_place));
    check_gradient("inp", inp, dinp, [&] {
      Doubles out(N);
      cpu::dropout_forward(out.data(), inp.data(), 0.4f, 5, 6, n);
      return dot_product(out, dout);
    });
  }
}

TEST_CASE("dropout's mask is that of philox_uniform, and differs for another seed or sequence") {
  const int64_t N = 67;
  const Floats ones(N, 1);
  Floats out(N), other(N);
  cpu::dropout_forward(out.data(), ones.data(), 0.5f, 1, 2, N);
  for (int64_t i = 0; i < N; ++i) REQUIRE((out[i] == 0) == (philox_uniform(1, 2, static_cast<uint64_t>(i)) < 0.5f));
  cpu::dropout_forward(other.data(), ones.data(), 0.5f, 1, 3, N);
  CHECK_FALSE(same_bits(out, other));
  cpu::dropout_forward(other.data(), ones.data(), 0.5f, 2, 2, N);
  CHECK_FALSE(same_bits(out, other));
}

TEST_CASE("dropout of a tensor's parts, one by one, equals dropout of the whole") {
  const Floats inp = random_tensor<float>(67, 1);
  Floats whole(67), parts(67);
  cpu::dropout_forward(whole.data(), inp.data(), 0.5f, 1, 2, 67);
  for (const auto& [first, N] : {std::pair(0, 1), {1, 2}, {3, 6}, {9, 4}, {13, 54}}) {
    cpu::dropout_part(&parts[first], &inp[first], 0.5f, 1, 2, first, N);
  }
  CHECK(same_bits(whole, parts));
}

TEST_CASE("dropout does not depend on the number of threads") {
  const int64_t N = 1003;
  const Floats inp = random_tensor<float>(N, 1);
  check_thread_independence([&] {
    Floats out(N);
    cpu::dropout_forward(out.data(), inp.data(), 0.3f, 1, 2, N);
    return out;
  });
}
