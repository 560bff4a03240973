#include "llm/inference/tasks.h"

#include <algorithm>
#include <cctype>
#include <functional>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kMaxJsonDepth = 16;
constexpr std::string_view kSpace = " \t\r\n";

// Every line that is not blank, without the white space around it.
void for_each_line(const fs::path& path, const std::function<void(const std::string& where, std::string_view)>& visit) {
  const MappedFile file(path);
  const std::string_view text = file.text();
  check_not_utf16(text, path);
  size_t number = 0, found = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    line.remove_prefix(std::min(line.find_first_not_of(kSpace), line.size()));
    line.remove_suffix(line.size() - (line.find_last_not_of(kSpace) + 1));
    if (line.empty()) continue;
    const std::string where = strprintf("%s: line %zu", path.c_str(), number);
    if (const size_t bad = find_invalid_utf8(line); bad != std::string_view::npos) {
      fail("%s: not UTF-8: byte 0x%02X", where.c_str(), static_cast<unsigned char>(line[bad]));
    }
    visit(where, line);
    ++found;
  }
  if (found == 0) fail("%s: all lines are blank, expected one example per line", path.c_str());
}

json read_object(const std::string& where, std::string_view line) {
  json object = parse_json(line, where, kMaxJsonDepth);
  if (!object.is_object()) {
    fail("%s: expected a JSON object, found %s", where.c_str(), in_quotes(std::string(line)).c_str());
  }
  return object;
}

std::string get_string(const json& object, const char* field, const std::string& where) {
  const auto found = object.find(field);
  if (found == object.end()) fail("%s: there is no \"%s\", expected a string", where.c_str(), field);
  if (!found->is_string()) fail("%s: \"%s\" is %s, expected a string", where.c_str(), field, shown(*found).c_str());
  return found->get<std::string>();
}

// The first of the fields that the object has.
const char* first_of(const json& object, std::initializer_list<const char*> fields, const std::string& where) {
  std::string all;
  for (const char* field : fields) {
    if (object.contains(field)) return field;
    all += strprintf("%s\"%s\"", all.empty() ? "" : " or ", field);
  }
  fail("%s: expected %s, found neither", where.c_str(), all.c_str());
}

std::vector<std::string> get_strings(const json& value, const char* field, const std::string& where) {
  std::vector<std::string> strings;
  if (!value.is_array()) fail("%s: \"%s\" is %s, expected a list", where.c_str(), field, shown(value).c_str());
  for (const json& item : value) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) {
      fail("%s: \"%s\" holds %s, expected strings that are not empty", where.c_str(), field, shown(item).c_str());
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

// Which of `choices` is right, given as an index, one of `labels` or a letter.
int get_answer(const json& value, const char* field, const std::vector<std::string>& labels, size_t choices,
               const std::string& where) {
  int64_t index = -1;
  if (value.is_number_integer()) {
    index = value.is_number_unsigned() && value.get<uint64_t>() > INT32_MAX ? -1 : value.get<int64_t>();
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    const auto label = std::find(labels.begin(), labels.end(), text);
    if (label != labels.end()) {
      index = label - labels.begin();
    } else if (labels.empty() && text.size() == 1 && std::isalpha(static_cast<unsigned char>(text[0]))) {
      index = std::toupper(static_cast<unsigned char>(text[0])) - 'A';
    } else if (labels.empty() && !text.empty() && text.size() < 6 &&
               text.find_first_not_of("0123456789") == std::string::npos) {
      index = std::stoi(text);
    } else if (text.empty()) {
      fail("%s: \"%s\" is empty: a file without answers cannot be scored", where.c_str(), field);
    }
  }
  if (index < 0 || index >= static_cast<int64_t>(choices)) {
    fail("%s: \"%s\" is %s, expected one of %zu choices: an index from 0 to %zu, %s", where.c_str(), field,
         shown(value).c_str(), choices, choices - 1, labels.empty() ? "or a letter from A" : "or one of the labels");
  }
  return static_cast<int>(index);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

// What lm-evaluation-harness does to WikiHow's marks: "[title]" ends a sentence, everything else in brackets is
// removed.
std::string without_marks(std::string text) {
  text.erase(0, std::min(text.find_first_not_of(kSpace), text.size()));
  text.erase(text.find_last_not_of(kSpace) + 1);
  replace_all(text, " [title]", ". ");
  for (size_t open = text.find('['); open != std::string::npos;) {
    const size_t close = text.find(']', open);
    if (close == std::string::npos) break;
    text.erase(open, close + 1 - open);
    open = text.find('[', open);
  }
  replace_all(text, "  ", " ");
  return text;
}

std::string capitalized(std::string text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    text[i] = static_cast<char>(i == 0 ? std::toupper(c) : std::tolower(c));
  }
  return text;
}

bool is_space(char c) { return kSpace.find(c) != std::string_view::npos; }

}  // namespace

