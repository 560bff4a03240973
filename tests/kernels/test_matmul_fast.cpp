#include "tests/helpers/fast_kernels.h"

// The exact values are those of the plain loops in double.
TEST_CASE("fast matmul equals the plain one within rounding") {
  struct Sizes {
    int N, C, OC;
  };
  const Sizes shapes[] = {{1, 1, 1},     {1, 33, 1},      {1, 768, 257}, {2, 3, 1},     {5, 1, 7},
                          {7, 31, 13},   {17, 51, 61},    {64, 64, 64},  {34, 51, 204}, {101, 103, 97},
                          {128, 256, 1}, {33, 1024, 130}, {4, 641, 33},  {257, 65, 3},  {700, 9, 600}};
  for (const auto [N, C, OC] : shapes) {
    CAPTURE(N);
    CAPTURE(C);
    CAPTURE(OC);
    const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
                 bias = random_tensor<float>(OC, 3);
    const Floats dout = random_tensor<float>(N * OC, 4);
    const auto exact = [](const Floats& values) { return Doubles(values.begin(), values.end()); };
    const Doubles inp_e = exact(inp), weight_e = exact(weight), bias_e = exact(bias), dout_e = exact(dout);
    const double x = std::sqrt(1.0 / 3);  // rms of all these uniform numbers
    for_each_fast([&](const cpu::Kernels<float>& fast_kernels, bool bf16) {
      const auto tolerance = [&](int K) { return product_tolerance(K + 1, std::sqrt(K + 1.0) * x * x, bf16); };

      for (const float* b : {bias.data(), static_cast<const float*>(nullptr)}) {
        const float garbage = std::numeric_limits<float>::quiet_NaN();  // out is set, not added to
        Doubles plain(N * OC, garbage);
        Floats fast(N * OC, garbage);
        cpu::matmul_forward(plain.data(), inp_e.data(), weight_e.data(), b ? bias_e.data() : nullptr, N, C, OC);
        fast_kernels.matmul_forward(fast.data(), inp.data(), weight.data(), b, N, C, OC);
        CHECK(max_difference(plain, fast) <= tolerance(C));
      }

      Floats dinp_fast(N * C, std::numeric_limits<float>::quiet_NaN());
      Floats dweight_fast = random_tensor<float>(OC * C, 5), dbias_fast = random_tensor<float>(OC, 6);
      Doubles dinp(N * C), dweight = exact(dweight_fast), dbias = exact(dbias_fast);
      cpu::matmul_backward(dinp.data(), dweight.data(), dbias.data(), dout_e.data(), inp_e.data(), weight_e.data(), N,
                           C, OC);
      fast_kernels.matmul_backward(dinp_fast.data(), dweight_fast.data(), dbias_fast.data(), dout.data(), inp.data(),
                                   weight.data(), N, C, OC);
      CHECK(max_difference(dinp, dinp_fast) <= tolerance(OC));
      CHECK(max_difference(dweight, dweight_fast) <= tolerance(N));
      CHECK(max_difference(dbias, dbias_fast) <= sum_tolerance<float>(N + 1, std::sqrt(N + 1.0) * x));

      // The gradient of the weights, set instead of added to.
      Floats set(OC * C, std::numeric_limits<float>::quiet_NaN());
      Doubles set_exact(OC * C);
      double squares = 2;
      cpu::matmul_dweight(set_exact.data(), nullptr, dout_e.data(), inp_e.data(), N, C, OC);
      fast_kernels.matmul_dweight(set.data(), &squares, dout.data(), inp.data(), N, C, OC);
      CHECK(max_difference(set, set_exact) <= tolerance(N));
      CHECK(squares == doctest::Approx(2 + dot_product(set, set)).epsilon(1e-6));  // 28 squares are added in float

      // Any of the gradients may be left out.
      float* none = nullptr;
      Floats alone(N * C);
      fast_kernels.matmul_backward(alone.data(), none, none, dout.data(), inp.data(), weight.data(), N, C, OC);
      CHECK(same_bits(alone, dinp_fast));
      fast_kernels.matmul_backward(none, none, none, dout.data(), inp.data(), weight.data(), N, C, OC);
    });
  }
}

TEST_CASE("fast matmul's bits do not depend on the number of threads") {
  const int N = 67, C = 129, OC = 255;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
               dout = random_tensor<float>(N * OC, 4);
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    check_thread_independence([&] {
      Floats all(N * OC + N * C + OC * C);
      float *out = all.data(), *dinp = out + N * OC, *dweight = dinp + N * C;
      float* none = nullptr;
      fast.matmul_forward(out, inp.data(), weight.data(), none, N, C, OC);
      fast.matmul_backward(dinp, dweight, none, dout.data(), inp.data(), weight.data(), N, C, OC);
      return all;
    });
  });
}

TEST_CASE("fast matmul in bf16: each factor is rounded once, to nearest even, and sums are float") {
  for_each_fast([&](const cpu::Kernels<float>& fast, bool bf16) {
    if (!bf16) return;
    const int N = 33, C = 70, OC = 41;
    Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2), out(N * OC), exact(N * OC);
    float* none = nullptr;
    fast.matmul_forward(out.data(), inp.data(), weight.data(), none, N, C, OC);
    for (Floats* factor : {&inp, &weight}) {
      for (float& x : *factor) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        std::memcpy(&x, &bits, 4);
      }
    }
    cpu::matmul_forward(exact.data(), inp.data(), weight.data(), none, N, C, OC);
    CHECK(max_difference(out, exact) <= sum_tolerance<float>(C, std::sqrt(C) / 3));
  });
}
