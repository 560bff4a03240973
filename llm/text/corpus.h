// Text on disk -> documents -> train and validation shards.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "llm/text/tokenizer.h"

// Every file below a folder with the ending .txt, .md or .text, in lower or upper case, sorted by path; hidden ones are
// skipped. Throws Error if the folder cannot be read.
std::vector<std::filesystem::path> text_files_below(const std::filesystem::path& folder);

// A text file, or all that text_files_below() finds, joined by <|endoftext|> (empty ones are skipped). Throws Error:
// missing, empty, unreadable, a folder without text, UTF-16, or not UTF-8 (naming the file, the byte's offset and
// {lossy}, which replaces such bytes by U+FFFD).
std::string read_corpus(const std::filesystem::path& path, bool lossy);

// The byte offset where validation begins: the first (1 - val_fraction) of the characters train, the rest validate. A
// text of several documents is cut right after the <|endoftext|> nearest to that place (the first of two), any other
// text between two characters. Throws UsageError unless 0 < val_fraction < 1, and Error if either part would be without
// text.
size_t validation_begin(std::string_view text, double val_fraction);

struct PreparedData {
  std::filesystem::path train, val;  // shards, written into `folder` as train.bin and val.bin
};

// Encodes both parts (threads: 0 for all cores) into shards, without ever holding all ids in memory; neither is put in
// place before both are encoded. With val_fraction 0 everything trains, and there is no val.bin (`val` is empty).
PreparedData prepare_shards(std::string_view text, const Tokenizer& tokenizer, double val_fraction,
                            const std::filesystem::path& folder, int threads);
