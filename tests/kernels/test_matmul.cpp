#include "kernels/matmul.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("matmul matches PyTorch") {
  const Golden golden("matmul.bin");
  const auto sizes = golden.get<int>("sizes");
  const int N = sizes[0], C = sizes[1], OC = sizes[2];
  const Doubles inp = golden.get("inp"), weight = golden.get("weight"), bias = golden.get("bias"),
                dout = golden.get("dout");
  Doubles out(N * OC), dinp(N * C), dweight(OC * C), dbias(OC);
  cpu::matmul_forward(out.data(), inp.data(), weight.data(), bias.data(), N, C, OC);
  cpu::matmul_backward(dinp.data(), dweight.data(), dbias.data(), dout.data(), inp.data(), weight.data(), N, C, OC);
  CHECK(max_difference(out, golden.get("out")) < 1e-14);
  CHECK(max_difference(dinp, golden.get("dinp")) < 1e-14);
  CHECK(max_difference(dweight, golden.get("dweight")) < 1e-14);
  CHECK(max_difference(dbias, golden.get("dbias")) < 1e-14);
}

TEST_CASE("matmul's gradients match finite differences: dinp is set, those of the parameters are added") {
  struct Sizes {
    int N, C, OC;
  };
  for (const auto [N, C, OC] : {Sizes{1, 1, 1}, Sizes{1, 33, 2}, Sizes{5, 7, 1}, Sizes{3, 5, 67}}) {
    CAPTURE(N);
    CAPTURE(OC);
    Doubles inp = random_tensor(N * C, 1), weight = random_tensor(OC * C, 2), bias = random_tensor(OC, 3);
    const Doubles dout = random_tensor(N * OC, 4);
    const auto loss = [&] {
      Doubles out(N * OC);
      cpu::matmul_forward(out.data(), inp.data(), weight.data(), bias.data(), N, C, OC);
      return dot_product(out, dout);
    };
    const Doubles before_w = random_tensor(OC * C, 5), before_b = random_tensor(OC, 6);
    Doubles dinp = random_tensor(N * C, 7), dweight = before_w, dbias = before_b;
    cpu::matmul_backward(dinp.data(), dweight.data(), dbias.data(), dout.data(), inp.data(), weight.data(), N, C, OC);
    for (int i = 0; i < OC * C; ++i) dweight[i] -= before_w[i];
    for (int o = 0; o < OC; ++o) dbias[o] -= before_b[o];
    check_gradient("inp", inp, dinp, loss);
    check_gradient("weight", weight, dweight, loss);
    check_gradient("bias", bias, dbias, loss);
  }
}

TEST_CASE("matmul works without a bias, and with only some of the gradients") {
  const int N = 3, C = 5, OC = 4;
  const Doubles inp = random_tensor(N * C, 1), weight = random_tensor(OC * C, 2), zero_bias(OC),
                dout = random_tensor(N * OC, 4);
  Doubles with(N * OC), without(N * OC);
  cpu::matmul_forward(with.data(), inp.data(), weight.data(), zero_bias.data(), N, C, OC);
  cpu::matmul_forward(without.data(), inp.data(), weight.data(), static_cast<const double*>(nullptr), N, C, OC);
  CHECK(same_bits(with, without));

  Doubles dinp(N * C), dweight(OC * C), dbias(OC), dinp1(N * C), dweight1(OC * C), dbias1(OC);
  double* none = nullptr;
  cpu::matmul_backward(dinp.data(), dweight.data(), dbias.data(), dout.data(), inp.data(), weight.data(), N, C, OC);
  cpu::matmul_backward(dinp1.data(), none, none, dout.data(), inp.data(), weight.data(), N, C, OC);
  cpu::matmul_backward(none, dweight1.data(), none, dout.data(), inp.data(), weight.data(), N, C, OC);
  cpu::matmul_backward(none, none, dbias1.data(), dout.data(), inp.data(), weight.data(), N, C, OC);
  CHECK(same_bits(dinp, dinp1));
  CHECK(same_bits(dweight, dweight1));
  double squares = 1;
  cpu::matmul_dweight(dweight1.data(), &squares, dout.data(), inp.data(), N, C, OC);  // set, whatever it held
  CHECK(squares == doctest::Approx(1 + dot_product(dweight, dweight)));
  CHECK(same_bits(dweight, dweight1));
  CHECK(same_bits(dbias, dbias1));
}

TEST_CASE("matmul does not depend on the number of threads") {
  const int N = 13, C = 37, OC = 131;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
               bias = random_tensor<float>(OC, 3);
  const Floats dout = random_tensor<float>(N * OC, 4);
  check_thread_independence([&] {
    Floats all(N * OC + N * C + OC * C + OC);
    float *out = all.data(), *dinp = out + N * OC, *dweight = dinp + N * C, *dbias = dweight + OC * C;
    cpu::matmul_forward(out, inp.data(), weight.data(), bias.data(), N, C, OC);
    cpu::matmul_backward(dinp, dweight, dbias, dout.data(), inp.data(), weight.data(), N, C, OC);
    return all;
  });
}
