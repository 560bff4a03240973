#include "llm/text/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <numeric>
#include <set>
#include <thread>
#include <unordered_map>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/text/split.h"
#include "llm/text/tokenizer_impl.h"

namespace fs = std::filesystem;

namespace {

// The characters of valid UTF-8, one at a time.
size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

uint32_t code_point(std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return lead;
  uint32_t code = lead & (0x7Fu >> character.size());
  for (const char c : character.substr(1)) code = code << 6 | (static_cast<unsigned char>(c) & 0x3F);
  return code;
}

// The stretches of a text between the special tokens in it, each with the token that ends it (null at the end). Where
// tokens overlap, the leftmost counts, and of those the longest.
template <class Visit>  // visit(size_t begin, size_t end, const SpecialToken* token)
void for_each_stretch(std::string_view text, const std::vector<SpecialToken>& specials, const SpecialFinder& finder,
                      Visit&& visit) {
  for (size_t begin = 0, at = 0;;) {
    const SpecialToken* token = nullptr;
    for (at = finder.next(text, begin); at < text.size() && !token;) {
      token = finder.longest_at(text, at, specials);
      if (!token) at = finder.next(text, at + 1);
    }
    visit(begin, at, token);
    if (!token) return;
    begin = at + token->text.size();
  }
}

template <class Visit>
void for_each_stretch(std::string_view text, const std::vector<SpecialToken>& specials, Visit&& visit) {
  for_each_stretch(text, specials, SpecialFinder(specials), visit);
}

}  // namespace

SpecialFinder::SpecialFinder(const std::vector<SpecialToken>& specials) : sorted_(specials.size()) {
  std::iota(sorted_.begin(), sorted_.end(), uint32_t{0});
  std::sort(sorted_.begin(), sorted_.end(),
            [&](uint32_t a, uint32_t b) { return specials[a].text < specials[b].text; });
  for (const SpecialToken& token : specials) {
    const char first = token.text[0];
    if (!begins_[static_cast<unsigned char>(first)]) firsts_ += first;
    begins_[static_cast<unsigned char>(first)] = true;
  }
}

size_t SpecialFinder::next(std::string_view text, size_t from) const {
  if (firsts_.size() <= 1) return firsts_.empty() ? text.size() : std::min(text.find(firsts_[0], from), text.size());
  while (from < text.size() && !begins_[static_cast<unsigned char>(text[from])]) ++from;
  return std::min(from, text.size());
}

const SpecialToken* SpecialFinder::longest_at(std::string_view text, size_t at,
                                              const std::vector<SpecialToken>& specials) const {
  const SpecialToken* longest = nullptr;
  auto begin = sorted_.begin(), end = sorted_.end();  // those that agree with the text in their first `length` bytes
  for (size_t length = 0; begin != end; ++length) {
    if (specials[*begin].text.size() == length) longest = &specials[*begin++];
    if (at + length >= text.size()) break;
    const auto wanted = static_cast<unsigned char>(text[at + length]);
    const auto byte = [&](uint32_t k) { return static_cast<unsigned char>(specials[k].text[length]); };
    begin = std::partition_point(begin, end, [&](uint32_t k) { return byte(k) < wanted; });
    end = std::partition_point(begin, end, [&](uint32_t k) { return byte(k) == wanted; });
  }
  return longest;
}

