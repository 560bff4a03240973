// Chapter 2's tokenizers: words, and the simplest byte-pair encoding.
#include <doctest/doctest.h>

#include "apps/book/book_tokenizers.h"
#include "llm/support/error.h"

namespace {

using Ids = std::vector<int32_t>;
using Words = std::vector<std::string_view>;

}  // namespace

TEST_CASE("words are cut at white space and around punctuation") {
  CHECK(split_words("Hello, world. Is this-- a test?") ==
        Words{"Hello", ",", "world", ".", "Is", "this", "--", "a", "test", "?"});
  CHECK(split_words("It's \"so\"_(no)!:;") ==
        Words{"It", "'", "s", "\"", "so", "\"", "_", "(", "no", ")", "!", ":", ";"});
  CHECK(split_words("a---b - c----d") == Words{"a", "--", "-b", "-", "c", "--", "--", "d"});
  CHECK(split_words("caf\u00e9\u00a0au\nlait\u2009\t") == Words{"caf\u00e9", "au", "lait"});  // Unicode's spaces, too
  CHECK(split_words("").empty());
  CHECK(split_words(" \n").empty());
}

TEST_CASE("words are numbered in sorted order, and unknown words become <|unk|>") {
  const WordTokenizer words("the tea, the lake.\n");
  CHECK(words.size() == 7);  // , . lake tea the <|endoftext|> <|unk|>
  CHECK(words.encode("lake, the <|endoftext|> sea.") == Ids{2, 0, 4, 5, 6, 1});
  CHECK(words.decode(Ids{4, 2, 0, 6, 5, 3, 1}) == "the lake, <|unk|> <|endoftext|> tea.");
  CHECK(words.decode(Ids{}) == "");
  CHECK(words.encode("").empty());
  CHECK(WordTokenizer("").size() == 2);
  for (const int32_t id : {-1, 7}) CHECK_THROWS_WITH_AS(words.decode(Ids{id}), doctest::Contains("0 to 6"), Error);
}

TEST_CASE("merges take the most frequent pair; among equals, the first in the text") {
  const SimpleBpe bpe("ab\nxy\nxy\ncd", 260);  // "xy" occurs twice, "ab" precedes "cd"
  CHECK(bpe.size() == 260);
  CHECK(bpe.merges() == 2);
  CHECK(bpe.encode("xy") == Ids{258});
  CHECK(bpe.encode("ab") == Ids{259});
  CHECK(bpe.encode("b") == Ids{'b'});
  CHECK(bpe.encode(" xy") == Ids{256, 258});
  CHECK(bpe.encode("aab") == Ids{'a', 259});
  CHECK(bpe.encode("cd") == Ids{'c', 'd'});
}

TEST_CASE("pieces: a space before a word belongs to it, other spaces and line breaks are separate pieces") {
  const SimpleBpe none("", 258);
  CHECK(none.encode("a  b \r\n c\t d ") == Ids{'a', 256, 256, 'b', 256, '\r', '\n', 256, 'c', 256, 'd', 256});
  // No merge crosses the end of a piece, however frequent the pair.
  const SimpleBpe bpe("a\na\na\na\na b a b", 300);
  CHECK(bpe.encode("a\na") == Ids{'a', '\n', 'a'});
  CHECK(bpe.merges() == 2);  // " b" and " a", then no pair is left
  CHECK(bpe.encode("a b a") == Ids{'a', 258, 259});
}

TEST_CASE("encoding merges from left to right, not by rank") {
  const SimpleBpe bpe("bc\nbc\nbc\nab\nab", 260);  // "bc" is learnt first: by rank, "abc" would become a + bc
  CHECK(bpe.encode("bc") == Ids{258});
  CHECK(bpe.encode("ab") == Ids{259});
  CHECK(bpe.encode("abc") == Ids{259, 'c'});
  CHECK(bpe.encode("bcab") == Ids{258, 259});
}

TEST_CASE("characters beyond 255 follow the first 256, <|endoftext|> follows all of them") {
  const SimpleBpe bpe("\u20ac\u20ac \u03b1", 261);
  CHECK(bpe.encode("\u00e9") == Ids{0xE9});
  CHECK(bpe.encode("<|endoftext|>") == Ids{259});  // after U+0120, alpha and the euro sign
  CHECK(bpe.encode("\u03b1") == Ids{257});
  CHECK(bpe.encode("\u20ac") == Ids{258});
  CHECK(bpe.encode("\u20ac\u20ac") == Ids{260});
  CHECK(bpe.decode(Ids{260, 256, 257, 0xE9, 259}) == "\u20ac\u20ac \u03b1\u00e9<|endoftext|>");
  CHECK_THROWS_WITH_AS(bpe.encode("\u2615"), doctest::Contains("\u2615"), Error);
  for (const int32_t id : {-1, 261}) CHECK_THROWS_WITH_AS(bpe.decode(Ids{id}), doctest::Contains("0 to 260"), Error);
}

TEST_CASE("a vocabulary that is too small and text that is not UTF-8 are refused") {
  CHECK_THROWS_WITH_AS(SimpleBpe("abc", 257), doctest::Contains("<|endoftext|> are 258"), UsageError);
  CHECK_THROWS_WITH_AS(SimpleBpe("ab\xff", 300), doctest::Contains("byte 2 (0xFF)"), Error);
}

TEST_CASE("decoding gives back the text") {
  const std::string text = "One old fisherman mended his net.\n\nThe other fishermen's nets, too:  all nets.\r\n ";
  const SimpleBpe bpe(text + text, 320);
  CHECK(bpe.merges() > 20);
  CHECK(bpe.decode(bpe.encode(text)) == text);
}
