// The safetensors file format alone (github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON
// header {name: {dtype, shape, data_offsets: [begin, end)}, "__metadata__": {...}}, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "gpt2/file.h"

struct TensorHeader {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16", ...
  std::vector<int64_t> shape;
};

struct TensorView : TensorHeader {
  std::span<const std::byte> bytes;  // in the mapped file, not necessarily aligned
};

// "(768, 2304) F32", for messages.
std::string describe(const TensorHeader& tensor);

// A mapped file. Opening checks everything: the header's length and JSON, dtypes, shapes against sizes (without
// overflow), offsets inside the file, no overlap, no hole, no trailing byte. Throws Error naming file and tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorView>& tensors() const { return tensors_; }  // in the order of their bytes
  const TensorView* find(const std::string& name) const;               // null if absent
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensor by tensor (the whole model is never held twice): the headers first, then each tensor's bytes in that
// order, all at once or part by part.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorHeader> tensors,
                    const std::map<std::string, std::string>& metadata);
  // Both throw std::logic_error: for a tensor out of order or larger than announced; if one is missing or cut off.
  void write(const std::string& name, std::span<const std::byte> bytes);
  void commit();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  FileWriter file_;
  std::vector<TensorHeader> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  // of the next one
};
