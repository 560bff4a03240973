#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/corpus.h"
#include "llm/text/shards.h"

namespace fs = std::filesystem;

namespace {

struct TempDir {
  fs::path path = fs::temp_directory_path() / strprintf("wrought_test_corpus_%d", ::getpid());
  TempDir() { fs::create_directories(path); }
  ~TempDir() { fs::remove_all(path); }
  fs::path operator/(const std::string& name) const { return path / name; }
};

void spill(const fs::path& path, std::string_view bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string repeat(std::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

// The training part when a fraction of `val` is for validation.
std::string train_part(std::string_view text, double val) {
  return std::string(text.substr(0, validation_begin(text, val)));
}

}  // namespace

// ---- reading -------------------------------------------------------------------------------------------------------

TEST_CASE("a file is read unchanged, whatever its name") {
  const TempDir dir;
  const std::string text = "caf\xC3\xA9\r\n" + std::string(1, '\0') + "<|endoftext|>\n";
  spill(dir / "book", text);
  CHECK(read_corpus(dir / "book", false) == text);
  CHECK(read_corpus(dir / "book", true) == text);
}

TEST_CASE("a folder's texts are joined in the order of their paths") {
  const TempDir dir;
  spill(dir / "b.txt", "B");
  spill(dir / "a/z.md", "AZ");
  spill(dir / "a/deep/er/y.text", "AY");
  spill(dir / "c.txt", "");               // empty: no document
  spill(dir / "d.csv", "not text");       // another ending
  spill(dir / "e.txt.gz", "\xFF");        // another ending
  spill(dir / ".hidden.txt", "\xFF");     // hidden
  spill(dir / ".git/notes.txt", "\xFF");  // in a hidden folder
  fs::create_directories(dir / "folder.txt");
  CHECK(read_corpus(dir.path, false) == "AY<|endoftext|>AZ<|endoftext|>B");
}

TEST_CASE("links to files are followed; a broken link and a pipe are errors, not a hang") {
  const TempDir dir;
  spill(dir / "elsewhere", "linked");
  spill(dir / "texts/a.txt", "A");
  fs::create_symlink(dir / "elsewhere", dir / "texts/b.txt");
  fs::create_directory_symlink(dir.path, dir / "texts/loop");
  CHECK(read_corpus(dir / "texts", false) == "A<|endoftext|>linked");
  fs::remove(dir / "elsewhere");
  CHECK_THROWS_WITH_AS(read_corpus(dir / "texts", false), doctest::Contains("b.txt"), Error);
  fs::remove(dir / "texts/b.txt");
  REQUIRE(::mkfifo((dir / "texts/c.txt").c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(read_corpus(dir / "texts", false), doctest::Contains("c.txt: expected a file"), Error);
}

TEST_CASE("missing, empty and unreadable texts are errors that name the file") {
  const TempDir dir;
  CHECK_THROWS_WITH_AS(read_corpus(dir / "none.txt", false), doctest::Contains("none.txt: cannot be read"), Error);
  CHECK_THROWS_WITH_AS(read_corpus(dir.path, false), doctest::Contains("holds no text"), Error);
  spill(dir / "empty.txt", "");
  CHECK_THROWS_WITH_AS(read_corpus(dir / "empty.txt", false), doctest::Contains("empty.txt: the file is empty"), Error);
  CHECK_THROWS_WITH_AS(read_corpus(dir.path, false), doctest::Contains("all 1 text files"), Error);
  if (::geteuid() == 0) {
    MESSAGE("skipped: files without permission, because root reads them all the same");
    return;
  }
  spill(dir / "secret.txt", "text");
  fs::permissions(dir / "secret.txt", fs::perms::none);
  CHECK_THROWS_WITH_AS(read_corpus(dir / "secret.txt", false), doctest::Contains("secret.txt"), Error);
  fs::remove(dir / "secret.txt");
  fs::create_directories(dir / "closed");
  fs::permissions(dir / "closed", fs::perms::none);
  CHECK_THROWS_WITH_AS(read_corpus(dir.path, false), doctest::Contains("cannot be read"), Error);
  fs::permissions(dir / "closed", fs::perms::owner_all);
}

TEST_CASE("text that is not UTF-8 is reported by file and byte, or repaired by --lossy") {
  const TempDir dir;
  spill(dir / "a.txt", "good");
  spill(dir / "b.txt", repeat("x", 70'000) + "\xE9t\xE9");  // Latin-1
  for (const fs::path& path : {dir.path, dir / "b.txt"}) {
    CHECK_THROWS_WITH_AS(read_corpus(path, false), doctest::Contains("b.txt: not UTF-8: byte 0xE9 at offset 70000"),
                         Error);
    CHECK_THROWS_WITH_AS(read_corpus(path, false), doctest::Contains("{lossy}"), Error);
  }
  CHECK(read_corpus(dir.path, true) == "good<|endoftext|>" + repeat("x", 70'000) + "\xEF\xBF\xBDt\xEF\xBF\xBD");
}

// ---- train and validation ------------------------------------------------------------------------------------------

TEST_CASE("--lossy repairs a text in stretches as it does as a whole") {
  const TempDir dir;
  std::string bytes;  // longer than a stretch, with no border of a stretch between two characters
  for (const char* piece :
       {"a\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xE2\x82", "\xFF", "\x80\x80\x80\x80\x80", "\xF0\x9F\x98"}) {
    for (int k = 0; k < 300'000; ++k) bytes += piece;
  }
  spill(dir / "a.txt", bytes);
  CHECK(read_corpus(dir / "a.txt", true) == replace_invalid_utf8(bytes));
}

TEST_CASE("text without documents is cut by characters, not bytes, and never inside one") {
  CHECK(train_part("0123456789", 0.1) == "012345678");
  CHECK(train_part("0123456789", 0.25) == "0123456");  // 7.5 characters train: the half character is for validation
  CHECK(train_part("\xC3\xA9\xE2\x82\xAC"
                   "abcdefg\xF0\x9F\x98\x80",
                   0.1) ==
        "\xC3\xA9\xE2\x82\xAC"
        "abcdefg");
  CHECK(train_part("aaaaa" + repeat("\xF0\x9F\x98\x80", 5), 0.5) == "aaaaa");
  const std::string snow = repeat("\xE2\x98\x83", 10'000);  // longer than the counter's block
  for (const int percent : {1, 33, 50, 77, 99}) {
    CHECK(validation_begin(snow, percent / 100.0) == 3 * static_cast<size_t>((1 - percent / 100.0) * 10'000));
  }
  // The sizes of tinyshakespeare (nanoGPT's train part) and the-verdict (the train part of the book).
  CHECK(validation_begin(std::string(1'115'394, 'x'), 0.1) == 1'003'854);
  CHECK(validation_begin(std::string(20'479, 'x'), 0.1) == 18'431);
}

TEST_CASE("documents stay whole: validation begins after the marker nearest to the requested place") {
  const std::string end(kEndOfText);
  const auto doc = [](char name, int n) { return std::string(static_cast<size_t>(n), name); };
  const std::string two = doc('a', 60) + end + doc('b', 40);
  for (const double val : {0.01, 0.1, 0.5, 0.9, 0.99}) CHECK(train_part(two, val) == doc('a', 60) + end);
  const std::string many = repeat(doc('a', 87) + end, 10);  // 100 bytes each, also after the last
  CHECK(validation_begin(many, 0.1) == 900);
  CHECK(validation_begin(many, 0.12) == 900);
  CHECK(validation_begin(many, 0.15) == 800);  // as far from 800 as from 900
  CHECK(validation_begin(many, 0.16) == 800);
  CHECK(validation_begin(many, 0.001) == 900);  // never after the last document,
  CHECK(validation_begin(many, 0.999) == 100);  // nor before the first
  CHECK(validation_begin(many + "\n" + end + "\n", 0.001) == 900);
  CHECK(validation_begin(end + "\n" + many, 0.999) == end.size() + 1 + 100);
}

TEST_CASE("one document with markers around it is cut inside, never in a marker") {
  const std::string end(kEndOfText);
  CHECK(train_part(repeat("x", 87) + end, 0.5) == repeat("x", 50));
  CHECK(train_part(end + repeat("x", 87), 0.5) == end + repeat("x", 37));
  CHECK_THROWS_AS(validation_begin(repeat("x", 87) + end, 0.1), Error);   // the last tenth is within the marker
  CHECK_THROWS_AS(validation_begin(repeat("x", 87) + end, 0.13), Error);  // and so is the last 13 %
  CHECK_THROWS_AS(validation_begin(end + repeat("x", 87), 0.95), Error);
}

TEST_CASE("a part without text and a fraction out of range are errors") {
  const std::string end(kEndOfText);
  for (const std::string& text : {std::string(), std::string("x"), std::string(" \n\n"), end, end + "\n" + end + end}) {
    CHECK_THROWS_WITH_AS(validation_begin(text, 0.5), doctest::Contains("too short"), Error);
  }
  CHECK_THROWS_WITH_AS(validation_begin("only nine", 0.999), doctest::Contains("9 characters"), Error);
  for (const double val : {0.0, 1.0, -0.1, 1.5, std::nan(""), HUGE_VAL}) {
    CHECK_THROWS_AS(validation_begin("0123456789", val), UsageError);
  }
}

// ---- shards --------------------------------------------------------------------------------------------------------

TEST_CASE("prepare_shards writes both parts, and the marker as the special token") {
  const TempDir dir;
  const Tokenizer tokenizer = Tokenizer::bytes();
  const std::string text = repeat("once<|endoftext|>", 9) + "upon";
  const PreparedData prepared = prepare_shards(text, tokenizer, 0.05, dir / "new/folder", 2);
  CHECK(prepared.train == dir / "new/folder/train.bin");
  CHECK(prepared.val == dir / "new/folder/val.bin");
  const TokenSequence train = TokenSequence::open(prepared.train.string());
  const TokenSequence val = TokenSequence::open(prepared.val.string());
  REQUIRE(train.size() == 9 * 5);
  REQUIRE(val.size() == 4);
  std::vector<int32_t> tokens(49);
  train.copy(0, 45, tokens.data());
  val.copy(0, 4, tokens.data() + 45);
  CHECK(tokens == tokenizer.encode(text, Special::parsed));
  CHECK(tokens[4] == tokenizer.end_of_text());
  CHECK_NOTHROW(train.check_vocabulary(tokenizer.vocab_size()));
}

TEST_CASE("prepare_shards that fails leaves the previous shards") {
  const TempDir dir;
  const Tokenizer tokenizer = Tokenizer::chars("abc");
  const PreparedData before = prepare_shards("abcabcabca", tokenizer, 0.5, dir.path, 1);
  CHECK_THROWS_AS(prepare_shards("aaaaaaaaaZ", tokenizer, 0.5, dir.path, 1), Error);  // Z, in the second part
  CHECK_THROWS_AS(prepare_shards("a", tokenizer, 0.5, dir.path, 1), Error);
  int32_t token = -1;
  TokenSequence::open(before.train.string()).copy(1, 1, &token);
  CHECK(token == 1);
  CHECK_THROWS_AS(prepare_shards("abcabcabca", tokenizer, 0.5, "/dev/null/folder", 1), Error);
}
