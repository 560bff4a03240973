// Token shards, llm.c's file format, little-endian: a header of 256 int32 (magic 20240520, version, token count,
// zeros), then the tokens. Version 1 stores uint16, so llm.c's and FineWeb's files open as they are; version 2, ours,
// stores uint32 for vocabularies above 65,536. The count is 64 bits wide in header[2..3], low word first: files above
// 2^31 tokens work, and llm.c's have a zero there anyway. The rest of the header is written as zeros and not read.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llm/support/file.h"

// One shard, memory-mapped. Throws Error for a bad magic, version or count, a truncated file, trailing bytes, no token.
class Shard {
 public:
  explicit Shard(const std::filesystem::path& path);
  int64_t size() const { return size_; }  // tokens
  const std::filesystem::path& path() const { return file_.path(); }

  // to[0..count) = tokens [from, from + count). Throws Error outside the shard, and for an id of 2^31 or more.
  void copy(int64_t from, int64_t count, int32_t* to) const;
  int64_t find_outside(int vocab_size) const;  // position of the first token >= vocab_size, or -1
  void drop() const { drop_pages({file_.data(), file_.size()}); }
  uint64_t sample_hash() const;  // over the size and, for a large shard, 16 evenly spread pages

 private:
  MappedFile file_;
  int64_t size_ = 0;
  int bytes_per_token_ = 2;

  // Calls body with the tokens as a span of uint16_t or uint32_t.
  template <class Body>
  auto with_tokens(Body&& body) const;
};

// Writes one shard part by part; vocab_size decides between version 1 and 2. Without commit() what was there stays.
// Throws Error for a token outside [0, vocab_size), and in commit() if there is none.
class ShardWriter {
 public:
  ShardWriter(const std::filesystem::path& path, int vocab_size);
  void write(std::span<const int32_t> tokens);
  void commit();

 private:
  std::filesystem::path path_;
  FileWriter file_;
  int vocab_size_;
  int64_t size_ = 0;  // tokens
};

// The same for tokens that are all in memory.
void write_shard(const std::filesystem::path& path, std::span<const int32_t> tokens, int vocab_size);

// Whether `data` is for TokenSequence::open, and not text.
bool names_shards(const std::string& data);

// Many shards as one sequence of tokens, in the order given. Windows may cross from one shard to the next. However long
// it is, some 16 MB of its pages count as this process's memory: copy() returns them now and then.
class TokenSequence {
 public:
  TokenSequence() = default;
  // A shard; a glob such as "data/fineweb_train_*.bin" (sorted by name); or a file FILE.list with one of either per
  // line, in that order, relative to its folder; lines that are empty or begin with # are skipped. Throws Error if
  // nothing matches.
  static TokenSequence open(const std::string& path);
  int64_t size() const { return size_; }
  void copy(int64_t from, int64_t count, int32_t* to) const;  // as Shard::copy
  // Reads every token once: throws Error naming file, position and value of the first one outside [0, vocab_size). As
  // `part` of `parts`: only every parts-th shard, from number `part` on.
  void check_vocabulary(int vocab_size, int part = 0, int parts = 1) const;
  // 16 hexadecimal digits over the shards' sizes and a fixed sample of their bytes: cheap, and distinguishes different
  // data.
  std::string checksum() const;

 private:
  std::vector<std::shared_ptr<const Shard>> shards_;  // shared: a sequence can be copied
  std::vector<int64_t> begin_;                        // position of each shard's first token in the sequence
  int64_t size_ = 0;
  std::shared_ptr<std::atomic<int64_t>> read_ =
      std::make_shared<std::atomic<int64_t>>(0);  // bytes read since pages were returned

  void add(const std::string& path_or_glob);
};
