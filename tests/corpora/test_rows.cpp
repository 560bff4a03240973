// Rows of each kind of file: read, written back without some of them, refused by line.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <fstream>
#include <iterator>

#include "llm/corpora/rows.h"
#include "llm/support/error.h"

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = [] {
    char name[] = "/tmp/wrought-rows-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~Folder() { fs::remove_all(path); }
  fs::path put(const char* name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
};

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

using Strings = std::vector<std::string>;
using Numbers = std::vector<int64_t>;

}  // namespace

TEST_CASE("rows are read from a JSON array") {
  const Folder folder;
  const fs::path path =
      folder.put("a.json", "[{\"z\": \"one\", \"n\": 3, \"a\": \"two\"}, {\"z\": \"\u00e9\", \"a\": \"\"}]");
  const Rows rows = read_rows(path, {});
  CHECK(rows.text == Strings{"one\ntwo", "\u00e9\n"});
  CHECK(rows.number == Numbers{1, 2});
  CHECK(read_rows(path, {"a"}).text == Strings{"two", ""});
  CHECK(read_rows(path, {"a", "z"}).text[0] == "two\none");
  write_rows(rows, {true, false}, folder.path / "b.json");
  CHECK(contents(folder.path / "b.json") ==
        "[\n    {\n        \"z\": \"one\",\n        \"n\": 3,\n        \"a\": \"two\"\n    }\n]\n");
}

TEST_CASE("rows are read from objects per line, columns and bare lines") {
  const Folder folder;
  const Rows objects = read_rows(folder.put("a.jsonl", "{\"t\":  \"x\"}\n\n{\"t\": \"y\"}\r\n{\"t\": \"z\"}"), {"t"});
  CHECK(objects.text == Strings{"x", "y", "z"});
  CHECK(objects.number == Numbers{1, 3, 4});
  write_rows(objects, {true, false, true}, folder.path / "out");
  CHECK(contents(folder.path / "out") == "{\"t\":  \"x\"}\n{\"t\": \"z\"}\n");

  const fs::path tsv = folder.put("a.tsv", "label\ttext\nspam\tbuy\nham\t\n");
  const Rows columns = read_rows(tsv, {"text"});
  CHECK(columns.text == Strings{"buy", ""});
  CHECK(columns.number == Numbers{2, 3});
  CHECK(read_rows(tsv, {}).text[0] == "spam\nbuy");
  write_rows(columns, {false, true}, folder.path / "out");
  CHECK(contents(folder.path / "out") == "label\ttext\nham\t\n");

  const Rows lines = read_rows(folder.put("a.txt", "one\n\ntwo\n"), {});
  CHECK(lines.text == Strings{"one", "", "two"});
  write_rows(lines, {true, true, false}, folder.path / "out");
  CHECK(contents(folder.path / "out") == "one\n\n");
  CHECK(read_rows(folder.put("empty.txt", ""), {}).text.empty());
}

TEST_CASE("files that are refused name the row or line") {
  const Folder folder;
  const auto refuse = [&](const char* name, const std::string& text, const Strings& fields, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read_rows(folder.put(name, text), fields), doctest::Contains(message), Error);
  };
  refuse("a.json", "{\"a\": \"x\"}", {}, "a.json: expected a JSON array");
  refuse("a.json", "[", {}, "a.json: not JSON");
  refuse("a.json", "[{\"a\": \"x\"}, 3]", {}, "a.json: row 2: expected a JSON object");
  refuse("a.json", "[{\"a\": 3}]", {"a"}, "row 1: \"a\" is number, expected a string");
  refuse("a.jsonl", "{\"a\": \"x\"}\n{\"b\": \"x\"}", {"a"}, "a.jsonl: line 2: \"a\" is not there");
  refuse("a.jsonl", "{\"a\": \"x\"}\n{", {"a"}, "a.jsonl: line 2: not JSON");
  refuse("a.tsv", "label\ttext\nx", {}, "a.tsv: line 2: 1 columns, expected 2");
  refuse("a.tsv", "label\ttext\nx\ty", {"message"}, "line 1: expected column names, \"message\" among them");
  refuse("a.tsv", "text\ttext\nx\ty", {"text"}, "a.tsv: line 1: two columns have the name \"text\"");
  refuse("a.csv", "text,label,text\nx,y,z", {"text"}, "a.csv: line 1: two columns have the name \"text\"");
  refuse("a.txt", "a\xff", {}, "a.txt: not UTF-8: byte 0xFF at offset 1");
  CHECK_THROWS_AS(read_rows(folder.put("a.txt", "x"), {"a"}), UsageError);
  CHECK_THROWS_AS(read_rows(folder.path / "absent", {}), Error);
}

TEST_CASE("csv: a record with line ends in quotes is one row and is written back unchanged") {
  const Folder folder;
  const std::string head = "\xEF\xBB\xBFid,text\r\n", first = "1,\"two\nlines, \"\"both\"\"\"\r\n",
                    second = "2,plain\r\n", third = "3,\"a\r\n\r\nb\"";
  const fs::path path = folder.put("a.csv", head + first + second + "\r\n" + third);
  const Rows rows = read_rows(path, {"text"});
  CHECK(rows.text == Strings{"two\nlines, \"both\"", "plain", "a\r\n\r\nb"});
  CHECK(rows.number == Numbers{2, 4, 6});
  CHECK(read_rows(path, {}).text[0] == "1\ntwo\nlines, \"both\"");
  CHECK(read_rows(path, {"id"}).text == Strings{"1", "2", "3"});
  write_rows(rows, {true, false, true}, folder.path / "out.csv");
  CHECK(contents(folder.path / "out.csv") == head + first + third + "\n");
  CHECK(read_rows(folder.path / "out.csv", {"text"}).text == Strings{rows.text[0], rows.text[2]});

  const Rows empty = read_rows(folder.put("b.csv", ""), {});
  CHECK(empty.text.empty());
  struct Case {
    const char *text, *message;
  };
  for (const Case& c : {Case{"text\na\n\"b\nc\n", "line 3: a quote is opened and never closed"},
                        Case{"text\n\"a\nb\"c\n", "line 2: text after a closing quote"},
                        Case{"text\n\"a\"\rc\n", "line 2: text after a closing quote"},
                        Case{"text\na\"b\"\n", "line 2: a quote inside an unquoted field"},
                        Case{"text\n\"a\nb\"\nc,d\n", "line 4: 2 columns, expected 1 as in the first line"},
                        Case{"a,b\n1,2\n", "expected column names, \"text\" among them, found \"a,b\""}}) {
    CAPTURE(c.text);
    try {
      read_rows(folder.put("bad.csv", c.text), {"text"});
      FAIL("no error");
    } catch (const Error& error) {
      CHECK_MESSAGE(std::string(error.what()).find(c.message) != std::string::npos, error.what());
    }
  }
}
