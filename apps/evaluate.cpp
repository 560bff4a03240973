// Measures a model: its loss and perplexity on text, its answers to HellaSwag, LAMBADA and other questions; or the
// classes that a classifier finds.
//   build/evaluate --model runs/stories/latest --data book.txt
//   build/evaluate --model gpt2/ --task hellaswag --data hellaswag_val.jsonl
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/device.h"
#include "llm/finetune/classes.h"
#include "llm/finetune/labelled_files.h"
#include "llm/flags/command_line.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/classifier.h"
#include "llm/inference/evaluation.h"
#include "llm/support/progress.h"
#include "llm/text/corpus.h"
#include "llm/text/shards.h"

using nlohmann::json;

namespace {

struct Flags {
  std::string model, data, tokenizer, task = "text";
  LabelledSource labelled;
  DeviceFlags device;
  int seq_len = 0, batch_size = 4;
  int64_t stride = 0, limit = 0;
  bool activity = false, lossy = false, as_json = false;
};

// A model that computes losses: activations of one block at a time are enough.
std::unique_ptr<Model> load(const Flags& flags, const ModelConfig& shape) {
  const ModelOptions options = {.recompute = Recompute::block, .trainable = trains_nothing(shape)};
  auto model = make_device_model(flags.device, shape, options, 1, 1);  // grows with what it is given
  load_weights(*model, flags.model);
  return model;
}

// Shows progress after every batch on a terminal, after every tenth part in a pipe; with --json only the result is
// printed.
class Watch {
 public:
  Watch(const Flags& flags, const char* unit) : quiet_(flags.as_json), unit_(unit) {}
  ~Watch() { clear(); }
  void operator()(int64_t done, int64_t total) {
    if (quiet_) return;
    if (!progress_) progress_.emplace(0, total);
    if (!::isatty(STDOUT_FILENO) && done < total && done * 10 / total == tenths_) return;
    tenths_ = done * 10 / total;
    progress_->show(done,
                    strprintf("%lld of %lld %s", static_cast<long long>(done), static_cast<long long>(total), unit_));
  }
  void clear() {
    if (progress_) progress_->clear();
  }

