// finetune instruct: a model that continues texts learns to answer instructions.
#pragma once

#include "llm/finetune/instructions.h"
#include "llm/finetune/report.h"
#include "llm/inference/judge.h"
#include "llm/support/file.h"

// Rows in the file's order: first those to train, then to test, then to validate, as the book cuts them.
template <class Row>
struct PromptedRows {
  std::vector<Row> train, validation, test;
};

// `read(path)` gives the rows of a file.
template <class Row>
PromptedRows<Row> split_rows(const FinetuneConfig& c, const std::function<std::vector<Row>(const std::string&)>& read) {
  PromptedRows<Row> rows;
  std::vector<Row> all = read(c.data);
  if (c.val_data.empty() && c.test_data.empty()) {
    const SplitSizes sizes = split_sizes(all.size(), c.train_fraction, c.val_fraction);
    // The book rounds the share that tests, too, so that what is left over validates.
    const double test_fraction = 1 - c.train_fraction - c.val_fraction;
    const size_t test = static_cast<size_t>(std::floor(static_cast<double>(all.size()) * test_fraction + 1e-9));
    for (size_t k = 0; k < all.size(); ++k) {
      (k < sizes.train          ? rows.train
       : k < sizes.train + test ? rows.test
                                : rows.validation)
          .push_back(std::move(all[k]));
    }
  } else {
    rows.train = std::move(all);
    if (!c.val_data.empty()) rows.validation = read(c.val_data);
    if (!c.test_data.empty()) rows.test = read(c.test_data);
  }
  say(strprintf("sets: %zu to train, %zu to validate, %zu to test", rows.train.size(), rows.validation.size(),
                rows.test.size()));
  return rows;
}

// --template, else the model's own, else Alpaca's.
inline ChatTemplate choose_template(const FinetuneConfig& c) {
  if (!c.chat_template.empty()) return make_template(c.chat_template);
  return has_template(c.model) ? read_template(c.model) : alpaca_template();
}

// Inputs of an example at most.
inline size_t length_limit(const FinetuneConfig& c, int context) {
  if (c.max_length > context) fail_usage("--max-length is %d, but the model's context is %d", c.max_length, context);
  return static_cast<size_t>(c.max_length > 0 ? c.max_length : context);
}

// Tokens of a row that examples share; 0: each has its own.
inline size_t row_length(const FinetuneConfig& c, int context) {
  if (c.batching != "packed") return 0;
  if (c.pack_length > context) fail_usage("--pack-length is %d, but the model's context is %d", c.pack_length, context);
  return static_cast<size_t>(c.pack_length > 0 ? c.pack_length : context);
}

// A base for answers: anything but a classifier.
inline ModelConfig read_language_model(const std::string& dir) {
  const ModelConfig base = read_model_config(dir);
  if (base.num_classes > 0) fail("%s: the model is a classifier; it has no words to answer with", dir.c_str());
  check_weights(base, dir);
  return base;
}

