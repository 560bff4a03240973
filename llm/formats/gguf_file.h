// Only the GGUF file format, version 3, little-endian (github.com/ggml-org/ggml, docs/gguf.md):
//
//   "GGUF"  uint32 version  uint64 number of tensors  uint64 number of metadata entries
//   the metadata: key, type, value              a string is a uint64 length and its bytes
//   the tensors' headers: name, shape, type, offset of the bytes
//   the tensors' bytes in the same order, each at a multiple of general.alignment (32 if absent)
//
// A shape's first number is the length of a row.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "llm/formats/safetensors.h"
#include "llm/support/file.h"

// A mapped file. Opening checks everything but the values: magic, version, lengths and counts against the file's size,
// keys and names that occur twice, types, shapes against sizes (without overflow), the place of each tensor, trailing
// bytes. Takes at most some seven times the memory of the metadata and headers. Throws Error naming file and place.
class GgufFile {
 public:
  // Throws Error, too, if general.architecture is another, or a tensor has another type than F32, F16, BF16 and Q8_0.
  GgufFile(const std::filesystem::path& path, const std::string& architecture);

  // A value of the metadata; nothing if the key is absent. Throws Error if it has another type. Texts are views of the
  // file, which need not be UTF-8.
  std::optional<uint32_t> number(std::string_view key) const;                      // UINT32
  std::optional<float> real(std::string_view key) const;                           // FLOAT32
  std::optional<bool> flag(std::string_view key) const;                            // BOOL
  std::optional<std::string_view> text(std::string_view key) const;                // STRING
  std::optional<std::vector<std::string_view>> texts(std::string_view key) const;  // array of STRING
  std::optional<std::vector<int32_t>> integers(std::string_view key) const;        // array of INT32

  const std::vector<TensorView>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorView* find(const std::string& name) const;               // null if absent
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  struct Entry {
    std::string_view key;
    uint32_t type;  // of an array: of its elements
    bool is_array;
    uint64_t count;
    std::string_view bytes;  // of the value, or of the array's elements
  };
  class Cursor;
  void read_metadata(Cursor& cursor, uint64_t entries);
  void read_tensors(Cursor& cursor, uint64_t tensors);
  uint64_t read_header(Cursor& cursor, uint64_t k);  // of the next tensor, the k-th; returns its offset
  // The data begin at byte `data`; each tensor begins at the first multiple of the alignment from the end of the one
  // before it on.
  void place_tensors(int64_t data, int64_t alignment, const std::vector<uint64_t>& offsets);
  const Entry* get(std::string_view key, uint32_t type, bool is_array) const;

  MappedFile file_;
  std::vector<Entry> metadata_;  // sorted by key
  std::vector<TensorView> tensors_;
  std::vector<uint32_t> by_name_;  // indices into tensors_, sorted by name
};

// The metadata of a file to be written, in this order.
class GgufMetadata {
 public:
  void add(const std::string& key, uint32_t value);
  void add(const std::string& key, float value);
  void add(const std::string& key, const std::string& value);
  void add(const std::string& key, const std::vector<std::string>& values);
  void add(const std::string& key, const std::vector<int32_t>& values);
  const std::string& bytes() const { return bytes_; }
  uint64_t entries() const { return entries_; }

 private:
  void begin(const std::string& key, uint32_t type);
  std::string bytes_;
  uint64_t entries_ = 0;
};

// Writes tensor by tensor, in one step (a temporary file, renamed): the headers first, then each tensor's bytes in that
// order, all at once or part by part.
class GgufWriter {
 public:
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<TensorHeader> tensors);
  // Both throw std::logic_error: write() for a tensor out of order or larger than announced, commit() if one is missing
  // or cut off. commit() returns the file's size in bytes.
  void write(const std::string& name, std::span<const std::byte> bytes);
  int64_t commit();

 private:
  FileWriter file_;
  std::vector<TensorHeader> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  // bytes of the next one
  int64_t at_ = 0;       // of the next byte in the file
};
