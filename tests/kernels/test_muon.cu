#include "kernels/muon.cuh"
#include "kernels/muon.h"
#include "tests/helpers/device.h"

namespace {

constexpr float kMomentum = 0.95f, kDecay = 0.1f, kRate = 0.02f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

DeviceArray<AdamWStep> step_with(float grad_scale, bool updated = true, int64_t updates = 7) {
  AdamWStep step = {};
  step.grad_scale = grad_scale;
  step.updated = updated;
  step.updates = updates;
  return DeviceArray<AdamWStep>(std::vector<AdamWStep>{step});
}

// The tiers in which a type is multiplied; their products' factors are then exact in floatX, or rounded to tf32.
template <class floatX>
std::vector<MatmulMode> modes() {
  std::vector<MatmulMode> all = {{MatmulTier::plain, false}};
  if (std::is_same_v<floatX, bf16>) all.push_back({MatmulTier::tensor_core, false});
#ifdef WROUGHT_CUBLASLT
  all.push_back({MatmulTier::cublaslt, false});
#endif
  return all;
}

// A symmetric D of tiles up to the diagonal, by the kernels that muon_orthogonalize uses.
template <class floatX>
void symmetric_product(const MuonEpilogue<floatX>& epilogue, const floatX* x, int n, int K, bool by_columns,
                       MatmulMode mode) {
  if (by_columns) {
    matmul_own<Major::mn, Major::mn>(epilogue, x, x, n, n, K, mode, nullptr);
  } else {
    matmul_own<Major::k, Major::k>(epilogue, x, x, n, n, K, mode, nullptr);
  }
}

template <class floatX>
Floats as_floats(const DeviceArray<floatX>& array) {
  return to_numbers<float>(array.host());
}

// Bounds on the singular values of x (rows, cols): |x v| / |v| for some v, and the mean square.
void check_orthogonal(const Floats& x, int rows, int cols) {
  const int side = std::min(rows, cols);
  CHECK(norm(x) >= 0.6 * std::sqrt(side));
  CHECK(norm(x) <= 1.3 * std::sqrt(side));
}

}  // namespace

