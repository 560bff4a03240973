// Reads a grammar as stories.h describes it: headings first, then lists, slots and phrases; then checks the whole.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "llm/corpora/stories.h"
#include "llm/support/error.h"

namespace {

// An alternative's weight by its rank 1, 2, ..., an integer. Phrases are almost equally likely; words fall off faster
// than under Zipf's law, so that most of a text consists of words that can be learnt in a few minutes.
uint64_t phrase_weight(uint64_t rank) { return (uint64_t{1} << 32) / (rank + 20); }
uint64_t word_weight(uint64_t rank) { return (uint64_t{1} << 32) / ((rank + 8) * (rank + 8)); }

bool is_name_char(char c) { return (c >= 'a' && c <= 'z') || c == '_'; }

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    parts.emplace_back(trimmed(text.substr(at, end - at)));
    at = end + 1;
  }
  return parts;
}

// The regular forms of English; irregular ones are spelt out in the list. A form with any other name is the word
// itself.
std::string regular_form(const std::string& word, const std::string& form) {
  const char last = word.back();
  const bool after_consonant = word.size() > 1 && !std::strchr("aeiou", word[word.size() - 2]);
  const std::string stem = word.substr(0, word.size() - 1);
  if (form == "many") {
    if (last == 'y' && after_consonant) return stem + "ies";
    const bool hissing = last == 's' || last == 'x' || last == 'z' || word.ends_with("ch") || word.ends_with("sh");
    return word + (hissing ? "es" : "s");
  }
  if (form == "past") {
    if (last == 'e') return word + "d";
    return last == 'y' && after_consonant ? stem + "ied" : word + "ed";
  }
  if (form == "ing") return last == 'e' && !word.ends_with("ee") ? stem + "ing" : word + "ing";
  return word;
}

}  // namespace

struct StoryGrammar::Loader {
  StoryGrammar& grammar;
  std::map<std::string, int, std::less<>> rule_ids, slot_ids;
  struct Body {  // the lines below a heading, kept until every name is known
    int rule;
    std::vector<std::pair<int, std::string_view>> lines;  // line number, text
  };
  std::vector<Body> bodies;
  int line = 0;

  [[noreturn]] void error(const std::string& what) const { fail("stories grammar, line %d: %s", line, what.c_str()); }

  void load(std::string_view source) {
    read_headings(source);
    if (bodies.empty()) fail("stories grammar: it has no rules");
    for (const Body& body : bodies) {
      if (grammar.rules_[body.rule].list) read_list(body);
    }
    for (const Body& body : bodies) declare_slots(body);
    for (const Body& body : bodies) {
      if (!grammar.rules_[body.rule].list) read_phrases(body);
    }
    check();
  }

  void read_headings(std::string_view source) {
    for (size_t at = 0; at < source.size();) {
      const size_t end = std::min(source.find('\n', at), source.size());
      const std::string_view raw = source.substr(at, end - at), text = trimmed(raw);
      at = end + 1;
      ++line;
      if (text.empty() || text[0] == '#') continue;
      if (raw[0] == ' ') {
        if (bodies.empty()) error("an alternative before the first heading");
        bodies.back().lines.emplace_back(line, text);
        continue;
      }
      Rule rule;
      rule.line = line;
      rule.list = text.back() == '=';
      if (!rule.list && text.back() != ':') error("expected a heading, `name:` or `name(forms) =`");
      std::string_view name = trimmed(text.substr(0, text.size() - 1));
      if (const size_t open = name.find('('); open != std::string_view::npos) {
        if (!rule.list || name.back() != ')') error("forms go in brackets before `=`, as in `animal(many) =`");
        rule.forms = split(name.substr(open + 1, name.size() - open - 2), ' ');
        name = trimmed(name.substr(0, open));
      }
      rule.name = name;
      if (name.empty() || !std::all_of(name.begin(), name.end(), is_name_char)) error("names consist of a-z and _");
      const int id = static_cast<int>(grammar.rules_.size());
      if (!rule_ids.emplace(name, id).second) error("a second `" + rule.name + "`");
      bodies.push_back({id, {}});
      grammar.rules_.push_back(std::move(rule));
    }
  }

