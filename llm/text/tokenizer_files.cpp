// The files a vocabulary lives in: HF tokenizer.json (read and written), .tiktoken, and vocab.bpe with encoder.json
// (also as merges.txt with vocab.json). A file that asks for something this tokenizer does not do is an error, never a
// vocabulary that encodes differently from its author's tokenizer.
#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/text/tokenizer_impl.h"

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;
using Impl = Tokenizer::Impl;

namespace {

// ---- bytes written as characters -----------------------------------------------------------------------------------
// GPT-2 writes each byte as one visible character: a printable byte as itself (Latin-1), the k-th other as U+0100 + k.

constexpr size_t kPrintable = 188;  // bytes at the front of gpt2_byte_order()

std::string byte_to_character(unsigned char byte) {
  const auto& order = gpt2_byte_order();
  const auto place = static_cast<size_t>(std::find(order.begin(), order.end(), byte) - order.begin());
  const unsigned code = place < kPrintable ? byte : 0x100 + static_cast<unsigned>(place - kPrintable);
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

std::string to_characters(std::string_view bytes) {
  static const auto table = [] {
    std::array<std::string, 256> characters;
    for (size_t b = 0; b < 256; ++b) characters[b] = byte_to_character(static_cast<unsigned char>(b));
    return characters;
  }();
  std::string text;
  for (const char byte : bytes) text += table[static_cast<unsigned char>(byte)];
  return text;
}

// Nothing if the text has a character that stands for no byte.
std::optional<std::string> to_bytes(std::string_view text) {
  static const auto table = [] {
    std::array<int, 0x100 + 256 - kPrintable> bytes;  // code point -> byte or -1
    bytes.fill(-1);
    const auto& order = gpt2_byte_order();
    for (size_t k = 0; k < 256; ++k) bytes[k < kPrintable ? order[k] : 0x100 + k - kPrintable] = order[k];
    return bytes;
  }();
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    size_t code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      if (code >= 0xE0 || i + 1 == text.size())
        return std::nullopt;  // all the alphabet's characters have at most two bytes
      code = (code & 0x1F) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3F);
    }
    if (code >= table.size() || table[code] < 0) return std::nullopt;
    bytes += static_cast<char>(table[code]);
  }
  return bytes;
}

// ---- what the formats share ----------------------------------------------------------------------------------------

constexpr int kMaxJsonDepth = 64;

json read_json(const MappedFile& file, const JsonVisitor<json>& visit) {
  const size_t bad = find_invalid_utf8(file.text());
  drop_pages({file.data(), file.size()});
  if (bad != std::string_view::npos) {
    fail("%s: byte %zu is not UTF-8: not JSON, or cut off or damaged", file.path().c_str(), bad);
  }
  return parse_json(file, kMaxJsonDepth, visit);
}

// Tokens as they are written, and their ids: a hash table over one long text, some 20 bytes per token on top of the
// text.
class Vocab {
 public:
  size_t size() const { return ids_.size(); }
  std::string_view token(size_t k) const {  // in the order in which they were added
    return std::string_view(text_).substr(begins_[k], (k + 1 < size() ? begins_[k + 1] : text_.size()) - begins_[k]);
  }
  int32_t id(size_t k) const { return ids_[k]; }

  std::optional<int32_t> find(std::string_view token) const {
    const uint32_t k = slots_[slot(token)];
    return k == kEmpty ? std::nullopt : std::optional(ids_[k]);
  }
  // The token's id: not `id` if the token was there before with another.
  int32_t add(std::string_view token, int32_t id) {
    if (2 * size() >= slots_.size()) {
      slots_.assign(2 * slots_.size(), kEmpty);
      for (uint32_t k = 0; k < size(); ++k) slots_[slot(this->token(k))] = k;
    }
    uint32_t& k = slots_[slot(token)];
    if (k != kEmpty) return ids_[k];
    k = static_cast<uint32_t>(size());
    begins_.push_back(text_.size());
    ids_.push_back(id);
    text_ += token;
    return id;
  }

