// Token shards, llm.c's file format: a header of 256 int32 (magic 20240520, version, token count, zeros), then the tokens.
// Version 1 stores uint16; version 2, ours, uint32 for vocabularies above 65,536 (count then in header[2..3], low word
// first, so that files above 2^31 tokens work; version 1 files may use header[3] the same way).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "gpt2/file.h"

// One shard, memory-mapped. Throws Error for a bad magic, version or count, a truncated file or trailing bytes.
class Shard {
 public:
  explicit Shard(const std::filesystem::path& path);
  int64_t size() const { return size_; }           // tokens
  int32_t operator[](int64_t i) const;             // 0 <= i < size()
  void copy(int64_t from, int64_t count, int32_t* to) const;
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  int64_t size_ = 0;
  int bytes_per_token_ = 2;
};

// Writes one shard in one step; vocab_size decides between version 1 and 2.
void write_shard(const std::filesystem::path& path, std::span<const int32_t> tokens, int vocab_size);

// Many shards as one sequence of tokens, in the order given. Windows may cross from one shard to the next.
class TokenSequence {
 public:
  TokenSequence() = default;
  // A shard, or a glob such as "data/fineweb_train_*.bin" (sorted by name). Throws Error if nothing matches.
  static TokenSequence open(const std::string& path_or_glob);
  int64_t size() const { return size_; }
  void copy(int64_t from, int64_t count, int32_t* to) const;
  // Reads every token once: throws Error naming file, position and value of the first one outside [0, vocab_size).
  void check_vocabulary(int vocab_size) const;
  std::string checksum() const;  // over the shards' sizes and a fixed sample of their bytes: cheap, catches exchanged data

 private:
  std::vector<Shard> shards_;
  std::vector<int64_t> begin_;  // first token of each shard
  int64_t size_ = 0;
};
