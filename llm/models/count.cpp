#include "llm/models/count.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/attention_choice.h"
#include "kernels/muon.h"
#include "kernels/scratch.h"
#include "llm/models/sharding.h"
#include "llm/models/update.h"
#include "llm/support/error.h"

namespace {

constexpr int kClassifierKeptBytes = 112 * 1024;  // classifier_kept_bytes() of an H100

double tiles_of(double rows, double columns) { return std::ceil(rows / 128) * std::ceil(columns / 128); }

class Counter {
 public:
  explicit Counter(const StepConfig& config) : config_(config), e_(config.bf16 ? 2 : 4) {}

  void zero_grad(double gradients) { row("zero_grad", "", "memset", 4 * gradients).turns = gradients / 4; }

  void operation(const PlannedOp& op) {
    phase_ = op.phase;
    layer_ = op.layer < 0 ? -1 : op.layer >= config_.shape.num_layers ? 1 : 0;
    of_ = op.of;
    again_ = op.again;
    N_ = static_cast<double>(op.N), C_ = static_cast<double>(op.C), OC_ = static_cast<double>(op.OC);
    const double vectors = op.centred ? 2 : 1;  // of a norm: parameters, and statistics of its rows
    const auto is = [&](const char* name) { return std::strcmp(op.name, name) == 0; };
    if (is("embedding_forward")) {
      row("embedding_forward", "", "embedding_forward_kernel", 2 * N_ * C_ * e_ + op.T * C_ * e_ + 4 * N_).turns =
          packs(N_ * C_);
    } else if (is("norm_forward")) {
      norm("layernorm_forward", (2 * N_ * C_ + vectors * C_) * e_ + 4 * vectors * N_);
    } else if (is("linear_forward") || is("matmul")) {
      product(op, Epilogue::store);
    } else if (is("linear_residual_forward")) {
      of_ += ", residual";
      product(op, Epilogue::residual);
    } else if (is("residual_forward")) {
      row("residual_forward", of(), "residual_forward_kernel", 3 * N_ * e_).turns = packs(N_);
    } else if (is("linear_gelu_forward")) {
      of_ += ", gelu";
      product(op, Epilogue::gelu);
    } else if (is("gelu_forward")) {
      row("gelu_forward", of(), "gelu_forward_kernel", 2 * N_ * e_).turns = packs(N_);
    } else if (is("gelu_backward")) {
      row("gelu_backward", "", "gelu_backward_kernel", 3 * N_ * e_).turns = packs(N_);
    } else if (is("attention_forward")) {
      const AttentionTier tier = attention_tier(op, config_.cudnn);
      attention(
          "attention_forward", of(), tier,
          tier == AttentionTier::plain ? "attention_forward_plain_kernel" : "attention_forward_tensor_core_kernel",
          2 * query_bytes() + 2 * key_bytes(op) + lse_bytes(op), 2, again_ ? 0 : 4, op.T);
    } else if (is("attention_backward")) {
      attention_backward(op);
    } else if (is("classifier_backward")) {
      classifier_backward(op);
    } else if (is("zero")) {
      row("zero_grad", "dresidual", "memset", N_ * e_).turns = packs(N_);
    } else if (is("linear_backward") || is("matmul_backward")) {
      product_backward(op, false);
    } else if (is("linear_gelu_backward")) {
      of_ += ", gelu";
      product_backward(op, true);
    } else if (is("norm_backward")) {
      norm_backward(op);
    } else if (is("embedding_backward")) {
      embedding_backward(op);
    } else if (is("dropout_backward")) {
      row("dropout_backward", "", "dropout_forward_kernel", 2 * N_ * e_).turns = packs(N_);
    } else if (is("dropout_part")) {
      row("dropout_forward", of(), "dropout_forward_kernel", 2 * N_ * e_).turns = packs(N_);
    } else if (is("lora_add")) {
      row("lora_add", "", "lora_add_kernel", 3 * N_ * C_ * e_).turns = packs(N_ * C_);
    } else if (is("lora_take")) {
      row("lora_take", "", "lora_take_kernel", 2 * N_ * C_ * e_).turns = packs(N_ * C_);
    } else if (is("pool_forward")) {  // one position of each sequence
      row("pool_forward", "", "pool_forward_kernel", 2.0 * op.B * C_ * e_ + 4 * N_).turns = packs(N_ * C_);
    } else if (is("pool_backward")) {
      row("pool_backward", "", "pool_backward_kernel", (N_ * C_ + op.B * C_) * e_ + 4 * N_).turns = packs(N_ * C_);
    } else {
      fail("the operation %s is not counted", op.name);
    }
  }

