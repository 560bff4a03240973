// The files a vocabulary lives in: HF tokenizer.json (read and written), .tiktoken, and vocab.bpe with encoder.json
// (also as merges.txt with vocab.json). A file that asks for something this tokenizer does not do is an error, never a
// vocabulary that encodes differently from its author's.
#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "gpt2/error.h"
#include "gpt2/file.h"
#include "gpt2/json.h"
#include "gpt2/tokenizer_impl.h"

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

json parse_json(const fs::path& path, std::string_view text) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail("%s: byte %zu is not UTF-8: not JSON, or cut off or damaged", path.c_str(), bad);
  }
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    fail("%s: not valid JSON, cut off or damaged: %s", path.c_str(), error.what());
  }
}

using Vocab = std::unordered_map<std::string, int32_t>;  // as written -> id

// A JSON object of token -> id. Ids are distinct and below 2^21; other tokens may fill the holes later.
Vocab read_vocab(const fs::path& path, const json& object, const char* field) {
  if (!object.is_object()) {
    fail("%s: %s is %s, expected an object of token: id", path.c_str(), field, object.type_name());
  }
  Vocab vocab;
  for (const auto& [token, id] : object.items()) {
    if (token.empty()) fail("%s: %s has an empty token", path.c_str(), field);
    if (!id.is_number_integer()) {
      fail("%s: %s: the id of '%s' is %s, expected an integer", path.c_str(), field, token.c_str(), id.type_name());
    }
    const auto number = id.is_number_unsigned() && id.get<uint64_t>() > INT32_MAX ? -1 : id.get<int64_t>();
    if (number < 0 || number >= MergeTable::kMaxId) {
      fail("%s: %s: the id of '%s' is %s, expected 0 to %d", path.c_str(), field, token.c_str(), id.dump().c_str(),
           MergeTable::kMaxId - 1);
    }
    vocab.emplace(token, static_cast<int32_t>(number));
  }
  return vocab;
}

// Fills tokens and specials from `vocab`, in which `specials` stand too. Every id from 0 to the largest is used once.
void place_tokens(const fs::path& path, const Vocab& vocab, std::vector<SpecialToken> specials, Impl& v) {
  std::unordered_map<std::string_view, int32_t> special_ids;
  for (const SpecialToken& token : specials) special_ids.emplace(token.text, token.id);
  std::vector<const std::string*> owner(vocab.size());
  v.tokens.resize(vocab.size());
  for (const auto& [token, id] : vocab) {
    const auto place = static_cast<size_t>(id);
    if (place >= owner.size()) {
      fail("%s: the vocabulary has holes: %zu tokens, but '%s' has the id %d", path.c_str(), owner.size(),
           token.c_str(), id);
    }
    if (owner[place]) {
      fail("%s: the tokens '%s' and '%s' both have the id %d", path.c_str(), owner[place]->c_str(), token.c_str(), id);
    }
    owner[place] = &token;
    if (special_ids.contains(token)) continue;
    if (v.kind == Impl::Kind::chars) {
      v.tokens[place] = token;
    } else if (auto bytes = to_bytes(token)) {
      v.tokens[place] = std::move(*bytes);
    } else {
      fail("%s: the token '%s' has characters that stand for no byte (a byte-level vocabulary was expected)",
           path.c_str(), token.c_str());
    }
  }
  v.specials = std::move(specials);
}

void add_merge(const std::string& where, const Vocab& vocab, std::string_view left, std::string_view right, Impl& v) {
  const auto id_of = [&](const std::string& token) {
    const auto found = vocab.find(token);
    if (found == vocab.end()) fail("%s: '%s' is not in the vocabulary", where.c_str(), token.c_str());
    if (v.tokens[static_cast<size_t>(found->second)].empty()) {
      fail("%s: '%s' is a special token, which no merge may touch", where.c_str(), token.c_str());
    }
    return found->second;
  };
  const std::string a(left), b(right);
  if (!v.merges.add({id_of(a), id_of(b), id_of(a + b)})) {
    fail("%s: '%s' and '%s' merge twice", where.c_str(), a.c_str(), b.c_str());
  }
}