const std::array<unsigned char, 256>& gpt2_byte_order() {
  static const auto order = [] {
    std::array<unsigned char, 256> bytes;
    const auto printable = [](int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
    size_t n = 0;
    for (const bool want : {true, false}) {
      for (int b = 0; b < 256; ++b) {
        if (printable(b) == want) bytes[n++] = static_cast<unsigned char>(b);
      }
    }
    return bytes;
  }();
  return order;
}

// ---- making one ----------------------------------------------------------------------------------------------------

Tokenizer Tokenizer::Impl::make(Impl v, const std::string& source) {
  const char* name = source.c_str();
  if (v.tokens.size() >= static_cast<size_t>(MergeTable::kMaxId)) {
    fail("%s: a vocabulary of %zu tokens, at most %d are supported", name, v.tokens.size(), MergeTable::kMaxId - 1);
  }
  // A hash table of ids by their bytes.
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<uint32_t> seen(std::bit_ceil(2 * v.tokens.size() + 2), kNone);
  const auto is_new = [&](size_t id) {
    const std::string& token = v.tokens[id];
    size_t i = hash64(token.data(), token.size(), 0) & (seen.size() - 1);
    for (; seen[i] != kNone; i = (i + 1) & (seen.size() - 1)) {
      if (v.tokens[seen[i]] == token) return false;
    }
    seen[i] = static_cast<uint32_t>(id);
    return true;
  };
  v.byte_ids.fill(-1);
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const std::string& token = v.tokens[id];
    if (token.empty()) continue;
    if (!is_new(id)) fail("%s: token %zu is there twice, under two ids", name, id);
    const auto number = static_cast<int32_t>(id);
    if (v.kind == Kind::chars) {
      if (find_invalid_utf8(token) != std::string_view::npos || utf8_length(token[0]) != token.size()) {
        fail("%s: token %zu is not one character, but the vocabulary has neither merges nor a pre-tokenizer", name, id);
      }
      const uint32_t code = code_point(token);
      if (code >= v.char_ids.size()) v.char_ids.resize(code + 1, -1);
      v.char_ids[code] = number;
    } else if (token.size() == 1) {
      v.byte_ids[static_cast<unsigned char>(token[0])] = number;
    }
  }
  if (v.kind != Kind::chars) {
    const auto missing = std::find(v.byte_ids.begin(), v.byte_ids.end(), -1);
    if (missing != v.byte_ids.end()) {
      fail("%s: no token for the byte 0x%02X; a byte-level vocabulary has all 256", name,
           static_cast<unsigned>(missing - v.byte_ids.begin()));
    }
  }
  for (const SpecialToken& token : v.specials) {
    if (token.text == kEndOfText) v.end_of_text = token.id;
  }
  v.finder = SpecialFinder(v.specials);
  return Tokenizer(std::make_shared<const Impl>(std::move(v)));
}

Tokenizer Tokenizer::bytes() {
  Impl v;
  v.kind = Impl::Kind::bytes;
  for (int b = 0; b < 256; ++b) v.tokens.emplace_back(1, static_cast<char>(b));
  v.tokens.emplace_back();
  v.specials = {{std::string(kEndOfText), 256}};
  return Impl::make(std::move(v), "bytes");
}

Tokenizer Tokenizer::chars(std::string_view text) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail("a character vocabulary needs UTF-8, but the text's byte %zu (0x%02X) is not", bad,
         static_cast<unsigned char>(text[bad]));
  }
  std::set<std::string_view> characters;  // UTF-8 sorts as code points do
  std::string_view last;
  for_each_stretch(text, {{std::string(kEndOfText), 0}}, [&](size_t begin, size_t end, const SpecialToken*) {
    for (size_t i = begin; i < end;) {
      const std::string_view character = text.substr(i, utf8_length(text[i]));
      if (character != last) characters.insert(character);
      last = character;
      i += character.size();
    }
  });
  if (characters.empty()) fail("a character vocabulary needs text to take its characters from, but the text is empty");
  Impl v;
  v.kind = Impl::Kind::chars;
  v.tokens.assign(characters.begin(), characters.end());
  v.specials = {{std::string(kEndOfText), static_cast<int32_t>(v.tokens.size())}};
  v.tokens.emplace_back();
  return Impl::make(std::move(v), "chars");
}

