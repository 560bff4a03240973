#include "tests/helpers/fast_kernels.h"

TEST_CASE("fast AdamW equals the plain one in double over three steps") {
  for (const int64_t N : {1, 7, 33, 1003, 60'001}) {
    CAPTURE(N);
    const Floats start = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
    Doubles params(start.begin(), start.end()), m(N), v(N);
    for (int t = 1; t <= 3; ++t) {
      const Doubles exact(grads.begin(), grads.end());
      cpu::adamw_update<double>(params.data(), m.data(), v.data(), exact.data(), 0.7f, 1e-2f, 0.9f, 0.95f,
                                1 - std::pow(0.9f, t), 1 - std::pow(0.95f, t), 1e-8f, 0.1f, N);
    }
    for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
      Floats params_f = start, m_f(N), v_f(N);
      for (int t = 1; t <= 3; ++t) {
        fast.adamw_update(params_f.data(), m_f.data(), v_f.data(), grads.data(), 0.7f, 1e-2f, 0.9f, 0.95f,
                          static_cast<float>(1 - std::pow(0.9f, t)), static_cast<float>(1 - std::pow(0.95f, t)), 1e-8f,
                          0.1f, N);
      }
      CHECK(max_difference(params_f, params) <= 8 * 0x1p-24);  // values up to 1, three steps of a few roundings
      CHECK(max_difference(m_f, m) <= 8 * 0x1p-24);
      CHECK(max_difference(v_f, v) <= 8 * 0x1p-24);
    });
  }
}

TEST_CASE("fast AdamW: a gradient of zero leaves zero, whatever the size of the moments") {
  for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
    Floats params(5), m(5), v(5), grads(5);
    fast.adamw_update(params.data(), m.data(), v.data(), grads.data(), 1, 1e-3f, 0.9f, 0.95f, 0.1f, 0.05f, 1e-8f, 0.1f,
                      5);
    CHECK(same_bits(params, Floats(5)));
  });
}

TEST_CASE("fast AdamW with moments in bf16 draws as the plain one does, wherever its elements are in the arena") {
  for (const int64_t N : {1, 7, 33, 1003, 60'001}) {
    for (const int64_t first : {0, 3, 64, 1'000'003}) {
      CAPTURE(N);
      CAPTURE(first);
      const Floats start = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
      const Doubles exact_grads(grads.begin(), grads.end());
      std::vector<cpu::bf16> m(N), v(N);
      for (int64_t i = 0; i < N; ++i) {
        m[i] = cpu::round_to_nearest(0.1f * start[i]), v[i] = cpu::round_to_nearest(0.01f * start[i] * start[i]);
      }
      Doubles params(start.begin(), start.end());
      std::vector<cpu::bf16> plain_m = m, plain_v = v;
      cpu::adamw_update_bf16<double>(params.data(), plain_m.data(), plain_v.data(), exact_grads.data(), 0.7f, 1e-2f,
                                     0.9f, 0.95f, 0.1f, 0.05f, 1e-8f, 0.1f, {5, first}, 3, N);
      for_each_fast([&](const cpu::Kernels<float>& fast, bool) {
        Floats params_f = start;
        std::vector<cpu::bf16> fast_m = m, fast_v = v;
        fast.adamw_update_bf16(params_f.data(), fast_m.data(), fast_v.data(), grads.data(), 0.7f, 1e-2f, 0.9f, 0.95f,
                               0.1f, 0.05f, 1e-8f, 0.1f, {5, first}, 3, N);
        CHECK(max_difference(params_f, params) <= 8 * 0x1p-24);
        // Before they are rounded both differ by some 2^-24 of themselves, a 2^-16th of bf16's step: with that chance
        // another neighbour is drawn.
        int64_t different = 0;
        for (int64_t i = 0; i < N; ++i) {
          different += (fast_m[i].bits != plain_m[i].bits) + (fast_v[i].bits != plain_v[i].bits);
          REQUIRE(std::abs(fast_m[i] - plain_m[i]) <= 0x1p-7f * std::abs(plain_m[i]));
          REQUIRE(std::abs(fast_v[i] - plain_v[i]) <= 0x1p-7f * std::abs(plain_v[i]));
        }
        CHECK(different <= N / 1000);
      });
    }
  }
}