  void update(const std::vector<ParamTensor>& table, const UpdatePlan& plan) {
    phase_ = Phase::update, layer_ = 0;
    const double P = static_cast<double>(arena_size(table, Arena::grads));
    const double chunk = static_cast<double>(kGlobalNormChunk), sums = std::ceil(P / chunk) * 8;
    LaunchRow& squares = row("global_norm_squared", "", "global_norm_chunk_kernel", 4 * P + sums);
    squares.turns = P / 4, squares.blocks = std::ceil(P / chunk);
    LaunchRow& sum = row("global_norm_squared", "sums", "global_norm_kernel", sums + 8);
    sum.turns = sums / 8, sum.blocks = 1, sum.waits = std::ceil(sums / 8 / 1024 / 4) + 1;
    row("adamw_prepare", "", "adamw_prepare_kernel", 0).blocks = 1;
    // All launches of an operator as equal ones: their sizes differ only with Muon, or rates by layer.
    const double runs = static_cast<double>(plan.adamw.size()),
                 with_v = static_cast<double>(arena_size(table, Arena::v));
    // The gradient is read; the moments, and the parameter or its master copy, are read and written.
    const bool bf16_moments = config_.options.moments == Moments::bf16;
    const double per_parameter =
        (config_.bf16 && config_.options.master_weights ? 28 + e_ : 20 + 2 * e_) - (bf16_moments ? 8 : 0);
    for (size_t k = 0; k < plan.adamw.size(); ++k) {
      row(bf16_moments ? "adamw_update_bf16" : "adamw_update", "", "adamw_update_kernel",
          (per_parameter * with_v + with_v / 64) / runs)
          .turns = with_v / runs / 4;
    }
    for (const ParamTensor& tensor : table) {
      if (!tensor.muon || !tensor.trainable()) continue;
      for (int k = 0; k < tensor.stacked; ++k) {
        muon(tensor.product, static_cast<double>(tensor.rows) / tensor.stacked, static_cast<double>(tensor.cols));
      }
    }
    if (config_.options.ema == 0) return;
    for (const Stretch& s : plan.averaged) {
      const double n = static_cast<double>(s.size);
      row("ema_update", "", "ema_update_kernel", 12 * n).turns = n / 4;
    }
  }

  std::vector<LaunchRow> rows;

 private:
  LaunchRow& row(const char* operation, const std::string& part, const char* kernel, double bytes) {
    rows.push_back(
        {.operation = operation, .part = part, .kernel = kernel, .phase = phase_, .layer = layer_, .bytes = bytes});
    return rows.back();
  }
  double packs(double elements) const { return elements * e_ / 16; }  // 16-byte accesses
  std::string of() const {
    if (!again_) return of_;
    return of_.empty() ? "again" : of_ + ", again";
  }

  // A row has a warp, or, if it has more than 2,048 channels, a block.
  void norm(const char* operation, double bytes) {
    LaunchRow& r = row(operation, of(), "layernorm_forward_kernel", bytes);
    const double row_bytes = std::ceil(packs(C_)) * 16;
    r.turns = packs(N_ * C_);
    r.blocks = C_ > 2048 ? N_ : std::ceil(N_ / 4);
    r.threads = C_ > 2048 ? 256 : 128;
    r.shared = C_ > 2048 ? row_bytes : 4 * row_bytes;
  }

  void norm_backward(const PlannedOp& op) {
    const double vectors = op.centred ? 2 : 1, columns = vectors + 1;  // sums of columns: also of dinp
    // A team has a thread for each pack of channels, in whole warps; blocks of up to 256 threads have several teams.
    const double team = std::ceil(std::ceil(packs(C_)) / 32) * 32, teams = std::max(1.0, std::floor(256 / team));
    const bool wide = team > 512;  // a block of 256 per row
    const double row_count = wide ? 1 : 2 * teams;
    const double most = team > 256 && !wide ? kLayernormBackwardBlocks / 2 : kLayernormBackwardBlocks;
    const double blocks = std::min(std::ceil(N_ / row_count), most);
    const double width = std::ceil(packs(C_)) * 16 / e_, sums = blocks * columns * width * 4;
    LaunchRow& r = row("layernorm_backward", "", wide ? "layernorm_backward_wide_kernel" : "layernorm_backward_kernel",
                       (4 * N_ * C_ + C_) * e_ + 4 * vectors * N_ + sums);
    r.turns = packs(N_ * C_), r.blocks = blocks;
    r.threads = wide ? 256 : teams * team;
    r.shared = team <= 256 ? teams * columns * width * 4 : 0;
    if (!op.dweight && !op.sums) return;
    const double results = (op.dweight ? vectors * (op.set ? 1 : 2) : 0) + (op.sums ? 1 : 0);
    LaunchRow& sum = row("layernorm_backward", "sums", "layernorm_backward_sum_kernel", sums + results * C_ * 4);
    sum.turns = blocks * columns * width, sum.blocks = std::ceil(columns * width / 32);
    sum.waits = std::ceil(blocks / 32 / 4) + 1;
  }

