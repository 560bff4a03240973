#include "kernels/lora.cuh"
#include "kernels/lora.h"
#include "tests/helpers/device.h"

TEST_CASE_TEMPLATE("an adapter's columns on the device against the CPU", floatX, float, bf16) {
  struct Sizes {
    int N, OC, stride, column;
  };
  for (const auto& [N, OC, stride, column] : {Sizes{1, 1, 1, 0}, Sizes{3, 5, 12, 4}, Sizes{7, 64, 192, 64},
                                              Sizes{37, 64, 192, 128}, Sizes{2, 24, 24, 0}, Sizes{5, 16, 33, 8}}) {
    for (const Shift shift : shifts(2, N == 7)) {
      CAPTURE(N);
      CAPTURE(stride);
      CAPTURE(shift.tensor);
      const auto wide = random_storage<floatX>(static_cast<size_t>(N) * stride, 1),
                 part = random_storage<floatX>(static_cast<size_t>(N) * OC, 2);
      const Doubles wide_exact = to_numbers(wide);
      Doubles sum = wide_exact, taken(part.size());
      cpu::lora_add(sum.data() + column, to_numbers(part).data(), 0.25f, N, OC, stride);
      cpu::lora_take(taken.data(), wide_exact.data() + column, 0.25f, N, OC, stride);
      const DeviceArray<floatX> inp(part, shift[1]), from(wide, shift[0]);
      const GuardedArray<floatX> out(wide, shift[0]), to(part.size(), shift[1]);
      lora_add(out.data() + column, inp.data(), 0.25f, N, OC, stride, nullptr);
      check_close("sum", out.host(), sum, 2);
      lora_take(to.data(), from.data() + column, 0.25f, N, OC, stride, nullptr);
      check_close("taken", to.host(), taken, 1);
    }
  }
  check_ran<floatX>("lora_add_kernel<floatX, true");
  check_ran<floatX>("lora_take_kernel<floatX, true");
}

TEST_CASE("an adapter's last columns: nothing past the end of memory is read") {
  const int N = 3, OC = 5, stride = 12, column = 7;
  const DeviceArray<float> wide(random_storage<float>(N * stride, 1), true),
      part(random_storage<float>(N * OC, 2), true), to(N * OC, true);
  lora_add(wide.data() + column, part.data(), 0.5f, N, OC, stride, nullptr);
  lora_take(to.data(), wide.data() + column, 2.0f, N, OC, stride, nullptr);
  const Floats y = wide.host(), taken = to.host();
  CHECK(taken[N * OC - 1] == 2 * y[N * stride - 1]);
}

TEST_CASE("an adapter's columns do not depend on the schedule") {
  const int N = 37, OC = 40, stride = 120;
  const DeviceArray<float> part(random_storage<float>(N * OC, 2));
  same_under_all_schedules([&] {
    const DeviceArray<float> out(random_storage<float>(N * stride, 1)), to(N * OC);
    lora_add(out.data() + 40, part.data(), 0.5f, N, OC, stride, nullptr);
    lora_take(to.data(), out.data() + 40, 2.0f, N, OC, stride, nullptr);
    return to.host();
  });
}
