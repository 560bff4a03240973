// Reads tests/golden/*.bin, which dev/reference/*.py wrote with PyTorch. A file is a sequence of records,
// little-endian, each padded to a multiple of 8 bytes:
//   char name[48] (zero-padded)   uint64 type (0: int32, 1: float32, 2: float64)   uint64 count   the values
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"

class Golden {
 public:
  explicit Golden(const std::string& file) : file_(std::string(GOLDEN_DIR) + "/" + file) {
    const MappedFile mapped(file_);
    for (size_t at = 0; at < mapped.size();) {
      char name[49] = {};
      uint64_t type_and_count[2];
      if (mapped.size() - at < 64) fail("%s ends within a record's header", file_.c_str());
      std::memcpy(name, mapped.data() + at, 48);
      std::memcpy(type_and_count, mapped.data() + at + 48, 16);
      at += 64;
      const auto [type, count] = type_and_count;
      const size_t size = type == 2 ? 8 : 4, rest = mapped.size() - at;
      if (type > 2 || count > rest / size) fail("%s: record %s is broken", file_.c_str(), name);
      std::vector<double>& values = records_[name];  // double holds all three types exactly
      for (size_t i = 0; i < count; ++i) {
        const std::byte* from = mapped.data() + at + i * size;
        values.push_back(type == 0 ? load<int32_t>(from) : type == 1 ? load<float>(from) : load<double>(from));
      }
      at += (count * size + 7) / 8 * 8;
    }
  }

  // A record's values, as the type that the test needs.
  template <class T = double>
  std::vector<T> get(const std::string& name) const {
    const auto found = records_.find(name);
    if (found == records_.end()) fail("%s has no record %s", file_.c_str(), name.c_str());
    return {found->second.begin(), found->second.end()};
  }

 private:
  template <class T>
  static double load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
  }

  std::string file_;
  std::map<std::string, std::vector<double>> records_;
};

// golden.uniform of dev/reference/golden.py: element i of a stream, in [-1, 1), exact in float.
inline double golden_uniform(uint64_t stream, uint64_t i) {
  uint64_t z = ((stream << 32) + i + 1) * 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) * 0x1p-23 - 1;
}