  LaunchRow& add_product(const char* operation, const std::string& part, double bytes, double flops,
                         double trainer_flops, double product_rows, double columns, double depth, double parts,
                         Epilogue epilogue) {
    LaunchRow& r = row(operation, part, config_.cublaslt ? "cuBLASLt's" : "matmul_tensor_core_kernel", bytes);
    r.unit = Unit::tensor_cores, r.flops = flops, r.trainer_flops = trainer_flops;
    r.rows = product_rows, r.columns = columns, r.depth = depth, r.parts = parts, r.epilogue = epilogue;
    return r;
  }

  // out (N, OC), with GELU of it too, = inp (N, C) weight^T + bias, or + bias + residual (N, OC)
  void product(const PlannedOp& op, Epilogue epilogue) {
    const double flops = 2 * N_ * C_, passes = epilogue == Epilogue::store ? 1 : 2;  // of (N, OC)
    add_product("matmul_forward", of(), (N_ * C_ + OC_ * C_ + (op.bias ? OC_ : 0) + passes * N_ * OC_) * e_,
                flops * OC_, again_ ? 0 : flops * static_cast<double>(op.used), N_, OC_, C_, 1, epilogue);
  }

  // The backward products of dout (N, OC) and inp (N, C).
  void product_backward(const PlannedOp& op, bool gelu) {
    const double flops = 2 * N_ * C_ * OC_, counted = 2 * N_ * C_ * static_cast<double>(op.used), weight = OC_ * C_;
    const double pre_gelu = gelu ? N_ * C_ : 0;
    const double parts = config_.cublaslt
                             ? 1
                             : static_cast<double>(weight_parts(static_cast<int>(op.N), static_cast<int>(op.C),
                                                                static_cast<int>(op.OC)));
    if (op.dinp) {
      add_product("matmul_backward", of_ + ": dinp", (N_ * OC_ + weight + N_ * C_ + pre_gelu) * e_, flops, counted, N_,
                  C_, OC_, 1, gelu ? Epilogue::gelu_grad : Epilogue::store);
    }
    const double results = op.set ? 1 : 2;  // passes over the gradients
    // With bf16 factors cuBLASLt's dweight sums dout's columns too.
    const bool summed = op.bias && op.dweight && !op.sums && config_.cublaslt && config_.bf16;
    if (op.dweight) {
      add_product("matmul_backward", of_ + ": dweight" + (summed ? ", dbias" : ""),
                  (N_ * OC_ + N_ * C_) * e_ + (parts > 1 ? parts : results) * weight * 4 + (summed ? OC_ * 4 : 0),
                  flops, counted, OC_, C_, N_, parts, parts > 1 || op.set ? Epilogue::part : Epilogue::add);
      if (parts > 1) add_parts(of_ + ": dweight's parts", parts, results, weight);
    }
    if (!op.bias || (summed && op.set)) return;
    if (summed || op.sums) return add_parts(of_ + ": dbias", 1, results, OC_);
    const double chunks = std::ceil(N_ / kBiasChunk);
    LaunchRow& bias = row("matmul_backward", of_ + ": dbias", "bias_partial_kernel", N_ * OC_ * e_ + chunks * OC_ * 4);
    bias.turns = packs(N_ * OC_), bias.blocks = std::ceil(packs(OC_) / 32) * chunks;
    add_parts(of_ + ": dbias's parts", chunks, results, OC_);
  }
  void add_parts(const std::string& part, double parts, double results, double n) {
    LaunchRow& r = row("matmul_backward", part, "add_parts_kernel", (parts + results) * n * 4);
    r.turns = n * parts, r.blocks = std::ceil(n / 256), r.waits = std::ceil(parts / 16) + 1;
  }

  // What runs if cuDNN may, or may not.
  AttentionTier attention_tier(const PlannedOp& op, bool cudnn) const {
    return choose_attention({.wanted = cudnn ? AttentionTier::cudnn : AttentionTier::tensor_core,
                             .bf16 = config_.bf16,
                             .causal = config_.shape.causal,
                             .dropout = config_.dropout > 0,
                             .documents = false,
                             .aligned = true,
                             .others_aligned = true,
                             .HS = static_cast<int>(op.C) / op.NH},
                            [] { return std::string(); })
        .tier;
  }

