#include "kernels/ema.cuh"
#include "kernels/ema.h"
#include "tests/helpers/device.h"

namespace {

DeviceArray<AdamWStep> step_of(int64_t updates, bool updated) {
  AdamWStep step = {};
  step.updates = updates;
  step.updated = updated;
  return DeviceArray<AdamWStep>(std::vector<AdamWStep>{step});
}

}  // namespace

TEST_CASE("the average of the weights on the device against the CPU") {
  for (const size_t N : {1, 4, 7, 1023, 4099}) {
    for (const Shift shift : shifts(2, N == 1023)) {
      for (const int64_t t : {1, 2, 50, 5000}) {
        CAPTURE(N);
        CAPTURE(t);
        const Floats weights = random_tensor<float>(N, 2);
        const Floats average = t == 1 ? Floats(N, 0) : random_tensor<float>(N, 1);
        Doubles expected = to_numbers(average);
        cpu::ema_update(expected.data(), to_numbers(weights).data(), cpu::ema_rate(0.99, t), static_cast<int64_t>(N));
        const GuardedArray<float> to(average, shift[0]);
        const DeviceArray<float> from(weights, shift[1]);
        const DeviceArray<AdamWStep> step = step_of(t, true), skipped = step_of(t, false);
        ema_update(to.data(), from.data(), skipped.data(), 0.99, static_cast<int64_t>(N), nullptr);
        CHECK(same_bits(to.host(), average));
        ema_update(to.data(), from.data(), step.data(), 0.99, static_cast<int64_t>(N), nullptr);
        check_close("average", to.host(), expected, 3);  // a + r w - r a
        if (t == 1) CHECK(same_bits(to.host(), weights));
      }
    }
  }
  check_ran<float>("ema_update_kernel<true");
}

TEST_CASE_TEMPLATE("exchanging weights and average twice restores both", floatX, float, bf16) {
  for (const size_t N : {1, 4, 7, 1023}) {
    for (const Shift shift : shifts(3, N == 1023)) {
      CAPTURE(N);
      CAPTURE(shift.tensor);
      const bool has_master = sizeof(floatX) == 2;
      const Floats average = random_tensor<float>(N, 1), weights = random_tensor<float>(N, 2);
      const GuardedArray<floatX> params(to_storage<floatX>(weights), shift[0]);
      const GuardedArray<float> master(weights, shift[1]), kept(average, shift[2]);
      const auto exchange = [&] {
        ema_exchange(params.data(), has_master ? master.data() : nullptr, kept.data(), static_cast<int64_t>(N),
                     nullptr);
      };
      exchange();
      CHECK(same_bits(kept.host(), weights));
      CHECK(same_bits(to_numbers<float>(params.host()), to_numbers<float>(to_storage<floatX>(average))));
      CHECK(same_bits(master.host(), has_master ? average : weights));
      exchange();
      CHECK(same_bits(kept.host(), average));
      CHECK(same_bits(to_numbers<float>(params.host()), to_numbers<float>(to_storage<floatX>(weights))));
      CHECK(same_bits(master.host(), weights));
    }
  }
  check_ran<floatX>(sizeof(floatX) == 2 ? "ema_exchange_kernel<floatX, true, true"
                                        : "ema_exchange_kernel<floatX, false, true");
}

TEST_CASE("the average does not depend on the schedule") {
  const size_t N = 3000;
  const DeviceArray<float> weights(random_tensor<float>(N, 2)), average(random_tensor<float>(N, 1));
  const DeviceArray<AdamWStep> step = step_of(3, true);
  same_under_all_schedules([&] {
    average.write(random_tensor<float>(N, 1));
    ema_update(average.data(), weights.data(), step.data(), 0.99, N, nullptr);
    ema_exchange(weights.data(), nullptr, average.data(), N, nullptr);
    const Floats result = average.host();
    ema_exchange(weights.data(), nullptr, average.data(), N, nullptr);
    return result;
  });
}
