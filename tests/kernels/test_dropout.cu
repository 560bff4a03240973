#include "kernels/dropout.cuh"
#include "kernels/dropout.h"
#include "tests/helpers/device.h"

// Each element is rounded a few times: the product, the scale.
constexpr double kRoundings = 4;

TEST_CASE_TEMPLATE("dropout on the device against the CPU, forward and backward", floatX, float, bf16) {
  for (const int64_t N : {1, 3, 8, 33, 1000, 4099}) {
    for (const Shift shift : shifts(2, N == 33)) {
      for (const float dropout : {0.1f, 0.5f, 0.9f}) {
        CAPTURE(N);
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CAPTURE(dropout);
        const auto inp = random_storage<floatX>(N, 1);
        const Doubles inp_exact = to_numbers(inp);
        Doubles expected(N);
        cpu::dropout_forward(expected.data(), inp_exact.data(), dropout, 7, 8, N);
        const DeviceArray<floatX> from(inp, shift[0]), to(N, shift[1]), in_place(inp, shift.all);
        dropout_forward(to.data(), from.data(), dropout, 7, 8, N, nullptr);
        check_close("out", to.host(), expected, kRoundings);
        dropout_backward(in_place.data(), in_place.data(), dropout, 7, 8, N, nullptr);
        CHECK(same_bits(in_place.host(), to.host()));
      }
    }
  }
  check_ran<floatX>("dropout_forward_kernel<floatX, true");
}

TEST_CASE_TEMPLATE("dropout of a part of a tensor equals that part of the whole, wherever it begins", floatX, float,
                   bf16) {
  const int64_t N = 4099;
  const auto inp = random_storage<floatX>(N, 1);
  const DeviceArray<floatX> whole(inp);
  dropout_forward(whole.data(), whole.data(), 0.3f, 7, 8, N, nullptr);
  const auto expected = whole.host();
  for (const int64_t first : {0, 1, 3, 4, 8, 1000, 4098}) {
    for (const int64_t n : {1, 7, 33, 3000}) {
      if (first + n > N) continue;
      CAPTURE(first);
      CAPTURE(n);
      const DeviceArray<floatX> from(std::vector<floatX>(inp.begin() + first, inp.begin() + first + n));
      const GuardedArray<floatX> to(n);
      dropout_part(to.data(), from.data(), 0.3f, 7, 8, first, n, nullptr);
      CHECK(same_bits(to.host(), std::vector<floatX>(expected.begin() + first, expected.begin() + first + n)));
    }
  }
}

TEST_CASE_TEMPLATE("dropout of zero changes nothing on the device; a dropped element is zero, whatever it was", floatX,
                   float, bf16) {
  const int64_t N = 77;
  auto inp = random_storage<floatX>(N, 1);
  const DeviceArray<floatX> from(inp), to(N);
  dropout_forward(to.data(), from.data(), 0.0f, 7, 8, N, nullptr);
  CHECK(same_bits(to.host(), inp));

  inp = to_storage<floatX>(Floats(N, INFINITY));
  from.write(inp);
  dropout_forward(to.data(), from.data(), 0.5f, 7, 8, N, nullptr);
  const Doubles out = to_numbers(to.host());
  for (int64_t i = 0; i < N; ++i) CHECK(out[i] == (philox_uniform(7, 8, i) < 0.5f ? 0 : INFINITY));
}

TEST_CASE_TEMPLATE("dropout's passes may be counted in device memory: the same bits as with their number", floatX,
                   float, bf16) {
  const int64_t N = 1003;
  const DeviceArray<floatX> from(random_storage<floatX>(N, 1)), to(N);
  const DeviceArray<uint64_t> pass(std::vector<uint64_t>{5});
  const auto run = [&](DropoutSequence sequence) {
    dropout_forward(to.data(), from.data(), 0.3f, 7, sequence, N, nullptr);
    return to.host();
  };
  CHECK(same_bits(run({8, pass.data()}), run((5 << 16) + 8)));
  pass.write({uint64_t{1} << 33});  // the same launch in a later pass
  CHECK(same_bits(run({8, pass.data()}), run((uint64_t{1} << 49) + 8)));
  CHECK_FALSE(same_bits(run({8, pass.data()}), run((5 << 16) + 8)));
}

template <int n>
__global__ void dropout_factors_test_kernel(float* one_by_one, float* together, float dropout, uint64_t first) {
  wait_for_earlier_kernels();
  float factors[n];
  dropout_factors(factors, dropout, 5, 6, first);
  for (int k = 0; k < n; ++k) {
    one_by_one[k] = dropout_factor(dropout, 5, 6, first + k);
    together[k] = factors[k];
  }
}

TEST_CASE_TEMPLATE("dropout's factors are those of philox_uniform, from any start and for any count", Count,
                   std::integral_constant<int, 2>, std::integral_constant<int, 4>, std::integral_constant<int, 6>,
                   std::integral_constant<int, 8>) {
  constexpr int n = Count::value;
  const uint64_t far = uint64_t{1} << 33;
  // Also a dropout that is one of the numbers: a random number equal to dropout keeps the element.
  for (const float dropout : {0.0f, 0.3f, 0.5f, philox_uniform(5, 6, 1), philox_uniform(5, 6, 6)}) {
    for (const uint64_t first : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{3}, uint64_t{4}, far, far + 3}) {
      CAPTURE(dropout);
      CAPTURE(first);
      const DeviceArray<float> one_by_one(n), together(n);
      launch(dropout_factors_test_kernel<n>, 1, 1, 0, nullptr, one_by_one.data(), together.data(), dropout, first);
      CHECK(same_bits(one_by_one.host(), together.host()));
      const Floats factors = together.host();
      for (int k = 0; k < n; ++k) {
        const bool dropped = philox_uniform(5, 6, first + k) < dropout;
        CHECK(factors[k] == (dropped ? 0 : 1 / (1 - dropout)));
      }
    }
  }
}

TEST_CASE("dropout does not depend on the schedule") {
  const int64_t N = 4099;
  const DeviceArray<float> from(random_storage<float>(N, 1)), to(N);
  same_under_all_schedules([&] {
    dropout_forward(to.data(), from.data(), 0.3f, 7, 8, N, nullptr);
    return to.host();
  });
}