Tokenizer Tokenizer::train_bpe(std::string_view text, int vocab_size) {
  if (vocab_size < 257 || vocab_size >= MergeTable::kMaxId) {
    fail_usage("a BPE vocabulary has 257 (256 bytes and %s) to %d tokens, not %d", kEndOfText.data(),
               MergeTable::kMaxId - 1, vocab_size);
  }
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail("BPE training needs UTF-8, but the text's byte %zu (0x%02X) is not", bad,
         static_cast<unsigned char>(text[bad]));
  }
  std::unordered_map<std::string_view, int64_t> pieces;
  for_each_stretch(text, {{std::string(kEndOfText), 0}}, [&](size_t begin, size_t end, const SpecialToken*) {
    for (Splitter split(text.substr(begin, end - begin)); split.next();) ++pieces[split.piece()];
  });
  Impl v;
  std::array<int32_t, 256> byte_ids;
  for (const unsigned char byte : gpt2_byte_order()) {
    byte_ids[byte] = static_cast<int32_t>(v.tokens.size());
    v.tokens.emplace_back(1, static_cast<char>(byte));
  }
  const auto learnt = learn_merges(pieces, byte_ids, 256, static_cast<size_t>(vocab_size) - 257);
  v.merges = MergeTable(learnt.size());
  for (const Merge& merge : learnt) {
    v.merges.add(merge);
    if (static_cast<size_t>(merge.merged) < v.tokens.size()) continue;  // another way to a token made before
    v.tokens.push_back(v.tokens[static_cast<size_t>(merge.left)] + v.tokens[static_cast<size_t>(merge.right)]);
  }
  v.specials = {{std::string(kEndOfText), static_cast<int32_t>(v.tokens.size())}};
  v.tokens.emplace_back();
  return Impl::make(std::move(v), "BPE training");
}

Tokenizer Tokenizer::with_special_tokens(std::span<const std::string> tokens) const {
  Impl v = *impl_;
  for (const std::string& text : tokens) {
    const std::string shown = in_quotes(text);
    const bool printable = std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7F; });
    if (text.empty() || !printable) {
      fail("the special token %s: expected one or more of ASCII's characters from ! to ~", shown.c_str());
    }
    const auto token = std::find(v.tokens.begin(), v.tokens.end(), text);
    const auto special =
        std::find_if(v.specials.begin(), v.specials.end(), [&](const SpecialToken& s) { return s.text == text; });
    if (token != v.tokens.end() || special != v.specials.end()) {
      fail("the special token %s is there already, with the id %d", shown.c_str(),
           special != v.specials.end() ? special->id : static_cast<int32_t>(token - v.tokens.begin()));
    }
    v.specials.push_back({text, static_cast<int32_t>(v.tokens.size())});
    v.tokens.emplace_back();
  }
  v.char_ids.clear();
  return Impl::make(std::move(v), "the vocabulary with more special tokens");
}

bool tokenizer_needs_text(const std::string& name) { return name == "chars" || name.starts_with("bpe:"); }

std::string why_fewer_tokens(const std::string& name, const Tokenizer& tokenizer) {
  if (!name.starts_with("bpe:") || std::stoi(name.substr(4)) == tokenizer.vocab_size()) return "";
  return strprintf(
      "{tokenizer} %s: the training ended with %d tokens: no pair of tokens occurs twice any more in the text's words; "
      "a longer text has more",
      name.c_str(), tokenizer.vocab_size());
}

Tokenizer make_tokenizer(const std::string& name, std::string_view text) {
  if (name == "bytes") return Tokenizer::bytes();
  if (name == "chars") return Tokenizer::chars(text);
  if (name.starts_with("bpe:")) {
    const std::string digits = name.substr(4);
    if (digits.empty() || digits.size() > 7 || digits.find_first_not_of("0123456789") != std::string::npos) {
      fail_usage("{tokenizer} %s: expected bpe:N with the number of tokens, such as bpe:4096", name.c_str());
    }
    return Tokenizer::train_bpe(text, std::stoi(digits));
  }
  if (name == "gpt2") {
    std::vector<fs::path> places = {"data"};
    if (const char* folder = std::getenv("WROUGHT_DATA"); folder && *folder) places.insert(places.begin(), folder);
    for (const fs::path& place : places) {
      for (const char* entry : {"gpt2", "gpt2.tiktoken"}) {
        if (fs::exists(place / entry)) return Tokenizer::load(place / entry);
      }
    }
    fail(
        "{tokenizer} gpt2: GPT-2's vocabulary is not on this machine (looked for gpt2/ and gpt2.tiktoken in data/ and "
        "in $WROUGHT_DATA); dev/data/gpt2_tokenizer.sh downloads it (1.5 MB)");
  }
  if (!fs::exists(name)) {
    fail_usage("{tokenizer} %s: neither bytes, chars, bpe:N or gpt2, nor a file or folder that exists", name.c_str());
  }
  return Tokenizer::load(name);
}

