// The progress line of a run.
#include <doctest/doctest.h>

#include "llm/support/progress.h"

TEST_CASE("times are shown as on a clock") {
  CHECK(clock_text(0) == "0:00");
  CHECK(clock_text(75.9) == "1:15");
  CHECK(clock_text(3599) == "59:59");
  CHECK(clock_text(3675) == "1:01:15");
  CHECK(clock_text(-3) == "0:00");
  CHECK(clock_text(1e300) == "100000:00:00");
}

TEST_CASE("the bar fills from empty to full") {
  CHECK(progress_text(0, 10, 0, "x", 0) == "[....................] 0:00 left | x");
  CHECK(progress_text(5, 10, 61, "x", 0) == "[##########..........] 1:01 left | x");
  CHECK(progress_text(10, 10, 0, "x", 0) == "[####################] 0:00 left | x");
  CHECK(progress_text(11, 10, 0, "x", 0) == "[####################] 0:00 left | x");  // never beyond
  CHECK(progress_text(0, 0, 0, "x", 0) == "[....................] 0:00 left | x");
}

TEST_CASE("a narrow terminal cuts the end of the line, not the bar") {
  const std::string line(200, 'x');
  CHECK(progress_text(1, 2, 5, line, 79).size() == 79);
  CHECK(progress_text(1, 2, 5, line, 79).find("0:05 left | xxx") != std::string::npos);
  CHECK(progress_text(1, 2, 5, line, 1) == "[");
}
