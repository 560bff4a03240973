// Only the safetensors file format (github.com/huggingface/safetensors): an 8-byte little-endian header length, a JSON
// header {name: {dtype, shape, data_offsets: [begin, end)}, "__metadata__": {...}}, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "llm/distributed/group.h"
#include "llm/distributed/shared_file.h"
#include "llm/support/file.h"

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

// A mapped file. Opening checks everything but the values (from_file() in weights.h does): the header's length and
// JSON, dtypes, shapes against sizes (without overflow), offsets inside the file, no overlap, no hole, no trailing
// byte. Throws Error naming file and tensor.
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
  std::vector<uint32_t> by_name_;  // indices into tensors_, sorted by name
  std::map<std::string, std::string> metadata_;
};

// Writes tensor by tensor (the whole model is never held twice): the headers first, then each tensor's bytes in that
// order, all at once or part by part.
//
// With a group of several processes all make the same calls, and each writes its own tensors into the one file; write()
// skips the others. Processes that do not see rank 0's file, on a machine with its own disk, have no tensors. Errors
// are thrown in all processes, by commit() at the latest; the file is whole when that returns.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorHeader> tensors,
                    const std::map<std::string, std::string>& metadata, const Group* group = nullptr);
  // Both throw std::logic_error: write() for a tensor out of order or larger than announced, commit() if one is missing
  // or cut off.
  void write(const std::string& name, std::span<const std::byte> bytes);
  void commit();
  const std::filesystem::path& path() const { return path_; }
  bool own() const { return !shared_ || owners_[next_] == rank_; }  // whether the next tensor's bytes are used
  void pass(const std::string& name);                               // instead of write(), for one that is not

 private:
  std::filesystem::path path_;
  std::optional<FileWriter> file_;
  std::optional<SharedFileWriter> shared_;  // of several processes
  std::vector<int> owners_;
  int rank_ = 0;
  int64_t at_ = 0;  // of the next byte in the file
  std::vector<TensorHeader> tensors_;
  size_t next_ = 0;
  int64_t written_ = 0;  // bytes of the next one
};
