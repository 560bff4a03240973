#include "tests/helpers/fast_kernels.h"

// The exact values are those of the plain kernel in double; rounding x, u and the exponential once each moves a value
// of size |x| by a few units of 2^-24.
TEST_CASE("fast GELU equals the plain one in double, from far left to far right of zero") {
  for (const int N : {1, 2, 15, 16, 17, 1000, 4099}) {
    Floats inp = random_tensor<float>(N, 1, 8);
    if (N >= 15) {
      inp[3] = 0;
      inp[4] = -1e-20f;
      inp[5] = 30;
      inp[6] = -30;
      inp[7] = 1e4f;
      inp[8] = -1e4f;
    }
    const Floats dout = random_tensor<float>(N, 2);
    const Doubles exact_inp(inp.begin(), inp.end()), exact_dout(dout.begin(), dout.end());
    Doubles exact(N), exact_dinp(N);
    cpu::gelu_forward(exact.data(), exact_inp.data(), N);
    cpu::gelu_backward(exact_dinp.data(), exact_dout.data(), exact_inp.data(), N);
    for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
      Floats out(N), dinp(N);
      fast.gelu_forward(out.data(), inp.data(), N);
      fast.gelu_backward(dinp.data(), dout.data(), inp.data(), N);
      for (int i = 0; i < N; ++i) {
        CAPTURE(inp[i]);
        const double tolerance = 32 * 0x1p-24 * std::max(1.0, std::abs(exact_inp[i]));
        CHECK(std::abs(out[i] - exact[i]) <= tolerance);
        CHECK(std::abs(dinp[i] - exact_dinp[i]) <= tolerance);
      }
      Floats in_place = dout;  // dinp may be dout itself
      fast.gelu_backward(in_place.data(), in_place.data(), inp.data(), N);
      CHECK(same_bits(in_place, dinp));
    });
  }
}
