#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;

TEST_CASE("a writer that is not committed leaves the old file as it was") {
  const fs::path dir = fs::temp_directory_path() / "wrought_test_file";
  fs::create_directories(dir);
  const fs::path path = dir / "a.txt";
  {
    FileWriter writer(path);
    writer.write("old");
    writer.commit();
  }
  {
    FileWriter writer(path);
    writer.write("new, but never committed");
  }
  CHECK(MappedFile(path).text() == "old");
  CHECK_FALSE(fs::exists(dir / "a.txt.tmp"));
  {
    FileWriter writer(path);
    writer.write(std::string(3'000'001, 'x'));
    writer.commit();
  }
  CHECK(MappedFile(path).size() == 3'000'001);
  CHECK(file_checksum(path).size() == 16);
  fs::remove_all(dir);
}

TEST_CASE("a missing file, a folder and an unwritable place are errors; an empty file is not") {
  CHECK_THROWS_AS(MappedFile("/nonexistent/file"), Error);
  CHECK_THROWS_AS(MappedFile(fs::temp_directory_path()), Error);
  CHECK_THROWS_AS(FileWriter("/nonexistent/file"), Error);
  CHECK_THROWS_AS(make_directories("/dev/null/folder"), Error);
  const fs::path path = fs::temp_directory_path() / "wrought_test_file_empty";
  std::ofstream(path).close();
  CHECK(MappedFile(path).size() == 0);
  fs::remove(path);
}

TEST_CASE("a full disk is an error that says so") {
  if (!fs::exists("/dev/full")) {
    MESSAGE("skipped: /dev/full is missing on this system");
    return;
  }
  const fs::path link = fs::temp_directory_path() / "wrought_test_file_full.tmp";
  fs::remove(link);
  fs::create_symlink("/dev/full", link);
  FileWriter writer(fs::temp_directory_path() / "wrought_test_file_full");
  writer.write("some bytes");
  CHECK_THROWS_WITH_AS(writer.commit(), doctest::Contains("No space left on device"), Error);
}

