#include "apps/book/book_tokenizers.h"

#include <algorithm>
#include <set>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/split.h"
#include "llm/text/tokenizer.h"

namespace {

constexpr std::string_view kUnknown = "<|unk|>", kSpace = "\u0120";

const std::string& token_at(const std::vector<std::string>& tokens, int32_t id) {
  if (id < 0 || static_cast<size_t>(id) >= tokens.size()) {
    fail("token id %d is outside the vocabulary, whose ids are 0 to %zu", id, tokens.size() - 1);
  }
  return tokens[static_cast<size_t>(id)];
}

}  // namespace

// ---- words ----------------------------------------------------------------------------------------------------------

std::vector<std::string_view> split_words(std::string_view text) {
  constexpr std::string_view marks = ",.:;?_!\"()'";
  const CharClasses& classes = CharClasses::get();
  std::vector<std::string_view> words;
  size_t begin = 0;  // start of the word in progress
  const auto cut = [&](size_t i, size_t length, bool keep) {
    if (i > begin) words.push_back(text.substr(begin, i - begin));
    if (keep) words.push_back(text.substr(i, length));
    begin = i + length;
  };
  for (size_t i = 0, length = 0; i < text.size(); i += length) {
    if (classes.at(text, i, &length) == CharClass::space) {
      cut(i, length, false);
    } else if (marks.find(text[i]) != std::string_view::npos) {
      cut(i, length, true);
    } else if (text.substr(i, 2) == "--") {
      cut(i, length = 2, true);
    }
  }
  cut(text.size(), 0, false);
  return words;
}

WordTokenizer::WordTokenizer(std::string_view text) {
  const std::vector<std::string_view> words = split_words(text);
  const std::set<std::string_view> distinct(words.begin(), words.end());  // UTF-8 sorts as code points do
  words_.assign(distinct.begin(), distinct.end());
  words_.emplace_back(kEndOfText);
  words_.emplace_back(kUnknown);
  for (size_t id = 0; id < words_.size(); ++id) ids_[words_[id]] = static_cast<int32_t>(id);
}

std::vector<int32_t> WordTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  for (const std::string_view word : split_words(text)) {
    const auto found = ids_.find(word);
    ids.push_back(found != ids_.end() ? found->second : ids_.find(kUnknown)->second);
  }
  return ids;
}

std::string WordTokenizer::decode(std::span<const int32_t> ids) const {
  constexpr std::string_view no_space_before = ",.:;?!\"()'";
  std::string text;
  for (const int32_t id : ids) {
    const std::string& word = token_at(words_, id);
    if (!text.empty() && no_space_before.find(word[0]) == std::string_view::npos) text += ' ';
    text += word;
  }
  return text;
}

// ---- byte-pair encoding ---------------------------------------------------------------------------------------------

namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// Calls visit(piece) for each separately encoded piece: a word with the space before it, each other space, each line
// break.
template <class Visit>
void for_each_piece(std::string_view text, Visit&& visit) {
  const CharClasses& classes = CharClasses::get();
  std::string word;
  size_t spaces = 0;
  const auto finish = [&](size_t leave) {  // of the spaces before the word, or at a line's end
    if (!word.empty()) visit(word);
    word.clear();
    for (; spaces > leave; --spaces) visit(std::string(kSpace));
  };
  for (size_t i = 0, length = 0; i < text.size(); i += length) {
    const CharClass kind = classes.at(text, i, &length);
    if (text[i] == '\n' || text[i] == '\r') {
      finish(0);
      visit(std::string(1, text[i]));
    } else if (kind == CharClass::space) {
      if (!word.empty()) finish(0);
      spaces += text[i] == ' ';
    } else {
      if (word.empty() && spaces > 0) {
        finish(1);
        spaces = 0;
        word = kSpace;
      }
      word += text.substr(i, length);
    }
  }
  finish(0);
}

// Calls visit(character) for each.
template <class Visit>
void for_each_character(std::string_view piece, Visit&& visit) {
  const CharClasses& classes = CharClasses::get();
  for (size_t i = 0, length = 0; i < piece.size(); i += length) {
    classes.at(piece, i, &length);
    visit(std::string(piece.substr(i, length)));
  }
}

// A distinct piece of the training text.
struct Piece {
  std::vector<int32_t> ids;
  int64_t count = 0;
};

