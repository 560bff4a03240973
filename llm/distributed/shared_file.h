// A file that the processes of a group write together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

class Group;

// One file that several processes write, each at its own offsets, through `path`.tmp as a FileWriter does; devices and
// pipes have no offsets and are refused. All make the same calls except write(). Rank 0 makes the file `size` bytes
// long, with `head` at its start.
class SharedFileWriter {
 public:
  SharedFileWriter(const std::filesystem::path& path, std::string_view head, int64_t size, const Group& group);
  ~SharedFileWriter();
  SharedFileWriter(const SharedFileWriter&) = delete;
  SharedFileWriter& operator=(const SharedFileWriter&) = delete;

  // The ranks that see rank 0's file and so can write, rank 0 first.
  const std::vector<int>& writers() const { return writers_; }
  void write(const void* data, size_t bytes, int64_t at);  // an error is thrown by commit(), in all processes
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  const Group& group_;
  std::vector<int> writers_;
  int fd_ = -1;
  std::string error_;
};
