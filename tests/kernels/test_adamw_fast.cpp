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
