#include "llm/flags/finetune_flags.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "kernels/philox.h"
#include "llm/formats/adapter.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/support/error.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

// ---- flags ---------------------------------------------------------------------------------------------------------

FinetuneConfig finetune_defaults(Task task) {
  FinetuneConfig c;
  c.train_fraction = task == Task::classify ? 0.7 : 0.85;
  c.val_fraction = task == Task::classify ? 0.1 : 0.05;
  c.epochs = task == Task::classify ? 5 : task == Task::instruct ? 2 : 1;
  c.lr = task == Task::dpo ? 5e-6 : 5e-5;
  c.weight_decay = task == Task::dpo ? 0.01 : 0.1;
  return c;
}

json to_json(const FinetuneConfig& config, Task task) {
  json j;
  for_each_finetune_flag(config, task, [&](const Flag& flag, const auto& field) { j[flag.name] = field; });
  return j;
}

void apply_recipe(FinetuneConfig& config, const std::vector<std::string>& given) {
  if (config.recipe.empty()) return;
  // The book's chapter 6: the last block, the final norm and the head; no clipping.
  json recipe{
      {"train", "last-blocks:1"}, {"train-fraction", 0.7}, {"val-fraction", 0.1}, {"batch-size", 8}, {"lr", 5e-5},
      {"weight-decay", 0.1},      {"grad-clip", 0.0}};
  if (config.recipe == "spam") {
    recipe.update({{"label-column", "1"},
                   {"text-column", "2"},
                   {"labels", "ham,spam"},
                   {"balance", true},
                   {"max-length", 120},
                   {"epochs", 5.0}});
  } else if (config.recipe == "imdb") {
    recipe.update({{"labels", "neg,pos"}, {"max-length", 256}, {"epochs", 1.0}});
  }
  for_each_finetune_flag(config, Task::classify, [&](const Flag& flag, auto& field) {
    const bool is_given = std::find(given.begin(), given.end(), flag.name) != given.end();
    if (!is_given && recipe.contains(flag.name)) field = recipe[flag.name].get<std::decay_t<decltype(field)>>();
  });
}

void validate(const FinetuneConfig& c, Task task, const std::vector<std::string>& given) {
  for_each_finetune_flag(c, task, [](const Flag& flag, const auto& field) { check_flag(flag, field); });
  const auto is_given = [&](const char* name) { return std::find(given.begin(), given.end(), name) != given.end(); };
  if (c.model.empty()) fail_usage("--model DIR is missing: the model directory to start from");
  const bool random = task == Task::classify && find_preset(c.model);
  if (random && c.tokenizer.empty()) {
    fail_usage("--model %s is a preset, with random weights: name its tokenizer with --tokenizer (a folder is ./%s)",
               c.model.c_str(), c.model.c_str());
  }
  if (!random && !c.tokenizer.empty()) {
    fail_usage("--tokenizer goes with a --model that is a preset; the model in %s has its own", c.model.c_str());
  }
  if (c.data.empty()) fail_usage("--data is missing: the examples to learn from");
  if (c.steps == 0 && c.epochs == 0) fail_usage("--epochs is 0 and there is no --steps: nothing to do");
  if (is_given("steps") && is_given("epochs"))
    fail_usage("--steps and --epochs contradict each other: give one of them");
  if (c.lr == 0) fail_usage("--lr is 0: the model would not learn");
  if (c.min_lr > c.lr) fail_usage("--min-lr %g is above --lr %g", c.min_lr, c.lr);
  if (is_given("min-lr") && c.schedule == "constant") {
    fail_usage("--min-lr goes with a --schedule that falls: cosine, linear or wsd");
  }
  if (c.micro_batch > 0 && c.batch_size % c.micro_batch != 0) {
    fail_usage("--batch-size %d is not a multiple of --micro-batch %d", c.batch_size, c.micro_batch);
  }
  if (c.train_fraction + c.val_fraction > 1 + 1e-9) {
    fail_usage("--train-fraction %g and --val-fraction %g are together more than 1", c.train_fraction, c.val_fraction);
  }
  for (const char* name : {"train-fraction", "val-fraction"}) {
    if (is_given(name) && !(c.val_data.empty() && c.test_data.empty())) {
      fail_usage("--%s contradicts --val-data and --test-data: with them all of --data trains", name);
    }
  }
  for (const char* name : {"lora-rank", "lora-alpha", "lora-dropout", "lora-targets"}) {
    if (is_given(name) && c.train != "lora") fail_usage("--%s goes with --train lora", name);
  }
  if (!c.reference_model.empty() && !fs::is_directory(c.reference_model)) {
    fail_usage("--reference-model %s: expected a model's folder", c.reference_model.c_str());
  }
  if (is_given("pack-length")) {
    if (c.batching != "packed") fail_usage("--pack-length goes with --batching packed");
    if (c.pack_length == 0) fail_usage("--pack-length is 0, expected the tokens of a row, at most the model's context");
    if (c.max_length > c.pack_length) {
      fail_usage("--max-length %d is above --pack-length %d: no row could hold such an example", c.max_length,
                 c.pack_length);
    }
  }
  if (c.judge.empty() != c.judge_model.empty()) fail_usage("--judge and --judge-model go together");
}

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < list.size();) {
    const size_t comma = std::min(list.find(',', at), list.size());
    parts.push_back(list.substr(at, comma - at));
    at = comma + 1;
  }
  return parts;
}

// ---- what trains ----------------------------------------------------------------------------------------------------

ModelOptions model_options(const FinetuneConfig& c, const ModelConfig& shape) {
  TrainConfig arithmetic;
  arithmetic.recompute = c.recompute;
  arithmetic.seed = c.seed;
  ModelOptions options = model_options(arithmetic);
  options.decay_all = c.decay == "all";
  options.lr_decay_per_layer = static_cast<float>(c.lr_decay_per_layer);
  const std::string blocks = "last-blocks:";
  if (c.train == "lora") {
    options.lora = {c.lora_rank, static_cast<float>(c.lora_alpha), static_cast<float>(c.lora_dropout), c.lora_targets};
  } else if (c.train == "head") {
    if (shape.tied_head) {
      fail_usage("--train head: this model's head is its token embedding; take last-blocks:N, lora or all");
    }
    options.trainable = {shape.num_layers, false, false, true};
  } else if (c.train.starts_with(blocks)) {
    const char* end = c.train.data() + c.train.size();
    int n = 0;
    const auto [stop, error] = std::from_chars(c.train.data() + blocks.size(), end, n);
    if (error != std::errc() || stop != end || n < 1 || n > shape.num_layers) {
      fail_usage("--train is '%s', expected last-blocks:1 to last-blocks:%d, the model's blocks", c.train.c_str(),
                 shape.num_layers);
    }
    options.trainable = {shape.num_layers - n, false, true, !shape.tied_head};
  } else if (c.train != "all") {
    fail_usage("--train is '%s', expected all, head, last-blocks:N or lora", c.train.c_str());
  }
  validate(options, shape, "--train " + c.train);
  return options;
}