TEST_CASE("muon_momentum and muon_normalize on the device against the CPU") {
  for (const int64_t N : {1, 3, 35, 64, 1000, 4095, 4096, 4097, 3 * 4096 + 1, 300 * 4096 + 5}) {
    for (const Shift shift : shifts(3, N == 4097)) {
      if (N > 100'000 && shift.all) continue;
      CAPTURE(N);
      CAPTURE(shift.tensor);
      const Floats start = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
      Doubles m = to_numbers(start), x(N);
      const Doubles g = to_numbers(grads);
      const double squares = cpu::muon_momentum<double>(m.data(), g.data(), 0.25, kMomentum, N);
      cpu::muon_normalize<double>(x.data(), m.data(), g.data(), squares, 0.25, kMomentum, N);

      const DeviceArray<float> device_m(start, shift[0]), device_grads(grads, shift[1]), as_float(N, shift[2]);
      const DeviceArray<bf16> as_bf16(N, shift[2]);
      const DeviceArray<double> sums(muon_chunks(N));
      const DeviceArray<AdamWStep> step = step_with(0.25f);
      muon_momentum(sums.data(), device_m.data(), device_grads.data(), step.data(), kMomentum, N, nullptr);
      muon_normalize(as_float.data(), device_m.data(), device_grads.data(), sums.data(), step.data(), kMomentum, N,
                     nullptr);
      muon_normalize(as_bf16.data(), device_m.data(), device_grads.data(), sums.data(), step.data(), kMomentum, N,
                     nullptr);
      check_close("m", device_m.host(), m, 2);
      double sum = 0;
      for (const double part : sums.host()) sum += part;
      CHECK(sum == doctest::Approx(squares).epsilon(1e-6));
      check_close("x", as_float.host(), x, 4);
      check_close("x", as_bf16.host(), x, 4);
    }
  }
  check_ran<float>("muon_momentum_kernel<true");
  check_ran<float>("muon_normalize_kernel<floatX, true");
  check_ran<bf16>("muon_normalize_kernel<floatX, true");
}

TEST_CASE("muon_normalize survives squares beyond float's range, and a matrix of zeros") {
  const int64_t N = 5000;
  const DeviceArray<double> sums(muon_chunks(N));
  const DeviceArray<AdamWStep> step = step_with(1);
  for (const double size : {1e25, 1.0, 0.0}) {
    const Floats grads = random_tensor<float>(N, 2, size);
    const DeviceArray<float> m(Floats(N, 0)), g(grads), x(N);
    muon_momentum(sums.data(), m.data(), g.data(), step.data(), kMomentum, N, nullptr);
    muon_normalize(x.data(), m.data(), g.data(), sums.data(), step.data(), kMomentum, N, nullptr);
    CHECK(norm(x.host()) == doctest::Approx(size > 0 ? 1 : 0).epsilon(1e-5));
  }
  // eps keeps tiny values from becoming large.
  const DeviceArray<float> m(Floats(1, 0)), g(Floats{1e-7f / 1.95f}), x(1);
  muon_momentum(sums.data(), m.data(), g.data(), step.data(), kMomentum, 1, nullptr);
  muon_normalize(x.data(), m.data(), g.data(), sums.data(), step.data(), kMomentum, 1, nullptr);
  CHECK(x.host()[0] == doctest::Approx(0.5).epsilon(1e-5));
}

TEST_CASE_TEMPLATE("symmetric products compute tiles up to the diagonal and store both sides", floatX, float, bf16) {
  for (const MatmulMode mode : modes<floatX>()) {
    // One tile, ragged ones, whole ones; for tensor cores also wide enough for 128 x 128 and 128 x 256 tiles.
    for (const int n : {1, 7, 33, 64, 65, 128, 136, 200}) {
      for (const int K : {1, 40, 64}) {
        for (const bool by_columns : {false, true}) {
          for (const Shift shift : shifts(3, n == 64 && K == 64)) {
            CAPTURE(n);
            CAPTURE(K);
            CAPTURE(by_columns);
            CAPTURE(shift.tensor);
            CAPTURE(shift.all);
            const auto x = random_storage<floatX>(static_cast<size_t>(n) * K, 1);
            Doubles numbers = to_numbers(x), rows(numbers), expected(static_cast<size_t>(n) * n);
            for (int i = 0; by_columns && i < n; ++i) {
              for (int k = 0; k < K; ++k)
                rows[static_cast<size_t>(i * K + k)] = numbers[static_cast<size_t>(k * n + i)];
            }
            const double* none = nullptr;
            cpu::matmul_forward<double>(expected.data(), rows.data(), rows.data(), none, n, K, n);
            const DeviceArray<floatX> device_x(x, shift[0]), a(expected.size(), shift[1]), b(expected.size(), shift[1]);
            const floatX* no_inp = nullptr;
            symmetric_product<floatX>({a.data(), no_inp, n}, device_x.data(), n, K, by_columns, mode);
            check_close("A", a.host(), expected, K * K);  // squares on the diagonal: sums grow like k, not its root

            // The polynomial, with another symmetric matrix: each element is its own.
            Floats inp(expected.size());
            for (int i = 0; i < n; ++i) {
              for (int j = 0; j < n; ++j)
                inp[static_cast<size_t>(i * n + j)] = static_cast<float>((i * j + i + j) % 13) / 16;
            }
            const DeviceArray<floatX> device_inp(to_storage<floatX>(inp), shift[2]);
            const Doubles stored = to_numbers(device_inp.host());
            for (int i = 0; i < n; ++i) {
              for (int j = 0; j < n; ++j) {
                double& value = expected[static_cast<size_t>(i * n + j)];
                value = double{kMuonB} * stored[static_cast<size_t>(i * n + j)] + double{kMuonC} * value +
                        (i == j ? double{kMuonA} : 0);
              }
            }
            symmetric_product<floatX>({b.data(), device_inp.data(), n}, device_x.data(), n, K, by_columns, mode);
            check_close("B", b.host(), expected, K * K + 3);
          }
        }
      }
    }
  }
}

TEST_CASE("symmetric products of every tile have the same bits, and each element those of its mirror image") {
  const int n = 328, K = 24;
  const auto x = random_storage<bf16>(static_cast<size_t>(n) * K, 1);
  const DeviceArray<bf16> device_x(x), device_inp(random_storage<bf16>(static_cast<size_t>(n) * n, 2));
  std::vector<bf16> first;
  for (int tile = 0; tile < 4; ++tile) {
    CAPTURE(tile);
    const DeviceArray<bf16> out(static_cast<size_t>(n) * n);
    const MuonEpilogue<bf16> epilogue{out.data(), device_inp.data(), n};
    const auto multiply = [&](auto small, auto vector) {
      matmul_tensor_core_tile<decltype(small), decltype(vector)::value, Major::k, Major::k>(
          epilogue, device_x.data(), device_x.data(), n, n, K, K, nullptr);
    };
    if (tile == 0) multiply(SmallTile{}, std::true_type{});
    if (tile == 1) multiply(SquareTile{}, std::true_type{});
    if (tile == 2) multiply(WideTile{}, std::true_type{});
    if (tile == 3) multiply(SmallTile{}, std::false_type{});
    const auto found = out.host();
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < i; ++j) {
        REQUIRE(__bfloat162float(found[static_cast<size_t>(i * n + j)]) ==
                __bfloat162float(found[static_cast<size_t>(j * n + i)]));
      }
    }
    if (tile == 0) first = found;
    CHECK(same_bits(found, first));
  }
}

