#include "llm/inference/attention_map.h"
#include "tests/helpers/model_variants.h"

TEST_CASE("attention weights sum to 1 per row, and weight the values to give attention's output") {
  for (const bool causal : {true, false}) {
    const ModelConfig config = {
        .max_seq_len = 9, .vocab_size = 61, .num_layers = 2, .num_heads = 3, .channels = 33, .causal = causal};
    const int T = 7, C = config.channels, HS = C / config.num_heads;
    CpuModel<float> model(config, false);
    random_weights(model, 0.3);
    model.forward(random_ints(T, 1, 61).data(), 1, T, Pass::evaluate);
    for (int layer = 0; layer < 2; ++layer) {
      const std::vector<float> p = attention_weights(model, layer, T);
      REQUIRE(p.size() == static_cast<size_t>(3 * T * T));
      const auto& a = model.acts.block[static_cast<size_t>(layer)];
      for (int h = 0; h < 3; ++h) {
        for (int t = 0; t < T; ++t) {
          const float* row = &p[(h * T + t) * T];
          double sum = 0;
          for (int u = 0; u < T; ++u) {
            sum += row[u];
            CHECK((row[u] > 0) == (!causal || u <= t));
          }
          CHECK(sum == doctest::Approx(1).epsilon(1e-6));
          for (int i = 0; i < HS; ++i) {
            double out = 0;
            for (int u = 0; u < T; ++u) out += row[u] * a.qkv[u * 3 * C + 2 * C + h * HS + i];
            CHECK(a.atty[t * C + h * HS + i] == doctest::Approx(out).epsilon(1e-5));
          }
        }
      }
    }
  }
}

TEST_CASE("attention weights of heads that share keys and values") {
  for (const int NKV : {4, 2, 1}) {
    CAPTURE(NKV);
    const AttentionShape s{1, 7, 4, NKV, 5};
    const Floats q = random_tensor<float>(7 * 20, 1), kv = random_tensor<float>(static_cast<size_t>(7 * 10 * NKV), 2);
    const Qkv<const float> qkv = split_qkv(q.data(), kv.data(), s);
    Floats out(7 * 20), lse(4 * 7);
    cpu::attention_forward(out.data(), lse.data(), qkv, 0, 0, 0, s);
    const std::vector<float> p = attention_weights(qkv, lse.data(), s);
    for (int c = 0; c < 20; ++c) {
      for (int t = 0; t < 7; ++t) {
        double sum = 0;
        for (int u = 0; u <= t; ++u) {
          sum +=
              p[static_cast<size_t>((c / 5 * 7 + t) * 7 + u)] * qkv.v[u * qkv.kv_row + c / 5 / s.sharing() * 5 + c % 5];
        }
        CHECK(out[static_cast<size_t>(t * 20 + c)] == doctest::Approx(sum).epsilon(1e-5));
      }
    }
  }
}