// ---- encoding ------------------------------------------------------------------------------------------------------

namespace {

// Words repeat: caches the ids of the latest pieces of 2 to 15 bytes, one per slot. A slot is half a cache line, all
// slots together are half a second-level cache.
class PieceCache {
 public:
  static constexpr size_t kMaxBytes = 15, kMaxIds = 4;
  struct alignas(32) Slot {
    uint64_t key[2] = {};  // the piece, padded with zeros; its length in the last byte. No piece: {0, 0}
    int32_t ids[kMaxIds] = {-1, -1, -1, -1};  // ends with -1 if fewer; none if the piece has more ids than fit
  };

  explicit PieceCache(size_t text_bytes)
      : slots_(std::clamp<size_t>(std::bit_ceil(text_bytes / 16 + 1), 16, 1 << 14)),
        shift_(64 - std::countr_zero(slots_.size())) {}

  // The slot of a piece of at most kMaxBytes; `readable` bytes may be read from its beginning. If it holds another
  // piece, it is cleared and renamed.
  Slot& find(std::string_view piece, size_t readable) {
    uint64_t key[2] = {};
    if (readable >= 16) {
      std::memcpy(key, piece.data(), 16);
      const size_t bits = 8 * piece.size();
      key[0] &= bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1;
      key[1] &= bits <= 64 ? 0 : (uint64_t{1} << (bits - 64)) - 1;
    } else {
      std::memcpy(key, piece.data(), piece.size());
    }
    key[1] |= static_cast<uint64_t>(piece.size()) << 56;
    const uint64_t hash = (key[0] ^ std::rotl(key[1] * 0xD6E8FEB86659FD93u, 32)) * 0x9E3779B97F4A7C15u;
    Slot& slot = slots_[hash >> shift_];
    if (slot.key[0] != key[0] || slot.key[1] != key[1]) {
      slot.key[0] = key[0];
      slot.key[1] = key[1];
      slot.ids[0] = -1;
    }
    return slot;
  }

 private:
  std::vector<Slot> slots_;
  int shift_;
};
static_assert(std::endian::native == std::endian::little,
              "PieceCache masks the bytes of a piece in little-endian order");

}  // namespace

void Tokenizer::Impl::encode_bpe(std::string_view text, std::vector<int32_t>& ids) const {
  PieceCache cache(text.size());
  for (Splitter split(text); split.next();) {
    const std::string_view piece = split.piece();
    if (piece.size() == 1) {
      ids.push_back(byte_ids[static_cast<unsigned char>(piece[0])]);
      continue;
    }
    PieceCache::Slot* slot = nullptr;
    if (piece.size() <= PieceCache::kMaxBytes) {
      slot = &cache.find(piece, static_cast<size_t>(text.data() + text.size() - piece.data()));
      for (size_t k = 0; k < PieceCache::kMaxIds && slot->ids[k] >= 0; ++k) ids.push_back(slot->ids[k]);
      if (slot->ids[0] >= 0) continue;
    }
    const size_t begin = ids.size();
    ids.resize(begin + piece.size());
    for (size_t k = 0; k < piece.size(); ++k) ids[begin + k] = byte_ids[static_cast<unsigned char>(piece[k])];
    const size_t count = merges.apply(ids.data() + begin, piece.size());
    ids.resize(begin + count);
    if (slot && count <= PieceCache::kMaxIds) {
      std::copy(ids.begin() + static_cast<ptrdiff_t>(begin), ids.end(), slot->ids);
      if (count < PieceCache::kMaxIds) slot->ids[count] = -1;
    }
  }
}

