#include "gpt2/run.h"

#include <algorithm>
#include <cmath>

#include "gpt2/checkpoint.h"
#include "gpt2/corpus.h"
#include "gpt2/error.h"
#include "gpt2/file.h"
#include "gpt2/stories.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr uint64_t kStoriesBytes = 8'000'000;  // the built-in corpus, the same for every --seed
constexpr uint64_t kStoriesSeed = 1;

bool is_shards(const std::string& data) { return data.ends_with(".bin") || data.find('*') != std::string::npos; }

// The shape: a preset with its overrides, or a model directory's.
void settle_shape(Run& run, int vocab_size) {
  TrainConfig& c = run.config;
  if (const ModelPreset* preset = find_preset(c.model)) {
    run.shape = preset->shape;
    if (c.layers) run.shape.num_layers = c.layers;
    if (c.heads) run.shape.num_heads = c.heads;
    if (c.channels) run.shape.channels = c.channels;
    if (c.seq_len) run.shape.max_seq_len = c.seq_len;
    run.shape.vocab_size = vocab_size;
    validate(run.shape, "--model " + c.model);
    if (!c.seq_len) c.seq_len = preset->train_seq_len;
    if (!c.batch_size) c.batch_size = preset->batch_size;
    if (c.lr == 0) c.lr = preset->lr;
    if (c.steps == 0 && c.epochs == 0) c.steps = preset->steps;
  } else {
    run.weights_from = c.model;
    run.shape = read_model_config(run.weights_from);
    if (c.vocab_size && c.vocab_size != run.shape.vocab_size) {
      fail_usage("--vocab-size is %d, but the model in %s has %d", c.vocab_size, c.model.c_str(), run.shape.vocab_size);
    }
    if (c.seq_len > run.shape.max_seq_len) {
      fail_usage("--seq-len is %d, but the context of the model in %s is %d", c.seq_len, c.model.c_str(), run.shape.max_seq_len);
    }
    if (!c.seq_len) c.seq_len = std::min(run.shape.max_seq_len, 1024);
    if (!c.batch_size) c.batch_size = 4;
    if (c.lr == 0) c.lr = 1e-4;
    if (c.steps == 0 && c.epochs == 0) c.epochs = 1;
  }
  const int64_t micro_tokens = int64_t{c.batch_size} * c.seq_len;
  if (micro_tokens > (1 << 30)) fail_usage("--batch-size times --seq-len is %lld tokens: too many for one micro-batch", static_cast<long long>(micro_tokens));
  if (c.total_batch_tokens == 0) c.total_batch_tokens = micro_tokens;
  if (c.total_batch_tokens % micro_tokens != 0) {
    fail_usage("--total-batch-tokens is %lld, expected a multiple of --batch-size %d times --seq-len %d = %lld",
               static_cast<long long>(c.total_batch_tokens), c.batch_size, c.seq_len, static_cast<long long>(micro_tokens));
  }
  run.micro_batches = static_cast<int>(c.total_batch_tokens / micro_tokens);
}

// Steps, and what is counted in shares of them.
void settle_steps(TrainConfig& c, int64_t batches_per_epoch, int micro_batches) {
  if (c.steps == 0) {
    c.steps = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(c.epochs * static_cast<double>(batches_per_epoch) / micro_batches)));
    c.epochs = 0;
  }
  if (c.warmup_steps < 0) c.warmup_steps = c.steps / 20;
  if (c.min_lr < 0) c.min_lr = c.lr / 10;
  const auto share = [&](int64_t& every, int64_t times) {
    if (every < 0) every = std::max<int64_t>(1, (c.steps + times - 1) / times);
  };
  share(c.eval_every, 10);
  share(c.sample_every, 4);
  share(c.save_every, 4);
}

fs::path free_run_folder(const TrainConfig& c) {
  std::string name = c.data.empty() ? "stories" : fs::path(c.data).stem().string();
  if (name.empty() || name.find_first_of("*?/") != std::string::npos) name = "run";
  for (int k = 1;; ++k) {
    const fs::path folder = fs::path("runs") / (k == 1 ? name : strprintf("%s-%d", name.c_str(), k));
    if (!fs::exists(folder)) return folder;
  }
}

void claim_run_folder(const fs::path& folder) {
  for (const char* trace : {"checkpoints", "metrics.jsonl", "data", "latest"}) {
    if (fs::exists(folder / trace)) {
      fail("%s already holds a run (it has %s); go on with it by --resume, or choose another --run", folder.c_str(), trace);
    }
  }
  make_directories(folder);
}

