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

#include "gpt2/config.h"
#include "gpt2/labelled.h"
#include "gpt2/model.h"
#include "gpt2/run_folder.h"
#include "gpt2/tokenizer.h"

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
  bool decay_all = false;
  double lr_layer_decay = 1;
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

// Calls flag(group, tasks, name, field, range, help) for every flag, in the order of --help; `tasks` is a set of Task
// bits: who has it.
template <class Config, class Flag>
void for_each_finetune_flag(Config& c, Flag&& flag) {
  const double big = 9e15;
  const unsigned classify = 1, instruct = 2, dpo = 4, all = 7, prompted = instruct | dpo;
  const char* g = "Data";
  flag(g, classify, "recipe", c.recipe, FlagRange{0, 0, {"", "spam", "imdb"}},
       "spam | imdb: the book's settings for these data; other flags override");
  flag(g, classify, "data", c.data, FlagRange{},
       ".tsv, .csv or .jsonl of texts and their labels, or a folder of LABEL/*.txt");
  flag(g, prompted, "data", c.data, FlagRange{}, ".json array or .jsonl of rows");
  flag(g, all, "val-data", c.val_data, FlagRange{}, "a file to validate on, instead of a part of --data");
  flag(g, all, "test-data", c.test_data, FlagRange{}, "a file to test on, instead of a part of --data");
  flag(g, all, "train-fraction", c.train_fraction, FlagRange{0, 1, {}},
       "share of --data to train on; all of it where --val-data or --test-data is given");
  flag(g, all, "val-fraction", c.val_fraction, FlagRange{0, 1, {}}, "share of --data to validate on; the rest tests");
  flag(g, classify, "text-column", c.text_column, FlagRange{}, "the texts' column: a name, or a number from 1");
  flag(g, classify, "label-column", c.label_column, FlagRange{}, "the labels' column");
  flag(g, classify, "header", c.header, FlagRange{0, 0, {"auto", "yes", "no"}},
       "whether the first line names the columns; auto: if it looks so");
  flag(g, classify, "labels", c.labels, FlagRange{},
       "only these labels, A,B,..., as classes in this order; default: all, sorted");
  flag(g, classify, "balance", c.balance, FlagRange{}, "as many examples of each class as the smallest has");
  flag(g, classify, "lossy", c.lossy, FlagRange{}, "replace bytes that are not UTF-8 instead of refusing the text");
  flag(g, prompted, "template", c.chat_template, FlagRange{},
       "alpaca | phi3 | a JSON file; default: that of --model DIR, else alpaca");
  flag(g, instruct, "mask-prompt", c.mask_prompt, FlagRange{}, "learn the answers alone, not the prompts");
  flag(g, all, "max-length", c.max_length, FlagRange{0, 1 << 24, {}},
       "tokens of an example at most; 0: the longest of the training set, within the model's context");
  flag(g, instruct, "batching", c.batching, FlagRange{0, 0, {"shuffled", "by-length", "packed"}},
       "shuffled | by-length: examples of like length together, less padding | packed: the same steps as shuffled, a "
       "step's examples side by side in few rows, hardly any padding");
  flag(g, instruct, "pack-length", c.pack_length, FlagRange{0, 1 << 24, {}},
       "tokens of a row of --batching packed; default: the model's context");
  flag(g, dpo, "batching", c.batching, FlagRange{0, 0, {"shuffled", "by-length"}},
       "shuffled | by-length: examples of like length together, less padding");

  g = "Model";
  flag(g, classify, "model", c.model, FlagRange{},
       "the model directory to start from, or a preset (gpt2-nano, d12, gpt2 ...) with random weights");
  flag(g, classify, "tokenizer", c.tokenizer, FlagRange{},
       "bytes | gpt2 | a tokenizer file, for a --model that is a preset");
  flag(g, prompted, "model", c.model, FlagRange{}, "the model directory to start from");
  flag(g, all, "train", c.train, FlagRange{},
       "all | head | last-blocks:N (with the final norm and the head) | lora: what trains");
  flag(g, classify, "position", c.position, FlagRange{0, 0, kPositions},
       "last | last-real | first | mean | mean-real: what the head reads of a row; real: padding left out");
  flag(g, classify, "no-causal", c.no_causal, FlagRange{}, "attention sees all positions, not the earlier ones alone");
  flag(g, classify, "head-init", c.head_init, FlagRange{0, 0, {"torch", "normal"}},
       "torch: uniform in +-1/sqrt(channels), as torch's Linear | normal: N(0, 0.02), bias 0");
  flag(g, all, "lora-rank", c.lora_rank, FlagRange{1, 4096, {}}, "of --train lora");
  flag(g, all, "lora-alpha", c.lora_alpha, FlagRange{1e-6, 1e6, {}}, "adapters count alpha / rank times");
  flag(g, all, "lora-dropout", c.lora_dropout, FlagRange{0, 0.99, {}}, "on what the adapters read");
  flag(g, all, "lora-targets", c.lora_targets, FlagRange{}, "which matrices get adapters: all, or a list A,B,...");

  g = "Preferences";
  flag(g, dpo, "reference-model", c.reference_model, FlagRange{},
       "directory of the frozen reference; default: --model itself");
  flag(g, dpo, "cache-reference", c.cache_reference, FlagRange{},
       "compute the reference's log-probabilities once and free it: half the memory");
  flag(g, dpo, "beta", c.beta, FlagRange{1e-6, 100, {}}, "how strongly the reference holds");
  flag(g, dpo, "log-prob", c.log_prob, FlagRange{0, 0, {"mean", "sum"}},
       "mean | sum: an answer's log-probability over its tokens");

  g = "Training";
  flag(g, all, "batch-size", c.batch_size, FlagRange{1, 1 << 20, {}}, "examples (dpo: pairs) in a step");
  flag(g, all, "micro-batch", c.micro_batch, FlagRange{0, 1 << 20, {}},
       "examples at a time: gradients accumulate; 0: --batch-size");
  flag(g, all, "epochs", c.epochs, FlagRange{0, 1e6, {}}, "passes over the training data");
  flag(g, all, "steps", c.steps, FlagRange{0, big, {}}, "optimizer steps, instead of --epochs; 0: from --epochs");
  flag(g, all, "lr", c.lr, FlagRange{0, 10, {}}, "peak learning rate");
  flag(g, all, "min-lr", c.min_lr, FlagRange{0, 10, {}}, "learning rate at the end, where --schedule falls");
  flag(g, all, "warmup-steps", c.warmup_steps, FlagRange{0, big, {}}, "steps of linear warm-up");
  flag(g, all, "schedule", c.schedule, FlagRange{0, 0, {"cosine", "linear", "constant", "wsd"}}, "after the warm-up");
  flag(g, all, "lr-layer-decay", c.lr_layer_decay, FlagRange{0.01, 1, {}},
       "the head learns at --lr, each block further from it by this factor slower");
  flag(g, all, "weight-decay", c.weight_decay, FlagRange{0, 10, {}}, "decoupled, on matrices");
  flag(g, all, "decay-all", c.decay_all, FlagRange{},
       "weight decay of biases and norms too, as torch's AdamW by itself");
  flag(g, all, "beta1", c.beta1, FlagRange{0, 0.999999, {}}, "AdamW's");
  flag(g, all, "beta2", c.beta2, FlagRange{0, 0.999999, {}}, "AdamW's");
  flag(g, all, "eps", c.eps, FlagRange{1e-30, 1, {}}, "AdamW's");
  flag(g, all, "grad-clip", c.grad_clip, FlagRange{0, 1e9, {}}, "clip the gradients' global norm to this; 0: off");
  flag(g, all, "dropout", c.dropout, FlagRange{0, 0.99, {}}, "after the embedding, on attention, on sublayers' output");
  flag(g, all, "seed", c.seed, FlagRange{0, big, {}}, "of splits, the head, the order of examples and dropout");

  g = "Watching";
  flag(g, all, "eval-every", c.eval_every, FlagRange{0, big, {}}, "steps between evaluations; 0: after each epoch");
  flag(g, all, "eval-examples", c.eval_examples, FlagRange{0, big, {}},
       "examples of each set that an evaluation takes, the last one all; 0: all");
  flag(g, instruct, "responses", c.responses, FlagRange{-1, 1e9, {}},
       "rows of the test set to answer at the end; -1: all");
  flag(g, instruct, "response-tokens", c.response_tokens, FlagRange{1, 1 << 20, {}}, "length of an answer, at most");
  flag(g, instruct, "judge", c.judge, FlagRange{},
       "http://HOST:PORT of an OpenAI-compatible server that scores the answers from 0 to 100");
  flag(g, instruct, "judge-model", c.judge_model, FlagRange{}, "the model it is asked for");

  g = "Run";
  flag(g, all, "recompute", c.recompute, FlagRange{0, 0, {"none", "gelu", "block"}},
       "none | gelu | block: what backward computes again instead of keeping it; same results, less memory");
  flag(g, all, "run", c.run, FlagRange{}, "the run's folder; default: the next free runs/NAME");
}

inline bool has_task(unsigned tasks, Task task) { return (tasks & static_cast<unsigned>(task)) != 0; }

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