// The lines of a text; "\r\n" ends one too. An empty last line is none.
std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    begin = end + 1;
  }
  return lines;
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
    // "single" is for one text, "pair" for two, which nobody encodes here.
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

// How a pre-tokenizer cuts a text: not at all, and the text is not in bytes; as GPT-2's pattern does; nowhere, in
// bytes.
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

// Throws unless ids become text as they do here. Without a decoder `tokenizers` puts spaces between tokens, which no
// one can mean.
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

// What lies next to a tokenizer for `transformers` may change what it does.
void check_tokenizer_config(const fs::path& dir) {
  const fs::path path = dir / "tokenizer_config.json";
  if (fs::exists(path)) check_field(path, read_json_object(path), "", "add_prefix_space", {false});
}

std::vector<SpecialToken> read_added_tokens(const fs::path& path, const json& root, Vocab& vocab) {
  std::vector<SpecialToken> specials;
  const auto list = root.find("added_tokens");
  if (list == root.end() || list->is_null()) return specials;
  if (!list->is_array()) fail("%s: added_tokens is %s, expected a list", path.c_str(), list->type_name());
  for (size_t k = 0; k < list->size(); ++k) {
    const json& token = list->at(k);
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
    const auto known = vocab.emplace(content, static_cast<int32_t>(id)).first;
    if (known->second != id) {
      fail("%s: '%s' has the id %d in the vocabulary and %lld in added_tokens", path.c_str(), content.c_str(),
           known->second, static_cast<long long>(id));
    }
    for (const SpecialToken& other : specials) {
      if (other.text == content) fail("%s: added_tokens has '%s' twice", path.c_str(), content.c_str());
    }
    specials.push_back({content, static_cast<int32_t>(id)});
  }
  return specials;
}

void read_merges(const fs::path& path, const json& model, const Vocab& vocab, Impl& v) {
  const auto list = model.find("merges");
  if (list == model.end() || !list->is_array()) fail("%s: model.merges is missing or not a list", path.c_str());
  v.merges = MergeTable(list->size());
  for (size_t k = 0; k < list->size(); ++k) {
    const json& merge = list->at(k);
    const std::string where = strprintf("%s: model.merges[%zu]", path.c_str(), k);
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(where, vocab, merge[0].get<std::string>(), merge[1].get<std::string>(), v);
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail("%s: expected \"left right\" or [\"left\", \"right\"]", where.c_str());
    }
    add_merge(where, vocab, text.substr(0, space), text.substr(space + 1), v);
  }
}

Tokenizer load_json(const fs::path& path) {
  const MappedFile file(path);
  const json root = parse_json(path, file.text());
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
  Vocab vocab = read_vocab(path, model["vocab"], "model.vocab");
  std::vector<SpecialToken> specials = read_added_tokens(path, root, vocab);
  const bool has_merges = model.contains("merges") && model["merges"].is_array() && !model["merges"].empty();
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
  read_merges(path, model, vocab, v);
  return Impl::make(std::move(v), path.string());
}

// ---- vocab.bpe and encoder.json ------------------------------------------------------------------------------------

Tokenizer load_pair(const fs::path& merges_path, const fs::path& vocab_path) {
  const MappedFile vocab_file(vocab_path), merges_file(merges_path);
  Vocab vocab = read_vocab(vocab_path, parse_json(vocab_path, vocab_file.text()), "the vocabulary");
  std::vector<SpecialToken> specials;
  if (const auto found = vocab.find(std::string(kEndOfText)); found != vocab.end()) {
    specials.push_back({found->first, found->second});
  }
  // transformers 4 keeps tokens that were added in a file of their own.
  if (const fs::path path = vocab_path.parent_path() / "added_tokens.json"; fs::exists(path)) {
    for (const auto& [token, id] : read_vocab(path, read_json_object(path), "added_tokens")) {
      const auto [known, is_new] = vocab.emplace(token, id);
      if (known->second != id) {
        fail("%s: '%s' has the id %d, but %d in %s", path.c_str(), token.c_str(), id, known->second,
             vocab_path.c_str());
      }
      if (token != kEndOfText) specials.push_back({token, id});
    }
    std::sort(specials.begin(), specials.end(),
              [](const SpecialToken& a, const SpecialToken& b) { return a.id < b.id; });
  }
  Impl v;
  place_tokens(vocab_path, vocab, std::move(specials), v);

  const auto lines = lines_of(merges_file.text());
  std::vector<bool> made(v.tokens.size());
  v.merges = MergeTable(lines.size());
  for (size_t k = 0; k < lines.size(); ++k) {
    if (k == 0 && lines[k].starts_with("#version")) continue;
    const size_t space = lines[k].find(' ');
    const std::string where = strprintf("%s: line %zu", merges_path.c_str(), k + 1);
    if (space == std::string_view::npos || lines[k].find(' ', space + 1) != std::string_view::npos) {
      fail("%s: expected two tokens with a space between them", where.c_str());
    }
    add_merge(where, vocab, lines[k].substr(0, space), lines[k].substr(space + 1), v);
    made[static_cast<size_t>(v.merges.merges().back().merged)] = true;
  }
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
    if (bits & ((1u << 8 * (3 - count)) - 1)) return std::nullopt;  // bits behind the end
    for (size_t k = 0; k < count; ++k) bytes += static_cast<char>(bits >> (16 - 8 * k) & 0xFF);
  }
  return bytes;
}

