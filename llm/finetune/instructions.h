// Instruction data: rows -> a template's text (llm/text/chat_template.h) -> tokens -> padded or packed batches whose
// weights exclude what is not to be learnt.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "llm/models/model.h"
#include "llm/text/chat_template.h"
#include "llm/text/dataloader.h"
#include "llm/text/tokenizer.h"

// ---- rows ----------------------------------------------------------------------------------------------------------

struct Instruction {
  std::string instruction, input, output;  // input may be empty
  std::string where;                       // "data.json: row 7": for messages
};

// A JSON array, or .jsonl: {"instruction": ..., "input": ..., "output": ...}; "input" may be left out. Throws Error
// naming the row for a key that is missing or not a string, and for an instruction or output without text.
std::vector<Instruction> read_instructions(const std::filesystem::path& path);

// ---- batches -------------------------------------------------------------------------------------------------------

// A prompt and its answer, which ends with end-of-text. The two are encoded separately, so that in training a prompt
// has exactly the tokens that it has by itself.
struct PromptedExample {
  std::vector<int32_t> ids;
  size_t prompt = 0;  // this many, the first ones, are the prompt
};

// Special tokens are recognised only in the ranges `own` of the question (ChatTemplate::question); elsewhere they are
// text. Throws Error naming the row `where` for what the tokenizer cannot encode.
PromptedExample prompted_example(const std::string& question, const std::string& answer, const Tokenizer& tokenizer,
                                 const std::string& where, const std::vector<TextRange>& own = {});
std::vector<PromptedExample> encode(const std::vector<Instruction>& rows, const ChatTemplate& chat,
                                    const Tokenizer& tokenizer);

struct Truncation {
  int64_t cut = 0;      // examples that were too long: their ends are gone
  int64_t dropped = 0;  // examples with no target left: taken out
};
// Cuts examples to `length` inputs, at least 1, that is length + 1 tokens. With `mask_prompt` an example whose prompt
// fills them has no target left; without, the prompt's tokens are targets too, and every example stays.
Truncation truncate(std::vector<PromptedExample>& examples, size_t length, bool mask_prompt = true);

// The examples that `rows` names as inputs and, one later, targets (B, T), T the longest of them. Shorter ones are
// padded with end-of-text, and their targets from there on are -1: the first end-of-text is learnt, the padding is not.
// With `mask_prompt` the prompt's tokens are -1 too. A target's weight is 1, that of -1 is 0.
//
// With a `pack_length` examples share rows of at most that many inputs (pack_rows()), each as its own document
// (Batch::documents), as is the rest of a row: the same targets in fewer positions. 0: each has its own row.
Batch prompted_batch(const std::vector<PromptedExample>& examples, const std::vector<size_t>& rows, int32_t pad,
                     bool mask_prompt, size_t pack_length);

int64_t count_targets(const Batch& batch);  // that are not -1

// Mean loss over the targets of the first `limit` examples (0: all), B at a time. `stop` is asked between batches: if
// it returns true, there is no result.
std::optional<double> evaluate_prompted(Model& model, const std::vector<PromptedExample>& examples, int32_t pad,
                                        bool mask_prompt, size_t pack_length, size_t B, size_t limit,
                                        const std::function<bool()>& stop);
