// Muon: the iteration on singular values, the update compared with the formula written out in double, and factors that
// must not matter.
#include "kernels/muon.h"
#include "tests/helpers/finite_differences.h"

namespace {

struct Shape {
  int rows, cols;
};
const Shape kShapes[] = {{1, 1}, {1, 35}, {35, 1}, {2, 3}, {33, 7}, {7, 33}, {16, 16}, {64, 256}, {256, 64}};

template <class floatX>
std::vector<floatX> orthogonalized(std::vector<floatX> x, int rows, int cols) {
  std::vector<floatX> scratch(static_cast<size_t>(muon_scratch(rows, cols)));
  MuonScratch<floatX> s(scratch.data(), rows, cols);
  std::copy(x.begin(), x.end(), s.x);
  cpu::muon_orthogonalize<floatX>(s, rows, cols, cpu::matmul_forward<floatX>, cpu::matmul_backward<floatX>);
  std::copy(s.x, s.x + x.size(), x.begin());
  return x;
}

// x / |x|
Doubles normalized(Doubles x) {
  const double size = norm(x);
  for (double& value : x) value /= size;
  return x;
}

// a (m, k) b (k, n), or with b (n, k) transposed
Doubles product(const Doubles& a, const Doubles& b, int m, int k, int n, bool b_transposed) {
  Doubles c(static_cast<size_t>(m) * n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      for (int l = 0; l < k; ++l) c[i * n + j] += a[i * k + l] * (b_transposed ? b[j * k + l] : b[l * n + j]);
    }
  }
  return c;
}

Doubles transposed(const Doubles& a, int rows, int cols) {
  Doubles t(a.size());
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < cols; ++j) t[j * rows + i] = a[i * cols + j];
  }
  return t;
}

// The iteration as it is published: a X + (b A + c A A) X, with A = X X^T whatever the shape.
Doubles published_iteration(Doubles x, int rows, int cols) {
  for (int step = 0; step < 5; ++step) {
    const Doubles a = product(x, x, rows, cols, rows, true), aa = product(a, a, rows, rows, rows, false);
    Doubles b(a.size());
    for (size_t i = 0; i < b.size(); ++i) b[i] = double{-4.7750f} * a[i] + double{2.0315f} * aa[i];
    Doubles next = product(b, x, rows, rows, cols, false);
    for (size_t i = 0; i < x.size(); ++i) next[i] += double{3.4445f} * x[i];
    x = next;
  }
  return x;
}

// Eigenvalues of a symmetric matrix (n, n): Jacobi's rotations.
Doubles eigenvalues(Doubles a, int n) {
  for (int sweep = 0; sweep < 30; ++sweep) {
    for (int p = 0; p < n; ++p) {
      for (int q = p + 1; q < n; ++q) {
        if (std::abs(a[p * n + q]) < 1e-15) continue;
        const double angle = 0.5 * std::atan2(2 * a[p * n + q], a[q * n + q] - a[p * n + p]);
        const double c = std::cos(angle), s = std::sin(angle);
        for (int k = 0; k < n; ++k) {
          const double x = a[k * n + p], y = a[k * n + q];
          a[k * n + p] = c * x - s * y, a[k * n + q] = s * x + c * y;
        }
        for (int k = 0; k < n; ++k) {
          const double x = a[p * n + k], y = a[q * n + k];
          a[p * n + k] = c * x - s * y, a[q * n + k] = s * x + c * y;
        }
      }
    }
  }
  Doubles values;
  for (int i = 0; i < n; ++i) values.push_back(a[i * n + i]);
  return values;
}

// The result of one update, by the formula.
struct Twin {
  Doubles params, m;
  void step(const Doubles& grads, double grad_scale, double lr, double momentum, double decay, int rows, int cols) {
    Doubles u(m.size());
    for (size_t i = 0; i < m.size(); ++i) {
      m[i] = momentum * m[i] + grad_scale * grads[i];
      u[i] = grad_scale * grads[i] + momentum * m[i];
    }
    const double size = norm(u) + double{1e-7f};
    for (double& value : u) value /= size;
    const Doubles x = published_iteration(u, rows, cols);
    const double scale = double{0.2f * std::sqrt(static_cast<float>(std::max(rows, cols)))};
    for (size_t i = 0; i < m.size(); ++i) params[i] -= lr * (scale * x[i] + decay * params[i]);
  }
};

