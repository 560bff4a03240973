// A model's text as shown on a terminal.
#include <doctest/doctest.h>

#include "llm/support/terminal.h"

TEST_CASE("control characters are escaped, all else stays") {
  using namespace std::string_literals;
  const std::pair<std::string, std::string> cases[] = {
      {"a\tb\nc", "a\tb\nc"},
      {"\x1b[2J", "\\x1b[2J"},
      {"a\0b"s, "a\\x00b"},
      {"\r\b\a\x7f", "\\x0d\\x08\\x07\\x7f"},
      {"\xc2\x9b"
       "2J",
       "\\x9b2J"},                               // U+009B: a control sequence in one character
      {"\xc2\xa0\xc3\xa9", "\xc2\xa0\xc3\xa9"},  // the first that is not a control character, and a letter
      {"\xe2\x82\xac \xef\xbf\xbd", "\xe2\x82\xac \xef\xbf\xbd"},
      {"\xc2", "\xc2"},
      {"", ""}};
  for (const auto& [text, shown] : cases) CHECK(without_controls(text) == shown);
}
