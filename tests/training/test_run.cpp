// Setting up a run: settled flags, files written, refusals that leave no files; validation.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>

#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/text/shards.h"
#include "llm/training/checkpoint.h"
#include "llm/training/evaluate.h"
#include "llm/training/run.h"

namespace fs = std::filesystem;

namespace {

struct Folder {
  fs::path path = [] {
    char name[] = "/tmp/wrought-run-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const char* name) const { return (path / name).string(); }
  std::string put(const char* name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
};

std::string some_text(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += strprintf("Line %d of a text that says little.\n", i * 37 % 101);
  return text;
}

// 40 lines of bytes are 1,400 tokens or so, 64 a step.
TrainConfig tiny(const Folder& folder) {
  TrainConfig c;
  c.data = folder.put("text.txt", some_text(40));
  c.run = folder / "run";
  c.tokenizer = "bytes";
  c.layers = c.heads = 1;
  c.channels = 8;
  c.seq_len = 16;
  c.batch_size = 4;
  c.steps = 100;
  return c;
}

// Without the lock, as after its end: a test sets up several runs in one folder.
Run set_up(const TrainConfig& config) {
  Run run = set_up_run(config, {}, [](const std::string&) {});
  CHECK(run.lock);
  run.lock.reset();
  return run;
}

// Saves a checkpoint as the trainer does.
void save_at(const Run& run, Model& model, int64_t step, nlohmann::json state = {}) {
  nlohmann::json all = {{"step", step},
                        {"updates", step},
                        {"epoch", 0},
                        {"batch", step},
                        {"config", to_json(run.config)},
                        {"data_checksum", run.train.checksum()}};
  if (state.is_object()) all.update(state);
  save_checkpoint(run.folder, step, model, run.tokenizer ? &*run.tokenizer : nullptr, all, 3);
}

TrainConfig resumed(const Folder& folder) {
  TrainConfig c;
  c.run = folder / "run";
  c.resume = true;
  return c;
}

}  // namespace

TEST_CASE("a new run: everything that the flags leave open is settled, and its folder has the shards") {
  Folder folder;
  const Run run = set_up(tiny(folder));
  CHECK(run.shape == ModelConfig{16, 257, 1, 1, 8});
  CHECK(run.micro_batches == 1);
  CHECK(run.config.total_batch_tokens == 64);
  CHECK(run.config.warmup_steps == 5);
  CHECK(run.config.eval_every == 20);
  CHECK(run.config.save_every == 25);
  CHECK(run.config.stride == 16);
  CHECK(run.config.vocab_size == 257);
  CHECK(!run.floor);
  CHECK(run.step == 0);
  CHECK(run.train.size() + run.val.size() == static_cast<int64_t>(some_text(40).size()));
  CHECK(fs::exists(run.folder / "data/train.bin"));
  CHECK(fs::exists(run.folder / "data/val.bin"));
  CHECK_NOTHROW(validate(run.config));
}

TEST_CASE("epochs become steps, and accumulation counts micro-batches") {
  Folder folder;
  TrainConfig c = tiny(folder);
  c.steps = 0;
  c.epochs = 2.5;
  c.total_batch_tokens = 192;
  const Run run = set_up(c);
  CHECK(run.micro_batches == 3);
  const int64_t batches = DataLoader(run.train, {4, 16, 16, true, 0, 0, 1}).batches_per_epoch();
  CHECK(run.config.steps == (5 * batches + 5) / 6);  // ceil(2.5 * batches / 3)
  CHECK(run.config.epochs == 0);
}

TEST_CASE("an untied head and no bias of queries, keys and values are the run's shape, also on resume") {
  Folder folder;
  TrainConfig c = tiny(folder);
  c.untied_head = c.no_qkv_bias = true;
  c.init = "book";
  c.decay = "all";
  const Run run = set_up(c);
  CHECK(!run.shape.tied_head);
  CHECK(!run.shape.qkv_bias);
  const auto model = make_cpu_model(run.shape, true, model_options(run.config));
  for (const ParamTensor& tensor : model->table) CHECK(tensor.decay);
  save_at(run, *model, 3);
  const Run again = set_up(resumed(folder));
  CHECK(again.shape == run.shape);
  CHECK(again.config.init == "book");
  CHECK(model_options(again.config).decay_all);
}

TEST_CASE("val-fraction 0: all data is for training") {
  Folder folder;
  TrainConfig c = tiny(folder);
  c.val_fraction = 0;
  const Run run = set_up(c);
  CHECK(run.val.size() == 0);
  CHECK(run.train.size() == static_cast<int64_t>(some_text(40).size()));
  CHECK(!fs::exists(run.folder / "data/val.bin"));
}

TEST_CASE("the entropy of the source, next to the text, becomes the floor") {
  Folder folder;
  const TrainConfig c = tiny(folder);
  folder.put("text.txt.entropy.json", "{\"nats_per_byte\": 0.5}");
  CHECK(set_up(c).floor == 0.5);
  folder.put("text.txt.entropy.json", "{\"nats_per_byte\": \"low\"}");
  TrainConfig other = c;
  other.run = folder / "other";
  CHECK_THROWS_WITH_AS(set_up(other), doctest::Contains("nats_per_byte"), Error);
}

TEST_CASE("impossible runs are refused with the reason, and leave no files") {
  Folder folder;
  const TrainConfig base = tiny(folder);
  const auto refused = [&](const char* why, bool usage, auto change) {
    TrainConfig c = base;
    change(c);
    CAPTURE(why);
    if (usage)
      CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains(why), UsageError);
    else
      CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains(why), Error);
    CHECK(!fs::exists(base.run));
  };
  refused("absent.txt", false, [&](TrainConfig& c) { c.data = folder / "absent.txt"; });
  refused("empty", false, [&](TrainConfig& c) { c.data = folder.put("empty.txt", ""); });
  refused("offset 2", false, [&](TrainConfig& c) { c.data = folder.put("bad.txt", "ab\xff" + some_text(40)); });
  refused("too short", false, [&](TrainConfig& c) { c.data = folder.put("short.txt", "a"); });
  refused("give more text", false, [&](TrainConfig& c) { c.batch_size = 1000; });
  refused("validation has", false, [](TrainConfig& c) { c.val_fraction = 0.005; });
  refused("heads do not divide", false, [](TrainConfig& c) { c.heads = 3; });
  refused("a multiple of", true, [](TrainConfig& c) { c.total_batch_tokens = 100; });
  refused("too many", true, [](TrainConfig& c) { c.total_batch_tokens = 64ll << 40; });
  refused("{vocab-size} is 100", true, [](TrainConfig& c) { c.vocab_size = 100; });
  refused("not a preset", false, [](TrainConfig& c) { c.model = "gpt3", c.layers = c.heads = c.channels = 0; });
  refused("--min-lr", true, [](TrainConfig& c) { c.min_lr = 5; });  // above the --lr of the preset
  refused("--warmup-steps", true, [](TrainConfig& c) { c.steps = 0, c.epochs = 0.01, c.warmup_steps = 50; });
  refused("{val-data} goes with", true, [](TrainConfig& c) { c.val_data = "x.bin"; });
  refused("this machine has", false, [](TrainConfig& c) { c.layers = 4096, c.channels = 1 << 20; });
  refused("{precision} tf32 needs a GPU", true, [](TrainConfig& c) { c.precision = "tf32"; });
  refused("{reference} has no", true, [](TrainConfig& c) { c.precision = "bf16", c.reference = true; });
  refused("{no-master-weights} needs a GPU", true,
          [](TrainConfig& c) { c.precision = "bf16", c.no_master_weights = true; });
  refused("{plans} is for products by cuBLASLt, which needs a GPU", true, [](TrainConfig& c) { c.plans = "x.json"; });
  ::setenv("WROUGHT_ISA", "avx2", 1);
  refused("needs a CPU with AVX512-BF16", false, [](TrainConfig& c) { c.precision = "bf16"; });
  ::unsetenv("WROUGHT_ISA");
  refused("nothing can stop improving", true, [](TrainConfig& c) { c.patience = 2, c.val_fraction = 0; });
  refused("made from text", true, [](TrainConfig& c) { c.data = "x.bin", c.tokenizer = "bpe:300"; });
  refused("neither bytes", true, [](TrainConfig& c) { c.tokenizer = "words"; });
  refused("{prompt} cannot be encoded", true, [](TrainConfig& c) { c.tokenizer = "chars", c.prompt = "\xea\x99\xae"; });
}

