#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <set>

#include "llm/corpora/stories.h"
#include "llm/support/error.h"
#include "tests/helpers/test_set.h"

namespace {

const StoryGrammar& builtin() { return StoryGrammar::builtin(); }

std::string story(uint64_t seed, uint64_t index) {
  std::string text;
  builtin().generate(seed, index, text);
  return text;
}

// Runs of letters, in lower case.
std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words(1);
  for (char c : text) {
    if (std::isalpha(static_cast<unsigned char>(c))) {
      words.back() += static_cast<char>(std::tolower(c));
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  if (words.back().empty()) words.pop_back();
  return words;
}

}  // namespace

// ---- the floor -----------------------------------------------------------------------------------------------------

TEST_CASE("a small grammar has the entropy and the probabilities worked out by hand") {
  // Phrases have probabilities 1/21 and 1/22, words 1/81 and 1/100. The first phrase draws again; the cat is certain.
  const StoryGrammar grammar("story:\n  It is $a $hue $thing.\n  Nothing.\nhue =\n  odd, red\nthing =\n  cat\n");
  const double p = 22.0 / 43, q = 21.0 / 43, odd = 100.0 / 181, red = 81.0 / 181;
  const double choice = -p * std::log(p) - q * std::log(q), colour = -odd * std::log(odd) - red * std::log(red);
  CHECK(grammar.entropy() == doctest::Approx(choice + p * colour).epsilon(1e-6));
  std::map<std::string, int> count;
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    const double nats = grammar.generate(7, static_cast<uint64_t>(i), text);
    ++count[text];
    const double expected = text == "Nothing." ? q : text == "It is an odd cat." ? p * odd : p * red;
    CHECK(nats == doctest::Approx(-std::log(expected)).epsilon(1e-6));
  }
  REQUIRE(count.size() == 3);
  CHECK(std::abs(count["Nothing."] / 20000.0 - q) < 5 * std::sqrt(q * (1 - q) / 20000));
  CHECK(std::abs(count["It is an odd cat."] / 20000.0 - p * odd) < 5 * std::sqrt(p * odd * (1 - p * odd) / 20000));
}

TEST_CASE("the mean of -log p over many stories is the grammar's entropy within five standard errors") {
  const int n = 40000;
  double sum = 0, squares = 0;
  std::string text;
  for (int i = 0; i < n; ++i) {
    text.clear();
    const double nats = builtin().generate(3, static_cast<uint64_t>(i), text);
    sum += nats;
    squares += nats * nats;
  }
  const double mean = sum / n, standard_error = std::sqrt((squares / n - mean * mean) / n);
  CHECK(standard_error < 0.01 * mean);
  CHECK(std::abs(mean - builtin().entropy()) < 5 * standard_error);
}

// ---- one text, one derivation --------------------------------------------------------------------------------------

TEST_CASE("no story of the built-in grammar has two derivations" * full_set()) {
  CHECK(builtin().find_ambiguity() == "");
}

TEST_CASE("the parser finds, from the text only, one derivation of each story, with the same probability") {
  for (uint64_t i = 0; i < 3000; ++i) {
    std::string text;
    const double nats = builtin().generate(11, i, text);
    const StoryGrammar::Parse parse = builtin().parse(text);
    REQUIRE_MESSAGE(parse.derivations == 1, text);
    REQUIRE(parse.nats == doctest::Approx(nats).epsilon(1e-12));
    CHECK(builtin().parse(text + " ").derivations == 0);
    CHECK(builtin().parse(text.substr(0, text.size() - 1)).derivations == 0);
  }
}