  void read_list(const Body& body) {
    Rule& rule = grammar.rules_[body.rule];
    std::vector<std::vector<std::string>> pending;
    std::vector<uint64_t> weights;
    const auto finish = [&](const std::vector<std::string>& shared) {
      for (size_t rank = 1; std::vector<std::string> & entry : pending) {
        if (entry.size() > rule.forms.size() + 1) error("more forms than the list has");
        entry.resize(rule.forms.size() + 1);
        for (size_t f = 1; f < entry.size(); ++f) {
          std::string form = f <= shared.size() ? shared[f - 1] : entry[f];
          if (form.empty() || form == "-") form = entry[f].empty() ? "-" : entry[f];
          if (form == "-") form = regular_form(entry[0], rule.forms[f - 1]);
          if (const size_t star = form.find('*'); star != std::string::npos) form.replace(star, 1, entry[0]);
          entry[f] = form;
        }
        rule.words.push_back(entry);
        weights.push_back(word_weight(rank++));
      }
      pending.clear();
    };
    for (bool open = false; const auto& [number, text] : body.lines) {
      line = number;
      if (open) error("the line before this one ends within an entry; it needs a comma");
      const size_t slashes = text.find("//");
      for (const std::string& entry : split(text.substr(0, slashes), ',')) {
        if (entry.empty()) continue;  // a comma at the end of a line
        pending.push_back(split(entry, '/'));
        if (pending.back()[0].empty()) error("an entry without a first form");
      }
      if (slashes != std::string_view::npos) {
        const std::vector<std::string> shared = split(text.substr(slashes + 2), '/');
        if (shared.size() != rule.forms.size()) error("after // expected all of the list's forms");
        finish(shared);
      }
      open = slashes == std::string_view::npos && text.back() != ',';
    }
    finish({});
    set_weights(rule, weights);
  }

  // $slot:list anywhere declares `slot`.
  void declare_slots(const Body& body) {
    for (const auto& [number, text] : body.lines) {
      line = number;
      for (size_t at = text.find('$'); at != std::string_view::npos; at = text.find('$', at + 1)) {
        size_t i = at + 1;
        const std::string slot = read_name(text, i);
        if (i + 1 >= text.size() || text[i] != ':' || !is_name_char(text[i + 1])) continue;
        const std::string list = read_name(text, ++i);
        const auto found = rule_ids.find(list);
        if (found == rule_ids.end() || !grammar.rules_[found->second].list) error("`" + list + "` is not a list");
        if (rule_ids.contains(slot)) error("`" + slot + "` is a rule and cannot be a slot");
        const auto [where, is_new] = slot_ids.emplace(slot, static_cast<int>(grammar.slots_.size()));
        if (is_new) grammar.slots_.push_back({slot, found->second});
        if (grammar.slots_[where->second].rule != found->second) error("`" + slot + "` is drawn from two lists");
      }
    }
  }

  // The name at text[i], in lower case even if its first letter is a capital; moves i past it.
  std::string read_name(std::string_view text, size_t& i) const {
    std::string name;
    if (i < text.size() && text[i] >= 'A' && text[i] <= 'Z') name += static_cast<char>(text[i++] - 'A' + 'a');
    while (i < text.size() && is_name_char(text[i])) name += text[i++];
    return name;
  }

  void read_phrases(const Body& body) {
    std::vector<Phrase> phrases;
    for (const auto& [number, text] : body.lines) {
      line = number;
      size_t i = 0;
      phrases.push_back(read_phrase(text, i));
      if (i < text.size()) error("`|` or `]` without `[`");
    }
    set_phrases(body.rule, std::move(phrases));
  }

  // Reads up to the end, or to a | or ] of the enclosing brackets.
  Phrase read_phrase(std::string_view text, size_t& i) {
    Phrase phrase;
    const auto add_text = [&](char c) {
      if (phrase.empty() || phrase.back().kind != Symbol::text) phrase.emplace_back();
      phrase.back().chars += c;
    };
    while (i < text.size() && text[i] != '|' && text[i] != ']') {
      if (text[i] == '[') {
        phrase.push_back(read_choice(text, i));
      } else if (text[i] == '$') {
        phrase.push_back(read_reference(text, i));
      } else if (text.substr(i, 2) == "\\n") {
        add_text('\n');
        i += 2;
      } else {
        add_text(text[i++]);
      }
    }
    return phrase;
  }

  Symbol read_choice(std::string_view text, size_t& i) {
    std::vector<Phrase> phrases;
    do {
      phrases.push_back(read_phrase(text, ++i));
    } while (i < text.size() && text[i] == '|');
    if (i >= text.size()) error("`[` without `]`");
    ++i;
    Symbol symbol;
    symbol.kind = Symbol::draw;
    symbol.rule = static_cast<int>(grammar.rules_.size());
    grammar.rules_.emplace_back();
    grammar.rules_.back().name = strprintf("[...] of line %d", line);
    set_phrases(symbol.rule, std::move(phrases));
    return symbol;
  }