TEST_CASE("a folder that holds a run, or other files, is not touched") {
  Folder folder;
  const TrainConfig c = tiny(folder);
  { const Run first = set_up(c); }
  const auto written = fs::last_write_time(fs::path(c.run) / "data/train.bin");
  CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains("already holds a run"), Error);
  CHECK(fs::last_write_time(fs::path(c.run) / "data/train.bin") == written);

  TrainConfig mine = c;  // a user's folder, with the user's files
  mine.run = folder / "mine";
  mine.batch_size = 1000;
  fs::create_directory(mine.run);
  folder.put("mine/notes", "keep");
  CHECK_THROWS_AS(set_up(mine), Error);
  CHECK(fs::exists(fs::path(mine.run) / "notes"));
  CHECK(!fs::exists(fs::path(mine.run) / "data"));

  TrainConfig file = c;
  file.run = c.data;
  CHECK_THROWS_AS(set_up(file), Error);
  CHECK(fs::file_size(c.data) == some_text(40).size());
}

TEST_CASE("bare shards: no tokenizer, ids checked against the vocabulary") {
  Folder folder;
  TrainConfig c = tiny(folder);
  std::vector<int32_t> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(i % 50);
  c.data = folder / "train.bin";
  c.tokenizer = "";
  c.vocab_size = 50;
  write_shard(c.data, ids, 50);
  const Run run = set_up(c);
  CHECK(!run.tokenizer);
  CHECK(run.val.size() == 0);
  CHECK(run.shape.vocab_size == 50);
  TrainConfig narrow = c;
  narrow.run = folder / "narrow";
  narrow.vocab_size = 49;
  CHECK_THROWS_WITH_AS(set_up(narrow), doctest::Contains("token 49 is 49"), Error);
  CHECK(!fs::exists(narrow.run));
}

