#include "llm/finetune/instruct.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "llm/finetune/instructions.h"
#include "llm/finetune/loop.h"
#include "llm/finetune/setup.h"
#include "llm/inference/generate.h"
#include "llm/inference/judge.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/training/optimizer.h"

namespace {

// Tokens of a row that examples share; 0: each has its own.
size_t row_length(const FinetuneConfig& c, int context) {
  if (c.batching != "packed") return 0;
  if (c.pack_length > context) fail_usage("{pack-length} is %d, but the model's context is %d", c.pack_length, context);
  return static_cast<size_t>(c.pack_length > 0 ? c.pack_length : context);
}

std::string trimmed(const std::string& text) {
  const char* kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// Writes RUN/responses.json: the first rows, each with the model's greedy answer up to end-of-text.
void write_responses(Model& model, const Tokenizer& tokenizer, const ChatTemplate& chat,
                     const std::vector<Instruction>& rows, const FinetuneConfig& c, const std::filesystem::path& run) {
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
  for (size_t k = 0; k < n && !stop_requested(); ++k) {
    const std::string question = chat.question(rows[k].instruction, rows[k].input);
    const std::vector<int32_t> ids =
        generate(model, chat.encode_question(rows[k].instruction, rows[k].input, tokenizer), config,
                 [&](int32_t id) { return id < tokenizer.vocab_size() && !stop_requested(); });
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

}  // namespace

void finetune_instruct(FinetuneConfig c, const Device& device) {
  const auto started = std::chrono::steady_clock::now();
  const std::filesystem::path folder = finetune_folder(c, std::filesystem::path(c.data).stem().string());
  if (!c.judge.empty()) Judge(c.judge, c.judge_model);  // refuses now rather than at the end

  // 1. the data
  const ModelConfig shape = read_language_model(c.model);
  const Tokenizer tokenizer = load_tokenizer(c.model, shape);
  const ChatTemplate chat = choose_template(c);
  const PromptedRows<Instruction> rows =
      split_rows<Instruction>(c, [](const std::string& path) { return read_instructions(path); });
  std::vector<PromptedExample> train = encode(rows.train, chat, tokenizer);
  std::vector<PromptedExample> validation = encode(rows.validation, chat, tokenizer);
  const size_t pack_length = row_length(c, shape.max_seq_len);
  const size_t limit = std::min(length_limit(c, shape.max_seq_len), pack_length > 0 ? pack_length : size_t{1} << 30);
  print_truncation(truncate(train, limit, c.mask_prompt), limit, "examples to train on");
  print_truncation(truncate(validation, limit, c.mask_prompt), limit, "examples to validate on");
  std::vector<size_t> lengths;
  for (const PromptedExample& example : train) lengths.push_back(example.ids.size() - 1);
  const int64_t per_epoch = settle_steps(c, train.size());
  const int B = micro_batch_size(c), T = static_cast<int>(*std::max_element(lengths.begin(), lengths.end()));

  // 2. the model
  const std::unique_ptr<Model> model = device.make_model(shape, model_options(c, shape), B, T);
  init_weights(*model, c.seed);
  load_base_weights(*model, c.model, true);
  const int32_t pad = tokenizer.end_of_text();

  // 3. the steps
  FinetuneRun run(c, Task::instruct, device, *model, per_epoch, folder);
  const auto save = [&] { run.save(tokenizer, c.model, [&](const auto& dir) { write_template(chat, dir); }); };
  int64_t step = 0;
  const auto evaluate = [&] {
    const size_t some = run.is_last(step) ? 0 : static_cast<size_t>(c.eval_examples);
    std::string line = strprintf("step %lld", static_cast<long long>(step));
    nlohmann::json metrics{{"step", step}, {"epoch", run.epoch(step)}};
    const auto add = [&](const char* name, const char* key, const std::vector<PromptedExample>& examples) {
      if (examples.empty()) return;
      const auto loss = evaluate_prompted(*model, examples, pad, c.mask_prompt, pack_length, static_cast<size_t>(B),
                                          some, stop_requested);
      if (!loss) return;
      check_loss(*loss, step, name);
      line += strprintf(" | %s loss %.4f per token", name, *loss);
      metrics[key] = *loss;
    };
    add("training", "train_loss", train);
    add("validation", "val_loss", validation);
    if (stop_requested()) return;
    say(line);
    run.log().write(metrics);
  };
  evaluate();
  run.begin();
  while (!run.ended(step)) {
    // the batch, in micro-batches
    std::vector<Batch> parts;
    int64_t targets = 0, tokens = 0, padding = 0;
    for (const std::vector<size_t>& part : micro_batches(run.batch(step, lengths), c)) {
      parts.push_back(prompted_batch(train, part, pad, c.mask_prompt, pack_length));
      targets += count_targets(parts.back());
      tokens += int64_t{parts.back().B} * parts.back().T;
      padding += int64_t{parts.back().B} * parts.back().T;
      for (const size_t k : part) padding -= static_cast<int64_t>(lengths[k]);
    }

    // forward and backward: the mean over the whole step's targets
    model->zero_grad();
    uint64_t sequence = dropout_sequence(step);
    for (Batch& batch : parts) {
      for (float& weight : batch.weights) weight /= static_cast<float>(targets);
      model->forward(input_of(batch, Pass::train, {static_cast<float>(c.dropout), c.seed, sequence++}));
      model->backward(batch.targets.data(), batch.weights.data());
    }

    // update
    model->update(optimizer_of(c, learning_rate(run.schedule(), step)), static_cast<float>(c.grad_clip));
    ++step;

    // log, evaluate, save
    const double padded = static_cast<double>(padding) / static_cast<double>(tokens);
    run.report_step(step, model->result(0), tokens, "", {{"padding", padded}});
    run.evaluate_save(step, evaluate, save);
  }
  run.finish(save);
  if (!stop_requested() && c.responses != 0) write_responses(*model, tokenizer, chat, rows.test, c, folder);
  run.print_end(step, seconds_since(started), "{prompt} ...");
}
