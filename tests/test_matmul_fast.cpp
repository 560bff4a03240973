#include "kernels/matmul_fast.h"
#include "tests/finite_differences.h"

#ifndef WROUGHT_ONEDNN
TEST_CASE("fast matmul") { MESSAGE("skipped: oneDNN was not found, so there is no fast path"); }
#else

// Two ways to add up K products may differ by sum_tolerance; the plain loops in double stand for the exact value.
TEST_CASE("fast matmul equals the plain one within rounding") {
  struct Sizes {
    int N, C, OC;
  };
  const Sizes shapes[] = {{1, 1, 1},    {1, 33, 1},   {1, 768, 257}, {2, 3, 1},      {5, 1, 7},     {7, 31, 13},
                          {17, 51, 61}, {64, 64, 64}, {34, 51, 204}, {101, 103, 97}, {128, 256, 1}, {33, 1024, 130}};
  for (const auto [N, C, OC] : shapes) {
    CAPTURE(N);
    CAPTURE(C);
    CAPTURE(OC);
    const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
                 bias = random_tensor<float>(OC, 3);
    const Floats dout = random_tensor<float>(N * OC, 4);
    const double x = std::sqrt(1.0 / 3);  // rms of all these uniform numbers
    const auto tolerance = [&](int K) { return sum_tolerance<float>(K + 1, std::sqrt(K + 1.0) * x * x); };

    for (const float* b : {bias.data(), static_cast<const float*>(nullptr)}) {
      const float garbage = std::numeric_limits<float>::quiet_NaN();  // out is set, not added to
      Floats plain(N * OC, garbage), fast(N * OC, garbage);
      cpu::matmul_forward(plain.data(), inp.data(), weight.data(), b, N, C, OC);
      cpu::fast::matmul_forward(fast.data(), inp.data(), weight.data(), b, N, C, OC);
      CHECK(max_difference(plain, fast) <= tolerance(C));
    }

    Floats dinp(N * C, std::numeric_limits<float>::quiet_NaN()), dinp_fast = dinp;
    Floats dweight = random_tensor<float>(OC * C, 5), dweight_fast = dweight, dbias = random_tensor<float>(OC, 6),
           dbias_fast = dbias;
    cpu::matmul_backward(dinp.data(), dweight.data(), dbias.data(), dout.data(), inp.data(), weight.data(), N, C, OC);
    cpu::fast::matmul_backward(dinp_fast.data(), dweight_fast.data(), dbias_fast.data(), dout.data(), inp.data(),
                               weight.data(), N, C, OC);
    CHECK(max_difference(dinp, dinp_fast) <= tolerance(OC));
    CHECK(max_difference(dweight, dweight_fast) <= tolerance(N));
    CHECK(max_difference(dbias, dbias_fast) <= tolerance(N));

    // Any of the gradients may be left out.
    float* none = nullptr;
    Floats alone(N * C);
    cpu::fast::matmul_backward(alone.data(), none, none, dout.data(), inp.data(), weight.data(), N, C, OC);
    CHECK(same_bits(alone, dinp_fast));
    cpu::fast::matmul_backward(none, none, none, dout.data(), inp.data(), weight.data(), N, C, OC);
  }
}

TEST_CASE("fast matmul repeats its bits") {
  const int N = 67, C = 129, OC = 255;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
               dout = random_tensor<float>(N * OC, 4);
  const auto run = [&] {
    Floats all(N * OC + N * C + OC * C);
    float *out = all.data(), *dinp = out + N * OC, *dweight = dinp + N * C;
    float* none = nullptr;
    cpu::fast::matmul_forward(out, inp.data(), weight.data(), none, N, C, OC);
    cpu::fast::matmul_backward(dinp, dweight, none, dout.data(), inp.data(), weight.data(), N, C, OC);
    return all;
  };
  const Floats first = run();
  for (int repeat = 0; repeat < 5; ++repeat) CHECK(same_bits(run(), first));
}

#endif  // WROUGHT_ONEDNN