TEST_CASE("resume: position, configuration and data are those of the checkpoint") {
  Folder folder;
  const Run run = set_up(tiny(folder));
  const auto model = make_cpu_model(run.shape, true);
  init_weights(*model, 1);
  save_at(run, *model, 7);
  {
    const Run again = set_up(resumed(folder));
    CHECK(again.step == 7);
    CHECK(again.updates == 7);
    CHECK(again.position == LoaderPosition{0, 7});
    CHECK(again.shape == run.shape);
    CHECK(to_json(again.config) == to_json(run.config));
    CHECK(again.tokenizer->checksum() == run.tokenizer->checksum());
  }
  {  // the folder of the checkpoint means the same run
    TrainConfig c = resumed(folder);
    c.run = folder / "run/latest";
    CHECK(fs::equivalent(set_up(c).folder, run.folder));
  }
  {
    TrainConfig c = resumed(folder);
    c.lr = 0.5;
    CHECK_THROWS_WITH_AS(set_up_run(c, {"lr"}, [](const std::string&) {}), doctest::Contains("--lr: the run has"),
                         UsageError);
  }
  {
    TrainConfig c = resumed(folder);
    c.run = folder / "nowhere";
    CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains("no such folder"), Error);
  }
  const std::string shard = folder / "run/data/train.bin";
  std::vector<int32_t> other(static_cast<size_t>(run.train.size()), 65);
  write_shard(shard, other, 257);
  CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("not what the run began with"), Error);
}