TEST_CASE("an ambiguous grammar is detected, however well the ambiguity is hidden") {
  struct Case {
    const char *grammar, *text;
    int derivations;
  };
  const Case cases[] = {
      {"story:\n  a cat\n  a cat\n", "a cat", 2},
      {"story:\n  $x sat\nx =\n  cat, dog, cat\n", "cat sat", 2},
      {"story:\n  $x sat\nx =\n  cat/a, dog/a\n", "cat sat", -1},    // a form that the list lacks
      {"story:\n  [a|ab][c|bc]\n", "abc", 2},                        // the first choice may end in two places
      {"story:\n  $x$y!\nx:\n  [a|ab]\ny:\n  [bc|c]\n", "abc!", 2},  // the same across rules
      {"story:\n  $x.many\nx(many) =\n  sheep/sheep, lamb/sheep\n", "sheep", 2},
      {"story:\n  $A $x sat\n  An $y sat\nx =\n  owl, fox\ny =\n  ape, owl\n", "An owl sat", 2},
      {"story:\n  $x:n met $y\n  Ann $v\nn =\n  Ann, Bob\ny =\n  me, you\nv:\n  met me\n", "Ann met me", 2},
      {"story:\n  [a|b|]$x\nx:\n  [ab|b]\n", "ab", 2},
  };
  for (const Case& c : cases) {
    CAPTURE(c.grammar);
    if (c.derivations < 0) {
      CHECK_THROWS_AS(StoryGrammar(c.grammar), Error);
      continue;
    }
    const StoryGrammar grammar(c.grammar);
    CHECK(grammar.parse(c.text).derivations == c.derivations);
    CHECK(grammar.find_ambiguity() != "");
  }
}

TEST_CASE("common beginnings, words within words and repeated text are not ambiguities") {
  for (const char* source : {
           "story:\n  a cat sat\n  a cat sang\n",
           "story:\n  $x sat\n  $x sang\nx =\n  pea, peacock, pea hen\n",
           "story:\n  $h:n met $y, and $h sat.\n  $h:n met no one.\nn(he) =\n  Ann, Bob // she\ny =\n  me, you\n",
           "story:\n  [very |]$x cat\nx =\n  big, small\n",
       }) {
    CAPTURE(source);
    CHECK(StoryGrammar(source).find_ambiguity() == "");
  }
}

// ---- the text ------------------------------------------------------------------------------------------------------

TEST_CASE("a story depends only on seed and number, and is the same on every machine") {
  CHECK(story(5, 9) == story(5, 9));
  CHECK(story(5, 9) != story(5, 10));
  CHECK(story(5, 9) != story(6, 9));
  // FNV-1a over the first hundred: changes only with the grammar.
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint64_t i = 0; i < 100; ++i) {
    for (unsigned char c : story(0, i)) hash = (hash ^ c) * 0x100000001b3u;
  }
  CHECK(hash == 0xb1f056452e6a1216u);
}

TEST_CASE("8 MB contain at least 2,500 different words, and each story only once") {
  std::set<std::string> words, stories;
  size_t bytes = 0;
  for (uint64_t i = 0; bytes < 8'000'000; ++i) {
    const std::string text = story(0, i);
    bytes += text.size();
    CHECK(stories.insert(text).second);
    for (std::string& word : words_of(text)) words.insert(std::move(word));
  }
  MESSAGE(words.size() << " different words in " << stories.size() << " stories");
  CHECK(words.size() >= 2500);
}

TEST_CASE("the English is correct: articles, capitals, quotes, blanks and pronouns") {
  for (uint64_t i = 0; i < 4000; ++i) {
    const std::string text = story(21, i);
    CAPTURE(text);
    REQUIRE(text.size() > 150);
    REQUIRE(text.size() < 2000);
    CHECK(text.back() == '\n');
    CHECK(text.find_first_of("$[]|\\{}_") == std::string::npos);
    for (const char* wrong : {"  ", " .", " ,", "..", ",,", " \n", "\n ", "\n\n", " a a ", " an a ", " a an ", "!,"}) {
      CHECK_MESSAGE(text.find(wrong) == std::string::npos, "found \"" << wrong << "\"");
    }
    CHECK(std::count(text.begin(), text.end(), '"') % 2 == 0);

    const std::vector<std::string> words = words_of(text);
    for (size_t w = 0; w + 1 < words.size(); ++w) {
      const std::string& next = words[w + 1];
      const bool vowel = std::string("aeiou").find(next[0]) != std::string::npos;
      const bool you = next.starts_with("uni") || next.starts_with("uku") || next.starts_with("eu") || next == "one";
      const bool silent_h = next.starts_with("hon") || next.starts_with("hour");
      if (words[w] == "an") CHECK_MESSAGE(((vowel && !you) || (silent_h && next != "honey")), "an " << next);
      if (words[w] == "a") CHECK_MESSAGE((next == "honey" || (!vowel && !silent_h) || you), "a " << next);
    }
    for (size_t at = 0; at + 2 < text.size(); ++at) {  // a sentence begins with a capital or a quote
      const bool begins =
          at == 0 || text[at - 1] == '\n' || (text[at - 1] == ' ' && (text[at - 2] == '.' || text[at - 2] == '?'));
      const bool small = std::islower(static_cast<unsigned char>(text[at]));
      if (begins && small) FAIL_CHECK("no capital at " << text.substr(at, 20));
    }
    const bool girl = std::count(words.begin(), words.end(), "she") + std::count(words.begin(), words.end(), "her") > 0;
    const bool boy = std::count(words.begin(), words.end(), "he") + std::count(words.begin(), words.end(), "his") +
                         std::count(words.begin(), words.end(), "him") >
                     0;
    CHECK_FALSE((girl && boy));
  }
}

