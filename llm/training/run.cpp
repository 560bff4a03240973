#include "llm/training/run.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <thread>

#include "llm/corpora/stories.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/memory_plan.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/text/corpus.h"
#include "llm/training/checkpoint.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr uint64_t kStoriesBytes = 8'000'000;  // the built-in corpus, the same for every --seed
constexpr uint64_t kStoriesSeed = 1;

// The shape of a preset with its overrides, of a model directory, or on --resume of the checkpoint.
void settle_shape(Run& run, int vocab_size) {
  TrainConfig& c = run.config;
  if (c.resume) {
    run.shape = read_model_config(run.resume_from);
    if (c.batch_size < 1 || c.seq_len < 1 || c.seq_len > run.shape.max_seq_len) {
      fail("%s/trainer_state.json: a batch of %d windows of %d tokens for a model with a context of %d",
           run.resume_from.c_str(), c.batch_size, c.seq_len, run.shape.max_seq_len);
    }
  } else if (const ModelPreset* preset = find_preset(c.model)) {
    run.shape = preset->shape;
    if (c.layers) run.shape.num_layers = c.layers;
    if (c.heads) run.shape.num_heads = c.heads;
    if (c.channels) run.shape.channels = c.channels;
    if (c.seq_len) run.shape.max_seq_len = c.seq_len;
    run.shape.vocab_size = vocab_size;
    run.shape.tied_head = !c.untied_head;
    run.shape.qkv_bias = !c.no_qkv_bias;
    validate(run.shape, "{model} " + c.model);
    c.layers = run.shape.num_layers;
    c.heads = run.shape.num_heads;
    c.channels = run.shape.channels;
    if (!c.seq_len) c.seq_len = preset->train_seq_len;
    if (!c.batch_size) c.batch_size = preset->batch_size;
    if (c.lr == 0) c.lr = preset->lr;
    if (c.beta2 == 0) c.beta2 = preset->beta2;
    if (c.steps == 0 && c.epochs == 0) c.steps = preset->steps;
  } else {
    run.weights_from = c.model;
    run.shape = read_model_config(run.weights_from);
    check_language_model(run.shape, c.model);
    if (c.vocab_size && c.vocab_size != run.shape.vocab_size) {
      fail_usage("{vocab-size} is %d, but the model in %s has %d", c.vocab_size, c.model.c_str(), run.shape.vocab_size);
    }
    if (c.seq_len > run.shape.max_seq_len) {
      fail_usage("{seq-len} is %d, but the context of the model in %s is %d", c.seq_len, c.model.c_str(),
                 run.shape.max_seq_len);
    }
    if (!c.seq_len) c.seq_len = std::min(run.shape.max_seq_len, 1024);
    if (!c.batch_size) c.batch_size = 4;
    if (c.lr == 0) c.lr = 1e-4;
    if (c.beta2 == 0) c.beta2 = 0.95;
    if (c.steps == 0 && c.epochs == 0) c.epochs = 1;
  }
  c.vocab_size = run.shape.vocab_size;
  if (c.stride == 0) c.stride = c.seq_len;
  const int64_t micro_tokens = int64_t{c.batch_size} * c.seq_len;
  if (micro_tokens > (1 << 30))
    fail_usage("{batch-size} times {seq-len} is %lld tokens: too many for one micro-batch",
               static_cast<long long>(micro_tokens));
  if (c.total_batch_tokens == 0) c.total_batch_tokens = micro_tokens * c.ranks;
  if (c.total_batch_tokens % micro_tokens != 0) {
    fail_usage("{total-batch-tokens} is %lld, expected a multiple of {batch-size} %d times {seq-len} %d = %lld",
               static_cast<long long>(c.total_batch_tokens), c.batch_size, c.seq_len,
               static_cast<long long>(micro_tokens));
  }
  const int64_t of_all = c.total_batch_tokens / micro_tokens, micro_batches = of_all / c.ranks;
  if (of_all % c.ranks != 0) {
    std::string sizes;
    for (int64_t n = 1; n <= std::min<int64_t>(of_all, 4096); ++n) {
      if (of_all % n == 0) sizes += strprintf(" %lld", static_cast<long long>(n));
    }
    fail_usage("%d processes cannot share the %lld micro-batches of a step evenly; these numbers of processes can:%s",
               c.ranks, static_cast<long long>(of_all), sizes.c_str());
  }
  if (micro_batches > (1 << 30))
    fail_usage("{total-batch-tokens} is %lld: too many for one step", static_cast<long long>(c.total_batch_tokens));
  run.micro_batches = static_cast<int>(micro_batches);
}