template <class floatX>
void update(std::vector<floatX>& params, std::vector<floatX>& m, const std::vector<floatX>& grads, floatX grad_scale,
            floatX lr, floatX momentum, floatX decay, int rows, int cols) {
  std::vector<floatX> scratch(static_cast<size_t>(muon_scratch(rows, cols)));
  cpu::muon_update<floatX>(params.data(), m.data(), scratch.data(), grads.data(), grad_scale, lr, momentum, decay, rows,
                           cols, cpu::matmul_forward<floatX>, cpu::matmul_backward<floatX>);
}

}  // namespace

TEST_CASE("Muon's iteration brings singular values to about 1, also for awkward shapes") {
  for (const auto [rows, cols] : kShapes) {
    CAPTURE(rows);
    CAPTURE(cols);
    // Square matrices of random numbers have singular values near 0, which need more than five steps: none of those.
    if (rows == cols && rows > 1) continue;
    const size_t n = static_cast<size_t>(rows) * cols;
    const Floats random = random_tensor<float>(n, 1);
    const Doubles unit = normalized(Doubles(random.begin(), random.end()));
    const Floats x = orthogonalized(Floats(unit.begin(), unit.end()), rows, cols);
    const Doubles found(x.begin(), x.end());
    const int side = std::min(rows, cols);
    const Doubles gram =
        rows > cols ? product(transposed(found, rows, cols), transposed(found, rows, cols), cols, rows, cols, true)
                    : product(found, found, rows, cols, rows, true);
    for (const double squared : eigenvalues(gram, side)) {
      CHECK(std::sqrt(squared) >= 0.6);
      CHECK(std::sqrt(squared) <= 1.3);
    }
  }
}

TEST_CASE("Muon's iteration is the published one, from either side") {
  for (const auto [rows, cols] : kShapes) {
    CAPTURE(rows);
    CAPTURE(cols);
    const Doubles x = normalized(random_tensor(static_cast<size_t>(rows) * cols, 2));
    // Roundings of 1e-16 grow with the smallest singular values, by up to 3.4445^5 = 485.
    CHECK(max_difference(orthogonalized(x, rows, cols), published_iteration(x, rows, cols)) < 1e-12);
    const Doubles from_the_side = orthogonalized(transposed(x, rows, cols), cols, rows);
    CHECK(max_difference(transposed(from_the_side, cols, rows), orthogonalized(x, rows, cols)) < 1e-12);
  }
}

TEST_CASE("Muon's iteration of a diagonal matrix is the polynomial of each number") {
  const Doubles start = {0.8, 0, 0, 0, -0.1, 0};  // (2, 3): singular values 0.8 and 0.1, one of them negated
  const auto five_steps = [](double s) {
    for (int step = 0; step < 5; ++step) {
      s = double{3.4445f} * s - double{4.7750f} * s * s * s + double{2.0315f} * s * s * s * s * s;
    }
    return s;
  };
  const Doubles expected = {five_steps(0.8), 0, 0, 0, -five_steps(0.1), 0};
  CHECK(five_steps(0.8) == doctest::Approx(0.957).epsilon(0.3));
  CHECK(max_difference(orthogonalized(start, 2, 3), expected) < 1e-13);
}

TEST_CASE("Muon's iteration commutes with rotations of its matrix") {
  // X Q for a rotation Q in two of the columns, and P X for one in two of the rows.
  const int rows = 5, cols = 9;
  const Doubles x = normalized(random_tensor(rows * cols, 3)), y = orthogonalized(x, rows, cols);
  const double c = std::cos(0.7), s = std::sin(0.7);
  const auto turn = [&](Doubles values) {
    for (int i = 0; i < rows; ++i) {
      double &a = values[i * cols + 1], &b = values[i * cols + 6];
      const double before = a;
      a = c * before - s * b, b = s * before + c * b;
    }
    for (int j = 0; j < cols; ++j) {
      double &a = values[j], &b = values[4 * cols + j];
      const double before = a;
      a = c * before - s * b, b = s * before + c * b;
    }
    return values;
  };
  CHECK(max_difference(orthogonalized(turn(x), rows, cols), turn(y)) < 1e-12);
}

