#include "llm/support/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "llm/support/error.h"

// g++ 12 takes the deliberately undefined values in its AVX-512 headers for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define XXH_INLINE_ALL
#include <xxhash.h>
#pragma GCC diagnostic pop

namespace fs = std::filesystem;

// ---- reading -------------------------------------------------------------------------------------------------------

namespace {

// What is mapped, for the SIGBUS handler: a process receives SIGBUS if it reads a page that the file no longer has.
struct Mapping {
  std::atomic<const std::byte*> begin{nullptr};  // null: free
  std::atomic<size_t> size{0};
  std::atomic<char*> path{nullptr};
};
Mapping mappings[4096];  // files beyond these get no message
struct sigaction before_mappings;
std::atomic<bool> mapping_lost{false};

void handle_bus_error(int signal, siginfo_t* info, void*) {  // makes only async-signal-safe calls
  const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : mappings) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(mapping.begin.load());
    const char* path = mapping.path;
    if (info->si_code <= 0 || begin == 0 || at < begin || at - begin >= mapping.size || !path) continue;
    while (mapping_lost.exchange(true)) ::pause();  // another thread is printing it
    const char* const words[] = {
        "\nerror: ", path,
        " was truncated while it was being read, or its disk failed; start again once the file "
        "is whole, and replace it by renaming another rather than by writing into it\n"};
    for (const char* text : words) {
      [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text, std::strlen(text));
    }
    ::_exit(1);
  }
  ::sigaction(signal, &before_mappings, nullptr);  // not ours: a fault repeats, and ends as before
  if (info->si_code <= 0) ::raise(signal);         // sent by a process
}

void add_mapping(const std::byte* begin, size_t size, const fs::path& path) {
  [[maybe_unused]] static const bool handled = [] {
    struct sigaction action = {};
    action.sa_sigaction = handle_bus_error;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    return ::sigaction(SIGBUS, &action, &before_mappings) == 0;
  }();
  for (Mapping& mapping : mappings) {
    const std::byte* free = nullptr;
    if (!mapping.begin.compare_exchange_strong(free, begin)) continue;
    mapping.size = size;
    mapping.path = ::strdup(path.c_str());
    return;
  }
}

void remove_mapping(const std::byte* begin) {
  for (Mapping& mapping : mappings) {
    if (mapping.begin != begin) continue;
    std::free(mapping.path.exchange(nullptr));
    mapping.size = 0;
    mapping.begin = nullptr;
    return;
  }
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const int fd =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // opening a named pipe would wait for its writer
  if (fd < 0) fail("%s: cannot be read: %s", path.c_str(), std::strerror(errno));
  struct stat status;
  if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(fd);
    fail("%s: expected a file, found %s", path.c_str(), S_ISDIR(status.st_mode) ? "a folder" : "something else");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      const int reason = errno;
      ::close(fd);
      fail("%s: cannot be mapped into memory: %s", path.c_str(), std::strerror(reason));
    }
    data_ = static_cast<const std::byte*>(memory);
    add_mapping(data_, size_, path);
  }
  ::close(fd);
}

MappedFile::~MappedFile() {
  if (!data_) return;
  remove_mapping(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void drop_pages(std::span<const std::byte> mapped) {
  const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(mapped.data()) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(mapped.data() + mapped.size()) / page * page;
  if (begin < end)
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);  // a hint: failing does no harm
}

void for_each_line(const MappedFile& file, const std::function<void(std::string_view line, size_t number)>& visit) {
  constexpr size_t kStretch = size_t{1} << 22;
  const std::string_view text = file.text();
  size_t number = 0, dropped = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    visit(text.substr(begin, end - begin), ++number);
    begin = end + 1;
    if (begin - dropped < kStretch) continue;
    dropped = std::min(begin, text.size());
    drop_pages({file.data(), dropped});
  }
}

// ---- writing -------------------------------------------------------------------------------------------------------

namespace {

const char* describe_kind(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "a file";
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    case S_IFSOCK:
      return "a socket";
    case S_IFLNK:
      return "a symbolic link";
    default:
      return "something else";
  }
}

// N if `path` is /proc/self/fd/N, by this name or through folders that are links (/dev/fd/N); else -1. If opened by its
// name, a redirected file would be written from its beginning again, and a socket cannot be opened at all.
int own_descriptor(const fs::path& path) {
  const std::string name = path.filename().string();
  int descriptor = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), descriptor);
  if (error != std::errc() || end != name.data() + name.size() || descriptor < 0) return -1;
  std::error_code missing;
  const fs::path folder = fs::canonical(path.parent_path(), missing), own = fs::canonical("/proc/self/fd", missing);
  return !own.empty() && folder == own ? descriptor : -1;
}

// The destination of what is written to a path.
struct Destination {
  fs::path path;        // links followed
  bool as_it_is;        // a device, FIFO or open descriptor: no temporary file
  int descriptor = -1;  // of this process
};