 private:
  static constexpr uint32_t kEmpty = UINT32_MAX;
  size_t slot(std::string_view token) const {  // the token's slot, or the empty one where it belongs
    size_t i = hash64(token.data(), token.size(), 0) & (slots_.size() - 1);
    while (slots_[i] != kEmpty && this->token(slots_[i]) != token) i = (i + 1) & (slots_.size() - 1);
    return i;
  }
  std::string text_;
  std::vector<size_t> begins_;
  std::vector<int32_t> ids_;
  std::vector<uint32_t> slots_ = std::vector<uint32_t>(1024, kEmpty);
};

// Ids are distinct and below 2^21; other tokens may fill the holes later.
void add_token(const fs::path& path, const char* field, const std::string& token, const json& id, Vocab& vocab) {
  if (token.empty()) fail("%s: %s has an empty token", path.c_str(), field);
  if (!id.is_number_integer()) {
    fail("%s: %s: the id of %s is %s, expected an integer", path.c_str(), field, in_quotes(token).c_str(),
         id.type_name());
  }
  const auto number = id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX ? -1 : id.get<int64_t>();
  if (number < 0 || number >= MergeTable::kMaxId) {
    fail("%s: %s: the id of %s is %s, expected 0 to %d", path.c_str(), field, in_quotes(token).c_str(),
         id.dump().c_str(), MergeTable::kMaxId - 1);
  }
  const size_t before = vocab.size();
  vocab.add(token, static_cast<int32_t>(number));
  if (vocab.size() == before) {
    fail("%s: %s has %s twice", path.c_str(), field, in_quotes(token).c_str());
  }
}

// A file that is a JSON object of token -> id.
Vocab read_vocab(const fs::path& path, const char* field) {
  const MappedFile file(path);
  Vocab vocab;
  const json rest = read_json(file, [&](JsonPath at, json& value) {
    if (at.size() != 1) return true;
    if (at[0].empty()) return true;  // an array element, or an error below
    add_token(path, field, at[0], value, vocab);
    return false;
  });
  if (!rest.is_object()) {
    fail("%s: %s is %s, expected an object of token: id", path.c_str(), field, rest.type_name());
  }
  if (!rest.empty()) fail("%s: %s has an empty token", path.c_str(), field);
  return vocab;
}

// Fills tokens and specials from `vocab`, which contains `specials`, too. Every id from 0 to the largest is used once.
void place_tokens(const fs::path& path, const Vocab& vocab, std::vector<SpecialToken> specials, Impl& v) {
  std::unordered_map<std::string_view, int32_t> special_ids;
  for (const SpecialToken& token : specials) special_ids.emplace(token.text, token.id);
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<uint32_t> owner(vocab.size(), kNone);  // id -> place in the vocabulary
  v.tokens.resize(vocab.size());
  for (uint32_t k = 0; k < vocab.size(); ++k) {
    const std::string_view token = vocab.token(k);
    const auto place = static_cast<size_t>(vocab.id(k));
    if (place >= owner.size()) {
      fail("%s: the vocabulary has holes: %zu tokens, but %s has the id %zu", path.c_str(), owner.size(),
           in_quotes(token).c_str(), place);
    }
    if (owner[place] != kNone) {
      fail("%s: the tokens %s and %s both have the id %zu", path.c_str(), in_quotes(vocab.token(owner[place])).c_str(),
           in_quotes(token).c_str(), place);
    }
    owner[place] = k;
    if (special_ids.contains(token)) continue;
    if (v.kind == Impl::Kind::chars) {
      v.tokens[place] = token;
    } else if (auto bytes = to_bytes(token)) {
      v.tokens[place] = std::move(*bytes);
    } else {
      fail("%s: the token %s has characters that stand for no byte (a byte-level vocabulary was expected)",
           path.c_str(), in_quotes(token).c_str());
    }
  }
  v.specials = std::move(specials);
}

void add_merge(const std::string& where, const Vocab& vocab, std::string_view left, std::string_view right, Impl& v) {
  const auto id_of = [&](std::string_view token) {
    const std::optional<int32_t> id = vocab.find(token);
    if (!id) fail("%s: %s is not in the vocabulary", where.c_str(), in_quotes(token).c_str());
    if (v.tokens[static_cast<size_t>(*id)].empty()) {
      fail("%s: %s is a special token, which no merge may touch", where.c_str(), in_quotes(token).c_str());
    }
    return *id;
  };
  const std::string both = std::string(left).append(right);
  if (!v.merges.add({id_of(left), id_of(right), id_of(both)})) {
    fail("%s: %s and %s merge twice", where.c_str(), in_quotes(left).c_str(), in_quotes(right).c_str());
  }
}

