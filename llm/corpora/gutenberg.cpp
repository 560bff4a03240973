#include "llm/corpora/gutenberg.h"

#include <algorithm>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/corpus.h"

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";

// `words` in capitals, `line` in any case.
bool contains(std::string_view line, std::string_view words) {
  const auto same = [](char a, char b) { return (a >= 'a' && a <= 'z' ? a - 'a' + 'A' : a) == b; };
  return std::search(line.begin(), line.end(), words.begin(), words.end(), same) != line.end();
}
bool begins(std::string_view line, std::string_view words) { return contains(line.substr(0, words.size()), words); }

std::string_view trim(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
  text.remove_suffix(text.size() - (text.find_last_not_of(kSpace) + 1));
  return text;
}

bool is_start(std::string_view line) {
  return (begins(line, "***") && contains(line, "START OF") && contains(line, "PROJECT GUTENBERG")) ||
         (begins(line, "*END") && contains(line, "SMALL PRINT"));
}

bool is_end(std::string_view line) {
  if (begins(line, "***") && contains(line, "END OF") && contains(line, "PROJECT GUTENBERG")) return true;
  return begins(line, "END OF PROJECT GUTENBERG") || begins(line, "END OF THE PROJECT GUTENBERG") ||
         begins(line, "END OF THIS PROJECT GUTENBERG");
}

// The start of the next line.
size_t line_end(std::string_view text, size_t at) { return std::min(text.find('\n', at), text.size() - 1) + 1; }

std::string utf8_from_latin1(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      out += c;
    } else {
      out += static_cast<char>(0xC0 | byte >> 6);
      out += static_cast<char>(0x80 | (byte & 0x3F));
    }
  }
  return out;
}

}  // namespace

std::string_view without_gutenberg_licence(std::string_view text) {
  size_t begin = 0, end = text.size();
  for (size_t at = 0; at < text.size();) {
    const size_t next = line_end(text, at);
    const std::string_view line = trim(text.substr(at, next - at));
    if (is_end(line)) {
      end = at;
      break;
    }
    if (is_start(line)) {
      begin = next;
      // A long title wraps: the marker then ends with the stars of a later line.
      for (int k = 0; k < 4 && begins(line, "***") && !line.ends_with("***") && begin < text.size(); ++k) {
        const size_t more = line_end(text, begin);
        const std::string_view continued = trim(text.substr(begin, more - begin));
        if (continued.empty()) break;
        begin = more;
        if (continued.ends_with("***")) break;
      }
    }
    at = std::max(next, begin);
  }
  return text.substr(begin, end - begin);
}

std::string squeeze_blank_lines(std::string_view text) {
  std::string out;
  text.remove_suffix(text.size() - (text.find_last_not_of(kSpace) + 1));
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    const bool blank = line.find_first_not_of(kSpace) == std::string_view::npos;
    if (blank && (out.empty() || out.ends_with("\n\n"))) continue;
    if (!blank) out += line;
    out += '\n';
  }
  return out;
}

double ascii_share(std::string_view text) {
  int64_t ascii = 0, all = 0;
  for (const char c : text) {
    ascii += static_cast<unsigned char>(c) < 0x80;
    all += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }
  return all == 0 ? 0 : static_cast<double>(ascii) / static_cast<double>(all);
}

CleanReport clean_books(const fs::path& folder, const fs::path& out, double min_ascii) {
  const std::vector<fs::path> paths = text_files_below(folder);
  if (paths.empty()) fail("%s: no text: expected files ending in .txt, .md or .text", folder.c_str());
  CleanReport report;
  FileWriter file(out);
  for (const fs::path& path : paths) {
    const MappedFile mapped(path);
    report.bytes_in += static_cast<int64_t>(mapped.size());
    std::string_view whole = mapped.text();
    check_not_utf16(whole, path);
    if (whole.starts_with("\xEF\xBB\xBF")) whole.remove_prefix(3);  // a byte-order mark
    std::string converted;
    const bool latin1 = find_invalid_utf8(whole) != std::string_view::npos;
    if (latin1) whole = converted = utf8_from_latin1(whole);
    const std::string_view book = without_gutenberg_licence(whole);
    const std::string text = squeeze_blank_lines(book);
    const double share = ascii_share(text);
    if (text.empty() || share < min_ascii) {
      report.files.push_back({path, text.empty() ? "empty" : strprintf("%.1f %% of it is ASCII", 100 * share)});
      continue;
    }
    report.files.push_back({path, ""});
    if (report.kept > 0) file.write(kEndOfText);
    file.write(text);
    report.bytes_out += static_cast<int64_t>(text.size() + (report.kept > 0 ? kEndOfText.size() : 0));
    ++report.kept;
    report.latin1 += latin1;
    report.with_licence += book.size() < whole.size();
  }
  if (report.kept == 0) {
    fail("%s: none of %zu files is kept; the first, %s: %s; a lower {min-ascii} keeps more", folder.c_str(),
         paths.size(), report.files[0].path.c_str(), report.files[0].reason.c_str());
  }
  file.commit();
  return report;
}
