#include "tests/helpers/documents.h"
#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast attention equals the plain one in double, causal and not, with documents, with and without dropout") {
  struct Sizes {
    int B, T, C, NH;
    bool causal = true;
    std::vector<int> documents = {};
  };
  for (const auto& [B, T, C, NH, causal, lengths] :
       {Sizes{1, 1, 1, 1}, Sizes{2, 1, 33, 3}, Sizes{1, 63, 32, 2}, Sizes{2, 64, 33, 3}, Sizes{1, 65, 64, 1},
        Sizes{3, 130, 51, 3}, Sizes{1, 257, 128, 4}, Sizes{1, 600, 36, 2}, Sizes{1, 66, 385, 1},
        Sizes{2, 1, 33, 3, false}, Sizes{1, 65, 64, 1, false}, Sizes{1, 600, 36, 2, false}, Sizes{1, 66, 385, 1, false},
        Sizes{2, 70, 33, 3, true, {1}}, Sizes{2, 130, 24, 2, true, {3, 64, 1, 30}},
        Sizes{2, 600, 36, 2, true, {37, 90, 5}}, Sizes{1, 700, 32, 2, true, {300, 20, 270}},
        Sizes{2, 66, 385, 1, true, {40, 9}}}) {
    for (const float dropout : {0.0f, 0.3f}) {
      CAPTURE(T);
      CAPTURE(C);
      CAPTURE(dropout);
      const size_t out_size = static_cast<size_t>(B) * T * C, inp_size = 3 * out_size,
                   lse_size = static_cast<size_t>(B) * NH * T;
      const auto first = lengths.empty() ? std::vector<int32_t>() : documents_of(B, T, lengths);
      const int32_t* documents = lengths.empty() ? nullptr : first.data();
      const Floats inp = random_tensor<float>(inp_size, 1, 2), dout = random_tensor<float>(out_size, 2);
      const Doubles exact_inp(inp.begin(), inp.end()), exact_dout(dout.begin(), dout.end());
      Doubles exact_out(out_size), exact_lse(lse_size), exact_dinp(inp_size);
      cpu::attention_forward(exact_out.data(), exact_lse.data(), exact_inp.data(), documents, dropout, 7, 8, B, T, C,
                             NH, causal);
      cpu::attention_backward(exact_dinp.data(), exact_dout.data(), exact_out.data(), exact_lse.data(),
                              exact_inp.data(), documents, dropout, 7, 8, B, T, C, NH, causal);

      for_each_fast([&](const cpu::Kernels<float>& fast, bool bf16) {
        const float poison = std::numeric_limits<float>::quiet_NaN();  // all outputs are set, none is added to
        Floats out(out_size, poison), lse(lse_size, poison), dinp(inp_size, poison);
        fast.attention_forward(out.data(), lse.data(), inp.data(), documents, dropout, 7, 8, B, T, C, NH, causal);
        fast.attention_backward(dinp.data(), dout.data(), out.data(), lse.data(), inp.data(), documents, dropout, 7, 8,
                                B, T, C, NH, causal);
        // Scores are sums over HS products, outputs and gradients over T of them.
        const double rms_score = 4.0 / 3 / std::sqrt(3.0) * 2, K = T + C / NH;
        CHECK(max_difference(lse, exact_lse) <=
              product_tolerance(K, std::max(1.0, rms_score * std::log(T + 2.0)), bf16));
        CHECK(max_difference(out, exact_out) <= product_tolerance(K, 2, bf16));
        CHECK(max_difference(dinp, exact_dinp) <= product_tolerance(K, std::max(1.0, rms(exact_dinp)) * 4, bf16));

        Floats again(inp_size);
        fast.attention_backward(again.data(), dout.data(), out.data(), lse.data(), inp.data(), documents, dropout, 7, 8,
                                B, T, C, NH, causal);
        CHECK(same_bits(again, dinp));
      });
    }
  }
}

TEST_CASE("fast attention survives scores beyond exp's range") {
  const int T = 70, C = 4;
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    Floats inp(T * 3 * C, 100.0f), out(T * C), lse(T);
    fast.attention_forward(out.data(), lse.data(), inp.data(), nullptr, 0, 0, 0, 1, T, C, 1, true);
    for (const float y : out) CHECK(y == doctest::Approx(100));
    for (int t = 0; t < T; ++t) CHECK(lse[t] == doctest::Approx(100.0 * 100 * C / 2 + std::log(t + 1.0)));
  });
}
