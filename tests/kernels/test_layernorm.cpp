#include "kernels/layernorm.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("layernorm matches PyTorch") {
  const Golden golden("layernorm.bin");
  const auto sizes = golden.get<int>("sizes");
  const int N = sizes[0], C = sizes[1];
  const Doubles inp = golden.get("inp"), weight = golden.get("weight"), bias = golden.get("bias"),
                dout = golden.get("dout");
  Doubles out(N * C), mean(N), rstd(N), dinp(N * C), dweight(C), dbias(C);
  cpu::layernorm_forward(out.data(), mean.data(), rstd.data(), inp.data(), weight.data(), bias.data(), N, C);
  cpu::layernorm_backward(dinp.data(), dweight.data(), dbias.data(), dout.data(), inp.data(), weight.data(),
                          mean.data(), rstd.data(), N, C);
  CHECK(max_difference(out, golden.get("out")) < 1e-13);
  CHECK(max_difference(dinp, golden.get("dinp")) < 1e-13);
  CHECK(max_difference(dweight, golden.get("dweight")) < 1e-13);
  CHECK(max_difference(dbias, golden.get("dbias")) < 1e-13);
}

TEST_CASE("RMSNorm, which has no mean, matches PyTorch") {
  const Golden golden("rmsnorm.bin");
  const auto sizes = golden.get<int>("sizes");
  const int N = sizes[0], C = sizes[1];
  const Doubles inp = golden.get("inp"), weight = golden.get("weight"), dout = golden.get("dout");
  Doubles out(N * C), rstd(N), dinp(N * C), dweight(C);
  cpu::layernorm_forward<double>(out.data(), nullptr, rstd.data(), inp.data(), weight.data(), nullptr, N, C);
  cpu::layernorm_backward<double>(dinp.data(), dweight.data(), nullptr, dout.data(), inp.data(), weight.data(), nullptr,
                                  rstd.data(), N, C);
  CHECK(max_difference(out, golden.get("out")) < 1e-13);
  CHECK(max_difference(dinp, golden.get("dinp")) < 1e-13);
  CHECK(max_difference(dweight, golden.get("dweight")) < 1e-13);
}

TEST_CASE("layernorm's gradients match finite differences and are added to the old values") {
  struct Sizes {
    int N, C;
  };
  for (const auto [N, C] : {Sizes{1, 1}, Sizes{1, 33}, Sizes{7, 2}, Sizes{3, 67}, Sizes{2, 131}}) {
    for (const bool centred : {true, false}) {  // else RMSNorm
      CAPTURE(N);
      CAPTURE(C);
      CAPTURE(centred);
      Doubles inp = random_tensor(N * C, 1, 2), weight = random_tensor(C, 2), all_biases = random_tensor(C, 3),
              all_means(N), rstd(N);
      const Doubles dout = random_tensor(N * C, 4);
      double *const bias = centred ? all_biases.data() : nullptr, *const mean = centred ? all_means.data() : nullptr;
      const auto loss = [&] {
        Doubles out(N * C), m(N), s(N);
        cpu::layernorm_forward(out.data(), centred ? m.data() : nullptr, s.data(), inp.data(), weight.data(), bias, N,
                               C);
        return dot_product(out, dout);
      };
      Doubles out(N * C);
      cpu::layernorm_forward(out.data(), mean, rstd.data(), inp.data(), weight.data(), bias, N, C);
      const Doubles before_inp = random_tensor(N * C, 5), before_w = random_tensor(C, 6),
                    before_b = random_tensor(C, 7);
      Doubles dinp = before_inp, dweight = before_w, dbias = before_b;
      cpu::layernorm_backward(dinp.data(), dweight.data(), centred ? dbias.data() : nullptr, dout.data(), inp.data(),
                              weight.data(), mean, rstd.data(), N, C);
      Doubles dinp_alone = before_inp;  // without the parameters' gradients
      cpu::layernorm_backward<double>(dinp_alone.data(), nullptr, nullptr, dout.data(), inp.data(), weight.data(), mean,
                                      rstd.data(), N, C);
      CHECK(same_bits(dinp_alone, dinp));
      for (int i = 0; i < N * C; ++i) dinp[i] -= before_inp[i];
      for (int c = 0; c < C; ++c) dweight[c] -= before_w[c];
      for (int c = 0; c < C; ++c) dbias[c] -= before_b[c];
      check_gradient("inp", inp, dinp, loss);
      check_gradient("weight", weight, dweight, loss);
      if (centred) check_gradient("bias", all_biases, dbias, loss);
    }
  }
}

TEST_CASE("layernorm in float survives a mean far above the spread, and a row without spread") {
  const int C = 257;
  Floats inp = random_tensor<float>(C, 1), out(C);
  for (float& x : inp) x += 1000;
  const Floats ones(C, 1), zeros(C, 0);
  float mean, rstd;
  cpu::layernorm_forward(out.data(), &mean, &rstd, inp.data(), ones.data(), zeros.data(), 1, C);
  const Doubles inp_exact(inp.begin(), inp.end()), ones_exact(C, 1), zeros_exact(C, 0);
  Doubles exact(C);
  double exact_mean, exact_rstd;
  cpu::layernorm_forward(exact.data(), &exact_mean, &exact_rstd, inp_exact.data(), ones_exact.data(),
                         zeros_exact.data(), 1, C);
  // Only the rounding of the mean itself may show: 0.007. E x^2 - mean^2 for the variance would be wrong by 1000^2 u =
  // 0.06 of 1/3, and `out` by a tenth.
  CHECK(max_difference(out, exact) < sum_tolerance<float>(C, 1000) * exact_rstd);

  std::fill(inp.begin(), inp.end(), 3.0f);
  cpu::layernorm_forward(out.data(), &mean, &rstd, inp.data(), ones.data(), zeros.data(), 1, C);
  CHECK(max_difference(out, zeros) == 0);
  CHECK(rstd == doctest::Approx(1 / std::sqrt(1e-5)));
}

TEST_CASE("layernorm does not depend on the number of threads") {
  const int N = 37, C = 133;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(C, 2),
               bias = random_tensor<float>(C, 3);
  const Floats dout = random_tensor<float>(N * C, 4);
  for (const bool centred : {true, false}) {
    check_thread_independence([&] {
      Floats all(2 * N * C + 2 * N + 2 * C);  // out, dinp, rstd, dweight, and of a layer norm mean and dbias
      float *out = all.data(), *dinp = out + N * C, *rstd = dinp + N * C, *dweight = rstd + N;
      float *mean = centred ? dweight + C : nullptr, *dbias = centred ? dweight + C + N : nullptr;
      cpu::layernorm_forward(out, mean, rstd, inp.data(), weight.data(), centred ? bias.data() : nullptr, N, C);
      cpu::layernorm_backward(dinp, dweight, dbias, dout.data(), inp.data(), weight.data(), mean, rstd, N, C);
      return all;
    });
  }
}
