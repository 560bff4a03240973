// Cleaning books: the licence around them, blank lines, other scripts, other encodings.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <fstream>
#include <iterator>

#include "llm/corpora/gutenberg.h"
#include "llm/support/error.h"

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = [] {
    char name[] = "/tmp/wrought-books-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~Folder() { fs::remove_all(path); }
  void put(const char* name, const std::string& text) const {
    fs::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << text;
  }
  std::string get(const char* name) const {
    std::ifstream file(path / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

const std::string kHead =
    "The Project Gutenberg eBook of X\nThis is free.\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n";
const std::string kFoot = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\nlicence\n";

}  // namespace

TEST_CASE("the licence is removed, whatever its markers") {
  const auto book = [](const std::string& text) { return std::string(without_gutenberg_licence(text)); };
  CHECK(book(kHead + "a\nb\n" + kFoot) == "a\nb\n");
  CHECK(book("a\nb\n" + kFoot) == "a\nb\n");
  CHECK(book(kHead + "a\nb") == "a\nb");
  CHECK(book("a\n*** stars *** the end of it\nb") == "a\n*** stars *** the end of it\nb");
  CHECK(book("") == "");
  CHECK(book("x\r\n***START OF THIS PROJECT GUTENBERG EBOOK, A\r\nLONG TITLE***\r\na\r\n") == "a\r\n");
  CHECK(book("***START OF THE PROJECT GUTENBERG EBOOK, NO STARS\n\na\n") == "\na\n");  // an empty line ends it
  CHECK(
      book("x\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\na\nEnd of Project Gutenberg's X\nb") ==
      "a\n");
  CHECK(book("a\nEnd of the Project Gutenberg EBook of X\n\n" + kFoot) == "a\n");
  // The last of two start markers counts; text after the end marker is not part of the book.
  CHECK(book(kHead + "x\n*END*THE SMALL PRINT!*END*\na\n" + kFoot + kHead + "b") == "a\n");
}

TEST_CASE("runs of blank lines become one") {
  CHECK(squeeze_blank_lines("a\n\n\n \t\n  b\nc") == "a\n\n  b\nc\n");
  CHECK(squeeze_blank_lines("\n \n a\r\n\r\n\r\nb\r\n\n\n") == " a\n\nb\n");
  CHECK(squeeze_blank_lines(" \n\n") == "");
  CHECK(squeeze_blank_lines("") == "");
  CHECK(squeeze_blank_lines("a\nb\n") == "a\nb\n");
}

TEST_CASE("the share of ASCII counts characters, not bytes") {
  CHECK(ascii_share("") == 0);
  CHECK(ascii_share("abcd") == 1);
  CHECK(ascii_share("ab\u00e4\u4e2d") == doctest::Approx(0.5));
}

TEST_CASE("a folder of books becomes one text") {
  const Folder folder;
  folder.put("books/b.txt", "\xEF\xBB\xBF" + kHead + "\n\nSecond.\n\n\n\nEnd\n" + kFoot);
  folder.put("books/a/one.txt", "First caf\xe9 of an old file, which is in Latin-1.");
  folder.put("books/c.txt", "\u4e2d\u6587\u4e2d\u6587 abc");
  folder.put("books/d.txt", kHead + kFoot);
  folder.put("books/e.pdf", "no text");
  const CleanReport report = clean_books(folder.path / "books", folder.path / "out.txt", 0.9);
  CHECK(folder.get("out.txt") == "First caf\u00e9 of an old file, which is in Latin-1.\n<|endoftext|>Second.\n\nEnd\n");
  CHECK(report.kept == 2);
  CHECK(report.with_licence == 1);
  CHECK(report.latin1 == 1);
  CHECK(report.bytes_out == static_cast<int64_t>(folder.get("out.txt").size()));
  REQUIRE(report.files.size() == 4);
  CHECK(report.files[0].reason == "");
  CHECK(report.files[1].reason == "");
  CHECK(report.files[2].reason == "55.6 % of it is ASCII");
  CHECK(report.files[3].reason == "empty");
  CHECK(clean_books(folder.path / "books", folder.path / "all.txt", 0).kept == 3);
}

TEST_CASE("no file is written when no book is kept") {
  const Folder folder;
  folder.put("none/x.pdf", "x");
  CHECK_THROWS_WITH_AS(clean_books(folder.path / "none", folder.path / "out", 0.9), doctest::Contains("no text"),
                       Error);
  folder.put("greek/x.txt", "\u03b1\u03b2\u03b3 abc");
  CHECK_THROWS_WITH_AS(clean_books(folder.path / "greek", folder.path / "out", 0.9),
                       doctest::Contains("62.5 % of it is ASCII; a lower {min-ascii}"), Error);
  CHECK_THROWS_AS(clean_books(folder.path / "absent", folder.path / "out", 0.9), Error);
  CHECK(!fs::exists(folder.path / "out"));
}
