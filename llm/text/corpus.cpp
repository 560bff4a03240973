#include "llm/text/corpus.h"

#include <algorithm>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/shards.h"

namespace fs = std::filesystem;

// ---- reading -------------------------------------------------------------------------------------------------------

// Sorted, so that the corpus does not depend on the order in which the file system lists a folder.
std::vector<fs::path> text_files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const fs::path& path = it->path();
    if (path.filename().string().starts_with('.')) {
      it.disable_recursion_pending();
      continue;
    }
    const std::string ending = ending_of(path);
    std::error_code not_a_folder;
    if ((ending == ".txt" || ending == ".md" || ending == ".text") && !it->is_directory(not_a_folder)) {
      files.push_back(path);
    }
  }
  if (error) fail("%s: the folder cannot be read to its end: %s", folder.c_str(), error.message().c_str());
  std::sort(files.begin(), files.end());
  return files;
}

namespace {

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

void append_text(const MappedFile& file, bool lossy, std::string* to) {
  check_not_utf16(file.text(), file.path());
  const std::string_view text = file.text();
  const size_t bad = find_invalid_utf8(text);
  drop_pages({file.data(), file.size()});
  if (bad != std::string_view::npos && !lossy) {
    fail("%s: not UTF-8: byte 0x%02X at offset %zu; convert the file, or let {lossy} replace such bytes by U+FFFD",
         file.path().c_str(), static_cast<unsigned char>(text[bad]), bad);
  }
  constexpr size_t kStretch = size_t{1} << 22;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(begin + kStretch, text.size());
    while (end < text.size() && !begins_character(text[end])) ++end;  // so that invalid bytes stay within one stretch
    const std::string_view stretch = text.substr(begin, end - begin);
    if (bad == std::string_view::npos) {
      *to += stretch;
    } else {
      *to += replace_invalid_utf8(stretch);
    }
    drop_pages({file.data(), end});
    begin = end;
  }
}

}  // namespace

std::string read_corpus(const fs::path& path, bool lossy) {
  std::string text;
  const auto room_for = [&](size_t bytes) { return lossy ? bytes + bytes / 8 : bytes; };  // U+FFFD takes three
  std::error_code not_a_folder;
  if (!fs::is_directory(path, not_a_folder)) {
    const MappedFile file(path);
    text.reserve(room_for(file.size()));
    append_text(file, lossy, &text);
    if (text.empty()) fail("%s: the file is empty, expected text", path.c_str());
    return text;
  }
  const std::vector<fs::path> files = text_files_below(path);
  if (files.empty()) fail("%s: the folder holds no text: expected files ending in .txt, .md or .text", path.c_str());
  size_t bytes = 0;
  for (const fs::path& name : files) bytes += MappedFile(name).size() + kEndOfText.size();
  text.reserve(room_for(bytes));
  for (const fs::path& name : files) {
    const MappedFile file(name);
    if (file.size() == 0) continue;
    if (!text.empty()) text += kEndOfText;
    append_text(file, lossy, &text);
  }
  if (text.empty()) fail("%s: all %zu text files below this folder are empty", path.c_str(), files.size());
  return text;
}

// ---- train and validation ------------------------------------------------------------------------------------------

namespace {

size_t count_characters(std::string_view text) { return std::count_if(text.begin(), text.end(), begins_character); }

// Byte offset of character number `index`, or the text's size if it has at most `index` characters.
size_t character_offset(std::string_view text, size_t index) {
  constexpr size_t block = 4096;
  size_t at = 0;
  while (at < text.size()) {  // whole blocks first: counting one vectorises
    const size_t n = count_characters(text.substr(at, block));
    if (n > index) break;
    index -= n;
    at += block;
  }
  for (; at < text.size(); ++at) {
    if (begins_character(text[at]) && index-- == 0) return at;
  }
  return text.size();
}

// The text without the <|endoftext|> and white space at its ends.
std::string_view strip(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  for (;;) {
    text.remove_prefix(std::min(text.find_first_not_of(space), text.size()));
    text.remove_suffix(text.size() - (text.find_last_not_of(space) + 1));
    if (text.starts_with(kEndOfText)) {
      text.remove_prefix(kEndOfText.size());
    } else if (text.ends_with(kEndOfText)) {
      text.remove_suffix(kEndOfText.size());
    } else {
      return text;
    }
  }
}

}  // namespace

size_t validation_begin(std::string_view text, double val_fraction) {
  if (!(val_fraction > 0 && val_fraction < 1)) {
    fail_usage("the validation fraction is %g, expected more than 0 and less than 1", val_fraction);
  }
  const size_t characters = count_characters(text);
  const size_t wanted =
      character_offset(text, static_cast<size_t>((1 - val_fraction) * static_cast<double>(characters)));

  // `core` has no marker at either end, so each one in it has text on both sides: a border that can be cut at.
  const std::string_view core = strip(text);
  const size_t core_begin = static_cast<size_t>(core.data() - text.data());
  const auto distance = [&](size_t at) { return at < wanted ? wanted - at : at - wanted; };
  size_t nearest = std::string_view::npos;
  for (size_t at = core.find(kEndOfText); at != std::string_view::npos; at = core.find(kEndOfText, at + 1)) {
    const size_t border = core_begin + at + kEndOfText.size();
    if (nearest != std::string_view::npos && distance(border) >= distance(nearest)) break;
    nearest = border;
  }
  if (nearest != std::string_view::npos) return nearest;

  if (wanted <= core_begin || wanted >= core_begin + core.size()) {
    fail("the text (%zu characters) is too short to be split: a validation fraction of %g leaves one part without text",
         characters, val_fraction);
  }
  return wanted;
}

PreparedData prepare_shards(std::string_view text, const Tokenizer& tokenizer, double val_fraction,
                            const fs::path& folder, int threads) {
  const size_t cut = val_fraction == 0 ? text.size() : validation_begin(text, val_fraction);
  make_directories(folder);
  const PreparedData prepared = {folder / "train.bin", val_fraction == 0 ? "" : folder / "val.bin"};
  const auto encode = [&](std::string_view part, ShardWriter& shard) {
    tokenizer.encode_parts(part, Special::parsed, threads, [&](std::span<const int32_t> ids) { shard.write(ids); });
  };
  ShardWriter train(prepared.train, tokenizer.vocab_size());
  encode(text.substr(0, cut), train);
  if (val_fraction > 0) {
    ShardWriter val(prepared.val, tokenizer.vocab_size());
    encode(text.substr(cut), val);
    val.commit();
  }
  train.commit();
  return prepared;
}
