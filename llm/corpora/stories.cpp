#include "llm/corpora/stories.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "llm/support/error.h"
#include "llm/text/tokenizer.h"

namespace {

// SplitMix64: a counter and a mixing function. One generator per story, keyed by seed and story number.
struct Random {
  uint64_t state;

  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  Random(uint64_t seed, uint64_t index) : state(mix(mix(seed + 0x9e3779b97f4a7c15u) + index)) {}
  uint64_t next() { return mix(state += 0x9e3779b97f4a7c15u); }

  // Exactly uniform in [0, n): draws from the incomplete last block of 2^64 are rejected.
  uint64_t below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t draw = next();
    while (draw >= limit) draw = next();
    return draw % n;
  }
};

bool starts_with_any(std::string_view text, std::initializer_list<std::string_view> prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](std::string_view p) { return text.starts_with(p); });
}

// "an" before a vowel sound, which is a vowel letter except in a few prefixes. Depends only on the text that follows,
// so that writing and reading agree.
bool takes_an(std::string_view text) {
  if (starts_with_any(text, {"uni", "use", "eu", "one", "uku"})) return false;
  return starts_with_any(text, {"a", "e", "i", "o", "u", "hour", "honest", "honour", "heir"});
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

}  // namespace

// ---- writing stories -----------------------------------------------------------------------------------------------

struct StoryGrammar::Generator {
  const StoryGrammar& grammar;
  Random random;
  std::string& out;
  std::vector<size_t> slots;
  bool article = false;  // "a" is written; its "n" and space wait for the next text
  double nats = 0;

  void write(const std::string& text, bool capital) {
    if (text.empty()) return;
    if (article) out += takes_an(text) ? "n " : " ";
    article = false;
    const size_t at = out.size();
    out += text;
    if (capital) out[at] = capitalised(text.substr(0, 1))[0];
  }

  void write(const Phrase& phrase) {
    for (const Symbol& symbol : phrase) {
      const Rule* rule = symbol.rule < 0 ? nullptr : &grammar.rules_[symbol.rule];
      if (symbol.kind == Symbol::text) {
        write(symbol.chars, false);
      } else if (symbol.kind == Symbol::article) {
        write("a", symbol.capital);
        article = true;
      } else if (symbol.kind == Symbol::slot) {
        write(rule->words[slots[symbol.slot_id]][symbol.form], symbol.capital);
      } else {
        const uint64_t ticket = random.below(rule->cumulative.back());
        const size_t choice = static_cast<size_t>(
            std::upper_bound(rule->cumulative.begin(), rule->cumulative.end(), ticket) - rule->cumulative.begin());
        nats += rule->nats[choice];
        if (symbol.slot_id >= 0) slots[symbol.slot_id] = choice;
        if (rule->list) {
          write(rule->words[choice][symbol.form], symbol.capital);
        } else {
          write(rule->phrases[choice]);
        }
      }
    }
  }
};

double StoryGrammar::generate(uint64_t seed, uint64_t index, std::string& out) const {
  Symbol story;
  story.kind = Symbol::draw;
  story.rule = 0;
  Generator generator{*this, Random(seed, index), out, std::vector<size_t>(slots_.size()), false, 0};
  generator.write(Phrase{story});
  return generator.nats;
}

// Choices are independent of each other, so H(rule) = sum over alternatives of p * (-log p + H of every draw within).
// Repeating a slot costs nothing.
double StoryGrammar::entropy() const {
  std::vector<double> known(rules_.size(), -1);
  const std::function<double(int)> of_rule = [&](int id) {
    if (known[id] >= 0) return known[id];
    const Rule& rule = rules_[id];
    double sum = 0;
    for (size_t i = 0; i < rule.size(); ++i) {
      double nats = rule.nats[i];
      if (!rule.list) {
        for (const Symbol& symbol : rule.phrases[i]) nats += symbol.kind == Symbol::draw ? of_rule(symbol.rule) : 0;
      }
      sum += std::exp(-rule.nats[i]) * nats;
    }
    return known[id] = sum;
  };
  return of_rule(0);
}

// ---- reading stories -----------------------------------------------------------------------------------------------

// Tries every alternative at every choice, left to right, and abandons a path at the first byte that differs.
struct StoryGrammar::Parser {
  const StoryGrammar& grammar;
  std::string_view story;
  std::vector<size_t> slots;
  Parse result;

  struct Rest {  // what must follow once the current phrase is done
    const Symbol *next, *end;
    const Rest* after;
  };

  bool says(size_t at, const std::string& text, bool capital) const {
    return story.substr(at, text.size()) == (capital ? capitalised(text) : text);
  }

