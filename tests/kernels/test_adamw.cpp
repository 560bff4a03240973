#include "kernels/adamw.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("five steps of AdamW match PyTorch") {
  const Golden golden("adamw.bin");
  const auto sizes = golden.get<int>("sizes");
  const int N = sizes[0], steps = sizes[1];
  const Doubles grads = golden.get("grads"), after = golden.get("after");
  Doubles params = golden.get("params"), m(N), v(N);
  const float lr = 1e-2f, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0.1f;
  for (int t = 1; t <= steps; ++t) {
    cpu::adamw_update<double>(params.data(), m.data(), v.data(), &grads[(t - 1) * N], 1, lr, beta1, beta2,
                              1 - std::pow(static_cast<double>(beta1), t), 1 - std::pow(static_cast<double>(beta2), t),
                              eps, weight_decay, N);
    CHECK(max_difference(params, Doubles(&after[(t - 1) * N], &after[(t - 1) * N] + N)) < 1e-14);
  }
  CHECK(max_difference(m, golden.get("m")) < 1e-14);
  CHECK(max_difference(v, golden.get("v")) < 1e-14);
}

TEST_CASE("AdamW's first step is lr times the gradient's sign, apart from decay") {
  Doubles params = {1, 1, 1, -2}, m(4), v(4);
  const Doubles grads = {1e-3, -5, 0, 0};
  cpu::adamw_update<double>(params.data(), m.data(), v.data(), grads.data(), 1, 0.01, 0.9, 0.95, 1 - 0.9, 1 - 0.95,
                            1e-12, 0.5, 4);
  const Doubles expected = {1 - 0.01 - 0.005, 1 + 0.01 - 0.005, 1 - 0.005, -2 + 0.01};
  CHECK(max_difference(params, expected) < 1e-10);
}

TEST_CASE("AdamW's grad_scale scales the gradient, and zero stays zero") {
  const int N = 35;
  const Doubles start = random_tensor(N, 1), grads = random_tensor(N, 2);
  Doubles scaled = grads;
  for (double& g : scaled) g *= 0.25;
  Doubles a = start, b = start, ma(N), mb(N), va(N), vb(N);
  cpu::adamw_update<double>(a.data(), ma.data(), va.data(), grads.data(), 0.25, 1e-3, 0.9, 0.95, 0.1, 0.05, 1e-8, 0.1,
                            N);
  cpu::adamw_update<double>(b.data(), mb.data(), vb.data(), scaled.data(), 1, 1e-3, 0.9, 0.95, 0.1, 0.05, 1e-8, 0.1, N);
  CHECK(same_bits(a, b));
  CHECK(same_bits(va, vb));

  Floats p(N), m(N), v(N);
  const Floats none(N);
  cpu::adamw_update<float>(p.data(), m.data(), v.data(), none.data(), 1, 1e-3f, 0.9f, 0.95f, 0.1f, 0.05f, 1e-8f, 0.1f,
                           N);
  CHECK(same_bits(p, none));
}

TEST_CASE("AdamW does not depend on the number of threads") {
  for (const int64_t N : {int64_t{1}, int64_t{7}, int64_t{1003}}) {
    const Floats start = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
    check_thread_independence([&] {
      Floats all(3 * N);
      std::copy(start.begin(), start.end(), all.begin());
      for (int t = 1; t <= 3; ++t) {
        cpu::adamw_update<float>(all.data(), &all[N], &all[2 * N], grads.data(), 0.7f, 1e-3f, 0.9f, 0.95f,
                                 1 - std::pow(0.9f, static_cast<float>(t)), 1 - std::pow(0.95f, static_cast<float>(t)),
                                 1e-8f, 0.1f, N);
      }
      return all;
    });
  }
}
