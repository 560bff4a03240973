// Shared by the tests of the kernels: random tensors, comparisons, gradients by central differences, numbers of
// threads.
#pragma once

#include <doctest/doctest.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

using Doubles = std::vector<double>;
using Floats = std::vector<float>;

// Uniform in [-scale, scale); a given seed gives the same numbers with every standard library.
template <class T = double>
std::vector<T> random_tensor(size_t n, uint64_t seed, double scale = 1) {
  std::mt19937_64 engine(seed);
  std::vector<T> values(n);
  for (T& x : values) x = static_cast<T>((static_cast<double>(engine() >> 11) * 0x1p-52 - 1) * scale);
  return values;
}

inline std::vector<int32_t> random_ints(size_t n, uint64_t seed, int limit) {
  std::mt19937_64 engine(seed);
  std::vector<int32_t> values(n);
  for (int32_t& x : values) x = static_cast<int32_t>(engine() % static_cast<uint64_t>(limit));
  return values;
}

template <class A, class B>
double dot_product(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

template <class A>
double norm(const A& a) {
  return std::sqrt(dot_product(a, a));
}

template <class A>
double rms(const A& a) {
  return norm(a) / std::sqrt(static_cast<double>(a.size()));
}

// The largest of many errors, and where it was. A NaN counts as larger than all numbers, and stays.
struct Worst {
  double error = 0;
  size_t i = 0;
  void see(double e, size_t at = 0) {
    if (std::isnan(e)) e = std::numeric_limits<double>::infinity();
    if (e <= error) return;
    error = e;
    i = at;
  }
};

// The largest |a - b|; infinite where one of the two is not a number.
template <class A, class B>
double max_difference(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  Worst worst;
  for (size_t i = 0; i < a.size(); ++i) worst.see(std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])), i);
  return worst.error;
}

// |a - b| / |b| as vectors.
template <class A, class B>
double relative_difference(const A& a, const B& b) {
  REQUIRE(a.size() == b.size());
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(squares) / norm(b);
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// The largest difference between two ways to sum K terms in T (docs/testing.md): 4 u sqrt(K) rms, rms that of the sums.
// Terms that are products of independent factors a and b make sums of rms sqrt(K) rms(a) rms(b).
template <class T>
double sum_tolerance(double K, double rms) {
  return 4 * (std::numeric_limits<T>::epsilon() / 2) * std::sqrt(K) * rms;
}

// Added where tensor cores add, which truncate their sums toward zero after each instruction of 16 terms (8 of tf32):
// at most a unit of 2^-23 of the sum so far, half of it on average, and always to the same side. `sum` is the final
// sum; on the way to a small one partial sums are about as large as the rms of all sums.
inline double truncation_tolerance(double K, double sum, double rms, int terms = 16) {
  return K / terms * 0x1p-24 * std::max(std::abs(sum), rms);
}

// Runs the rest of its scope on n threads.
class ThreadCount {
 public:
#ifdef _OPENMP
  explicit ThreadCount(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
  ~ThreadCount() { omp_set_num_threads(before_); }
#else
  explicit ThreadCount(int) {}
#endif
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  [[maybe_unused]] int before_ = 1;
};

// Compares dx, the gradient of loss() in x, with central differences, element by element: relative error at most 1e-6,
// an element counts as at least the tensor's rms (a small one is the difference of large parts).
//
// The difference itself is wrong by about h^2/6 |loss'''| + u |loss| / h: 1e-10 for losses and derivatives around 1.
// That is the absolute part; it matters only where a gradient is zero.
template <class Loss>
void check_gradient(const std::string& name, std::span<double> x, std::span<const double> dx, Loss&& loss) {
  REQUIRE(x.size() == dx.size());
  const ThreadCount one(1);  // thousands of tiny calls: starting threads would dominate the time
  constexpr double h = 1e-5;
  const double scale = rms(dx);
  Worst worst;
  for (size_t i = 0; i < x.size(); ++i) {
    const double saved = x[i];
    x[i] = saved + h;
    const double above = loss();
    x[i] = saved - h;
    const double below = loss();
    x[i] = saved;
    worst.see(std::abs((above - below) / (2 * h) - dx[i]) / (1e-6 * std::max(std::abs(dx[i]), scale) + 1e-9), i);
  }
  INFO("gradient of ", name, ", element ", worst.i, " of ", x.size());
  CHECK(worst.error <= 1);
}

// run() -> a vector with the same bits on 1, 2 and 3 threads.
template <class Run>
void check_thread_independence(Run&& run) {
  const auto on = [&](int threads) {
    const ThreadCount count(threads);
    return run();
  };
  const auto expected = on(1);
  CHECK(same_bits(on(2), expected));
  CHECK(same_bits(on(3), expected));
}
