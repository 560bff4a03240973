// What finetuning is told: ONE table of the flags of finetune classify | instruct | dpo, and the part of the model that
// trains.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/flags/train_flags.h"
#include "llm/models/model.h"

// Which of a row's outputs a classifier's head reads (Position in llm/inference/classifier.h has them in words).
inline const std::vector<std::string> kPositions = {"last", "last-real", "first", "mean", "mean-real"};

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

// The task's defaults, which are those of the book.
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
       {"train-fraction", range(0, 1), "share of --data to train on; all of it if --val-data or --test-data is given"});
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
  flag(instruct, c.mask_prompt, {"mask-prompt", any(), "learn only the answers, not the prompts"});
  flag(all, c.max_length,
       {"max-length", range(0, 1 << 24),
        "tokens per example, at most; 0: the longest of the training set, within the model's context"});
  flag(instruct, c.batching,
       {"batching", choices("shuffled", "by-length", "packed"),
        "shuffled | by-length: examples of like length together, less padding | packed: the same steps as shuffled, a "
        "step's examples side by side in few rows, hardly any padding"});
  flag(instruct, c.pack_length,
       {"pack-length", range(0, 1 << 24), "tokens per row of --batching packed; default: the model's context"});
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
       {"train", any(), "all | head | last-blocks:N (with the final norm and the head) | lora: the part that trains"});
  flag(classify, c.position,
       {"position", kPositions,
        "last | last-real | first | mean | mean-real: the positions of a row that the head reads; real: without "
        "padding"});
  flag(classify, c.no_causal, {"no-causal", any(), "attention sees all positions, not only earlier ones"});
  flag(classify, c.head_init,
       {"head-init", choices("torch", "normal"),
        "torch: uniform in +-1/sqrt(channels), as torch's Linear | normal: N(0, 0.02), bias 0"});
  flag(all, c.lora_rank, {"lora-rank", range(1, 4096), "rank of the adapters (--train lora)"});
  flag(all, c.lora_alpha, {"lora-alpha", range(1e-6, 1e6), "adapter outputs are scaled by alpha / rank"});
  flag(all, c.lora_dropout, {"lora-dropout", range(0, 0.99), "dropout on the adapters' inputs"});
  flag(all, c.lora_targets, {"lora-targets", any(), "which matrices get adapters: all, or a list A,B,..."});

  group = "Preferences";
  flag(dpo, c.reference_model,
       {"reference-model", any(), "directory of the frozen reference; default: --model itself"});
  flag(dpo, c.cache_reference,
       {"cache-reference", any(), "compute the reference's log-probabilities once and free it: half the memory"});
  flag(dpo, c.beta, {"beta", range(1e-6, 100), "strength of the pull towards the reference"});
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
        "factor on the learning rate for each block further from the head, which has --lr"});
  flag(all, c.weight_decay, {"weight-decay", range(0, 10), "decoupled weight decay; --decay selects the tensors"});
  flag(all, c.decay,
       {"decay", choices("matrices", "all"),
        "matrices | all: all includes biases and layernorms, the default of torch's AdamW"});
  flag(all, c.beta1, {"beta1", range(0, 0.999999), "AdamW's beta1"});
  flag(all, c.beta2, {"beta2", range(0, 0.999999), "AdamW's beta2"});
  flag(all, c.eps, {"eps", range(1e-30, 1), "AdamW's epsilon"});
  flag(all, c.grad_clip, {"grad-clip", range(0, 1e9), "clip the gradients' global norm to this; 0: off"});
  flag(all, c.dropout, {"dropout", range(0, 0.99), "after the embedding, on attention, on sublayers' output"});
  flag(all, c.seed, {"seed", range(0, big), "seed of splits, the head, the order of examples and dropout"});

  group = "Watching";
  flag(all, c.eval_every, {"eval-every", range(0, big), "steps between evaluations; 0: after each epoch"});
  flag(all, c.eval_examples,
       {"eval-examples", range(0, big),
        "examples of each set per evaluation, the last one aside, which takes all; 0: all"});
  flag(instruct, c.responses, {"responses", range(-1, 1e9), "rows of the test set to answer at the end; -1: all"});
  flag(instruct, c.response_tokens, {"response-tokens", range(1, 1 << 20), "length of an answer, at most"});
  flag(instruct, c.judge,
       {"judge", any(), "http://HOST:PORT of an OpenAI-compatible server that scores the answers from 0 to 100"});
  flag(instruct, c.judge_model, {"judge-model", any(), "the model it is asked for"});

  group = "Run";
  flag(all, c.recompute,
       {"recompute", choices("none", "gelu", "block"),
        "none | gelu | block: what backward recomputes instead of keeping it; same results, less memory"});
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

// The options of a model of this shape, but for the precision, which the device decides. Throws UsageError for a
// --train that does not exist, more last blocks than there are, and --train head where the head is the token embedding.
ModelOptions model_options(const FinetuneConfig& config, const ModelConfig& shape);