// Resuming: the configuration that the run has, and where it stands.
void settle_resume(Run& run, const std::vector<std::string>& given) {
  TrainConfig& c = run.config;
  run.folder = c.run;
  run.resume_from = latest_checkpoint(run.folder);
  run.state = read_training_state(run.resume_from);
  if (!run.state.contains("config") || !run.state["config"].is_object()) {
    fail("%s/trainer_state.json: expected the run's configuration under \"config\"", run.resume_from.c_str());
  }
  merge_resumed(c, run.state["config"], given);
  validate(c);
}

// The text to train on, and its tokenizer.
std::string read_text(Run& run, const Say& say) {
  const TrainConfig& c = run.config;
  if (!c.data.empty()) return read_corpus(c.data, c.lossy);
  std::string text;
  std::vector<std::pair<size_t, double>> nats;  // of each story: its first byte, -log p
  const StoryTotals totals = make_stories(kStoriesSeed, kStoriesBytes, [&](std::string_view story, double n) {
    nats.emplace_back(text.size(), n);
    text += story;
  });
  say(strprintf("data: %llu small stories, %.1f MB; their source's entropy is %.4f nats a byte",
                static_cast<unsigned long long>(totals.stories), static_cast<double>(text.size()) / 1e6, totals.nats_per_byte()));
  if (c.val_fraction > 0) {  // the exact floor of the stories that validate
    const size_t begin = validation_begin(text, c.val_fraction);
    double val_nats = 0;
    size_t val_stories = 0;
    for (const auto& [at, n] : nats) {
      if (at >= begin) val_nats += n, ++val_stories;
    }
    run.floor = val_nats / static_cast<double>(text.size() - begin - val_stories * kEndOfText.size());
  }
  return text;
}

// make_stories leaves the source's entropy beside the text that it writes.
std::optional<double> read_floor(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  const json j = json::parse(MappedFile(path).text(), nullptr, false);
  if (!j.is_object() || !j.contains("nats_per_byte") || !j["nats_per_byte"].is_number()) {
    fail("%s: expected JSON with a number \"nats_per_byte\"", path.c_str());
  }
  return j["nats_per_byte"].get<double>();
}

void choose_tokenizer(Run& run, std::string_view text, const Say& say) {
  const TrainConfig& c = run.config;
  if (!c.tokenizer.empty()) {
    run.tokenizer = make_tokenizer(c.tokenizer, text);
  } else if (!find_preset(c.model)) {
    if (fs::exists(fs::path(c.model) / "tokenizer.json")) run.tokenizer = Tokenizer::load(c.model);
    else if (!text.empty()) fail("%s has no tokenizer.json to encode the text with; name one with --tokenizer", c.model.c_str());
  } else if (!text.empty()) {
    run.tokenizer = make_tokenizer("bpe:1024", text);
  }
  if (run.tokenizer) say(strprintf("tokenizer: %s, %d ids", run.tokenizer->kind().c_str(), run.tokenizer->vocab_size()));
}

int settle_vocabulary(const Run& run) {
  const int asked = run.config.vocab_size;
  if (!run.tokenizer) return asked ? asked : 50257;
  const int ids = run.tokenizer->vocab_size();
  if (asked && asked < ids) fail_usage("--vocab-size is %d, but the tokenizer has %d ids", asked, ids);
  return asked ? asked : ids;
}

Run plan(TrainConfig config, const std::vector<std::string>& given, const Say& say, std::string& text) {
  Run run;
  run.config = std::move(config);
  validate(run.config);
  if (run.config.resume) settle_resume(run, given);
  const TrainConfig& c = run.config;
  if (!c.val_data.empty() && !is_shards(c.data)) fail_usage("--val-data goes with --data shards; a text is split by --val-fraction");
  if (!find_preset(c.model) && !fs::exists(fs::path(c.model) / "config.json")) {
    fail("--model %s is no preset (gpt2-nano d4 d6 d12 d24 d36 d48 gpt2 gpt2-medium gpt2-large gpt2-xl) and no model directory: "
         "%s/config.json is missing", c.model.c_str(), c.model.c_str());
  }
  if (c.resume) {
    if (fs::exists(run.resume_from / "tokenizer.json")) run.tokenizer = Tokenizer::load(run.resume_from);
    settle_shape(run, settle_vocabulary(run));
    if (!(read_model_config(run.resume_from) == run.shape)) {
      fail("%s: the checkpoint's config.json describes another model than the run's configuration", run.resume_from.c_str());
    }
  } else {
    if (!is_shards(c.data)) text = read_text(run, say);
    choose_tokenizer(run, text, say);
    settle_shape(run, settle_vocabulary(run));
    if (run.tokenizer) check_tokenizer(*run.tokenizer, run.shape, "--tokenizer");
  }
  return run;
}

}  // namespace

