// Stop strings: the text does not depend on how tokens divide it, and nothing of a stop string comes out.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "llm/inference/stop.h"
#include "llm/support/error.h"
#include "llm/support/file.h"

namespace {

using Strings = std::vector<std::string>;

struct Ended {
  std::string text;
  int by;
  bool operator==(const Ended&) const = default;
};

// The definition: the first byte at which a stop string is complete, the longest of those that are.
Ended cut(const std::string& text, const Strings& stops) {
  for (size_t end = 0; end <= text.size(); ++end) {
    int by = -1;
    for (size_t s = 0; s < stops.size(); ++s) {
      const bool complete =
          stops[s].size() <= end && text.compare(end - stops[s].size(), stops[s].size(), stops[s]) == 0;
      if (complete && (by < 0 || stops[s].size() > stops[static_cast<size_t>(by)].size())) by = static_cast<int>(s);
    }
    if (by >= 0) return {replace_invalid_utf8(text.substr(0, end - stops[static_cast<size_t>(by)].size())), by};
  }
  return {replace_invalid_utf8(text), -1};
}

// The text as a stream, cut before the bytes whose bits are set.
Ended stream(const std::string& text, const Strings& stops, uint64_t cuts) {
  StopStream stream(stops);
  std::string out, all;
  size_t longest = 1;
  for (const std::string& stop : stops) longest = std::max(longest, stop.size());
  for (size_t begin = 0, end; begin < text.size(); begin = end) {
    end = begin + 1;
    while (end < text.size() && (cuts >> (end % 64) & 1) == 0) ++end;
    const std::string part = stream.next(text.substr(begin, end - begin));
    CHECK(find_invalid_utf8(part) == std::string::npos);
    out += part;
    if (!stream.stopped()) {
      // All but what may be a stop string's start and an unfinished character; U+FFFD is longer than what it replaces.
      const std::string whole = replace_invalid_utf8(text.substr(0, end));
      CHECK(out.size() + (longest - 1 + 3) * 3 >= whole.size());
    }
  }
  const bool stopped = stream.stopped();
  const std::string rest = stream.finish();
  if (stopped) CHECK(rest.empty());
  CHECK(stream.next("").empty());
  CHECK(stream.finish().empty());
  return {out + rest, stream.stopped_by()};
}

}  // namespace

TEST_CASE("every division of a text gives the same text and the same stop string") {
  const Strings texts = {
      "abcabcabd!", "aaaaaab", "xyUser:zz", "ab", "Us\xC3\xA9r: \xF0\x9F\x98\x80.", "\xE2\x82\xAC\xE2\x82\xAD",
      "\xFFzz\xC3", "",        "ababac"};
  const std::vector<Strings> lists = {{},
                                      {"abcabd"},
                                      {"abd", "cab"},
                                      {"aab", "ab", "aaaab"},
                                      {"User:"},
                                      {"never comes"},
                                      {"\xF0\x9F\x98\x80", "."},
                                      {"\xE2\x82\xAD"},
                                      {"z", "zz"},
                                      {"b", "ab"},
                                      {"ababac", "babac", "bac"},
                                      {"\xC3\xA9r: \xF0\x9F\x98\x81", "r: \xF0\x9F\x98\x80"}};
  for (const std::string& text : texts) {
    for (const Strings& stops : lists) {
      CAPTURE(text);
      const Ended expected = cut(text, stops);
      for (uint64_t cuts = 0; cuts < uint64_t{1} << text.size(); cuts += 2)
        CHECK(stream(text, stops, cuts) == expected);
    }
  }
}

TEST_CASE("the first stop string to be complete ends the text; of several at once the longest") {
  CHECK(stream("one two", {"two", "e t"}, ~0ull) == Ended{"on", 1});
  CHECK(stream("xab", {"b", "ab"}, 0) == Ended{"x", 1});
  CHECK(stream("xab", {"ab", "ab"}, 0) == Ended{"x", 0});
  CHECK(stream("abc", {"abcd", "b"}, 0) == Ended{"a", 1});
  CHECK(stream("stop", {"stop"}, ~0ull) == Ended{"", 0});
}

TEST_CASE("text comes as soon as it can no longer be part of a stop string") {
  StopStream stream({"\n\nUser:"});
  CHECK(stream.next("Hi") == "Hi");
  CHECK(stream.next("!\n") == "!");
  CHECK(stream.next("\n") == "");
  CHECK(stream.next("\n") == "\n");
  CHECK(stream.next("Us") == "");
  CHECK(stream.next("e.") == "\n\nUse.");
  CHECK(stream.next("\n\nUser") == "");
  CHECK(stream.stopped_by() == -1);
  CHECK(stream.next(": x") == "");
  CHECK(stream.stopped());
  CHECK(stream.next("more") == "");
  CHECK(stream.finish() == "");

  StopStream flushed({"never"});
  CHECK(flushed.next("nev") == "");
  CHECK(flushed.finish() == "nev");
  CHECK_FALSE(flushed.stopped());
}

TEST_CASE("a character waits for its last byte, at every cut") {
  const std::string text = "\xF0\x9F\x98\x80";
  for (const Strings& stops : {Strings{}, Strings{"x"}, Strings{"\xF0\x9F\x98\x81"}}) {
    for (size_t at = 1; at < text.size(); ++at) {
      StopStream stream(stops);
      CHECK(stream.next(text.substr(0, at)) == "");
      CHECK(stream.next(text.substr(at)) == text);
    }
    StopStream unfinished(stops);
    CHECK(unfinished.next("a\xF0\x9F") == "a");
    CHECK(unfinished.finish() == "\uFFFD");
  }
}

TEST_CASE("an empty stop string is refused") {
  CHECK_THROWS_WITH_AS(StopStream({"a", ""}), doctest::Contains("{stop}: string 2 of 2 is empty"), UsageError);
}

TEST_CASE("long stop strings and texts take linear time") {
  const std::string almost = std::string(100'000, 'a') + "b";
  StopStream stream({almost});
  size_t out = 0;
  for (int i = 0; i < 1'000'000; ++i) out += stream.next("a").size();
  CHECK(out == 900'000);
  CHECK(stream.next("b") == "");
  CHECK(stream.stopped());
}