 private:
  bool quiet_;
  const char* unit_;
  std::optional<Progress> progress_;
  int64_t tenths_ = 0;
};

void print(const Flags& flags, json result, const std::string& text) {
  result["task"] = flags.task;
  result["model"] = flags.model;
  result["data"] = flags.data;
  std::printf("%s\n",
              flags.as_json ? result.dump(2, ' ', false, json::error_handler_t::replace).c_str() : text.c_str());
}

// ---- the tasks -----------------------------------------------------------------------------------------------------

void text(const Flags& flags, Model& model, const std::optional<Tokenizer>& tokenizer, Tokens tokens) {
  const int T = flags.seq_len > 0 ? flags.seq_len : model.config.max_seq_len;
  if (flags.limit > 0) tokens.size = std::min(tokens.size, flags.limit);
  Watch watch(flags, "tokens");
  const TextScore score =
      score_text(model, tokens, tokenizer ? &*tokenizer : nullptr, T, flags.stride, flags.batch_size, std::ref(watch));
  watch.clear();
  const auto per = [&](int64_t count) { return score.nats / static_cast<double>(count); };
  json result{{"tokens", score.tokens}, {"windows", score.windows}, {"seq_len", T}, {"stride", flags.stride}};
  std::string loss = "loss", perplexity = "perplexity";
  const auto add = [&](const char* unit, int64_t count) {
    const char* comma = count == score.tokens && std::string(unit) == "token" ? "" : ",";
    loss += strprintf("%s %.4f per %s", comma, per(count), unit);
    perplexity += strprintf("%s %.4f per %s", comma, std::exp(per(count)), unit);
    result[std::string("nats_per_") + unit] = per(count);
    result[std::string("perplexity_per_") + unit] = std::exp(per(count));
  };
  add("token", score.tokens);
  if (score.bytes > 0) add("byte", score.bytes);
  if (score.words > 0) add("word", score.words);
  std::string counts = strprintf("%lld tokens", static_cast<long long>(score.tokens));
  if (tokenizer) {
    result["bytes"] = score.bytes;
    result["words"] = score.words;
    counts +=
        strprintf(", %lld bytes, %lld words", static_cast<long long>(score.bytes), static_cast<long long>(score.words));
  }
  if (score.bytes > 0) loss += strprintf("; %.4f bits per byte", per(score.bytes) / std::log(2.0));
  print(flags, result,
        counts + strprintf(" in %lld windows of %d\n", static_cast<long long>(score.windows), T) + loss + "\n" +
            perplexity);
}

template <class Example>
void limit(const Flags& flags, std::vector<Example>& examples) {
  if (flags.limit > 0 && static_cast<int64_t>(examples.size()) > flags.limit) {
    examples.resize(static_cast<size_t>(flags.limit));
  }
}

std::string shortened(int64_t n) {
  return n == 0 ? "" : strprintf(" | %lld cut at the left to fit the context", static_cast<long long>(n));
}

void choices(const Flags& flags, Model& model, const Tokenizer& tokenizer, std::vector<Question> questions) {
  limit(flags, questions);
  Watch watch(flags, "questions");
  const ChoiceScore s = score_choices(model, tokenizer, questions, flags.batch_size, std::ref(watch));
  watch.clear();
  const auto share = [&](int64_t right) { return static_cast<double>(right) / static_cast<double>(s.questions); };
  const double error = standard_error(s.right, s.questions), error_mean = standard_error(s.right_mean, s.questions);
  print(flags,
        {{"questions", s.questions},
         {"accuracy", share(s.right)},
         {"accuracy_stderr", error},
         {"accuracy_normalised", share(s.right_mean)},
         {"accuracy_normalised_stderr", error_mean},
         {"shortened", s.shortened}},
        strprintf("%s: %lld questions | accuracy %.4f +- %.4f | normalised by length %.4f +- %.4f%s",
                  flags.task.c_str(), static_cast<long long>(s.questions), share(s.right), error, share(s.right_mean),
                  error_mean, shortened(s.shortened).c_str()));
}

void last_words(const Flags& flags, Model& model, const Tokenizer& tokenizer) {
  std::vector<Passage> passages = read_lambada(flags.data);
  limit(flags, passages);
  Watch watch(flags, "passages");
  const LastWordScore s = score_last_words(model, tokenizer, passages, flags.batch_size, std::ref(watch));
  watch.clear();
  const double n = static_cast<double>(s.passages), accuracy = static_cast<double>(s.right) / n,
               error = standard_error(s.right, s.passages), perplexity = std::exp(s.nats / n);
  print(flags,
        {{"passages", s.passages},
         {"accuracy", accuracy},
         {"accuracy_stderr", error},
         {"perplexity", perplexity},
         {"shortened", s.shortened}},
        strprintf("lambada: %lld passages | accuracy %.4f +- %.4f | perplexity of the last word %.2f%s",
                  static_cast<long long>(s.passages), accuracy, error, perplexity, shortened(s.shortened).c_str()));
}

void classes(const Flags& flags, Model& model, const Tokenizer& tokenizer) {
  ClassifierInfo info = read_classifier_info(flags.model);
  LabelledSource source = flags.labelled;
  source.lossy = flags.lossy;
  const LabelledTexts texts = read_labelled(flags.data, source);
  if (texts.pooled) {
    std::fprintf(stderr, "(train/ and test/ in %s are taken together; for one of them, name that folder)\n",
                 flags.data.c_str());
  }
  std::vector<LabelledExample> examples = encode(texts.rows, info.classes, tokenizer);
  limit(flags, examples);
  if (info.length == 0) info.length = static_cast<int>(std::min<size_t>(longest(examples), model.config.max_seq_len));
  const int64_t cut = truncate(examples, static_cast<size_t>(info.length));
  Watch watch(flags, "texts");
  const auto n = static_cast<int64_t>(examples.size());
  int64_t done = 0;
  const auto result = evaluate_classifier(model, examples, info, static_cast<size_t>(flags.batch_size), 0, [&] {
    if (done > 0) watch(done, n);
    done += flags.batch_size;
    return false;
  });
  watch(n, n);
  watch.clear();
  if (!std::isfinite(result->loss)) fail("the loss is not finite: the model's weights are damaged");
  const Confusion& confusion = result->confusion;
  int64_t right = 0;
  json counts = json::array(), precision = json::array(), recall = json::array();
  for (size_t k = 0; k < confusion.classes; ++k) {
    right += confusion.at(k, k);
    json row = json::array();
    for (size_t j = 0; j < confusion.classes; ++j) row.push_back(confusion.at(k, j));
    counts.push_back(row);
    precision.push_back(confusion.precision(k));
    recall.push_back(confusion.recall(k));
  }
  const double error = standard_error(right, n);
  const std::string shorter =
      cut == 0 ? "" : strprintf(" | %lld cut to %d tokens", static_cast<long long>(cut), info.length);
  print(
      flags,
      {{"texts", n},
       {"accuracy", confusion.accuracy()},
       {"accuracy_stderr", error},
       {"loss", result->loss},
       {"classes", info.classes},
       {"confusion", counts},
       {"precision", precision},
       {"recall", recall},
       {"shortened", cut}},
      strprintf("classify: %lld texts | accuracy %.4f +- %.4f | loss %.4f%s\n%s", static_cast<long long>(n),
                confusion.accuracy(), error, result->loss, shorter.c_str(), to_text(confusion, info.classes).c_str()));
}

void evaluate(Flags& flags) {
  settle_device(flags.device);
  const bool is_text = flags.task == "text";
  if (!is_text && (flags.stride > 0 || flags.seq_len > 0)) {
    fail_usage("--stride and --seq-len go with --task text, not with %s", flags.task.c_str());
  }
  if (flags.lossy && !is_text && flags.task != "classify") {
    fail_usage("--lossy goes with --task text and classify, not with %s", flags.task.c_str());
  }
  const LabelledSource columns;  // the defaults
  if (flags.task != "classify" &&
      (flags.labelled.text_column != columns.text_column || flags.labelled.label_column != columns.label_column ||
       flags.labelled.header != columns.header)) {
    fail_usage("--text-column, --label-column and --header go with --task classify, not with %s", flags.task.c_str());
  }
  if (flags.activity && flags.task != "hellaswag") fail_usage("--activity goes with --task hellaswag");
  const ModelConfig shape = read_model_config(flags.model);
  if (flags.task != "classify" && (shape.num_classes > 0 || !shape.causal)) {
    fail("%s: %s, expected a language model", flags.model.c_str(),
         shape.num_classes > 0 ? "a classifier, which --task classify is for" : "its attention sees what follows");
  }
  const bool shards = is_text && names_shards(flags.data);
  const std::string where = flags.tokenizer.empty() ? flags.model : flags.tokenizer;
  std::optional<Tokenizer> tokenizer;  // bare shards need none
  if (!shards || !flags.tokenizer.empty()) {
    tokenizer = load_tokenizer(where);
  } else {
    tokenizer = find_tokenizer(where);
  }
  if (tokenizer) check_tokenizer(*tokenizer, shape, where);

  if (is_text) {
    Tokens tokens;
    TokenSequence sequence;
    std::vector<int32_t> ids;
    if (shards) {
      sequence = TokenSequence::open(flags.data);
      sequence.check_vocabulary(shape.vocab_size);
      tokens = {sequence.size(), [&](int64_t from, int64_t count, int32_t* to) { sequence.copy(from, count, to); }};
    } else {
      ids = tokenizer->encode_parallel(read_corpus(flags.data, flags.lossy), Special::parsed, flags.device.threads);
      tokens = {static_cast<int64_t>(ids.size()),
                [&](int64_t from, int64_t count, int32_t* to) { std::copy_n(ids.begin() + from, count, to); }};
    }
    text(flags, *load(flags, shape), tokenizer, tokens);
  } else if (flags.task == "classify") {
    classes(flags, *load(flags, shape), *tokenizer);
  } else if (flags.task == "lambada") {
    last_words(flags, *load(flags, shape), *tokenizer);
  } else {
    std::vector<Question> questions =
        flags.task == "hellaswag" ? read_hellaswag(flags.data, flags.activity) : read_choices(flags.data);
    choices(flags, *load(flags, shape), *tokenizer, std::move(questions));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures a model: loss and perplexity on text, answers to questions.");
  Flags flags;
  app.add_option("--model", flags.model, "model directory (a run's latest/, or one that transformers saved), or .gguf")
      ->required();
  app.add_option(
         "--data", flags.data,
         "text: a text file, a folder of them, a .bin shard, a quoted glob or a .list of shards; otherwise a file of "
         "questions, one JSON object per line, or of labelled texts (.tsv, .csv, .jsonl, a folder)")
      ->required();
  app.add_option(
         "--task", flags.task,
         "text: loss and perplexity | hellaswag | choice: multiple choice in general | lambada: the last word | "
         "classify: a classifier's accuracy")
      ->check(CLI::IsMember({"text", "hellaswag", "choice", "lambada", "classify"}))
      ->capture_default_str();
  app.add_option("--tokenizer", flags.tokenizer, "tokenizer file; default: the model directory's tokenizer.json");
  app.add_option("--stride", flags.stride,
                 "text: tokens from one window to the next, each token scored once with as much context as the "
                 "window gives; 0: windows side by side")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  app.add_option("--seq-len", flags.seq_len, "text: T, tokens in a window; 0: the model's context")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--batch-size", flags.batch_size, "sequences at a time; all choices of a question go together")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--limit", flags.limit, "only the first N questions (text: tokens); 0: all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 60))
      ->capture_default_str();
  app.add_flag("--activity", flags.activity,
               "hellaswag: the activity before the context, WikiHow's marks removed, as lm-evaluation-harness asks");
  app.add_option("--text-column", flags.labelled.text_column, "classify: the texts' column: a name, or a number from 1")
      ->capture_default_str();
  app.add_option("--label-column", flags.labelled.label_column, "classify: the labels' column")->capture_default_str();
  app.add_option("--header", flags.labelled.header,
                 "classify: whether the first line names the columns; auto: if it looks like names")
      ->check(CLI::IsMember({"auto", "yes", "no"}))
      ->capture_default_str();
  app.add_flag("--lossy", flags.lossy,
               "text, classify: replace bytes that are not UTF-8 by U+FFFD instead of stopping");
  add_device_flags(app, flags.device, true);
  app.add_flag("--json", flags.as_json, "print the result as a JSON object, and nothing else");
  return run_program(app, argc, argv, [&] { evaluate(flags); });
}
