// Many books -> one clean text to train on, as the book "Build a Large Language Model (From Scratch)" prepares Project
// Gutenberg's books: without the licence around each and without those in other scripts, joined by <|endoftext|>.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

// Only the book: the text between Project Gutenberg's lines "*** START OF ..." (in files from before 2003 "*END*THE
// SMALL PRINT! ...") and "*** END OF ..." (or "End of the Project Gutenberg ..."); either may be absent. Nothing else
// is removed.
std::string_view without_gutenberg_licence(std::string_view text);

// Lines end with just "\n"; several blank lines in a row, also of white space, become one; none at the ends.
std::string squeeze_blank_lines(std::string_view text);

// Share of the characters (of valid UTF-8) that are ASCII: near 1 for English. 0 for an empty text.
double ascii_share(std::string_view text);

struct CleanedFile {
  std::filesystem::path path;
  std::string reason;  // why it was left out; empty: it was kept
};
struct CleanReport {
  std::vector<CleanedFile> files;
  int64_t kept = 0, with_licence = 0, latin1 = 0;  // of those kept: had markers; were Latin-1, not UTF-8
  int64_t bytes_in = 0, bytes_out = 0;             // of all files; written
};

// Every text file below `folder` (llm/text/corpus.h says which), cleaned, into one file. Files with an ASCII share
// below `min_ascii` and empty files are left out. Throws Error, and writes nothing, if no file is left.
CleanReport clean_books(const std::filesystem::path& folder, const std::filesystem::path& out, double min_ascii);