void Tokenizer::Impl::encode_chars(std::string_view text, size_t offset, std::vector<int32_t>& ids) const {
  const size_t bad = find_invalid_utf8(text);
  for (size_t i = 0; i < std::min(bad, text.size());) {
    const std::string_view character = text.substr(i, utf8_length(text[i]));
    const uint32_t code = code_point(character);
    const int32_t id = code < char_ids.size() ? char_ids[code] : -1;
    if (id < 0) {
      fail(
          "the vocabulary lacks the character U+%04X ('%s') at byte %zu of the text; use a vocabulary made from this "
          "text, or bytes or bpe:N, which can write any text",
          code, std::string(code < 0x20 ? "?" : character).c_str(), offset + i);
    }
    ids.push_back(id);
    i += character.size();
  }
  if (bad != std::string_view::npos) {
    fail("a character vocabulary needs UTF-8, but the text's byte %zu (0x%02X) is not", offset + bad,
         static_cast<unsigned char>(text[bad]));
  }
}

void Tokenizer::Impl::encode_ordinary(std::string_view text, size_t offset, std::vector<int32_t>& ids) const {
  if (kind == Kind::chars) return encode_chars(text, offset, ids);
  if (kind == Kind::bpe) return encode_bpe(text, ids);
  for (const char byte : text) ids.push_back(byte_ids[static_cast<unsigned char>(byte)]);
}

void Tokenizer::Impl::encode(std::string_view text, Special special, size_t offset, std::vector<int32_t>& ids) const {
  if (special == Special::text) return encode_ordinary(text, offset, ids);
  for_each_stretch(text, specials, finder, [&](size_t begin, size_t end, const SpecialToken* token) {
    if (begin < end) encode_ordinary(text.substr(begin, end - begin), offset + begin, ids);
    if (token) ids.push_back(token->id);
  });
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, Special special) const {
  std::vector<int32_t> ids;
  impl_->encode(text, special, 0, ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, std::span<const TextRange> parsed) const {
  std::vector<int32_t> ids;
  size_t done = 0;
  const auto encode_until = [&](size_t end) {
    if (done < end) impl_->encode_ordinary(text.substr(done, end - done), done, ids);
  };
  for (const TextRange& range : parsed) {
    const std::string_view part = text.substr(range.begin, range.end - range.begin);
    for_each_stretch(part, impl_->specials, [&](size_t, size_t end, const SpecialToken* token) {
      if (!token) return;
      encode_until(range.begin + end);
      ids.push_back(token->id);
      done = range.begin + end + token->text.size();
    });
  }
  encode_until(text.size());
  return ids;
}

namespace {

// A place >= from where no piece and no special token can be in progress: before an ASCII space or newline that follows
// an ASCII character that is neither. (No piece holds a space after anything else, and how a piece ends there does not
// depend on what follows.)
size_t safe_cut(std::string_view text, size_t from, const std::vector<SpecialToken>& specials) {
  const auto inside_special = [&](size_t i) {
    return std::any_of(specials.begin(), specials.end(), [&](const SpecialToken& token) {
      const size_t reach = token.text.size() - 1, begin = i - std::min(i, reach);
      return text.substr(begin, i - begin + reach).find(token.text) != std::string_view::npos;
    });
  };
  for (size_t i = std::max<size_t>(from, 1); i < text.size(); ++i) {
    const bool border = (text[i] == ' ' || text[i] == '\n') && text[i - 1] > ' ';
    if (border && !inside_special(i)) return i;
  }
  return text.size();
}

}  // namespace

void Tokenizer::encode_parts(std::string_view text, Special special, int threads,
                             const std::function<void(std::span<const int32_t> ids)>& take) const {
  if (threads < 0) fail_usage("encoding with %d threads: expected 0 (all cores) or more", threads);
  constexpr size_t kLargestPart = size_t{1} << 20, kSmallestPart = 4096;  // a thread does not pay for less
  const size_t at_once = threads > 0 ? static_cast<size_t>(threads) : std::max(1u, std::thread::hardware_concurrency());
  const size_t part = std::clamp(text.size() / at_once, kSmallestPart, kLargestPart);

  std::vector<std::vector<int32_t>> ids(at_once);
  std::vector<std::exception_ptr> errors(at_once);
  for (size_t begin = 0; begin < text.size();) {
    size_t parts = 0;
    {
      std::vector<std::jthread> workers;  // joined at the end of the block
      while (parts < at_once && begin < text.size()) {
        const bool last = text.size() - begin < part + kSmallestPart;
        const size_t end = last ? text.size() : safe_cut(text, begin + part, impl_->specials);
        const auto encode_part = [&, k = parts, begin, end] {
          try {
            ids[k].clear();
            impl_->encode(text.substr(begin, end - begin), special, begin, ids[k]);
          } catch (...) {
            errors[k] = std::current_exception();
          }
        };
        begin = end;
        if (++parts == at_once || begin == text.size()) {
          encode_part();  // by this thread
        } else {
          workers.emplace_back(encode_part);
        }
      }
    }
    for (size_t k = 0; k < parts; ++k) {
      if (errors[k]) std::rethrow_exception(errors[k]);  // the first in the text's order
      take(ids[k]);
    }
  }
}

std::vector<int32_t> Tokenizer::encode_parallel(std::string_view text, Special special, int threads) const {
  std::vector<int32_t> all;
  encode_parts(text, special, threads,
               [&](std::span<const int32_t> ids) { all.insert(all.end(), ids.begin(), ids.end()); });
  return all;
}

// ---- decoding and questions ----------------------------------------------------------------------------------------

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += bytes_of(id);
  return text;
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->tokens.size()); }
int Tokenizer::end_of_text() const { return impl_->end_of_text; }

