#include "kernels/take_rows.cuh"
#include "kernels/take_rows.h"
#include "tests/helpers/device.h"

TEST_CASE_TEMPLATE("rows taken on the device against the CPU", floatX, float, bf16) {
  for (const int C : {1, 7, 8, 33, 64, 1160}) {
    for (const int n : {1, 3, 200}) {
      for (const Shift shift : shifts(2, C == 64)) {
        CAPTURE(C);
        CAPTURE(n);
        CAPTURE(shift.tensor);
        const auto inp = random_storage<floatX>(static_cast<size_t>(40) * C, 1);
        const std::vector<int32_t> rows = random_ints(static_cast<size_t>(n), 2, 40);
        std::vector<floatX> expected(static_cast<size_t>(n) * C);
        cpu::take_rows(expected.data(), inp.data(), rows.data(), n, C);
        const DeviceArray<floatX> from(inp, shift[0]);
        const GuardedArray<floatX> to(expected.size(), shift[1]);
        const DeviceArray<int32_t> numbers(rows);
        take_rows(to.data(), from.data(), numbers.data(), n, C, nullptr);
        CHECK(same_bits(to.host(), expected));
      }
    }
  }
  check_ran<floatX>("take_rows_kernel<floatX, true");
}