  // `products` of T x T, or of its causal half, with the head size's depth; `square` / 2 such products in the trainer's
  // count, each of the whole square. Of this share of the batch.
  void attention(const char* operation, const std::string& part, AttentionTier tier, const char* kernel, double bytes,
                 double products, double square, double T, double share = 1) {
    LaunchRow& r = row(operation, part, tier == AttentionTier::cudnn ? "cuDNN's" : kernel, bytes * share);
    const double half = share * N_ * T * C_;
    r.unit = tier == AttentionTier::plain ? Unit::float_units : Unit::tensor_cores;
    r.flops = products * half * (config_.shape.causal ? 1 : 2), r.trainer_flops = square * half;
  }
  double query_bytes() const { return N_ * C_ * e_; }  // also of the output
  double key_bytes(const PlannedOp& op) const { return query_bytes() * op.NKV / op.NH; }
  static double lse_bytes(const PlannedOp& op) { return 4.0 * static_cast<double>(op.N) * op.NH; }

  void attention_backward(const PlannedOp& op) {
    const double queries = query_bytes(), keys = key_bytes(op), lse = lse_bytes(op), T = op.T;
    const int HS = static_cast<int>(op.C) / op.NH,
              piece = cudnn_backward_piece(op.B, op.T, op.NH, HS, config_.cudnn_workspace);
    const bool fits = cudnn_backward_bytes(piece, op.T, op.NH, HS) <= config_.cudnn_workspace;
    const AttentionTier tier = attention_tier(op, config_.cudnn && fits);
    if (tier == AttentionTier::cudnn) {
      for (int b = 0; b < op.B; b += piece) {
        attention("attention_backward", "", tier, "", 4 * queries + 4 * keys + lse, 5, 8, T,
                  static_cast<double>(std::min(piece, op.B - b)) / op.B);
      }
      return;
    }
    row("attention_backward", "delta", "attention_delta_kernel", 2 * queries + lse).turns = packs(N_ * C_);
    const bool plain = tier == AttentionTier::plain;
    attention("attention_backward", "dk, dv", tier,
              plain ? "attention_backward_keys_plain_kernel" : "attention_backward_keys_tensor_core_kernel",
              2 * queries + 4 * keys + 2 * lse, 4, 4, T);
    attention("attention_backward", "dq", tier,
              plain ? "attention_backward_queries_plain_kernel" : "attention_backward_queries_tensor_core_kernel",
              3 * queries + 2 * keys + 2 * lse, 3, 4, T);
  }

  void classifier_backward(const PlannedOp& op) {
    const double V = op.V, Vp = C_;
    LaunchRow& r = row("classifier_backward", "", "classifier_backward_kernel", N_ * (V + Vp) * e_ + 12 * N_);
    r.turns = packs(N_ * Vp), r.blocks = N_;
    r.threads = std::min(512.0, std::ceil(std::ceil(packs(Vp)) / 32) * 32);
    if (V * e_ <= kClassifierKeptBytes) r.shared = V * e_;
    if (std::exchange(loss_counted_, true)) return;  // one launch for all chunks
    const double N = static_cast<double>(head_rows(config_.shape, config_.B, config_.T));
    LaunchRow& loss = row("classifier_loss", "", "classifier_loss_kernel", 8 * N + 16);
    loss.turns = N, loss.blocks = 1, loss.waits = std::ceil(N / 1024 / 8) + 1;
  }

  // As if all tokens of the batch were different: the most that dwte's rows can take. The first pass of the sort reads
  // the tokens, of 4 bytes.
  void embedding_backward(const PlannedOp& op) {
    const char* name = "embedding_backward";
    int passes = 1;
    for (int V = op.V - 1; V >> (8 * passes) > 0;) ++passes;
    const double tile = kRadixSortTile, digits = kRadixSortDigits;
    const double items = 8 * N_, counts = std::ceil(N_ / tile) * digits * 4, tiles = std::ceil(N_ / tile);
    const double columns = std::ceil(C_ / 128);
    const auto divided = [](LaunchRow& r, double turns, double blocks, double waits) {
      r.turns = turns, r.blocks = blocks, r.waits = waits;
    };
    divided(row(name, "dwpe", "embedding_dwpe_kernel", N_ * C_ * e_ + 8.0 * op.T * C_), N_ * C_ / 4,
            std::ceil(op.T / 8.0) * columns, op.B + 1);
    for (int pass = 0; pass < passes; ++pass) {
      const double sorted = pass == 0 ? items / 2 : items;
      divided(row(name, "sort", "radix_sort_count_kernel", sorted + counts), N_, tiles, 5);
      divided(row(name, "sort", "radix_sort_scan_kernel", 2 * counts + digits * 4), counts / 4, 32,
              2 * std::ceil(tiles / 32) + 1);
      divided(row(name, "sort", "radix_sort_scatter_kernel", sorted + items + counts + digits * 4), N_, tiles, 5);
    }
    const double touched = std::min<double>(N_, op.V);
    divided(row(name, "dwte", "embedding_dwte_kernel", N_ * C_ * e_ + items + 8 * touched * C_), N_ * C_ / 4,
            std::ceil(N_ / 32 / 8) * columns, 5);
    divided(row(name, "dwte", "embedding_dwte_combine_kernel", 16 * (std::ceil(N_ / 32) - 1)), 32 * N_ / 32 * columns,
            std::ceil(N_ / 32) * columns, 3);
  }

