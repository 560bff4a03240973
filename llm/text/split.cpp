#include "llm/text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>

#include "llm/support/error.h"

namespace {

// Letters and numbers that Unicode 15.0, 15.1 and 16.0 added; PCRE2 10.42 (Debian 12) has Unicode 14.
struct Range {
  uint32_t first, last;
};
constexpr Range kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3},
    {0x11BC0, 0x11BE0}, {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF},
    {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB},
    {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF},
};
constexpr Range kNewNumbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11F50, 0x11F59}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9}, {0x1E5F1, 0x1E5FA},
};
// Unicode's White_Space, not PCRE2's \s, which also has U+180E.
constexpr Range kSpaces[] = {
    {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
};

template <size_t N>
std::string in_brackets(const Range (&ranges)[N]) {
  std::string text;
  for (const Range& r : ranges) text += strprintf("\\x{%X}-\\x{%X}", r.first, r.last);
  return text;
}

void append_utf8(std::string& text, uint32_t code) {
  if (code < 0x80) {
    text += static_cast<char>(code);
  } else if (code < 0x800) {
    text += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
  } else if (code < 0x10000) {
    text += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 0x3F)),
             static_cast<char>(0x80 | (code & 0x3F))};
  } else {
    text += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 0x3F)),
             static_cast<char>(0x80 | (code >> 6 & 0x3F)), static_cast<char>(0x80 | (code & 0x3F))};
  }
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// The character at p (p < end) and its length; length 1 and U+FFFD for a byte that begins none. Overlong forms and
// surrogates are not characters.
uint32_t decode_utf8(const char* p, const char* end, size_t* length) {
  const auto byte = [p](int k) { return static_cast<uint32_t>(static_cast<unsigned char>(p[k])); };
  const uint32_t lead = byte(0);
  const ptrdiff_t left = end - p;
  *length = 1;
  if (lead < 0x80) return lead;
  if (lead >= 0xC2 && lead < 0xE0 && left >= 2 && is_continuation(p[1])) {
    *length = 2;
    return (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  }
  if (lead >= 0xE0 && lead < 0xF0 && left >= 3 && is_continuation(p[1]) && is_continuation(p[2])) {
    const uint32_t code = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    if (code < 0x800 || (code >= 0xD800 && code < 0xE000)) return 0xFFFD;
    *length = 3;
    return code;
  }
  if (lead >= 0xF0 && lead < 0xF5 && left >= 4 && is_continuation(p[1]) && is_continuation(p[2]) &&
      is_continuation(p[3])) {
    const uint32_t code = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    if (code < 0x10000 || code > 0x10FFFF) return 0xFFFD;
    *length = 4;
    return code;
  }
  return 0xFFFD;
}

}  // namespace

// ---- which characters are letters, numbers, spaces -----------------------------------------------------------------

const CharClasses& CharClasses::get() {
  static const CharClasses classes;
  return classes;
}

CharClasses::CharClasses() {
  std::string all;  // every character, in order
  all.reserve(4 * table_.size());
  for (uint32_t code = 0; code < table_.size(); ++code) {
    // Surrogates are not characters; a character of the same width, in no class, stands in for them.
    append_utf8(all, code >= 0xD800 && code < 0xE000 ? 0xFFFD : code);
  }
  set_runs(all, "\\p{L}+", CharClass::letter);
  set_runs(all, "\\p{N}+", CharClass::number);
  const auto set = [this](const auto& ranges, CharClass value) {
    for (const Range& r : ranges) std::fill(table_.begin() + r.first, table_.begin() + r.last + 1, value);
  };
  set(kNewLetters, CharClass::letter);
  set(kNewNumbers, CharClass::number);
  set(kSpaces, CharClass::space);
}

// Sets the class of all characters with a property: some hundred matches instead of a query per character.
void CharClasses::set_runs(std::string_view all, const char* pattern, CharClass value) {
  const auto code_at = [](size_t offset) {  // characters of 1, 2, 3 and 4 bytes begin at U+0000, 80, 800 and 10000
    constexpr size_t kTwo = 0x80, kThree = kTwo + 2 * (0x800 - 0x80), kFour = kThree + 3 * (0x10000 - 0x800);
    return offset >= kFour    ? 0x10000 + (offset - kFour) / 4
           : offset >= kThree ? 0x800 + (offset - kThree) / 3
           : offset >= kTwo   ? 0x80 + (offset - kTwo) / 2
                              : offset;
  };

  int error = 0;
  size_t where = 0;
  const std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &where, nullptr),
      pcre2_code_free);
  if (!code) fail("PCRE2 on this machine lacks Unicode (error %d); install libpcre2-8 built with it", error);
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without a JIT, matching still works
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code.get(), nullptr), pcre2_match_data_free);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(all.data());
  for (size_t from = 0; from < all.size();) {
    const int found = pcre2_match(code.get(), subject, all.size(), from, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) fail("PCRE2 failed to list the characters of %s (error %d)", pattern, found);
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
    std::fill(table_.begin() + static_cast<ptrdiff_t>(code_at(span[0])),
              table_.begin() + static_cast<ptrdiff_t>(code_at(span[1])), value);
    from = span[1];
  }
}

CharClass CharClasses::at(std::string_view text, size_t i, size_t* length) const {
  return (*this)[decode_utf8(text.data() + i, text.data() + text.size(), length)];
}

std::string gpt2_split_pattern() {
  const std::string letters = "\\p{L}" + in_brackets(kNewLetters);
  const std::string numbers = "\\p{N}" + in_brackets(kNewNumbers);
  const std::string spaces = in_brackets(kSpaces);
  return "'s|'t|'re|'ve|'m|'ll|'d| ?[" + letters + "]+| ?[" + numbers + "]+| ?[^" + spaces + letters + numbers +
         "]+|[" + spaces + "]+(?![^" + spaces + "])|[" + spaces + "]+";
}

// ---- the pattern, written out --------------------------------------------------------------------------------------

// The end of the run of `wanted` that continues at i.
size_t Splitter::run_end(size_t i, CharClass wanted) const {
  size_t length = 0;
  while (i < text_.size() && classes_.at(text_, i, &length) == wanted) i += length;
  return i;
}

// text_[i] is a space. "\s+(?!\S)" takes the whole run at the end of the text, else all but its last character, which
// begins the next piece (or, if it is the only one, is taken by "\s+").
size_t Splitter::space_end(size_t i) const {
  size_t end = i, last = i, length = 0;
  while (end < text_.size() && classes_.at(text_, end, &length) == CharClass::space) {
    last = end;
    end += length;
  }
  return end == text_.size() || last == i ? end : last;
}

bool Splitter::next() {
  begin_ = end_;
  if (begin_ == text_.size()) return false;
  const std::string_view rest = text_.substr(begin_, 3);
  if (rest[0] == '\'' && rest.size() >= 2) {
    const char a = rest[1], b = rest.size() == 3 ? rest[2] : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return end_ = begin_ + 2, true;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return end_ = begin_ + 3, true;
  }
  size_t i = begin_, length = 0;
  CharClass first = classes_.at(text_, i, &length);
  if (rest[0] == ' ' && rest.size() >= 2) {  // " ?": a space belongs to the run after it
    const CharClass second = classes_.at(text_, i + 1, &length);
    if (second != CharClass::space) {
      first = second;
      ++i;
    }
  }
  end_ = first == CharClass::space ? space_end(begin_) : run_end(i + length, first);
  return true;
}