// The most frequent pair, of equals the first in the text; false if there is none.
bool most_frequent(const std::vector<Piece>& pieces, int32_t pair[2]) {
  struct Count {
    int64_t n = 0, place = 0;
  };
  std::unordered_map<uint64_t, Count> counts;
  int64_t place = 0;
  Count best;
  for (const Piece& piece : pieces) {
    for (size_t i = 0; i + 1 < piece.ids.size(); ++i) {
      Count& count = counts[pair_of(piece.ids[i], piece.ids[i + 1])];
      if (count.n == 0) count.place = place++;
      count.n += piece.count;
    }
  }
  for (const auto& [key, count] : counts) {
    if (count.n < best.n || (count.n == best.n && count.place > best.place)) continue;
    best = count;
    pair[0] = static_cast<int32_t>(key >> 32);
    pair[1] = static_cast<int32_t>(key & UINT32_MAX);
  }
  return best.n > 0;
}

// One pass from left to right: merged(left, right) is the id of the pair, or -1. Returns whether anything merged.
template <class Merged>
bool merge_pass(std::vector<int32_t>& ids, Merged&& merged) {
  size_t made = 0;
  const size_t before = ids.size();
  for (size_t i = 0; i < before; ++made) {
    const int32_t id = i + 1 < before ? merged(ids[i], ids[i + 1]) : -1;
    ids[made] = id < 0 ? ids[i] : id;
    i += id < 0 ? 1 : 2;
  }
  ids.resize(made);
  return made < before;
}

}  // namespace

SimpleBpe::SimpleBpe(std::string_view text, int size) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail("BPE training needs UTF-8, but the text's byte %zu (0x%02X) is not", bad,
         static_cast<unsigned char>(text[bad]));
  }
  std::unordered_map<std::string, size_t> places;
  std::vector<std::string> spellings;  // the distinct pieces, in the order of the text
  std::vector<Piece> pieces;
  std::set<std::string> characters = {std::string(kSpace)};
  for_each_piece(text, [&](const std::string& piece) {
    const auto [entry, is_new] = places.try_emplace(piece, pieces.size());
    if (is_new) {
      spellings.push_back(piece);
      pieces.emplace_back();
      for_each_character(piece, [&](std::string character) { characters.insert(std::move(character)); });
    }
    ++pieces[entry->second].count;
  });

  const auto add = [&](std::string token) {
    ids_[token] = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(std::move(token));
  };
  for (int code = 0; code < 256; ++code) {
    add(code < 128 ? std::string(1, static_cast<char>(code))
                   : std::string{static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))});
  }
  for (const std::string& character : characters) {
    if (!ids_.contains(character)) add(character);
  }
  add(std::string(kEndOfText));
  if (size < this->size())
    fail_usage("a vocabulary of %d ids: just the characters and %s are %d", size, kEndOfText.data(), this->size());

  for (size_t i = 0; i < pieces.size(); ++i) pieces[i].ids = character_ids(spellings[i]);
  int32_t pair[2] = {};
  while (this->size() < size && most_frequent(pieces, pair)) {
    const int32_t id = this->size();
    for (Piece& piece : pieces) {
      merge_pass(piece.ids, [&](int32_t a, int32_t b) { return a == pair[0] && b == pair[1] ? id : -1; });
    }
    merges_[pair_of(pair[0], pair[1])] = id;
    add(tokens_[static_cast<size_t>(pair[0])] + tokens_[static_cast<size_t>(pair[1])]);
  }
}

std::vector<int32_t> SimpleBpe::character_ids(std::string_view piece) const {
  std::vector<int32_t> ids;
  for_each_character(piece, [&](const std::string& character) {
    const auto found = ids_.find(character);
    if (found == ids_.end()) fail("the vocabulary lacks the character '%s'", character.c_str());
    ids.push_back(found->second);
  });
  return ids;
}

std::vector<int32_t> SimpleBpe::encode(std::string_view text) const {
  std::vector<int32_t> all;
  for_each_piece(text, [&](const std::string& piece) {
    if (const auto whole = ids_.find(piece); whole != ids_.end()) {
      all.push_back(whole->second);
      return;
    }
    std::vector<int32_t> ids = character_ids(piece);
    while (merge_pass(ids, [&](int32_t a, int32_t b) {
      const auto found = merges_.find(pair_of(a, b));
      return found == merges_.end() ? -1 : found->second;
    })) {
    }
    all.insert(all.end(), ids.begin(), ids.end());
  });
  return all;
}

std::string SimpleBpe::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    const std::string& token = token_at(tokens_, id);
    const bool space = token.starts_with(kSpace);
    if (space) text += ' ';
    text += std::string_view(token).substr(space ? kSpace.size() : 0);
  }
  return text;
}
