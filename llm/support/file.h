// Files as the rest of wrought uses them: mapped for reading, and written so that a reader, also after a crash, sees
// either the old file or the whole new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// A whole file, read-only, in memory by mmap; an empty file has size() 0. Throws Error (missing, a folder, unreadable).
// If the file shrinks while it is mapped, reading past its end ends the program with a message and exit code 1.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Returns the pages of a part of a mapped file to the system, so that a file read part by part never counts as a whole
// as this process's memory. Reading there again is allowed. Sequential readers pass everything before their position:
// touching a page maps the pages around it, too, even those already returned.
void drop_pages(std::span<const std::byte> mapped);

// The lines of a mapped file without their "\n", counted from 1; an empty last line does not count. Pages are returned
// as above.
void for_each_line(const MappedFile& file, const std::function<void(std::string_view line, size_t number)>& visit);

// Writes a file. Links are followed, and their target is written through a file next to it, `path`.tmp: nothing appears
// under the final name until commit(), which flushes to the disk (fsync) and renames. Without commit() the destructor
// removes the temporary file. Character devices, FIFOs and this process's open descriptors (/dev/stdout, /dev/fd/3) are
// written to directly, and keep what was written before an error. Throws Error if `path` cannot be written, is a
// folder, a block device or a socket, or ends in '/'. Every failing write throws Error with the system's reason ("No
// space left on device", "Broken pipe").
class FileWriter {
 public:
  explicit FileWriter(const std::filesystem::path& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Overwrites what was written from byte `at` on. Throws Error if `path` is written to directly.
  void write_at(int64_t at, const void* data, size_t bytes);
  void commit();

 private:
  std::filesystem::path path_, temporary_;  // temporary_: empty if path_ is written to directly
  int fd_ = -1;
  std::string buffer_;  // gathers small writes
  void flush();
};

// Whether a FileWriter writes to `path` directly: a character device, a FIFO or an open descriptor of this process.
// Throws Error if a FileWriter would refuse `path` by its name or kind.
bool written_as_it_is(const std::filesystem::path& path);

// The file that a FileWriter would replace: `path`, links followed. Throws Error if a FileWriter would refuse `path` or
// write to it directly.
std::filesystem::path path_to_replace(const std::filesystem::path& path);

// Throws Error if a FileWriter could not be made for `path` now: for programs that compute for a long time before they
// write.
void check_output_file(const std::filesystem::path& path);

// Throws Error, naming `flag`, if `path` cannot become a folder: something else is there (links followed) or above it,
// or its parent cannot be written. Creates nothing.
void check_output_folder(const char* flag, const std::filesystem::path& path);

// Creates the folder (and its parents) or throws Error.
void make_directories(const std::filesystem::path& path);

// Flushes a folder's entries to the disk, so that a rename in it survives a power cut.
void sync_directory(const std::filesystem::path& path);

// XXH3 64-bit hash; a seed that is itself a hash chains several parts.
uint64_t hash64(const void* data, size_t bytes, uint64_t seed);

// The same hash (seed 0) of a file's bytes, as 16 hexadecimal digits.
std::string file_checksum(const std::filesystem::path& path);

// The ending of a file's name in lower case, ".txt" for "BOOK.TXT"; "" if there is none.
std::string ending_of(const std::filesystem::path& path);

// Throws Error if a file's text is UTF-16, judged by its byte order mark or its zero bytes, saying how to convert it.
// Readers of text files call it first: read as UTF-8, such a text fails elsewhere, for misleading reasons.
void check_not_utf16(std::string_view text, const std::filesystem::path& path);

// Offset of the first byte that is not valid UTF-8 (overlong forms, surrogates and values above U+10FFFF are invalid),
// or std::string_view::npos.
size_t find_invalid_utf8(std::string_view text);

// The text with every maximal invalid part replaced by U+FFFD, as Python's bytes.decode(errors="replace") does.
std::string replace_invalid_utf8(std::string_view text);

// How many bytes at the end of the text, at most 3, begin a character that more bytes could complete.
size_t unfinished_utf8_bytes(std::string_view text);
