// Where the time of a training step goes on an H100, before any GPU was seen: for each kernel that a step launches the
// bytes that it moves and the operations that it does, and the time of whichever takes longer at 90 % of 3.0 TB/s and
// 88 % of 795 TFLOP/s. A prediction for the hand-written kernels, without the time that launching takes.
//
//   build/predict                               GPT-2's four sizes, side by side
//   build/predict --model gpt2                  one of them, kernel by kernel
//   build/predict --model gpt2 --counts FILE    bytes as bench_kernels_sim counted them (its --json), not the least
//   build/predict --model gpt2 --optimizer muon --batch-size 64     and what Muon takes of the step
//
// Bytes are the least of docs/kernels.md: every input of a launch once, every output once; what is added to, twice.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "apps/command_line.h"
#include "dev/bench/table.h"
#include "gpt2/config.h"
#include "gpt2/json.h"

namespace {

// ---- the H100 ------------------------------------------------------------------------------------------------------

constexpr double kMemory = 3.0e12, kMemoryShare = 0.90;       // bytes a second
constexpr double kTensorCores = 795e12, kMatmulShare = 0.88;  // bf16, FLOP/s; tf32: half
constexpr double kFloatUnits = 132 * 128 * 2 * 1.755e9;       // an FMA on each of 132 x 128 units at 1.755 GHz
enum class Unit { tensor_cores, float_units };

// ---- one step ------------------------------------------------------------------------------------------------------

struct Config {
  std::string model;
  ModelConfig shape;
  int B = 16, T = 1024;
  bool bf16 = true;
  Recompute recompute = Recompute::none;
  Optimizer optimizer = Optimizer::adamw;
};

// A kernel, of all its launches in a step that are alike.
struct Row {
  std::string operation;  // the launcher in kernels/
  std::string part;       // which of the model's, if there are several
  std::string kernel;     // the __global__ function; "memset" is CUDA's
  Unit unit;
  int launches;
  double bytes, flops;       // of one launch
  double trainer_flops;      // of one launch, as flops_per_token() counts: no padding, attention's whole square
  double ratio = 1, us = 0;  // bytes moved / the least; of all launches
};

// As the launchers divide their work; tests/programs/test_predict.sh holds these against the kernels.
constexpr int kBiasRows = 512;                       // kBiasChunk: rows that a block of bias_partial_kernel sums
constexpr int kNormBlocks = 384;                     // kLayernormBackwardBlocks
constexpr int kNormElements = 16384;                 // kGlobalNormChunk
constexpr int kSortTile = 1024, kDigits = 256;       // of the embedding's sort
constexpr int kMasterBytes = 30, kFloatBytes = 28;   // adamw_update, a parameter: bf16 with master weights, float
constexpr int kMuonElements = 4096, kMuonSteps = 5;  // kMuonChunk; of Newton and Schulz

template <class Int>
Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

// In how many parts dweight (OC, C) is summed: weight_part() of kernels/matmul.cuh.
int64_t weight_parts(int64_t N, int64_t C, int64_t OC) {
  const int64_t tiles = ceil_div<int64_t>(OC, 128) * ceil_div<int64_t>(C, 128);
  const int64_t parts = std::min<int64_t>({256 / tiles, N / 1024, 64});
  return parts < 2 ? 1 : ceil_div(N, ceil_div(ceil_div(N, parts), int64_t{32}) * 32);
}

// The launches of gpt2/model.cu's step with one micro-batch, in its order, like ones gathered.
class Step {
 public:
  explicit Step(const Config& config)
      : config_(config),
        e_(config.bf16 ? 2 : 4),
        C_(config.shape.channels),
        L_(config.shape.num_layers),
        N_(static_cast<double>(config.B) * config.T) {
    zero_grad();
    forward();
    backward();
    update();
  }
  const std::vector<Row>& rows() const { return rows_; }

 private:
  void add(const char* operation, const std::string& part, const char* kernel, int launches, double bytes,
           double flops = 0, double trainer_flops = 0, Unit unit = Unit::float_units) {
    if (launches > 0) rows_.push_back({operation, part, kernel, unit, launches, bytes, flops, trainer_flops});
  }
  double parameters() const { return static_cast<double>(arena_size(param_table(config_.shape))); }
  int adamw_bytes() const { return config_.bf16 ? kMasterBytes : kFloatBytes; }

