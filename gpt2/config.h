// What a training run is told: ONE table of flags, which drives defaults, --help, range checks, the run's record and
// the comparison on --resume; and the presets of model sizes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <vector>

#include "gpt2/error.h"
#include "gpt2/model.h"
#include "gpt2/params.h"

struct TrainConfig {
  std::string data;
  std::string val_data;
  std::string tokenizer;
  double val_fraction = 0.1;
  std::string data_order = "shuffled";
  int64_t stride = 0;
  bool lossy = false;

  std::string model = "gpt2-nano";
  int layers = 0, heads = 0, channels = 0, seq_len = 0, vocab_size = 0;
  std::string init = "gpt2";
  bool untied_head = false, no_qkv_bias = false;

  int batch_size = 0;
  int64_t total_batch_tokens = 0;
  int64_t steps = 0;
  double epochs = 0;

  double lr = 0, min_lr = 0, start_lr = 0;
  int64_t warmup_steps = -1;
  std::string schedule = "linear", optimizer = "adamw";
  double lr_decay_per_layer = 1;
  std::string decay = "matrices";
  double weight_decay = 0.1, beta1 = 0.9, beta2 = 0, eps = 1e-8, grad_clip = 1.0, dropout = 0, ema = 0;
  uint64_t seed = 1337;

  int64_t eval_every = -1, eval_steps = 0, sample_every = -1, save_every = -1;
  int64_t patience = 0;
  int sample_tokens = 160, keep = 3;
  std::string prompt;

  std::string precision = "fp32";  // the trainers: bf16 where the device has it
  std::string recompute = "none";
  bool no_master_weights = false;

  std::string run;
  bool resume = false, reference = false, memory = false, kernels = false, check = false, find_lr = false;
  std::string search;
  int threads = 0;
  int zero = 0;
  double timeout = 600;

  int ranks = 1;  // no flag: the processes that there are
};

struct FlagRange {
  double low = 0, high = 0;
  std::vector<std::string> choices;  // of strings; empty: anything
};

// Throws UsageError if the value of --name is outside its range or none of its choices.
template <class T>
void check_flag(const char* name, const T& value, const FlagRange& range) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!range.choices.empty() && std::find(range.choices.begin(), range.choices.end(), value) == range.choices.end()) {
      std::string all;
      for (const std::string& choice : range.choices) all += " " + choice;
      fail_usage("--%s is '%s', expected one of%s", name, value.c_str(), all.c_str());
    }
  } else if constexpr (!std::is_same_v<T, bool>) {
    const double number = static_cast<double>(value);
    if (!(number >= range.low && number <= range.high)) {
      fail_usage("--%s is %.16g, expected %.16g to %.16g", name, number, range.low, range.high);
    }
  }
}

enum class OnResume {
  same,   // part of what the run is: another value is refused
  free,   // may change: how long, how often, where to look
  never,  // not kept
};

