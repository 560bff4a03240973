#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <numeric>

#include "llm/support/error.h"
#include "llm/text/shards.h"

namespace fs = std::filesystem;

namespace {

struct TempDir {
  fs::path path = fs::temp_directory_path() / strprintf("wrought_test_shards_%d", ::getpid());
  TempDir() { fs::create_directories(path); }
  ~TempDir() { fs::remove_all(path); }
  fs::path operator/(const std::string& name) const { return path / name; }
};

std::string slurp(const fs::path& path) { return std::string(MappedFile(path).text()); }

void spill(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A shard's bytes, made without write_shard.
std::string shard_bytes(int32_t magic, int32_t version, int64_t count, const std::string& body) {
  std::string bytes(1024, '\0');
  const int32_t header[4] = {magic, version, static_cast<int32_t>(count), static_cast<int32_t>(count >> 32)};
  bytes.replace(0, sizeof(header), reinterpret_cast<const char*>(header), sizeof(header));
  return bytes + body;
}

std::vector<int32_t> all(const TokenSequence& sequence) {
  std::vector<int32_t> tokens(static_cast<size_t>(sequence.size()));
  sequence.copy(0, sequence.size(), tokens.data());
  return tokens;
}

std::vector<int32_t> iota(int32_t n, int32_t first = 0) {
  std::vector<int32_t> v(static_cast<size_t>(n));
  std::iota(v.begin(), v.end(), first);
  return v;
}

}  // namespace

TEST_CASE("a file written by llm.c can be opened") {
  const TempDir dir;
  spill(dir / "a.bin", shard_bytes(20240520, 1, 3, std::string("\x00\x00\x50\xC3\xFF\xFF", 6)));
  CHECK(all(TokenSequence::open((dir / "a.bin").string())) == std::vector<int32_t>{0, 50000, 65535});
}

TEST_CASE("version 1 is written as llm.c writes it, byte for byte") {
  const TempDir dir;
  write_shard(dir / "a.bin", std::vector<int32_t>{0, 50000, 65535}, 65536);
  CHECK(slurp(dir / "a.bin") == shard_bytes(20240520, 1, 3, std::string("\x00\x00\x50\xC3\xFF\xFF", 6)));
}

TEST_CASE("a vocabulary above 65,536 makes version 2") {
  const TempDir dir;
  write_shard(dir / "a.bin", std::vector<int32_t>{65536, 1}, 65537);
  CHECK(slurp(dir / "a.bin") == shard_bytes(20240520, 2, 2, std::string("\x00\x00\x01\x00\x01\x00\x00\x00", 8)));
  CHECK(all(TokenSequence::open((dir / "a.bin").string())) == std::vector<int32_t>{65536, 1});
}

TEST_CASE("a shard longer than the writer's block is read back unchanged") {
  const TempDir dir;
  for (const int vocab : {65536, 70001}) {
    std::vector<int32_t> tokens(200'003);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7919 % static_cast<size_t>(vocab));
    write_shard(dir / "a.bin", tokens, vocab);
    CHECK(all(TokenSequence::open((dir / "a.bin").string())) == tokens);
  }
}

TEST_CASE("a shard written part by part equals one written at once; without commit() the old one stays") {
  const TempDir dir;
  for (const int vocab : {300, 70001}) {
    std::vector<int32_t> tokens(3000);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i % 300);
    write_shard(dir / "whole.bin", tokens, vocab);
    {
      ShardWriter parts(dir / "parts.bin", vocab);
      for (size_t at = 0; at < tokens.size(); at += 1000) parts.write(std::span(tokens).subspan(at, 1000));
      CHECK(!fs::exists(dir / "parts.bin"));
      parts.commit();
    }
    CHECK(slurp(dir / "parts.bin") == slurp(dir / "whole.bin"));
    {
      ShardWriter again(dir / "parts.bin", vocab);
      again.write(iota(4));
      CHECK_THROWS_WITH_AS(again.write(std::vector<int32_t>{1, vocab}), doctest::Contains("token 5 is"), Error);
    }
    CHECK(slurp(dir / "parts.bin") == slurp(dir / "whole.bin"));
    fs::remove(dir / "parts.bin");
  }
  CHECK_THROWS_WITH_AS(write_shard("/dev/null", iota(4), 10), doctest::Contains("expected a file"), Error);
}

TEST_CASE("tokens that do not fit are refused, and the old shard stays") {
  const TempDir dir;
  write_shard(dir / "a.bin", iota(4), 10);
  const std::string before = slurp(dir / "a.bin");
  CHECK_THROWS_WITH_AS(write_shard(dir / "a.bin", std::vector<int32_t>{1, 10}, 10),
                       doctest::Contains("token 1 is 10, outside the vocabulary of 10"), Error);
  CHECK_THROWS_AS(write_shard(dir / "a.bin", std::vector<int32_t>{-1}, 10), Error);
  CHECK_THROWS_WITH_AS(write_shard(dir / "a.bin", {}, 10), doctest::Contains("no token"), Error);
  CHECK(slurp(dir / "a.bin") == before);
  CHECK_THROWS_AS(write_shard(dir / "missing/a.bin", iota(4), 10), Error);
}

TEST_CASE("damaged shards are refused with the reason") {
  const TempDir dir;
  const std::string four(8, '\1');  // the bytes of four uint16
  const struct {
    const char* name;
    std::string bytes, message;
  } cases[] = {
      {"empty file", "", "0 bytes"},
      {"text", "once upon a time", "16 bytes"},
      {"half a header", std::string(1023, '\0'), "1023 bytes"},
      {"magic", shard_bytes(20240522, 1, 4, four), "20240522, expected 20240520"},
      {"version 0", shard_bytes(20240520, 0, 4, four), "version 0"},
      {"version 3", shard_bytes(20240520, 3, 4, four), "version 3"},
      {"truncated", shard_bytes(20240520, 1, 5, four), "promises 5 tokens, the file holds 4"},
      {"odd byte", shard_bytes(20240520, 1, 4, four + "x"), "1 bytes follow the 4 tokens"},
      {"trailing token", shard_bytes(20240520, 1, 3, four), "2 bytes follow the 3 tokens"},
      {"cut inside a token", shard_bytes(20240520, 2, 2, four.substr(1)), "promises 2 tokens, the file holds 1"},
      {"no token", shard_bytes(20240520, 1, 0, ""), "without tokens"},
      {"negative count", shard_bytes(20240520, 1, -4, four), "promises 18446744073709551612 tokens"},
      {"largest count", shard_bytes(20240520, 1, INT64_MAX, four), "promises 9223372036854775807 tokens"},
      {"count that overflows in bytes", shard_bytes(20240520, 2, (int64_t{1} << 62) + 2, four), "the file holds 2"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.name);
    spill(dir / "bad.bin", c.bytes);
    CHECK_THROWS_WITH_AS(Shard(dir / "bad.bin"), doctest::Contains(c.message.c_str()), Error);
    CHECK_THROWS_WITH_AS(Shard(dir / "bad.bin"), doctest::Contains("bad.bin"), Error);
  }
}

TEST_CASE("a glob's shards are one sequence, sorted by name, read across their borders") {
  const TempDir dir;
  write_shard(dir / "x_3.bin", iota(30, 12), 70000);
  write_shard(dir / "x_1.bin", iota(5), 100);
  write_shard(dir / "x_2.bin", iota(7, 5), 100);
  write_shard(dir / "y.bin", iota(1), 100);
  const TokenSequence sequence = TokenSequence::open((dir / "x_*.bin").string());
  REQUIRE(sequence.size() == 42);
  CHECK(all(sequence) == iota(42));
  for (int32_t from = 0; from <= 42; ++from) {
    for (int32_t count = 0; count <= 42 - from; ++count) {
      std::vector<int32_t> part(static_cast<size_t>(count) + 1, -7);
      sequence.copy(from, count, part.data());
      REQUIRE(part.back() == -7);  // nothing past the end is written
      part.pop_back();
      REQUIRE(part == iota(count, from));
    }
  }
  int32_t none[4];
  CHECK_THROWS_AS(sequence.copy(40, 3, none), Error);
  CHECK_THROWS_AS(sequence.copy(-1, 1, none), Error);
  CHECK_THROWS_AS(sequence.copy(0, -1, none), Error);
  CHECK_THROWS_AS(sequence.copy(INT64_MAX, INT64_MAX, none), Error);
}

TEST_CASE("a name with glob characters is a file if there is one; no match and a folder are errors") {
  const TempDir dir;
  write_shard(dir / "a[1].bin", iota(3), 100);
  CHECK(TokenSequence::open((dir / "a[1].bin").string()).size() == 3);
  CHECK_THROWS_WITH_AS(TokenSequence::open((dir / "b*.bin").string()), doctest::Contains("no file matches"), Error);
  CHECK_THROWS_WITH_AS(TokenSequence::open((dir / "b.bin").string()), doctest::Contains("b.bin"), Error);
  CHECK_THROWS_WITH_AS(TokenSequence::open(dir.path.string()), doctest::Contains("a folder"), Error);
}

TEST_CASE("a list names shards and globs, in its own order, relative to its own folder") {
  const TempDir dir;
  fs::create_directory(dir / "sub");
  write_shard(dir / "sub/x_2.bin", iota(7, 5), 100);
  write_shard(dir / "sub/x_1.bin", iota(5), 100);
  write_shard(dir / "a.bin", iota(30, 12), 100);
  const std::string list = (dir / "all.list").string();
  const auto open = [&](const char* lines) {
    spill(list, lines);
    return TokenSequence::open(list);
  };
  CHECK(all(open("# the corpus\n\nsub/x_*.bin\r\na.bin")) == iota(42));
  const TokenSequence sequence = open(("a.bin\n  \n" + (dir / "sub/x_1.bin").string() + " \n").c_str());
  REQUIRE(sequence.size() == 35);
  CHECK(all(sequence)[30] == 0);
  CHECK_THROWS_WITH_AS(open("a.bin\n\nb*.bin\n"), doctest::Contains("all.list, line 3: "), Error);
  CHECK_THROWS_WITH_AS(open("a.bin\nb.bin\n"), doctest::Contains("all.list, line 2: "), Error);
  CHECK_THROWS_WITH_AS(open("all.list"), doctest::Contains("all.list, line 1: "), Error);  // a list is not a shard
  CHECK_THROWS_WITH_AS(open("# nothing\n"), doctest::Contains("names no shard"), Error);
  CHECK_THROWS_WITH_AS(TokenSequence::open((dir / "absent.list").string()), doctest::Contains("absent.list"), Error);
}

TEST_CASE("the first token outside the vocabulary is named") {
  const TempDir dir;
  for (const int vocab : {50257, 70000}) {  // both widths
    for (const size_t at : {size_t{0}, size_t{16383}, size_t{16384}, size_t{40000}}) {
      std::vector<int32_t> tokens(40001, 41);
      tokens[at] = 50256;
      tokens[40000] = 50256;
      write_shard(dir / "a.bin", std::vector<int32_t>(100, 41), vocab);
      write_shard(dir / "b.bin", tokens, vocab);
      const TokenSequence sequence = TokenSequence::open((dir / "?.bin").string());
      CHECK_NOTHROW(sequence.check_vocabulary(50257));
      CHECK_NOTHROW(sequence.check_vocabulary(1 << 20));
      const std::string message = strprintf("b.bin: token %zu is 50256, but the vocabulary has 50256 entries", at);
      CHECK_THROWS_WITH_AS(sequence.check_vocabulary(50256), doctest::Contains(message.c_str()), Error);
      CHECK_THROWS_WITH_AS(sequence.check_vocabulary(41), doctest::Contains("a.bin: token 0 is 41"), Error);
      CHECK_NOTHROW(sequence.check_vocabulary(50256, 0, 2));  // a.bin
      CHECK_THROWS_WITH_AS(sequence.check_vocabulary(50256, 1, 2), doctest::Contains(message.c_str()), Error);
      CHECK_NOTHROW(sequence.check_vocabulary(41, 2, 3));
    }
  }
  CHECK_THROWS_AS(TokenSequence::open((dir / "?.bin").string()).check_vocabulary(0), Error);
}

TEST_CASE("an id that no int32 holds is an error, not a negative token") {
  const TempDir dir;
  spill(dir / "a.bin", shard_bytes(20240520, 2, 3, std::string("\1\0\0\0\2\0\0\0\0\0\0\x80", 12)));
  const TokenSequence sequence = TokenSequence::open((dir / "a.bin").string());
  int32_t tokens[3];
  CHECK_NOTHROW(sequence.copy(0, 2, tokens));
  CHECK_THROWS_WITH_AS(sequence.copy(0, 3, tokens), doctest::Contains("token 2 is 2147483648"), Error);
  CHECK_THROWS_WITH_AS(sequence.check_vocabulary(INT32_MAX), doctest::Contains("token 2 is 2147483648"), Error);
}

TEST_CASE("the checksum tells different data from equal data") {
  const TempDir dir;
  const auto checksum = [&](const std::vector<int32_t>& tokens) {
    write_shard(dir / "a.bin", tokens, 50257);
    return TokenSequence::open((dir / "a.bin").string()).checksum();
  };
  std::vector<int32_t> tokens = iota(1000), large = iota(50000);
  const std::string before = checksum(tokens), large_before = checksum(large);
  CHECK(before.size() == 16);
  CHECK(checksum(tokens) == before);
  CHECK(checksum(large) == large_before);
  tokens[999] = 7;
  large[49999] = 7;
  CHECK(checksum(tokens) != before);
  CHECK(checksum(large) != large_before);
  large.pop_back();
  CHECK(checksum(large) != large_before);
}

TEST_CASE("positions beyond 2^32 tokens are read at the right place") {
  const TempDir dir;
  const fs::path path = dir / "huge.bin";
  const int64_t count = 5'000'000'000;  // a file of 10 GB with holes: it takes a few pages on the disk
  const int64_t marks[] = {0, (int64_t{1} << 31) - 1, int64_t{1} << 31, (int64_t{1} << 32) + 5, count - 1};
  spill(path, shard_bytes(20240520, 1, count, ""));
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  bool made = ::ftruncate(fd, 1024 + 2 * count) == 0;
  uint16_t id = 100;
  for (const int64_t at : marks) {
    made = made && ::pwrite(fd, &id, 2, 1024 + 2 * at) == 2;
    ++id;
  }
  struct stat status = {};
  made = made && ::fstat(fd, &status) == 0 && status.st_blocks < 100'000;
  ::close(fd);
  if (!made) {
    MESSAGE("skipped: the file system of " << dir.path << " does not make files with holes");
    return;
  }
  const TokenSequence sequence = TokenSequence::open(path.string());
  REQUIRE(sequence.size() == count);
  int32_t expected = 100;
  for (const int64_t at : marks) {
    int32_t found = -1;
    sequence.copy(at, 1, &found);
    CHECK(found == expected++);
  }
  int32_t around[4];
  sequence.copy((int64_t{1} << 31) - 2, 4, around);
  CHECK(std::vector<int32_t>(around, around + 4) == std::vector<int32_t>{0, 101, 102, 0});
  CHECK_THROWS_AS(sequence.copy(count, 1, around), Error);
}
