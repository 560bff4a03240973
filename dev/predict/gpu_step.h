// A training step of the GPU's model as a list of its launches: for each kernel the bytes that it must move, the
// operations that it does, and how its work is divided. The users of this file compute a launch's time on a GPU:
// predict.cpp from kernel_work.h and rates.json, dev/predict/plan.h by its own calibration.
//
// Bytes are the minimum of docs/kernels.md: every input of a launch once, every output once; sums added to, twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/tensor_table.h"

enum class Unit { tensor_cores, float_units };
enum class Phase { forward, backward, update };  // the first two once per micro-batch, the last once per step

// What a matrix product does with its sums: stores them (bf16, or float), stores GELU of them too, multiplies by GELU's
// derivative, adds them to float gradients, or stores them as one of several parts.
enum class Epilogue { store, gelu, gelu_grad, add, part };

inline constexpr int64_t kCudnnWorkspace = int64_t{256} << 20;  // kWorkspaceLimit: the most its backward pass may need

struct StepConfig {
  std::string model;
  ModelConfig shape;
  int B = 16, T = 1024;
  bool bf16 = true;
  Recompute recompute = Recompute::none;
  Optimizer optimizer = Optimizer::adamw;
  bool cublaslt = false;  // products by cuBLASLt, except Muon's products
  bool cudnn = false;     // attention by cuDNN; backward, one launch of 5 products, only up to this workspace
  int64_t cudnn_workspace = kCudnnWorkspace;
};

// A kernel, with all its equal launches in a step.
struct LaunchRow {
  std::string operation;  // the launcher in kernels/
  std::string part;       // which of the model's operations, if there are several
  std::string kernel;     // the __global__ function; "memset": that of CUDA
  Unit unit;
  int launches;
  double bytes, flops;   // of one launch
  double trainer_flops;  // of one launch, as flops_per_token() counts: no padding, attention's whole square
  Phase phase;
  double tiles = 0;  // a matrix product's tiles of 128 x 128 numbers, times its parts; 0: not a product

  // A matrix product's sums (rows, columns) over a depth, in this many parts; `fraction` of its tiles are computed.
  double rows = 0, columns = 0, depth = 0, parts = 1, fraction = 1;
  Epilogue epilogue = Epilogue::store;
  // For other kernels: turns of a thread, for each of which kernel_work.h counts instructions; blocks (0: one turn per
  // thread); bytes of dynamic shared memory per block, and threads if they are not those of kernel_work.h; and how
  // often the last thread waits for memory.
  double turns = 0, blocks = 0, shared = 0, threads = 0, waits = 1;

  // Computed by predict.cpp.
  double ratio = 1, us = 0;  // bytes moved / the minimum; of all launches
};

// As the launchers divide their work; tests/programs/test_predict.sh compares these with the kernels.
constexpr int kBiasRows = 512;                       // kBiasChunk: rows per block of bias_partial_kernel
constexpr int kNormBlocks = 256;                     // kLayernormBackwardBlocks
constexpr int kClassifierKeptBytes = 112 * 1024;     // classifier_kept_bytes() of an H100
constexpr int kNormElements = 16384;                 // kGlobalNormChunk
constexpr int kSortTile = 1024, kDigits = 256;       // kRadixSortTile, kRadixSortDigits
constexpr int kMasterBytes = 30, kFloatBytes = 28;   // adamw_update, per parameter: bf16 with master weights, float
constexpr int kMuonElements = 4096, kMuonSteps = 5;  // kMuonChunk; of Newton and Schulz

template <class Int>
Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

// The number of parts in which dweight (OC, C) is summed: rows_per_part() of kernels/matmul.cuh.
inline int64_t weight_parts(int64_t N, int64_t C, int64_t OC) {
  const int64_t tiles = ceil_div<int64_t>(OC, 128) * ceil_div<int64_t>(C, 128);
  const int64_t parts = std::min<int64_t>({256 / tiles, N / 1024, 64});
  return parts < 2 ? 1 : ceil_div(N, ceil_div(ceil_div(N, parts), int64_t{32}) * 32);
}

