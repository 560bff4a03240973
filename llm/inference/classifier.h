// A classifier of texts: the classes that its directory describes, and how it is asked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "llm/flags/finetune_flags.h"  // kPositions
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// ---- how a text is laid out ----------------------------------------------------------------------------------------

// Which of a row's outputs the head reads. Rows are padded at their end.
enum class Position {
  last,       // the row's last, padding or not, as in the book
  last_real,  // the text's last token
  first,
  mean,       // of all positions, padding included, as in the book
  mean_real,  // of the text's tokens
};
Position position_of(const std::string& name);  // throws Error for an unknown name

// Lays out a text in a row of T positions, which it fits into: its tokens, then `pad`; and the weight with which the
// head reads each position. inputs (T), pooling (T) for ForwardInput.
void lay_out(int32_t* inputs, float* pooling, std::span<const int32_t> ids, int T, int32_t pad, Position position);

// ---- a classifier's directory --------------------------------------------------------------------------------------

// Next to the shape, DIR/config.json has the classes (as transformers does: id2label, label2id) and the layout of texts
// ("classifier": {"position", "length"}).
struct ClassifierInfo {
  std::vector<std::string> classes;
  std::string position = "last";
  int length = 0;  // tokens that a text is padded or cut to
  int32_t pad = 0;
};
// Adds it to DIR/config.json, which save_model has written. Returns whether `transformers` opens the result: only if
// the position is last-real and attention causal (set_model_type in llm/formats/huggingface.h).
bool write_classifier_info(const std::filesystem::path& dir, const ClassifierInfo& info);
// Throws Error if the model in DIR is not a classifier, or if these fields do not fit its shape. A directory of
// transformers has no "classifier": then texts are not padded beyond their own length, and position is last_real.
ClassifierInfo read_classifier_info(const std::filesystem::path& dir);

// ---- asking it -----------------------------------------------------------------------------------------------------

// The probability of each class; `length`, if given, receives how many tokens the text has, uncut.
std::vector<float> classify(Model& model, const Tokenizer& tokenizer, const ClassifierInfo& info,
                            const std::string& text, size_t* length = nullptr);