size_t count_lines(std::string_view text) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + !(text.empty() || text.ends_with('\n'));
}

// The lines of a file; "\r\n" ends one too. An empty last line does not count.
void for_each_bare_line(const MappedFile& file,
                        const std::function<void(std::string_view line, size_t number)>& visit) {
  for_each_line(file, [&](std::string_view line, size_t number) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    visit(line, number);
  });
}

// ---- tokenizer.json ------------------------------------------------------------------------------------------------

// Throws unless object[key] is absent, null or one of `allowed`.
void check_field(const fs::path& path, const json& object, const std::string& field, const char* key,
                 std::initializer_list<json> allowed) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return;
  if (std::find(allowed.begin(), allowed.end(), *found) != allowed.end()) return;
  std::string value = found->dump(-1, ' ', false, json::error_handler_t::replace);
  if (value.size() > 60) value = value.substr(0, 60) + "...";
  fail("%s: %s%s is %s, which is not supported (GPT-2's tokenizers do without)", path.c_str(), field.c_str(), key,
       value.c_str());
}

std::string type_of(const json& part) {
  return part.is_object() && part.contains("type") && part["type"].is_string() ? part["type"].get<std::string>()
                                                                               : "(without a type)";
}

// The parts of a Sequence, whose list is called `list`; anything else is one part.
std::vector<json> parts_of(const fs::path& path, const json& part, const char* list) {
  if (!part.is_object() || part.value("type", json()) != "Sequence") return {part};
  const auto parts = part.find(list);
  if (parts == part.end() || !parts->is_array()) fail("%s: a Sequence without the list %s", path.c_str(), list);
  return *parts;
}

// Throws unless the post-processor leaves the ids of a text as they are: none, ByteLevel, a template of the text only,
// or several of these.
void check_post_processor(const fs::path& path, const json& root) {
  const json post = root.value("post_processor", json());
  if (post.is_null()) return;
  for (const json& part : parts_of(path, post, "processors")) {
    const std::string type = type_of(part);
    if (type == "ByteLevel") continue;
    // "single" is for one text; "pair" is for two, which are never encoded here.
    const json only_text = {{"Sequence", {{"id", "A"}}}};
    json single = type == "TemplateProcessing" ? part.value("single", json()) : json();
    if (single.is_array() && single.size() == 1 && single[0].is_object() && single[0].contains("Sequence") &&
        single[0]["Sequence"].is_object()) {
      single[0]["Sequence"].erase("type_id");  // ids do not depend on it
      if (single[0] == only_text) continue;
    }
    fail(
        "%s: the post_processor %s adds tokens to every text or leaves the text out; supported are ByteLevel and a "
        "TemplateProcessing whose \"single\" is the text",
        path.c_str(), type.c_str());
  }
}

// How a pre-tokenizer cuts a text: into characters, not bytes; as GPT-2's pattern does; nowhere, in bytes.
enum class Splits { characters, gpt2, nowhere };

