// What finetuning is told and how it begins: ONE table of the flags of finetune classify | instruct | dpo, the part of
// the model that trains, and weights taken over from a model that had another head.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/finetune/classes.h"
#include "llm/flags/train_flags.h"
#include "llm/formats/run_folder.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"

// ---- flags ---------------------------------------------------------------------------------------------------------

enum class Task : unsigned { classify = 1, instruct = 2, dpo = 4 };

struct FinetuneConfig {
  std::string data, val_data, test_data;
  double train_fraction = 0, val_fraction = 0;

  std::string recipe, text_column = "text", label_column = "label", header = "auto", labels;
  bool lossy = false, balance = false;

  std::string chat_template;
  bool mask_prompt = false;
  std::string batching = "shuffled";
  int max_length = 0, pack_length = 0;

  std::string model, tokenizer, train = "all";
  std::string position = "last", head_init = "torch";
  bool no_causal = false;
  int lora_rank = 16;
  double lora_alpha = 16, lora_dropout = 0;
  std::string lora_targets = "all";

  std::string reference_model, log_prob = "mean";
  bool cache_reference = false;
  double beta = 0.1;

  int batch_size = 8, micro_batch = 0;
  int64_t steps = 0;
  double epochs = 0;
  double lr = 0, min_lr = 0;
  int64_t warmup_steps = 0;
  std::string schedule = "constant";
  double lr_decay_per_layer = 1;
  std::string decay = "matrices";
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, grad_clip = 1.0, dropout = 0;
  uint64_t seed = 123;

  int64_t eval_every = 0, eval_examples = 0;
  int responses = -1, response_tokens = 256;
  std::string judge, judge_model;

  std::string recompute = "none";
  std::string run;
};

// The task's own defaults: the book's.
FinetuneConfig finetune_defaults(Task task);

