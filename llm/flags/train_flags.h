// What a training run is told: ONE table of flags, which drives defaults, --help, range checks, the run's record and
// the comparison on --resume; and the presets of model sizes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "llm/models/model.h"
#include "llm/models/tensor_table.h"
#include "llm/support/error.h"

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
  std::string moments = "float";
  int64_t loss_chunk = 0;
  std::string graph = "on";
  std::string plans;

  std::string run;
  bool resume = false, reference = false, memory = false, gpu_memory = false, kernels = false, check = false,
       find_lr = false;
  std::string search;
  int threads = 0;
  int zero = 0;
  double timeout = 600;

  int ranks = 1;  // no flag: the processes that there are
};

enum class OnResume {
  same,   // part of what the run is: another value is refused
  free,   // may change: how long, how often, where to look
  never,  // not kept
};

// What a flag's value may be: a number from low to high, one of some words; std::monostate: anything.
struct Numbers {
  double low, high;
};
using Words = std::vector<std::string>;
using FlagValues = std::variant<std::monostate, Numbers, Words>;
inline FlagValues any() { return {}; }
inline FlagValues range(double low, double high) { return Numbers{low, high}; }
template <class... Word>
FlagValues choices(Word... words) {
  return Words{words...};
}

// A row of a table of flags.
struct Flag {
  const char* name;  // without the --
  FlagValues values;
  const char* help;
  OnResume on_resume = OnResume::same;
  const char* group = "";  // in --help, as the table's function fills it in
};

// Throws UsageError if a flag's value is none that it may have.
template <class T>
void check_flag(const Flag& flag, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    const Words* words = std::get_if<Words>(&flag.values);
    if (words && std::find(words->begin(), words->end(), value) == words->end()) {
      std::string all;
      for (const std::string& word : *words) all += " " + word;
      fail_usage("--%s is '%s', expected one of%s", flag.name, value.c_str(), all.c_str());
    }
  } else if constexpr (!std::is_same_v<T, bool>) {
    const auto [low, high] = std::get<Numbers>(flag.values);
    const double number = static_cast<double>(value);
    if (!(number >= low && number <= high)) {
      fail_usage("--%s is %.16g, expected %.16g to %.16g", flag.name, number, low, high);
    }
  }
}