TEST_CASE("resume works with a shorter window than the context, and without the model directory") {
  Folder folder;
  TrainConfig c = tiny(folder);
  {
    const auto model = make_cpu_model({64, 257, 1, 1, 8}, true);
    init_weights(*model, 1);
    fs::create_directory(folder / "model");
    save_model(*model, nullptr, folder / "model");
  }
  c.model = folder / "model";
  c.layers = c.heads = c.channels = 0;
  const Run run = set_up(c);
  CHECK(run.shape.max_seq_len == 64);
  CHECK(run.weights_from == c.model);
  const auto model = make_cpu_model(run.shape, true);
  init_weights(*model, 1);
  save_at(run, *model, 2);
  fs::remove_all(folder / "model");
  CHECK(set_up(resumed(folder)).shape == run.shape);
}

TEST_CASE("resume: an invalid trainer state is an error that names the field") {
  Folder folder;
  const Run run = set_up(tiny(folder));
  const auto model = make_cpu_model(run.shape, true);
  init_weights(*model, 1);
  const std::pair<const char*, nlohmann::json> damages[] = {{"step", "7"},        {"step", -1},   {"step", 1.5},
                                                            {"updates", nullptr}, {"updates", 8}, {"epoch", true},
                                                            {"batch", "x"},       {"config", 3},  {"data_checksum", 5}};
  for (const auto& [name, value] : damages) {
    CAPTURE(name);
    save_at(run, *model, 7, {{name, value}});
    CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains(name), Error);
  }
  save_at(run, *model, 7, {{"best_step", 5}, {"best_loss", 1.5}, {"validations_since", 2}});
  const EarlyStopping stopping = set_up(resumed(folder)).stopping;
  CHECK((stopping.best_step == 5 && stopping.best_loss == 1.5 && stopping.since == 2));
  save_at(run, *model, 7, {{"best_step", 5}, {"best_loss", "low"}, {"validations_since", 2}});
  CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("best_loss"), Error);
  for (const auto& [name, value] : {std::pair{"batch-size", 0}, {"seq-len", 17}, {"seq-len", 0}}) {
    CAPTURE(name);
    nlohmann::json config = to_json(run.config);
    config[name] = value;
    save_at(run, *model, 7, {{"config", config}});
    CHECK_THROWS_AS(set_up(resumed(folder)), Error);
  }
}

TEST_CASE("a run is locked from its set-up to its end, and a run that is refused leaves no lock") {
  Folder folder;
  const auto say = [](const std::string&) {};
  const TrainConfig c = tiny(folder);
  {
    const Run run = set_up_run(c, {}, say);
    const auto model = make_cpu_model(run.shape, true);
    save_at(run, *model, 3);
    CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains("is in use"), Error);
    CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("is in use"), Error);
    CHECK_NOTHROW(plan_run(resumed(folder), {}, say));  // it only reads
    CHECK(fs::exists(run.folder / "lock"));
  }
  CHECK(!fs::exists(folder / "run/lock"));
  CHECK_THROWS_WITH_AS(set_up(c), doctest::Contains("already holds a run (it has checkpoints)"), Error);
  TrainConfig wrong = resumed(folder);
  wrong.layers = 7;
  CHECK_THROWS_AS(set_up_run(wrong, {"layers"}, say), UsageError);
  CHECK(!fs::exists(folder / "run/lock"));
  set_up(resumed(folder));
}