TEST_CASE("invalid UTF-8 is found at its byte and replaced by maximal subparts") {
  CHECK(find_invalid_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80") == std::string_view::npos);
  CHECK(find_invalid_utf8("ab\xFFz") == 2);
  CHECK(find_invalid_utf8("\xC0\xAF") == 0);          // overlong
  CHECK(find_invalid_utf8("x\xED\xA0\x80") == 1);     // surrogate
  CHECK(find_invalid_utf8("\xF4\x90\x80\x80") == 0);  // above U+10FFFF
  CHECK(find_invalid_utf8("\xE2\x82") == 0);          // cut off
  // Expected values from Python's bytes.decode("utf-8", errors="replace").
  CHECK(replace_invalid_utf8("a\xFFz") == "a\uFFFDz");
  CHECK(replace_invalid_utf8("\xE2\x82z") == "\uFFFDz");
  CHECK(replace_invalid_utf8("\xF0\x9F\x98") == "\uFFFD");
  CHECK(replace_invalid_utf8("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");
  CHECK(replace_invalid_utf8("\xC0\xAF") == "\uFFFD\uFFFD");
  CHECK(replace_invalid_utf8("ok") == "ok");
}

TEST_CASE("the bytes of an unfinished character are counted, those of a damaged one are not") {
  CHECK(unfinished_utf8_bytes("") == 0);
  CHECK(unfinished_utf8_bytes("a") == 0);
  CHECK(unfinished_utf8_bytes("\xF0\x9F\x98\x80") == 0);
  CHECK(unfinished_utf8_bytes("a\xF0\x9F\x98") == 3);
  CHECK(unfinished_utf8_bytes("a\xF0\x9F") == 2);
  CHECK(unfinished_utf8_bytes("\xC3") == 1);
  CHECK(unfinished_utf8_bytes("\xE2\x82") == 2);
  for (const char* damaged :
       {"\xFF", "\xC0", "\xC1", "\xF5", "\x80", "\xE0\x80", "\xED\xA0", "\xF4\x90", "\xC3\x28", "\xE2\x82\xFF"}) {
    CHECK(unfinished_utf8_bytes(damaged) == 0);
  }
}

namespace {

void write_to(const fs::path& path, std::string_view text) {
  FileWriter writer(path);
  writer.write(text);
  writer.commit();
}

// A character device: one made in the folder, or the system's if this process can neither make one nor replace it, else
// "".
fs::path device(const TemporaryFolder& folder, const std::string& name, unsigned minor) {
  const fs::path own = folder.path / name, systems = "/dev/" + name;
  if (::mknod(own.c_str(), S_IFCHR | 0600, makedev(1, minor)) == 0 && ::access(own.c_str(), W_OK) == 0) {
    const int fd = ::open(own.c_str(), O_WRONLY | O_CLOEXEC);  // fails on a file system without devices
    if (fd >= 0) {
      ::close(fd);
      return own;
    }
  }
  return fs::exists(systems) && ::access("/dev", W_OK) != 0 ? systems : "";
}

// The bytes read from a FIFO while `body` wrote to it.
std::string read_from_fifo(const fs::path& fifo, const std::function<void()>& body) {
  const int fd = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  std::atomic<bool> written{false};
  std::string text;
  std::thread reader([&] {
    std::vector<char> part(1 << 16);
    for (;;) {
      const bool last = written;
      const ssize_t n = ::read(fd, part.data(), part.size());
      if (n > 0) {
        text.append(part.data(), static_cast<size_t>(n));
      } else if (last) {
        return;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  });
  body();
  written = true;
  reader.join();
  ::close(fd);
  return text;
}

}  // namespace

TEST_CASE("links are followed: their targets are replaced, or made") {
  const TemporaryFolder folder;
  const fs::path target = folder.write("elsewhere/target.txt", "old");
  fs::create_symlink("elsewhere/target.txt", folder.path / "link");
  fs::create_symlink("link", folder.path / "link_to_link");
  fs::create_symlink("elsewhere/new.txt", folder.path / "dangling");
  fs::create_symlink("elsewhere", folder.path / "folder_link");
  fs::create_symlink(folder.path / "elsewhere/absolute.txt", folder.path / "absolute");
  fs::create_hard_link(target, folder.path / "before");  // a new file takes the name, the old one stays unchanged
  write_to(folder.path / "link_to_link", "new");
  CHECK(MappedFile(target).text() == "new");
  CHECK(MappedFile(folder.path / "before").text() == "old");
  write_to(folder.path / "dangling", "made");
  CHECK(MappedFile(folder.path / "elsewhere/new.txt").text() == "made");
  write_to(folder.path / "absolute", "made, too");
  CHECK(MappedFile(folder.path / "elsewhere/absolute.txt").text() == "made, too");
  write_to(folder.path / "folder_link/3", "below a link");
  CHECK(MappedFile(folder.path / "elsewhere/3").text() == "below a link");
  for (const char* link : {"link", "link_to_link", "dangling", "absolute", "folder_link"}) {
    CHECK(fs::is_symlink(folder.path / link));
  }
  {
    FileWriter writer(folder.path / "link");
    writer.write("never committed");
  }
  CHECK(MappedFile(target).text() == "new");
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder.path)) {
    CHECK(entry.path().extension() != ".tmp");
  }
}

TEST_CASE("devices, FIFOs and open descriptors are written to directly") {
  const TemporaryFolder folder;
  const TemporaryFolder other;
  const fs::path null = device(other, "null", 3);
  if (null.empty()) {
    MESSAGE("skipped: a device, which cannot be made here");
  } else {
    fs::create_symlink(null, other.path / "null_link");
    for (const fs::path& path : {null, other.path / "null_link"}) {
      CHECK(written_as_it_is(path));
      check_output_file(path);
      write_to(path, "gone");
      CHECK(fs::is_character_file(path));
    }
    CHECK_FALSE(fs::is_symlink(null));
    CHECK(fs::is_symlink(other.path / "null_link"));
  }
  CHECK_FALSE(written_as_it_is(folder.path / "new.txt"));

  const fs::path fifo = folder.path / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  fs::create_symlink("fifo", folder.path / "fifo_link");
  const std::string text(3'000'001, 'x');
  for (const char* name : {"fifo", "fifo_link"}) {
    CHECK(read_from_fifo(fifo, [&] { write_to(folder.path / name, text); }) == text);
    CHECK(fs::is_fifo(fifo));
  }
  CHECK(fs::is_symlink(folder.path / "fifo_link"));

  const fs::path log = folder.write("log", "");
  const int fd = ::open(log.c_str(), O_WRONLY | O_CLOEXEC);
  REQUIRE(fd >= 0);
  REQUIRE(::write(fd, "first, ", 7) == 7);
  fs::create_symlink("/proc/self/fd/" + std::to_string(fd), folder.path / "descriptor");
  write_to(folder.path / "descriptor", "second, ");
  write_to("/proc/self/fd/" + std::to_string(fd), "third");
  ::close(fd);
  CHECK(MappedFile(log).text() == "first, second, third");
  CHECK_THROWS_WITH_AS(FileWriter("/proc/self/fd/" + std::to_string(fd)), doctest::Contains("is not open"), Error);
  const int read_only = ::open(log.c_str(), O_RDONLY | O_CLOEXEC);
  CHECK_THROWS_WITH_AS(FileWriter("/proc/self/fd/" + std::to_string(read_only)),
                       doctest::Contains("is not open for writing"), Error);
  ::close(read_only);
  CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 4);  // no .tmp
}

TEST_CASE("a full device and a closed reader are errors") {
  const TemporaryFolder folder;
  const fs::path fifo = folder.path / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  const int reader = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  FileWriter writer(fifo);
  ::close(reader);
  writer.write("some bytes");
  CHECK_THROWS_WITH_AS(writer.commit(), doctest::Contains("fifo: cannot be written: Broken pipe"), Error);
  const fs::path full = device(folder, "full", 7);
  if (full.empty()) {
    MESSAGE("skipped: a device, which cannot be made here");
    return;
  }
  CHECK_THROWS_WITH_AS(write_to(full, "some bytes"), doctest::Contains("/full: cannot be written: No space"), Error);
  CHECK(fs::is_character_file(full));
}

TEST_CASE("files that must not be replaced are refused by name and kind, and stay") {
  const TemporaryFolder folder;
  const fs::path& in = folder.path;
  fs::create_directory(in / "folder");
  fs::create_symlink("folder", in / "folder_link");
  fs::create_symlink("b", in / "a");
  fs::create_symlink("a", in / "b");
  folder.write("file", "x");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  REQUIRE((in / "socket").string().size() < sizeof address.sun_path);
  std::strcpy(address.sun_path, (in / "socket").c_str());
  const int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  struct Case {
    fs::path path;
    const char* message;
  };
  std::vector<Case> cases = {{in / "folder", "folder: is a folder"},
                             {in / "folder_link", "folder_link: is a folder"},
                             {in / ".", "is a folder"},
                             {in / "socket", "socket: is a socket"},
                             {in / "a", "a: cannot be written: Too many levels"},
                             {in / "new/", "new/': expected a file name, found a folder name: it ends in '/'"},
                             {in / "file/", "file/': expected a file name"},
                             {in / "file/below", "file/below: cannot be written: Not a directory"},
                             {in / "missing/x", "missing/x: cannot be written: "},
                             {"", "expected a file name, found none"}};
  if (::mknod((in / "block").c_str(), S_IFBLK | 0600, makedev(7, 200)) == 0) {
    cases.push_back({in / "block", "block: is a block device"});
  } else {
    MESSAGE("skipped: a block device, which only root can make");
  }
  for (const Case& c : cases) {
    CAPTURE(c.path);
    CHECK_THROWS_WITH_AS(FileWriter{c.path}, doctest::Contains(c.message), Error);
    CHECK_THROWS_WITH_AS(check_output_file(c.path), doctest::Contains(c.message), Error);
  }
  ::close(socket);
  CHECK(fs::is_socket(in / "socket"));
  CHECK(fs::is_directory(in / "folder"));
  CHECK(MappedFile(in / "file").text() == "x");

  check_output_file(in / "file");
  CHECK(MappedFile(in / "file").text() == "x");
  check_output_file(in / "new");
  CHECK_FALSE(fs::exists(in / "new"));
  CHECK_FALSE(fs::exists(in / "new.tmp"));
}

TEST_CASE("an output folder must be a folder or not exist, and the check makes nothing") {
  const TemporaryFolder folder;
  const fs::path& in = folder.path;
  fs::create_directory(in / "folder");
  fs::create_symlink("folder", in / "folder_link");
  fs::create_symlink("nowhere", in / "dangling");
  fs::create_symlink("b", in / "a");
  fs::create_symlink("a", in / "b");
  fs::create_symlink("/dev/null", in / "null");
  REQUIRE(::mkfifo((in / "fifo").c_str(), 0600) == 0);
  folder.write("file", "x");
  for (const char* good : {"folder", "folder/", "folder_link", "new", "new/below/", "folder_link/new"}) {
    CAPTURE(good);
    check_output_folder("{run}", in / good);
  }
  CHECK_FALSE(fs::exists(in / "new"));
  const std::pair<const char*, const char*> cases[] = {
      {"file", "file: expected a folder, found a file"},
      {"file/", "file: expected a folder, found a file"},
      {"file/below/more", "file: expected a folder, found a file"},
      {"fifo", "fifo: expected a folder, found a FIFO"},
      {"null", "null: expected a folder, found a character device"},
      {"dangling", "dangling: expected a folder, found a link to nowhere, which is missing"},
      {"a", "a: the folder cannot be made: Too many levels"}};
  for (const auto& [bad, message] : cases) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(check_output_folder("{run}", in / bad), doctest::Contains(message), Error);
    CHECK_THROWS_WITH_AS(check_output_folder("{run}", in / bad), doctest::Contains(("{run} " + in.string()).c_str()),
                         Error);
  }
  CHECK_THROWS_WITH_AS(check_output_folder("{run}", ""), doctest::Contains("{run}: expected a folder name"), Error);
}
