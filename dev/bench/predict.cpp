// Where the time of a training step goes on an H100, before any GPU was seen: for each kernel that a step launches the
// bytes that it moves and the operations that it does, and the time of whichever takes longer at 90 % of 3.0 TB/s and
// 88 % of 795 TFLOP/s. A prediction for the hand-written kernels, without the time that launching takes.
//
//   build/predict                               GPT-2's four sizes, side by side
//   build/predict --model gpt2                  one of them, kernel by kernel
//   build/predict --model gpt2 --counts FILE    bytes as bench_kernels_sim counted them (its --json), not the least
//   build/predict --model gpt2 --optimizer muon --batch-size 64     and what Muon takes of the step
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "apps/command_line.h"
#include "dev/bench/gpu_step.h"
#include "dev/bench/table.h"
#include "gpt2/config.h"
#include "gpt2/json.h"

namespace {

// ---- the H100 ------------------------------------------------------------------------------------------------------

constexpr double kMemory = 3.0e12, kMemoryShare = 0.90;       // bytes a second
constexpr double kTensorCores = 795e12, kMatmulShare = 0.88;  // bf16, FLOP/s; tf32: half
constexpr double kFloatUnits = 132 * 128 * 2 * 1.755e9;       // an FMA on each of 132 x 128 units at 1.755 GHz

// ---- the prediction ------------------------------------------------------------------------------------------------

struct Prediction {
  StepConfig config;
  std::vector<LaunchRow> rows;
  int launches = 0;
  double bytes = 0, flops = 0, trainer_flops = 0, us = 0;

