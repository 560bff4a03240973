#include "llm/finetune/instructions.h"

#include <algorithm>
#include <numeric>

#include "llm/finetune/examples.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/support/json_rows.h"

namespace fs = std::filesystem;
using nlohmann::json;

// ---- rows ----------------------------------------------------------------------------------------------------------

std::vector<Instruction> read_instructions(const fs::path& path) {
  std::vector<Instruction> rows;
  for_each_json_row(path, [&](const JsonRow& row) {
    rows.push_back({string_in(row, "instruction", false), string_in(row, "input", true),
                    string_in(row, "output", false), row.where});
    if (rows.back().instruction.empty()) fail("%s: \"instruction\" is empty", row.where.c_str());
    if (rows.back().output.empty()) fail("%s: \"output\" is empty: there is nothing to learn", row.where.c_str());
  });
  return rows;
}

// ---- the template --------------------------------------------------------------------------------------------------

namespace {

const char* const kTemplateFile = "chat_template.json";

// Appends `text` to `out` with {key} replaced by `value` and doubled braces by single ones; `own`, if given, receives
// the ranges of `out` that are the text's. Throws Error unless {key} is there once.
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
        fail("%s: a brace without its other half in %s; a brace of the text itself is written twice", where.c_str(),
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
    fail_usage("--template is '%s', expected alpaca, phi3 or a JSON file, and there is no such file", name.c_str());
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

// ---- batches -------------------------------------------------------------------------------------------------------

PromptedExample prompted_example(const std::string& question, const std::string& answer, const Tokenizer& tokenizer,
                                 const std::string& where, const std::vector<TextRange>& own) {
  PromptedExample example;
  try {
    example.ids = tokenizer.encode(question, own);
    example.prompt = example.ids.size();
    const std::vector<int32_t> ids = tokenizer.encode(answer);
    example.ids.insert(example.ids.end(), ids.begin(), ids.end());
  } catch (const Error& error) {
    fail("%s: %s", where.c_str(), error.what());
  }
  example.ids.push_back(tokenizer.end_of_text());
  return example;
}

std::vector<PromptedExample> encode(const std::vector<Instruction>& rows, const ChatTemplate& chat,
                                    const Tokenizer& tokenizer) {
  std::vector<PromptedExample> examples;
  for (const Instruction& row : rows) {
    std::vector<TextRange> own;
    const std::string question = chat.question(row.instruction, row.input, &own);
    examples.push_back(prompted_example(question, row.output, tokenizer, row.where, own));
  }
  return examples;
}

Truncation truncate(std::vector<PromptedExample>& examples, size_t length, bool mask_prompt) {
  Truncation result;
  for (PromptedExample& example : examples) {
    if (example.ids.size() <= length + 1) continue;
    example.ids.resize(length + 1);
    ++result.cut;
  }
  if (!mask_prompt) return result;
  result.dropped = static_cast<int64_t>(
      std::erase_if(examples, [](const PromptedExample& example) { return example.ids.size() <= example.prompt; }));
  return result;
}

Batch prompted_batch(const std::vector<PromptedExample>& examples, const std::vector<size_t>& rows, int32_t pad,
                     bool mask_prompt, size_t pack_length) {
  std::vector<size_t> lengths;
  for (const size_t row : rows) lengths.push_back(examples.at(row).ids.size() - 1);
  const auto packed = pack_length > 0 ? pack_rows(lengths, pack_length) : batches_in_order(rows.size(), 1);
  const auto used = [&](const std::vector<size_t>& row) {
    return std::accumulate(row.begin(), row.end(), size_t{0}, [&](size_t sum, size_t k) { return sum + lengths[k]; });
  };
  size_t T = 0;
  for (const std::vector<size_t>& row : packed) T = std::max(T, used(row));
  const size_t n = packed.size() * T;
  Batch batch{static_cast<int>(packed.size()), static_cast<int>(T), std::vector<int32_t>(n, pad),
              std::vector<int32_t>(n, -1), std::vector<float>(n, 0.0f)};
  const bool shared = packed.size() < rows.size();
  if (shared) batch.documents.resize(n);
  for (size_t b = 0; b < packed.size(); ++b) {
    size_t begin = 0;
    for (const size_t k : packed[b]) {
      const PromptedExample& example = examples[rows[k]];
      for (size_t t = 0; t < lengths[k]; ++t) {
        const size_t at = b * T + begin + t;
        batch.inputs[at] = example.ids[t];
        if (shared) batch.documents[at] = static_cast<int32_t>(begin);
        if (mask_prompt && t + 1 < example.prompt) continue;
        batch.targets[at] = example.ids[t + 1];
        batch.weights[at] = 1;
      }
      begin += lengths[k];
    }
    for (size_t t = begin; shared && t < T; ++t) batch.documents[b * T + t] = static_cast<int32_t>(begin);
  }
  return batch;
}

void forward_batch(Model& model, const Batch& batch, Pass pass) {
  if (!batch.documents.empty()) model.set_documents(batch.documents.data(), batch.B, batch.T);
  model.forward(batch.inputs.data(), batch.B, batch.T, pass);
}

int64_t count_targets(const Batch& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t target) { return target >= 0; });
}

std::optional<double> evaluate_prompted(Model& model, const std::vector<PromptedExample>& examples, int32_t pad,
                                        bool mask_prompt, size_t pack_length, size_t B, size_t limit,
                                        const std::function<bool()>& stop) {
  const size_t n = limit > 0 ? std::min(limit, examples.size()) : examples.size();
  double nats = 0;
  int64_t targets = 0;
  for (const std::vector<size_t>& rows : batches_in_order(n, B)) {
    if (stop()) return std::nullopt;
    const Batch batch = prompted_batch(examples, rows, pad, mask_prompt, pack_length);
    forward_batch(model, batch, Pass::evaluate);
    double sum = 0;
    model.loss(batch.targets.data(), &sum);
    nats += sum;
    targets += count_targets(batch);
  }
  return nats / static_cast<double>(std::max<int64_t>(1, targets));
}