// Calls flag(group, name, field, OnResume, range, help) for every flag, in the order of --help.
template <class Config, class Flag>
void for_each_flag(Config& c, Flag&& flag) {
  const double big = 9e15;  // integers are exact in a double up to here
  const char* g = "Data";
  flag(g, "data", c.data, OnResume::same, FlagRange{},
       "text file, folder of text files, .bin shard, quoted glob or .list of shards; default: the built-in stories");
  flag(g, "val-data", c.val_data, OnResume::same, FlagRange{},
       "shard, glob or .list to validate on (with --data shards)");
  flag(g, "val-fraction", c.val_fraction, OnResume::same, FlagRange{0, 0.9, {}},
       "share of the text's characters, at its end, to validate on");
  flag(g, "tokenizer", c.tokenizer, OnResume::same, FlagRange{},
       "bytes | chars | bpe:N (trained on the data) | gpt2 | a tokenizer file; default: that of --model DIR, else "
       "bpe:4096");
  flag(g, "data-order", c.data_order, OnResume::same, FlagRange{0, 0, {"shuffled", "fixed", "sequential"}},
       "shuffled: in each epoch other windows, in random order; fixed: the same windows; sequential: in the order of "
       "the data");
  flag(g, "stride", c.stride, OnResume::same, FlagRange{0, big, {}},
       "tokens from one window's start to the next; 0: --seq-len");
  flag(g, "lossy", c.lossy, OnResume::same, FlagRange{},
       "replace bytes that are not UTF-8 instead of refusing the text");

  g = "Model";
  flag(g, "model", c.model, OnResume::same, FlagRange{},
       "gpt2-nano d4 d6 d12 d24 d36 d48 gpt2 gpt2-medium gpt2-large gpt2-xl, or a model directory to go on from");
  flag(g, "layers", c.layers, OnResume::same, FlagRange{0, 4096, {}}, "blocks; 0: the preset's, as for the next four");
  flag(g, "heads", c.heads, OnResume::same, FlagRange{0, 65536, {}}, "attention heads in a block");
  flag(g, "channels", c.channels, OnResume::same, FlagRange{0, 1 << 20, {}}, "width of the residual stream");
  flag(g, "seq-len", c.seq_len, OnResume::same, FlagRange{0, 1 << 24, {}},
       "T: tokens in a window, the model's context when it is new");
  flag(g, "vocab-size", c.vocab_size, OnResume::same, FlagRange{0, 1 << 28, {}},
       "0: the tokenizer's; for shards without a tokenizer 50257");
  flag(g, "untied-head", c.untied_head, OnResume::same, FlagRange{},
       "a new model's logits come from a matrix of their own, not from the token embedding");
  flag(g, "no-qkv-bias", c.no_qkv_bias, OnResume::same, FlagRange{},
       "a new model's queries, keys and values have no bias");
  flag(g, "init", c.init, OnResume::same, FlagRange{0, 0, {"gpt2", "book"}},
       "gpt2 | book: a new model's weights; book: PyTorch's of its layers, after torch.manual_seed(--seed)");

  g = "Training";
  flag(g, "batch-size", c.batch_size, OnResume::same, FlagRange{0, 1 << 20, {}},
       "B: windows in a micro-batch of one process; 0: the preset's");
  flag(g, "total-batch-tokens", c.total_batch_tokens, OnResume::same, FlagRange{0, big, {}},
       "tokens per step, a multiple of B*T and the number of processes: gradients accumulate; 0: one micro-batch each");
  flag(g, "steps", c.steps, OnResume::free, FlagRange{0, big, {}},
       "optimizer steps; 0: from --epochs, else the preset's");
  flag(g, "epochs", c.epochs, OnResume::free, FlagRange{0, 1e9, {}},
       "passes over the training data, instead of --steps");
  flag(g, "lr", c.lr, OnResume::same, FlagRange{0, 10, {}}, "peak learning rate; 0: the preset's");
  flag(g, "min-lr", c.min_lr, OnResume::same, FlagRange{0, 10, {}}, "learning rate at the end");
  flag(g, "start-lr", c.start_lr, OnResume::same, FlagRange{0, 10, {}},
       "learning rate of the warm-up's first step; 0: that of --lr by --warmup-steps");
  flag(g, "warmup-steps", c.warmup_steps, OnResume::same, FlagRange{-1, big, {}},
       "steps of linear warm-up; -1: a twentieth of the steps");
  flag(g, "schedule", c.schedule, OnResume::same, FlagRange{0, 0, {"cosine", "linear", "constant", "wsd"}},
       "after the warm-up; wsd: constant, then linear over the last fifth");
  flag(g, "optimizer", c.optimizer, OnResume::same, FlagRange{0, 0, {"adamw", "muon"}},
       "adamw | muon: Muon for the blocks' weight matrices, AdamW for the rest");
  flag(g, "lr-decay-per-layer", c.lr_decay_per_layer, OnResume::same, FlagRange{0.01, 1, {}},
       "each block's rate is so many times that of the block above it; the head has --lr");
  flag(g, "weight-decay", c.weight_decay, OnResume::same, FlagRange{0, 10, {}}, "decoupled; of what, --decay says");
  flag(g, "decay", c.decay, OnResume::same, FlagRange{0, 0, {"matrices", "all"}},
       "matrices | all: whether biases and layernorms decay, too");
  flag(g, "beta1", c.beta1, OnResume::same, FlagRange{0, 0.999999, {}}, "AdamW's");
  flag(g, "beta2", c.beta2, OnResume::same, FlagRange{0, 0.999999, {}}, "AdamW's; 0: the preset's");
  flag(g, "eps", c.eps, OnResume::same, FlagRange{1e-30, 1, {}}, "AdamW's");
  flag(g, "grad-clip", c.grad_clip, OnResume::same, FlagRange{0, 1e9, {}},
       "clip the gradients' global norm to this; 0: off");
  flag(g, "dropout", c.dropout, OnResume::same, FlagRange{0, 0.99, {}},
       "after the embedding, on attention, on each sublayer's output");
  flag(g, "ema", c.ema, OnResume::same, FlagRange{0, 0.999999, {}},
       "decay of an average of the weights, of which validations, samples and saved models then are; 0: none");
  flag(g, "seed", c.seed, OnResume::same, FlagRange{0, big, {}}, "of initialisation, data order, dropout and samples");

  g = "Watching";
  flag(g, "eval-every", c.eval_every, OnResume::free, FlagRange{-1, big, {}},
       "steps between validations; 0: only at the end; -1: five in all");
  flag(g, "eval-steps", c.eval_steps, OnResume::free, FlagRange{0, big, {}}, "batches a validation takes; 0: all");
  flag(g, "patience", c.patience, OnResume::free, FlagRange{0, 1e6, {}},
       "validations in a row without improvement that end the run; the best is kept as RUN/best; 0: none do");
  flag(g, "sample-every", c.sample_every, OnResume::free, FlagRange{-1, big, {}},
       "steps between samples; 0: only at the end; -1: four in all");
  flag(g, "sample-tokens", c.sample_tokens, OnResume::free, FlagRange{0, 1 << 20, {}}, "length of a sample; 0: none");
  flag(g, "prompt", c.prompt, OnResume::free, FlagRange{}, "what samples begin with; default: the start of a text");
  flag(g, "save-every", c.save_every, OnResume::free, FlagRange{-1, big, {}},
       "steps between checkpoints; 0: only at the end; -1: four in all");
  flag(g, "keep", c.keep, OnResume::free, FlagRange{0, 1e6, {}}, "checkpoints to keep, the newest; 0: all");

  g = "Arithmetic and memory";
  flag(g, "precision", c.precision, OnResume::free, FlagRange{0, 0, {"fp32", "tf32", "bf16"}},
       "fp32 | tf32 | bf16: of weights and activations (tf32, and bf16 on the CPU: of products' factors alone); "
       "default: bf16 where the device has it");
  flag(g, "recompute", c.recompute, OnResume::free, FlagRange{0, 0, {"none", "gelu", "block"}},
       "none | gelu | block: what backward computes again instead of keeping it; same results, less memory");
  flag(g, "no-master-weights", c.no_master_weights, OnResume::free, FlagRange{},
       "keep bf16 weights alone, rounded stochastically: 4 bytes a parameter less");

  g = "Several processes";
  flag(g, "zero", c.zero, OnResume::free, FlagRange{0, 3, {}},
       "what each process keeps its part alone of: 1 the optimizer's state, 2 gradients, too, 3 parameters, too");
  flag(g, "timeout", c.timeout, OnResume::never, FlagRange{1, 1e6, {}},
       "seconds without any progress after which the run ends, saying who hangs; dev/launch/elastic.sh starts a run "
       "that "
       "lost a process again with those that remain");

  g = "Run";
  flag(g, "run", c.run, OnResume::never, FlagRange{}, "the run's folder; default: the next free runs/NAME");
  flag(g, "resume", c.resume, OnResume::never, FlagRange{},
       "go on from the last checkpoint of --run; other flags come from it");
  flag(g, "threads", c.threads, OnResume::free, FlagRange{0, 4096, {}},
       "0: all cores; another number gives other bits");
  flag(g, "reference", c.reference, OnResume::never, FlagRange{},
       "plain loops only: slow, and the same for any number of threads");
  flag(g, "memory", c.memory, OnResume::never, FlagRange{}, "print what training takes, tensor by tensor, and stop");
  flag(g, "kernels", c.kernels, OnResume::never, FlagRange{},
       "print which kernels a step takes, and why, operation by operation, and stop");
  flag(g, "find-lr", c.find_lr, OnResume::never, FlagRange{},
       "try rates from 1e-6 to 1 in --steps steps (100), print the losses and a rate for --lr, and stop");
  flag(g, "search", c.search, OnResume::never, FlagRange{},
       "a JSON file of flags and values to try: a run for each, in folders below --run; docs/training.md");
  flag(g, "check", c.check, OnResume::never, FlagRange{},
       "compare one step of the fast path with the reference, tensor by tensor, and stop");
}