Splits read_pre_tokenizer(const fs::path& path, const json& root) {
  const json pre = root.value("pre_tokenizer", json());
  if (pre.is_null()) return Splits::characters;
  // GPT-2's pattern as it was published, and as tiktoken writes it.
  const std::string rest = R"(| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  const std::vector<json> patterns = {{{"Regex", "'s|'t|'re|'ve|'m|'ll|'d" + rest}},
                                      {{"Regex", "'(?:[sdmt]|ll|ve|re)" + rest}}};
  bool split = false, bytes = false;
  for (const json& part : parts_of(path, pre, "pretokenizers")) {
    const std::string type = type_of(part);
    const std::string field = "pre_tokenizer." + std::string(pre == part ? "" : type + ".");
    if (type == "Split" && !bytes) {
      const auto pattern = part.value("pattern", json());
      if (std::find(patterns.begin(), patterns.end(), pattern) == patterns.end()) {
        fail("%s: %spattern is %s, which is not supported, only GPT-2's", path.c_str(), field.c_str(),
             shown(pattern).c_str());
      }
      if (!part.contains("behavior")) fail("%s: %sbehavior is missing", path.c_str(), field.c_str());
      check_field(path, part, field, "behavior", {"Isolated"});
      check_field(path, part, field, "invert", {false});
      split = true;
    } else if (type == "ByteLevel" && !bytes) {
      check_field(path, part, field, "add_prefix_space", {false});
      if (!part.contains("add_prefix_space")) {
        fail("%s: %sadd_prefix_space is missing; expected false", path.c_str(), field.c_str());
      }
      check_field(path, part, field, "use_regex", {true, false});
      split = split || part.value("use_regex", json(true)) != false;
      bytes = true;
    } else {
      fail(
          "%s: the pre_tokenizer %s is not supported, only ByteLevel, with a Split by GPT-2's pattern before it or not",
          path.c_str(), type.c_str());
    }
  }
  if (!bytes) fail("%s: the pre_tokenizer has no ByteLevel, which is expected", path.c_str());
  return split ? Splits::gpt2 : Splits::nowhere;
}

// Throws unless ids become text as they do here. Without a decoder `tokenizers` puts spaces between tokens, which
// cannot be intended.
void check_decoder(const fs::path& path, const json& root, Impl::Kind kind) {
  const json decoder = root.value("decoder", json());
  if (decoder.is_null()) return;
  const std::string expected = kind == Impl::Kind::chars ? "Fuse" : "ByteLevel";
  for (const json& part : parts_of(path, decoder, "decoders")) {
    const std::string type = type_of(part);
    if (type != expected && type != "Fuse") {
      fail("%s: the decoder %s is not supported, only %s", path.c_str(), type.c_str(), expected.c_str());
    }
  }
}

// Files next to a tokenizer for `transformers` may change what it does.
void check_tokenizer_config(const fs::path& dir) {
  const fs::path path = dir / "tokenizer_config.json";
  if (fs::exists(path)) check_field(path, read_json_object(path), "", "add_prefix_space", {false});
}

SpecialToken read_added_token(const fs::path& path, const json& token, size_t k) {
  const std::string field = strprintf("added_tokens[%zu].", k);
  if (!token.is_object() || !token.contains("content") || !token["content"].is_string() || !token.contains("id") ||
      !token["id"].is_number_integer()) {
    fail("%s: added_tokens[%zu] must be an object with a string content and an integer id", path.c_str(), k);
  }
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) check_field(path, token, field, flag, {false});
  const auto content = token["content"].get<std::string>();
  const auto id = token["id"].get<int64_t>();
  if (content.empty()) fail("%s: %scontent is empty", path.c_str(), field.c_str());
  if (id < 0 || id >= MergeTable::kMaxId) {
    fail("%s: %sid is %lld, expected 0 to %d", path.c_str(), field.c_str(), static_cast<long long>(id),
         MergeTable::kMaxId - 1);
  }
  return {content, static_cast<int32_t>(id)};
}

// Pairs of tokens as they are written, end to end.
struct Pairs {
  std::string text;
  std::vector<std::pair<size_t, size_t>> ends;  // of the left and the right one

  void add(std::string_view left, std::string_view right) {
    text += left;
    const size_t middle = text.size();
    text += right;
    ends.emplace_back(middle, text.size());
  }
};

// "left right"; false if the text has another number of spaces than one.
bool add_pair(std::string_view text, Pairs& merges) {
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) return false;
  merges.add(text.substr(0, space), text.substr(space + 1));
  return true;
}

void read_merge(const fs::path& path, const json& merge, Pairs& merges) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    merges.add(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
    return;
  }
  if (!add_pair(merge.is_string() ? merge.get_ref<const std::string&>() : std::string_view(), merges)) {
    fail("%s: model.merges[%zu]: expected \"left right\" or [\"left\", \"right\"]", path.c_str(), merges.ends.size());
  }
}

