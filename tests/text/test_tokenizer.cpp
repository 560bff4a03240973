#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/tokenizer.h"

namespace fs = std::filesystem;

namespace {

using Ids = std::vector<int32_t>;

std::string golden_text() { return std::string(MappedFile(GOLDEN_DIR "/tokenizer_text.txt").text()); }
Tokenizer golden_bpe() { return Tokenizer::load(GOLDEN_DIR "/tokenizer_bpe.json"); }

std::string random_bytes(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::string text(n, '\0');
  for (char& c : text) c = static_cast<char>(rng());
  return text;
}

}  // namespace

TEST_CASE("bytes and BPE decode to the original text, valid or not") {
  const std::vector<std::string> texts = {"",
                                          "a",
                                          "Hello, world",
                                          "  \n\n\t ",
                                          "\U0001F468\u200D\U0001F469\u200D\U0001F467 \u0301e\u0301",
                                          std::string(70'000, 'a'),
                                          std::string(5'000, ' '),
                                          std::string(3, '\0'),
                                          random_bytes(10'000, 1),
                                          golden_text()};
  for (const Tokenizer& tokenizer : {Tokenizer::bytes(), golden_bpe(), Tokenizer::train_bpe(golden_text(), 700)}) {
    for (const std::string& text : texts) {
      CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
      CHECK(tokenizer.decode(tokenizer.encode(text, Special::parsed)) == text);
    }
  }
}

TEST_CASE("a byte's id is its value") {
  const Tokenizer tokenizer = Tokenizer::bytes();
  CHECK(tokenizer.kind() == "bytes");
  CHECK(tokenizer.vocab_size() == 257);
  CHECK(tokenizer.end_of_text() == 256);
  CHECK(tokenizer.encode("a\xFF") == Ids{97, 255});
  CHECK(tokenizer.encode("a<|endoftext|>", Special::parsed) == Ids{97, 256});
  CHECK(tokenizer.encode("<|endoftext|>").size() == 13);
}

TEST_CASE("characters are numbered by code point") {
  const Tokenizer tokenizer = Tokenizer::chars("baé<|endoftext|>\n中ab\U0001F600");
  CHECK(tokenizer.kind() == "chars");
  CHECK(tokenizer.vocab_size() == 7);  // \n a b é 中 😀 and the end of text, whose own letters do not count
  CHECK(tokenizer.encode("ab\né😀中") == Ids{1, 2, 0, 3, 5, 4});
  CHECK(tokenizer.decode(Ids{4, 5, 0}) == "中😀\n");
  CHECK(tokenizer.encode("a<|endoftext|>b", Special::parsed) == Ids{1, 6, 2});
  CHECK_THROWS_WITH_AS(tokenizer.encode("abz"), doctest::Contains("U+007A ('z') at byte 2"), Error);
  CHECK_THROWS_WITH_AS(tokenizer.encode("<|endoftext|>中x", Special::parsed), doctest::Contains("'x') at byte 16"),
                       Error);
  CHECK_THROWS_WITH_AS(tokenizer.encode("ab\xFF"), doctest::Contains("byte 2 (0xFF)"), Error);
  CHECK_THROWS_WITH_AS(Tokenizer::chars("a\xE4"), doctest::Contains("byte 1 (0xE4)"), Error);
  CHECK_THROWS_AS(Tokenizer::chars(""), Error);
}

TEST_CASE("BPE training merges the most frequent pair first, and ends when no pair occurs twice") {
  const Tokenizer tokenizer = Tokenizer::train_bpe("low low low lower lowest newer newest", 270);
  CHECK(tokenizer.kind() == "bpe");
  CHECK(tokenizer.bytes_of(0) == "!");  // GPT-2's order of the bytes
  CHECK(tokenizer.bytes_of(188) == std::string(1, '\0'));
  CHECK(tokenizer.bytes_of(256) == "lo");  // 5 times as l+o and as o+w: the smaller pair wins
  CHECK(tokenizer.bytes_of(257) == "low");
  CHECK(tokenizer.bytes_of(258) == " low");
  CHECK(tokenizer.end_of_text() == tokenizer.vocab_size() - 1);
  CHECK(tokenizer.vocab_size() <= 270);
  // No pair twice: 256 bytes and end-of-text remain. No merge crosses the end of a document.
  CHECK(Tokenizer::train_bpe("abcd", 1000).vocab_size() == 257);
  CHECK(Tokenizer::train_bpe("ab<|endoftext|>ba<|endoftext|>", 1000).vocab_size() == 257);
  CHECK(Tokenizer::train_bpe("", 300).vocab_size() == 257);
  CHECK_THROWS_AS(Tokenizer::train_bpe("abc", 256), UsageError);
  CHECK_THROWS_AS(Tokenizer::train_bpe("abc", 1 << 22), UsageError);
  CHECK_THROWS_WITH_AS(Tokenizer::train_bpe("abc\xFF", 300), doctest::Contains("byte 3 (0xFF)"), Error);
}

TEST_CASE("special tokens are parsed only on request, and never change the split of other text") {
  const Tokenizer tokenizer = golden_bpe();
  const int end = tokenizer.end_of_text();
  CHECK(tokenizer.is_special(end));
  CHECK_FALSE(tokenizer.is_special(0));
  CHECK(tokenizer.bytes_of(end) == "");
  CHECK(tokenizer.encode("<|endoftext|><|endoftext|>", Special::parsed) == Ids{end, end});
  Ids expected = tokenizer.encode("one  ");  // the spaces are at the end of their text
  expected.push_back(end);
  for (const int32_t id : tokenizer.encode(" two <|endoftext|")) expected.push_back(id);
  CHECK(tokenizer.encode("one  <|endoftext|> two <|endoftext|", Special::parsed) == expected);
  for (const int32_t id : tokenizer.encode("<|endoftext|>")) CHECK(id != end);
}

TEST_CASE("ids outside the vocabulary are errors") {
  const Tokenizer tokenizer = Tokenizer::bytes();
  CHECK_THROWS_WITH_AS(tokenizer.decode(Ids{1, 257}), doctest::Contains("257 is outside"), Error);
  CHECK_THROWS_AS(tokenizer.decode(Ids{-1}), Error);
  CHECK_THROWS_AS(tokenizer.bytes_of(300), Error);
  CHECK_THROWS_AS(StreamDecoder(tokenizer).next(-5), Error);
}

TEST_CASE("many threads give the same ids as one") {
  std::string text, unbroken;
  for (int k = 0; k < 8; ++k) text += golden_text() + (k % 3 == 0 ? "<|endoftext|>" : " \n");
  for (int k = 0; k < 2000; ++k) unbroken += "no<|endoftext|>space" + std::to_string(k * k);
  for (const Tokenizer& tokenizer : {Tokenizer::bytes(), Tokenizer::chars(text + unbroken), golden_bpe()}) {
    for (const std::string& input : {text, unbroken, std::string(50'000, ' '), std::string(50'000, '\n') + "a"}) {
      for (const Special special : {Special::text, Special::parsed}) {
        const Ids expected = tokenizer.encode(input, special);
        for (int threads = 0; threads <= 4; ++threads) {
          CAPTURE(threads);
          CHECK(tokenizer.encode_parallel(input, special, threads) == expected);
        }
      }
    }
  }
  // Parts of a megabyte, several for each thread.
  std::string megabytes;
  while (megabytes.size() < (size_t{5} << 20)) megabytes += text + unbroken;
  const Tokenizer bpe = golden_bpe();
  const Ids expected = bpe.encode(megabytes, Special::parsed);
  for (const int threads : {1, 2, 3}) {
    Ids ids;
    size_t largest = 0;
    bpe.encode_parts(megabytes, Special::parsed, threads, [&](std::span<const int32_t> part) {
      ids.insert(ids.end(), part.begin(), part.end());
      largest = std::max(largest, part.size());
    });
    CHECK(ids == expected);
    CHECK(largest < (size_t{1} << 20) + 4096);
  }
  // No cut falls within a special token, even one with spaces in it.
  const fs::path path = fs::temp_directory_path() / "wrought_test_tokenizer_space.json";
  std::string file(MappedFile(GOLDEN_DIR "/tokenizer_bpe.json").text());
  for (size_t at = 0; (at = file.find(kEndOfText, at)) != std::string::npos; at += 3)
    file.replace(at, kEndOfText.size(), "a b c d");
  std::ofstream(path) << file;
  const Tokenizer spaced = Tokenizer::load(path);
  std::string tokens;
  for (int k = 0; k < 4000; ++k) tokens += k % 7 == 0 ? "a b c da b" : " a b c d";
  CHECK(spaced.encode_parallel(tokens, Special::parsed, 4) == spaced.encode(tokens, Special::parsed));
  fs::remove(path);
  CHECK_THROWS_AS(spaced.encode_parallel("a", Special::text, -1), UsageError);
}

TEST_CASE("an error on one thread names its place in the whole text") {
  const Tokenizer tokenizer = Tokenizer::chars("ab ");
  std::string text;
  for (int k = 0; k < 20'000; ++k) text += "ab ";
  text[59'002] = 'x';
  CHECK_THROWS_WITH_AS(tokenizer.encode_parallel(text, Special::text, 4), doctest::Contains("at byte 59002"), Error);
  std::string later(size_t{3} << 20, 'a');
  for (size_t k = 2; k < later.size(); k += 3) later[k] = ' ';
  later[2'500'000] = 'x';
  CHECK_THROWS_WITH_AS(tokenizer.encode_parallel(later, Special::text, 2), doctest::Contains("at byte 2500000"), Error);
}

TEST_CASE("one tokenizer serves many threads at once") {
  const Tokenizer tokenizer = golden_bpe();
  const std::string text = golden_text();
  const Ids expected = tokenizer.encode(text);
  std::vector<int> equal(4, 0);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int k = 0; k < 20; ++k)
          equal[static_cast<size_t>(t)] += tokenizer.encode(text) == expected && tokenizer.decode(expected) == text;
      });
    }
  }
  CHECK(equal == std::vector<int>(4, 20));
}

