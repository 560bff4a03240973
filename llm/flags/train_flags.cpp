#include "llm/flags/train_flags.h"

#include <algorithm>

#include "llm/support/error.h"
#include "llm/support/json.h"

using nlohmann::json;

json to_json(const TrainConfig& config) {
  json j;
  for_each_flag(config, [&](const Flag& flag, const auto& field) {
    if (flag.on_resume != OnResume::never) j[flag.name] = field;
  });
  return j;
}

ModelOptions model_options(const TrainConfig& c) {
  ModelOptions options;
  options.precision = c.precision == "bf16"   ? Precision::bf16
                      : c.precision == "tf32" ? Precision::tf32
                                              : Precision::fp32;
  options.recompute = c.recompute == "block"  ? Recompute::block
                      : c.recompute == "gelu" ? Recompute::gelu
                                              : Recompute::none;
  options.master_weights = !c.no_master_weights;
  options.moments = c.moments == "bf16" ? Moments::bf16 : Moments::f32;
  options.loss_chunk = c.loss_chunk;
  options.graph = c.graph == "on";
  options.optimizer = c.optimizer == "muon" ? Optimizer::muon : Optimizer::adamw;
  options.lr_decay_per_layer = static_cast<float>(c.lr_decay_per_layer);
  options.decay_all = c.decay == "all";
  options.ema = c.ema;
  options.ranks = c.ranks;
  options.zero = c.zero;
  options.seed = c.seed ^ 0x726f756e64;  // its own numbers: initialisation and dropout draw from the seed itself
  return options;
}

void validate(const TrainConfig& c) {
  for_each_flag(c, [](const Flag& flag, const auto& field) { check_flag(flag, field); });
  if (c.steps > 0 && c.epochs > 0) fail_usage("--steps and --epochs contradict each other: give one of them");
  if (c.lr > 0 && c.min_lr > c.lr) fail_usage("--min-lr %g is above --lr %g", c.min_lr, c.lr);
  if (c.lr > 0 && c.start_lr > c.lr) fail_usage("--start-lr %g is above --lr %g", c.start_lr, c.lr);
  if (c.steps > 0 && c.warmup_steps > c.steps) {
    fail_usage("--warmup-steps %lld is more than --steps %lld", static_cast<long long>(c.warmup_steps),
               static_cast<long long>(c.steps));
  }
  if (c.memory + c.gpu_memory + c.kernels + c.check + c.find_lr > 1) {
    fail_usage("--memory, --gpu-memory, --kernels, --check and --find-lr contradict one another: give one of them");
  }
  if (c.find_lr && c.resume) fail_usage("--find-lr tries a model from its start: start from weights with --model DIR");
  if (!c.search.empty() && (c.resume || c.memory || c.gpu_memory || c.kernels || c.check || c.find_lr)) {
    fail_usage(
        "--search makes its own runs: it contradicts --resume, --memory, --gpu-memory, --kernels, --check and "
        "--find-lr");
  }
  if (c.zero > 0 && c.optimizer == "muon") {
    fail_usage("--zero %d cuts matrices apart, and --optimizer muon works on whole ones: give one of them", c.zero);
  }
  if (c.moments == "bf16" && c.optimizer == "muon") {
    fail_usage("--moments bf16 is for AdamW's moments, and --optimizer muon keeps its momentum in float: give one");
  }
  if (c.ranks > 1 && (c.check || c.find_lr || !c.search.empty())) {
    fail_usage("--check, --find-lr and --search are for one process, and %d were started", c.ranks);
  }
  if (c.no_master_weights && c.precision != "bf16") {
    fail_usage("--no-master-weights goes with --precision bf16: in %s the weights are float, with no copy to leave out",
               c.precision.c_str());
  }
  if (c.no_master_weights && c.ema > 0) {
    fail_usage("--ema averages float weights, which --no-master-weights does without: give one of them");
  }
  if (!c.plans.empty() && (c.reference || c.memory || c.gpu_memory || c.kernels)) {
    fail_usage(
        "--plans is for products by cuBLASLt, which --reference, --memory, --gpu-memory and --kernels do not run: give "
        "one of them");
  }
  if (c.resume && c.run.empty()) fail_usage("--resume needs --run DIR: the run to continue");
  if (!find_preset(c.model) && (c.layers || c.heads || c.channels)) {
    fail_usage("--layers, --heads and --channels contradict --model %s: a model directory has its own shape",
               c.model.c_str());
  }
  if (!find_preset(c.model) && (c.untied_head || c.no_qkv_bias || c.init != "gpt2")) {
    fail_usage("--untied-head, --no-qkv-bias and --init contradict --model %s: a model directory has these fixed",
               c.model.c_str());
  }
  if (c.init == "book" && !c.untied_head)
    fail_usage("--init book gives the head its own weights: it goes with --untied-head");
}

