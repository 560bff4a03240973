#include "kernels/gelu.cuh"
#include "kernels/gelu.h"
#include "tests/helpers/device.h"

// Rounding x, its cube and their sum changes the exponential's argument by a few units, and the result by that number
// times dy/du < |x| + 1: an absolute bound, as gelu itself vanishes on the left. Then the rounding to floatX.
template <class floatX>
void check_gelu(const std::vector<floatX>& actual, const Doubles& expected, const Doubles& factor, const Doubles& x) {
  const Doubles a = to_numbers(actual);
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CAPTURE(x[i]);
    CAPTURE(expected[i]);
    const double scale = std::abs(factor[i]) * (std::abs(x[i]) < 20 ? std::abs(x[i]) + 1 : 0);  // beyond: x, 0 or 1
    REQUIRE(std::abs(a[i] - expected[i]) <= 4 * 0x1p-24 * scale + unit_roundoff<floatX>() * std::abs(expected[i]));
  }
}

TEST_CASE_TEMPLATE("gelu on the device against the CPU", floatX, float, bf16) {
  for (const int64_t N : {1, 5, 8, 33, 1000, 2051}) {
    for (const Shift shift : shifts(4, N == 33)) {
      CAPTURE(N);
      CAPTURE(shift.tensor);
      CAPTURE(shift.all);
      auto inp = random_storage<floatX>(N, 1, 5);
      if (N > 5) {  // where the exponential is 0 or infinite, and where x^3 is large
        const auto extremes = to_storage<floatX>({30, -30, 1e6f, -1e6f, 0});
        std::copy(extremes.begin(), extremes.end(), inp.begin());
      }
      const auto dout = random_storage<floatX>(N, 2);
      const Doubles x = to_numbers(inp), dy = to_numbers(dout);
      Doubles expected(N), expected_dinp(N);
      cpu::gelu_forward(expected.data(), x.data(), N);
      cpu::gelu_backward(expected_dinp.data(), dy.data(), x.data(), N);

      const DeviceArray<floatX> from(inp, shift[0]), from_dout(dout, shift[1]), to(N, shift[2]), dinp(N, shift[3]);
      gelu_forward(to.data(), from.data(), N, nullptr);
      check_gelu(to.host(), expected, Doubles(N, 1), x);
      gelu_backward(dinp.data(), from_dout.data(), from.data(), N, nullptr);
      check_gelu(dinp.host(), expected_dinp, dy, x);
      gelu_backward(from_dout.data(), from_dout.data(), from.data(), N, nullptr);  // in place
      CHECK(same_bits(from_dout.host(), dinp.host()));
    }
  }
  check_ran<floatX>("gelu_forward_kernel<floatX, true");
  check_ran<floatX>("gelu_backward_kernel<floatX, true");
}

TEST_CASE("gelu does not depend on the schedule") {
  const int64_t N = 2051;
  const DeviceArray<float> from(random_storage<float>(N, 1, 3)), dout(random_storage<float>(N, 2)), to(2 * N);
  same_under_all_schedules([&] {
    gelu_forward(to.data(), from.data(), N, nullptr);
    gelu_backward(to.data() + N, dout.data(), from.data(), N, nullptr);
    return to.host();
  });
}