// Steps, and what is counted in shares of them.
void settle_steps(TrainConfig& c, int64_t batches_per_epoch, int64_t micro_batches) {
  if (c.steps == 0) {
    const double steps = std::ceil(c.epochs * static_cast<double>(batches_per_epoch) / micro_batches);
    c.steps = static_cast<int64_t>(std::clamp(steps, 1.0, 9e15));
    c.epochs = 0;
  }
  if (c.warmup_steps < 0) c.warmup_steps = default_warmup_steps(c.steps);
  const auto share = [&](int64_t& every, int64_t times) {
    if (every < 0) every = std::max<int64_t>(1, (c.steps + times - 1) / times);
  };
  share(c.eval_every, 5);
  share(c.sample_every, 4);
  share(c.save_every, 4);
}

// Makes the next free runs/NAME.
fs::path make_free_run_folder(const TrainConfig& c) {
  fs::path data = c.data;
  if (!data.has_filename()) data = data.parent_path();  // folder/
  std::string name = c.data.empty() ? "stories" : data.stem().string();
  if (name.empty() || name.find_first_of("*?/") != std::string::npos) name = "run";
  for (int k = 1;; ++k) {
    const fs::path folder = fs::path("runs") / (k == 1 ? name : strprintf("%s-%d", name.c_str(), k));
    make_directories("runs");
    std::error_code error;
    if (fs::create_directory(folder, error)) return folder;  // false where it is there already
    if (error) fail("%s: the folder cannot be made: %s", folder.c_str(), error.message().c_str());
  }
}

// A run's folder from claim to keep(): without that, what set-up wrote goes again.
class ClaimedFolder {
 public:
  ClaimedFolder(const TrainConfig& c, const Say& say)
      : was_there_(!c.run.empty() && fs::exists(c.run)),
        folder_(c.run.empty() ? make_free_run_folder(c) : fs::path(c.run)) {
    lock_ = std::make_shared<const RunLock>(folder_, say);
    clear_beginning(folder_, *lock_,
                    "continue it with {resume}, choose another {run}, or delete the folder if nothing in it is needed",
                    say);
  }
  ~ClaimedFolder() {
    if (kept_) return;
    std::error_code ignored;
    fs::remove_all(folder_ / "data", ignored);
    lock_.reset();
    if (!was_there_) fs::remove(folder_, ignored);
  }
  const fs::path& folder() const { return folder_; }
  std::shared_ptr<const RunLock> keep() {
    kept_ = true;
    return lock_;
  }

 private:
  bool was_there_, kept_ = false;
  fs::path folder_;
  std::shared_ptr<const RunLock> lock_;
};

// The checksums of the files that set-up has written to DATA, by name.
json data_checksums(const fs::path& data) {
  json checksums = json::object();
  for (const char* name : {"train.bin", "val.bin", "entropy.json"}) {
    if (fs::exists(data / name)) checksums[name] = file_checksum(data / name);
  }
  return checksums;
}

// Throws Error if a file of DATA is not the one that the run began with.
void check_data_files(const fs::path& data, const json& expected) {
  for (const auto& [name, checksum] : expected.items()) {
    const std::string found = file_checksum(data / name);
    if (found == checksum) continue;
    fail(
        "%s is not what the run began with (checksum %s, expected %s); put the old file back (a new run with the same "
        "flags and the same text writes it again), or start another {run}",
        (data / name).c_str(), found.c_str(), shown(checksum).c_str());
  }
}

// ---- resuming ------------------------------------------------------------------------------------------------------