// Calls visit(flag, field) for every flag of the task, in the order of --help.
template <class Config, class Visit>
void for_each_finetune_flag(Config& c, Task task, Visit&& visit) {
  const double big = 9e15;
  const unsigned classify = 1, instruct = 2, dpo = 4, all = 7, prompted = instruct | dpo;
  const char* group = "Data";
  const auto flag = [&](unsigned tasks, auto& field, Flag row) {
    if ((tasks & static_cast<unsigned>(task)) == 0) return;
    row.group = group;
    visit(std::as_const(row), field);
  };
  flag(
      classify, c.recipe,
      {"recipe", choices("", "spam", "imdb"), "spam | imdb: the book's settings for these data; other flags override"});
  flag(classify, c.data, {"data", any(), ".tsv, .csv or .jsonl of texts and their labels, or a folder of LABEL/*.txt"});
  flag(prompted, c.data, {"data", any(), ".json array or .jsonl of rows"});
  flag(all, c.val_data, {"val-data", any(), "a file to validate on, instead of a part of --data"});
  flag(all, c.test_data, {"test-data", any(), "a file to test on, instead of a part of --data"});
  flag(all, c.train_fraction,
       {"train-fraction", range(0, 1),
        "share of --data to train on; all of it where --val-data or --test-data is given"});
  flag(all, c.val_fraction, {"val-fraction", range(0, 1), "share of --data to validate on; the rest tests"});
  flag(classify, c.text_column, {"text-column", any(), "the texts' column: a name, or a number from 1"});
  flag(classify, c.label_column, {"label-column", any(), "the labels' column"});
  flag(classify, c.header,
       {"header", choices("auto", "yes", "no"), "whether the first line names the columns; auto: if it looks so"});
  flag(classify, c.labels,
       {"labels", any(), "only these labels, A,B,..., as classes in this order; default: all, sorted"});
  flag(classify, c.balance, {"balance", any(), "as many examples of each class as the smallest has"});
  flag(classify, c.lossy, {"lossy", any(), "replace bytes that are not UTF-8 instead of refusing the text"});
  flag(prompted, c.chat_template,
       {"template", any(), "alpaca | phi3 | a JSON file; default: that of --model DIR, else alpaca"});
  flag(instruct, c.mask_prompt, {"mask-prompt", any(), "learn the answers alone, not the prompts"});
  flag(all, c.max_length,
       {"max-length", range(0, 1 << 24),
        "tokens of an example at most; 0: the longest of the training set, within the model's context"});
  flag(instruct, c.batching,
       {"batching", choices("shuffled", "by-length", "packed"),
        "shuffled | by-length: examples of like length together, less padding | packed: the same steps as shuffled, a "
        "step's examples side by side in few rows, hardly any padding"});
  flag(instruct, c.pack_length,
       {"pack-length", range(0, 1 << 24), "tokens of a row of --batching packed; default: the model's context"});
  flag(dpo, c.batching,
       {"batching", choices("shuffled", "by-length"),
        "shuffled | by-length: examples of like length together, less padding"});

  group = "Model";
  flag(classify, c.model,
       {"model", any(),
        "the model directory to start from, or a preset (gpt2-nano, d12, gpt2 ...) with random weights"});
  flag(classify, c.tokenizer, {"tokenizer", any(), "bytes | gpt2 | a tokenizer file, for a --model that is a preset"});
  flag(prompted, c.model, {"model", any(), "the model directory to start from"});
  flag(all, c.train,
       {"train", any(), "all | head | last-blocks:N (with the final norm and the head) | lora: what trains"});
  flag(classify, c.position,
       {"position", kPositions,
        "last | last-real | first | mean | mean-real: what the head reads of a row; real: padding left out"});
  flag(classify, c.no_causal, {"no-causal", any(), "attention sees all positions, not the earlier ones alone"});
  flag(classify, c.head_init,
       {"head-init", choices("torch", "normal"),
        "torch: uniform in +-1/sqrt(channels), as torch's Linear | normal: N(0, 0.02), bias 0"});
  flag(all, c.lora_rank, {"lora-rank", range(1, 4096), "of --train lora"});
  flag(all, c.lora_alpha, {"lora-alpha", range(1e-6, 1e6), "adapters count alpha / rank times"});
  flag(all, c.lora_dropout, {"lora-dropout", range(0, 0.99), "on what the adapters read"});
  flag(all, c.lora_targets, {"lora-targets", any(), "which matrices get adapters: all, or a list A,B,..."});

  group = "Preferences";
  flag(dpo, c.reference_model,
       {"reference-model", any(), "directory of the frozen reference; default: --model itself"});
  flag(dpo, c.cache_reference,
       {"cache-reference", any(), "compute the reference's log-probabilities once and free it: half the memory"});
  flag(dpo, c.beta, {"beta", range(1e-6, 100), "how strongly the reference holds"});
  flag(dpo, c.log_prob,
       {"log-prob", choices("mean", "sum"), "mean | sum: an answer's log-probability over its tokens"});

  group = "Training";
  flag(all, c.batch_size, {"batch-size", range(1, 1 << 20), "examples (dpo: pairs) in a step"});
  flag(all, c.micro_batch,
       {"micro-batch", range(0, 1 << 20), "examples at a time: gradients accumulate; 0: --batch-size"});
  flag(all, c.epochs, {"epochs", range(0, 1e6), "passes over the training data"});
  flag(all, c.steps, {"steps", range(0, big), "optimizer steps, instead of --epochs; 0: from --epochs"});
  flag(all, c.lr, {"lr", range(0, 10), "peak learning rate"});
  flag(all, c.min_lr, {"min-lr", range(0, 10), "learning rate at the end, where --schedule falls"});
  flag(all, c.warmup_steps, {"warmup-steps", range(0, big), "steps of linear warm-up"});
  flag(all, c.schedule, {"schedule", choices("cosine", "linear", "constant", "wsd"), "after the warm-up"});
  flag(all, c.lr_decay_per_layer,
       {"lr-decay-per-layer", range(0.01, 1),
        "each block's rate is so many times that of the block above it; the head has --lr"});
  flag(all, c.weight_decay, {"weight-decay", range(0, 10), "decoupled; of what, --decay says"});
  flag(all, c.decay,
       {"decay", choices("matrices", "all"),
        "matrices | all: whether biases and layernorms decay, too, as torch's AdamW does by itself"});
  flag(all, c.beta1, {"beta1", range(0, 0.999999), "AdamW's"});
  flag(all, c.beta2, {"beta2", range(0, 0.999999), "AdamW's"});
  flag(all, c.eps, {"eps", range(1e-30, 1), "AdamW's"});
  flag(all, c.grad_clip, {"grad-clip", range(0, 1e9), "clip the gradients' global norm to this; 0: off"});
  flag(all, c.dropout, {"dropout", range(0, 0.99), "after the embedding, on attention, on sublayers' output"});
  flag(all, c.seed, {"seed", range(0, big), "of splits, the head, the order of examples and dropout"});

  group = "Watching";
  flag(all, c.eval_every, {"eval-every", range(0, big), "steps between evaluations; 0: after each epoch"});
  flag(all, c.eval_examples,
       {"eval-examples", range(0, big), "examples of each set that an evaluation takes, the last one all; 0: all"});
  flag(instruct, c.responses, {"responses", range(-1, 1e9), "rows of the test set to answer at the end; -1: all"});
  flag(instruct, c.response_tokens, {"response-tokens", range(1, 1 << 20), "length of an answer, at most"});
  flag(instruct, c.judge,
       {"judge", any(), "http://HOST:PORT of an OpenAI-compatible server that scores the answers from 0 to 100"});
  flag(instruct, c.judge_model, {"judge-model", any(), "the model it is asked for"});

  group = "Run";
  flag(all, c.recompute,
       {"recompute", choices("none", "gelu", "block"),
        "none | gelu | block: what backward computes again instead of keeping it; same results, less memory"});
  flag(all, c.run, {"run", any(), "the run's folder; default: the next free runs/NAME"});
}