nlohmann::json to_json(const TrainConfig& config);

// Sets a flag that a run's record has. Throws UsageError: no such flag, or a value of another type.
void set_flag(TrainConfig& config, const std::string& name, const nlohmann::json& value);

// Of a configuration that validate() found good.
ModelOptions model_options(const TrainConfig& config);

// --warmup-steps -1.
inline int64_t default_warmup_steps(int64_t steps) { return steps / 20; }

// Throws UsageError for flags that are out of range or contradict one another (what a range per flag cannot say).
void validate(const TrainConfig& config);

// For --resume: takes every value from `saved` (to_json of the run's configuration) but those that the user `gave` on
// the command line; a flag that `saved` lacks, because it is newer, has its default. Returns those, but for what was
// given: "--flag --flag". Throws UsageError naming each flag whose given value differs and may not, Error naming what
// in `saved` is no flag, or has no usable value.
std::string merge_resumed(TrainConfig& config, const nlohmann::json& saved, const std::vector<std::string>& given);

// A preset's shape and training defaults; null if the name is none. `vocab_size` is GPT-2's and is replaced by the
// tokenizer's.
struct ModelPreset {
  const char* name;
  ModelConfig shape;
  int batch_size, train_seq_len;
  double lr, beta2;
  int64_t steps;
};
const ModelPreset* find_preset(const std::string& name);