TEST_CASE("muon_orthogonalize in float matches the CPU, and in bf16 is orthogonal") {
  struct Shape {
    int rows, cols;
  };
  for (const auto [rows, cols] : {Shape{1, 1}, {1, 35}, {35, 1}, {33, 7}, {7, 33}, {64, 136}, {136, 64}, {40, 40}}) {
    CAPTURE(rows);
    CAPTURE(cols);
    const size_t N = static_cast<size_t>(rows) * cols;
    Floats x = random_tensor<float>(N, 1);
    const double size = norm(x);
    for (float& value : x) value = static_cast<float>(value / size);
    Doubles scratch(static_cast<size_t>(muon_scratch(rows, cols)));
    MuonScratch<double> twin(scratch.data(), rows, cols);
    std::copy(x.begin(), x.end(), twin.x);
    cpu::muon_orthogonalize<double>(twin, rows, cols, cpu::matmul_forward<double>, cpu::matmul_backward<double>);
    const Doubles expected(twin.x, twin.x + N);

    const auto on_device = [&](auto zero, MatmulMode mode) {
      using floatX = decltype(zero);
      Floats whole(static_cast<size_t>(muon_scratch(rows, cols)));
      std::copy(x.begin(), x.end(), whole.begin());
      const DeviceArray<floatX> device(to_storage<floatX>(whole));
      MuonScratch<floatX> s(device.data(), rows, cols);
      muon_orthogonalize(s, rows, cols, mode, nullptr);
      const Floats all = as_floats(device);
      const auto begin = all.begin() + (s.x - device.data());
      return Floats(begin, begin + static_cast<int>(N));
    };
    for (const MatmulMode mode : modes<float>()) {
      // Roundings of 6e-8 of a singular value of up to 1 grow by up to 3.4445^5 = 485 where it is small.
      CHECK(max_difference(on_device(0.0f, mode), expected) < 485 * 4 * 0x1p-24 * std::sqrt(std::max(rows, cols)));
    }
    for (const MatmulMode mode : modes<bf16>()) {
      const Floats found = on_device(bf16(), mode);
      if (rows == cols && rows > 1) continue;  // has singular values near 0, which bf16 cannot resolve
      check_orthogonal(found, rows, cols);
      CHECK(dot_product(found, expected) / norm(found) / norm(expected) > 0.99);
    }
  }
}

