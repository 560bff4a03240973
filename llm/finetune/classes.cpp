#include "llm/finetune/classes.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>
#include <stdexcept>

#include "llm/finetune/examples.h"
#include "llm/flags/finetune_flags.h"
#include "llm/formats/huggingface.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

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
    fail("every row has the label %s: a classifier needs at least two classes; is --label-column the right one?",
         in_quotes(classes.empty() ? "" : classes[0]).c_str());
  }
  const auto check = [&](const char* name, const std::vector<LabelledText>& rows) {
    if (rows.empty()) return;
    std::set<std::string> there;
    for (const LabelledText& row : rows) there.insert(row.label);
    for (const std::string& label : classes) {
      if (there.contains(label)) continue;
      fail(
          "the class %s has no example in the %s set of %zu rows: give more rows, another --seed, or larger shares; "
          "or leave the class out with --labels",
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
      fail("%s: the label %s is none of the classes: %s", row.where.c_str(), in_quotes(row.label).c_str(),
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

Position position_of(const std::string& name) {
  const auto found = std::find(kPositions.begin(), kPositions.end(), name);
  if (found == kPositions.end()) {
    fail("the position %s: expected one of %s", in_quotes(name).c_str(), list_of(kPositions).c_str());
  }
  return static_cast<Position>(found - kPositions.begin());
}

LabelledBatch labelled_batch(const std::vector<LabelledExample>& examples, const std::vector<size_t>& rows, int T,
                             int32_t pad, Position position) {
  const size_t B = rows.size(), width = static_cast<size_t>(T);
  LabelledBatch batch{static_cast<int>(B), T, std::vector<int32_t>(B * width, pad), std::vector<float>(B * width), {}};
  for (size_t b = 0; b < B; ++b) {
    const LabelledExample& example = examples.at(rows[b]);
    const size_t n = example.ids.size();
    if (n == 0 || n > width) throw std::logic_error("labelled_batch() of a text that is empty or longer than T");
    std::copy(example.ids.begin(), example.ids.end(), batch.inputs.begin() + static_cast<ptrdiff_t>(b * width));
    float* weights = batch.pooling.data() + b * width;
    switch (position) {
      case Position::last:
        weights[width - 1] = 1;
        break;
      case Position::last_real:
        weights[n - 1] = 1;
        break;
      case Position::first:
        weights[0] = 1;
        break;
      case Position::mean:
        std::fill_n(weights, width, 1.0f / static_cast<float>(width));
        break;
      case Position::mean_real:
        std::fill_n(weights, n, 1.0f / static_cast<float>(n));
        break;
    }
    batch.targets.push_back(example.label);
  }
  return batch;
}

// ---- a classifier's directory --------------------------------------------------------------------------------------

bool write_classifier_info(const fs::path& dir, const ClassifierInfo& info) {
  const fs::path path = dir / "config.json";
  json config;
  {
    const MappedFile file(path);
    config = parse_json(file, 64);
  }
  config["id2label"] = config["label2id"] = json::object();
  for (size_t k = 0; k < info.classes.size(); ++k) {
    config["id2label"][std::to_string(k)] = info.classes[k];
    config["label2id"][info.classes[k]] = k;
  }
  config["classifier"] = {{"position", info.position}, {"length", info.length}, {"pad", info.pad}};
  // transformers takes the last token that is not this one, or the last of all if there is none.
  config["pad_token_id"] = info.position == "last" ? json(nullptr) : json(info.pad);
  set_model_type(config);
  FileWriter file(path);
  file.write(config.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  file.commit();
  return opens_in_transformers(config);
}

ClassifierInfo read_classifier_info(const fs::path& dir) {
  const ModelConfig shape = read_model_config(dir);
  const fs::path path = dir / "config.json";
  const MappedFile file(path);
  const json config = parse_json(file, 64);
  if (shape.num_classes == 0) {
    fail("%s: the model in this folder is no classifier; build/finetune classify makes one of it", path.c_str());
  }
  ClassifierInfo info;
  const json labels = config.contains("id2label") ? config["id2label"] : json();
  if (!labels.is_object() || labels.size() != static_cast<size_t>(shape.num_classes)) {
    fail("%s: id2label: expected an object with the names of %d classes, found %s", path.c_str(), shape.num_classes,
         in_quotes(labels.dump()).c_str());
  }
  for (size_t k = 0; k < labels.size(); ++k) {
    const auto label = labels.find(std::to_string(k));
    if (label == labels.end() || !label->is_string()) {
      fail("%s: id2label: expected a string for each of 0 to %zu, found none for %zu", path.c_str(), labels.size() - 1,
           k);
    }
    info.classes.push_back(label->get<std::string>());
  }
  const auto whole = [&](const json& value, const char* name, int64_t low, int64_t high) {
    if (!value.is_number_integer() || value < low || value > high) {
      fail("%s: %s is %s, expected a whole number from %lld to %lld", path.c_str(), name,
           in_quotes(value.dump()).c_str(), static_cast<long long>(low), static_cast<long long>(high));
    }
    return static_cast<int>(value.get<int64_t>());
  };
  const auto layout = config.find("classifier");
  if (layout == config.end()) {
    info.position = "last-real";
    if (config.contains("pad_token_id") && !config["pad_token_id"].is_null()) {
      info.pad = whole(config["pad_token_id"], "pad_token_id", 0, shape.vocab_size - 1);
    }
    return info;
  }
  if (!layout->is_object()) fail("%s: \"classifier\": expected an object", path.c_str());
  const json position = layout->value("position", json());
  if (!position.is_string() || std::count(kPositions.begin(), kPositions.end(), position.get<std::string>()) == 0) {
    fail("%s: classifier.position is %s, expected one of %s", path.c_str(), in_quotes(position.dump()).c_str(),
         list_of(kPositions).c_str());
  }
  info.position = position;
  info.length = whole(layout->value("length", json()), "classifier.length", 1, shape.max_seq_len);
  info.pad = whole(layout->value("pad", json()), "classifier.pad", 0, shape.vocab_size - 1);
  return info;
}

std::vector<float> classify(Model& model, const Tokenizer& tokenizer, const ClassifierInfo& info,
                            const std::string& text, size_t* length) {
  std::vector<LabelledExample> example{{tokenizer.encode(text), 0}};
  if (length) *length = example[0].ids.size();
  if (example[0].ids.empty()) fail("the text to classify is empty");
  const size_t context = static_cast<size_t>(model.config.max_seq_len);
  truncate(example, info.length > 0 ? static_cast<size_t>(info.length) : context);
  const int T = info.length > 0 ? info.length : static_cast<int>(example[0].ids.size());
  const LabelledBatch batch = labelled_batch(example, {0}, T, info.pad, position_of(info.position));
  model.set_pooling(batch.pooling.data(), batch.B, batch.T);
  model.forward(batch.inputs.data(), 1, T, Pass::evaluate);
  std::vector<float> probability(static_cast<size_t>(model.config.num_classes));
  model.read_logits(0, probability.data());
  if (!std::all_of(probability.begin(), probability.end(), [](float logit) { return std::isfinite(logit); })) {
    fail("the model's logits are not finite: its weights are damaged");
  }
  const float most = *std::max_element(probability.begin(), probability.end());
  double sum = 0;
  for (float& p : probability) sum += p = std::exp(p - most);
  for (float& p : probability) p = static_cast<float>(p / sum);
  return probability;
}

// ---- how well it does -----------------------------------------------------------------------------------------------

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
    model.set_pooling(batch.pooling.data(), batch.B, batch.T);
    model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
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