// ---- mistakes in a grammar -----------------------------------------------------------------------------------------

TEST_CASE("mistakes in a grammar are errors that name the place") {
  struct Case {
    const char *grammar, *message;
  };
  const Case cases[] = {
      {"", "no rules"},
      {"  x\n", "line 1: an alternative before"},
      {"story\n", "line 1: expected a heading"},
      {"story:\n", "no alternatives"},
      {"Story:\n  x\n", "names consist of a-z"},
      {"story:\n  x\nstory:\n  y\n", "line 3: a second `story`"},
      {"story:\n  $x\n", "line 2: `x` is not a rule"},
      {"story:\n  $\n", "line 2: `` is not a rule"},
      {"story:\n  [a|b\n", "line 2: `[` without `]`"},
      {"story:\n  a]\n", "line 2: `|` or `]`"},
      {"story:\n  $a\n", "a space must follow $a"},
      {"story:\n  $x.many\nx =\n  cat\n", "line 2: `x` has no form `many`"},
      {"story:\n  $x\nx =\n  cat\n  dog\n", "line 5: the line before this one ends within an entry"},
      {"story:\n  $x\nx(many) =\n  cat // -/-\n", "after // expected all of the list's forms"},
      {"story:\n  $x\nx =\n  /cat\n", "an entry without a first form"},
      {"story:\n  $s:y\ny:\n  cat\n", "`y` is not a list"},
      {"story:\n  $s:y $s:z\ny =\n  cat\nz =\n  dog\n", "drawn from two lists"},
      {"story:\n  $story\n", "leads back to itself"},
      {"story:\n  cat\nx:\n  dog\n", "line 3: `x` is never used"},
      {"story:\n  [$s:x|] $s\nx =\n  cat\n", "$s may not have been drawn"},
      {"story:\n  $s:x $s:x\nx =\n  cat\n", "$s is drawn again"},
      {"story:\n  $X\nx:\n  cat\n", "can have a capital"},
      {"story(a b):\n  cat\n", "forms go in brackets"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.grammar);
    CHECK_THROWS_WITH_AS(StoryGrammar(c.grammar), doctest::Contains(c.message), Error);
  }
}

TEST_CASE("regular forms are derived; irregular and shared forms are taken from the grammar") {
  const StoryGrammar grammar(
      "story:\n  $s:x $s.many $s.past $s.ing $s.home!\nx(many past ing home) =\n"
      "  fly/-/flew // -/-/-/*'s den\n");
  std::string text;
  grammar.generate(0, 0, text);
  CHECK(text == "fly flies flew flying fly's den!");
  for (const auto& [word, expected] : std::map<std::string, std::string>{{"fox", "foxes foxed foxing"},
                                                                         {"bake", "bakes baked baking"},
                                                                         {"toy", "toys toyed toying"},
                                                                         {"wish", "wishes wished wishing"},
                                                                         {"tree", "trees treed treeing"}}) {
    text.clear();
    StoryGrammar("story:\n  $s:x.many $s.past $s.ing\nx(many past ing) =\n  " + word + "\n").generate(0, 0, text);
    CHECK(text == expected);
  }
}