Destination destination_of(const fs::path& path) {
  if (!path.has_filename()) {
    fail("'%s': expected a file name, found %s", path.c_str(), path.empty() ? "none" : "a folder name: it ends in '/'");
  }
  constexpr int kMostLinks = 40;  // the system's limit
  fs::path place = path;
  for (int links = 0; links <= kMostLinks; ++links) {
    const int descriptor = own_descriptor(place);
    if (descriptor >= 0) return {place, true, descriptor};
    struct stat status;
    if (::lstat(place.c_str(), &status) != 0) {
      if (errno == ENOENT) return {place, false};
      fail("%s: cannot be written: %s", path.c_str(), std::strerror(errno));
    }
    if (S_ISREG(status.st_mode)) return {place, false};
    if (S_ISCHR(status.st_mode) || S_ISFIFO(status.st_mode)) return {place, true};
    if (!S_ISLNK(status.st_mode)) {
      fail("%s: is %s and cannot be written to; name a file, a character device or a FIFO", path.c_str(),
           describe_kind(status.st_mode));
    }
    place = place.parent_path() / fs::read_symlink(place);
  }
  fail("%s: cannot be written: %s", path.c_str(), std::strerror(ELOOP));
}

}  // namespace

namespace {

// This process's stdout, for a file that is written there. What the program prints afterwards goes to stderr: it is not
// a part of the file.
int take_stdout() {
  static const int taken = [] {
    std::fflush(stdout);
    const int fd = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (fd >= 0) ::dup2(STDERR_FILENO, STDOUT_FILENO);
    return fd;
  }();
  return ::fcntl(taken, F_DUPFD_CLOEXEC, 3);
}

}  // namespace

FileWriter::FileWriter(const fs::path& path) : path_(path) {
  const Destination to = destination_of(path);
  if (to.descriptor >= 0) {
    const int flags = ::fcntl(to.descriptor, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY) {
      fail("%s: cannot be written: descriptor %d is not open%s", path.c_str(), to.descriptor,
           flags < 0 ? "" : " for writing");
    }
    fd_ = to.descriptor == STDOUT_FILENO ? take_stdout() : ::fcntl(to.descriptor, F_DUPFD_CLOEXEC, 3);
  } else if (to.as_it_is) {
    fd_ = ::open(to.path.c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  } else {
    path_ = to.path;
    temporary_ = to.path.string() + ".tmp";
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  }
  if (fd_ < 0) {
    const std::string through = to.as_it_is ? "" : temporary_.string() + ": ";
    fail("%s: cannot be written: %s%s", path.c_str(), through.c_str(), std::strerror(errno));
  }
  if (to.as_it_is) std::signal(SIGPIPE, SIG_IGN);  // if the reader has gone, write() returns an error
  buffer_.reserve(size_t{1} << 20);
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void FileWriter::flush() {
  if (temporary_.empty()) std::fflush(stdout);  // in case this is stdout: what was printed before comes first
  const char* data = buffer_.data();
  size_t left = buffer_.size();
  while (left > 0) {
    const ssize_t written = ::write(fd_, data, left);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("%s: cannot be written: %s%s", path_.c_str(), std::strerror(errno),
           temporary_.empty() ? "" : "; the file that was there before is untouched");
    }
    data += written;
    left -= static_cast<size_t>(written);
  }
  buffer_.clear();
}

void FileWriter::write(const void* data, size_t bytes) {
  const size_t chunk = size_t{1} << 20;
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const size_t n = std::min(bytes, chunk - buffer_.size());
    buffer_.append(from, n);
    if (buffer_.size() == chunk) flush();
    from += n;
    bytes -= n;
  }
}

void FileWriter::write_at(int64_t at, const void* data, size_t bytes) {
  if (temporary_.empty()) fail("%s: expected a file, found a device or a pipe", path_.c_str());
  flush();
  const off_t end = ::lseek(fd_, 0, SEEK_CUR);
  ::lseek(fd_, at, SEEK_SET);
  write(data, bytes);
  flush();
  ::lseek(fd_, end, SEEK_SET);
}

void FileWriter::commit() {
  flush();
  if (!temporary_.empty() && ::fsync(fd_) != 0)
    fail("%s: cannot be flushed to the disk: %s", path_.c_str(), std::strerror(errno));
  if (::close(std::exchange(fd_, -1)) != 0) fail("%s: cannot be closed: %s", path_.c_str(), std::strerror(errno));
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary_.c_str());
    fail("%s: cannot be put in place: %s", path_.c_str(), std::strerror(reason));
  }
}

bool written_as_it_is(const fs::path& path) { return destination_of(path).as_it_is; }

fs::path path_to_replace(const fs::path& path) {
  const Destination to = destination_of(path);
  if (to.as_it_is) fail("%s: expected a file, found a device or a pipe", path.c_str());
  return to.path;
}

void check_output_file(const fs::path& path) {
  const Destination to = destination_of(path);
  if (!to.as_it_is) {
    FileWriter trial(path);
  } else if (to.descriptor < 0 && ::access(to.path.c_str(), W_OK) != 0) {
    fail("%s: cannot be written: %s", path.c_str(), std::strerror(errno));
  }
}