TEST_CASE("muon_apply updates float, and bf16 with a master copy, and does nothing if a step is not finite") {
  for (const int64_t N : {1, 3, 33, 64, 1000, 1027}) {
    for (const Shift shift : shifts(3, N == 64)) {
      CAPTURE(N);
      CAPTURE(shift.tensor);
      const Floats start = random_tensor<float>(N, 1);
      const auto x_float = random_storage<float>(N, 2, 0.1);
      const auto x_bf16 = random_storage<bf16>(N, 2, 0.1);
      for (const bool updated : {true, false}) {
        const DeviceArray<AdamWStep> step = step_with(1, updated);
        const auto expected = [&](const auto& x) {
          Doubles p = to_numbers(start);
          if (updated) cpu::muon_apply<double>(p.data(), to_numbers(x).data(), kRate, 3, kDecay, N);
          return p;
        };
        const DeviceArray<float> params(start, shift[0]), as_float(x_float, shift[2]);
        float* no_master = nullptr;
        muon_apply(params.data(), no_master, as_float.data(), step.data(), kRate, 3, kDecay, 1, N, nullptr);
        check_close("params", params.host(), expected(x_float), 3);
        const auto rounded = to_storage<bf16>(start);
        const DeviceArray<bf16> bf16_params(rounded, shift[0]), as_bf16(x_bf16, shift[2]);
        const DeviceArray<float> master(start, shift[1]);
        muon_apply(bf16_params.data(), master.data(), as_bf16.data(), step.data(), kRate, 3, kDecay, 1, N, nullptr);
        check_close("master", master.host(), expected(x_bf16), 3);
        CHECK(same_bits(bf16_params.host(), to_storage<bf16>(master.host())));
        if (updated) continue;
        const DeviceArray<bf16> alone(rounded, shift[0]);
        muon_apply(alone.data(), no_master, as_bf16.data(), step.data(), kRate, 3, kDecay, 1, N, nullptr);
        CHECK(same_bits(alone.host(), rounded));
      }
    }
  }
  check_ran<float>("muon_apply_kernel<floatX, false, true");
  check_ran<bf16>("muon_apply_kernel<floatX, true, true");
  check_ran<bf16>("muon_apply_kernel<floatX, false, true");
}

TEST_CASE("muon_apply takes its learning rate from device memory: the same bits as with the number") {
  const int64_t N = 1027;
  const DeviceArray<AdamWStep> step = step_with(1);
  const DeviceArray<float> x(random_tensor<float>(N, 2)), rate(Floats{kRate});
  const auto run = [&](LearningRate lr) {
    const DeviceArray<float> params(random_tensor<float>(N, 1));
    float* no_master = nullptr;
    muon_apply(params.data(), no_master, x.data(), step.data(), lr, 3, kDecay, 1, N, nullptr);
    return params.host();
  };
  CHECK(same_bits(run({0.3f, rate.data()}), run(0.3f * kRate)));
  CHECK_FALSE(same_bits(run({1, rate.data()}), run(0.3f * kRate)));
}

