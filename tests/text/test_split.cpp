#include <doctest/doctest.h>

#include <memory>
#include <random>
#include <vector>

#include "llm/support/file.h"
#include "llm/text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text) {
  Pieces pieces;
  for (Splitter splitter(text); splitter.next();) pieces.emplace_back(splitter.piece());
  return pieces;
}

// The definition: GPT-2's pattern, matched by PCRE2. The text must be UTF-8.
Pieces split_by_pattern(std::string_view text) {
  static const auto code = [] {
    const std::string pattern = gpt2_split_pattern();
    int error = 0;
    size_t where = 0;
    return std::unique_ptr<pcre2_code, void (*)(pcre2_code*)>(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error,
                      &where, nullptr),
        pcre2_code_free);
  }();
  REQUIRE(code);
  REQUIRE(find_invalid_utf8(text) == std::string_view::npos);
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code.get(), nullptr), pcre2_match_data_free);
  Pieces pieces;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0;
  while (from < text.size() && pcre2_match(code.get(), subject, text.size(), from, PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK,
                                           match.get(), nullptr) > 0) {
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    pieces.emplace_back(text.substr(from, end - from));
    from = end;
  }
  CHECK(from == text.size());  // the pattern has no gaps
  return pieces;
}

std::string utf8(uint32_t code) {
  const auto tail = [code](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3F)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xC0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xE0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0)};
}

}  // namespace

TEST_CASE("small texts have the expected pieces") {
  CHECK(split("") == Pieces{});
  CHECK(split("Hello world") == Pieces{"Hello", " world"});
  CHECK(split("I'll don't 's 'LL") == Pieces{"I", "'ll", " don", "'t", " '", "s", " '", "LL"});
  CHECK(split("a  b \n c  ") == Pieces{"a", " ", " b", " \n", " c", "  "});
  CHECK(split("x=10;// é") == Pieces{"x", "=", "10", ";//", " é"});
  CHECK(split("\n\nx\n") == Pieces{"\n", "\n", "x", "\n"});
  CHECK(split("'") == Pieces{"'"});
  CHECK(split(" ") == Pieces{" "});
}

TEST_CASE("every character is cut from its neighbours as the pattern cuts it") {
  // Each character between a letter, a digit, a sign and spaces: its class decides every cut. 0x40000 and above have
  // none.
  for (uint32_t first = 0; first < 0x40400; first += 0x400) {
    std::string text;
    for (uint32_t code = first; code < first + 0x400; ++code) {
      if (code >= 0xD800 && code < 0xE000) continue;
      const std::string c = utf8(code);
      text += "a" + c + "1" + c + "!" + c + " " + c + "  " + c + c + "'s";
    }
    CAPTURE(first);
    CHECK(split(text) == split_by_pattern(text));
  }
}

TEST_CASE("random texts are cut as the pattern cuts them") {
  std::mt19937 rng(1);
  const std::vector<std::string> alphabet = {"a",      "Z",          "é",
                                             "д",      "中",         "1",
                                             "²",      "٣",          "!",
                                             "'",      "'s",         "'re",
                                             "\u2019", " ",          " ",
                                             "\n",     "\t",         "\r",
                                             "\u00A0", "\u3000",     "\u2028",
                                             "\u0085", "\u180E",     "\u200B",
                                             "\u0301", "\u200D",     "\U0001F468",
                                             "\uFFFD", "\x01",       "\x7F",
                                             "\u1C89", "\U00031350", std::string(1, '\0')};
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t k = rng() % 40; k > 0; --k) text += alphabet[rng() % alphabet.size()];
    CAPTURE(text);
    REQUIRE(split(text) == split_by_pattern(text));
  }
  const MappedFile golden(GOLDEN_DIR "/tokenizer_text.txt");
  CHECK(split(golden.text()) == split_by_pattern(golden.text()));
}

TEST_CASE("bytes that are not UTF-8 count as signs, and none is lost") {
  CHECK(split("a\xFF\xFE b") == Pieces{"a", "\xFF\xFE", " b"});
  CHECK(split("\xE4\xB8") == Pieces{"\xE4\xB8"});  // a truncated character
  CHECK(split("1\xC0\xA0"
              "2") == Pieces{"1", "\xC0\xA0", "2"});  // an overlong space is not a space
  std::mt19937 rng(2);
  for (int round = 0; round < 2000; ++round) {
    std::string text, joined;
    for (size_t k = rng() % 60; k > 0; --k) text += static_cast<char>(rng());
    for (const std::string& piece : split(text)) {
      joined += piece;
    }
    REQUIRE(joined == text);
  }
}

TEST_CASE("letters and numbers that Unicode 15 and 16 added are known") {
  const CharClasses& classes = CharClasses::get();
  CHECK(classes[0x1E030] == CharClass::letter);  // 15.0
  CHECK(classes[0x2EBF0] == CharClass::letter);  // 15.1
  CHECK(classes[0x10D40] == CharClass::number);  // 16.0
  CHECK(classes[0x180E] == CharClass::other);    // a space for PCRE2, not for Unicode
  CHECK(classes[0x3000] == CharClass::space);
  CHECK(classes[0x10FFFF] == CharClass::other);
}
