// Inside the tokenizer: what tokenizer.cpp (encoding, decoding) and tokenizer_files.cpp (formats) share.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "llm/text/bpe.h"
#include "llm/text/tokenizer.h"

struct SpecialToken {
  std::string text;
  int32_t id;
};

// Finds special tokens in a text, in time that does not depend on how many there are. `specials` is always the same
// list.
class SpecialFinder {
 public:
  explicit SpecialFinder(const std::vector<SpecialToken>& specials = {});
  size_t next(std::string_view text, size_t from) const;  // where one may begin; the text's size if none does
  const SpecialToken* longest_at(std::string_view text, size_t at, const std::vector<SpecialToken>& specials) const;

 private:
  std::vector<uint32_t> sorted_;    // places in `specials`, by text
  std::array<bool, 256> begins_{};  // the bytes that one may begin with
  std::string firsts_;              // the same as a list
};

// A vocabulary as a file states it. make() checks it and derives the tables that encoding uses.
struct Tokenizer::Impl {
  enum class Kind { bytes, chars, bpe };
  Kind kind = Kind::bpe;
  std::vector<std::string> tokens;  // id -> bytes; "" for special tokens
  std::vector<SpecialToken> specials;
  MergeTable merges;

  // Derived.
  std::array<int32_t, 256> byte_ids{};  // bytes, bpe
  std::vector<int32_t> char_ids;        // chars: code point -> id or -1
  int end_of_text = -1;
  SpecialFinder finder;

  // Throws Error, naming `source`, unless: bytes and bpe have each of the 256 bytes once, chars only single characters,
  // no token occurs twice, and the number of ids fits MergeTable.
  static Tokenizer make(Impl vocabulary, const std::string& source);

  // Appends the ids of a text, which begins at `offset` of the caller's text (for messages).
  void encode(std::string_view text, Special special, size_t offset, std::vector<int32_t>& ids) const;
  void encode_ordinary(std::string_view text, size_t offset, std::vector<int32_t>& ids) const;
  void encode_bpe(std::string_view text, std::vector<int32_t>& ids) const;
  void encode_chars(std::string_view text, size_t offset, std::vector<int32_t>& ids) const;
};

// The 256 bytes in GPT-2's order: the printable ones of Latin-1 first, then the rest. Position = id.
const std::array<unsigned char, 256>& gpt2_byte_order();
