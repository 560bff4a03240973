// finetune classify: a model that continues texts becomes one that tells classes of texts apart.
#pragma once

#include "llm/finetune/classes.h"
#include "llm/finetune/report.h"

struct ClassifierData {
  std::vector<LabelledExample> train, validation, test;
  ClassifierInfo info;
};

// Files -> rows -> classes, balance, splits -> tokens, all of it said.
inline ClassifierData read_classifier_data(const FinetuneConfig& c, const Tokenizer& tokenizer, int context) {
  LabelledSource source{c.text_column, c.label_column, c.header, split_list(c.labels), c.lossy};
  const auto read = [&](const std::string& path) {
    LabelledTexts texts = read_labelled(path, source);
    std::string line = strprintf("data: %zu texts in %s", texts.rows.size(), path.c_str());
    if (!texts.header.empty()) line += "; its first line names the columns: " + texts.header;
    if (texts.empty) line += strprintf("; %lld without text are left out", static_cast<long long>(texts.empty));
    if (texts.others) line += strprintf("; %lld with other labels are left out", static_cast<long long>(texts.others));
    if (texts.pooled) {
      line += "; train/ and test/ in it are taken together (to keep them apart: --data " +
              (std::filesystem::path(path) / "train").string() + " --test-data " +
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
  say(line + (source.labels.empty() ? ", in sorted order" : ", in the order of --labels"));
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
  if (length > limit) fail_usage("--max-length is %zu, but the model's context is %d", length, context);
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

// Accuracy and loss of each set; of the last evaluation also the confusion matrix of the test set.
inline void report_classifier(Model& model, const ClassifierData& data, const FinetuneConfig& c, int64_t step,
                              int64_t per_epoch, bool last, MetricsLog& log) {
  nlohmann::json metrics{{"step", step}, {"epoch", static_cast<double>(step) / static_cast<double>(per_epoch)}};
  std::string line = strprintf("step %lld | epoch %.2f", static_cast<long long>(step), metrics["epoch"].get<double>());
  std::string table;
  const struct {
    const char *name, *key;
    const std::vector<LabelledExample>& examples;
  } sets[] = {{"training", "train", data.train}, {"validation", "val", data.validation}, {"test", "test", data.test}};
  for (const auto& [name, key, examples] : sets) {
    if (examples.empty()) continue;
    const size_t limit = last ? 0 : static_cast<size_t>(c.eval_examples);
    const size_t B = static_cast<size_t>(c.micro_batch > 0 ? c.micro_batch : c.batch_size);
    const auto result = evaluate_classifier(model, examples, data.info, B, limit, stopped);
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
  log.write(metrics);
}

// What the classifier is made of: a model directory, or a preset's shape, whose weights are random.
struct ClassifierBase {
  ModelConfig shape;
  Tokenizer tokenizer;
  bool random;
};

inline ClassifierBase classifier_base(const FinetuneConfig& c) {
  if (!c.tokenizer.empty()) {
    if (tokenizer_needs_text(c.tokenizer)) {
      fail_usage("--tokenizer %s is made from text; make it first: build/tokenize train", c.tokenizer.c_str());
    }
    const Tokenizer tokenizer = make_tokenizer(c.tokenizer, "");
    check_end_of_text(tokenizer, "--tokenizer " + c.tokenizer);
    ModelConfig shape = find_preset(c.model)->shape;
    shape.vocab_size = tokenizer.vocab_size();
    return {shape, tokenizer, true};
  }
  const ModelConfig shape = read_model_config(c.model);
  check_weights(shape, c.model);
  return {shape, load_tokenizer(c.model, shape), false};
}

inline void finetune_classify(FinetuneConfig c, const DeviceFlags& device) {
  const auto started = std::chrono::steady_clock::now();
  const std::filesystem::path run = finetune_folder(c, std::filesystem::path(c.data).stem().string());
  const ClassifierBase base = classifier_base(c);
  const Tokenizer& tokenizer = base.tokenizer;
  const ClassifierData data = read_classifier_data(c, tokenizer, base.shape.max_seq_len);
  const int64_t per_epoch = settle_steps(c, data.train.size());
  const int T = data.info.length, B = c.micro_batch > 0 ? c.micro_batch : c.batch_size;

  // model: the base, with a head of as many rows as there are classes
  ModelConfig shape = base.shape;
  shape.num_classes = static_cast<int>(data.info.classes.size());
  shape.tied_head = false;
  shape.causal = base.shape.causal && !c.no_causal;
  const bool keep_head = base.shape.num_classes > 0 && read_classifier_info(c.model).classes == data.info.classes;
  const std::unique_ptr<Model> model = make_device_model(device, shape, model_options(c, shape), B, T);
  init_weights(*model, c.seed);
  if (!keep_head) init_head(*model, c.head_init, c.seed);
  if (!base.random) load_base_weights(*model, c.model, keep_head);
  say(keep_head ? "head: that of the classifier in " + c.model : "head: new, " + c.head_init);

  const Schedule schedule{c.schedule, c.lr, c.min_lr, c.warmup_steps, c.steps};
  const auto lock = claim_finetune_folder(run, say);
  MetricsLog log(run, 0, lock.get());
  StopSignal::defer();
  say_model(*model, c, device, per_epoch, run);
  log.write(first_record(c, Task::classify, device, *model));
  bool opens_elsewhere = true;
  const auto save = [&] {
    lock->check();
    save_finetuned(*model, tokenizer, base.random ? "" : c.model, run,
                   [&](const auto& dir) { opens_elsewhere = write_classifier_info(dir, data.info); });
  };
  std::vector<size_t> lengths;
  for (const LabelledExample& example : data.train) lengths.push_back(example.ids.size());
  std::vector<std::vector<size_t>> batches;
  FinetuneReport report(c, log);
  report_classifier(*model, data, c, 0, per_epoch, false, log);

  int64_t step = 0;
  report.start_clock();
  while (step < c.steps && !stopped()) {
    if (step % per_epoch == 0) {
      batches = epoch_batches(lengths, static_cast<size_t>(c.batch_size), Batching::shuffled, c.seed,
                              static_cast<uint64_t>(step / per_epoch));
    }
    // forward and backward, micro-batch by micro-batch
    model->zero_grad();
    uint64_t micro = static_cast<uint64_t>(step) << 20;  // dropout draws anew in each
    for (const std::vector<size_t>& rows : micro_batches(batches[static_cast<size_t>(step % per_epoch)], c)) {
      const LabelledBatch batch = labelled_batch(data.train, rows, T, data.info.pad, position_of(c.position));
      const std::vector<float> weights(rows.size(), 1.0f / static_cast<float>(c.batch_size));
      model->set_dropout(static_cast<float>(c.dropout), c.seed, micro++);
      model->set_pooling(batch.pooling.data(), batch.B, batch.T);
      model->forward(batch.inputs.data(), batch.B, T, Pass::train);
      model->backward(batch.targets.data(), weights.data());
    }

    // update
    const double lr = learning_rate(schedule, step);
    model->update(optimizer_of(c, lr), static_cast<float>(c.grad_clip));
    ++step;
    report(step, model->result(0), lr, int64_t{c.batch_size} * T);

    // evaluate, save
    if ((step == c.steps || step % c.eval_every == 0) && report.good() && !stopped()) {
      report.clear();
      report_classifier(*model, data, c, step, per_epoch, step == c.steps, log);
      save();
      report.start_clock();
    }
  }

  report.finish(step);
  if (stopped()) save();
  if (!opens_elsewhere) {
    say(
        strprintf("transformers does not have %s, so it refuses this model (model_type in config.json); it opens a "
                  "classifier of --position last-real with causal attention",
                  shape.causal ? ("--position " + c.position).c_str() : "attention that is not causal"));
  }
  print_finetune_end(run, step, seconds_since(started),
                     "build/generate --model " + (run / "latest").string() + " --classify \"a text\"");
}