  void follow(Rest rest, size_t at, double nats) {
    while (rest.next == rest.end) {
      if (rest.after == nullptr) {
        if (at < story.size()) return;
        ++result.derivations;
        result.nats = nats;
        return;
      }
      rest = *rest.after;
    }
    const Symbol& symbol = *rest.next++;
    const Rule* rule = symbol.rule < 0 ? nullptr : &grammar.rules_[symbol.rule];
    if (symbol.kind == Symbol::text) {
      if (says(at, symbol.chars, false)) follow(rest, at + symbol.chars.size(), nats);
    } else if (symbol.kind == Symbol::article) {
      for (const std::string word : {"a ", "an "}) {
        const size_t after = at + word.size();
        if (!says(at, word, symbol.capital) || after >= story.size()) continue;
        if (takes_an(story.substr(after)) == (word == "an ")) follow(rest, after, nats);
      }
    } else if (symbol.kind == Symbol::slot) {
      const std::string& word = rule->words[slots[symbol.slot_id]][symbol.form];
      if (says(at, word, symbol.capital)) follow(rest, at + word.size(), nats);
    } else {
      for (size_t i = 0; i < rule->size(); ++i) {
        if (symbol.slot_id >= 0) slots[symbol.slot_id] = i;
        if (!rule->list) {
          const Phrase& phrase = rule->phrases[i];
          follow({phrase.data(), phrase.data() + phrase.size(), &rest}, at, nats + rule->nats[i]);
        } else if (const std::string& word = rule->words[i][symbol.form]; says(at, word, symbol.capital)) {
          follow(rest, at + word.size(), nats + rule->nats[i]);
        }
      }
    }
  }
};

StoryGrammar::Parse StoryGrammar::parse(std::string_view story) const {
  Symbol symbol;
  symbol.kind = Symbol::draw;
  symbol.rule = 0;
  Parser parser{*this, story, std::vector<size_t>(slots_.size()), {}};
  parser.follow({&symbol, &symbol + 1, nullptr}, 0, 0);
  return parser.result;
}

// ---- proving that no story can be read in two ways -----------------------------------------------------------------

// Two different derivations of one text agree up to a first choice, where they take alternatives i and j of one rule,
// followed by the same context. From every such pair we follow all ways in which both can continue with the same bytes.
// Each of the two is the list of what it has yet to write. If both lists can become equal at the same byte, before or
// after the context begins, a text with two derivations exists. If this happens for no pair, none exists: at the end of
// one text both lists would be empty. States already seen are not followed again, and lists are finite, so the search
// terminates.
struct StoryGrammar::Prover {
  const StoryGrammar& grammar;

  using Span = std::pair<const Symbol*, const Symbol*>;
  struct State {
    std::string_view chars;   // to be written first
    std::vector<Span> spans;  // then these, the last one first
    auto operator<=>(const State&) const = default;
    bool done() const { return chars.empty() && spans.empty(); }
  };
  struct Site {  // a place where a rule is drawn: the rule that contains it, and what follows it
    int rule;
    Span rest;
  };
  using Drawn = std::tuple<int, int, bool>;  // rule, form, capital: all that a draw shows
  std::map<Drawn, std::vector<Site>> sites;
  std::map<Drawn, std::vector<std::string>> said;  // the words of a draw; kept, because states point into them

  static Drawn key(const Symbol& s) { return {s.rule, s.form, s.capital}; }

  void find_sites() {
    for (size_t r = 0; r < grammar.rules_.size(); ++r) {
      for (const Phrase& phrase : grammar.rules_[r].phrases) {
        for (size_t i = 0; i < phrase.size(); ++i) {
          if (phrase[i].kind != Symbol::draw) continue;
          sites[key(phrase[i])].push_back({static_cast<int>(r), {&phrase[i] + 1, phrase.data() + phrase.size()}});
        }
      }
    }
  }

  const std::vector<std::string>& words(const Symbol& s) {
    std::vector<std::string>& list = said[key(s)];
    if (list.empty()) {
      for (const auto& entry : grammar.rules_[s.rule].words) {
        list.push_back(s.capital ? capitalised(entry[s.form]) : entry[s.form]);
      }
    }
    return list;
  }

  static bool may_agree(std::string_view a, std::string_view b) {
    const size_t common = std::min(a.size(), b.size());
    return a.substr(0, common) == b.substr(0, common);
  }

