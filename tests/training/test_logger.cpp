// metrics.jsonl: appended line by line, cut back on resume.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "llm/support/error.h"
#include "llm/training/logger.h"

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = [] {
    char name[] = "/tmp/wrought-logger-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~Folder() { fs::remove_all(path); }
  std::string metrics() const {
    std::ostringstream text;
    text << std::ifstream(path / "metrics.jsonl").rdbuf();
    return text.str();
  }
  void put(const std::string& text) const { std::ofstream(path / "metrics.jsonl") << text; }
};

}  // namespace

TEST_CASE("each line is on the disk when write returns") {
  Folder folder;
  MetricsLog log(folder.path, 1);
  log.write({{"step", 1}, {"loss", 2.5}});
  CHECK(folder.metrics() == "{\"loss\":2.5,\"step\":1}\n");
  log.write({{"step", 2}, {"loss", 0.1}});
  CHECK(folder.metrics() == "{\"loss\":2.5,\"step\":1}\n{\"loss\":0.1,\"step\":2}\n");
}

TEST_CASE("lines of steps that will run again are dropped, the others stay byte for byte") {
  Folder folder;
  folder.put(
      "{\"step\":0, "
      "\"config\":{}}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"val_loss\":3}\n{\"step\":3}\n{\"step\":10}\n");
  { MetricsLog log(folder.path, 3); }
  CHECK(folder.metrics() == "{\"step\":0, \"config\":{}}\n{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"val_loss\":3}\n");
}

TEST_CASE("a line cut off by a crash, and lines that are not records, are dropped") {
  Folder folder;
  folder.put("{\"step\":1}\n\nnot json\n[1]\n{\"loss\":1}\n{\"step\":\"two\"}\n{\"step\":2}\n{\"step\":2,\"lo");
  {
    MetricsLog log(folder.path, 9);
    log.write({{"step", 9}});
  }
  CHECK(folder.metrics() == "{\"step\":1}\n{\"step\":2}\n{\"step\":9}\n");
}

TEST_CASE("an empty file, values that JSON cannot express, and text that is not UTF-8 are handled") {
  Folder folder;
  folder.put("");
  MetricsLog log(folder.path, 1);
  log.write({{"step", 1}, {"val_loss", NAN}, {"prompt", "\xff"}});
  CHECK(folder.metrics() == "{\"prompt\":\"\xEF\xBF\xBD\",\"step\":1,\"val_loss\":null}\n");
}

TEST_CASE("a record that cannot be written is an error") {
  CHECK_THROWS_AS(MetricsLog("/nonexistent/run", 1), Error);
  Folder folder;
  fs::create_directory(folder.path / "metrics.jsonl");
  CHECK_THROWS_AS(MetricsLog(folder.path, 1), Error);
}