// The launches of llm/models/gpu_model.cu's step with one micro-batch, in its order, equal ones grouped.
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
    std::erase_if(rows_, [](const LaunchRow& row) { return row.launches < 1; });
  }
  const std::vector<LaunchRow>& rows() const { return rows_; }

 private:
  LaunchRow& add(const char* operation, const std::string& part, const char* kernel, int launches, double bytes,
                 double flops = 0, double trainer_flops = 0, Unit unit = Unit::float_units, double tiles = 0) {
    rows_.push_back({operation, part, kernel, unit, launches, bytes, flops, trainer_flops, phase_, tiles});
    return rows_.back();
  }
  LaunchRow& add_product(const char* operation, const std::string& part, int launches, double bytes, double flops,
                         double trainer_flops, double rows, double columns, double depth, double parts,
                         Epilogue epilogue) {
    LaunchRow& row = add(operation, part, config_.cublaslt ? "cuBLASLt's" : "matmul_tensor_core_kernel", launches,
                         bytes, flops, trainer_flops, Unit::tensor_cores, tiles(rows, columns) * parts);
    row.rows = rows, row.columns = columns, row.depth = depth, row.parts = parts, row.epilogue = epilogue;
    return row;
  }
  double packs(double elements) const { return elements * e_ / 16; }  // 16-byte accesses
  double parameters() const { return static_cast<double>(arena_size(param_table(config_.shape))); }
  int adamw_bytes() const { return config_.bf16 ? kMasterBytes : kFloatBytes; }

  void zero_grad() { add("zero_grad", "", "memset", 1, 4 * parameters()).turns = parameters() / 4; }

  void forward() {
    const double V = config_.shape.vocab_size, Vp = config_.shape.padded_vocab_size();
    add("embedding_forward", "", "embedding_forward_kernel", 1, 2 * N_ * C_ * e_ + config_.T * C_ * e_ + 4 * N_).turns =
        packs(N_ * C_);
    layernorm("layernorm_forward", "ln1", 1, layernorm_bytes());
    forward_block(L_, true);
    product("fcproj", L_, 4 * C_, C_, 1);
    layernorm("residual_layernorm_forward", "ln1, lnf", L_, residual_layernorm_bytes());
    add_product("matmul_forward", "logits", 1, (N_ * C_ + Vp * C_ + N_ * Vp) * e_, 2 * N_ * C_ * Vp, 2 * N_ * C_ * V,
                N_, Vp, C_, 1, Epilogue::store);
  }

  // A row has a warp, or, if it has more than 2,048 channels, a block.
  void layernorm(const char* operation, const std::string& part, int launches, double bytes) {
    LaunchRow& row = add(operation, part, "layernorm_forward_kernel", launches, bytes);
    const double row_bytes = std::ceil(packs(C_)) * 16;
    row.turns = packs(N_ * C_);
    row.blocks = C_ > 2048 ? N_ : std::ceil(N_ / 4);
    row.threads = C_ > 2048 ? 256 : 128;
    row.shared = C_ > 2048 ? row_bytes : 4 * row_bytes;
  }

  // From ln1 to the input of the MLP's second product, this many times; again in backward under --recompute block.
  void forward_block(int times, bool first) {
    const std::string again = first ? "" : ", again";
    product("qkv" + again, times, C_, 3 * C_, first);
    attention("attention_forward", again,
              config_.cudnn  ? "cuDNN's"
              : config_.bf16 ? "attention_forward_tensor_core_kernel"
                             : "attention_forward_plain_kernel",
              times, 4 * N_ * C_ * e_ + lse_bytes(), 2, first ? 4 : 0);
    product("attproj" + again, times, C_, C_, first);
    layernorm("residual_layernorm_forward", "ln2" + again, times, residual_layernorm_bytes());
    product("fc, gelu" + again, times, C_, 4 * C_, first, 2);
  }

  void backward() {
    const double V = config_.shape.vocab_size, Vp = config_.shape.padded_vocab_size();
    LaunchRow& classifier =
        add("classifier_backward", "", "classifier_backward_kernel", 1, N_ * (V + Vp) * e_ + 12 * N_);
    classifier.turns = packs(N_ * Vp), classifier.blocks = N_;
    classifier.threads = std::min(512.0, std::ceil(std::ceil(packs(Vp)) / 32) * 32);
    if (V * e_ <= kClassifierKeptBytes) classifier.shared = V * e_;
    LaunchRow& loss = add("classifier_loss", "", "classifier_loss_kernel", 1, 8 * N_);
    loss.turns = N_, loss.blocks = 1, loss.waits = std::ceil(N_ / 1024 / 8) + 1;
    product_backward("logits", 1, C_, Vp, V);
    add("zero_grad", "dresidual", "memset", 1, N_ * C_ * e_).turns = packs(N_ * C_);
    if (config_.recompute == Recompute::block) {
      layernorm("layernorm_forward", "ln1, again", L_ - 1, layernorm_bytes());
      forward_block(L_ - 1, false);
    } else if (config_.recompute == Recompute::gelu) {
      add("gelu_forward", "again", "gelu_forward_kernel", L_ - 1, 2 * 4 * N_ * C_ * e_).turns = packs(4 * N_ * C_);
    }
    product_backward("fcproj, gelu", L_, 4 * C_, C_, C_);
    product_backward("fc", L_, C_, 4 * C_, 4 * C_);
    product_backward("attproj", L_, C_, C_, C_);
    attention_backward();
    product_backward("qkv", L_, C_, 3 * C_, 3 * C_);
    layernorm_backward();
    embedding_backward();
  }

  void layernorm_backward() {
    // A team has a thread for each pack of channels, in whole warps; blocks of up to 256 threads have several teams.
    const double team = std::ceil(std::ceil(packs(C_)) / 32) * 32, teams = std::max(1.0, std::floor(256 / team));
    const bool wide = team > 512;  // a block of 256 per row
    const double rows = wide ? 1 : 2 * teams;
    const double most = team > 256 && !wide ? kNormBlocks / 2 : kNormBlocks;
    const double blocks = std::min(std::ceil(N_ / rows), most), sums = blocks * 2 * C_ * 4;
    LaunchRow& row =
        add("layernorm_backward", "", wide ? "layernorm_backward_wide_kernel" : "layernorm_backward_kernel", 2 * L_ + 1,
            (4 * N_ * C_ + C_) * e_ + 8 * N_ + sums);
    row.turns = packs(N_ * C_), row.blocks = blocks;
    row.threads = wide ? 256 : teams * team;
    row.shared = team <= 256 ? teams * 2 * C_ * 4 : 0;
    LaunchRow& sum =
        add("layernorm_backward", "sums", "layernorm_backward_sum_kernel", 2 * L_ + 1, sums + 2 * 2 * C_ * 4);
    sum.turns = blocks * 2 * C_, sum.blocks = std::ceil(2 * C_ / 32), sum.waits = std::ceil(blocks / 32 / 4) + 1;
  }

  void update() {
    const double P = parameters(), sums = std::ceil(P / kNormElements) * 8;
    LaunchRow& norm = add("global_norm_squared", "", "global_norm_chunk_kernel", 1, 4 * P + sums);
    norm.turns = P / 4, norm.blocks = std::ceil(P / kNormElements);
    LaunchRow& norm_sum = add("global_norm_squared", "sums", "global_norm_kernel", 1, sums);
    norm_sum.turns = sums / 8, norm_sum.blocks = 1, norm_sum.waits = std::ceil(sums / 8 / 1024 / 4) + 1;
    add("adamw_prepare", "", "adamw_prepare_kernel", 1, 0).blocks = 1;
    const std::vector<ParamTensor> table = param_table(config_.shape, {.optimizer = config_.optimizer});
    const double with_v = static_cast<double>(arena_size(table, Arena::v));
    const int runs = static_cast<int>(adamw_runs(table).size());
    add("adamw_update", "", "adamw_update_kernel", runs, (adamw_bytes() * with_v + with_v / 64) / runs).turns =
        with_v / runs / 4;
    if (config_.optimizer == Optimizer::muon) {
      muon("qkv, attproj", 4 * L_, C_, C_);
      muon("fc", L_, 4 * C_, C_);
      muon("fcproj", L_, C_, 4 * C_);
    }
  }

  // This many matrices (rows, cols). Of A and B, which are symmetric, only the tiles up to the diagonal.
  void muon(const std::string& part, int matrices, double rows, double cols) {
    const double n = std::min(rows, cols), size = rows * cols, sums = std::ceil(size / kMuonElements) * 8;
    add("muon_momentum", part, "muon_momentum_kernel", matrices, 12 * size + sums).turns = size / 4;
    add("muon_normalize", part, "muon_normalize_kernel", matrices, (8 + e_) * size + sums).turns = size / 4;
    const double kernel_tile = std::pow(std::ceil(n / 128), 2) >= 128 ? 128 : 64, tiles = std::ceil(n / kernel_tile),
                 half = (tiles + 1) / (2 * tiles);
    const auto product = [&](const char* of, double bytes, double columns, double depth, double fraction) {
      LaunchRow& row = add("muon_orthogonalize", part + ": " + of, "matmul_tensor_core_kernel", matrices * kMuonSteps,
                           bytes * e_, 2 * n * columns * depth * fraction, 0, Unit::tensor_cores);
      row.rows = n, row.columns = columns, row.depth = depth, row.fraction = fraction;
    };
    product("A", size + n * n, n, size / n, half);
    product("B", 2 * n * n, n, n, half);
    product("X", 2 * size + n * n, size / n, n, 1);
    add("muon_apply", part, "muon_apply_kernel", matrices, 12 * size).turns = size / 4;
  }

  double layernorm_bytes() const { return (2 * N_ * C_ + 2 * C_) * e_ + 8 * N_; }
  double residual_layernorm_bytes() const { return (4 * N_ * C_ + 2 * C_) * e_ + 8 * N_; }
  static double tiles(double rows, double cols) { return std::ceil(rows / 128) * std::ceil(cols / 128); }
  double lse_bytes() const { return 4 * N_ * config_.shape.num_heads; }

  // out (N, OC), `outputs` of them, = inp (N, K) weight^T + bias
  void product(const std::string& part, int launches, double K, double OC, bool first, int outputs = 1) {
    const double flops = 2 * N_ * K * OC;
    add_product("matmul_forward", part, launches, (N_ * K + OC * K + OC + outputs * N_ * OC) * e_, flops,
                first ? flops : 0, N_, OC, K, 1, outputs > 1 ? Epilogue::gelu : Epilogue::store);
  }

  // The backward products of dout (N, OC) and inp (N, K); without the padding OC is real_OC. The head has no bias.
  void product_backward(const std::string& part, int launches, double K, double OC, double real_OC) {
    const double flops = 2 * N_ * K * OC, counted = 2 * N_ * K * real_OC, weight = OC * K;
    const double pre_gelu = part.find("gelu") != std::string::npos ? N_ * K : 0;
    const double parts = config_.cublaslt
                             ? 1
                             : static_cast<double>(weight_parts(static_cast<int64_t>(N_), static_cast<int64_t>(K),
                                                                static_cast<int64_t>(OC)));
    add_product("matmul_backward", part + ": dinp", launches, (N_ * OC + weight + N_ * K + pre_gelu) * e_, flops,
                counted, N_, K, OC, 1, pre_gelu > 0 ? Epilogue::gelu_grad : Epilogue::store);
    add_product("matmul_backward", part + ": dweight", launches,
                (N_ * OC + N_ * K) * e_ + (parts > 1 ? parts : 2) * weight * 4, flops, counted, OC, K, N_, parts,
                parts > 1 ? Epilogue::part : Epilogue::add);
    if (parts > 1) add_parts(part + ": dweight's parts", launches, parts, weight);
    if (part == "logits") return;
    const double chunks = std::ceil(N_ / kBiasRows);
    LaunchRow& bias =
        add("matmul_backward", part + ": dbias", "bias_partial_kernel", launches, N_ * OC * e_ + chunks * OC * 4);
    bias.turns = packs(N_ * OC), bias.blocks = std::ceil(packs(OC) / 32) * chunks;
    add_parts(part + ": dbias's parts", launches, chunks, OC);
  }
  void add_parts(const std::string& part, int launches, double parts, double n) {
    LaunchRow& row = add("matmul_backward", part, "add_parts_kernel", launches, (parts + 2) * n * 4);
    row.turns = n * parts, row.blocks = std::ceil(n / 256), row.waits = std::ceil(parts / 16) + 1;
  }

  // `products` of the causal half of T x T, with the head size's depth; `square` / 2 such products in the trainer's
  // count, each of the whole square.
  void attention(const char* operation, const std::string& part, const char* kernel, int launches, double bytes,
                 double products, double square) {
    const double half = N_ * config_.T * C_;
    add(operation, part, kernel, launches, bytes, products * half, square * half,
        config_.bf16 ? Unit::tensor_cores : Unit::float_units);
  }

  void attention_backward() {
    const bool bf16 = config_.bf16;
    const double row = N_ * C_ * e_, statistics = 2 * lse_bytes();   // lse and delta
    const double square = N_ * config_.shape.num_heads * config_.T;  // elements of ds that cuDNN keeps, 2 bytes each
    if (config_.cudnn && 2 * square <= static_cast<double>(config_.cudnn_workspace)) {
      return attention("attention_backward", "", "cuDNN's", L_, 8 * row + lse_bytes(), 5, 8);
    }
    add("attention_backward", "delta", "attention_delta_kernel", L_, 2 * row + lse_bytes()).turns = packs(N_ * C_);
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
    const auto blocks_of = [&](LaunchRow& row, double turns, double blocks, double waits) {
      row.turns = turns, row.blocks = blocks, row.waits = waits;
    };
    const double tiles = std::ceil(N_ / kSortTile), B = config_.B, columns = std::ceil(C_ / 128);
    blocks_of(add(op, "dwpe", "embedding_dwpe_kernel", 1, N_ * C_ * e_ + 8 * static_cast<double>(config_.T) * C_),
              N_ * C_ / 4, std::ceil(config_.T / 8.0) * columns, B + 1);
    blocks_of(add(op, "sort", "radix_sort_count_kernel", passes, items + counts), N_, tiles, 5);
    blocks_of(add(op, "sort", "radix_sort_scan_kernel", passes, 2 * counts + kDigits * 4), counts / 4, 32,
              2 * std::ceil(tiles / 32) + 1);
    blocks_of(add(op, "sort", "radix_sort_scatter_kernel", passes, 2 * items + counts), N_, tiles, 5);
    const double rows = std::min<double>(N_, config_.shape.vocab_size);
    blocks_of(add(op, "dwte", "embedding_dwte_kernel", 1, N_ * C_ * e_ + items + 8 * rows * C_), N_ * C_ / 4,
              std::ceil(N_ / 32 / 8) * columns, 5);
    blocks_of(add(op, "dwte", "embedding_dwte_combine_kernel", 1, items), 32 * N_ / 32 * columns,
              std::ceil(N_ / 32) * columns, 3);
  }

  const StepConfig config_;
  const double e_, C_;  // bytes of an activation; channels
  const int L_;
  const double N_;  // tokens
  Phase phase_ = Phase::update;
  std::vector<LaunchRow> rows_;
};
