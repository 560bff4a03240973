// Small English stories from a probabilistic grammar: a corpus whose entropy is known.
//
// A story is drawn from `story`, the grammar's first rule, by independent choices. The grammar is unambiguous: a text
// has one derivation, so its probability is the product of the probabilities of the choices that made it, and the mean
// of -log p over the stories is the loss of a model that knows everything. No model can do better on average.
//
// How a grammar is written (llm/corpora/stories_grammar.cpp holds ours):
//   name:                     a rule; each indented line below is an alternative, a phrase
//   name(form form) =         a list; its entries, separated by commas, may have more forms: mouse/mice; `-` or nothing
//                             for a regular form (many, past, ing) or one equal to the entry (any other form)
//   a, b, c // */x            forms for all entries since the last such line (* is the entry); ranks restart
//   $name  $name.form         a fresh draw from a rule or list;  $Name: with a capital
//   $slot:list                draws and remembers; $slot, $slot.form repeat it (at most one draw per story)
//   $form                     short for $slot.form where only one slot's list has that form: $he
//   $a  $A                    "a" or "an", as the next word requires
//   [one|two|]                a choice within a phrase;  \n a line's end
// Earlier alternatives are more common: at rank r = 1, 2, ..., a phrase has the weight 1 / (r + 20), a list entry 1 /
// (r + 8)^2.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

class StoryGrammar {
 public:
  explicit StoryGrammar(std::string_view source);  // throws Error that names the line
  static const StoryGrammar& builtin();

  // Appends story number `index` of `seed` (any order, no state) and returns its -log p in nats. Choices use only
  // integers, so every machine writes the same bytes.
  double generate(uint64_t seed, uint64_t index, std::string& out) const;

  // The exact entropy of the source in nats per story: the expectation of generate()'s return value.
  double entropy() const;

  // All derivations of a story, from nothing but its text.
  struct Parse {
    int derivations = 0;
    double nats = 0;  // -log p of the last one found
  };
  Parse parse(std::string_view story) const;

  // Searches for a text with two derivations by following every pair of derivations that diverge at some choice. Empty:
  // there is none, which proves the grammar unambiguous; otherwise names the rule and the two alternatives. The search
  // is conservative where a slot is repeated (it considers every entry of the list possible), so it may reject a
  // grammar that is unambiguous.
  std::string find_ambiguity() const;

 private:
  struct Symbol {
    enum Kind { text, draw, slot, article } kind = text;
    bool capital = false;
    int rule = -1;     // draw: what is drawn
    int slot_id = -1;  // draw: the slot that remembers it, or -1;  slot: which one
    int form = 0;      // draw, slot: the form of the entry
    std::string chars;
  };
  using Phrase = std::vector<Symbol>;
  struct Rule {
    std::string name;
    int line = 0;
    bool list = false;
    std::vector<std::string> forms;               // list: names of the forms after the first
    std::vector<std::vector<std::string>> words;  // list: [entry][form]
    std::vector<Phrase> phrases;                  // rule: [alternative]
    std::vector<uint64_t> cumulative;             // running sum of the weights, inclusive
    std::vector<double> nats;                     // -log of each alternative's probability
    size_t size() const { return list ? words.size() : phrases.size(); }
  };
  struct Slot {
    std::string name;
    int rule;
  };
  std::vector<Rule> rules_;  // the first one is the story
  std::vector<Slot> slots_;

  struct Loader;
  struct Generator;
  struct Parser;
  struct Prover;
};

extern const char* const kStoriesGrammar;  // the built-in grammar's text

// ---- a corpus -------------------------------------------------------------------------------------------------------

struct StoryTotals {
  uint64_t stories = 0, story_bytes = 0, file_bytes = 0;  // file_bytes: with the <|endoftext|> after each story
  double nats = 0;                                        // sum of -log p
  double nats_per_story() const { return nats / static_cast<double>(stories); }
  double nats_per_byte() const { return nats / static_cast<double>(story_bytes); }
};

// Whole stories of `seed`, until there are at least `bytes` bytes; write(story with its <|endoftext|>, nats) for each.
StoryTotals make_stories(uint64_t seed, uint64_t bytes, const std::function<void(std::string_view, double)>& write);
