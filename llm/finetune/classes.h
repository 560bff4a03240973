// Labelled texts for a classifier: rows (llm/finetune/labelled_files.h) -> balanced splits -> padded batches; and what
// a model directory says about the classes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "llm/finetune/labelled_files.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// ---- splits --------------------------------------------------------------------------------------------------------

// The distinct labels: id k is that of the k-th. Whole numbers by value if all are, else names byte by byte.
std::vector<std::string> class_names(const std::vector<LabelledText>& rows);

// As many rows of each class as the smallest has, drawn with the seed, in their order.
std::vector<LabelledText> balanced(const std::vector<LabelledText>& rows, uint64_t seed);

struct LabelledSplits {
  std::vector<LabelledText> train, validation, test;  // test may be empty
};

// Shuffled with the seed, then cut (llm/finetune/examples.h, split_sizes).
LabelledSplits split(std::vector<LabelledText> rows, double train, double validation, uint64_t seed);

// Throws Error if there are fewer than two classes, or a class has no row in a split that has rows.
void check_classes(const std::vector<std::string>& classes, const LabelledSplits& splits);

// ---- batches -------------------------------------------------------------------------------------------------------

struct LabelledExample {
  std::vector<int32_t> ids;
  int32_t label;
};

std::vector<LabelledExample> encode(const std::vector<LabelledText>& rows, const std::vector<std::string>& classes,
                                    const Tokenizer& tokenizer);

size_t longest(const std::vector<LabelledExample>& examples);
// Cuts what is longer than `length` tokens; returns how many that were.
int64_t truncate(std::vector<LabelledExample>& examples, size_t length);

// Which of a row's outputs the head reads. Rows are padded at their end.
enum class Position {
  last,       // the row's last, padding or not, as the book's
  last_real,  // the text's last token
  first,
  mean,       // of all positions, padding included, as the book's
  mean_real,  // of the text's tokens
};
Position position_of(const std::string& name);  // throws Error for a name that is none

struct LabelledBatch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs;   // (B, T)
  std::vector<float> pooling;    // (B, T)  for Model::set_pooling
  std::vector<int32_t> targets;  // (B)
};
// The examples that `rows` names, each padded with `pad` to T tokens. None may be longer.
LabelledBatch labelled_batch(const std::vector<LabelledExample>& examples, const std::vector<size_t>& rows, int T,
                             int32_t pad, Position position);

// ---- a classifier's directory --------------------------------------------------------------------------------------

// Beside the shape, DIR/config.json says what classes there are (as transformers does: id2label, label2id) and how
// texts are laid out ("classifier": {"position", "length"}).
struct ClassifierInfo {
  std::vector<std::string> classes;
  std::string position = "last";
  int length = 0;  // tokens that a text is padded or cut to
  int32_t pad = 0;
};
// Adds it to DIR/config.json, which save_model has written. Returns whether `transformers` opens the result: it does
// not (set_model_type in llm/formats/huggingface.h) unless the position is last-real and attention causal.
bool write_classifier_info(const std::filesystem::path& dir, const ClassifierInfo& info);
// Throws Error if the model in DIR is no classifier, or what is said does not fit its shape. A directory of
// transformers has no "classifier": then texts are not padded beyond their own length, and position is last_real.
ClassifierInfo read_classifier_info(const std::filesystem::path& dir);

// The probability of each class; `length`, if given, receives how many tokens the text has, uncut.
std::vector<float> classify(Model& model, const Tokenizer& tokenizer, const ClassifierInfo& info,
                            const std::string& text, size_t* length = nullptr);

// ---- how well it does -----------------------------------------------------------------------------------------------

// Counts (k, k): row: the true class, column: the predicted one.
struct Confusion {
  explicit Confusion(size_t num_classes) : classes(num_classes), counts(num_classes * num_classes) {}
  size_t classes;
  std::vector<int64_t> counts;

  int64_t& at(size_t label, size_t predicted) { return counts[label * classes + predicted]; }
  int64_t at(size_t label, size_t predicted) const { return counts[label * classes + predicted]; }
  int64_t total() const;
  double accuracy() const;
  double precision(size_t label) const;  // of what is called this class, the share that is; 0 if nothing is called so
  double recall(size_t label) const;     // of this class, the share that is found; 0 if there is none
};
// Lines for a person: the counts, and each class's precision and recall.
std::string to_text(const Confusion& confusion, const std::vector<std::string>& classes);

struct ClassifierEvaluation {
  double loss = 0;  // mean over the examples
  Confusion confusion;
};
// Of the first `limit` examples (0: all), B at a time. `stop` is asked between batches: if it says so, there is no
// result.
std::optional<ClassifierEvaluation> evaluate_classifier(Model& model, const std::vector<LabelledExample>& examples,
                                                        const ClassifierInfo& info, size_t B, size_t limit,
                                                        const std::function<bool()>& stop);
