#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast layernorm equals the plain one in double; gradients are added to the old values") {
  struct Sizes {
    int N, C;
  };
  for (const auto [N, C] : {Sizes{1, 1}, Sizes{1, 33}, Sizes{7, 2}, Sizes{3, 67}, Sizes{129, 768}}) {
    CAPTURE(N);
    CAPTURE(C);
    const Floats inp = random_tensor<float>(N * C, 1, 2), weight = random_tensor<float>(C, 2),
                 bias = random_tensor<float>(C, 3), dout = random_tensor<float>(N * C, 4);
    const Floats dinp0 = random_tensor<float>(N * C, 5), dweight0 = random_tensor<float>(C, 6),
                 dbias0 = random_tensor<float>(C, 7);
    const auto exact = [](const Floats& x) { return Doubles(x.begin(), x.end()); };
    for (const bool centred : {true, false}) {  // else RMSNorm
      CAPTURE(centred);
      const auto own = [&](auto& x) { return centred ? x.data() : nullptr; };  // of layer norm
      const Doubles bias_d = exact(bias);
      Doubles out(N * C), mean(N), rstd(N), dinp = exact(dinp0), dweight = exact(dweight0), dbias = exact(dbias0);
      cpu::layernorm_forward(out.data(), own(mean), rstd.data(), exact(inp).data(), exact(weight).data(), own(bias_d),
                             N, C);
      cpu::layernorm_backward(dinp.data(), dweight.data(), own(dbias), exact(dout).data(), exact(inp).data(),
                              exact(weight).data(), own(mean), rstd.data(), N, C);
      for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
        Floats out_f(N * C), mean_f(N), rstd_f(N), dinp_f = dinp0, dweight_f = dweight0, dbias_f = dbias0;
        fast.layernorm_forward(out_f.data(), own(mean_f), rstd_f.data(), inp.data(), weight.data(), own(bias), N, C);
        fast.layernorm_backward(dinp_f.data(), dweight_f.data(), own(dbias_f), dout.data(), inp.data(), weight.data(),
                                own(mean_f), rstd_f.data(), N, C);
        Floats dinp_alone = dinp0;  // without the parameters' gradients
        fast.layernorm_backward(dinp_alone.data(), nullptr, nullptr, dout.data(), inp.data(), weight.data(),
                                own(mean_f), rstd_f.data(), N, C);
        CHECK(same_bits(dinp_alone, dinp_f));
        // A row's sums have C terms around 1; where its spread is small, rstd makes their rounding larger.
        double spread = 1;
        for (const double s : rstd) spread = std::max(spread, s);
        CHECK(max_difference(mean_f, mean) <= sum_tolerance<float>(C, 2));
        CHECK(max_difference(out_f, out) <= sum_tolerance<float>(C, 2) * spread);
        CHECK(max_difference(dinp_f, dinp) <= sum_tolerance<float>(C, 2) * spread * spread);
        CHECK(max_difference(dweight_f, dweight) <= sum_tolerance<float>(N + C, std::sqrt(N)) * spread);
        CHECK(max_difference(dbias_f, dbias) <= sum_tolerance<float>(N, std::sqrt(N)));
      });
    }
  }
}

TEST_CASE("fast layernorm repeats its bits for each number of threads") {
  const int N = 301, C = 133;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(C, 2),
               dout = random_tensor<float>(N * C, 4);
  for (const int threads : {1, 2, 5}) {
    const ThreadCount scope(threads);
    for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
      for (const bool centred : {true, false}) {
        const auto run = [&] {
          Floats all(2 * N * C + 2 * N + 2 * C);  // out, dinp, rstd, dweight, and of a layer norm mean and dbias
          float *out = all.data(), *dinp = out + N * C, *rstd = dinp + N * C, *dweight = rstd + N;
          float *mean = centred ? dweight + C : nullptr, *dbias = centred ? dweight + C + N : nullptr;
          const float* bias = centred ? weight.data() : nullptr;
          fast.layernorm_forward(out, mean, rstd, inp.data(), weight.data(), bias, N, C);
          fast.layernorm_backward(dinp, dweight, dbias, dout.data(), inp.data(), weight.data(), mean, rstd, N, C);
          return all;
        };
        CHECK(same_bits(run(), run()));
      }
    });
  }
}
