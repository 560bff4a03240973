// Selects the tests that run: `make test` the quick set (each kernel, format and program once), `make test-all` the
// full, `make test-deep` the deep set (hours). By hand: full.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

enum class TestSet { quick, full, deep };

// From $WROUGHT_TEST_SET.
inline TestSet test_set() {
  static const TestSet set = [] {
    const char* name = std::getenv("WROUGHT_TEST_SET");
    const std::string given = name ? name : "full";
    if (given != "quick" && given != "full" && given != "deep") {
      std::fprintf(stderr, "error: WROUGHT_TEST_SET=%s: expected quick, full or deep\n", given.c_str());
      std::exit(2);  // full_set() runs before main(), where no handler could catch an exception
    }
    return given == "quick" ? TestSet::quick : given == "full" ? TestSet::full : TestSet::deep;
  }();
  return set;
}
// Built with AddressSanitizer: slower by a factor, and rounded in other places than the library.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
inline bool quick_set() { return test_set() == TestSet::quick; }
// TEST_CASE("..." * full_set()): runs in all sets but the quick one.
inline doctest::skip full_set() { return doctest::skip(quick_set()); }

// The first few of a list of cases in the quick set, all of them in the others.
template <class T, size_t N>
std::span<const T> in_set(const T (&cases)[N], size_t quick) {
  return {cases, quick_set() ? std::min(quick, N) : N};
}