// `field`: how the file names the list, for messages.
void add_merges(const fs::path& path, const char* field, const Vocab& vocab, const Pairs& merges, Impl& v) {
  v.merges = MergeTable(merges.ends.size());
  size_t begin = 0;
  for (size_t k = 0; k < merges.ends.size(); ++k) {
    const auto [middle, end] = merges.ends[k];
    const std::string_view text = merges.text;
    add_merge(strprintf("%s: %s[%zu]", path.c_str(), field, k), vocab, text.substr(begin, middle - begin),
              text.substr(middle, end - middle), v);
    begin = end;
  }
}

Tokenizer load_json(const fs::path& path) {
  // Long parts are taken out of the file as it is read; their errors are reported after those of what surrounds them.
  Vocab vocab;
  Pairs merges;
  std::vector<SpecialToken> specials;
  std::optional<Error> bad_vocab, bad_merge, bad_added;
  const auto noted = [](std::optional<Error>& error, const auto& read) {
    try {
      if (!error) read();
    } catch (const Error& e) {
      error = e;
    }
    return false;
  };
  const MappedFile file(path);
  const json root = read_json(file, [&](JsonPath at, json& value) {
    if (at.size() == 3 && at[0] == "model" && at[1] == "vocab") {
      return noted(bad_vocab, [&] { add_token(path, "model.vocab", at[2], value, vocab); });
    }
    if (at.size() == 3 && at[0] == "model" && at[1] == "merges") {
      return noted(bad_merge, [&] { read_merge(path, value, merges); });
    }
    if (at.size() == 2 && at[0] == "added_tokens") {
      return noted(bad_added, [&] { specials.push_back(read_added_token(path, value, specials.size())); });
    }
    return true;
  });
  if (!root.is_object() || !root.contains("model") || !root["model"].is_object()) {
    fail("%s: not a tokenizer.json of Hugging Face tokenizers: there is no object \"model\"", path.c_str());
  }
  const json& model = root["model"];
  const std::string type = model.value("type", json("BPE")).dump();
  if (type != "\"BPE\"") fail("%s: model.type is %s, only \"BPE\" is supported", path.c_str(), type.c_str());
  if (!model.contains("vocab")) fail("%s: model.vocab is missing", path.c_str());
  check_field(path, root, "", "normalizer", {{{"type", "Sequence"}, {"normalizers", json::array()}}});
  check_field(path, model, "model.", "dropout", {0.0});
  check_field(path, model, "model.", "continuing_subword_prefix", {""});
  check_field(path, model, "model.", "end_of_word_suffix", {""});
  check_field(path, model, "model.", "byte_fallback", {false});
  check_field(path, model, "model.", "ignore_merges", {false});
  check_post_processor(path, root);
  Impl v;
  if (!model["vocab"].is_object()) {
    fail("%s: model.vocab is %s, expected an object of token: id", path.c_str(), model["vocab"].type_name());
  }
  if (bad_vocab) throw *bad_vocab;
  if (const auto list = root.find("added_tokens"); list != root.end() && !list->is_null() && !list->is_array()) {
    fail("%s: added_tokens is %s, expected a list", path.c_str(), list->type_name());
  }
  if (bad_added) throw *bad_added;
  Vocab added;
  for (const SpecialToken& token : specials) {
    if (added.find(token.text)) fail("%s: added_tokens has %s twice", path.c_str(), in_quotes(token.text).c_str());
    added.add(token.text, token.id);
    const int32_t id = vocab.add(token.text, token.id);
    if (id != token.id) {
      fail("%s: %s has the id %d in the vocabulary and %d in added_tokens", path.c_str(), in_quotes(token.text).c_str(),
           id, token.id);
    }
  }
  const bool has_merges = !merges.ends.empty();
  const Splits splits = read_pre_tokenizer(path, root);
  if (splits == Splits::characters) {
    if (has_merges) fail("%s: merges without the pre_tokenizer ByteLevel are not supported", path.c_str());
    check_field(path, model, "model.", "unk_token", {});
    v.kind = Impl::Kind::chars;
  } else {
    if (has_merges && splits == Splits::nowhere) {
      fail("%s: pre_tokenizer.use_regex is false, which is not supported without a Split by GPT-2's pattern",
           path.c_str());
    }
    v.kind = has_merges ? Impl::Kind::bpe : Impl::Kind::bytes;
  }
  check_decoder(path, root, v.kind);
  place_tokens(path, vocab, std::move(specials), v);
  if (!model.contains("merges") || !model["merges"].is_array()) {
    fail("%s: model.merges is missing or not a list", path.c_str());
  }
  if (bad_merge) throw *bad_merge;
  add_merges(path, "model.merges", vocab, merges, v);
  return Impl::make(std::move(v), path.string());
}

