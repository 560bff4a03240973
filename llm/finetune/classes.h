// Labelled texts for a classifier: rows (llm/finetune/labelled_files.h) -> balanced splits -> padded batches; and how
// well a classifier (llm/inference/classifier.h) does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "llm/finetune/labelled_files.h"
#include "llm/inference/classifier.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// ---- splits --------------------------------------------------------------------------------------------------------

// The distinct labels: id k is that of the k-th. Sorted by value if all are whole numbers, else byte by byte.
std::vector<std::string> class_names(const std::vector<LabelledText>& rows);

// As many rows of each class as the smallest one has, drawn with the seed, in their order.
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

struct LabelledBatch {
  int B = 0, T = 0;
  std::vector<int32_t> inputs;   // (B, T)
  std::vector<float> pooling;    // (B, T)  for ForwardInput
  std::vector<int32_t> targets;  // (B)
};
// The examples that `rows` names, each padded with `pad` to T tokens. None may be longer.
LabelledBatch labelled_batch(const std::vector<LabelledExample>& examples, const std::vector<size_t>& rows, int T,
                             int32_t pad, Position position);

// ---- how well it does ----------------------------------------------------------------------------------------------

// Counts (k, k): row: the true class, column: the predicted one.
struct Confusion {
  explicit Confusion(size_t num_classes) : classes(num_classes), counts(num_classes * num_classes) {}
  size_t classes;
  std::vector<int64_t> counts;

  int64_t& at(size_t label, size_t predicted) { return counts[label * classes + predicted]; }
  int64_t at(size_t label, size_t predicted) const { return counts[label * classes + predicted]; }
  int64_t total() const;
  double accuracy() const;
  double precision(size_t label) const;  // share of rows predicted as this class that are of it; 0 if none are
  double recall(size_t label) const;     // share of this class's rows that are predicted so; 0 if it has none
};
// Lines for a person: the counts, and each class's precision and recall.
std::string to_text(const Confusion& confusion, const std::vector<std::string>& classes);

struct ClassifierEvaluation {
  double loss = 0;  // mean over the examples
  Confusion confusion;
};
// Evaluates the first `limit` examples (0: all), B at a time. `stop` is asked between batches: if it returns true,
// there is no result.
std::optional<ClassifierEvaluation> evaluate_classifier(Model& model, const std::vector<LabelledExample>& examples,
                                                        const ClassifierInfo& info, size_t B, size_t limit,
                                                        const std::function<bool()>& stop);
