#include <doctest/doctest.h>

#include <fstream>

#include "gpt2/error.h"
#include "gpt2/file.h"

namespace fs = std::filesystem;

TEST_CASE("a writer that is not committed leaves the old file as it was") {
  const fs::path dir = fs::temp_directory_path() / "wrought_test_file";
  fs::create_directories(dir);
  const fs::path path = dir / "a.txt";
  {
    FileWriter writer(path);
    writer.write("old");
    writer.commit();
  }
  {
    FileWriter writer(path);
    writer.write("new, but never committed");
  }
  CHECK(MappedFile(path).text() == "old");
  CHECK_FALSE(fs::exists(dir / "a.txt.tmp"));
  {
    FileWriter writer(path);
    writer.write(std::string(3'000'001, 'x'));
    writer.commit();
  }
  CHECK(MappedFile(path).size() == 3'000'001);
  CHECK(file_checksum(path).size() == 16);
  fs::remove_all(dir);
}

TEST_CASE("a missing file, a folder and an unwritable place are errors; an empty file is not") {
  CHECK_THROWS_AS(MappedFile("/nonexistent/file"), Error);
  CHECK_THROWS_AS(MappedFile(fs::temp_directory_path()), Error);
  CHECK_THROWS_AS(FileWriter("/nonexistent/file"), Error);
  CHECK_THROWS_AS(make_directories("/dev/null/folder"), Error);
  const fs::path path = fs::temp_directory_path() / "wrought_test_file_empty";
  std::ofstream(path).close();
  CHECK(MappedFile(path).size() == 0);
  fs::remove(path);
}

TEST_CASE("a full disk is an error that says so") {
  if (!fs::exists("/dev/full")) {
    MESSAGE("skipped: /dev/full is missing on this system");
    return;
  }
  const fs::path link = fs::temp_directory_path() / "wrought_test_file_full.tmp";
  fs::remove(link);
  fs::create_symlink("/dev/full", link);
  FileWriter writer(fs::temp_directory_path() / "wrought_test_file_full");
  writer.write("some bytes");
  CHECK_THROWS_WITH_AS(writer.commit(), doctest::Contains("No space left on device"), Error);
}

TEST_CASE("invalid UTF-8 is found at its byte and replaced by maximal subparts") {
  CHECK(find_invalid_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80") == std::string_view::npos);
  CHECK(find_invalid_utf8("ab\xFFz") == 2);
  CHECK(find_invalid_utf8("\xC0\xAF") == 0);          // overlong
  CHECK(find_invalid_utf8("x\xED\xA0\x80") == 1);     // surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0);  // above U+10FFFF
  CHECK(find_invalid_utf8("\xE2\x82") == 0);          // cut off
  // Expectations from Python's bytes.decode("utf-8", errors="replace").
  CHECK(replace_invalid_utf8("a\xFFz") == "a\uFFFDz");
  CHECK(replace_invalid_utf8("\xE2\x82z") == "\uFFFDz");
  CHECK(replace_invalid_utf8("\xF0\x9F\x98") == "\uFFFD");
  CHECK(replace_invalid_utf8("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(replace_invalid_utf8("\xC0\xAF") == "\uFFFD\uFFFD");
  CHECK(replace_invalid_utf8("ok") == "ok");
}