void check_output_folder(const char* flag, const fs::path& path) {
  if (path.empty()) fail("%s: expected a folder name, found an empty one", flag);
  fs::path place = path;  // the path itself, or the nearest existing folder above it
  for (;;) {
    struct stat status;
    const bool there = ::stat(place.c_str(), &status) == 0;
    if (there && !S_ISDIR(status.st_mode)) {
      const std::string where = place == path ? "" : place.string() + ": ";
      fail("%s %s: %sexpected a folder, found %s", flag, path.c_str(), where.c_str(), describe_kind(status.st_mode));
    }
    if (there && ::access(place.c_str(), W_OK | X_OK) == 0) return;
    if (there || (errno != ENOENT && errno != ENOTDIR)) {
      const std::string reason = std::strerror(errno);
      fail("%s %s: the folder cannot be %s: %s", flag, path.c_str(), there && place == path ? "written to" : "made",
           reason.c_str());
    }
    if (::lstat(place.c_str(), &status) == 0) {
      fail("%s %s: expected a folder, found a link to %s, which is missing", flag, path.c_str(),
           fs::read_symlink(place).c_str());
    }
    place = place.has_relative_path() && place.has_parent_path() ? place.parent_path() : fs::path(".");
  }
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail("%s: the folder cannot be made: %s", path.c_str(), error.message().c_str());
}

void sync_directory(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool ok = fd >= 0 && ::fsync(fd) == 0;
  const int reason = errno;
  if (fd >= 0) ::close(fd);
  if (!ok) fail("%s: cannot be flushed to the disk: %s", path.c_str(), std::strerror(reason));
}

uint64_t hash64(const void* data, size_t bytes, uint64_t seed) { return XXH3_64bits_withSeed(data, bytes, seed); }

std::string file_checksum(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("%s: cannot be read: %s", path.c_str(), std::strerror(errno));
  // By read(), not by mapping: a checkpoint's pages would count as the trainer's memory.
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  std::vector<char> chunk(size_t{1} << 20);
  ssize_t n = 0;
  while ((n = ::read(fd, chunk.data(), chunk.size())) > 0 || (n < 0 && errno == EINTR)) {
    if (n > 0) XXH3_64bits_update(state, chunk.data(), static_cast<size_t>(n));
  }
  const int reason = errno;
  const unsigned long long hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  ::close(fd);
  if (n < 0) fail("%s: cannot be read: %s", path.c_str(), std::strerror(reason));
  return strprintf("%016llx", hash);
}

// ---- UTF-8 ---------------------------------------------------------------------------------------------------------

std::string ending_of(const fs::path& path) {
  std::string ending = path.extension().string();
  for (char& c : ending) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return ending;
}

void check_not_utf16(std::string_view text, const fs::path& path) {
  const std::string_view mark = text.substr(0, 2), begin = text.substr(0, 4096);
  const char* encoding = mark == "\xFF\xFE" || mark == "\xFE\xFF" ? "UTF-16" : nullptr;
  if (!encoding) {  // without a mark: every other byte of ASCII is zero
    size_t zeros[2] = {};
    for (size_t i = 0; i < begin.size(); ++i) zeros[i % 2] += begin[i] == '\0';
    const auto most = [&](size_t n) { return n > begin.size() / 4; };
    if (most(zeros[1]) && zeros[0] == 0) encoding = "UTF-16LE";
    if (most(zeros[0]) && zeros[1] == 0) encoding = "UTF-16BE";
  }
  if (!encoding) return;
  fail("%s: the text is UTF-16, expected UTF-8; convert it: iconv -f %s -t UTF-8 %s > NEW_FILE", path.c_str(), encoding,
       path.c_str());
}

namespace {

// Reads one character at text[i]. Returns its length, or 0 with *bad = the length (>= 1) of the longest prefix that
// could have begun a character: Unicode's "maximal subpart", replaced by one U+FFFD.
size_t utf8_step(std::string_view text, size_t i, size_t* bad) {
  const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
  const unsigned lead = byte(0);
  *bad = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = 0x80, high = 0xBF;  // range of the second byte: no overlong forms, surrogates, or above U+10FFFF
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t k = 1; k < length; ++k) {
    if (byte(k) < low || byte(k) > high) return 0;
    low = 0x80;
    high = 0xBF;
    *bad = k + 1;
  }
  return length;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  size_t bad = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_step(text, i, &bad);
    if (n == 0) return i;
    i += n;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t bad = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_step(text, i, &bad);
    if (n == 0) {
      out += "\xEF\xBF\xBD";
      i += bad;
    } else {
      out.append(text, i, n);
      i += n;
    }
  }
  return out;
}

size_t unfinished_utf8_bytes(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    const std::string_view tail = text.substr(text.size() - n);
    const auto lead = static_cast<unsigned char>(tail[0]);
    if ((lead & 0xC0) == 0x80) continue;
    const size_t length = lead < 0xC2 || lead > 0xF4 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    return length > n && replace_invalid_utf8(tail) == "\uFFFD" ? n : 0;
  }
  return 0;
}
