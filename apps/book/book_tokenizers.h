// The two tokenizers that chapter 2 of "Build a Large Language Model (From Scratch)" builds before it turns to that of
// GPT-2: ids of whole words, and byte-pair encoding in its simplest form. Only for the book's figures
// (apps/book/book.cpp); models are trained with tokenizer.h.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

// ---- words ----------------------------------------------------------------------------------------------------------

// The text without white space, cut before and after each of , . : ; ? _ ! " ( ) ' and --.
std::vector<std::string_view> split_words(std::string_view text);

// The words of a text in the order of their code points, then <|endoftext|> and <|unk|>, which stands for every word
// that the text lacks.
class WordTokenizer {
 public:
  explicit WordTokenizer(std::string_view text);
  std::vector<int32_t> encode(std::string_view text) const;
  // The words with a space between them, but none before , . : ; ? ! " ( ) '. Throws Error for an id out of range.
  std::string decode(std::span<const int32_t> ids) const;
  int size() const { return static_cast<int>(words_.size()); }

 private:
  std::vector<std::string> words_;  // by id
  std::map<std::string, int32_t, std::less<>> ids_;
};

// ---- byte-pair encoding ---------------------------------------------------------------------------------------------

// It differs from BPE in tokenizer.h: it merges characters (the ids of the first 256 are their code points), not bytes;
// cuts the text only at spaces and line breaks; breaks ties in favour of the pair that comes first in the text;
// continues while any pair is left; and encodes by passes from left to right that merge all that can merge, not the
// merge learnt first. A space before a word is written as U+0120; other white space is dropped.
class SimpleBpe {
 public:
  // Trains to `size` ids, <|endoftext|> among them: 256 characters, the text's others, <|endoftext|>, merges. Time
  // grows with merges times text: for texts of some 100 kB. Throws UsageError if the characters already exceed that.
  SimpleBpe(std::string_view text, int size);
  // Throws Error for a character that is not in the vocabulary.
  std::vector<int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const int32_t> ids) const;  // throws Error for an id out of range
  int size() const { return static_cast<int>(tokens_.size()); }
  int merges() const { return static_cast<int>(merges_.size()); }

 private:
  std::vector<int32_t> character_ids(std::string_view piece) const;

  std::vector<std::string> tokens_;               // by id
  std::unordered_map<std::string, int32_t> ids_;  // of two tokens with the same spelling, the later
  std::unordered_map<uint64_t, int32_t> merges_;  // the pair's ids, 32 bits each
};