// ---- vocab.bpe and encoder.json ------------------------------------------------------------------------------------

Tokenizer load_pair(const fs::path& merges_path, const fs::path& vocab_path) {
  Vocab vocab = read_vocab(vocab_path, "the vocabulary");
  const MappedFile merges_file(merges_path);
  std::vector<SpecialToken> specials;
  if (const auto id = vocab.find(kEndOfText)) specials.push_back({std::string(kEndOfText), *id});
  // transformers 4 keeps added tokens in a separate file.
  if (const fs::path path = vocab_path.parent_path() / "added_tokens.json"; fs::exists(path)) {
    const Vocab added = read_vocab(path, "added_tokens");
    for (size_t k = 0; k < added.size(); ++k) {
      const std::string token(added.token(k));
      const int32_t id = vocab.add(token, added.id(k));
      if (id != added.id(k)) {
        fail("%s: %s has the id %d, but %d in %s", path.c_str(), in_quotes(token).c_str(), added.id(k), id,
             vocab_path.c_str());
      }
      if (token != kEndOfText) specials.push_back({token, id});
    }
    std::sort(specials.begin(), specials.end(),
              [](const SpecialToken& a, const SpecialToken& b) { return a.id < b.id; });
  }
  Impl v;
  place_tokens(vocab_path, vocab, std::move(specials), v);

  std::vector<bool> made(v.tokens.size());
  v.merges = MergeTable(count_lines(merges_file.text()));
  for_each_bare_line(merges_file, [&](std::string_view line, size_t number) {
    if (number == 1 && line.starts_with("#version")) return;
    const size_t space = line.find(' ');
    const std::string where = strprintf("%s: line %zu", merges_path.c_str(), number);
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      fail("%s: expected two tokens with a space between them", where.c_str());
    }
    add_merge(where, vocab, line.substr(0, space), line.substr(space + 1), v);
    made[static_cast<size_t>(v.merges.merges().back().merged)] = true;
  });
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (v.tokens[id].size() > 1 && !made[id]) {
      fail("%s: no merge makes token %zu ('%s') of %s; the file is cut off or belongs to another vocabulary",
           merges_path.c_str(), id, to_characters(v.tokens[id]).c_str(), vocab_path.c_str());
    }
  }
  return Impl::make(std::move(v), merges_path.string());
}

// ---- .tiktoken -----------------------------------------------------------------------------------------------------

std::optional<std::string> decode_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t bits = 0;
    const bool last = i + 4 == text.size();
    for (size_t k = 0; k < 4; ++k) {
      const char c = text[i + k];
      uint32_t digit = 0;
      if (c >= 'A' && c <= 'Z')
        digit = static_cast<uint32_t>(c - 'A');
      else if (c >= 'a' && c <= 'z')
        digit = static_cast<uint32_t>(c - 'a' + 26);
      else if (c >= '0' && c <= '9')
        digit = static_cast<uint32_t>(c - '0' + 52);
      else if (c == '+')
        digit = 62;
      else if (c == '/')
        digit = 63;
      else if (c != '=' || !last || k < 4 - padding)
        return std::nullopt;
      bits = bits << 6 | digit;
    }
    const size_t count = last ? 3 - padding : 3;
    if (bits & ((1u << 8 * (3 - count)) - 1)) return std::nullopt;  // bits past the end
    for (size_t k = 0; k < count; ++k) bytes += static_cast<char>(bits >> (16 - 8 * k) & 0xFF);
  }
  return bytes;
}