  void zero_grad() { add("zero_grad", "", "memset", 1, 4 * parameters()); }

  void forward() {
    const double V = config_.shape.vocab_size, Vp = config_.shape.padded_vocab_size();
    add("embedding_forward", "", "embedding_forward_kernel", 1, 2 * N_ * C_ * e_ + config_.T * C_ * e_ + 4 * N_);
    add("layernorm_forward", "ln1", "layernorm_forward_kernel", 1, layernorm_bytes());
    forward_block(L_, true);
    product("fcproj", L_, 4 * C_, C_, 1);
    add("residual_layernorm_forward", "ln1, lnf", "layernorm_forward_kernel", L_, residual_layernorm_bytes());
    add("matmul_forward", "logits", "matmul_tensor_core_kernel", 1, (N_ * C_ + Vp * C_ + N_ * Vp) * e_,
        2 * N_ * C_ * Vp, 2 * N_ * C_ * V, Unit::tensor_cores);
  }

  // From ln1 to what the MLP's second product reads, so many times; again in backward under --recompute block.
  void forward_block(int times, bool first) {
    const std::string again = first ? "" : ", again";
    product("qkv" + again, times, C_, 3 * C_, first);
    attention("attention_forward", again,
              config_.bf16 ? "attention_forward_tensor_core_kernel" : "attention_forward_plain_kernel", times,
              4 * N_ * C_ * e_ + lse_bytes(), 2, first ? 4 : 0);
    product("attproj" + again, times, C_, C_, first);
    add("residual_layernorm_forward", "ln2" + again, "layernorm_forward_kernel", times, residual_layernorm_bytes());
    product("fc, gelu" + again, times, C_, 4 * C_, first, 2);
  }

  void backward() {
    const double V = config_.shape.vocab_size, Vp = config_.shape.padded_vocab_size();
    add("classifier_backward", "", "classifier_backward_kernel", 1, N_ * (V + Vp) * e_ + 12 * N_);
    add("classifier_loss", "", "classifier_loss_kernel", 1, 8 * N_);
    product_backward("logits", 1, C_, Vp, V);
    add("zero_grad", "dresidual", "memset", 1, N_ * C_ * e_);
    if (config_.recompute == Recompute::block) {
      add("layernorm_forward", "ln1, again", "layernorm_forward_kernel", L_ - 1, layernorm_bytes());
      forward_block(L_ - 1, false);
    } else if (config_.recompute == Recompute::gelu) {
      add("gelu_forward", "again", "gelu_forward_kernel", L_ - 1, 2 * 4 * N_ * C_ * e_);
    }
    product_backward("fcproj, gelu", L_, 4 * C_, C_, C_);
    product_backward("fc", L_, C_, 4 * C_, 4 * C_);
    product_backward("attproj", L_, C_, C_, C_);
    attention_backward();
    product_backward("qkv", L_, C_, 3 * C_, 3 * C_);
    const double sums = std::min<double>(N_, kNormBlocks) * 2 * C_ * 4;
    add("layernorm_backward", "", "layernorm_backward_kernel", 2 * L_ + 1, (4 * N_ * C_ + C_) * e_ + 8 * N_ + sums);
    add("layernorm_backward", "sums", "layernorm_backward_sum_kernel", 2 * L_ + 1, sums + 2 * 2 * C_ * 4);
    embedding_backward();
  }

  void update() {
    const double P = parameters(), sums = std::ceil(P / kNormElements) * 8;
    add("global_norm_squared", "", "global_norm_chunk_kernel", 1, 4 * P + sums);
    add("global_norm_squared", "sums", "global_norm_kernel", 1, sums);
    add("adamw_prepare", "", "adamw_prepare_kernel", 1, 0);
    const std::vector<ParamTensor> table = param_table(config_.shape, {.optimizer = config_.optimizer});
    const double with_v = static_cast<double>(arena_size(table, Arena::v));
    const int runs = static_cast<int>(adamw_runs(table).size());
    add("adamw_update", "", "adamw_update_kernel", runs, (adamw_bytes() * with_v + with_v / 64) / runs);
    if (config_.optimizer == Optimizer::muon) {
      muon("qkv, attproj", 4 * L_, C_, C_);
      muon("fc", L_, 4 * C_, C_);
      muon("fcproj", L_, C_, 4 * C_);
    }
  }

