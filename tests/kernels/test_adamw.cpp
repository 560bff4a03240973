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

namespace {

// The neighbours in bf16 of a number that is not one.
std::pair<double, double> neighbours(double x) {
  const double below = cpu::round_stochastically(static_cast<float>(x), 0),
               above = cpu::round_stochastically(static_cast<float>(x), 65535);
  return {below, above};
}

}  // namespace

TEST_CASE("AdamW with moments in bf16: parameters from the exact moments, which become a neighbour each") {
  const int64_t N = 1003;
  const Doubles start = random_tensor(N, 1), grads = random_tensor(N, 2);
  std::vector<cpu::bf16> m(N), v(N);
  Doubles exact_m(N), exact_v(N);
  for (int64_t i = 0; i < N; ++i) {
    m[i] = cpu::round_to_nearest(static_cast<float>(0.1 * start[i]));
    v[i] = cpu::round_to_nearest(static_cast<float>(0.01 * start[i] * start[i]));
    exact_m[i] = m[i], exact_v[i] = v[i];
  }
  Doubles params = start, expected = start;
  cpu::adamw_update_bf16<double>(params.data(), m.data(), v.data(), grads.data(), 0.5, 1e-2, 0.9, 0.95, 0.3, 0.2, 1e-8,
                                 0.1, {3, 4}, 9, N);
  cpu::adamw_update<double>(expected.data(), exact_m.data(), exact_v.data(), grads.data(), 0.5, 1e-2, 0.9, 0.95, 0.3,
                            0.2, 1e-8, 0.1, N);
  CHECK(same_bits(params, expected));
  for (int64_t i = 0; i < N; ++i) {
    const Philox4 random = draw_moments(3, 9, (4 + i) / 4);
    CHECK(m[i].bits == cpu::round_stochastically(static_cast<float>(exact_m[i]), bits_of_m(random.word[i % 4])).bits);
    CHECK(v[i].bits == cpu::round_stochastically(static_cast<float>(exact_v[i]), bits_of_v(random.word[i % 4])).bits);
  }
}

TEST_CASE("AdamW's moments in bf16 are on average the exact ones, m and v drawn independently") {
  const int64_t N = 1 << 16;
  for (const double grad : {1.0, -0.37, 3e-5}) {
    CAPTURE(grad);
    Doubles params(N), grads(N, grad);
    std::vector<cpu::bf16> m(N), v(N);
    cpu::adamw_update_bf16<double>(params.data(), m.data(), v.data(), grads.data(), 1, 1e-2, 0.9, 0.95, 0.1, 0.05, 1e-8,
                                   0, {1, 0}, 1, N);
    const double exact_m = 0.1 * grad, exact_v = (1 - 0.95) * grad * grad;
    const auto [m_below, m_above] = neighbours(exact_m);
    const auto [v_below, v_above] = neighbours(exact_v);
    const double m_share = (exact_m - m_below) / (m_above - m_below),
                 v_share = (exact_v - v_below) / (v_above - v_below);
    double m_up = 0, v_up = 0, both = 0;
    for (int64_t i = 0; i < N; ++i) {
      REQUIRE((m[i] == m_below || m[i] == m_above));
      REQUIRE((v[i] == v_below || v[i] == v_above));
      m_up += m[i] == m_above, v_up += v[i] == v_above, both += m[i] == m_above && v[i] == v_above;
    }
    // Within five standard deviations; the random numbers have 16 bits.
    const auto close = [&](double up, double share) {
      return std::abs(up / N - share) <= 5 * std::sqrt(share * (1 - share) / N) + 0x1p-15;
    };
    CHECK(close(m_up, m_share));
    CHECK(close(v_up, v_share));
    CHECK(close(both, m_share * v_share));
  }
}

TEST_CASE("AdamW's moments in bf16 depend on seed, update and place, not on how the arena is divided") {
  const int64_t N = 1003;
  const Floats grads = random_tensor<float>(N, 2);
  const auto run = [&](uint64_t seed, int64_t t, int64_t first, int64_t cut) {
    Floats params(N);
    std::vector<cpu::bf16> m(N), v(N);
    for (const auto& [from, to] : {std::pair(int64_t{0}, cut), std::pair(cut, N)}) {
      cpu::adamw_update_bf16<float>(&params[from], &m[from], &v[from], &grads[from], 1, 1e-2f, 0.9f, 0.95f, 0.1f, 0.05f,
                                    1e-8f, 0.1f, {seed, first + from}, t, to - from);
    }
    Floats all = params;
    all.insert(all.end(), m.begin(), m.end());
    all.insert(all.end(), v.begin(), v.end());
    return all;
  };
  const Floats one = run(1, 1, 64, 0);
  for (const int64_t cut : {1, 2, 64, 501}) CHECK(same_bits(run(1, 1, 64, cut), one));
  CHECK_FALSE(same_bits(run(2, 1, 64, 0), one));
  CHECK_FALSE(same_bits(run(1, 2, 64, 0), one));
  CHECK_FALSE(same_bits(run(1, 1, 128, 0), one));
  check_thread_independence([&] { return run(1, 1, 64, 0); });
}
