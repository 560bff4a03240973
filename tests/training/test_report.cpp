// The line of each step in metrics.jsonl, and the end of a run that is no longer finite.
#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/training/report.h"
#include "tests/helpers/temporary_folder.h"

using nlohmann::json;

namespace {

StepResult finite_step(double loss) {
  StepResult result{};
  result.loss = loss;
  result.grad_norm = 2;
  result.updated = true;
  return result;
}

StepResult skipped() {
  StepResult result{};
  result.loss = std::nan("");
  result.grad_norm = std::nan("");
  result.updated = false;
  return result;
}

std::vector<json> lines_of(const std::filesystem::path& folder) {
  std::vector<json> lines;
  for_each_line(MappedFile(folder / "metrics.jsonl"),
                [&](std::string_view text, size_t) { lines.push_back(json::parse(text)); });
  return lines;
}

}  // namespace

TEST_CASE(
    "a finite step has its loss, norm, rate and what else was given; a skipped one says so and keeps the traffic") {
  const TemporaryFolder folder;
  {
    MetricsLog log(folder.path, 0);
    StepReport report(log, 0, 10);
    report({1, 0.5, 64, "", {{"padding", 0.25}}, {{"sent_elements", 7}}}, finite_step(3.0));
    report({2, 0.25, 64, "", {{"padding", 0.25}}, {{"sent_elements", 7}}}, skipped());
    CHECK(!report.good());
    report({3, 0.25, 64}, finite_step(2.0));
    CHECK(report.good());
    report.finish();
  }
  const std::vector<json> lines = lines_of(folder.path);
  REQUIRE(lines.size() == 3);
  CHECK(lines[0]["step"] == 1);
  CHECK(lines[0]["loss"] == 3);
  CHECK(lines[0]["grad_norm"] == 2);
  CHECK(lines[0]["lr"] == 0.5);
  CHECK(lines[0]["padding"] == 0.25);
  CHECK(lines[0]["sent_elements"] == 7);
  CHECK(lines[0]["tokens_per_second"] > 0);
  CHECK(!lines[0].contains("skipped"));
  CHECK(lines[1]["skipped"] == true);
  CHECK(lines[1]["sent_elements"] == 7);
  for (const char* name : {"loss", "grad_norm", "padding"}) CHECK(!lines[1].contains(name));
}

TEST_CASE("the fifth step in a row that is not finite ends the run, with the advice that it was given") {
  const TemporaryFolder folder;
  MetricsLog log(folder.path, 0);
  StepReport report(log, 0, 20);
  report.advise("the last good checkpoint is X: start from it with");
  for (int64_t step = 1; step <= 4; ++step) report({step, 1, 1}, skipped());
  report({5, 1, 1}, finite_step(1.0));  // the row begins anew
  for (int64_t step = 6; step <= 9; ++step) report({step, 1, 1}, skipped());
  CHECK_THROWS_WITH_AS(report({10, 1, 1}, skipped()),
                       "loss or gradients were not finite in 5 steps in a row, up to step 10; the last good checkpoint "
                       "is X: start from it with a lower {lr}, more {warmup-steps} or a {grad-clip}",
                       Error);
}

TEST_CASE("a run that ends after a skipped step or a broken validation is an error") {
  const TemporaryFolder folder;
  MetricsLog log(folder.path, 0);
  StepReport report(log, 0, 2);
  report({1, 1, 1}, skipped());
  CHECK_THROWS_WITH_AS(report.finish(), doctest::Contains("not finite in 1 step in a row, up to step 1; start again"),
                       Error);
  StepReport other(log, 0, 2);
  other.evaluated(1, 2.0);
  other.finish();
  other.evaluated(2, std::nan(""));
  CHECK(!other.good());
  CHECK_THROWS_WITH_AS(other.finish(), doctest::Contains("the validation loss after step 2 was not finite"), Error);
}
