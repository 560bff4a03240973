// Rows of JSON: from an array, from lines; what is not a row, and what a row lacks.
#include <doctest/doctest.h>

#include "llm/support/error.h"
#include "llm/support/json_rows.h"
#include "tests/helpers/temporary_folder.h"

TEST_CASE("rows come from an array or from lines, and name their place") {
  TemporaryFolder tmp;
  const auto array = read_json_rows(tmp.write("a.json", R"([{"x": "1"}, {"x": "2", "y": 3}])"));
  REQUIRE(array.size() == 2);
  CHECK(array[1].value["y"] == 3);
  CHECK(array[1].where.ends_with("a.json: row 2"));
  const auto lines = read_json_rows(tmp.write("a.jsonl", "{\"x\": \"1\"}\n\n \r\n{\"x\": \"2\"}"));
  REQUIRE(lines.size() == 2);
  CHECK(lines[1].where.ends_with("a.jsonl: line 4"));
  CHECK(string_in(lines[1], "x", false) == "2");
  CHECK(string_in(lines[1], "y", true) == "");
}

TEST_CASE("invalid rows are refused and their place is named") {
  TemporaryFolder tmp;
  const auto refuse = [&](const char* name, const char* text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read_json_rows(tmp.write(name, text)), doctest::Contains(message), Error);
  };
  refuse("a.json", "{}", "expected an array of objects, found object");
  refuse("a.json", "[{}, 5]", "row 2: expected an object");
  refuse("a.json", "[]", "there are no rows");
  refuse("a.json", "[{]", "not JSON");
  refuse("a.jsonl", "{}\n[]\n", "line 2: expected an object");
  refuse("a.jsonl", "{}\n{\"a\": \"b\n", "line 2: not JSON");
  refuse("a.jsonl", "\n", "there are no rows");
  refuse("a.jsonl", "{\"a\": 1, \"a\": 2}\n", "occurs twice");
  const auto rows = read_json_rows(tmp.write("b.json", R"([{"n": 1}])"));
  CHECK_THROWS_WITH_AS(string_in(rows[0], "n", true), doctest::Contains("row 1: \"n\" is 1, expected a string"), Error);
  CHECK_THROWS_WITH_AS(string_in(rows[0], "text", false), doctest::Contains("\"text\" is missing, found \"n\""), Error);
}