  Symbol read_reference(std::string_view text, size_t& i) {
    Symbol symbol;
    symbol.capital = ++i < text.size() && text[i] >= 'A' && text[i] <= 'Z';
    std::string name = read_name(text, i), form;
    if (name == "a") {
      symbol.kind = Symbol::article;
      if (i >= text.size() || text[i++] != ' ') error("a space must follow $a");
      return symbol;
    }
    const bool remembered = i + 1 < text.size() && text[i] == ':' && is_name_char(text[i + 1]);
    if (remembered) {
      symbol.slot_id = slot_ids.at(name);
      name = read_name(text, ++i);
    }
    if (i + 1 < text.size() && text[i] == '.' && is_name_char(text[i + 1])) form = read_name(text, ++i);
    if (const auto rule = rule_ids.find(name); rule != rule_ids.end()) {
      symbol.kind = Symbol::draw;
      symbol.rule = rule->second;
    } else {
      symbol.kind = Symbol::slot;
      if (const auto slot = slot_ids.find(name); slot != slot_ids.end()) {
        symbol.slot_id = slot->second;
      } else {
        if (form.empty()) symbol.slot_id = slot_with_form(name);
        if (symbol.slot_id < 0) error("`" + name + "` is not a rule, list or slot, nor a form of only one slot");
        form = name;
      }
      symbol.rule = grammar.slots_[symbol.slot_id].rule;
    }
    const Rule& rule = grammar.rules_[symbol.rule];
    if (symbol.capital && !rule.list) error("only a word from a list can have a capital: `" + name + "`");
    if (!form.empty()) {
      const auto found = std::find(rule.forms.begin(), rule.forms.end(), form);
      if (found == rule.forms.end()) error("`" + rule.name + "` has no form `" + form + "`");
      symbol.form = static_cast<int>(found - rule.forms.begin()) + 1;
    }
    return symbol;
  }

  int slot_with_form(const std::string& form) const {
    int found = -1;
    for (int s = 0; s < static_cast<int>(grammar.slots_.size()); ++s) {
      const std::vector<std::string>& forms = grammar.rules_[grammar.slots_[s].rule].forms;
      if (std::find(forms.begin(), forms.end(), form) == forms.end()) continue;
      if (found >= 0) return -1;
      found = s;
    }
    return found;
  }

  void set_phrases(int id, std::vector<Phrase> phrases) {
    Rule& rule = grammar.rules_[id];
    rule.phrases = std::move(phrases);
    std::vector<uint64_t> weights;
    for (size_t rank = 1; rank <= rule.phrases.size(); ++rank) weights.push_back(phrase_weight(rank));
    set_weights(rule, weights);
  }

  void set_weights(Rule& rule, const std::vector<uint64_t>& weights) const {
    if (weights.empty()) error("`" + rule.name + "` has no alternatives");
    uint64_t total = 0;
    for (uint64_t weight : weights) rule.cumulative.push_back(total += weight);
    for (uint64_t weight : weights) {
      rule.nats.push_back(std::log(static_cast<double>(total) / static_cast<double>(weight)));
    }
  }

  // No rule leads to itself, every rule is used, and a slot is drawn once, before its first use.
  std::vector<int> depth;
  using Slots = std::set<int>;
  std::map<std::pair<int, Slots>, Slots> drawn_after;  // (rule, slots drawn before) -> slots surely drawn after

  void check() {
    depth.assign(grammar.rules_.size(), 0);
    walk(0, {});
    for (size_t r = 0; r < depth.size(); ++r) {
      line = grammar.rules_[r].line;
      if (depth[r] == 0) error("`" + grammar.rules_[r].name + "` is never used");
    }
  }

  const Slots& walk(int id, const Slots& before) {
    const Rule& rule = grammar.rules_[id];
    if (depth[id] == 1) fail("stories grammar: `%s` leads back to itself", rule.name.c_str());
    if (const auto known = drawn_after.find({id, before}); known != drawn_after.end()) return known->second;
    depth[id] = 1;  // 1: being walked, 2: done
    Slots common = before;
    for (size_t p = 0; p < rule.phrases.size(); ++p) {
      Slots now = before;
      for (const Symbol& symbol : rule.phrases[p]) {
        const char* slot = symbol.slot_id < 0 ? "" : grammar.slots_[symbol.slot_id].name.c_str();
        if (symbol.kind == Symbol::slot && !now.contains(symbol.slot_id)) {
          fail("stories grammar: `%s`, alternative %zu: $%s may not have been drawn yet", rule.name.c_str(), p + 1,
               slot);
        }
        if (symbol.kind != Symbol::draw) continue;
        now = walk(symbol.rule, now);
        if (symbol.slot_id >= 0 && !now.insert(symbol.slot_id).second) {
          fail("stories grammar: `%s`, alternative %zu: $%s is drawn again", rule.name.c_str(), p + 1, slot);
        }
      }
      if (p == 0) common = now;
      std::erase_if(common, [&](int s) { return !now.contains(s); });
    }
    depth[id] = 2;
    return drawn_after[{id, before}] = common;
  }
};

StoryGrammar::StoryGrammar(std::string_view source) { Loader{*this, {}, {}, {}, 0, {}, {}}.load(source); }

const StoryGrammar& StoryGrammar::builtin() {
  static const StoryGrammar grammar(kStoriesGrammar);
  return grammar;
}