std::vector<Question> read_hellaswag(const fs::path& path, bool activity) {
  std::vector<Question> questions;
  for_each_line(path, [&](const std::string& where, std::string_view line) {
    const json object = read_object(where, line);
    Question q;
    q.where = where;
    if (activity) {
      const std::string name = get_string(object, "activity_label", where), a = get_string(object, "ctx_a", where);
      q.context = without_marks(name + ": " + a + " " + capitalized(get_string(object, "ctx_b", where)));
    } else if (object.contains("ctx") || !object.contains("ctx_a")) {
      q.context = get_string(object, "ctx", where);
    } else {
      q.context = get_string(object, "ctx_a", where) + " " + get_string(object, "ctx_b", where);
    }
    if (!object.contains("endings")) fail("%s: there is no \"endings\", expected four", where.c_str());
    q.choices = get_strings(object["endings"], "endings", where);
    if (q.choices.size() != 4) fail("%s: \"endings\" has %zu, expected four", where.c_str(), q.choices.size());
    for (std::string& choice : q.choices) {
      if (activity) choice = without_marks(choice);
      choice.insert(choice.begin(), ' ');
    }
    if (!object.contains("label")) fail("%s: there is no \"label\", expected 0 to 3", where.c_str());
    q.answer = get_answer(object["label"], "label", {"0", "1", "2", "3"}, 4, where);
    questions.push_back(std::move(q));
  });
  return questions;
}

std::vector<Question> read_choices(const fs::path& path) {
  std::vector<Question> questions;
  for_each_line(path, [&](const std::string& where, std::string_view line) {
    const json object = read_object(where, line);
    Question q;
    q.where = where;
    q.context = get_string(object, first_of(object, {"context", "ctx", "question"}, where), where);
    if (object.contains("question") && (object.contains("context") || object.contains("ctx"))) {
      q.context += '\n';
      q.context += get_string(object, "question", where);
    }
    const char* field = first_of(object, {"choices", "endings"}, where);
    std::vector<std::string> labels;
    if (object[field].is_object()) {
      for (const char* part : {"text", "label"}) {
        if (!object[field].contains(part)) fail("%s: \"%s\" has no \"%s\"", where.c_str(), field, part);
      }
      q.choices = get_strings(object[field]["text"], "text", where);
      labels = get_strings(object[field]["label"], "label", where);
      if (labels.size() != q.choices.size()) {
        fail("%s: %zu choices with %zu labels", where.c_str(), q.choices.size(), labels.size());
      }
    } else {
      q.choices = get_strings(object[field], field, where);
    }
    if (q.choices.size() < 2) fail("%s: \"%s\" has %zu, expected two or more", where.c_str(), field, q.choices.size());
    for (std::string& choice : q.choices) {
      if (!q.context.empty() && !is_space(q.context.back()) && !is_space(choice[0])) choice.insert(choice.begin(), ' ');
    }
    const char* answer = first_of(object, {"answer", "answerKey", "label"}, where);
    q.answer = get_answer(object[answer], answer, labels, q.choices.size(), where);
    questions.push_back(std::move(q));
  });
  return questions;
}

std::vector<Passage> read_lambada(const fs::path& path) {
  std::vector<Passage> passages;
  for_each_line(path, [&](const std::string& where, std::string_view line) {
    const std::string text = line[0] == '{' ? get_string(read_object(where, line), "text", where) : std::string(line);
    const size_t end = text.find_last_not_of(kSpace);
    const size_t space = end == std::string::npos ? end : text.find_last_of(kSpace, end);
    if (space == std::string::npos || text.find_last_not_of(kSpace, space) == std::string::npos) {
      fail("%s: expected a passage of two words or more, found %s", where.c_str(), in_quotes(text).c_str());
    }
    const size_t begin = text.find_last_not_of(kSpace, space) + 1;
    passages.push_back({where, text.substr(0, begin), text.substr(begin, end + 1 - begin)});
  });
  return passages;
}