TEST_CASE("Muon's three steps match the formula in double, with momentum, clipping and weight decay") {
  for (const auto [rows, cols] : kShapes) {
    CAPTURE(rows);
    CAPTURE(cols);
    const size_t n = static_cast<size_t>(rows) * cols;
    Twin twin{random_tensor(n, 1), Doubles(n)};
    Doubles params = twin.params, m(n);
    for (uint64_t t = 0; t < 3; ++t) {
      const Doubles grads = random_tensor(n, 10 + t, 1e-3);
      const double grad_scale = t == 1 ? 0.25 : 1;
      twin.step(grads, grad_scale, 0.02, 0.95, 0.1, rows, cols);
      update<double>(params, m, grads, grad_scale, 0.02, 0.95, 0.1, rows, cols);
      CHECK(max_difference(m, twin.m) < 1e-15);
      CHECK(max_difference(params, twin.params) < 1e-12);
    }
    // float: the iteration's roundings, 6e-8 of X each, grow by up to 485.
    Floats p(n), mf(n), g(n);
    const Doubles start = random_tensor(n, 1), grads = random_tensor(n, 10, 1e-3);
    std::copy(start.begin(), start.end(), p.begin());
    std::copy(grads.begin(), grads.end(), g.begin());
    Twin once{start, Doubles(n)};
    once.step(grads, 1, 0.02, 0.95, 0.1, rows, cols);
    update<float>(p, mf, g, 1, 0.02f, 0.95f, 0.1f, rows, cols);
    CHECK(max_difference(p, once.params) < 2e-6);
  }
}

TEST_CASE("Muon's momentum is Nesterov's") {
  // One row: X is the direction of u, times the iterated polynomial of 1. With g = (1, 0), then (0, 1):
  //   m = (1, 0), u = (1.95, 0);   m = (0.95, 1), u = (0.95^2, 1.95)
  Doubles params = {0, 0}, m = {0, 0};
  update<double>(params, m, {1, 0}, 1, 1, 0.95, 0, 1, 2);
  CHECK(max_difference(m, Doubles{1, 0}) == 0);
  CHECK(params[0] < -0.6 * 0.2 * std::sqrt(2.0));
  CHECK(params[1] == 0);
  params = {0, 0};
  update<double>(params, m, {0, 1}, 1, 1, 0.95, 0, 1, 2);
  CHECK(max_difference(m, Doubles{0.95, 1}) == 0);
  CHECK(params[0] / params[1] == doctest::Approx(0.95 * 0.95 / 1.95).epsilon(1e-12));
}

TEST_CASE("Muon without a gradient only decays the weights") {
  Doubles params = {1, -2, 3, 4, 5, 6}, m(6);
  update<double>(params, m, Doubles(6), 1, 0.5, 0.95, 0.5, 2, 3);
  CHECK(same_bits(params, {0.75, -1.5, 2.25, 3, 3.75, 4.5}));
  CHECK(same_bits(m, Doubles(6)));
}

TEST_CASE("Muon's update has AdamW's rms, 0.2 lr, and does not depend on the gradient's size") {
  for (const auto [rows, cols] : {Shape{64, 256}, Shape{256, 64}, Shape{32, 100}}) {
    CAPTURE(rows);
    const size_t n = static_cast<size_t>(rows) * cols;
    Doubles grads = random_tensor(n, 1), small(n), m(n), large(n);
    update<double>(small, m, grads, 1, 1, 0.95, 0, rows, cols);
    CHECK(rms(small) > 0.2 * 0.68);
    CHECK(rms(small) < 0.2 * 1.2);
    for (double& g : grads) g *= 1e6;
    m.assign(n, 0);
    update<double>(large, m, grads, 1, 1, 0.95, 0, rows, cols);
    // eps is 1e-7 compared with a norm of 100. A larger gradient with a smaller grad_scale is the same.
    CHECK(max_difference(small, large) < 1e-6);
    Doubles clipped(n);
    m.assign(n, 0);
    update<double>(clipped, m, grads, 1e-6, 1, 0.95, 0, rows, cols);
    CHECK(max_difference(small, clipped) < 1e-12);
    CHECK(rms(m) == doctest::Approx(rms(grads) * 1e-6));
  }
}

TEST_CASE("Muon does not depend on the number of threads") {
  for (const auto [rows, cols] : {Shape{33, 200}, Shape{200, 33}}) {
    const size_t n = static_cast<size_t>(rows) * cols;
    check_thread_independence([&] {
      Floats params = random_tensor<float>(n, 1), m = random_tensor<float>(n, 2);
      update<float>(params, m, random_tensor<float>(n, 3), 0.7f, 1e-2f, 0.95f, 0.1f, rows, cols);
      params.insert(params.end(), m.begin(), m.end());
      return params;
    });
  }
}