  // So many matrices (rows, cols). Of A and B, which are symmetric, only the tiles up to the diagonal.
  void muon(const std::string& part, int matrices, double rows, double cols) {
    const double n = std::min(rows, cols), size = rows * cols, sums = std::ceil(size / kMuonElements) * 8;
    add("muon_momentum", part, "muon_momentum_kernel", matrices, 12 * size + sums);
    add("muon_normalize", part, "muon_normalize_kernel", matrices, (8 + e_) * size + sums);
    const double kernel_tile = std::pow(std::ceil(n / 128), 2) >= 128 ? 128 : 64, tiles = std::ceil(n / kernel_tile),
                 half = (tiles + 1) / (2 * tiles);
    const auto product = [&](const char* of, double bytes, double flops) {
      add("muon_orthogonalize", part + ": " + of, "matmul_tensor_core_kernel", matrices * kMuonSteps, bytes * e_, flops,
          0, Unit::tensor_cores);
    };
    product("A", size + n * n, 2 * n * size * half);
    product("B", 2 * n * n, 2 * n * n * n * half);
    product("X", 2 * size + n * n, 2 * n * size);
    add("muon_apply", part, "muon_apply_kernel", matrices, 12 * size);
  }

  double layernorm_bytes() const { return (2 * N_ * C_ + 2 * C_) * e_ + 8 * N_; }
  double residual_layernorm_bytes() const { return (4 * N_ * C_ + 2 * C_) * e_ + 8 * N_; }
  double lse_bytes() const { return 4 * N_ * config_.shape.num_heads; }

  // out (N, OC), `outputs` of them, = inp (N, K) weight^T + bias
  void product(const std::string& part, int launches, double K, double OC, bool first, int outputs = 1) {
    const double flops = 2 * N_ * K * OC;
    add("matmul_forward", part, "matmul_tensor_core_kernel", launches, (N_ * K + OC * K + OC + outputs * N_ * OC) * e_,
        flops, first ? flops : 0, Unit::tensor_cores);
  }

  // Of dout (N, OC) and inp (N, K); without the padding OC is real_OC. The head's has no bias.
  void product_backward(const std::string& part, int launches, double K, double OC, double real_OC) {
    const double flops = 2 * N_ * K * OC, counted = 2 * N_ * K * real_OC, weight = OC * K;
    const double pre_gelu = part.find("gelu") != std::string::npos ? N_ * K : 0;
    const auto tensor_cores = [&](const char* of, double bytes) {
      add("matmul_backward", part + ": " + of, "matmul_tensor_core_kernel", launches, bytes, flops, counted,
          Unit::tensor_cores);
    };
    const double parts =
        static_cast<double>(weight_parts(static_cast<int64_t>(N_), static_cast<int64_t>(K), static_cast<int64_t>(OC)));
    tensor_cores("dinp", (N_ * OC + weight + N_ * K + pre_gelu) * e_);
    tensor_cores("dweight", (N_ * OC + N_ * K) * e_ + (parts > 1 ? parts : 2) * weight * 4);
    if (parts > 1) {
      add("matmul_backward", part + ": dweight's parts", "add_parts_kernel", launches, (parts + 2) * weight * 4);
    }
    if (part == "logits") return;
    const double chunks = std::ceil(N_ / kBiasRows);
    add("matmul_backward", part + ": dbias", "bias_partial_kernel", launches, N_ * OC * e_ + chunks * OC * 4);
    add("matmul_backward", part + ": dbias's parts", "add_parts_kernel", launches, (chunks + 2) * OC * 4);
  }

  // `products` of the causal half of T x T, of the head size's depth; `square` / 2 such products in the trainer's
  // count, each of the whole square.
  void attention(const char* operation, const std::string& part, const char* kernel, int launches, double bytes,
                 double products, double square) {
    const double half = N_ * config_.T * C_;
    add(operation, part, kernel, launches, bytes, products * half, square * half,
        config_.bf16 ? Unit::tensor_cores : Unit::float_units);
  }

