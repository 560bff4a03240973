// Where the time of a training step on an H100 or H200 is spent, predicted before it is measured: for each kernel that
// a step launches, the time that its bytes, its loads in flight, its operations and its instructions take, and the gaps
// between launches. The kernels' demands: llm/models/count.h and kernel_work.h. The rates of the GPU and its
// libraries: rates.json.
//
//   build/predict                               GPT-2's four sizes, one row each
//   build/predict --model gpt2                  one of them, kernel by kernel
//   build/predict --model gpt2 gpt2-xl --matmul own cublaslt --attention own cudnn --batch-size 16 64
//   build/predict --model gpt2 --counts FILE    bytes as bench_kernels_sim counted them (its --json), not the minimum
//   build/predict --model gpt2 --optimizer muon --batch-size 64     and Muon's share of the step
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "dev/bench/kernel_work.h"
#include "dev/bench/rates.h"
#include "dev/bench/table.h"
#include "llm/flags/command_line.h"
#include "llm/flags/train_flags.h"
#include "llm/models/count.h"
#include "llm/support/file.h"

namespace {

// ---- a launch ------------------------------------------------------------------------------------------------------

// Microseconds of a launch, by what may limit it. The longest counts; with `serial`, FLOPs and issue add up.
struct LaunchTimes {
  double bytes = 0;    // at the best rate
  double latency = 0;  // given the loads in flight, or the waits of its last thread
  double flops = 0, issue = 0;
  bool serial = false;
  double gap = 0;  // before it

  double busy() const { return std::max({bytes, latency, serial ? flops + issue : std::max(flops, issue)}); }
  const char* limit() const {
    const double computing = serial ? flops + issue : std::max(flops, issue);
    if (gap > busy()) return "launch";
    if (computing > std::max(bytes, latency)) return flops >= issue ? "FLOPs" : "issue";
    return latency > bytes / 0.9 ? "latency" : "bytes";
  }
};

struct PredictedRow : LaunchRow {
  double ratio = 1, us = 0;  // bytes moved / the minimum; of all launches
};

class LaunchModel {
 public:
  LaunchModel(const Rates& rates, const StepConfig& config) : r_(rates), config_(config) {}

  // Whether a launch is in one of the step's graphs (llm/models/family_model.h): forward, backward, the update.
  bool in_graph(const LaunchRow& row) const {
    const auto is = [&](const char* begin) { return row.operation.starts_with(begin); };
    return config_.options.graph && !(is("zero_grad") && row.part.empty()) && !is("classifier_loss") &&
           !is("global_norm") && !is("adamw_prepare");
  }

  LaunchTimes times(const PredictedRow& row) const {
    LaunchTimes t;
    t.gap = in_graph(row) ? r_.graph_gap : r_.launch_gap;
    const double bytes = row.bytes * row.ratio;
    t.bytes = bytes / ceiling();
    if (row.rows > 0) {
      row.kernel == "cuBLASLt's" ? library_product(t, row) : own_product(t, row);
    } else if (row.kernel == "cuDNN's") {
      t.flops = row.flops / (1e6 * cudnn_rate(row));
    } else if (const AttentionTurn* turn = find_attention_turn(row.kernel, head_size())) {
      own_attention(t, row, *turn);
    } else if (const KernelWork* work = find_kernel_work(row)) {
      moving(t, row, *work, bytes);
    } else if (row.kernel.find("_plain_kernel") != std::string::npos) {  // attention on float units
      t.flops = row.flops / (1e3 * r_.multiprocessors * 128 * 2 * r_.clock * r_.float_share);
    } else {
      throw std::logic_error("dev/bench/kernel_work.h has no row for " + row.kernel);
    }
    return t;
  }

 private:
  int head_size() const { return config_.shape.channels / config_.shape.num_heads; }
  double ceiling() const { return 1e6 * r_.copy * r_.copy_share; }  // bytes per us
  // us for this many warp instructions, all multiprocessors busy
  double issue_us(double instructions, double clock) const {
    return instructions / (r_.multiprocessors * r_.issue_slots * r_.issue_share * clock * 1e3);
  }