TEST_CASE("a stream of ids is valid UTF-8 at every step and at the end the whole text") {
  const Tokenizer bytes = Tokenizer::bytes(), bpe = golden_bpe();
  for (const std::string& text : {golden_text().substr(0, 3000), random_bytes(4000, 5), std::string("\xF0\x9F\x98"),
                                  std::string("\xED\xA0\x80\xE2\x82z\xF4\x90"), std::string("é\xE2")}) {
    for (const Tokenizer& tokenizer : {bytes, bpe}) {
      StreamDecoder decoder(tokenizer);
      std::string joined;
      for (const int32_t id : tokenizer.encode(text)) {
        const std::string part = decoder.next(id);
        REQUIRE(find_invalid_utf8(part) == std::string_view::npos);
        joined += part;
      }
      CHECK(joined + decoder.finish() == replace_invalid_utf8(text));
      CHECK(decoder.finish() == "");
    }
  }
  // A character is output with its last byte, not earlier and not later.
  StreamDecoder decoder(bytes);
  const std::string smile = "\U0001F600";
  for (size_t k = 0; k < 3; ++k) CHECK(decoder.next(static_cast<unsigned char>(smile[k])) == "");
  CHECK(decoder.next(static_cast<unsigned char>(smile[3])) == smile);
  CHECK(decoder.next(0xE2) == "");
  CHECK(decoder.next('a') == "\uFFFDa");
}

