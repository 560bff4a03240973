#include "llm/finetune/classes.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "llm/finetune/examples.h"
#include "llm/flags/finetune_flags.h"
#include "llm/formats/huggingface.h"
#include "llm/support/error.h"
#include "llm/support/json.h"

// ---- splits --------------------------------------------------------------------------------------------------------

std::vector<std::string> class_names(const std::vector<LabelledText>& rows) {
  std::set<std::string> distinct;
  for (const LabelledText& row : rows) distinct.insert(row.label);
  std::vector<std::string> names(distinct.begin(), distinct.end());
  const auto value = [](const std::string& name) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    return error == std::errc() && end == name.data() + name.size() ? std::optional(number) : std::nullopt;
  };
  if (std::all_of(names.begin(), names.end(), [&](const std::string& name) { return value(name).has_value(); })) {
    std::stable_sort(names.begin(), names.end(),
                     [&](const std::string& a, const std::string& b) { return *value(a) < *value(b); });
  }
  return names;
}

std::vector<LabelledText> balanced(const std::vector<LabelledText>& rows, uint64_t seed) {
  std::map<std::string, size_t> count, kept;
  for (const LabelledText& row : rows) ++count[row.label];
  size_t smallest = rows.size();
  for (const auto& [label, n] : count) smallest = std::min(smallest, n);
  std::vector<size_t> chosen;  // the first of each class in a random order
  for (const size_t k : permutation(rows.size(), seed, uint64_t{1} << 32)) {
    if (kept[rows[k].label]++ < smallest) chosen.push_back(k);
  }
  std::sort(chosen.begin(), chosen.end());
  std::vector<LabelledText> result;
  for (const size_t k : chosen) result.push_back(rows[k]);
  return result;
}

LabelledSplits split(std::vector<LabelledText> rows, double train, double validation, uint64_t seed) {
  const SplitSizes sizes = split_sizes(rows.size(), train, validation);
  LabelledSplits splits;
  for (const size_t k : permutation(rows.size(), seed, uint64_t{2} << 32)) {
    std::vector<LabelledText>& to = splits.train.size() < sizes.train             ? splits.train
                                    : splits.validation.size() < sizes.validation ? splits.validation
                                                                                  : splits.test;
    to.push_back(std::move(rows[k]));
  }
  return splits;
}

void check_classes(const std::vector<std::string>& classes, const LabelledSplits& splits) {
  if (classes.size() < 2) {
    fail("every row has the label %s: a classifier needs at least two classes; is {label-column} the right one?",
         in_quotes(classes.empty() ? "" : classes[0]).c_str());
  }
  const auto check = [&](const char* name, const std::vector<LabelledText>& rows) {
    if (rows.empty()) return;
    std::set<std::string> there;
    for (const LabelledText& row : rows) there.insert(row.label);
    for (const std::string& label : classes) {
      if (there.contains(label)) continue;
      fail(
          "the class %s has no example in the %s set of %zu rows: give more rows, another {seed}, or larger shares; "
          "or leave the class out with {labels}",
          in_quotes(label).c_str(), name, rows.size());
    }
  };
  if (splits.train.empty()) fail("the training set has no rows");
  check("training", splits.train);
  check("validation", splits.validation);
  check("test", splits.test);
}

// ---- batches -------------------------------------------------------------------------------------------------------

std::vector<LabelledExample> encode(const std::vector<LabelledText>& rows, const std::vector<std::string>& classes,
                                    const Tokenizer& tokenizer) {
  std::map<std::string, int32_t> ids;
  for (size_t k = 0; k < classes.size(); ++k) ids[classes[k]] = static_cast<int32_t>(k);
  std::vector<LabelledExample> examples;
  for (const LabelledText& row : rows) {
    const auto label = ids.find(row.label);
    if (label == ids.end()) {
      fail("%s: the label %s is not one of the classes: %s", row.where.c_str(), in_quotes(row.label).c_str(),
           list_of(classes).c_str());
    }
    try {
      examples.push_back({tokenizer.encode(row.text), label->second});
    } catch (const Error& error) {
      fail("%s: %s", row.where.c_str(), error.what());
    }
  }
  return examples;
}