Run plan_run(TrainConfig config, const std::vector<std::string>& given, const Say& say) {
  std::string text;
  return plan(std::move(config), given, say, text);
}

Run set_up_run(TrainConfig config, const std::vector<std::string>& given, const Say& say) {
  std::string text;
  Run run = plan(std::move(config), given, say, text);
  TrainConfig& c = run.config;

  fs::path train, val;
  if (is_shards(c.data)) {
    run.train = TokenSequence::open(c.data);
    run.train.check_vocabulary(run.shape.vocab_size);
    if (!c.val_data.empty()) {
      run.val = TokenSequence::open(c.val_data);
      run.val.check_vocabulary(run.shape.vocab_size);
    }
  }
  if (!c.resume) {
    run.folder = c.run.empty() ? free_run_folder(c) : fs::path(c.run);
    claim_run_folder(run.folder);
  }
  if (!is_shards(c.data)) {
    const fs::path folder = run.folder / "data";
    if (!c.resume) {
      make_directories(folder);
      prepare_shards(text, *run.tokenizer, c.val_fraction, folder, c.threads);
      if (!run.floor && fs::exists(c.data + ".entropy.json")) run.floor = read_floor(c.data + ".entropy.json");
      if (run.floor) {
        FileWriter file(folder / "entropy.json");
        file.write(json{{"nats_per_byte", *run.floor}}.dump() + "\n");
        file.commit();
      }
    }
    run.floor = read_floor(folder / "entropy.json");
    run.train = TokenSequence::open((folder / "train.bin").string());
    if (c.val_fraction > 0) run.val = TokenSequence::open((folder / "val.bin").string());
    run.train.check_vocabulary(run.shape.vocab_size);
    run.val.check_vocabulary(run.shape.vocab_size);
  }
  if (c.resume) {
    const std::string before = run.state.value("data_checksum", ""), now = run.train.checksum();
    if (before != now) {
      fail("the training data is not what the run began with (checksum %s, expected %s); put the old data back, or start another --run",
           now.c_str(), before.c_str());
    }
  }
  if (run.val.size() > 0 && run.val.size() <= c.seq_len) {
    fail("validation has %lld tokens, fewer than one window of --seq-len %d + 1; use a larger --val-fraction (or 0: none), "
         "a shorter --seq-len or more text", static_cast<long long>(run.val.size()), c.seq_len);
  }
  const LoaderConfig loader{c.batch_size, c.seq_len, c.stride, c.data_order == "shuffled", c.seed, 0, 1};
  settle_steps(c, DataLoader(run.train, loader).batches_per_epoch(), run.micro_batches);
  validate(c);
  return run;
}

Evaluation evaluate(Model& model, const Run& run) {
  const int T = run.config.seq_len;
  const int B = static_cast<int>(std::min<int64_t>(run.config.batch_size, (run.val.size() - 1) / T));
  DataLoader loader(run.val, LoaderConfig{B, T, T, false, 0, 0, 1});
  int64_t batches = loader.batches_per_epoch();
  if (run.config.eval_steps > 0) batches = std::min(batches, run.config.eval_steps);
  Evaluation result;
  double nats = 0;
  int64_t bytes = 0;
  for (int64_t k = 0; k < batches; ++k) {
    const Batch& batch = loader.next();
    model.forward(batch.inputs.data(), B, T, Pass::evaluate);
    double sum = 0;
    model.loss(batch.targets.data(), &sum);
    nats += sum;
    result.tokens += int64_t{B} * T;
    if (run.tokenizer) {
      for (const int32_t id : batch.targets) {
        if (id < run.tokenizer->vocab_size()) bytes += static_cast<int64_t>(run.tokenizer->bytes_of(id).size());
      }
    }
  }
  result.nats_per_token = nats / static_cast<double>(result.tokens);
  if (bytes > 0) result.nats_per_byte = nats / static_cast<double>(bytes);
  return result;
}