TEST_CASE("a long text without a space is encoded in n log n") {
  // Quadratic work on a megabyte would take the better part of an hour and exceed this test's time limit.
  std::string text(1 << 20, 'a');
  const Tokenizer tokenizer = golden_bpe();
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  std::mt19937 rng(9);
  for (char& c : text) c = static_cast<char>('a' + rng() % 26);
  CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  const Tokenizer trained = Tokenizer::train_bpe(text, 1000);
  CHECK(trained.vocab_size() == 1000);
  CHECK(trained.decode(trained.encode(text)) == text);
}

TEST_CASE("the checksum depends on the vocabulary, and only on it") {
  const Tokenizer a = Tokenizer::train_bpe(golden_text(), 400), b = Tokenizer::train_bpe(golden_text(), 400);
  CHECK(a.checksum().size() == 16);
  CHECK(a.checksum() == b.checksum());
  CHECK(a.checksum() != Tokenizer::train_bpe(golden_text(), 401).checksum());
  CHECK(Tokenizer::chars("ab").checksum() != Tokenizer::chars("ac").checksum());
  CHECK(Tokenizer::chars("ab").checksum() != Tokenizer::bytes().checksum());
}

TEST_CASE("tokenizers are made from names") {
  CHECK(make_tokenizer("bytes", "").kind() == "bytes");
  CHECK(make_tokenizer("chars", "abc").vocab_size() == 4);
  CHECK(make_tokenizer("bpe:300", golden_text()).vocab_size() == 300);
  CHECK(make_tokenizer(GOLDEN_DIR "/tokenizer_bpe.json", "").checksum() == golden_bpe().checksum());
  CHECK(tokenizer_needs_text("chars"));
  CHECK(tokenizer_needs_text("bpe:300"));
  CHECK_FALSE(tokenizer_needs_text("gpt2"));
  for (const char* bad : {"", "byte", "bpe:", "bpe:x", "bpe:-5", "bpe:3.5", "bpe:99999999999999999999", "bpe:12"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(make_tokenizer(bad, "text"), UsageError);
  }
  // gpt2 is searched in $WROUGHT_DATA (a small stand-in here) and below the current folder.
  const fs::path folder = fs::temp_directory_path() / "wrought_test_tokenizer_names";
  fs::create_directories(folder / "gpt2");
  const fs::path here = fs::current_path();
  fs::current_path(folder);
  setenv("WROUGHT_DATA", (folder / "none").c_str(), 1);
  CHECK_THROWS_WITH_AS(make_tokenizer("gpt2", ""), doctest::Contains("dev/data/gpt2_tokenizer.sh"), Error);
  setenv("WROUGHT_DATA", folder.c_str(), 1);
  fs::copy_file(GOLDEN_DIR "/tokenizer_bpe.json", folder / "gpt2" / "tokenizer.json",
                fs::copy_options::overwrite_existing);
  CHECK(make_tokenizer("gpt2", "").checksum() == golden_bpe().checksum());
  unsetenv("WROUGHT_DATA");
  fs::current_path(here);
  fs::remove_all(folder);
}
