// Learning rates: warm-up, end values, every kind.
#include <doctest/doctest.h>

#include <vector>

#include "llm/training/schedule.h"

namespace {

std::vector<double> rates(const Schedule& s) {
  std::vector<double> all;
  for (int64_t step = 0; step < s.steps; ++step) all.push_back(learning_rate(s, step));
  return all;
}

}  // namespace

TEST_CASE("warm-up rises linearly to the peak, whatever follows") {
  for (const char* kind : {"constant", "linear", "cosine", "wsd"}) {
    const Schedule s{kind, 0.8, 0.1, 4, 100};
    CAPTURE(kind);
    for (int step = 0; step < 4; ++step) CHECK(learning_rate(s, step) == doctest::Approx(0.2 * (step + 1)));
    CHECK(learning_rate(s, 4) == doctest::Approx(0.8));
  }
}

TEST_CASE("a warm-up may start from a given rate") {
  const Schedule s{"cosine", 1e-3, 1e-5, 27, 135, 1e-5};  // appendix D of "Build a Large Language Model (From Scratch)"
  CHECK(learning_rate(s, 0) == 1e-5);
  CHECK(learning_rate(s, 9) == doctest::Approx(1e-5 + 9.9e-4 / 3));
  CHECK(learning_rate(s, 27) == doctest::Approx(1e-3));
  CHECK(learning_rate(s, 81) == doctest::Approx(5.05e-4));
  CHECK(learning_rate(s, 135) == doctest::Approx(1e-5));
  CHECK(learning_rate({"constant", 0.5, 0, 0, 10, 0.1}, 0) == 0.5);  // no warm-up at all
}

TEST_CASE("each kind has its rates after the warm-up") {
  const auto at = [](const char* kind, int64_t step) { return learning_rate({kind, 1.0, 0.2, 10, 110}, step); };
  CHECK(at("constant", 60) == 1.0);
  CHECK(at("constant", 109) == 1.0);
  CHECK(at("linear", 60) == doctest::Approx(0.6));
  CHECK(at("linear", 110) == doctest::Approx(0.2));
  CHECK(at("cosine", 35) == doctest::Approx(0.6 + 0.4 * std::sqrt(0.5)));
  CHECK(at("cosine", 60) == doctest::Approx(0.6));
  CHECK(at("cosine", 110) == doctest::Approx(0.2));
  CHECK(at("wsd", 88) == 1.0);  // 110 - 110/5
  CHECK(at("wsd", 99) == doctest::Approx(0.6));
  CHECK(at("wsd", 110) == doctest::Approx(0.2));
}

TEST_CASE("rates never rise after the warm-up and stay between end and peak") {
  for (const char* kind : {"constant", "linear", "cosine", "wsd"}) {
    CAPTURE(kind);
    const std::vector<double> all = rates({kind, 3e-3, 3e-4, 7, 93});
    for (size_t i = 8; i < all.size(); ++i) CHECK(all[i] <= all[i - 1]);
    for (size_t i = 6; i < all.size(); ++i) CHECK((all[i] >= 3e-4 - 1e-12 && all[i] <= 3e-3 + 1e-12));
  }
}

TEST_CASE("short and odd runs have the right rates") {
  for (const char* kind : {"constant", "linear", "cosine", "wsd"}) {
    CAPTURE(kind);
    CHECK(learning_rate({kind, 1, 0, 0, 1}, 0) == 1);    // one step
    CHECK(learning_rate({kind, 1, 0, 3, 3}, 2) == 1);    // all warm-up
    CHECK(learning_rate({kind, 1, 1, 2, 50}, 37) == 1);  // the end is the peak
    const double beyond = learning_rate({kind, 1, 0.25, 2, 50}, 5000);
    CHECK(beyond == doctest::Approx(std::string(kind) == "constant" ? 1 : 0.25));
  }
  CHECK(learning_rate({"wsd", 1, 0, 95, 100}, 95) == 1);  // the decay begins where the warm-up ends
}