// A line is a token in base64 and its rank, which is its id. The file says neither how its text is split nor which
// pairs merged: the split must be that of GPT-2, and each token's pair is found by merging its bytes with the ranks
// below its own rank. <|endoftext|> is not in the file; it takes the next id.
Tokenizer load_tiktoken(const fs::path& path) {
  const MappedFile file(path);
  const size_t lines = count_lines(file.text());
  // The published vocabularies that split otherwise, recognised by their size.
  for (const auto& [count, name] : {std::pair<size_t, const char*>{100256, "cl100k_base"}, {199998, "o200k_base"}}) {
    if (lines == count)
      fail("%s: %zu tokens: this is %s, whose split pattern is not GPT-2's", path.c_str(), count, name);
  }
  Impl v;
  v.tokens.resize(lines);
  for_each_bare_line(file, [&](std::string_view line, size_t number) {
    const size_t space = std::min(line.find(' '), line.size());
    const auto token = decode_base64(line.substr(0, space));
    size_t rank = 0;
    const char* end = line.data() + line.size();
    const auto [stop, error] = std::from_chars(line.data() + std::min(space + 1, line.size()), end, rank);
    if (!token || error != std::errc() || stop != end) {
      fail("%s: line %zu: expected a token in base64, a space and its rank", path.c_str(), number);
    }
    if (rank >= v.tokens.size()) {
      fail("%s: line %zu: rank %zu, but the file has %zu tokens: it is cut off or has holes", path.c_str(), number,
           rank, v.tokens.size());
    }
    if (!v.tokens[rank].empty()) fail("%s: line %zu: rank %zu was given before", path.c_str(), number, rank);
    v.tokens[rank] = *token;
  });

  std::array<int32_t, 256> byte_ids;
  byte_ids.fill(-1);
  for (size_t rank = 0; rank < v.tokens.size(); ++rank) {
    if (v.tokens[rank].size() == 1)
      byte_ids[static_cast<unsigned char>(v.tokens[rank][0])] = static_cast<int32_t>(rank);
  }
  v.merges = MergeTable(v.tokens.size());
  for (size_t rank = 0; rank < v.tokens.size(); ++rank) {
    std::vector<int32_t> parts;
    for (const char byte : v.tokens[rank]) parts.push_back(byte_ids[static_cast<unsigned char>(byte)]);
    if (parts.size() == 1) continue;
    if (std::find(parts.begin(), parts.end(), -1) != parts.end()) {
      fail("%s: rank %zu has a byte that is not itself a token; the file is incomplete", path.c_str(), rank);
    }
    const size_t left = v.merges.apply(parts.data(), parts.size());
    if (left == 1) fail("%s: rank %zu is the same token as rank %d", path.c_str(), rank, parts[0]);
    if (left != 2) {
      fail(
          "%s: rank %zu is not made of two tokens of lower rank; this is not a byte-pair vocabulary, or lines are "
          "missing",
          path.c_str(), rank);
    }
    v.merges.add({parts[0], parts[1], static_cast<int32_t>(rank)});
  }
  v.specials = {{std::string(kEndOfText), static_cast<int32_t>(v.tokens.size())}};
  v.tokens.emplace_back();
  return Impl::make(std::move(v), path.string());
}

}  // namespace

// ---- which format --------------------------------------------------------------------------------------------------

Tokenizer Tokenizer::load(const fs::path& path) {
  static const std::pair<const char*, const char*> kPairs[] = {{"vocab.bpe", "encoder.json"},
                                                               {"merges.txt", "vocab.json"}};
  const bool folder = fs::is_directory(path);
  check_tokenizer_config(folder ? path : path.parent_path());
  if (folder) {
    if (fs::exists(path / "tokenizer.json")) return load_json(path / "tokenizer.json");
    for (const auto& [merges, vocab] : kPairs) {
      if (fs::exists(path / merges) || fs::exists(path / vocab)) return load_pair(path / merges, path / vocab);
    }
    fail("%s: no tokenizer in this folder; expected tokenizer.json, or vocab.bpe with encoder.json", path.c_str());
  }
  const std::string name = path.filename().string();
  for (const auto& [merges, vocab] : kPairs) {
    if (name == merges || name == vocab) return load_pair(path.parent_path() / merges, path.parent_path() / vocab);
  }
  if (ending_of(path) == ".json") return load_json(path);
  if (ending_of(path) == ".tiktoken") return load_tiktoken(path);
  if (!fs::exists(path)) fail("%s: there is no such file", path.c_str());
  fail(
      "%s: not a tokenizer by its name; expected a file ending in .json (Hugging Face tokenizers) or .tiktoken, or "
      "vocab.bpe with encoder.json",
      path.c_str());
}

