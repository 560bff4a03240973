// GPT-2's split pattern: the places where text is cut before byte pairs merge. Special tokens are cut out before that
// (Tokenizer::encode).
//
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// The pattern is the definition (the tests hold Splitter to it through PCRE2, piece by piece); Splitter is the same
// automaton written out, several times as fast. Which characters are letters and numbers comes from PCRE2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

enum class CharClass : uint8_t { other, letter, number, space };

// The classes of all characters, made once (some milliseconds) on first use. Letters and numbers are those of PCRE2
// and, where PCRE2 knows only Unicode 14, those that Unicode 15, 15.1 and 16 added: the set tiktoken uses. Spaces are
// Unicode's White_Space.
class CharClasses {
 public:
  static const CharClasses& get();
  CharClass operator[](uint32_t code) const { return code < table_.size() ? table_[code] : CharClass::other; }
  // The character at text[i] and its length in bytes; a byte that begins no character is class `other`, length 1.
  CharClass at(std::string_view text, size_t i, size_t* length) const;

 private:
  CharClasses();
  void set_runs(std::string_view all, const char* pattern, CharClass value);
  std::array<CharClass, 0x40000> table_{};  // no letter, number or space lies above (Unicode 16)
};

// The pieces of a text, in order; together they are the text.
//   for (Splitter split(text); split.next();) use(split.piece());
class Splitter {
 public:
  explicit Splitter(std::string_view text) : text_(text), classes_(CharClasses::get()) {}
  bool next();  // false at the end
  std::string_view piece() const { return text_.substr(begin_, end_ - begin_); }

 private:
  std::string_view text_;
  const CharClasses& classes_;
  size_t begin_ = 0, end_ = 0;
  size_t run_end(size_t i, CharClass wanted) const;
  size_t space_end(size_t i) const;
};

// GPT-2's pattern for PCRE2 in UTF and UCP mode, with the same letters, numbers and spaces as CharClasses: the
// reference.
std::string gpt2_split_pattern();
