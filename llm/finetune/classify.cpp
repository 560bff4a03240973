#include "llm/finetune/classify.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "llm/finetune/classes.h"
#include "llm/finetune/loop.h"
#include "llm/finetune/setup.h"
#include "llm/formats/open_weights.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/training/optimizer.h"

namespace {

struct ClassifierData {
  std::vector<LabelledExample> train, validation, test;
  ClassifierInfo info;
};

// Files -> rows -> classes, balance, splits -> tokens; reports each.
ClassifierData read_classifier_data(const FinetuneConfig& c, const Tokenizer& tokenizer, int context) {
  LabelledSource source{c.text_column, c.label_column, c.header, split_list(c.labels), c.lossy};
  const auto read = [&](const std::string& path) {
    LabelledTexts texts = read_labelled(path, source);
    std::string line = strprintf("data: %zu texts in %s", texts.rows.size(), path.c_str());
    if (!texts.header.empty()) line += "; its first line names the columns: " + texts.header;
    if (texts.empty) line += strprintf("; %lld without text are left out", static_cast<long long>(texts.empty));
    if (texts.others) line += strprintf("; %lld with other labels are left out", static_cast<long long>(texts.others));
    if (texts.pooled) {
      line += "; train/ and test/ in it are taken together (to keep them apart: {data} " +
              (std::filesystem::path(path) / "train").string() + " {test-data} " +
              (std::filesystem::path(path) / "test").string() + ")";
    }
    say(line);
    return std::move(texts.rows);
  };
  std::vector<LabelledText> rows = read(c.data);
  ClassifierData data;
  data.info.classes = source.labels.empty() ? class_names(rows) : source.labels;
  std::string line = "classes:";
  for (size_t k = 0; k < data.info.classes.size(); ++k) {
    const std::string& name = data.info.classes[k];
    const auto n = std::count_if(rows.begin(), rows.end(), [&](const LabelledText& row) { return row.label == name; });
    line += strprintf("%s %zu %s (%td)", k ? "," : "", k, name.c_str(), n);
  }
  say(line + (source.labels.empty() ? ", in sorted order" : ", in the order of {labels}"));
  if (c.balance) {
    rows = balanced(rows, c.seed);
    say(strprintf("balanced: %zu texts, as many of each class", rows.size()));
  }
  LabelledSplits splits;
  if (c.val_data.empty() && c.test_data.empty()) {
    splits = split(std::move(rows), c.train_fraction, c.val_fraction, c.seed);
  } else {
    splits.train = std::move(rows);
    if (!c.val_data.empty()) splits.validation = read(c.val_data);
    if (!c.test_data.empty()) splits.test = read(c.test_data);
  }
  check_classes(data.info.classes, splits);
  data.train = encode(splits.train, data.info.classes, tokenizer);
  data.validation = encode(splits.validation, data.info.classes, tokenizer);
  data.test = encode(splits.test, data.info.classes, tokenizer);

  const size_t most = longest(data.train), limit = static_cast<size_t>(context);
  const size_t length = c.max_length > 0 ? static_cast<size_t>(c.max_length) : std::min(most, limit);
  if (length > limit) fail_usage("{max-length} is %zu, but the model's context is %d", length, context);
  data.info.length = static_cast<int>(length);
  data.info.position = c.position;
  data.info.pad = tokenizer.end_of_text();
  int64_t cut = 0;
  for (auto* examples : {&data.train, &data.validation, &data.test}) cut += truncate(*examples, length);
  say(strprintf("sets: %zu to train, %zu to validate, %zu to test; %zu tokens each%s, %lld texts were cut",
                data.train.size(), data.validation.size(), data.test.size(), length,
                length == most                         ? ", the longest of the training set"
                : length == limit && c.max_length == 0 ? ", the model's context"
                                                       : "",
                static_cast<long long>(cut)));
  return data;
}

// Accuracy and loss of each set; at the last evaluation also the confusion matrix of the test set.
void report_classifier(Model& model, const ClassifierData& data, const FinetuneConfig& c, int64_t step,
                       FinetuneRun& run) {
  const bool last = run.is_last(step);
  nlohmann::json metrics{{"step", step}, {"epoch", run.epoch(step)}};
  std::string line = strprintf("step %lld | epoch %.2f", static_cast<long long>(step), metrics["epoch"].get<double>());
  std::string table;
  const struct {
    const char *name, *key;
    const std::vector<LabelledExample>& examples;
  } sets[] = {{"training", "train", data.train}, {"validation", "val", data.validation}, {"test", "test", data.test}};
  for (const auto& [name, key, examples] : sets) {
    if (examples.empty()) continue;
    const size_t limit = last ? 0 : static_cast<size_t>(c.eval_examples);
    const size_t B = static_cast<size_t>(micro_batch_size(c));
    const auto result = evaluate_classifier(model, examples, data.info, B, limit, stop_requested);
    if (!result) return;
    check_loss(result->loss, step, name);
    const Confusion& confusion = result->confusion;
    line += strprintf(" | %s %.2f %%, loss %.3f", name, 100 * confusion.accuracy(), result->loss);
    metrics[std::string(key) + "_accuracy"] = confusion.accuracy();
    metrics[std::string(key) + "_loss"] = result->loss;
    if (&examples != &data.test) continue;
    metrics["confusion"] = nlohmann::json::array();
    for (size_t k = 0; k < confusion.classes; ++k) {
      const auto row = confusion.counts.begin() + static_cast<ptrdiff_t>(k * confusion.classes);
      metrics["confusion"].push_back(std::vector<int64_t>(row, row + static_cast<ptrdiff_t>(confusion.classes)));
      metrics["precision"].push_back(confusion.precision(k));
      metrics["recall"].push_back(confusion.recall(k));
    }
    if (last) table = to_text(confusion, data.info.classes);
  }
  say(line);
  if (!table.empty()) say("test set:\n" + table);
  run.log().write(metrics);
}

// The classifier's base: a model directory, or a preset's shape with random weights.
struct ClassifierBase {
  ModelConfig shape;
  Tokenizer tokenizer;
  bool random;
};

ClassifierBase classifier_base(const FinetuneConfig& c) {
  if (!c.tokenizer.empty()) {
    if (tokenizer_needs_text(c.tokenizer)) {
      fail_usage("{tokenizer} %s is made from text; make it first: build/tokenize train", c.tokenizer.c_str());
    }
    const Tokenizer tokenizer = make_tokenizer(c.tokenizer, "");
    check_end_of_text(tokenizer, "{tokenizer} " + c.tokenizer);
    ModelConfig shape = find_preset(c.model)->shape;
    shape.vocab_size = tokenizer.vocab_size();
    return {shape, tokenizer, true};
  }
  const ModelConfig shape = read_model_config(c.model);
  check_weights(shape, c.model);
  return {shape, load_tokenizer(c.model, shape), false};
}

}  // namespace

