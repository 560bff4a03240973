#include "llm/inference/classifier.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

// ---- how a text is laid out ----------------------------------------------------------------------------------------

Position position_of(const std::string& name) {
  const auto found = std::find(kPositions.begin(), kPositions.end(), name);
  if (found == kPositions.end()) {
    fail("the position %s: expected one of %s", in_quotes(name).c_str(), list_of(kPositions).c_str());
  }
  return static_cast<Position>(found - kPositions.begin());
}

void lay_out(int32_t* inputs, float* pooling, std::span<const int32_t> ids, int T, int32_t pad, Position position) {
  const size_t n = ids.size(), width = static_cast<size_t>(T);
  if (n == 0 || n > width) throw std::logic_error("lay_out() of a text that is empty or longer than T");
  std::fill(std::copy(ids.begin(), ids.end(), inputs), inputs + width, pad);
  std::fill_n(pooling, width, 0.0f);
  switch (position) {
    case Position::last:
      pooling[width - 1] = 1;
      break;
    case Position::last_real:
      pooling[n - 1] = 1;
      break;
    case Position::first:
      pooling[0] = 1;
      break;
    case Position::mean:
      std::fill_n(pooling, width, 1.0f / static_cast<float>(width));
      break;
    case Position::mean_real:
      std::fill_n(pooling, n, 1.0f / static_cast<float>(n));
      break;
  }
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
    fail("%s: the model in this folder is not a classifier; build/finetune classify makes one of it", path.c_str());
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

// ---- asking it -----------------------------------------------------------------------------------------------------

std::vector<float> classify(Model& model, const Tokenizer& tokenizer, const ClassifierInfo& info,
                            const std::string& text, size_t* length) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  if (length) *length = ids.size();
  if (ids.empty()) fail("the text to classify is empty");
  ids.resize(std::min(ids.size(), static_cast<size_t>(info.length > 0 ? info.length : model.config.max_seq_len)));
  const size_t T = info.length > 0 ? static_cast<size_t>(info.length) : ids.size();
  std::vector<int32_t> inputs(T);
  std::vector<float> pooling(T);
  lay_out(inputs.data(), pooling.data(), ids, static_cast<int>(T), info.pad, position_of(info.position));
  model.forward(
      {.tokens = inputs.data(), .B = 1, .T = static_cast<int>(T), .pass = Pass::evaluate, .pooling = pooling.data()});
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
