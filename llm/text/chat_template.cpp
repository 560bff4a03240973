#include "llm/text/chat_template.h"

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/support/json_rows.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const char* const kTemplateFile = "chat_template.json";

// Appends `text` to `out` with {key} replaced by `value` and doubled braces by single ones; `own`, if given, receives
// the ranges of `out` that come from `text`. Throws Error unless {key} is there once.
void fill(std::string& out, const std::string& text, const std::string& key, const std::string& value,
          const std::string& where, std::vector<TextRange>* own = nullptr) {
  size_t begin = out.size();
  const auto end_own = [&] {
    if (!own || begin == out.size()) return;
    if (!own->empty() && own->back().end == begin) {  // the end of one text and the beginning of the next
      own->back().end = out.size();
    } else {
      own->push_back({begin, out.size()});
    }
  };
  int found = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c != '{' && c != '}') {
      out += c;
    } else if (i + 1 < text.size() && text[i + 1] == c) {
      out += c;
      ++i;
    } else {
      const size_t end = c == '{' ? text.find('}', i) : std::string::npos;
      if (end == std::string::npos) {
        fail("%s: an unmatched brace in %s; a brace of the text itself is written twice", where.c_str(),
             in_quotes(text).c_str());
      }
      const std::string name = text.substr(i + 1, end - i - 1);
      if (name != key) {
        fail("%s: unknown key {%s} in %s, expected {%s}; a brace of the text itself is written twice", where.c_str(),
             name.c_str(), in_quotes(text).c_str(), key.c_str());
      }
      end_own();
      out += value;
      begin = out.size();
      ++found;
      i = end;
    }
  }
  if (found != 1) {
    fail("%s: {%s} is %d times in %s, expected once", where.c_str(), key.c_str(), found, in_quotes(text).c_str());
  }
  end_own();
}

ChatTemplate checked(ChatTemplate chat, const std::string& where) {
  std::string filled;
  fill(filled, chat.prompt, "instruction", "", where + ": prompt");
  fill(filled, chat.input, "input", "", where + ": input");
  fill(filled, chat.response, "output", "", where + ": response");
  if (!chat.response.ends_with("{output}")) {
    fail("%s: response: expected {output} at its end (end-of-text follows by itself), found %s", where.c_str(),
         in_quotes(chat.response).c_str());
  }
  return chat;
}

ChatTemplate read_template_file(const fs::path& path) {
  const MappedFile file(path);
  const JsonRow row{parse_json(file.text(), path.string(), 4), path.string()};
  if (!row.value.is_object()) {
    fail("%s: expected an object {\"prompt\": ..., \"input\": ..., \"response\": ...}", path.c_str());
  }
  for (const auto& [key, value] : row.value.items()) {
    if (key != "prompt" && key != "input" && key != "response") {
      fail("%s: unknown key %s, expected \"prompt\", \"input\" and \"response\"", path.c_str(), in_quotes(key).c_str());
    }
  }
  return checked({string_in(row, "prompt", false), string_in(row, "input", false), string_in(row, "response", false)},
                 path.string());
}

}  // namespace

std::string ChatTemplate::question(const std::string& instruction, const std::string& input_text,
                                   std::vector<TextRange>* own) const {
  std::string text;
  fill(text, prompt, "instruction", instruction, "the template's prompt", own);
  if (!input_text.empty()) fill(text, input, "input", input_text, "the template's input", own);
  fill(text, response, "output", "", "the template's response", own);
  return text;
}

std::vector<int32_t> ChatTemplate::encode_question(const std::string& instruction, const std::string& input_text,
                                                   const Tokenizer& tokenizer) const {
  std::vector<TextRange> own;
  const std::string text = question(instruction, input_text, &own);
  return tokenizer.encode(text, own);
}

ChatTemplate alpaca_template() {
  return {
      "Below is an instruction that describes a task. Write a response that appropriately completes the request."
      "\n\n### Instruction:\n{instruction}",
      "\n\n### Input:\n{input}", "\n\n### Response:\n{output}"};
}

ChatTemplate phi3_template() { return {"<|user|>\n{instruction}", "\n{input}", "\n<|assistant|>:\n{output}"}; }

ChatTemplate make_template(const std::string& name) {
  if (name == "alpaca") return alpaca_template();
  if (name == "phi3") return phi3_template();
  if (!fs::exists(name)) {
    fail_usage("{template} is '%s', expected alpaca, phi3 or a JSON file, and there is no such file", name.c_str());
  }
  return read_template_file(name);
}

void write_template(const ChatTemplate& chat, const fs::path& dir) {
  FileWriter file(dir / kTemplateFile);
  const json value{{"prompt", chat.prompt}, {"input", chat.input}, {"response", chat.response}};
  file.write(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  file.commit();
}

ChatTemplate read_template(const fs::path& dir) { return read_template_file(dir / kTemplateFile); }
bool has_template(const fs::path& dir) { return fs::exists(dir / kTemplateFile); }
