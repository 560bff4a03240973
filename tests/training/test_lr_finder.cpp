// The range test: rates, smoothing, its end, and the suggested rate.
#include <doctest/doctest.h>

#include <cmath>

#include "llm/support/error.h"
#include "llm/training/lr_finder.h"

namespace {

// A loss that falls from 8 to 3 around lr = 1e-3 and diverges at 1e-1.
double loss_at(double lr) { return 8 - 5 / (1 + 1e-3 / lr) + 40 * lr * lr * 100; }

}  // namespace

TEST_CASE("rates rise in equal ratios") {
  const LrFinder finder{1e-5, 1e-1, 5};
  for (int k = 0; k < 5; ++k) CHECK(finder.lr(k) == doctest::Approx(std::pow(10.0, k - 5)));
  CHECK(LrFinder{1e-5, 1, 1}.lr(0) == 1e-5);
}

TEST_CASE("the smoothed loss of one value is the value, and it follows later values") {
  LrFinder finder;
  finder.add(4);
  CHECK(finder.points[0].smoothed == doctest::Approx(4));
  finder.add(2);
  CHECK(finder.points[1].smoothed == doctest::Approx((0.9 * 4 + 2) / 1.9));
  finder.add(2);
  CHECK(finder.points[2].smoothed == doctest::Approx((0.81 * 4 + 0.9 * 2 + 2) / 2.71));
}

TEST_CASE("the test ends where the loss diverges, and suggests a rate below that of the lowest loss") {
  LrFinder finder{1e-6, 1, 100};
  int64_t step = 0;
  while (step < finder.steps && finder.add(loss_at(finder.lr(step)))) ++step;
  CHECK(step < 99);
  CHECK(finder.points.back().lr > 1e-2);
  CHECK((finder.suggestion() > 1e-3 && finder.suggestion() < 2e-2));
  CHECK(!finder.add(std::nan("")));
  CHECK(!finder.add(INFINITY));
}

TEST_CASE("a loss that never falls suggests nothing") {
  LrFinder finder{1e-6, 1, 20};
  CHECK_THROWS_AS(finder.suggestion(), Error);
  for (int k = 0; k < 20; ++k) finder.add(3 + k);
  CHECK_THROWS_AS(finder.suggestion(), Error);
}