  void attention_backward() {
    const bool bf16 = config_.bf16;
    const double row = N_ * C_ * e_, statistics = 2 * lse_bytes();  // lse and delta
    add("attention_backward", "delta", "attention_delta_kernel", L_, 2 * row + lse_bytes());
    attention("attention_backward", "dk, dv",
              bf16 ? "attention_backward_keys_tensor_core_kernel" : "attention_backward_keys_plain_kernel", L_,
              6 * row + statistics, 4, 4);
    attention("attention_backward", "dq",
              bf16 ? "attention_backward_queries_tensor_core_kernel" : "attention_backward_queries_plain_kernel", L_,
              5 * row + statistics, 3, 4);
  }

  // As if all tokens of the batch were different: the most that dwte's rows can take.
  void embedding_backward() {
    const char* op = "embedding_backward";
    int passes = 1;
    for (int V = config_.shape.vocab_size - 1; V >> (8 * passes) > 0;) ++passes;
    const double items = 8 * N_, counts = std::ceil(N_ / kSortTile) * kDigits * 4;
    add(op, "dwpe", "embedding_dwpe_kernel", 1, N_ * C_ * e_ + 8 * static_cast<double>(config_.T) * C_);
    add(op, "sort", "embedding_sort_count_kernel", passes, items + counts);
    add(op, "sort", "embedding_sort_scan_kernel", passes, 2 * counts + kDigits * 4);
    add(op, "sort", "embedding_sort_scatter_kernel", passes, 2 * items + counts);
    const double rows = std::min<double>(N_, config_.shape.vocab_size);
    add(op, "dwte", "embedding_dwte_kernel", 1, N_ * C_ * e_ + items + 8 * rows * C_);
    add(op, "dwte", "embedding_dwte_combine_kernel", 1, items);
  }

  const Config config_;
  const double e_, C_;  // bytes of an activation; channels
  const int L_;
  const double N_;  // tokens
  std::vector<Row> rows_;
};

// ---- the prediction ------------------------------------------------------------------------------------------------

struct Prediction {
  Config config;
  std::vector<Row> rows;
  int launches = 0;
  double bytes = 0, flops = 0, trainer_flops = 0, us = 0;

  double tokens() const { return static_cast<double>(config.B) * config.T; }
  double tokens_per_second() const { return tokens() / us * 1e6; }
  double peak() const { return config.bf16 ? kTensorCores : kTensorCores / 2; }
  double mfu() const { return trainer_flops / us * 1e6 / peak(); }
};

// Microseconds of a launch, and whether it is the bytes that take it.
double launch_us(const Row& row, bool bf16, bool* memory = nullptr) {
  const double tensor_cores = (bf16 ? kTensorCores : kTensorCores / 2) * kMatmulShare;
  const double moving = row.bytes * row.ratio / (kMemory * kMemoryShare);
  const double computing = row.flops / (row.unit == Unit::tensor_cores ? tensor_cores : kFloatUnits * kMatmulShare);
  if (memory) *memory = moving >= computing;
  return 1e6 * std::max(moving, computing);
}

// The ladder of dev/bench whose counts hold for a row: of a product's parts each has its own; dinp's is that of
// forward, whose kernel it runs on.
std::string ladder_of(const Row& row) {
  if (row.operation.rfind("matmul", 0) != 0) return row.operation;
  const auto has = [&](const char* text) { return row.part.find(text) != std::string::npos; };
  return has("dbias") ? "matmul_backward_bias" : has("dweight") ? "matmul_backward_weight" : "matmul_forward_bf16";
}

// What Muon's kernels take, all launches.
struct Share {
  double flops = 0, bytes = 0, us = 0;
};
Share muon_share(const std::vector<Row>& rows) {
  Share share;
  for (const Row& row : rows) {
    if (row.operation.rfind("muon", 0) != 0) continue;
    share.flops += row.launches * row.flops;
    share.bytes += row.launches * row.bytes * row.ratio;
    share.us += row.us;
  }
  return share;
}

Prediction predict(const Config& config, const std::map<std::string, double>& ratios) {
  Prediction p{config, Step(config).rows()};
  for (Row& row : p.rows) {
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
  for (const Row& row : p.rows) {
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
  Config adamw = p.config;
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
    for (const Row& row : p.rows) {
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
  for (const Row& row : p.rows) {
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
    Config config{name,
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
      for (const Row& row : p.rows) names.insert(row.kernel);
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
