#include "llm/distributed/shared_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

#include "llm/distributed/group.h"
#include "llm/support/error.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;

SharedFileWriter::SharedFileWriter(const fs::path& path, std::string_view head, int64_t size, const Group& group)
    : group_(group) {
  group_.on_root([&] { path_ = path_to_replace(path); });
  path_ = group_.broadcast(path_.string());
  temporary_ = path_.string() + ".tmp";
  group_.on_root([&] {
    {
      FileWriter writer(temporary_);
      writer.write(head);
      writer.commit();
    }
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CLOEXEC);
    if (fd_ < 0 || ::ftruncate(fd_, size) != 0) {
      fail("%s: cannot be written: %s", temporary_.c_str(), std::strerror(errno));
    }
  });
  // A mark in a file next to it, which only ranks that see the same folder can read.
  const fs::path mark = path_.string() + ".mark";
  const std::string word = group_.broadcast(std::to_string(std::random_device()()) + std::to_string(::getpid()));
  group_.on_root([&] {
    FileWriter writer(mark);
    writer.write(word);
    writer.commit();
  });
  bool sees = group_.rank() == 0;
  if (!sees) {
    std::error_code ignored;
    if (fs::exists(mark, ignored)) {
      try {
        sees = MappedFile(mark).text() == word;
      } catch (const Error&) {
      }
    }
    if (sees) fd_ = ::open(temporary_.c_str(), O_RDWR | O_CLOEXEC);
    sees = sees && fd_ >= 0;
  }
  const std::vector<std::string> all = group_.all_gather(sees ? "x" : "");
  for (int r = 0; r < group_.size(); ++r) {
    if (!all[static_cast<size_t>(r)].empty()) writers_.push_back(r);
  }
  if (group_.rank() == 0) ::unlink(mark.c_str());
}

SharedFileWriter::~SharedFileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (group_.rank() == 0) ::unlink(temporary_.c_str());
}

void SharedFileWriter::write(const void* data, size_t bytes, int64_t at) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0 && error_.empty()) {
    const ssize_t written = ::pwrite(fd_, from, bytes, at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      error_ = std::strerror(errno);
      return;
    }
    from += written;
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void SharedFileWriter::commit() {
  group_.together([&] {
    if (fd_ < 0) return;
    if (error_.empty() && ::fsync(fd_) != 0) error_ = std::strerror(errno);
    if (!error_.empty()) {
      fail("%s: cannot be written: %s; the file that was there before is untouched", path_.c_str(), error_.c_str());
    }
  });
  group_.on_root([&] {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      fail("%s: cannot be put in place: %s", path_.c_str(), std::strerror(errno));
    }
  });
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}