void finetune_classify(FinetuneConfig c, const Device& device) {
  const auto started = std::chrono::steady_clock::now();
  const std::filesystem::path folder = finetune_folder(c, std::filesystem::path(c.data).stem().string());

  // 1. the data
  const ClassifierBase base = classifier_base(c);
  const Tokenizer& tokenizer = base.tokenizer;
  const ClassifierData data = read_classifier_data(c, tokenizer, base.shape.max_seq_len);
  const int64_t per_epoch = settle_steps(c, data.train.size());
  const int T = data.info.length;
  std::vector<size_t> lengths;
  for (const LabelledExample& example : data.train) lengths.push_back(example.ids.size());

  // 2. the model: the base, with a head of as many rows as there are classes
  ModelConfig shape = base.shape;
  shape.num_classes = static_cast<int>(data.info.classes.size());
  shape.tied_head = false;
  shape.causal = base.shape.causal && !c.no_causal;
  const bool keep_head = base.shape.num_classes > 0 && read_classifier_info(c.model).classes == data.info.classes;
  const std::unique_ptr<Model> model = device.make_model(shape, model_options(c, shape), micro_batch_size(c), T);
  init_weights(*model, c.seed);
  if (!keep_head) init_head(*model, c.head_init, c.seed);
  if (!base.random) load_base_weights(*model, c.model, keep_head);
  say(keep_head ? "head: that of the classifier in " + c.model : "head: new, " + c.head_init);

  // 3. the steps
  FinetuneRun run(c, Task::classify, device, *model, per_epoch, folder);
  bool opens_elsewhere = true;
  const auto save = [&] {
    run.save(tokenizer, base.random ? "" : c.model,
             [&](const auto& dir) { opens_elsewhere = write_classifier_info(dir, data.info); });
  };
  report_classifier(*model, data, c, 0, run);
  int64_t step = 0;
  run.begin();
  while (!run.ended(step)) {
    // forward and backward, micro-batch by micro-batch
    model->zero_grad();
    uint64_t sequence = dropout_sequence(step);
    for (const std::vector<size_t>& rows : micro_batches(run.batch(step, lengths), c)) {
      const LabelledBatch batch = labelled_batch(data.train, rows, T, data.info.pad, position_of(c.position));
      const std::vector<float> weights(rows.size(), 1.0f / static_cast<float>(c.batch_size));
      model->forward({.tokens = batch.inputs.data(),
                      .B = batch.B,
                      .T = batch.T,
                      .dropout = {static_cast<float>(c.dropout), c.seed, sequence++},
                      .pooling = batch.pooling.data()});
      model->backward(batch.targets.data(), weights.data());
    }

    // update
    model->update(optimizer_of(c, learning_rate(run.schedule(), step)), static_cast<float>(c.grad_clip));
    ++step;

    // log, evaluate, save
    run.report_step(step, model->result(0), int64_t{c.batch_size} * T);
    run.evaluate_save(
        step, [&] { report_classifier(*model, data, c, step, run); }, save);
  }
  run.finish(save);
  if (!opens_elsewhere) {
    say(
        strprintf("transformers does not have %s, so it refuses this model (model_type in config.json); it opens a "
                  "classifier of {position} last-real with causal attention",
                  shape.causal ? ("{position} " + c.position).c_str() : "attention that is not causal"));
  }
  run.print_end(step, seconds_since(started), "{classify} \"a text\"");
}