SpelledVocabulary Tokenizer::spelled() const {
  const Impl& v = *impl_;
  if (v.kind == Impl::Kind::chars) throw std::logic_error("a character vocabulary has no spelling in bytes");
  SpelledVocabulary result;
  for (const std::string& token : v.tokens) result.tokens.push_back(to_characters(token));
  result.special.resize(v.tokens.size());
  for (const SpecialToken& token : v.specials) {
    result.tokens[static_cast<size_t>(token.id)] = token.text;
    result.special[static_cast<size_t>(token.id)] = true;
  }
  for (const Merge& merge : v.merges.merges()) {
    const std::string& left = result.tokens[static_cast<size_t>(merge.left)];
    result.merges.push_back(left + " " + result.tokens[static_cast<size_t>(merge.right)]);
  }
  return result;
}

Tokenizer Tokenizer::from_spelled(const SpelledVocabulary& vocabulary, const std::string& source) {
  Vocab vocab;
  Pairs merges;
  std::vector<SpecialToken> specials;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    add_token(source, "the list of tokens", token, id, vocab);
    if (vocabulary.special[id]) specials.push_back({token, static_cast<int32_t>(id)});
  }
  for (const std::string& merge : vocabulary.merges) {
    if (!add_pair(merge, merges)) {
      fail("%s: merges[%zu] is %s, expected \"left right\"", source.c_str(), merges.ends.size(),
           in_quotes(merge).c_str());
    }
  }
  Impl v;
  v.kind = merges.ends.empty() ? Impl::Kind::bytes : Impl::Kind::bpe;
  place_tokens(source, vocab, std::move(specials), v);
  add_merges(source, "merges", vocab, merges, v);
  return Impl::make(std::move(v), source);
}

void Tokenizer::save(const fs::path& path) const {
  const Impl& v = *impl_;
  const bool byte_level = v.kind != Impl::Kind::chars;
  SpelledVocabulary written;
  if (byte_level) {
    written = spelled();
  } else {
    written.tokens = v.tokens;
    for (const SpecialToken& token : v.specials) written.tokens[static_cast<size_t>(token.id)] = token.text;
  }

  ordered_json added = ordered_json::array();
  for (const SpecialToken& token : v.specials) {
    added.push_back({{"id", token.id},
                     {"content", token.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  ordered_json vocab = ordered_json::object();
  auto& entries = vocab.get_ref<ordered_json::object_t&>();  // appended to directly: ordered_json searches on insertion
  for (size_t id = 0; id < written.tokens.size(); ++id) {
    static_cast<std::vector<ordered_json::object_t::value_type>&>(entries).emplace_back(written.tokens[id], id);
  }
  ordered_json merges = std::move(written.merges);
  ordered_json splitter, decoder = {{"type", "Fuse"}};
  if (byte_level) {
    // Without merges nothing depends on how the text is split.
    splitter = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    decoder = splitter;
  }
  const ordered_json root = {{"version", "1.0"},
                             {"truncation", nullptr},
                             {"padding", nullptr},
                             {"added_tokens", std::move(added)},
                             {"normalizer", nullptr},
                             {"pre_tokenizer", std::move(splitter)},
                             {"post_processor", nullptr},
                             {"decoder", std::move(decoder)},
                             {"model",
                              {{"type", "BPE"},
                               {"dropout", nullptr},
                               {"unk_token", nullptr},
                               {"continuing_subword_prefix", nullptr},
                               {"end_of_word_suffix", nullptr},
                               {"fuse_unk", false},
                               {"byte_fallback", false},
                               {"vocab", std::move(vocab)},
                               {"merges", std::move(merges)}}}};
  FileWriter writer(path);
  writer.write(root.dump(1, ' ') + "\n");
  writer.commit();
}