// The folder of the run that --run names, or that the checkpoint that it names is of.
fs::path resumed_folder(const std::string& named) {
  if (!fs::exists(fs::path(named) / "trainer_state.json")) return named;
  const fs::path checkpoint = fs::canonical(named), parent = checkpoint.parent_path();
  if (parent.filename() == "checkpoints") return parent.parent_path();
  const fs::path name = checkpoint.filename();  // a link that became a folder: repair_links
  const bool in_run = fs::exists(parent / "checkpoints") || fs::exists(parent / "metrics.jsonl");
  if ((name == "latest" || name == "best") && in_run) return parent;
  fail("%s is a checkpoint outside a run's folder; start a new run from its weights with {model} %s", named.c_str(),
       named.c_str());
}

// Cores that this process may run on: the default number of threads.
int machine_cores() {
  cpu_set_t set;
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                       : static_cast<int>(std::thread::hardware_concurrency());
}

// --threads on a machine with another number of cores than the run had so far (`before`; 0: not known).
void settle_threads(TrainConfig& c, int64_t before, const Say& say) {
  const int cores = machine_cores();
  if (before == 0 || before == cores) return;
  if (c.threads > cores && cores < before) {
    say(strprintf(
        "threads: the run has {threads} %d, and this machine has %d cores: it continues with %d threads, and its "
        "numbers differ in the last bits from here on",
        c.threads, cores, cores));
    c.threads = cores;
  } else if (c.threads == 0) {
    say(strprintf(
        "threads: the run had a machine of %lld cores, and this one has %d: it continues with all of them, and "
        "its numbers differ in the last bits from here on",
        static_cast<long long>(before), cores));
  }
}

// What training_state and save_checkpoint write.
const std::set<std::string> kStateKeys = {
    "batch", "best_loss", "best_step",     "checksum",          "checksums", "config",
    "cores", "epoch",     "data_checksum", "data_files",        "ranks",     "run_id",
    "step",  "updates",   "val_checksum",  "validations_since", "version"};

