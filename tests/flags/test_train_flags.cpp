// The table of flags: defaults, ranges, contradictions, the record, and what --resume may change; the presets.
#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "llm/flags/train_flags.h"
#include "llm/support/error.h"
#include "tests/helpers/flag_ranges.h"

using nlohmann::json;

namespace {

TrainConfig with(void (*change)(TrainConfig&)) {
  TrainConfig config;
  change(config);
  return config;
}

// The message of the UsageError that `body` throws; "" if none.
template <class Body>
std::string usage_error(Body&& body) {
  try {
    body();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

std::string refused(void (*change)(TrainConfig&)) {
  return usage_error([&] { validate(with(change)); });
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("every flag has its own name and a help text, and every default is valid") {
  TrainConfig config;
  std::set<std::string> names;
  for_each_flag(config, [&](const Flag& flag, auto&) {
    CAPTURE(flag.name);
    CHECK(names.insert(flag.name).second);
    CHECK(std::string(flag.help).size() > 4);
    CHECK(std::string(flag.group) != "");
  });
  CHECK(names.size() >= 40);
  CHECK_NOTHROW(validate(config));
}

TEST_CASE("each number just outside its range is refused by name, and the ends of the range are not") {
  TrainConfig defaults;
  for_each_flag(defaults, [&](const Flag& flag, auto& field) {
    using T = std::decay_t<decltype(field)>;
    if constexpr (!std::is_same_v<T, std::string> && !std::is_same_v<T, bool>) {
      CAPTURE(flag.name);
      const T before = field;
      const double low = std::get<Numbers>(flag.values).low;
      for_each_value_outside(flag, field,
                             [&] { CHECK(contains(usage_error([&] { validate(defaults); }), flag.name)); });
      if constexpr (std::is_same_v<T, double>) {
        field = NAN;
        CHECK(contains(usage_error([&] { validate(defaults); }), flag.name));
      }
      field = static_cast<T>(low);
      CHECK(!contains(usage_error([&] { validate(defaults); }), "expected"));
      field = before;
    }
  });
}

TEST_CASE("words outside a choice and contradictions are refused") {
  CHECK(contains(refused([](TrainConfig& c) { c.schedule = "stairs"; }), "cosine linear constant wsd"));
  CHECK(contains(refused([](TrainConfig& c) { c.data_order = ""; }), "--data-order is ''"));
  CHECK(contains(refused([](TrainConfig& c) { c.steps = 5, c.epochs = 1; }), "--steps and --epochs"));
  CHECK(contains(refused([](TrainConfig& c) { c.lr = 1e-3, c.min_lr = 2e-3; }), "--min-lr"));
  CHECK(contains(refused([](TrainConfig& c) { c.lr = 1e-3, c.start_lr = 2e-3; }), "--start-lr"));
  CHECK(contains(refused([](TrainConfig& c) { c.steps = 5, c.warmup_steps = 6; }), "--warmup-steps"));
  CHECK(contains(refused([](TrainConfig& c) { c.decay = "none"; }), "expected one of matrices all"));
  CHECK(contains(refused([](TrainConfig& c) { c.init = "zeros"; }), "expected one of gpt2 book"));
  CHECK(contains(refused([](TrainConfig& c) { c.init = "book"; }), "--untied-head"));
  CHECK(refused([](TrainConfig& c) { c.init = "book", c.untied_head = true; }) == "");
  CHECK(contains(refused([](TrainConfig& c) { c.model = "some/folder", c.untied_head = true; }), "has these fixed"));
  CHECK(contains(refused([](TrainConfig& c) { c.model = "some/folder", c.no_qkv_bias = true; }), "has these fixed"));
  CHECK(contains(refused([](TrainConfig& c) { c.resume = true; }), "--resume needs --run"));
  CHECK(contains(refused([](TrainConfig& c) { c.memory = c.check = true; }),
                 "--memory, --gpu-memory, --kernels, --check"));
  CHECK(contains(refused([](TrainConfig& c) { c.model = "some/folder", c.heads = 2; }), "own shape"));
  CHECK(contains(refused([](TrainConfig& c) { c.optimizer = "Muon"; }),
                 "--optimizer is 'Muon', expected one of adamw muon"));
  CHECK(contains(refused([](TrainConfig& c) { c.precision = "fp8"; }), "expected one of fp32 tf32 bf16"));
  CHECK(contains(refused([](TrainConfig& c) { c.recompute = "all"; }), "expected one of none gelu block"));
  CHECK(contains(refused([](TrainConfig& c) { c.no_master_weights = true; }), "goes with --precision bf16"));
  CHECK(contains(refused([](TrainConfig& c) { c.moments = "bf16", c.optimizer = "muon"; }), "keeps its momentum"));
  CHECK(contains(refused([](TrainConfig& c) { c.loss_chunk = -1; }), "--loss-chunk is -1, expected 0 to"));
  CHECK(contains(refused([](TrainConfig& c) { c.moments = "half"; }), "expected one of float bf16"));
  CHECK(refused([](TrainConfig& c) { c.no_master_weights = true, c.precision = "bf16"; }) == "");
  CHECK(contains(refused([](TrainConfig& c) { c.plans = "x.json", c.reference = true; }), "--plans is for products"));
  CHECK(contains(refused([](TrainConfig& c) { c.plans = "x.json", c.kernels = true; }), "--plans is for products"));
  CHECK(refused([](TrainConfig& c) { c.plans = "x.json", c.find_lr = true; }) == "");
  CHECK(refused([](TrainConfig& c) { c.steps = 6, c.warmup_steps = 6, c.lr = 1, c.min_lr = 1; }) == "");
}

TEST_CASE("the record holds every flag that a resume may need, and gives each back exactly") {
  TrainConfig config;
  config.data = "a folder/text \"1\".txt";
  config.lr = 1.0 / 3;
  config.seed = 9'000'000'000'000'000;
  config.lossy = true;
  config.steps = 123'456'789'012;
  config.run = "runs/x";
  const json saved = json::parse(to_json(config).dump());
  for (const char* never : {"run", "resume", "memory", "check", "reference", "plans"}) CHECK(!saved.contains(never));

  TrainConfig back;
  merge_resumed(back, saved, {});
  CHECK(to_json(back) == to_json(config));
  CHECK(back.lr == config.lr);
  CHECK(back.seed == config.seed);
  CHECK(back.run == "");
}

TEST_CASE("on resume each given flag that differs is named, with both values") {
  TrainConfig run;
  run.lr = 1e-3;
  run.layers = 2;
  run.steps = 100;
  const json saved = to_json(run);

  TrainConfig given;
  given.lr = 2e-3;
  given.layers = 2;  // the same value: accepted
  given.schedule = "cosine";
  given.steps = 200;  // may change
  const std::string message = usage_error([&] { merge_resumed(given, saved, {"lr", "layers", "schedule", "steps"}); });
  CHECK(contains(message, "--lr: the run has 0.001, given is 0.002"));
  CHECK(contains(message, "--schedule: the run has \"linear\", given is \"cosine\""));
  CHECK(!contains(message, "--layers"));
  CHECK(!contains(message, "--steps"));

  TrainConfig longer;
  longer.steps = 200;
  longer.keep = 9;
  merge_resumed(longer, saved, {"steps"});
  CHECK(longer.steps == 200);
  CHECK(longer.keep == run.keep);  // not given: the run's value
  CHECK(longer.lr == run.lr);

  TrainConfig epochs;  // instead of the steps of the run
  epochs.epochs = 3;
  merge_resumed(epochs, saved, {"epochs"});
  CHECK(epochs.steps == 0);
  CHECK(epochs.epochs == 3);
}

TEST_CASE("precision and recomputation are those of the run, unless others are given") {
  TrainConfig run;
  run.precision = "bf16";
  run.recompute = "block";
  run.no_master_weights = true;
  run.moments = "bf16";
  run.loss_chunk = 4096;
  const ModelOptions options = model_options(run);
  CHECK(options.precision == Precision::bf16);
  CHECK(options.recompute == Recompute::block);
  CHECK_FALSE(options.master_weights);
  CHECK(options.moments == Moments::bf16);
  CHECK(options.loss_chunk == 4096);
  CHECK(model_options({}).moments == Moments::f32);
  TrainConfig same;
  merge_resumed(same, to_json(run), {});
  CHECK(same.precision == "bf16");
  CHECK(same.no_master_weights);
  CHECK(same.moments == "bf16");
  TrainConfig other;  // fp32 weights: there is no copy to omit
  other.precision = "fp32";
  other.moments = "float";
  merge_resumed(other, to_json(run), {"precision", "moments"});
  CHECK(other.precision == "fp32");
  CHECK(other.moments == "float");
  CHECK(other.recompute == "block");
  CHECK_NOTHROW(validate(other));
}

TEST_CASE("a path that is not UTF-8 can be named in the message") {
  TrainConfig given;
  given.data = "\xff.txt";
  CHECK(contains(usage_error([&] { merge_resumed(given, to_json(TrainConfig()), {"data"}); }), "--data"));
}

TEST_CASE("settings missing from a record get their defaults and are named; unknown settings are an error") {
  TrainConfig run;
  run.threads = 3;
  run.keep = 9;
  json saved = to_json(run);
  TrainConfig config;
  CHECK(merge_resumed(config, saved, {}) == "");
  CHECK(config.threads == 3);
  for (const char* name : {"keep", "dropout", "threads"}) saved.erase(name);
  config = {};
  config.threads = 5;
  CHECK(merge_resumed(config, saved, {"threads"}) == "--dropout --keep");
  CHECK(config.keep == TrainConfig().keep);
  CHECK(config.threads == 5);
  config.dropout = 0.5;  // the run had none
  CHECK(contains(usage_error([&] { merge_resumed(config, saved, {"dropout"}); }),
                 "--dropout: the run has 0.0, given is 0.5"));
  for (const char* name : {"dropuot", "resume", ""}) {
    json other = saved;
    other[name] = 1;
    CAPTURE(name);
    CHECK_THROWS_WITH_AS(merge_resumed(config, other, {}), doctest::Contains(("\"" + std::string(name) + "\"").c_str()),
                         Error);
  }
}

TEST_CASE("a damaged record is an error") {
  const std::pair<const char*, json> damages[] = {
      {"lr", "fast"},
      {"layers", 2.5},
      {"layers", 5'000'000'000},
      {"steps", 1e300},
      {"seed", nullptr},
      {"lossy", 1},
      {"data", json::array()},
      {"schedule", 3},
      {"dropout", true},
      {"batch-size", json::object()},
  };
  for (const auto& [name, value] : damages) {
    CAPTURE(name);
    json saved = to_json(TrainConfig());
    saved[name] = value;
    TrainConfig config;
    CHECK_THROWS_WITH_AS(merge_resumed(config, saved, {}), doctest::Contains(name), Error);
  }
}

TEST_CASE("presets: their shapes are valid, and GPT-2's presets have GPT-2's shapes") {
  CHECK(find_preset("gpt2-huge") == nullptr);
  CHECK(find_preset("") == nullptr);
  for (const char* name :
       {"gpt2-nano", "d4", "d6", "d12", "d24", "d36", "d48", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}) {
    CAPTURE(name);
    const ModelPreset* preset = find_preset(name);
    REQUIRE(preset != nullptr);
    CHECK_NOTHROW(validate(preset->shape, name));
    CHECK(preset->train_seq_len <= preset->shape.max_seq_len);
    CHECK((preset->batch_size > 0 && preset->lr > 0 && preset->steps > 0));
  }
  const auto parameters = [](const char* name) { return num_parameters(param_table(find_preset(name)->shape)); };
  CHECK(parameters("gpt2") == 124'439'808);
  CHECK(parameters("gpt2-medium") == 354'823'168);
  CHECK(parameters("gpt2-large") == 774'030'080);
  CHECK(parameters("gpt2-xl") == 1'557'611'200);
}