inline std::string trimmed(const std::string& text) {
  const char* kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// The model's answers to the first rows, greedily, until end-of-text, with their rows: RUN/responses.json.
inline void write_responses(Model& model, const Tokenizer& tokenizer, const ChatTemplate& chat,
                            const std::vector<Instruction>& rows, const FinetuneConfig& c,
                            const std::filesystem::path& run) {
  const size_t n = c.responses < 0 ? rows.size() : std::min(rows.size(), static_cast<size_t>(c.responses));
  GenerateConfig config;
  config.sampler.temperature = 0;
  config.tokens = c.response_tokens;
  config.end_of_text = tokenizer.end_of_text();
  std::optional<Judge> judge;
  if (!c.judge.empty()) judge.emplace(c.judge, c.judge_model);
  nlohmann::json responses = nlohmann::json::array();
  double sum = 0;
  int scored = 0;
  Progress progress(0, static_cast<int64_t>(n));
  for (size_t k = 0; k < n && !stopped(); ++k) {
    const std::string question = chat.question(rows[k].instruction, rows[k].input);
    const std::vector<int32_t> ids =
        generate(model, chat.encode_question(rows[k].instruction, rows[k].input, tokenizer), config,
                 [&](int32_t id) { return id < tokenizer.vocab_size() && !stopped(); });
    std::vector<int32_t> known;  // a vocabulary is often padded with ids that stand for nothing
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(known),
                 [&](int32_t id) { return id < tokenizer.vocab_size(); });
    const std::string answer = trimmed(replace_invalid_utf8(tokenizer.decode(known)));
    responses.push_back({{"instruction", rows[k].instruction},
                         {"input", rows[k].input},
                         {"output", rows[k].output},
                         {"model_response", answer}});
    if (judge) {
      const std::optional<int> score = judge->score(judge_question(question, rows[k].output, answer));
      responses.back()["score"] = score ? nlohmann::json(*score) : nlohmann::json(nullptr);
      sum += score.value_or(0);
      scored += score.has_value();
    }
    if (n >= 10 && (k + 1) % 10 == 0) {
      progress.show(static_cast<int64_t>(k + 1), strprintf("answers: %zu of %zu", k + 1, n));
    }
  }
  progress.clear();
  if (n == 0) return;
  FileWriter file(run / "responses.json");
  file.write(responses.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file.commit();
  say(strprintf("answers: %zu in %s", responses.size(), (run / "responses.json").c_str()));
  if (judge) {
    say(strprintf("judge: %d of %zu answers scored, %.2f of 100 on average", scored, responses.size(),
                  scored > 0 ? sum / scored : 0));
  }
}

inline void finetune_instruct(FinetuneConfig c, const DeviceFlags& device) {
  const auto started = std::chrono::steady_clock::now();
  const std::filesystem::path run = finetune_folder(c, std::filesystem::path(c.data).stem().string());
  if (!c.judge.empty()) Judge(c.judge, c.judge_model);  // refuses now rather than at the end

  // data
  const ModelConfig shape = read_language_model(c.model);
  const Tokenizer tokenizer = load_tokenizer(c.model, shape);
  const ChatTemplate chat = choose_template(c);
  const PromptedRows<Instruction> rows =
      split_rows<Instruction>(c, [](const std::string& path) { return read_instructions(path); });
  std::vector<PromptedExample> train = encode(rows.train, chat, tokenizer);
  std::vector<PromptedExample> validation = encode(rows.validation, chat, tokenizer);
  const size_t pack_length = row_length(c, shape.max_seq_len);
  const size_t limit = std::min(length_limit(c, shape.max_seq_len), pack_length > 0 ? pack_length : size_t{1} << 30);
  say_truncation(truncate(train, limit, c.mask_prompt), limit, "examples to train on");
  say_truncation(truncate(validation, limit, c.mask_prompt), limit, "examples to validate on");
  std::vector<size_t> lengths;
  for (const PromptedExample& example : train) lengths.push_back(example.ids.size() - 1);
  const int64_t per_epoch = settle_steps(c, train.size());
  const int B = c.micro_batch > 0 ? c.micro_batch : c.batch_size;

  // model
  const std::unique_ptr<Model> model = make_device_model(
      device, shape, model_options(c, shape), B, static_cast<int>(*std::max_element(lengths.begin(), lengths.end())));
  init_weights(*model, c.seed);
  load_base_weights(*model, c.model, true);

  const int32_t pad = tokenizer.end_of_text();
  const Schedule schedule{c.schedule, c.lr, c.min_lr, c.warmup_steps, c.steps};
  const auto lock = claim_finetune_folder(run, say);
  MetricsLog log(run, 0, lock.get());
  StopSignal::defer();
  say_model(*model, c, device, per_epoch, run);
  log.write(first_record(c, Task::instruct, device, *model));
  const auto save = [&] {
    lock->check();
    save_finetuned(*model, tokenizer, c.model, run, [&](const auto& dir) { write_template(chat, dir); });
  };
  const auto evaluate_sets = [&](int64_t at, bool last) {
    const size_t some = last ? 0 : static_cast<size_t>(c.eval_examples);
    std::string line = strprintf("step %lld", static_cast<long long>(at));
    nlohmann::json metrics{{"step", at}, {"epoch", static_cast<double>(at) / static_cast<double>(per_epoch)}};
    const auto add = [&](const char* name, const char* key, const std::vector<PromptedExample>& examples) {
      if (examples.empty()) return;
      const auto loss =
          evaluate_prompted(*model, examples, pad, c.mask_prompt, pack_length, static_cast<size_t>(B), some, stopped);
      if (!loss) return;
      check_loss(*loss, at, name);
      line += strprintf(" | %s loss %.4f a token", name, *loss);
      metrics[key] = *loss;
    };
    add("training", "train_loss", train);
    add("validation", "val_loss", validation);
    if (stopped()) return;
    say(line);
    log.write(metrics);
  };
  std::vector<std::vector<size_t>> batches;
  FinetuneReport report(c, log);
  evaluate_sets(0, false);

  int64_t step = 0;
  report.start_clock();
  while (step < c.steps && !stopped()) {
    if (step % per_epoch == 0) {
      batches = epoch_batches(lengths, static_cast<size_t>(c.batch_size),
                              c.batching == "by-length" ? Batching::by_length : Batching::shuffled, c.seed,
                              static_cast<uint64_t>(step / per_epoch));
    }
    // forward and backward, micro-batch by micro-batch: the mean over the whole step's targets
    std::vector<Batch> parts;
    int64_t targets = 0, tokens = 0, padding = 0;
    for (const std::vector<size_t>& part : micro_batches(batches[static_cast<size_t>(step % per_epoch)], c)) {
      parts.push_back(prompted_batch(train, part, pad, c.mask_prompt, pack_length));
      targets += count_targets(parts.back());
      tokens += int64_t{parts.back().B} * parts.back().T;
      padding += int64_t{parts.back().B} * parts.back().T;
      for (const size_t k : part) padding -= static_cast<int64_t>(lengths[k]);
    }
    model->zero_grad();
    uint64_t micro = static_cast<uint64_t>(step) << 20;  // dropout draws anew in each
    for (Batch& batch : parts) {
      for (float& weight : batch.weights) weight /= static_cast<float>(targets);
      model->set_dropout(static_cast<float>(c.dropout), c.seed, micro++);
      forward_batch(*model, batch, Pass::train);
      model->backward(batch.targets.data(), batch.weights.data());
    }

    // update
    const double lr = learning_rate(schedule, step);
    model->update(optimizer_of(c, lr), static_cast<float>(c.grad_clip));
    ++step;
    report(step, model->result(0), lr, tokens, "",
           {{"padding", static_cast<double>(padding) / static_cast<double>(tokens)}});

    // evaluate, save
    if ((step == c.steps || step % c.eval_every == 0) && report.good() && !stopped()) {
      report.clear();
      evaluate_sets(step, step == c.steps);
      save();
      report.start_clock();
    }
  }

  report.finish(step);
  if (stopped()) save();
  if (!stopped() && c.responses != 0) write_responses(*model, tokenizer, chat, rows.test, c, run);
  print_finetune_end(run, step, seconds_since(started),
                     "build/generate --model " + (run / "latest").string() + " --prompt ...");
}