  double tokens() const { return static_cast<double>(config.B) * config.T; }
  double tokens_per_second() const { return tokens() / us * 1e6; }
  double peak() const { return config.bf16 ? kTensorCores : kTensorCores / 2; }
  double mfu() const { return trainer_flops / us * 1e6 / peak(); }
};

// Microseconds of a launch, and whether it is the bytes that take it.
double launch_us(const LaunchRow& row, bool bf16, bool* memory = nullptr) {
  const double tensor_cores = (bf16 ? kTensorCores : kTensorCores / 2) * kMatmulShare;
  const double moving = row.bytes * row.ratio / (kMemory * kMemoryShare);
  const double computing = row.flops / (row.unit == Unit::tensor_cores ? tensor_cores : kFloatUnits * kMatmulShare);
  if (memory) *memory = moving >= computing;
  return 1e6 * std::max(moving, computing);
}

// The ladder of dev/bench whose counts hold for a row: of a product's parts each has its own; dinp's is that of
// forward, whose kernel it runs on.
std::string ladder_of(const LaunchRow& row) {
  if (row.operation.rfind("matmul", 0) != 0) return row.operation;
  const auto has = [&](const char* text) { return row.part.find(text) != std::string::npos; };
  return has("dbias") ? "matmul_backward_bias" : has("dweight") ? "matmul_backward_weight" : "matmul_forward_bf16";
}

// What Muon's kernels take, all launches.
struct Share {
  double flops = 0, bytes = 0, us = 0;
};
Share muon_share(const std::vector<LaunchRow>& rows) {
  Share share;
  for (const LaunchRow& row : rows) {
    if (row.operation.rfind("muon", 0) != 0) continue;
    share.flops += row.launches * row.flops;
    share.bytes += row.launches * row.bytes * row.ratio;
    share.us += row.us;
  }
  return share;
}

Prediction predict(const StepConfig& config, const std::map<std::string, double>& ratios) {
  Prediction p{config, GpuStep(config).rows()};
  for (LaunchRow& row : p.rows) {
    const auto found = ratios.find(ladder_of(row));
    if (found != ratios.end()) row.ratio = found->second;
    row.us = row.launches * launch_us(row, config.bf16);
    p.launches += row.launches;
    p.bytes += row.launches * row.bytes * row.ratio;
    p.flops += row.launches * row.flops;
    p.trainer_flops += row.launches * row.trainer_flops;
    p.us += row.us;
  }
  // The same step, counted in two ways: a product that is missing above, or is there twice, shows.
  const double expected = flops_per_token(config.shape, config.T) * p.tokens();
  if (std::abs(p.trainer_flops / expected - 1) > 1e-12) {
    throw std::logic_error(
        strprintf("the rows have %.0f operations, and flops_per_token() has %.0f", p.trainer_flops, expected));
  }
  return p;
}

// Ladder -> DRAM bytes counted / the least, of the ladders' versions from kernels/ (the last that is one).
std::map<std::string, double> read_counts(const std::string& file) {
  std::ifstream in(file);
  if (!in) fail("%s cannot be read; build/bench_kernels_sim --json %s writes it", file.c_str(), file.c_str());
  std::stringstream text;
  text << in.rdbuf();
  const nlohmann::json json = parse_json(text.str(), file, 16);
  std::map<std::string, double> ratios;
  const auto wrong = [&](const std::string& what) {
    fail("%s: %s; expected what build/bench_kernels_sim --json writes", file.c_str(), what.c_str());
  };
  if (!json.is_object() || !json.contains("ladders") || !json["ladders"].is_array())
    wrong("there is no list \"ladders\"");
  for (const nlohmann::json& ladder : json["ladders"]) {
    if (!ladder.is_object() || !ladder.contains("operation") || !ladder["operation"].is_string()) {
      wrong("a ladder has no \"operation\"");
    }
    const std::string operation = ladder["operation"];
    if (!ladder.contains("bytes") || !ladder["bytes"].is_number() || ladder["bytes"] <= 0) {
      wrong("the ladder of " + operation + " has no positive \"bytes\"");
    }
    if (!ladder.contains("versions") || !ladder["versions"].is_array()) {
      wrong("the ladder of " + operation + " has no list \"versions\"");
    }
    for (const nlohmann::json& version : ladder["versions"]) {
      if (!version.is_object() || !version.value("kernel", false)) continue;
      if (!version.contains("counts") || !version["counts"].contains("dram_bytes") ||
          !version["counts"]["dram_bytes"].is_number() || version["counts"]["dram_bytes"] <= 0) {
        wrong("the kernel's version of " + operation + " has no positive \"dram_bytes\" among its \"counts\"");
      }
      ratios[operation] = version["counts"]["dram_bytes"].get<double>() / ladder["bytes"].get<double>();
    }
  }
  if (ratios.empty()) wrong("no ladder has counts of a kernel");
  return ratios;
}

// ---- how it is shown -----------------------------------------------------------------------------------------------

const char* size_name(const std::string& model) {
  static const std::map<std::string, const char*> names{
      {"gpt2", "124M"}, {"gpt2-medium", "350M"}, {"gpt2-large", "774M"}, {"gpt2-xl", "1558M"}};
  const auto found = names.find(model);
  return found == names.end() ? "" : found->second;
}

void print_rows(const Prediction& p, const std::map<std::string, double>& ratios, bool markdown) {
  std::vector<std::vector<std::string>> table{
      {"operation", "of", "kernel", "launches", "MB", "GFLOP", "limit", "us", "share"}};
  for (const LaunchRow& row : p.rows) {
    bool memory = true;
    launch_us(row, p.config.bf16, &memory);
    table.push_back({row.operation, row.part, row.kernel, std::to_string(row.launches),
                     strprintf("%.1f", row.bytes * row.ratio / 1e6), strprintf("%.1f", row.flops / 1e9),
                     row.us == 0 ? ""
                     : memory    ? "bytes"
                                 : "FLOPs",
                     strprintf("%.1f", row.us), strprintf("%.1f %%", 100 * row.us / p.us)});
  }
  table.push_back({"step", "", "", std::to_string(p.launches), strprintf("%.0f", p.bytes / 1e6),
                   strprintf("%.0f", p.flops / 1e9), "", strprintf("%.0f", p.us), "100.0 %"});
  print_table(table, 3, markdown);
  std::printf(
      "\nMB and GFLOP are of one launch, us and share of all; the last row is a step's.\n"
      "%.2f ms a step, %.0f tokens/s, %.1f %% of %.4g TFLOP/s by the trainer's count (%.0f GFLOP a step; the kernels "
      "do\n"
      "%.1f %% of that: padding and attention's seventh product added, the half of its square that is masked left "
      "out)\n",
      p.us / 1e3, p.tokens_per_second(), 100 * p.mfu(), p.peak() / 1e12, p.trainer_flops / 1e9,
      100 * p.flops / p.trainer_flops);
  if (p.config.optimizer != Optimizer::muon) return;
  StepConfig adamw = p.config;
  adamw.optimizer = Optimizer::adamw;
  const Share muon = muon_share(p.rows);
  std::printf(
      "Muon: %.0f GFLOP and %.2f GB in %.2f ms, %.2f %% of the step of %.0f tokens, which takes %.2f ms with AdamW\n",
      muon.flops / 1e9, muon.bytes / 1e9, muon.us / 1e3, 100 * muon.us / p.us, p.tokens(),
      predict(adamw, ratios).us / 1e3);
}

// One row a model: totals, and what share each kind of operation has.
void print_overview(const std::vector<Prediction>& predictions, bool markdown) {
  std::vector<std::string> groups{"matmul", "attention", "classifier", "layernorm", "adamw", "rest"};
  if (predictions[0].config.optimizer == Optimizer::muon) groups.insert(groups.end() - 1, "muon");
  std::vector<std::vector<std::string>> table{
      {"model", "B x T", "launches", "GB", "TFLOP", "ms a step", "tokens/s", "MFU"}};
  for (const std::string& group : groups) table[0].push_back(group);
  for (const Prediction& p : predictions) {
    std::map<std::string, double> us;
    for (const LaunchRow& row : p.rows) {
      const auto group = std::find_if(groups.begin(), groups.end(), [&](const std::string& name) {
        return row.operation.find(name) != std::string::npos;
      });
      us[group == groups.end() ? "rest" : *group] += row.us;
    }
    const std::string size = size_name(p.config.model);
    std::vector<std::string> row{p.config.model + (size.empty() ? "" : " (" + size + ")"),
                                 strprintf("%d x %d", p.config.B, p.config.T),
                                 std::to_string(p.launches),
                                 strprintf("%.1f", p.bytes / 1e9),
                                 strprintf("%.1f", p.flops / 1e12),
                                 strprintf("%.1f", p.us / 1e3),
                                 strprintf("%.0f", p.tokens_per_second()),
                                 strprintf("%.1f %%", 100 * p.mfu())};
    for (const std::string& group : groups) row.push_back(strprintf("%.1f %%", 100 * us[group] / p.us));
    table.push_back(row);
  }
  print_table(table, 2, markdown);
}

nlohmann::json to_json(const Prediction& p) {
  nlohmann::json rows = nlohmann::json::array();
  for (const LaunchRow& row : p.rows) {
    rows.push_back({{"operation", row.operation},
                    {"of", row.part},
                    {"kernel", row.kernel},
                    {"launches", row.launches},
                    {"least_bytes", row.bytes},
                    {"counted_over_least", row.ratio},
                    {"flops", row.flops},
                    {"trainer_flops", row.trainer_flops},
                    {"us", row.us},
                    {"share", row.us / p.us}});
  }
  return {{"model", p.config.model},
          {"batch_size", p.config.B},
          {"seq_len", p.config.T},
          {"precision", p.config.bf16 ? "bf16" : "tf32"},
          {"optimizer", p.config.optimizer == Optimizer::muon ? "muon" : "adamw"},
          {"kernels", rows},
          {"step",
           {{"launches", p.launches},
            {"bytes", p.bytes},
            {"flops", p.flops},
            {"trainer_flops", p.trainer_flops},
            {"ms", p.us / 1e3},
            {"tokens_per_second", p.tokens_per_second()},
            {"mfu", p.mfu()}}}};
}

struct Flags {
  std::vector<std::string> models{"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"};
  int B = 16, T = 1024;
  std::string precision = "bf16", recompute = "none", optimizer = "adamw", counts, json;
  bool markdown = false, kernels = false;
};

void run(const Flags& flags) {
  const std::map<std::string, double> ratios =
      flags.counts.empty() ? std::map<std::string, double>{} : read_counts(flags.counts);
  std::vector<Prediction> predictions;
  for (const std::string& name : flags.models) {
    const ModelPreset* preset = find_preset(name);
    if (!preset) fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4", name.c_str());
    StepConfig config{name,
                      preset->shape,
                      flags.B,
                      flags.T,
                      flags.precision == "bf16",
                      flags.recompute == "none"   ? Recompute::none
                      : flags.recompute == "gelu" ? Recompute::gelu
                                                  : Recompute::block,
                      flags.optimizer == "muon" ? Optimizer::muon : Optimizer::adamw};
    if (config.T > config.shape.max_seq_len) {
      fail_usage("--seq-len is %d, and the context of %s is %d", config.T, name.c_str(), config.shape.max_seq_len);
    }
    predictions.push_back(predict(config, ratios));
  }
  if (flags.kernels) {
    std::set<std::string> names;
    for (const Prediction& p : predictions) {
      for (const LaunchRow& row : p.rows) names.insert(row.kernel);
    }
    names.erase("memset");
    for (const std::string& name : names) std::printf("%s\n", name.c_str());
    return;
  }
  std::printf(
      "Predicted, not measured: an H100 at %.0f %% of %.1f TB/s and %.0f %% of %.4g TFLOP/s%s, %s%s.\n",
      100 * kMemoryShare, kMemory / 1e12, 100 * kMatmulShare, predictions[0].peak() / 1e12,
      predictions[0].config.bf16 ? "" : strprintf(" (attention: of the float units' %.3g)", kFloatUnits / 1e12).c_str(),
      flags.precision.c_str(),
      ((flags.recompute == "none" ? "" : ", recomputing " + flags.recompute) +
       (flags.optimizer == "adamw" ? "" : ", " + flags.optimizer))
          .c_str());
  if (ratios.empty()) {
    std::printf("Bytes: the least possible (no --counts).\n\n");
  } else {
    std::printf("Bytes: the least possible, times what %s counted over the least:", flags.counts.c_str());
    for (const auto& [ladder, ratio] : ratios) std::printf(" %s %.3f", ladder.c_str(), ratio);
    std::printf("; 1 for others.\n\n");
  }
  if (predictions.size() == 1) {
    print_rows(predictions[0], ratios, flags.markdown);
  } else {
    print_overview(predictions, flags.markdown);
  }
  if (flags.json.empty()) return;
  nlohmann::json all = nlohmann::json::array();
  for (const Prediction& p : predictions) all.push_back(to_json(p));
  std::ofstream out(flags.json);
  out << nlohmann::json{{"predicted", true}, {"counts", flags.counts}, {"models", all}}.dump(1) << '\n';
  if (!out.flush()) fail("%s cannot be written", flags.json.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Predicts where a training step's time goes on an H100, kernel by kernel, from bytes and operations.");
  Flags flags;
  app.add_option("--model", flags.models, "presets, as train_gpt2's --model; one: kernel by kernel, more: side by side")
      ->capture_default_str();
  app.add_option("--batch-size", flags.B, "B: sequences in a step")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seq-len", flags.T, "T: tokens in a sequence")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  app.add_option("--precision", flags.precision, "bf16 (with master weights) | tf32")
      ->check(CLI::IsMember({"bf16", "tf32"}))
      ->capture_default_str();
  app.add_option("--recompute", flags.recompute, "none | gelu | block, as train_gpt2cu's")
      ->check(CLI::IsMember({"none", "gelu", "block"}))
      ->capture_default_str();
  app.add_option("--optimizer", flags.optimizer, "adamw | muon, as train_gpt2cu's")
      ->check(CLI::IsMember({"adamw", "muon"}))
      ->capture_default_str();
  app.add_option("--counts", flags.counts, "what bench_kernels_sim --json wrote: bytes as counted; default: the least");
  app.add_option("--json", flags.json, "writes everything to this file too");
  app.add_flag("--markdown", flags.markdown, "the table as Markdown");
  app.add_flag("--kernels", flags.kernels, "only the names of the kernels that a step launches");
  return run_program(app, argc, argv, [&] { run(flags); });
}