  // One matrix (rows, cols). Of A and B, which are symmetric, only the tiles up to the diagonal.
  void muon(const std::string& part, double matrix_rows, double cols) {
    const double n = std::min(matrix_rows, cols), size = matrix_rows * cols,
                 sums = std::ceil(size / static_cast<double>(kMuonChunk)) * 8;
    row("muon_momentum", part, "muon_momentum_kernel", 12 * size + sums).turns = size / 4;
    row("muon_normalize", part, "muon_normalize_kernel", (8 + e_) * size + sums).turns = size / 4;
    const double kernel_tile = std::pow(std::ceil(n / 128), 2) >= 128 ? 128 : 64, tiles = std::ceil(n / kernel_tile),
                 half = (tiles + 1) / (2 * tiles);
    const auto product = [&](const char* of, double bytes, double columns, double depth, double fraction) {
      LaunchRow& r = row("muon_orthogonalize", part + ": " + of, "matmul_tensor_core_kernel", bytes * e_);
      r.unit = Unit::tensor_cores, r.flops = 2 * n * columns * depth * fraction;
      r.rows = n, r.columns = columns, r.depth = depth, r.fraction = fraction;
    };
    for (int step = 0; step < kMuonSteps; ++step) {
      product("A", size + n * n, n, size / n, half);
      product("B", 2 * n * n, n, n, half);
      product("X", 2 * size + n * n, size / n, n, 1);
    }
    row("muon_apply", part, "muon_apply_kernel", 12 * size).turns = size / 4;
  }

  const StepConfig& config_;
  const double e_;  // bytes of an activation
  Phase phase_ = Phase::update;
  int layer_ = 0;
  std::string of_;
  bool again_ = false, loss_counted_ = false;
  double N_ = 0, C_ = 0, OC_ = 0;
};

}  // namespace

double LaunchRow::tiles() const { return rows > 0 ? tiles_of(rows, columns) * parts : 0; }

bool LaunchRow::equal_launch(const LaunchRow& o) const {
  return operation == o.operation && part == o.part && kernel == o.kernel && phase == o.phase &&
         (rows == 0 || layer == o.layer) && rows == o.rows && columns == o.columns && depth == o.depth &&
         bytes == o.bytes && flops == o.flops && turns == o.turns;
}

std::vector<LaunchRow> count_step(const StepConfig& config) {
  Counter counter(config);
  const std::vector<ParamTensor> table = param_table(config.shape, config.options);
  for (const ParamRun& run : grad_runs(table, config.shape, false)) {
    counter.zero_grad(static_cast<double>(run.size));
  }
  const int64_t rows = gpu_logits_rows(config.options, head_rows(config.shape, config.B, config.T));
  const Plan plan = plan_of(config.shape, config.options, config.B, config.T, rows, config.dropout, config.bf16);
  for (const PlannedOp& op : plan.ops) counter.operation(op);
  counter.update(table, update_plan(table, Exchange(config.shape.num_layers, config.options, table), false));
  std::vector<LaunchRow> merged;
  for (LaunchRow& row : counter.rows) {
    const auto same =
        std::find_if(merged.begin(), merged.end(), [&](const LaunchRow& r) { return r.equal_launch(row); });
    if (same != merged.end()) {
      ++same->launches;
    } else {
      merged.push_back(std::move(row));
    }
  }
  return merged;
}

double flops_per_token(const ModelConfig& config, int T) {
  double flops = 0;
  for (const LaunchRow& row : count_step({.shape = config, .B = 1, .T = T})) flops += row.launches * row.trainer_flops;
  return flops / T;
}