// The task's flags and their values.
nlohmann::json to_json(const FinetuneConfig& config, Task task);

// Sets what --recipe stands for where the user has not `given` a flag. Only for classify.
void apply_recipe(FinetuneConfig& config, const std::vector<std::string>& given);

// Throws UsageError for flags that are out of range, missing, or contradict one another. `given`: as above.
void validate(const FinetuneConfig& config, Task task, const std::vector<std::string>& given);

std::vector<std::string> split_list(const std::string& list);  // "a,b" -> a b

// ---- what trains ----------------------------------------------------------------------------------------------------

// What the model of this shape is made with, but for the precision, which is the device's. Throws UsageError for a
// --train that is none, more last blocks than there are, and --train head where the head is the token embedding.
ModelOptions model_options(const FinetuneConfig& config, const ModelConfig& shape);

// ---- weights --------------------------------------------------------------------------------------------------------

// Fills the tensors that the model shares with the one in DIR (by name and shape), those of the head only if `head`;
// leaves the others, such as adapters. Throws Error as load_weights does, and if the two differ in more than the head.
void load_base_weights(Model& model, const std::filesystem::path& dir, bool head);

// A head's weights (k, C) and biases. `kind`: torch | normal.
void init_head(Model& model, const std::string& kind, uint64_t seed);

// ---- a run's folder -------------------------------------------------------------------------------------------------

// Throws Error if it holds a run already. `name`: what a folder of its own choosing is called by. Makes nothing yet.
std::filesystem::path finetune_folder(const FinetuneConfig& config, const std::string& name);

// Makes the folder and locks it; what a run left that ended before its first save goes. Throws Error as finetune_folder
// does, or if another process holds the lock.
std::unique_ptr<const RunLock> claim_finetune_folder(const std::filesystem::path& run, const Say& say);

// RUN/latest, whole or not at all: the model, adapters merged, its tokenizer, and what `add` writes beside them; in
// RUN/latest/adapter the adapters alone, if there are any and `base` names what they were trained on. An earlier one is
// replaced at once.
void save_finetuned(const Model& model, const Tokenizer& tokenizer, const std::filesystem::path& base,
                    const std::filesystem::path& run, const std::function<void(const std::filesystem::path&)>& add);