// The run's configuration, and how far it is.
void settle_resume(Run& run, const std::vector<std::string>& given, const Say& say) {
  TrainConfig& c = run.config;
  run.folder = resumed_folder(c.run);
  run.resume_from = latest_checkpoint(c.run);
  const json state = read_training_state(run.resume_from);
  const std::string where = (run.resume_from / "trainer_state.json").string();
  std::string unknown;
  for (const auto& [name, value] : state.items()) {
    if (!kStateKeys.contains(name)) unknown += (unknown.empty() ? "" : ", ") + shown(name);
  }
  if (!unknown.empty()) {
    fail("%s: has %s, which this program does not know: misspelt, or written by a newer one", where.c_str(),
         unknown.c_str());
  }
  const auto count = [&](const char* name) {
    const auto found = state.find(name);
    if (found == state.end() || !found->is_number_integer() || *found < 0) {
      fail("%s: expected \"%s\" to be a whole number from 0, found %s", where.c_str(), name,
           found == state.end() ? "none" : found->dump().c_str());
    }
    return found->get<int64_t>();
  };
  run.step = count("step");
  run.updates = count("updates");
  run.position = {count("epoch"), count("batch")};
  if (state.contains("best_step")) {
    run.stopping.best_step = count("best_step");
    run.stopping.since = count("validations_since");
    if (!state.contains("best_loss") || !state["best_loss"].is_number()) {
      fail("%s: expected \"best_loss\" to be a number", where.c_str());
    }
    run.stopping.best_loss = state["best_loss"];
  }
  if (run.updates > run.step) {
    fail("%s: %lld updates in %lld steps", where.c_str(), static_cast<long long>(run.updates),
         static_cast<long long>(run.step));
  }
  if (!state.contains("config") || !state["config"].is_object())
    fail("%s: expected the run's configuration under \"config\"", where.c_str());
  if (!state.contains("data_checksum") || !state["data_checksum"].is_string())
    fail("%s: expected a \"data_checksum\"", where.c_str());
  run.data_checksum = state["data_checksum"];
  // These are in states from version 2 on, whose checksum says that they are as they were written.
  for (const char* field : {"val_checksum", "run_id"}) {
    if (state.contains(field) && !state[field].is_string())
      fail("%s: expected a text under \"%s\"", where.c_str(), field);
  }
  if (state.contains("cores") && !state["cores"].is_number_integer())
    fail("%s: expected a whole number under \"cores\"", where.c_str());
  run.val_checksum = state.value("val_checksum", "");
  run.run_id = state.value("run_id", "");
  if (state.contains("data_files")) run.data_files = state["data_files"];
  std::string newer;
  try {
    newer = merge_resumed(c, state["config"], given);
  } catch (const UsageError&) {
    throw;
  } catch (const Error& error) {
    fail("%s: %s", where.c_str(), error.what());
  }
  if (!newer.empty()) say("settings newer than this state, at their defaults: " + newer);
  validate(c);
  const bool given_threads = std::find(given.begin(), given.end(), "threads") != given.end();
  if (!given_threads) settle_threads(c, state.value("cores", int64_t{0}), say);
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
  say(strprintf("data: %llu small stories, %.1f MB; their source's entropy is %.4f nats per byte",
                static_cast<unsigned long long>(totals.stories), static_cast<double>(text.size()) / 1e6,
                totals.nats_per_byte()));
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

// make_stories leaves the source's entropy next to the text that it writes.
std::optional<double> read_floor(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  const json j = parse_json_if_whole(MappedFile(path).text(), 64);
  if (!j.is_object() || !j.contains("nats_per_byte") || !j["nats_per_byte"].is_number()) {
    fail("%s: expected JSON with a number \"nats_per_byte\"", path.c_str());
  }
  return j["nats_per_byte"].get<double>();
}

void choose_tokenizer(Run& run, std::string_view text, const Say& say) {
  TrainConfig& c = run.config;
  if (!c.tokenizer.empty()) {
    run.tokenizer = make_tokenizer(c.tokenizer, text);
  } else if (!find_preset(c.model)) {
    run.tokenizer = find_tokenizer(c.model);
    if (!run.tokenizer && !text.empty())
      fail("%s has no tokenizer.json to encode the text with; name one with {tokenizer}", c.model.c_str());
  } else if (!text.empty()) {
    c.tokenizer = "bpe:4096";
    run.tokenizer = make_tokenizer(c.tokenizer, text);
  }
  if (run.tokenizer) {
    say(strprintf("tokenizer: %s, %d ids", run.tokenizer->kind().c_str(), run.tokenizer->vocab_size()));
    if (const std::string why = why_fewer_tokens(c.tokenizer, *run.tokenizer); !why.empty()) say(why);
  } else {
    say("tokenizer: none, so no samples and losses by token only; {tokenizer} names one");
  }
}

int settle_vocabulary(const Run& run) {
  const int asked = run.config.vocab_size;
  if (!run.tokenizer) return asked ? asked : 50257;
  const int ids = run.tokenizer->vocab_size();
  if (asked && asked < ids) fail_usage("{vocab-size} is %d, but the tokenizer has %d ids", asked, ids);
  return asked ? asked : ids;
}

Run plan(TrainConfig config, const std::vector<std::string>& given, const Say& say, std::string& text) {
  Run run;
  run.config = std::move(config);
  validate(run.config);
  if (run.config.resume) settle_resume(run, given, say);
  const TrainConfig& c = run.config;
  if (!c.tokenizer.empty() && tokenizer_needs_text(c.tokenizer) && !c.resume && names_shards(c.data)) {
    fail_usage(
        "{tokenizer} %s is made from text, and {data} %s is shards: name the tokenizer file that they were made with",
        c.tokenizer.c_str(), c.data.c_str());
  }
  if (!c.val_data.empty() && !names_shards(c.data))
    fail_usage("{val-data} goes with {data} shards; a text is split by {val-fraction}");
  if (!c.resume && !find_preset(c.model) && !fs::exists(c.model)) {
    fail(
        "{model} %s is not a preset (gpt2-nano d4 d6 d12 d24 d36 d48 gpt2 gpt2-medium gpt2-large gpt2-xl) and no model "
        "directory: "
        "%s/config.json is missing",
        c.model.c_str(), c.model.c_str());
  }
  if (c.resume) {
    if (fs::exists(run.resume_from / "tokenizer.json")) run.tokenizer = Tokenizer::load(run.resume_from);
    settle_shape(run, 0);
    if (run.tokenizer) check_tokenizer(*run.tokenizer, run.shape, run.resume_from.string());
  } else {
    if (!names_shards(c.data)) text = read_text(run, say);
    choose_tokenizer(run, text, say);
    settle_shape(run, settle_vocabulary(run));
    if (run.tokenizer)
      check_tokenizer(*run.tokenizer, run.shape, c.tokenizer.empty() ? c.model : "{tokenizer} " + c.tokenizer);
    if (!run.weights_from.empty()) check_weights(run.shape, run.weights_from);
  }
  if (run.tokenizer && c.sample_tokens > 0) {
    try {
      run.tokenizer->encode(c.prompt);
    } catch (const Error& error) {
      fail_usage("{prompt} cannot be encoded: %s", error.what());
    }
  }
  return run;
}

}  // namespace