size_t longest(const std::vector<LabelledExample>& examples) {
  size_t most = 0;
  for (const LabelledExample& example : examples) most = std::max(most, example.ids.size());
  return most;
}

int64_t truncate(std::vector<LabelledExample>& examples, size_t length) {
  int64_t cut = 0;
  for (LabelledExample& example : examples) {
    if (example.ids.size() <= length) continue;
    example.ids.resize(length);
    ++cut;
  }
  return cut;
}

LabelledBatch labelled_batch(const std::vector<LabelledExample>& examples, const std::vector<size_t>& rows, int T,
                             int32_t pad, Position position) {
  const size_t B = rows.size(), width = static_cast<size_t>(T);
  LabelledBatch batch{static_cast<int>(B), T, std::vector<int32_t>(B * width), std::vector<float>(B * width), {}};
  for (size_t b = 0; b < B; ++b) {
    const LabelledExample& example = examples.at(rows[b]);
    lay_out(batch.inputs.data() + b * width, batch.pooling.data() + b * width, example.ids, T, pad, position);
    batch.targets.push_back(example.label);
  }
  return batch;
}

// ---- how well it does ----------------------------------------------------------------------------------------------

namespace {

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

int64_t Confusion::total() const {
  int64_t n = 0;
  for (const int64_t count : counts) n += count;
  return n;
}

double Confusion::accuracy() const {
  int64_t right = 0;
  for (size_t k = 0; k < classes; ++k) right += at(k, k);
  return share(right, total());
}

double Confusion::precision(size_t label) const {
  int64_t called = 0;
  for (size_t k = 0; k < classes; ++k) called += at(k, label);
  return share(at(label, label), called);
}

double Confusion::recall(size_t label) const {
  int64_t there = 0;
  for (size_t k = 0; k < classes; ++k) there += at(label, k);
  return share(at(label, label), there);
}

std::string to_text(const Confusion& confusion, const std::vector<std::string>& classes) {
  size_t width = 8;
  for (const std::string& name : classes) width = std::max(width, std::min<size_t>(name.size(), 20));
  const int w = static_cast<int>(width);
  const auto cell = [&](const std::string& text) { return strprintf(" %*.20s", w, text.c_str()); };
  std::string text = strprintf("%-*s", w + 6, "true \\ predicted");
  for (const std::string& name : classes) text += cell(name);
  text += cell("precision") + cell("recall");
  for (size_t k = 0; k < classes.size(); ++k) {
    text += strprintf("\n%-*.20s", std::max(w + 6, 16), classes[k].c_str());
    for (size_t j = 0; j < classes.size(); ++j) text += cell(std::to_string(confusion.at(k, j)));
    text += cell(strprintf("%.4f", confusion.precision(k))) + cell(strprintf("%.4f", confusion.recall(k)));
  }
  return text;
}

std::optional<ClassifierEvaluation> evaluate_classifier(Model& model, const std::vector<LabelledExample>& examples,
                                                        const ClassifierInfo& info, size_t B, size_t limit,
                                                        const std::function<bool()>& stop) {
  ClassifierEvaluation result{0, Confusion(info.classes.size())};
  const size_t n = limit > 0 ? std::min(limit, examples.size()) : examples.size();
  std::vector<float> logits(info.classes.size());
  for (const std::vector<size_t>& rows : batches_in_order(n, B)) {
    if (stop()) return std::nullopt;
    const LabelledBatch batch = labelled_batch(examples, rows, info.length, info.pad, position_of(info.position));
    model.forward({.tokens = batch.inputs.data(),
                   .B = batch.B,
                   .T = batch.T,
                   .pass = Pass::evaluate,
                   .pooling = batch.pooling.data()});
    for (int b = 0; b < batch.B; ++b) {
      model.read_logits(b, logits.data());
      const auto most = std::max_element(logits.begin(), logits.end());
      ++result.confusion.at(static_cast<size_t>(batch.targets[static_cast<size_t>(b)]),
                            static_cast<size_t>(most - logits.begin()));
    }
    double sum = 0;
    model.loss(batch.targets.data(), &sum);
    result.loss += sum;
  }
  result.loss /= static_cast<double>(std::max<size_t>(1, n));
  return result;
}
