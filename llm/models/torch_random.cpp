#include "llm/models/torch_random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

#include "llm/support/error.h"

namespace {

constexpr double kPi = std::numbers::pi;

// Box and Muller's pairs (1958), eight at once: elements j and j + 8 are one. All in float except the angle's product.
void box_muller_16(float* x) {
  for (int j = 0; j < 8; ++j) {
    const float u1 = 1 - x[j];  // (0, 1]: the logarithm is finite
    const float radius = std::sqrt(-2 * std::log(u1)), angle = static_cast<float>(2 * kPi * x[j + 8]);
    x[j] = radius * std::cos(angle);
    x[j + 8] = radius * std::sin(angle);
  }
}

}  // namespace

uint64_t TorchRandom::two_words() {
  const uint64_t high = word();
  return high << 32 | word();
}

float TorchRandom::unit_float() { return static_cast<float>(word() & 0xFFFFFF) * 0x1p-24f; }
double TorchRandom::unit_double() { return static_cast<double>(two_words() & ((uint64_t{1} << 53) - 1)) * 0x1p-53; }

double TorchRandom::normal_double() {
  if (spare_) return *std::exchange(spare_, std::nullopt);
  const double u1 = unit_double(), u2 = unit_double();
  const double radius = std::sqrt(-2 * std::log1p(-u2)), angle = 2 * kPi * u1;
  spare_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

void TorchRandom::uniform(std::span<float> out, double from, double to) {
  const float low = static_cast<float>(from), width = static_cast<float>(to) - low;
  for (float& x : out) x = static_cast<float>(double{unit_float()} * width + low);
}

void TorchRandom::normal(std::span<float> out) {
  const size_t n = out.size();
  if (n < 16) {
    for (float& x : out) x = static_cast<float>(normal_double());
    return;
  }
  for (float& x : out) x = unit_float();
#pragma omp parallel for
  for (size_t i = 0; i < n / 16; ++i) box_muller_16(&out[16 * i]);
  if (n % 16 == 0) return;
  float* last = out.data() + n - 16;
  for (int j = 0; j < 16; ++j) last[j] = unit_float();
  box_muller_16(last);
}

int64_t TorchRandom::integer() { return static_cast<int64_t>(two_words() & INT64_MAX); }

std::vector<int64_t> TorchRandom::permutation(int64_t n) {
  constexpr int64_t kMost = UINT32_MAX / 20;  // beyond it torch draws 64 bits per element
  if (n < 0 || n >= kMost) {
    fail("a permutation of %lld elements, expected 0 to %lld", static_cast<long long>(n),
         static_cast<long long>(kMost - 1));
  }
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = 0; i + 1 < order.size(); ++i) std::swap(order[i], order[i + word() % (order.size() - i)]);
  return order;
}

int TorchRandom::multinomial(std::span<const float> p) {
  double total = 0;
  bool good = !p.empty();
  for (const float x : p) {
    good = good && x >= 0 && std::isfinite(x);
    total += x;
  }
  if (!good || !(total > 0)) {
    fail("probabilities to draw from: expected finite numbers, none below 0 and one above; found %s", p.empty() ? "none"
                                                                                                      : good
                                                                                                          ? "zeros only"
                                                                                                          : "others");
  }
  int best = 0;
  float largest = -1;
  for (size_t i = 0; i < p.size(); ++i) {
    const float q = static_cast<float>(-std::log1p(-unit_double()));
    const float ratio = p[i] / q;  // 0 / 0 is not a number, and never the largest
    if (ratio > largest) {
      largest = ratio;
      best = static_cast<int>(i);
    }
  }
  return best;
}
