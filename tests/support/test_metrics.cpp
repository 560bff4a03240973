// The numbers in a run's metrics.jsonl, and its lines as they are written and cut back.
#include <doctest/doctest.h>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/metrics.h"
#include "tests/helpers/temporary_folder.h"

namespace {

using Points = std::vector<std::pair<double, double>>;

const std::string kGood =
    "{\"step\":0,\"config\":{\"total-batch-tokens\":512,\"model\":\"tiny\"}}\n"
    "{\"step\":1,\"loss\":4.5,\"lr\":0.001}\n"
    "{\"step\":1,\"val_loss\":4.75}\n"
    "{\"step\":2,\"loss\":4,\"lr\":0.002}\n";

}  // namespace

TEST_CASE("the numbers of every line, from a run's folder or from the file") {
  const TemporaryFolder tmp;
  const auto file = tmp.write("metrics.jsonl", kGood);
  for (const std::string& given : {tmp.path.string(), file.string()}) {
    CAPTURE(given);
    const Metrics metrics(given);
    CHECK(metrics.given == given);
    CHECK(metrics.path == file);
    CHECK(metrics.ends.size() == 4);
    CHECK(metrics.present.size() == 4);  // "config" and what is in it are none of them
    CHECK(metrics.batch_tokens == 512);
    CHECK(metrics.points("loss", "step", 1) == Points{{1, 4.5}, {2, 4}});
    CHECK(metrics.points("loss", "lr", 10) == Points{{0.001, 45}, {0.002, 40}});
  }
}

TEST_CASE("a line that lacks the field, or has something other than a number in it, is skipped") {
  const TemporaryFolder tmp;
  tmp.write("metrics.jsonl", kGood + "{\"step\":3,\"loss\":null}\n{\"step\":4,\"loss\":\"4\"}\n{\"loss\":3}\n");
  const Metrics metrics(tmp.path.string());
  CHECK(metrics.points("loss", "step", 1) == Points{{1, 4.5}, {2, 4}});
  CHECK(metrics.points("val_loss", "step", 1) == Points{{1, 4.75}});
  CHECK(metrics.points("grad_norm", "step", 1).empty());
  CHECK(metrics.points("loss", "epoch", 1).empty());
  CHECK(metrics.present.count("grad_norm") == 0);
}

TEST_CASE("of several values at one x the last counts, and x ascends") {
  const TemporaryFolder tmp;
  tmp.write("metrics.jsonl", "{\"step\":3,\"loss\":1}\n{\"step\":1,\"loss\":2}\n{\"step\":3,\"loss\":5}\n");
  CHECK(Metrics(tmp.path.string()).points("loss", "step", 1) == Points{{1, 2}, {3, 5}});
}

TEST_CASE("a line that a crash cut off, and lines that are not objects, do not count") {
  const TemporaryFolder tmp;
  tmp.write("metrics.jsonl", "{\"step\":1,\"loss\":2}\nnot JSON\n[1]\n\n5\n{\"step\":2,\"lo");
  const Metrics metrics(tmp.path.string());
  CHECK(metrics.ends.size() == 1);
  CHECK(metrics.points("loss", "step", 1) == Points{{1, 2}});
}

TEST_CASE("no file and no numbers are errors that name the file") {
  const TemporaryFolder tmp;
  CHECK_THROWS_WITH_AS(Metrics((tmp.path / "none").string()),
                       doctest::Contains("none: missing, expected a run's folder"), Error);
  CHECK_THROWS_WITH_AS(Metrics(tmp.path.string()), doctest::Contains("metrics.jsonl: missing"), Error);
  for (const char* text : {"", "{}\n", "{\"prompt\":\"a\"}\n", "{\"step\":1"}) {
    CAPTURE(text);
    tmp.write("metrics.jsonl", text);
    CHECK_THROWS_WITH_AS(Metrics(tmp.path.string()), doctest::Contains("no line with numbers"), Error);
  }
}

TEST_CASE("what is written is read, and cut back to a step") {
  const TemporaryFolder tmp;
  std::string text;
  for (int step = 0; step < 4; ++step) text += metrics_line({{"step", step}, {"loss", 0.1 * step}, {"text", "\xff"}});
  CHECK(text.starts_with("{\"loss\":0.0,\"step\":0,\"text\":\"\xEF\xBF\xBD\"}\n"));
  const auto file = tmp.write("metrics.jsonl", text + "{\"step\":4,\"lo");
  CHECK(Metrics(file.string()).points("loss", "step", 1) == Points{{0, 0}, {1, 0.1}, {2, 0.2}, {3, 0.1 * 3}});
  cut_metrics(file, 2);
  CHECK(MappedFile(file).text() == metrics_line({{"step", 0}, {"loss", 0.0}, {"text", "\xff"}}) +
                                       metrics_line({{"step", 1}, {"loss", 0.1}, {"text", "\xff"}}));
}
