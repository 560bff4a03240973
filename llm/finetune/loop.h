// What the loops of finetune classify | instruct | dpo share: the tokenizer, the length of a run, and what happens
// around its steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/finetune/examples.h"
#include "llm/finetune/instructions.h"
#include "llm/flags/finetune_flags.h"
#include "llm/formats/run_folder.h"
#include "llm/models/device.h"
#include "llm/models/model.h"
#include "llm/text/tokenizer.h"
#include "llm/training/logger.h"
#include "llm/training/report.h"
#include "llm/training/schedule.h"

bool stop_requested();  // by a signal

// ---- the tokenizer -------------------------------------------------------------------------------------------------

// Throws Error if the tokenizer has no end-of-text, which pads batches. `where` begins the message.
void check_end_of_text(const Tokenizer& tokenizer, const std::string& where);
// The tokenizer of the model in `dir`, which has this shape.
Tokenizer load_tokenizer(const std::string& dir, const ModelConfig& shape);

// ---- the length of a run -------------------------------------------------------------------------------------------

// Settles {steps} and {eval-every}; returns the steps per epoch. A last batch that is not full is left out.
int64_t settle_steps(FinetuneConfig& config, size_t examples);
// A step's batch in parts of {micro-batch} examples.
std::vector<std::vector<size_t>> micro_batches(const std::vector<size_t>& batch, const FinetuneConfig& config);
int micro_batch_size(const FinetuneConfig& config);
// The first of a step's dropout sequences; each micro-batch takes the next.
uint64_t dropout_sequence(int64_t step);

// ---- around the steps ----------------------------------------------------------------------------------------------

// Throws Error if a set's loss is not finite: the last update broke the weights; RUN/latest has those before it.
void check_loss(double loss, int64_t step, const char* set);
void print_truncation(const Truncation& truncation, size_t length, const char* what);

class FinetuneRun {
 public:
  // Claims the folder `run`, prints the model and the training, and writes the first line of metrics.jsonl. The
  // arguments outlive it. `per_epoch`: steps. Throws Error if another process holds the folder.
  FinetuneRun(const FinetuneConfig& config, Task task, const Device& device, const Model& model, int64_t per_epoch,
              const std::filesystem::path& run);

  MetricsLog& log() { return log_; }
  const Schedule& schedule() const { return schedule_; }
  double epoch(int64_t step) const { return static_cast<double>(step) / static_cast<double>(per_epoch_); }
  bool is_last(int64_t step) const { return step == config_.steps; }
  bool ended(int64_t step) const { return step >= config_.steps || stop_requested(); }

  // Examples of a step's batch. Each epoch has its own order: `lengths`: those of the examples, for batches of
  // similar lengths.
  const std::vector<size_t>& batch(int64_t step, const std::vector<size_t>& lengths);

  void begin() { report_.start_clock(); }
  // `tokens`: in the step, padding included; `text` and `metrics`: more to report.
  void report_step(int64_t step, const StepResult& result, int64_t tokens, const std::string& text = "",
                   const nlohmann::json& metrics = nlohmann::json::object());
  // After every {eval-every} steps, and the last: evaluate(), then save(), unless the run is no longer finite.
  void evaluate_save(int64_t step, const std::function<void()>& evaluate, const std::function<void()>& save);
  // RUN/latest: the model, its tokenizer, and what `add` writes next to them. `base`: what adapters were trained on.
  void save(const Tokenizer& tokenizer, const std::string& base,
            const std::function<void(const std::filesystem::path&)>& add);
  // After the loop. Throws Error if the run is no longer finite; after a signal saves the model so far.
  void finish(const std::function<void()>& save);
  // The last lines; `next`: flags of generate to try.
  void print_end(int64_t step, double seconds, const std::string& next) const;

 private:
  const FinetuneConfig& config_;
  const Model& model_;
  const int64_t per_epoch_;
  const std::filesystem::path run_;
  const Schedule schedule_;
  const std::unique_ptr<const RunLock> lock_;
  MetricsLog log_;
  StepReport report_;
  std::vector<std::vector<size_t>> batches_;  // of the epoch
};

// ---- rows of instructions and of preferences -----------------------------------------------------------------------

// Rows in the file's order: first those to train on, then to test, then to validate, as in the book.
template <class Row>
struct PromptedRows {
  std::vector<Row> train, validation, test;
};

// Prints how many rows each set has.
void print_sets(size_t train, size_t validation, size_t test);

// `read(path)` gives the rows of a file.
template <class Row>
PromptedRows<Row> split_rows(const FinetuneConfig& c, const std::function<std::vector<Row>(const std::string&)>& read) {
  PromptedRows<Row> rows;
  std::vector<Row> all = read(c.data);
  if (c.val_data.empty() && c.test_data.empty()) {
    const SplitSizes sizes = split_sizes(all.size(), c.train_fraction, c.val_fraction);
    // The book rounds the test share down, too: what is left over validates.
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
  print_sets(rows.train.size(), rows.validation.size(), rows.test.size());
  return rows;
}

// {template}, else the model's template, else the Alpaca template.
ChatTemplate choose_template(const FinetuneConfig& config);
// The most inputs of an example. Throws UsageError beyond the model's context.
size_t length_limit(const FinetuneConfig& config, int context);
// The shape of a base model for answers. Throws Error for a classifier, and as check_weights does.
ModelConfig read_language_model(const std::string& dir);
