#include "kernels/pool.cuh"
#include "kernels/pool.h"
#include "tests/helpers/device.h"

TEST_CASE_TEMPLATE("pooling on the device against the CPU, forward and backward", floatX, float, bf16) {
  struct Sizes {
    int B, T, C;
  };
  for (const auto& [B, T, C] : {Sizes{1, 1, 1}, Sizes{3, 5, 7}, Sizes{2, 9, 40}, Sizes{2, 3, 1160}}) {
    for (const Shift shift : shifts(2, C == 40)) {
      for (const bool one : {false, true}) {  // one position, or all with any weights
        CAPTURE(C);
        CAPTURE(shift.tensor);
        CAPTURE(one);
        const size_t rows = static_cast<size_t>(B) * T;
        Floats weights = random_tensor<float>(rows, 3);
        if (one) {
          std::fill(weights.begin(), weights.end(), 0.0f);
          for (int b = 0; b < B; ++b) weights[b * T + T - 1] = 1;
        }
        const auto inp = random_storage<floatX>(rows * C, 1), dout = random_storage<floatX>(size_t(B) * C, 2);
        Doubles out(static_cast<size_t>(B) * C), dinp(rows * C);
        cpu::pool_forward(out.data(), to_numbers(inp).data(), weights.data(), B, T, C);
        cpu::pool_backward(dinp.data(), to_numbers(dout).data(), weights.data(), B, T, C);
        const DeviceArray<floatX> from(inp, shift[0]), dy(dout, shift[0]);
        const GuardedArray<floatX> to(out.size(), shift[1]), dx(dinp.size(), shift[1]);
        const DeviceArray<float> w(weights);
        pool_forward(to.data(), from.data(), w.data(), B, T, C, nullptr);
        check_close("out", to.host(), out, T);
        pool_backward(dx.data(), dy.data(), w.data(), B, T, C, nullptr);
        check_close("dinp", dx.host(), dinp, 1);
      }
    }
  }
  check_ran<floatX>("pool_forward_kernel<floatX, true");
  check_ran<floatX>("pool_backward_kernel<floatX, true");
}

TEST_CASE("pooling does not depend on the schedule, and a position of weight 0 is not read") {
  const int B = 2, T = 33, C = 65;
  auto inp = random_storage<float>(static_cast<size_t>(B) * T * C, 1);
  Floats weights(static_cast<size_t>(B) * T, 0.25f);
  weights[3] = 0;
  for (int c = 0; c < C; ++c) inp[3 * C + c] = INFINITY;
  const DeviceArray<float> from(inp), w(weights), to(static_cast<size_t>(B) * C);
  const auto run = [&] {
    pool_forward(to.data(), from.data(), w.data(), B, T, C, nullptr);
    return to.host();
  };
  for (const float x : run()) CHECK(std::isfinite(x));
  same_under_all_schedules(run);
}
