#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>

#include "llm/distributed/group.h"
#include "llm/distributed/shared_file.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;

TEST_CASE("a shared file follows links, and a pipe is refused") {
  const TemporaryFolder folder;
  const Group alone{GroupConfig{}};
  fs::create_directory(folder.path / "elsewhere");
  fs::create_symlink("elsewhere/target", folder.path / "link");
  {
    SharedFileWriter writer(folder.path / "link", "head", 8, alone);
    writer.write("tail", 4, 4);
    writer.commit();
  }
  CHECK(fs::is_symlink(folder.path / "link"));
  CHECK(MappedFile(folder.path / "elsewhere/target").text() == "headtail");
  REQUIRE(::mkfifo((folder.path / "fifo").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(SharedFileWriter(folder.path / "fifo", "", 8, alone),
                       doctest::Contains("fifo: expected a file, found a device or a pipe"), Error);
  CHECK_THROWS_WITH_AS(SharedFileWriter(folder.path / "elsewhere", "", 8, alone),
                       doctest::Contains("elsewhere: is a folder"), Error);
}