  // The resident blocks have this many bytes in flight, and memory answers after its latency; later waves of blocks
  // start when these are done, the last with fewer.
  void moving(LaunchTimes& t, const LaunchRow& row, const KernelWork& work, double bytes) const {
    const double threads = row.threads > 0 ? row.threads : work.threads;
    const double blocks = row.blocks > 0 ? row.blocks : std::max(1.0, std::ceil(row.turns / threads));
    const double places = r_.multiprocessors * resident_blocks(row, work);
    const auto wave_us = [&](double resident) {  // each of bytes / blocks
      if (resident < 1) return 0.0;
      const double in_flight = resident * threads * work.in_flight / r_.latency;
      const double rate =
          std::pow(std::pow(ceiling(), -r_.saturation) + std::pow(in_flight, -r_.saturation), -1 / r_.saturation);
      return bytes / blocks * resident / rate;
    };
    const double waves = std::floor(blocks / places);
    t.latency = std::max(waves * wave_us(places) + wave_us(blocks - waves * places), row.waits * r_.latency);
    t.issue = issue_us(row.turns / 32 * work.instructions, r_.clock);
  }

  // Cycles of a tile for `depth` of K with all of a multiprocessor's tensor cores.
  double tile_cycles(double rows, double columns, double depth) const {
    return 2 * rows * columns * depth / (r_.tensor_flops * (config_.bf16 ? 1 : 0.5));
  }
  // Bytes that a product's epilogue moves per sum.
  double epilogue_bytes(Epilogue epilogue) const {
    const double e = config_.bf16 ? 2 : 4;
    switch (epilogue) {
      case Epilogue::store:
        return e;
      case Epilogue::residual:
      case Epilogue::gelu:
      case Epilogue::gelu_grad:
        return 2 * e;
      case Epilogue::add:
        return 8;
      case Epilogue::part:
        return 4;
    }
    return 0;
  }

  // By wgmma: tiles of 128 rows, each on a multiprocessor, in waves; or the depth of all tiles divided evenly, which
  // costs each multiprocessor a tile of partial sums, written and read. The library takes the faster.
  void library_product(LaunchTimes& t, const LaunchRow& row) const {
    t.flops = INFINITY;
    for (const double columns : {256.0, 128.0}) {
      const double tiles = std::ceil(row.rows / 128) * std::ceil(row.columns / columns);
      const double depth = tile_cycles(128, columns, std::ceil(row.depth / 64) * 64) / r_.tensor_issue;
      const double end = r_.tile_epilogue * 128 * columns * epilogue_bytes(row.epilogue) / 65536;
      const double a_turn = tiles / r_.multiprocessors;
      const double us = 1e-3 / (r_.tensor_clock * r_.library_share * r_.tuned_gain);  // per cycle
      const double parts = std::min(r_.multiprocessors, row.depth / 64 * tiles) * 128 * columns * 8 / ceiling();
      t.flops = std::min(
          {t.flops, std::ceil(a_turn) * (depth + end) * us, (a_turn * depth + std::ceil(a_turn) * end) * us + parts});
    }
  }

  // By mma.sync: a tile's main loop, then its epilogue, which the next tile's loop does not hide.
  void own_product(LaunchTimes& t, const LaunchRow& row) const {
    const OwnTile tile = own_tile(row);
    const double tiles =
        std::ceil(row.rows / tile.rows) * std::ceil(row.columns / tile.columns) * row.parts * row.fraction;
    const double depth = std::ceil(row.depth / row.parts / 32) * 32;
    const double rounds = std::ceil(tiles / r_.multiprocessors), us = 1e-3 / r_.tensor_clock;
    const double products = tile_cycles(tile.rows, tile.columns, depth) / r_.mma_sync_share;
    const double slots = r_.issue_slots * r_.issue_share;
    const double mma = 2 * tile.rows * tile.columns * depth / (config_.bf16 ? 4096 : 2048);  // m16n8k16, m16n8k8
    const double main = mma * main_instructions_per_mma(tile) / slots;
    const double end = tile.rows * tile.columns / 32 * epilogue_instructions(row.epilogue) / slots;
    t.serial = true;
    t.flops = rounds * (main > products ? 0 : products) * us;
    t.issue = rounds * ((main > products ? main : 0) + end) * us;
  }

  double cudnn_rate(const LaunchRow& row) const {
    const bool large = head_size() > 64;
    if (row.operation == "attention_forward") return large ? r_.cudnn_forward_128 : r_.cudnn_forward_64;
    return large ? r_.cudnn_backward_128 : r_.cudnn_backward_64;
  }

