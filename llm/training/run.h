// What both trainers do before the first step: settle the configuration, find or make tokenizer and shards, claim the
// run's folder or find where to resume.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llm/distributed/group.h"
#include "llm/flags/train_flags.h"
#include "llm/formats/run_folder.h"
#include "llm/models/model.h"
#include "llm/text/dataloader.h"
#include "llm/text/tokenizer.h"
#include "llm/training/early_stopping.h"

struct Run {
  TrainConfig config;  // settled: no zeros or -1 that stand for "the preset's"
  ModelConfig shape;
  std::filesystem::path folder;        // holds data/, checkpoints/, metrics.jsonl, latest
  std::filesystem::path weights_from;  // a model directory to start from; empty: random weights
  std::filesystem::path resume_from;   // a checkpoint; empty: a new run
  int64_t step = 0, updates = 0;       // steps done, and those of them that changed the weights
  LoaderPosition position;             // of the next training batch
  std::string data_checksum;           // of the data it began with
  std::string val_checksum;            // the same for the validation data; empty: a state of version 1 has none
  nlohmann::json data_files;           // checksums of the files in data/, by name; null: of version 1, or no such files
  std::string run_id;                  // a random number in hexadecimal, by which checkpoints are known as this run's
  std::optional<Tokenizer> tokenizer;  // none for bare shards
  TokenSequence train, val;            // val may be empty
  std::optional<double> floor;         // entropy of the source in nats per byte, if it is known: no model is better
  int micro_batches = 1;               // per step
  EarlyStopping stopping;              // with --patience: what validation has said so far
  const Group* group = nullptr;        // null: one process
  std::shared_ptr<const RunLock> lock;  // on the folder, until the run ends; rank 0's only
};

// The run without its data: enough for --memory and --check. `given`: names of the flags on the command line.
Run plan_run(TrainConfig config, const std::vector<std::string>& given, const Say& say);

// Throws Error if the device cannot hold the run: asked before anything is written.
using CheckDevice = std::function<void(const Run&)>;

// For the CPU: the precision is fp32 or bf16, and the machine has the memory of memory_plan(). Without this check the
// system would kill the program.
void check_cpu(const Run& run);
void check_cpu_precision(const TrainConfig& config);

// Everything before the first step, under the run's lock. Throws Error or UsageError if the run is impossible, and then
// leaves no file.
Run set_up_run(TrainConfig config, const std::vector<std::string>& given, const Say& say,
               const CheckDevice& check_device = check_cpu);

// The same for a group: rank 0 sets up, the others take over what it settled and open the data on their own machines.
// Throws Error in every process, naming the rank, if flags, program or data differ.
Run set_up_run(TrainConfig config, const std::vector<std::string>& given, const Say& say,
               const CheckDevice& check_device, const Group& group);

// Throws Error if a token is not in the vocabulary. Each rank reads its part of the shards.
void check_ids(const Run& run, int rank, int ranks);

// What a checkpoint remembers of the run (save_checkpoint's `state`); `next`: where the next batch is.
nlohmann::json training_state(const Run& run, int64_t step, int64_t updates, const LoaderPosition& next);

// How this process reads the training data.
LoaderConfig loader_config(const Run& run);

// Threads of a rank that shares its machine's cores with others, unless {threads} is given.
void share_cores(const TrainConfig& config, const Group& group);

// Dropout of a micro-batch: each step, micro-batch and rank has its own random numbers.
PassDropout dropout_of(const Run& run, int64_t step, int micro);
