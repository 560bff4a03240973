#include "llm/finetune/instructions.h"

#include <algorithm>
#include <numeric>

#include "llm/finetune/examples.h"
#include "llm/support/error.h"
#include "llm/support/json_rows.h"

namespace fs = std::filesystem;

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
    model.forward(input_of(batch, Pass::evaluate));
    double sum = 0;
    model.loss(batch.targets.data(), &sum);
    nats += sum;
    targets += count_targets(batch);
  }
  return nats / static_cast<double>(std::max<int64_t>(1, targets));
}