namespace {

// The saved value, if it is one that the field can hold exactly.
template <class T>
bool read_saved(const json& saved, T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!saved.is_string()) return false;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!saved.is_boolean()) return false;
  } else if constexpr (std::is_same_v<T, double>) {
    if (!saved.is_number()) return false;
  } else {
    if (!saved.is_number_integer() || json(saved.get<T>()) != saved) return false;
  }
  value = saved.get<T>();
  return true;
}

}  // namespace

void set_flag(TrainConfig& config, const std::string& name, const json& value) {
  bool found = false;
  for_each_flag(config, [&](const Flag& flag, auto& field) {
    if (name != flag.name || flag.on_resume == OnResume::never) return;
    found = true;
    if (read_saved(value, field)) return;
    fail_usage("--%s cannot be %s", flag.name, value.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  });
  if (!found) fail_usage("--%s is not a flag that a run records", name.c_str());
}

std::string merge_resumed(TrainConfig& config, const json& saved, const std::vector<std::string>& given) {
  std::string differences, newer, unknown;
  const json known = to_json(TrainConfig());
  for (const auto& [name, value] : saved.items()) {
    if (!known.contains(name)) unknown += (unknown.empty() ? "" : ", ") + shown(name);
  }
  if (!unknown.empty()) {
    fail("the run's saved configuration has %s, which this program does not know: misspelt, or written by a newer one",
         unknown.c_str());
  }
  for_each_flag(config, [&](const Flag& flag, auto& field) {
    if (flag.on_resume == OnResume::never) return;
    const char* name = flag.name;
    const bool is_given = std::find(given.begin(), given.end(), name) != given.end();
    if (!saved.contains(name) && !is_given) newer += strprintf("%s--%s", newer.empty() ? "" : " ", name);
    using T = std::decay_t<decltype(field)>;
    T before{};
    if (!read_saved((saved.contains(name) ? saved : known).at(name), before)) {
      fail("the run's saved configuration has no usable value for %s; its trainer_state.json is damaged", name);
    }
    if (!is_given) {
      field = before;
    } else if (flag.on_resume == OnResume::same && before != field) {
      const auto text = [](const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); };
      differences +=
          strprintf("\n  --%s: the run has %s, given is %s", name, text(before).c_str(), text(field).c_str());
    }
  });
  // Whichever of --steps and --epochs is given replaces the other; a precision brings its own way to keep weights.
  const auto was_given = [&](const char* name) { return std::find(given.begin(), given.end(), name) != given.end(); };
  if (was_given("steps") && !was_given("epochs")) config.epochs = 0;
  if (was_given("epochs") && !was_given("steps")) config.steps = 0;
  if (was_given("precision") && !was_given("no-master-weights") && config.precision != "bf16") {
    config.no_master_weights = false;
  }
  if (!differences.empty()) {
    fail_usage(
        "--resume continues with the run's own configuration, but:%s\nleave these flags out, or start another --run",
        differences.c_str());
  }
  return newer;
}

const ModelPreset* find_preset(const std::string& name) {
  // clang-format off
  //                 context  vocabulary  L   NH    C      B   T     lr   beta2  steps
  static const ModelPreset presets[] = {
      {"gpt2-nano", {256, 50257, 4, 4, 128}, 8, 256, 5e-3, 0.99, 2000},
      {"d4", {1024, 50257, 4, 4, 256}, 4, 256, 1e-3, 0.99, 2000},
      {"d6", {1024, 50257, 6, 6, 384}, 4, 256, 1e-3, 0.99, 5000},
      {"d12", {1024, 50257, 12, 12, 768}, 4, 1024, 6e-4, 0.95, 20000},
      {"d24", {1024, 50257, 24, 16, 1024}, 4, 1024, 3e-4, 0.95, 20000},
      {"d36", {1024, 50257, 36, 20, 1280}, 4, 1024, 2.5e-4, 0.95, 20000},
      {"d48", {1024, 50257, 48, 25, 1600}, 4, 1024, 2e-4, 0.95, 20000},
      {"gpt2", {1024, 50257, 12, 12, 768}, 4, 1024, 6e-4, 0.95, 20000},
      {"gpt2-medium", {1024, 50257, 24, 16, 1024}, 4, 1024, 3e-4, 0.95, 20000},
      {"gpt2-large", {1024, 50257, 36, 20, 1280}, 4, 1024, 2.5e-4, 0.95, 20000},
      {"gpt2-xl", {1024, 50257, 48, 25, 1600}, 4, 1024, 2e-4, 0.95, 20000},
  };
  // clang-format on
  for (const ModelPreset& preset : presets) {
    if (name == preset.name) return &preset;
  }
  return nullptr;
}