  // A causal row of turns ends at the diagonal: half a turn too many on either side.
  void own_attention(LaunchTimes& t, const LaunchRow& row, const AttentionTurn& turn) const {
    const double T = config_.T, heads = static_cast<double>(config_.B) * config_.shape.num_heads;
    const double pairs = heads * T * (T + turn.own + turn.other) / 2;
    const double mma_flops = row.flops * pairs / (heads * T * T / 2);
    t.serial = true;
    t.flops = mma_flops / (r_.multiprocessors * r_.tensor_flops * r_.mma_sync_share * r_.tensor_clock * 1e3);
    t.issue = issue_us(pairs / (turn.own * turn.other) * turn.instructions, r_.tensor_clock);
  }

  const Rates& r_;
  const StepConfig& config_;
};

// ---- the prediction ------------------------------------------------------------------------------------------------

struct Prediction {
  std::string model;
  StepConfig config;
  double peak = 0;  // TFLOP/s of the precision
  std::vector<PredictedRow> rows;
  int launches = 0;
  double bytes = 0, flops = 0, trainer_flops = 0, us = 0;
  double host_us = 0;  // part of us in which the GPU waits for the host

  double tokens() const { return static_cast<double>(config.B) * config.T; }
  double tokens_per_second() const { return tokens() / us * 1e6; }
  double mfu() const { return trainer_flops / us / 1e6 / peak; }
};

// The ladder of dev/bench whose counts hold for a row, none for a library's kernel: each part of a product has its own;
// dinp has that of forward, since it runs the same kernel.
std::string ladder_of(const LaunchRow& row) {
  if (row.kernel == "cuBLASLt's" || row.kernel == "cuDNN's") return "";
  if (row.operation.rfind("matmul", 0) != 0) return row.operation;
  const auto has = [&](const char* text) { return row.part.find(text) != std::string::npos; };
  return has("dbias") ? "matmul_backward_bias" : has("dweight") ? "matmul_backward_weight" : "matmul_forward_bf16";
}

// The cost of Muon's kernels, all launches.
struct Share {
  double flops = 0, bytes = 0, us = 0;
};
Share muon_share(const std::vector<PredictedRow>& rows) {
  Share share;
  for (const PredictedRow& row : rows) {
    if (row.operation.rfind("muon", 0) != 0) continue;
    share.flops += row.launches * row.flops;
    share.bytes += row.launches * row.bytes * row.ratio;
    share.us += row.us;
  }
  return share;
}

Prediction predict(const std::string& name, const StepConfig& config, const Rates& rates,
                   const std::map<std::string, double>& ratios) {
  Prediction p{name, config, rates.tensor_peak * (config.bf16 ? 1 : 0.5), {}};
  const LaunchModel model(rates, config);
  for (LaunchRow& row : count_step(config)) p.rows.push_back({std::move(row)});
  double host_launches = config.options.graph ? 3 : 0;  // a graph is one
  for (PredictedRow& row : p.rows) {
    const auto found = ratios.find(ladder_of(row));
    if (found != ratios.end()) row.ratio = found->second;
    const LaunchTimes times = model.times(row);
    row.us = row.launches * (times.busy() + times.gap);
    p.launches += row.launches;
    p.bytes += row.launches * row.bytes * row.ratio;
    p.flops += row.launches * row.flops;
    p.trainer_flops += row.launches * row.trainer_flops;
    p.us += row.us;
    host_launches += model.in_graph(row) ? 0 : row.launches;
  }
  p.host_us = std::max(0.0, host_launches * rates.host_launch - p.us);
  p.us += p.host_us;
  return p;
}

// Ladder -> DRAM bytes counted / the minimum, for the ladders' versions from kernels/ (the last such version).
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

// ---- output --------------------------------------------------------------------------------------------------------

const char* size_name(const std::string& model) {
  static const std::map<std::string, const char*> names{
      {"gpt2", "124M"}, {"gpt2-medium", "350M"}, {"gpt2-large", "774M"}, {"gpt2-xl", "1558M"}};
  const auto found = names.find(model);
  return found == names.end() ? "" : found->second;
}

void print_rows(const Prediction& p, const Rates& rates, const std::map<std::string, double>& ratios, bool markdown) {
  std::vector<std::vector<std::string>> table{
      {"operation", "of", "kernel", "launches", "MB", "GFLOP", "limit", "us", "share"}};
  const LaunchModel model(rates, p.config);
  for (const PredictedRow& row : p.rows) {
    table.push_back({row.operation, row.part, row.kernel, std::to_string(row.launches),
                     strprintf("%.1f", row.bytes * row.ratio / 1e6), strprintf("%.1f", row.flops / 1e9),
                     model.times(row).limit(), strprintf("%.1f", row.us), strprintf("%.1f %%", 100 * row.us / p.us)});
  }
  if (p.host_us > 0) {
    table.push_back({"waiting for the host", "", "", "", "", "", "launch", strprintf("%.1f", p.host_us),
                     strprintf("%.1f %%", 100 * p.host_us / p.us)});
  }
  table.push_back({"step", "", "", std::to_string(p.launches), strprintf("%.0f", p.bytes / 1e6),
                   strprintf("%.0f", p.flops / 1e9), "", strprintf("%.0f", p.us), "100.0 %"});
  print_table(table, 3, markdown);
  std::printf(
      "\nMB and GFLOP are per launch, us and share for all; the last row is the whole step.\n"
      "%.2f ms per step, %.0f tokens/s, %.1f %% of %.4g TFLOP/s by the trainer's count (%.0f GFLOP per step; the "
      "kernels do\n"
      "%.1f %% of that: padding and attention's seventh product added, the masked half of its square left out)\n",
      p.us / 1e3, p.tokens_per_second(), 100 * p.mfu(), p.peak, p.trainer_flops / 1e9, 100 * p.flops / p.trainer_flops);
  double forward_us = 0, backward_us = 0;
  int forwards = 0;
  for (const PredictedRow& row : p.rows) {
    if (row.operation == "attention_forward") forward_us += row.us, forwards += row.launches;
    if (row.operation == "attention_backward") backward_us += row.us;
  }
  const double half = 2 * p.tokens() * p.config.T * p.config.shape.channels;
  std::printf("Attention: forward %.0f TFLOP/s, backward %.0f (half of 4 and of 10 B NH T^2 HS)\n",
              forwards * half / forward_us / 1e6, p.config.shape.num_layers * 2.5 * half / backward_us / 1e6);
  if (p.config.options.optimizer != Optimizer::muon) return;
  StepConfig adamw = p.config;
  adamw.options.optimizer = Optimizer::adamw;
  const Share muon = muon_share(p.rows);
  std::printf(
      "Muon: %.0f GFLOP and %.2f GB in %.2f ms, %.2f %% of the step of %.0f tokens, which takes %.2f ms with AdamW\n",
      muon.flops / 1e9, muon.bytes / 1e9, muon.us / 1e3, 100 * muon.us / p.us, p.tokens(),
      predict(p.model, adamw, rates, ratios).us / 1e3);
}

std::string matmul_tier(const StepConfig& config) { return config.cublaslt ? "cublaslt" : "own"; }
std::string attention_tier(const StepConfig& config) { return config.cudnn ? "cudnn" : "own"; }

// One row per model: totals, and the share of each kind of operation.
void print_overview(const std::vector<Prediction>& predictions, bool markdown) {
  std::vector<std::string> groups{"matmul", "attention", "classifier", "layernorm", "adamw", "rest"};
  if (predictions[0].config.options.optimizer == Optimizer::muon) groups.insert(groups.end() - 1, "muon");
  std::vector<std::vector<std::string>> table{
      {"model", "B x T", "products", "attention", "launches", "GB", "TFLOP", "ms per step", "tokens/s", "MFU"}};
  for (const std::string& group : groups) table[0].push_back(group);
  for (const Prediction& p : predictions) {
    std::map<std::string, double> us{{"rest", p.host_us}};
    for (const PredictedRow& row : p.rows) {
      const auto group = std::find_if(groups.begin(), groups.end(), [&](const std::string& name) {
        return row.operation.find(name) != std::string::npos;
      });
      us[group == groups.end() ? "rest" : *group] += row.us;
    }
    const std::string size = size_name(p.model);
    std::vector<std::string> row{p.model + (size.empty() ? "" : " (" + size + ")"),
                                 strprintf("%d x %d", p.config.B, p.config.T),
                                 matmul_tier(p.config),
                                 attention_tier(p.config),
                                 std::to_string(p.launches),
                                 strprintf("%.1f", p.bytes / 1e9),
                                 strprintf("%.1f", p.flops / 1e12),
                                 strprintf("%.1f", p.us / 1e3),
                                 strprintf("%.0f", p.tokens_per_second()),
                                 strprintf("%.1f %%", 100 * p.mfu())};
    for (const std::string& group : groups) row.push_back(strprintf("%.1f %%", 100 * us[group] / p.us));
    table.push_back(row);
  }
  print_table(table, 4, markdown);
}

nlohmann::json to_json(const Prediction& p, const Rates& rates) {
  nlohmann::json rows = nlohmann::json::array();
  const LaunchModel model(rates, p.config);
  for (const PredictedRow& row : p.rows) {
    rows.push_back({{"operation", row.operation},
                    {"of", row.part},
                    {"kernel", row.kernel},
                    {"launches", row.launches},
                    {"least_bytes", row.bytes},
                    {"counted_over_least", row.ratio},
                    {"flops", row.flops},
                    {"trainer_flops", row.trainer_flops},
                    {"limit", model.times(row).limit()},
                    {"us", row.us},
                    {"share", row.us / p.us}});
  }
  return {{"model", p.model},
          {"batch_size", p.config.B},
          {"seq_len", p.config.T},
          {"precision", p.config.bf16 ? "bf16" : "tf32"},
          {"matmul", matmul_tier(p.config)},
          {"attention", attention_tier(p.config)},
          {"optimizer", p.config.options.optimizer == Optimizer::muon ? "muon" : "adamw"},
          {"moments", p.config.options.moments == Moments::bf16 ? "bf16" : "float"},
          {"loss_chunk", p.config.options.loss_chunk},
          {"kernels", rows},
          {"step",
           {{"launches", p.launches},
            {"bytes", p.bytes},
            {"flops", p.flops},
            {"trainer_flops", p.trainer_flops},
            {"host_us", p.host_us},
            {"ms", p.us / 1e3},
            {"tokens_per_second", p.tokens_per_second()},
            {"mfu", p.mfu()}}}};
}

struct Flags {
  std::vector<std::string> models{"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}, matmul{"cublaslt"},
      attention{"cudnn"};
  std::vector<int> B{16};
  int T = 1024;
  int64_t loss_chunk = 0;
  std::string precision = "bf16", recompute = "none", optimizer = "adamw", moments = "float", device = "h100",
              rates = WROUGHT_RATES, counts, json;
  std::string graph = "on";
  bool markdown = false, kernels = false;
};

void run(const Flags& flags) {
  std::optional<FileWriter> out;
  if (!flags.json.empty()) out.emplace(flags.json);
  const Rates rates = read_rates(flags.rates, flags.device);
  const std::map<std::string, double> ratios =
      flags.counts.empty() ? std::map<std::string, double>{} : read_counts(flags.counts);
  if (flags.moments == "bf16" && flags.optimizer == "muon") {
    fail_usage("--moments bf16 is for AdamW's moments, and --optimizer muon keeps its momentum in float: give one");
  }
  std::vector<Prediction> predictions;
  for (const std::string& name : flags.models) {
    const ModelPreset* preset = find_preset(name);
    if (!preset) fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4", name.c_str());
    StepConfig config{.shape = preset->shape};
    config.T = flags.T;
    config.bf16 = flags.precision == "bf16";
    config.options.recompute = flags.recompute == "none"   ? Recompute::none
                               : flags.recompute == "gelu" ? Recompute::gelu
                                                           : Recompute::block;
    config.options.optimizer = flags.optimizer == "muon" ? Optimizer::muon : Optimizer::adamw;
    config.options.loss_chunk = flags.loss_chunk;
    config.options.graph = flags.graph == "on";
    config.options.moments = flags.moments == "bf16" ? Moments::bf16 : Moments::f32;
    if (config.T > config.shape.max_seq_len) {
      fail_usage("--seq-len is %d, and the context of %s is %d", config.T, name.c_str(), config.shape.max_seq_len);
    }
    for (const int B : flags.B) {
      for (const std::string& matmul : flags.matmul) {
        for (const std::string& attention : flags.attention) {
          config.B = B;
          config.cublaslt = matmul == "cublaslt";
          config.cudnn = attention == "cudnn" && config.bf16;
          predictions.push_back(predict(name, config, rates, ratios));
        }
      }
    }
  }
  if (flags.kernels) {
    std::set<std::string> names;
    for (const Prediction& p : predictions) {
      for (const PredictedRow& row : p.rows) names.insert(row.kernel);
    }
    names.erase("memset");
    for (const std::string& name : names) std::printf("%s\n", name.c_str());
    return;
  }
  std::printf("Predicted, not measured: %s, %s%s%s%s%s%s. Rates: %s\n", rates.device.c_str(), flags.precision.c_str(),
              flags.recompute == "none" ? "" : (", recomputing " + flags.recompute).c_str(),
              flags.optimizer == "adamw" ? "" : (", " + flags.optimizer).c_str(),
              flags.moments == "float" ? "" : (", moments in " + flags.moments).c_str(),
              flags.loss_chunk == 0
                  ? ""
                  : strprintf(", %lld rows of logits at a time", static_cast<long long>(flags.loss_chunk)).c_str(),
              flags.graph == "on" ? "" : ", without graphs",
              flags.rates == WROUGHT_RATES ? "dev/bench/rates.json" : rates.file.c_str());
  if (predictions.size() == 1) {
    const StepConfig& config = predictions[0].config;
    std::printf("Products: %s; attention: %s.\n", matmul_tier(config).c_str(), attention_tier(config).c_str());
  }
  if (ratios.empty()) {
    std::printf("Bytes: the minimum (no --counts).\n\n");
  } else {
    std::printf("Bytes: the minimum, times what %s counted over the minimum:", flags.counts.c_str());
    for (const auto& [ladder, ratio] : ratios) std::printf(" %s %.3f", ladder.c_str(), ratio);
    std::printf("; 1 for others.\n\n");
  }
  if (predictions.size() == 1) {
    print_rows(predictions[0], rates, ratios, flags.markdown);
  } else {
    print_overview(predictions, flags.markdown);
  }
  if (!out) return;
  nlohmann::json all = nlohmann::json::array();
  for (const Prediction& p : predictions) all.push_back(to_json(p, rates));
  out->write(
      nlohmann::json{{"predicted", true}, {"device", flags.device}, {"counts", flags.counts}, {"models", all}}.dump(1) +
      "\n");
  out->commit();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Predicts where a training step on an H100 or H200 spends its time, kernel by kernel. Nothing is measured.");
  Flags flags;
  app.add_option("--model", flags.models,
                 "presets, as for train_gpt2's --model; one step: kernel by kernel; more: a row each")
      ->capture_default_str();
  app.add_option("--batch-size", flags.B, "B: sequences per step, one or more values")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seq-len", flags.T, "T: tokens per sequence")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  app.add_option("--matmul", flags.matmul, "matrix products, one or more of: cublaslt | own (mma.sync)")
      ->check(CLI::IsMember({"cublaslt", "own"}))
      ->capture_default_str();
  app.add_option("--attention", flags.attention,
                 "attention, one or more of: cudnn (backward only if its workspace is allowed) | own (mma.sync)")
      ->check(CLI::IsMember({"cudnn", "own"}))
      ->capture_default_str();
  app.add_option("--device", flags.device, "GPU in the file of rates: h100 | h200")->capture_default_str();
  app.add_option("--rates", flags.rates, "rates of GPUs and libraries; default: dev/bench/rates.json");
  app.add_option("--precision", flags.precision, "number type: bf16 (with master weights) | tf32")
      ->check(CLI::IsMember({"bf16", "tf32"}))
      ->capture_default_str();
  app.add_option("--recompute", flags.recompute, "activations to recompute: none | gelu | block, as in train_gpt2cu")
      ->check(CLI::IsMember({"none", "gelu", "block"}))
      ->capture_default_str();
  app.add_option("--optimizer", flags.optimizer, "optimizer: adamw | muon, as in train_gpt2cu")
      ->check(CLI::IsMember({"adamw", "muon"}))
      ->capture_default_str();
  app.add_option("--moments", flags.moments, "AdamW's moments: float | bf16, as in train_gpt2cu")
      ->check(CLI::IsMember({"float", "bf16"}))
      ->capture_default_str();
  app.add_option("--loss-chunk", flags.loss_chunk,
                 "rows of logits in memory at a time, as in train_gpt2cu; 0: all of a step")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--graph", flags.graph, "graphs for forward, backward and update: on | off, as in train_gpt2cu")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--counts", flags.counts,
                 "file written by bench_kernels_sim --json: bytes as counted; default: the minimum");
  app.add_option("--json", flags.json, "file that gets all results too");
  app.add_flag("--markdown", flags.markdown, "print the table as Markdown");
  app.add_flag("--kernels", flags.kernels, "print only the names of the kernels that a step launches")
      ->excludes("--json");
  return run_program(app, argc, argv, [&] { run(flags); });
}