std::string_view Tokenizer::bytes_of(int id) const {
  if (id < 0 || id >= vocab_size()) {
    fail("token id %d is outside the vocabulary, whose ids are 0 to %d", id, vocab_size() - 1);
  }
  return impl_->tokens[static_cast<size_t>(id)];
}

bool Tokenizer::is_special(int id) const { return bytes_of(id).empty(); }

std::string Tokenizer::kind() const {
  return impl_->kind == Impl::Kind::bytes ? "bytes" : impl_->kind == Impl::Kind::chars ? "chars" : "bpe";
}

std::string Tokenizer::checksum() const {
  uint64_t hash = impl_->kind == Impl::Kind::chars;  // bytes are a BPE without merges
  const auto add = [&](std::string_view text) {      // with its length, so that no two vocabularies spell the same
    const uint64_t size = text.size();
    hash = hash64(text.data(), text.size(), hash64(&size, sizeof size, hash));
  };
  for (const std::string& token : impl_->tokens) add(token);
  const auto merges = impl_->merges.merges();
  add({reinterpret_cast<const char*>(merges.data()), merges.size_bytes()});
  std::map<int32_t, std::string> specials;
  for (const SpecialToken& token : impl_->specials) specials.emplace(token.id, token.text);
  for (const auto& [id, text] : specials) add(std::to_string(id) + " " + text);
  return strprintf("%016llx", static_cast<unsigned long long>(hash));
}

// ---- decoding as ids come ------------------------------------------------------------------------------------------

std::string StreamDecoder::next(int32_t id) {
  waiting_ += tokenizer_.bytes_of(id);
  const size_t keep = unfinished_utf8_bytes(waiting_);
  std::string text = replace_invalid_utf8(std::string_view(waiting_).substr(0, waiting_.size() - keep));
  waiting_.erase(0, waiting_.size() - keep);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = replace_invalid_utf8(waiting_);
  waiting_.clear();
  return text;
}