// A line is a token in base64 and its rank, which is its id. The file says neither how its text is split nor which
// pairs merged: the split must be GPT-2's, and each token's pair is found by merging its bytes with the ranks below its
// own.
// <|endoftext|> is not in the file; it takes the next id.
Tokenizer load_tiktoken(const fs::path& path) {
  const MappedFile file(path);
  const auto lines = lines_of(file.text());
  // The published vocabularies that split otherwise, known by their size.
  for (const auto& [count, name] : {std::pair<size_t, const char*>{100256, "cl100k_base"}, {199998, "o200k_base"}}) {
    if (lines.size() == count)
      fail("%s: %zu tokens: this is %s, whose split pattern is not GPT-2's", path.c_str(), count, name);
  }
  Impl v;
  v.tokens.resize(lines.size());
  for (size_t k = 0; k < lines.size(); ++k) {
    const size_t space = std::min(lines[k].find(' '), lines[k].size());
    const auto token = decode_base64(lines[k].substr(0, space));
    size_t rank = 0;
    const char* end = lines[k].data() + lines[k].size();
    const auto [stop, error] = std::from_chars(lines[k].data() + std::min(space + 1, lines[k].size()), end, rank);
    if (!token || error != std::errc() || stop != end) {
      fail("%s: line %zu: expected a token in base64, a space and its rank", path.c_str(), k + 1);
    }
    if (rank >= v.tokens.size()) {
      fail("%s: line %zu: rank %zu, but the file has %zu tokens: it is cut off or has holes", path.c_str(), k + 1, rank,
           v.tokens.size());
    }
    if (!v.tokens[rank].empty()) fail("%s: line %zu: rank %zu was given before", path.c_str(), k + 1, rank);
    v.tokens[rank] = *token;
  }

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
      fail("%s: rank %zu has a byte that is no token of its own; the file is incomplete", path.c_str(), rank);
    }
    const size_t left = v.merges.apply(parts.data(), parts.size());
    if (left == 1) fail("%s: rank %zu is the same token as rank %d", path.c_str(), rank, parts[0]);
    if (left != 2) {
      fail(
          "%s: rank %zu is not made of two tokens of lower rank; this is no byte-pair vocabulary, or lines are missing",
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

void Tokenizer::save(const fs::path& path) const {
  const Impl& v = *impl_;
  const bool byte_level = v.kind != Impl::Kind::chars;
  std::vector<std::string> written(v.tokens.size());
  for (size_t id = 0; id < written.size(); ++id) written[id] = byte_level ? to_characters(v.tokens[id]) : v.tokens[id];
  for (const SpecialToken& token : v.specials) written[static_cast<size_t>(token.id)] = token.text;

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
  for (size_t id = 0; id < written.size(); ++id) {
    static_cast<std::vector<ordered_json::object_t::value_type>&>(entries).emplace_back(written[id], id);
  }
  ordered_json merges = ordered_json::array();
  for (const Merge& merge : v.merges.merges()) {
    merges.push_back(written[static_cast<size_t>(merge.left)] + " " + written[static_cast<size_t>(merge.right)]);
  }
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
