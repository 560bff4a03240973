// A training step of the GPU's model as the launches that it consists of: for each kernel the bytes that it must move
// and the operations that it does. What they take of a GPU's time is for those to say that use it: predict.cpp for an
// H100, dev/plan.h for many GPUs.
//
// Bytes are the least of docs/kernels.md: every input of a launch once, every output once; what is added to, twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gpt2/params.h"

enum class Unit { tensor_cores, float_units };
enum class Phase { forward, backward, update };  // the first two once a micro-batch, the last once a step

struct StepConfig {
  std::string model;
  ModelConfig shape;
  int B = 16, T = 1024;
  bool bf16 = true;
  Recompute recompute = Recompute::none;
  Optimizer optimizer = Optimizer::adamw;
  bool cudnn = false;  // attention by cuDNN: its backward pass is one launch of 5 products
};

// A kernel, of all its launches in a step that are alike.
struct LaunchRow {
  std::string operation;  // the launcher in kernels/
  std::string part;       // which of the model's, if there are several
  std::string kernel;     // the __global__ function; "memset" is CUDA's
  Unit unit;
  int launches;
  double bytes, flops;   // of one launch
  double trainer_flops;  // of one launch, as flops_per_token() counts: no padding, attention's whole square
  Phase phase;
  double tiles = 0;          // of 128 x 128 numbers that a matrix product makes, with its parts; 0: it is none
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
inline int64_t weight_parts(int64_t N, int64_t C, int64_t OC) {
  const int64_t tiles = ceil_div<int64_t>(OC, 128) * ceil_div<int64_t>(C, 128);
  const int64_t parts = std::min<int64_t>({256 / tiles, N / 1024, 64});
  return parts < 2 ? 1 : ceil_div(N, ceil_div(ceil_div(N, parts), int64_t{32}) * 32);
}

// The launches of gpt2/model.cu's step with one micro-batch, in its order, like ones gathered.
class GpuStep {
 public:
  explicit GpuStep(const StepConfig& config)
      : config_(config),
        e_(config.bf16 ? 2 : 4),
        C_(config.shape.channels),
        L_(config.shape.num_layers),
        N_(static_cast<double>(config.B) * config.T) {
    zero_grad();
    phase_ = Phase::forward;
    forward();
    phase_ = Phase::backward;
    backward();
    phase_ = Phase::update;
    update();
  }
  const std::vector<LaunchRow>& rows() const { return rows_; }

 private:
  void add(const char* operation, const std::string& part, const char* kernel, int launches, double bytes,
           double flops = 0, double trainer_flops = 0, Unit unit = Unit::float_units, double tiles = 0) {
    if (launches > 0) {
      rows_.push_back({operation, part, kernel, unit, launches, bytes, flops, trainer_flops, phase_, tiles});
    }
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
        2 * N_ * C_ * Vp, 2 * N_ * C_ * V, Unit::tensor_cores, tiles(N_, Vp));
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
  static double tiles(double rows, double cols) { return std::ceil(rows / 128) * std::ceil(cols / 128); }
  double lse_bytes() const { return 4 * N_ * config_.shape.num_heads; }

  // out (N, OC), `outputs` of them, = inp (N, K) weight^T + bias
  void product(const std::string& part, int launches, double K, double OC, bool first, int outputs = 1) {
    const double flops = 2 * N_ * K * OC;
    add("matmul_forward", part, "matmul_tensor_core_kernel", launches, (N_ * K + OC * K + OC + outputs * N_ * OC) * e_,
        flops, first ? flops : 0, Unit::tensor_cores, tiles(N_, OC));
  }

  // Of dout (N, OC) and inp (N, K); without the padding OC is real_OC. The head's has no bias.
  void product_backward(const std::string& part, int launches, double K, double OC, double real_OC) {
    const double flops = 2 * N_ * K * OC, counted = 2 * N_ * K * real_OC, weight = OC * K;
    const double pre_gelu = part.find("gelu") != std::string::npos ? N_ * K : 0;
    const auto tensor_cores = [&](const char* of, double bytes, double tiles) {
      add("matmul_backward", part + ": " + of, "matmul_tensor_core_kernel", launches, bytes, flops, counted,
          Unit::tensor_cores, tiles);
    };
    const double parts =
        static_cast<double>(weight_parts(static_cast<int64_t>(N_), static_cast<int64_t>(K), static_cast<int64_t>(OC)));
    tensor_cores("dinp", (N_ * OC + weight + N_ * K + pre_gelu) * e_, tiles(N_, K));
    tensor_cores("dweight", (N_ * OC + N_ * K) * e_ + (parts > 1 ? parts : 2) * weight * 4, tiles(OC, K) * parts);
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
    if (config_.cudnn) return attention("attention_backward", "", "cuDNN's", L_, 8 * row + lse_bytes(), 5, 8);
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

  const StepConfig config_;
  const double e_, C_;  // bytes of an activation; channels
  const int L_;
  const double N_;  // tokens
  Phase phase_ = Phase::update;
  std::vector<LaunchRow> rows_;
};
