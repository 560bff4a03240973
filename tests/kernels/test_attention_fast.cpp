#include "tests/helpers/documents.h"
#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast attention equals the plain one in double, causal and not, with documents, with and without dropout") {
  struct Sizes {
    int B, T, C, NH;
    bool causal = true;
    std::vector<int> documents = {};
    int NKV = NH;
  };
  for (const auto& [B, T, C, NH, causal, lengths, NKV] : {Sizes{1, 1, 1, 1},
                                                          Sizes{2, 1, 33, 3},
                                                          Sizes{1, 63, 32, 2},
                                                          Sizes{2, 64, 33, 3},
                                                          Sizes{1, 65, 64, 1},
                                                          Sizes{3, 130, 51, 3},
                                                          Sizes{1, 257, 128, 4},
                                                          Sizes{1, 600, 36, 2},
                                                          Sizes{1, 66, 385, 1},
                                                          Sizes{2, 1, 33, 3, false},
                                                          Sizes{1, 65, 64, 1, false},
                                                          Sizes{1, 600, 36, 2, false},
                                                          Sizes{1, 66, 385, 1, false},
                                                          Sizes{2, 70, 33, 3, true, {1}},
                                                          Sizes{2, 130, 24, 2, true, {3, 64, 1, 30}},
                                                          Sizes{2, 600, 36, 2, true, {37, 90, 5}},
                                                          Sizes{1, 700, 32, 2, true, {300, 20, 270}},
                                                          Sizes{2, 66, 385, 1, true, {40, 9}},
                                                          Sizes{2, 130, 64, 4, true, {}, 2},
                                                          Sizes{1, 300, 51, 3, true, {}, 1},
                                                          Sizes{2, 130, 48, 4, true, {3, 64, 1, 30}, 2},
                                                          Sizes{1, 65, 64, 2, false, {}, 1},
                                                          Sizes{1, 66, 770, 2, true, {}, 1}}) {
    for (const float dropout : {0.0f, 0.3f}) {
      CAPTURE(T);
      CAPTURE(C);
      CAPTURE(dropout);
      const auto first = lengths.empty() ? std::vector<int32_t>() : documents_of(B, T, lengths);
      const AttentionShape s{B, T, NH, NKV, C / NH, causal, lengths.empty() ? nullptr : first.data()};
      const size_t out_size = static_cast<size_t>(B) * T * C, lse_size = static_cast<size_t>(B) * NH * T,
                   inp_size = static_cast<size_t>(B) * T * s.packed_channels();
      const Floats inp = random_tensor<float>(inp_size, 1, 2), dout = random_tensor<float>(out_size, 2);
      const Doubles exact_inp(inp.begin(), inp.end()), exact_dout(dout.begin(), dout.end());
      Doubles exact_out(out_size), exact_lse(lse_size), exact_dinp(inp_size);
      cpu::attention_forward(exact_out.data(), exact_lse.data(), packed_qkv(exact_inp.data(), s), dropout, 7, 8, s);
      cpu::attention_backward(packed_qkv(exact_dinp.data(), s), exact_dout.data(), exact_out.data(), exact_lse.data(),
                              packed_qkv(exact_inp.data(), s), dropout, 7, 8, s);

      for_each_fast([&](const cpu::Kernels<float>& fast, bool bf16) {
        const float poison = std::numeric_limits<float>::quiet_NaN();  // all outputs are set, none is added to
        Floats out(out_size, poison), lse(lse_size, poison), dinp(inp_size, poison);
        const auto qkv = packed_qkv(inp.data(), s);
        fast.attention_forward(out.data(), lse.data(), qkv, dropout, 7, 8, s);
        fast.attention_backward(packed_qkv(dinp.data(), s), dout.data(), out.data(), lse.data(), qkv, dropout, 7, 8, s);
        // Scores are sums over HS products, outputs and gradients over T of them, or T for each head that shares keys.
        const double rms_score = 4.0 / 3 / std::sqrt(3.0) * 2, K = T * (NH / NKV) + C / NH;
        CHECK(max_difference(lse, exact_lse) <=
              product_tolerance(K, std::max(1.0, rms_score * std::log(T + 2.0)), bf16));
        CHECK(max_difference(out, exact_out) <= product_tolerance(K, 2, bf16));
        CHECK(max_difference(dinp, exact_dinp) <= product_tolerance(K, std::max(1.0, rms(exact_dinp)) * 4, bf16));

        Floats again(inp_size);
        fast.attention_backward(packed_qkv(again.data(), s), dout.data(), out.data(), lse.data(), qkv, dropout, 7, 8,
                                s);
        CHECK(same_bits(again, dinp));

        // In separate tensors, with room between the tokens: the same bits.
        const int64_t q_row = s.channels() + 3, kv_row = s.kv_channels() + 5;
        Floats q(s.tokens() * q_row), k(s.tokens() * kv_row), v(k), dq(q), dk(k), dv(k), o(out_size), l(lse_size);
        for (int64_t n = 0; n < s.tokens(); ++n) {
          std::copy_n(qkv.q + n * qkv.q_row, s.channels(), &q[n * q_row]);
          std::copy_n(qkv.k + n * qkv.kv_row, s.kv_channels(), &k[n * kv_row]);
          std::copy_n(qkv.v + n * qkv.kv_row, s.kv_channels(), &v[n * kv_row]);
        }
        const Qkv<const float> apart{q.data(), k.data(), v.data(), q_row, kv_row};
        fast.attention_forward(o.data(), l.data(), apart, dropout, 7, 8, s);
        fast.attention_backward({dq.data(), dk.data(), dv.data(), q_row, kv_row}, dout.data(), out.data(), lse.data(),
                                apart, dropout, 7, 8, s);
        CHECK(same_bits(o, out));
        CHECK(same_bits(l, lse));
        for (int64_t n = 0; n < s.tokens(); ++n) {
          const float* row = &dinp[n * s.packed_channels()];
          CHECK(std::equal(row, row + s.channels(), &dq[n * q_row]));
          CHECK(std::equal(row + s.channels(), row + s.channels() + s.kv_channels(), &dk[n * kv_row]));
          CHECK(std::equal(row + s.channels() + s.kv_channels(), row + s.packed_channels(), &dv[n * kv_row]));
        }
      });
    }
  }
}

TEST_CASE("fast attention survives scores beyond exp's range") {
  const int T = 70, C = 4;
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    Floats inp(T * 3 * C, 100.0f), out(T * C), lse(T);
    const AttentionShape s{1, T, 1, 1, C};
    fast.attention_forward(out.data(), lse.data(), packed_qkv<const float>(inp.data(), s), 0, 0, 0, s);
    for (const float y : out) CHECK(y == doctest::Approx(100));
    for (int t = 0; t < T; ++t) CHECK(lse[t] == doctest::Approx(100.0 * 100 * C / 2 + std::log(t + 1.0)));
  });
}