// Calls visit(flag, field) for every flag, in the order of --help.
template <class Config, class Visit>
void for_each_flag(Config& c, Visit&& visit) {
  const double big = 9e15;  // integers are exact in a double up to here
  const char* group = "Data";
  const auto flag = [&](auto& field, Flag row) {
    row.group = group;
    visit(std::as_const(row), field);
  };
  flag(c.data,
       {"data", any(),
        "text file, folder of text files, .bin shard, quoted glob or .list of shards; default: the built-in stories"});
  flag(c.val_data, {"val-data", any(), "shard, glob or .list to validate on (with --data shards)"});
  flag(c.val_fraction, {"val-fraction", range(0, 0.9), "share of the text's characters, at its end, to validate on"});
  flag(c.tokenizer,
       {"tokenizer", any(),
        "bytes | chars | bpe:N (trained on the data) | gpt2 | a tokenizer file; default: that of --model DIR, else "
        "bpe:4096"});
  flag(c.data_order,
       {"data-order", choices("shuffled", "fixed", "sequential"),
        "shuffled: in each epoch other windows, in random order; fixed: the same windows; sequential: in the order of "
        "the data"});
  flag(c.stride, {"stride", range(0, big), "tokens from one window's start to the next; 0: --seq-len"});
  flag(c.lossy, {"lossy", any(), "replace bytes that are not UTF-8 instead of refusing the text"});

  group = "Model";
  flag(c.model,
       {"model", any(),
        "gpt2-nano d4 d6 d12 d24 d36 d48 gpt2 gpt2-medium gpt2-large gpt2-xl, or a model directory to start from"});
  flag(c.layers, {"layers", range(0, 4096), "blocks; 0: as the preset has, as for the next four"});
  flag(c.heads, {"heads", range(0, 65536), "attention heads per block"});
  flag(c.channels, {"channels", range(0, 1 << 20), "width of the residual stream"});
  flag(c.seq_len, {"seq-len", range(0, 1 << 24), "T: tokens per window, and a new model's context"});
  flag(c.vocab_size,
       {"vocab-size", range(0, 1 << 28), "0: as the tokenizer has; for shards without a tokenizer 50257"});
  flag(c.untied_head,
       {"untied-head", any(), "a new model's logits come from a separate matrix, not from the token embedding"});
  flag(c.no_qkv_bias, {"no-qkv-bias", any(), "a new model's queries, keys and values have no bias"});
  flag(c.init,
       {"init", choices("gpt2", "book"),
        "gpt2 | book: a new model's weights; book: those that PyTorch's layers have after torch.manual_seed(--seed)"});

  group = "Training";
  flag(c.batch_size, {"batch-size", range(0, 1 << 20), "B: windows per micro-batch and process; 0: as the preset has"});
  flag(c.total_batch_tokens, {"total-batch-tokens", range(0, big),
                              "tokens per step, a multiple of B*T and the number of processes: gradients accumulate; "
                              "0: one micro-batch each"});
  flag(c.steps, {"steps", range(0, big), "optimizer steps; 0: from --epochs, else as the preset has", OnResume::free});
  flag(c.epochs, {"epochs", range(0, 1e9), "passes over the training data, instead of --steps", OnResume::free});
  flag(c.lr, {"lr", range(0, 10), "peak learning rate; 0: as the preset has; 1e-4 with --model DIR"});
  flag(c.min_lr, {"min-lr", range(0, 10), "learning rate at the end"});
  flag(c.start_lr, {"start-lr", range(0, 10), "learning rate of the first warm-up step; 0: --lr / --warmup-steps"});
  flag(c.warmup_steps, {"warmup-steps", range(-1, big), "steps of linear warm-up; -1: a twentieth of the steps"});
  flag(c.schedule, {"schedule", choices("cosine", "linear", "constant", "wsd"),
                    "after the warm-up; wsd: constant, then linear over the last fifth"});
  flag(c.optimizer, {"optimizer", choices("adamw", "muon"),
                     "adamw | muon: Muon for the blocks' weight matrices, AdamW for the rest"});
  flag(c.lr_decay_per_layer, {"lr-decay-per-layer", range(0.01, 1),
                              "factor on the learning rate for each block further from the head, which has --lr"});
  flag(c.weight_decay, {"weight-decay", range(0, 10), "decoupled weight decay; --decay selects the tensors"});
  flag(c.decay, {"decay", choices("matrices", "all"), "matrices | all: all includes biases and layernorms"});
  flag(c.beta1, {"beta1", range(0, 0.999999), "AdamW's beta1"});
  flag(c.beta2, {"beta2", range(0, 0.999999), "AdamW's beta2; 0: as the preset has"});
  flag(c.eps, {"eps", range(1e-30, 1), "AdamW's epsilon"});
  flag(c.grad_clip, {"grad-clip", range(0, 1e9), "clip the gradients' global norm to this; 0: off"});
  flag(c.dropout, {"dropout", range(0, 0.99), "after the embedding, on attention, on each sublayer's output"});
  flag(c.ema, {"ema", range(0, 0.999999),
               "keep an average (EMA) of the weights with this decay; evaluate and save the average; 0: none"});
  flag(c.seed, {"seed", range(0, big), "seed of initialisation, data order, dropout and samples"});

  group = "Watching";
  flag(c.eval_every, {"eval-every", range(-1, big), "steps between validations; 0: only at the end; -1: five in all",
                      OnResume::free});
  flag(c.eval_steps, {"eval-steps", range(0, big), "batches per validation; 0: all", OnResume::free});
  flag(c.patience, {"patience", range(0, 1e6),
                    "stop after this many validations without improvement, and keep the best as RUN/best; 0: never",
                    OnResume::free});
  flag(c.sample_every,
       {"sample-every", range(-1, big), "steps between samples; 0: only at the end; -1: four in all", OnResume::free});
  flag(c.sample_tokens, {"sample-tokens", range(0, 1 << 20), "length of a sample; 0: none", OnResume::free});
  flag(c.prompt, {"prompt", any(), "text that samples begin with; default: the start of a text", OnResume::free});
  flag(c.save_every, {"save-every", range(-1, big), "steps between checkpoints; 0: only at the end; -1: four in all",
                      OnResume::free});
  flag(c.keep, {"keep", range(0, 1e6), "checkpoints to keep, the newest; 0: all", OnResume::free});

  group = "Arithmetic and memory";
  flag(c.precision, {"precision", choices("fp32", "tf32", "bf16"),
                     "fp32 | tf32 | bf16: weights and activations (tf32, and bf16 on the CPU: only matrix-product "
                     "inputs are rounded); "
                     "default: bf16 where the device has it",
                     OnResume::free});
  flag(c.recompute, {"recompute", choices("none", "gelu", "block"),
                     "none | gelu | block: what backward recomputes instead of keeping it; same results, less memory",
                     OnResume::free});
  flag(c.no_master_weights,
       {"no-master-weights", any(), "keep only bf16 weights, rounded stochastically: 4 bytes per parameter less",
        OnResume::free});
  flag(c.moments, {"moments", choices("float", "bf16"),
                   "float | bf16: number type of AdamW's two moments; bf16: rounded stochastically, 4 bytes per "
                   "parameter less",
                   OnResume::free});
  flag(c.loss_chunk, {"loss-chunk", range(0, 1 << 30),
                      "rows of logits in memory at a time: the loss and the head's backward pass, chunk by chunk; 0: "
                      "all of a micro-batch on a GPU, 8 MB on the CPU",
                      OnResume::free});

  flag(c.graph, {"graph", choices("on", "off"),
                 "on | off: queue a GPU's step as CUDA graphs, if one process trains; same results", OnResume::never});

  flag(c.plans, {"plans", any(),
                 "file of the algorithms of cuBLASLt's products: read, or measured and written; default: one per GPU "
                 "and program in the user's cache folder",
                 OnResume::never});

  group = "Several processes";
  flag(c.zero, {"zero", range(0, 3), "ZeRO stage: shard 1 optimizer state, 2 also gradients, 3 also parameters",
                OnResume::free});
  flag(c.timeout,
       {"timeout", range(1, 1e6),
        "seconds without any progress after which the run ends, saying who hangs; apps/launch/elastic.sh starts a run "
        "that "
        "lost a process again with those that remain",
        OnResume::never});

  group = "Run";
  flag(c.run, {"run", any(), "the run's folder; default: the next free runs/NAME", OnResume::never});
  flag(c.resume,
       {"resume", any(), "continue from the last checkpoint of --run; other flags come from it", OnResume::never});
  flag(c.threads,
       {"threads", range(0, 4096), "CPU threads; 0: all cores; another number gives other bits", OnResume::free});
  flag(c.reference,
       {"reference", any(), "plain loops only: slow, and the same result for any number of threads", OnResume::never});
  flag(c.memory,
       {"memory", any(), "print the memory that training takes, tensor by tensor, and stop", OnResume::never});
  flag(c.gpu_memory,
       {"gpu-memory", any(), "print the memory that training on a GPU takes, and stop; needs no GPU", OnResume::never});
  flag(c.kernels, {"kernels", any(), "print which kernels a step takes, and why, operation by operation, and stop",
                   OnResume::never});
  flag(c.find_lr, {"find-lr", any(),
                   "try rates from 1e-6 to 1 in --steps steps (100), print the losses and a rate for --lr, and stop",
                   OnResume::never});
  flag(c.search, {"search", any(),
                  "JSON file of flags and values to try: one run for each, in folders below --run; docs/training.md",
                  OnResume::never});
  flag(c.check, {"check", any(), "compare one step of the fast path with the reference, tensor by tensor, and stop",
                 OnResume::never});
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
// in `saved` is not a flag, or has no usable value.
std::string merge_resumed(TrainConfig& config, const nlohmann::json& saved, const std::vector<std::string>& given);

// A preset's shape and training defaults; null if the name is none. `vocab_size` is that of GPT-2; the
// tokenizer's size replaces it.
struct ModelPreset {
  const char* name;
  ModelConfig shape;
  int batch_size, train_seq_len;
  double lr, beta2;
  int64_t steps;
};
const ModelPreset* find_preset(const std::string& name);  // its table is in train_flags.cpp