void check_ids(const Run& run, int rank, int ranks) {
  run.train.check_vocabulary(run.shape.vocab_size, rank, ranks);
  run.val.check_vocabulary(run.shape.vocab_size, rank, ranks);
}

Run plan_run(TrainConfig config, const std::vector<std::string>& given, const Say& say) {
  std::string text;
  return plan(std::move(config), given, say, text);
}

void check_cpu_precision(const TrainConfig& c) {
  if (c.precision == "tf32") {
    fail_usage("{precision} tf32 needs a GPU (build/train_gpt2cu); on the CPU it is fp32 or bf16");
  }
  if (c.reference && c.precision != "fp32") {
    fail_usage("{reference} has no {precision} %s: its plain loops run in fp32", c.precision.c_str());
  }
  if (c.no_master_weights) {
    fail_usage("{no-master-weights} needs a GPU (build/train_gpt2cu): on the CPU weights are float in every precision");
  }
  if (c.graph == "off") fail_usage("{graph} off needs a GPU (build/train_gpt2cu): the CPU queues nothing");
  if (!c.plans.empty()) fail_usage("{plans} is for products by cuBLASLt, which needs a GPU (build/train_gpt2cu)");
  check_cpu_can(model_options(c).precision);
}

void check_cpu(const Run& run) {
  const TrainConfig& c = run.config;
  check_cpu_precision(c);
  double needed = 0;
  for (const MemoryRow& row : memory_plan(run.shape, model_options(c), c.batch_size, c.seq_len)) {
    needed += static_cast<double>(row.bytes);
  }
  const double machine = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  if (machine > 0 && needed > machine) {
    fail(
        "training takes %.1f GB and this machine has %.1f GB; lower {batch-size} (%d), {seq-len} (%d) or the size of "
        "{model}, or {recompute} block; {memory} shows what takes how much",
        needed / 1e9, machine / 1e9, c.batch_size, c.seq_len);
  }
}