TEST_CASE("a state records its data; version 1 does not, and can be resumed") {
  Folder folder;
  const Run run = set_up(tiny(folder));
  const auto model = make_cpu_model(run.shape, true);
  const nlohmann::json state = training_state(run, 3, 3, {0, 3});
  CHECK(state["data_files"].size() == 2);
  CHECK(state["run_id"].get<std::string>().size() == 16);
  save_checkpoint(run.folder, 3, *model, &*run.tokenizer, state, 3);
  const Run again = set_up(resumed(folder));
  CHECK(again.run_id == run.run_id);
  CHECK(again.data_files == run.data_files);
  CHECK(training_state(again, 3, 3, {0, 3}) == state);

  const std::string val = folder / "run/data/val.bin";
  const std::vector<int32_t> other(static_cast<size_t>(run.val.size()), 65);
  write_shard(val, other, 257);
  CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("val.bin is not what the run began with"), Error);
  save_at(run, *model, 3);  // without checksums of the files
  CHECK(set_up(resumed(folder)).data_files["val.bin"] != run.data_files["val.bin"]);
  save_at(run, *model, 3, {{"val_checksum", run.val_checksum}});
  CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("the validation data is not what"), Error);
  save_at(run, *model, 3, {{"stepp", 1}});
  CHECK_THROWS_WITH_AS(set_up(resumed(folder)), doctest::Contains("has \"stepp\", which this program"), Error);
}

TEST_CASE("threads on another machine are those of the run, but at most its cores if the old machine had as many") {
  Folder folder;
  const Run run = set_up(tiny(folder));
  const auto model = make_cpu_model(run.shape, true);
  const int cores = training_state(run, 0, 0, {})["cores"];
  const struct {
    int before, threads;  // the machine's cores, --threads
    bool given;
    int expected;
    const char* said;
  } cases[] = {
      {cores, 0, false, 0, ""},
      {cores, cores + 5, false, cores + 5, ""},
      {cores + 9, 1, false, 1, ""},
      {cores + 9, cores, false, cores, ""},
      {cores + 9, cores + 5, false, cores, "and this machine has"},
      {cores + 9, cores + 5, true, 77, ""},
      {cores + 9, 0, false, 0, "and this one has"},
  };
  for (const auto& [before, threads, given, expected, said] : cases) {
    CAPTURE(threads);
    CAPTURE(before);
    nlohmann::json config = to_json(run.config);
    config["threads"] = threads;
    save_at(run, *model, 3, {{"config", config}, {"cores", before}});
    std::string lines;
    TrainConfig c = resumed(folder);
    if (given) c.threads = 77;
    const std::vector<std::string> flags = given ? std::vector<std::string>{"threads"} : std::vector<std::string>{};
    CHECK(set_up_run(c, flags, [&](const std::string& line) { lines += line + "\n"; }).config.threads == expected);
    CHECK(lines.empty() == (*said == 0));
    CHECK(lines.find(said) != std::string::npos);
  }
}

TEST_CASE("validation: every whole window once, whatever the batch size") {
  Folder folder;
  TrainConfig c = tiny(folder);
  Run run = set_up(c);
  const auto model = make_cpu_model(run.shape, true);
  const int64_t windows = (run.val.size() - 1) / 16;
  const auto never = [] { return false; };
  CHECK(evaluate(*model, run, never)->nats_per_token ==
        doctest::Approx(std::log(257)).epsilon(1e-6));  // all weights zero
  init_weights(*model, 1);
  const Evaluation whole = *evaluate(*model, run, never);
  CHECK(whole.tokens == windows * 16);
  CHECK(whole.nats_per_byte == doctest::Approx(whole.nats_per_token));  // one byte per token
  for (const int B : {1, 3, 1000}) {
    run.config.batch_size = B;
    const Evaluation other = *evaluate(*model, run, never);
    CHECK(other.tokens == whole.tokens);
    CHECK(other.nats_per_token == doctest::Approx(whole.nats_per_token).epsilon(1e-6));
  }
  run.config.batch_size = 2;
  run.config.eval_steps = 2;
  CHECK(evaluate(*model, run, never)->tokens == 64);
  run.tokenizer.reset();
  CHECK(evaluate(*model, run, never)->nats_per_byte == 0);
  int asked = 0;
  CHECK(!evaluate(*model, run, [&] { return ++asked == 2; }));
}
