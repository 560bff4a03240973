#include <doctest/doctest.h>
#include <unistd.h>

#include "llm/support/error.h"
#include "llm/support/json.h"

using nlohmann::json;

namespace {

std::string refused(std::string_view text, int max_depth = 3) {
  try {
    parse_json(text, "a.json", max_depth);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("valid JSON is accepted") {
  CHECK(parse_json(R"({"a": [1, {"b": null}], "c": "é"})", "a.json", 3)["a"][0] == 1);
  CHECK(parse_json(R"([{"a": 1}, {"a": 2}])", "a.json", 2).size() == 2);  // the same name in two objects
}

TEST_CASE("invalid JSON: the message begins with the place") {
  for (const std::string_view text : {"", "{", "{} {}", "[1,]", "{\"a\": tru}", "nul", "{\"a\": \"\xff\"}"}) {
    CAPTURE(text);
    CHECK(contains(refused(text), "a.json: not JSON"));
  }
  CHECK(contains(refused(std::string_view("{}\0", 3)), "zero byte at offset 2"));
  CHECK(contains(refused(R"({"a": 1, "b": 2, "a": 3})"), "\"a\" occurs twice"));
  CHECK(contains(refused("[[[[1]]]]"), "nested deeper than the 3 levels"));
  CHECK(contains(refused(std::string(1'000'000, '[')), "nested deeper"));  // and the stack does not grow
}

TEST_CASE("quoted text in messages is short and printable") {
  CHECK(in_quotes("a\nb") == "\"a\\nb\"");
  CHECK(in_quotes(std::string(500, 'x')).size() < 120);
  CHECK(contains(in_quotes("\xff"), "\uFFFD"));
}

TEST_CASE("a file is one object; written values are read again") {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / strprintf("wrought_test_json_%d", getpid());
  const json value = {{"a", {1, 2}}, {"b", "\u00e9"}};
  write_json(path, value);
  CHECK(read_json_object(path) == value);
  write_json(path, json::array({1}));
  CHECK_THROWS_WITH_AS(read_json_object(path), doctest::Contains("expected a JSON object"), Error);
  std::filesystem::remove(path);
  CHECK_THROWS_AS(read_json_object(path), Error);
  CHECK(shown("\u00e9\n") == "\"\\u00e9\\n\"");
  CHECK(shown(std::string(500, 'x')).size() == 100);
}

TEST_CASE("a list of names ends after twenty") {
  CHECK(list_of({}) == "");
  CHECK(list_of({"a", "b\n"}) == "\"a\", \"b\\n\"");
  const std::string twenty = list_of(std::vector<std::string>(20, "x"));
  CHECK(twenty.ends_with(", \"x\""));
  CHECK(list_of(std::vector<std::string>(21, "x")) == twenty + ", ...");
}