Run set_up_run(TrainConfig config, const std::vector<std::string>& given, const Say& say,
               const CheckDevice& check_device) {
  std::shared_ptr<const RunLock> lock;
  if (!config.resume) check_output_folder("{run}", config.run.empty() ? "runs" : config.run);
  if (config.resume) {  // the lock first: who holds it changes what is read here
    validate(config);
    const fs::path folder = resumed_folder(config.run);
    if (fs::is_directory(folder)) {
      lock = std::make_shared<const RunLock>(folder, say);
      repair_links(folder, say);
    }
  }
  std::string text;
  Run run = plan(std::move(config), given, say, text);
  run.lock = lock;
  TrainConfig& c = run.config;

  check_device(run);
  if (names_shards(c.data)) {
    run.train = TokenSequence::open(c.data);
    if (!c.val_data.empty()) run.val = TokenSequence::open(c.val_data);
    if (c.ranks == 1) check_ids(run, 0, 1);  // of several, each reads its part later
  }
  std::optional<ClaimedFolder> claimed;
  if (!c.resume) {
    claimed.emplace(c, say);
    run.folder = claimed->folder();
    std::random_device random;
    run.run_id = strprintf("%08x%08x", random(), random());
  }
  if (!names_shards(c.data)) {
    const fs::path folder = run.folder / "data";
    if (c.resume) {
      check_data_files(folder, run.data_files);
    } else {
      make_directories(folder);
      prepare_shards(text, *run.tokenizer, c.val_fraction, folder, c.threads);
      if (!run.floor && fs::exists(c.data + ".entropy.json")) run.floor = read_floor(c.data + ".entropy.json");
      if (run.floor) {
        FileWriter file(folder / "entropy.json");
        file.write(json{{"nats_per_byte", *run.floor}}.dump() + "\n");
        file.commit();
      }
    }
    if (run.data_files.is_null()) run.data_files = data_checksums(folder);
    if (run.data_files.contains("entropy.json")) run.floor = read_floor(folder / "entropy.json");
    run.train = TokenSequence::open((folder / "train.bin").string());
    if (c.val_fraction > 0) run.val = TokenSequence::open((folder / "val.bin").string());
    if (c.ranks == 1) check_ids(run, 0, 1);
  }
  const auto settle_checksum = [&](const char* what, std::string& before, const TokenSequence& data) {
    const std::string now = data.checksum();
    if (c.resume && !before.empty() && before != now) {
      fail(
          "the %s data is not what the run began with (checksum %s, expected %s); put the old data back, or start "
          "another {run}",
          what, now.c_str(), before.c_str());
    }
    before = now;
  };
  settle_checksum("training", run.data_checksum, run.train);
  settle_checksum("validation", run.val_checksum, run.val);
  const int64_t batches_per_epoch = DataLoader(run.train, loader_config(run)).batches_per_epoch();  // throws if none
  if (run.val.size() > 0 && run.val.size() <= c.seq_len) {
    fail(
        "validation has %lld tokens, fewer than one window of {seq-len} %d + 1; use a larger {val-fraction} (or 0: "
        "none), "
        "a shorter {seq-len} or more text",
        static_cast<long long>(run.val.size()), c.seq_len);
  }
  if (c.patience > 0 && run.val.size() == 0) {
    fail_usage("{patience} %lld: without validation data nothing can stop improving; %s",
               static_cast<long long>(c.patience),
               names_shards(c.data) ? "name some with {val-data}" : "raise {val-fraction}");
  }
  settle_steps(c, batches_per_epoch, int64_t{run.micro_batches} * c.ranks);
  validate(c);
  if (claimed) run.lock = claimed->keep();
  return run;
}

json training_state(const Run& run, int64_t step, int64_t updates, const LoaderPosition& next) {
  json state{{"step", step},
             {"updates", updates},
             {"epoch", next.epoch},
             {"batch", next.batch},
             {"ranks", run.config.ranks},
             {"cores", machine_cores()},
             {"config", to_json(run.config)},
             {"data_checksum", run.data_checksum},
             {"val_checksum", run.val_checksum},
             {"run_id", run.run_id}};
  if (!run.data_files.is_null()) state["data_files"] = run.data_files;
  if (run.stopping.best_step >= 0) {
    state["best_step"] = run.stopping.best_step;
    state["best_loss"] = run.stopping.best_loss;
    state["validations_since"] = run.stopping.since;
  }
  return state;
}

LoaderConfig loader_config(const Run& run) {
  const TrainConfig& c = run.config;
  LoaderConfig loader{c.batch_size, c.seq_len, c.stride, c.data_order != "sequential"};
  loader.seed = c.seed;
  loader.rank = run.group ? run.group->rank() : 0;
  loader.ranks = c.ranks;
  loader.fixed = c.data_order == "fixed";
  return loader;
}

void share_cores(const TrainConfig& config, const Group& group) {
  if (config.threads > 0 || group.size() == 1) return;
  set_cpu_threads(std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / group.local_size()));
}

PassDropout dropout_of(const Run& run, int64_t step, int micro) {
  const int rank = run.group ? run.group->rank() : 0;
  const auto pass = static_cast<uint64_t>((step * run.micro_batches + micro) * run.config.ranks + rank);
  return {static_cast<float>(run.config.dropout), run.config.seed, pass};
}
