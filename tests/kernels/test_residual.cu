#include "kernels/dropout.h"
#include "kernels/residual.cuh"
#include "kernels/residual.h"
#include "tests/helpers/device.h"

TEST_CASE_TEMPLATE("residual connections on the device against the CPU", floatX, float, bf16) {
  for (const int64_t N : {1, 7, 8, 33, 2051}) {
    for (const Shift shift : shifts(3, N == 33)) {
      CAPTURE(N);
      CAPTURE(shift.tensor);
      CAPTURE(shift.all);
      for (const float dropout : {0.0f, 0.3f}) {
        CAPTURE(dropout);
        const auto inp1 = random_storage<floatX>(N, 1);
        auto inp2 = random_storage<floatX>(N, 2);
        for (int64_t i = 0; i < N; i += 5) {  // a dropped element is zero, whatever it was
          if (philox_uniform(7, 8, i) < dropout) inp2[i] = to_storage<floatX>({INFINITY})[0];
        }
        const Doubles x = to_numbers(inp1), y = to_numbers(inp2);
        Doubles dropped(N), expected(N);
        cpu::dropout_forward(dropped.data(), y.data(), dropout, 7, 8, N);
        cpu::residual_forward(expected.data(), x.data(), dropped.data(), N);
        const DeviceArray<floatX> from1(inp1, shift[0]), from2(inp2, shift[1]), to(N, shift[2]);
        residual_forward(to.data(), from1.data(), from2.data(), dropout, 7, 8, N, nullptr);
        check_close("out", to.host(), expected, dropout > 0 ? 2 : 1);
        residual_forward(from1.data(), from1.data(), from2.data(), dropout, 7, 8, N, nullptr);  // in place
        CHECK(same_bits(from1.host(), to.host()));
      }
    }
  }
  check_ran<floatX>("residual_forward_kernel<floatX, true, false");
  check_ran<floatX>("residual_forward_kernel<floatX, true, true");
}

TEST_CASE("residual connections do not depend on the schedule") {
  const int64_t N = 2051;
  const DeviceArray<float> from1(random_storage<float>(N, 1)), from2(random_storage<float>(N, 2)), to(N);
  same_under_all_schedules([&] {
    residual_forward(to.data(), from1.data(), from2.data(), 0.3f, 7, 8, N, nullptr);
    return to.host();
  });
}