TEST_CASE("muon_apply of bf16 without a master copy rounds randomly by seed and step, on average to the exact value") {
  const int64_t N = 16 * 1024;
  for (const bool unaligned : {false, true}) {
    const auto run = [&](uint64_t seed, int64_t updates) {
      const DeviceArray<bf16> params(std::vector<bf16>(N, __float2bfloat16_rn(1)), unaligned),
          x(std::vector<bf16>(N, __float2bfloat16_rn(0.5f)), unaligned);
      const DeviceArray<AdamWStep> step = step_with(1, true, updates);
      float* no_master = nullptr;
      muon_apply(params.data(), no_master, x.data(), step.data(), 0.01f, -1, 0.4f, seed, N, nullptr);
      return params.host();
    };
    // 1 - 0.01 (0.4 - 0.5) = 1.001, which is 0.128 of bf16's step there, 1/128.
    const auto found = run(1, 1);
    double up = 0;
    for (const double p : to_numbers(found)) {
      REQUIRE((p == 1 || p == 1.0078125));
      up += p > 1;
    }
    CHECK(std::abs(up / N - 0.128) < 5 * std::sqrt(0.128 * 0.872 / N) + 1e-4);
    CHECK(same_bits(run(1, 1), found));
    CHECK_FALSE(same_bits(run(2, 1), found));
    CHECK_FALSE(same_bits(run(1, 2), found));
  }
}

TEST_CASE("muon_update: two steps of a matrix match the CPU under every schedule; a bad step changes nothing") {
  struct Shape {
    int rows, cols;
  };
  for (const auto [rows, cols] : {Shape{33, 7}, Shape{8, 72}, Shape{1, 5}}) {
    CAPTURE(rows);
    const int64_t N = int64_t{rows} * cols;
    const Floats start = random_tensor<float>(N, 1);
    Doubles p = to_numbers(start), m(N), scratch(static_cast<size_t>(muon_scratch(rows, cols)));
    for (int t = 1; t <= 2; ++t) {
      const Doubles g = to_numbers(random_tensor<float>(N, 10 + t));
      cpu::muon_update<double>(p.data(), m.data(), scratch.data(), g.data(), t == 1 ? 0.5 : 1, kRate, kMomentum, kDecay,
                               rows, cols, cpu::matmul_forward<double>, cpu::matmul_backward<double>);
    }
    const auto run = [&](auto zero, bool has_master, MatmulMode mode) {
      using floatX = decltype(zero);
      const DeviceArray<floatX> params(to_storage<floatX>(start)),
          device_scratch(static_cast<size_t>(muon_scratch(rows, cols)));
      const DeviceArray<float> master(start), device_m(Floats(N, 0));
      const DeviceArray<double> sums(muon_chunks(N));
      for (int t = 1; t <= 3; ++t) {  // the third is not finite
        const DeviceArray<float> grads(t == 3 ? Floats(N, kInfinity) : random_tensor<float>(N, 10 + t));
        const DeviceArray<AdamWStep> step = step_with(t == 1 ? 0.5f : 1, t < 3, t);
        muon_update(params.data(), has_master ? master.data() : nullptr, device_m.data(), device_scratch.data(),
                    sums.data(), grads.data(), step.data(), kRate, kMomentum, kDecay, 1, rows, cols, mode, nullptr);
      }
      Floats all = has_master ? master.host() : as_floats(params);
      const Floats moments = device_m.host();
      all.insert(all.end(), moments.begin(), moments.end());
      return all;
    };
    for (const MatmulMode mode : modes<float>()) {
      const Floats found = same_under_all_schedules([&] { return run(0.0f, false, mode); });
      const Floats params(found.begin(), found.begin() + N), moments(found.begin() + N, found.end());
      check_close("m", moments, m, 4);
      CHECK(max_difference(params, p) < 2 * kRate * muon_scale(rows, cols) * 1e-3);
    }
    for (const MatmulMode mode : modes<bf16>()) {
      const Floats found = same_under_all_schedules([&] { return run(bf16(), true, mode); });
      const Floats params(found.begin(), found.begin() + N), moments(found.begin() + N, found.end());
      check_close("m", moments, m, 4);
      CHECK(max_difference(params, p) < 2 * kRate * muon_scale(rows, cols) * 0.1);
      same_under_all_schedules([&] { return run(bf16(), false, mode); });
    }
  }
}