  // All states that `state` may be in once it knows its next characters (or is done), except those whose characters
  // disagree with `other`, which the other derivation writes at this place.
  void expand(State state, std::string_view other, std::vector<State>& out) {
    while (state.chars.empty() && !state.spans.empty()) {
      auto& [next, end] = state.spans.back();
      if (next == end) {
        state.spans.pop_back();
        continue;
      }
      const Symbol& symbol = *next++;
      if (symbol.kind == Symbol::text) {
        state.chars = symbol.chars;
      } else if (symbol.kind == Symbol::article) {  // both are considered possible
        for (const char* word : {"a ", "an ", "A ", "An "}) {
          if ((word[0] == 'A') != symbol.capital) continue;
          state.chars = word;
          out.push_back(state);
        }
        return;
      } else if (grammar.rules_[symbol.rule].list) {
        std::set<std::string_view> seen;
        for (const std::string& word : words(symbol)) {
          if (word.empty() || !may_agree(word, other) || !seen.insert(word).second) continue;
          state.chars = word;
          out.push_back(state);
        }
        return;
      } else {
        for (const Phrase& phrase : grammar.rules_[symbol.rule].phrases) {
          State inner = state;
          inner.spans.push_back({phrase.data(), phrase.data() + phrase.size()});
          expand(std::move(inner), other, out);
        }
        return;
      }
    }
    out.push_back(std::move(state));
  }

  struct Pair {
    State a, b;
    Drawn within;  // both have the context of a draw of this
    auto operator<=>(const Pair&) const = default;
  };
  std::set<Pair> seen;

  // Whether a and b, in one context, can end at the same byte. If so, `text` holds what both write up to there.
  bool can_agree(Pair pair, std::string& text) {
    const size_t common = std::min(pair.a.chars.size(), pair.b.chars.size());
    if (!may_agree(pair.a.chars, pair.b.chars)) return false;
    const size_t length = text.size();
    text += pair.a.chars.substr(0, common);
    pair.a.chars.remove_prefix(common);
    pair.b.chars.remove_prefix(common);
    if (follow(pair, text)) return true;
    text.resize(length);
    return false;
  }

  bool follow(Pair& pair, std::string& text) {
    for (State* state : {&pair.a, &pair.b}) {
      while (!state->spans.empty() && state->spans.back().first == state->spans.back().second) state->spans.pop_back();
    }
    if (pair.a == pair.b) return true;
    if (pair.b < pair.a) std::swap(pair.a, pair.b);
    if (!seen.insert(pair).second) return false;
    for (const bool first : {true, false}) {
      const State& state = first ? pair.a : pair.b;
      if (!state.chars.empty()) continue;
      if (!state.spans.empty()) {
        std::vector<State> ways;
        expand(state, first ? pair.b.chars : pair.a.chars, ways);
        for (State& way : ways) {
          Pair next{first ? way : pair.a, first ? pair.b : way, pair.within};
          if (can_agree(std::move(next), text)) return true;
        }
        return false;
      }
      for (const Site& site : sites[pair.within]) {  // one of the two is done: the context begins
        Pair next = pair;
        next.within = {site.rule, 0, false};
        next.a.spans.insert(next.a.spans.begin(), site.rest);
        next.b.spans.insert(next.b.spans.begin(), site.rest);
        if (can_agree(std::move(next), text)) return true;
      }
      return false;
    }
    return false;
  }

  std::string prove() {
    find_sites();
    sites.emplace(Drawn{0, 0, false}, std::vector<Site>{});
    for (const auto& [drawn, places] : sites) {
      const auto& [id, form, capital] = drawn;
      const Rule& rule = grammar.rules_[id];
      Symbol symbol;
      symbol.rule = id;
      symbol.form = form;
      symbol.capital = capital;
      for (size_t i = 0; i < rule.size(); ++i) {
        for (size_t j = 0; j < i; ++j) {
          State a, b;
          if (rule.list) {
            a.chars = words(symbol)[i];
            b.chars = words(symbol)[j];
          } else {
            a.spans = {{rule.phrases[i].data(), rule.phrases[i].data() + rule.phrases[i].size()}};
            b.spans = {{rule.phrases[j].data(), rule.phrases[j].data() + rule.phrases[j].size()}};
          }
          std::string text;
          if (can_agree({a, b, drawn}, text)) {
            return strprintf("`%s`: alternatives %zu and %zu can both write \"%s\"", rule.name.c_str(), j + 1, i + 1,
                             text.c_str());
          }
        }
      }
    }
    return "";
  }
};

std::string StoryGrammar::find_ambiguity() const { return Prover{*this, {}, {}, {}}.prove(); }

// ---- a corpus -------------------------------------------------------------------------------------------------------

StoryTotals make_stories(uint64_t seed, uint64_t bytes, const std::function<void(std::string_view, double)>& write) {
  const StoryGrammar& grammar = StoryGrammar::builtin();
  StoryTotals totals;
  std::string text;
  while (totals.file_bytes < bytes) {
    text.clear();
    const double nats = grammar.generate(seed, totals.stories++, text);
    totals.nats += nats;
    totals.story_bytes += text.size();
    text += kEndOfText;
    totals.file_bytes += text.size();
    write(text, nats);
  }
  return totals;
}
