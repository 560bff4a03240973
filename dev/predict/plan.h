// The cost of training on several GPUs, on paper: the memory of each, the time of a step, the cost of a budget of
// tokens. docs/distributed.md, "Planning a run", has the formulas and where the constants come from; plan.cpp reads
// flags and prints. Times are in seconds, sizes in bytes, rates in bytes or operations per second. A GPU is one rank of
// the run.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/count.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "llm/models/sharding.h"

namespace plan {

// ---- the machines --------------------------------------------------------------------------------------------------

struct Gpu {
  const char* name;
  double memory;          // as sold; cards have 7 % more, left to CUDA, NCCL, libraries and the batch itself
  double peak;            // of tensor cores, dense: bf16; tf32 has half of it
  double float_units;     // of the float units
  double bandwidth;       // of its memory
  int multiprocessors;    // each computes one tile of a matrix product at a time
  double bus;             // reached by a ring inside a node
  double matmul_share;    // share of the peak that matrix products reach: the only calibrated number (kPublished)
  double attention_rate;  // reached by attention, forward and backward; causal, heads of 64, T = 1,024
};

inline constexpr Gpu kGpus[] = {
    {"a100", 80e9, 312e12, 19.5e12, 2.039e12, 108, 235e9, 0.705, 120e12},
    {"h100", 80e9, 989e12, 67e12, 3.35e12, 132, 360e9, 0.57, 192e12},
    {"h200", 141e9, 989e12, 67e12, 4.8e12, 132, 360e9, 0.57, 192e12},
    {"b200", 180e9, 2250e12, 75e12, 7.7e12, 148, 720e9, 0.57, 437e12},
};

inline constexpr double kMemoryShare = 0.8;    // of the bandwidth: 90 % of the 3.0 TB/s that a copy reaches on an H100
inline constexpr double kFloatShare = 0.88;    // of the float units
inline constexpr double kNetworkShare = 0.9;   // of the network's rate
inline constexpr double kLaunch = 5e-6;        // the host's time per launch
inline constexpr double kCollective = 8.4e-6;  // for every collective,
inline constexpr double kNvlinkStep = 3.4e-6;  // for every step of its ring inside a node,
inline constexpr double kNetworkStep = 14e-6;  // and for every level of its tree of nodes

// Null: there is none of that name.
inline const Gpu* find_gpu(const std::string& name) {
  for (const Gpu& gpu : kGpus) {
    if (name == gpu.name) return &gpu;
  }
  return nullptr;
}

// ---- a run ---------------------------------------------------------------------------------------------------------

struct Run {
  ModelConfig shape;
  Gpu gpu;
  int gpus = 8, gpus_per_node = 8;      // gpus: up to gpus_per_node, or a multiple of it
  int B = 64, T = 1024;                 // per micro-batch and GPU
  int64_t total_batch_tokens = 524288;  // per step, a multiple of B * T * gpus
  int zero = 0;
  Recompute recompute = Recompute::none;
  Moments moments = Moments::f32;
  int64_t loss_chunk = 0;
  bool bf16 = true;            // with master weights; else tf32
  double network = 400e9 / 8;  // between nodes, per GPU and direction
  int gradient_bytes = 4;      // per summed element; llm.c has 2

  int nodes() const { return (gpus + gpus_per_node - 1) / gpus_per_node; }
  int gpus_in_node() const { return std::min(gpus, gpus_per_node); }
  int64_t tokens_at_once() const { return int64_t{B} * T * gpus; }
  int64_t micro_batches() const { return total_batch_tokens / tokens_at_once(); }
  bool sharded(int stage) const { return gpus > 1 && zero >= stage; }
  ModelOptions options() const {
    ModelOptions o;
    o.precision = bf16 ? Precision::bf16 : Precision::tf32;
    o.recompute = recompute;
    o.moments = moments;
    o.loss_chunk = loss_chunk;
    o.ranks = gpus;
    o.zero = zero;
    return o;
  }
};

// The units sent over the network: the embeddings, each block, and the final norm with the untied head.
struct Units {
  int64_t embeddings = 0, block = 0, last = 0;  // elements; block: of one block
  int blocks = 0;

  int count() const { return blocks + 2; }
  int64_t size(int u) const { return u == 0 ? embeddings : u <= blocks ? block : last; }
  int64_t all() const { return embeddings + blocks * block + last; }
  // The part of a sharded arena that is gathered at a time: block l takes the place of block l - 2.
  int64_t whole() const { return embeddings + std::min(blocks, 2) * block + last; }
};

inline Units units_of(const ModelConfig& shape) {
  Units units;
  units.blocks = shape.num_layers;
  for (const ParamTensor& tensor : param_table(shape)) {
    (tensor.layer < 0 ? units.embeddings : tensor.layer < shape.num_layers ? units.block : units.last) += tensor.size();
  }
  units.block /= units.blocks;
  return units;
}

// ---- memory --------------------------------------------------------------------------------------------------------

// For each GPU: the rows of arena_plan(), and the activations except the logits as one row.
inline std::vector<MemoryRow> memory_rows(const Run& run) {
  std::vector<MemoryRow> rows;
  int64_t activations = 0, logits = 0;
  for (const MemoryRow& row : arena_plan(run.shape, run.options(), run.B, run.T,
                                         gpu_logits_rows(run.options(), int64_t{run.B} * run.T), run.bf16)) {
    if (!row.shape.starts_with("(")) {  // an arena: this many elements
      rows.push_back({row.name, "", row.bytes});
    } else {
      (row.name == "logits" ? logits : activations) += row.bytes;
    }
  }
  rows.push_back({"activations", "", activations});
  rows.push_back({"logits", "", logits});
  return rows;
}

inline int64_t memory_of(const Run& run) {
  int64_t bytes = 0;
  for (const MemoryRow& row : memory_rows(run)) bytes += row.bytes;
  return bytes;
}

inline bool fits(const Run& run) { return static_cast<double>(memory_of(run)) <= run.gpu.memory; }

// ---- computing -----------------------------------------------------------------------------------------------------

enum class Part { matmul, attention, other, optimizer };

inline Part part_of(const LaunchRow& row) {
  if (row.phase == Phase::update) return Part::optimizer;
  if (row.operation.rfind("attention", 0) == 0) return Part::attention;
  return row.rows > 0 ? Part::matmul : Part::other;
}

// The time of all launches of a row: the longer of moving its bytes and doing its operations. A matrix product's tiles
// are computed in waves, one per multiprocessor; in the last wave some have none.
inline double seconds_of(const LaunchRow& row, const Gpu& gpu, bool bf16) {
  double rate = gpu.float_units * kFloatShare;
  if (part_of(row) == Part::matmul) {
    const double waves = row.tiles() / gpu.multiprocessors;
    rate = gpu.peak * (bf16 ? 1 : 0.5) * gpu.matmul_share * waves / std::ceil(waves);
  } else if (row.unit == Unit::tensor_cores) {
    rate = gpu.attention_rate;
  }
  return row.launches * std::max(row.bytes / (gpu.bandwidth * kMemoryShare), row.flops / rate);
}

// What one GPU computes: for a micro-batch layer by layer in their order, and by parts; for a step the update.
struct Computing {
  double embedding = 0, block = 0, head = 0;  // forward; block: one
  double head_backward = 0, block_backward = 0, embedding_backward = 0;
  std::array<double, 3> parts{};  // per micro-batch, by Part
  double launching = 0;           // per micro-batch, in which the GPU waits for the host
  double optimizer = 0;
};

inline Computing computing_of(const Run& run) {
  StepConfig config{.shape = run.shape,
                    .B = run.B,
                    .T = run.T,
                    .bf16 = run.bf16,
                    .options = {.recompute = run.recompute, .moments = run.moments, .loss_chunk = run.loss_chunk}};
  config.cudnn = run.bf16;
  config.cudnn_workspace = INT64_MAX;  // as in llm.c
  Computing c;
  double launches = 0;
  for (const LaunchRow& row : count_step(config)) {
    const double seconds = seconds_of(row, run.gpu, run.bf16);
    if (row.phase == Phase::update) {
      const bool of_a_part = run.sharded(row.operation == "zero_grad" ? 2 : 1);
      c.optimizer += of_a_part ? seconds / run.gpus : seconds;
      continue;
    }
    c.parts[static_cast<size_t>(part_of(row))] += seconds;
    launches += row.launches;
    const bool forward = row.phase == Phase::forward;
    const auto has = [&](const char* text) { return row.operation.rfind(text, 0) == 0; };
    if (has("embedding")) {
      (forward ? c.embedding : c.embedding_backward) += seconds;
    } else if (has("classifier") || (row.layer > 0 && row.rows > 0)) {
      (forward ? c.head : c.head_backward) += seconds;
    } else {
      (forward ? c.block : c.block_backward) += seconds / run.shape.num_layers;
    }
  }
  const double busy = c.parts[0] + c.parts[1] + c.parts[2], slower = std::max(1.0, launches * kLaunch / busy);
  c.launching = busy * (slower - 1);
  for (double* place : {&c.embedding, &c.block, &c.head, &c.head_backward, &c.block_backward, &c.embedding_backward}) {
    *place *= slower;
  }
  return c;
}

// ---- communication -------------------------------------------------------------------------------------------------

// The time of a reduce-scatter or an all-gather of this many bytes in all: in a node a ring over NVLink, between nodes
// each GPU exchanges its part with its counterparts; both at once, piece by piece.
inline double collective_seconds(const Run& run, double bytes) {
  if (run.gpus == 1) return 0;
  const double G = run.gpus_in_node(), M = run.nodes();
  const double levels = std::ceil(std::log2(M) - 1e-9);
  return kCollective + (G - 1) * kNvlinkStep + levels * kNetworkStep +
         std::max(bytes * (G - 1) / G / run.gpu.bus, bytes / G * (M - 1) / M / (run.network * kNetworkShare));
}

inline double all_reduce_seconds(const Run& run, double bytes) {
  return run.gpus == 1 ? 0 : 2 * collective_seconds(run, bytes) - kCollective;
}

struct StepTime {
  std::array<double, 4> parts{};  // by Part
  double launching = 0;
  double exposed = 0;        // communication for which computing waits
  double communication = 0;  // all of it
  int64_t volume = 0;        // elements sent, without the factor (gpus - 1) / gpus: an all-reduce counts twice

  double seconds() const { return parts[0] + parts[1] + parts[2] + parts[3] + launching + exposed; }
};

// The trainer's step: computing in one queue, collectives in another; each starts what it can and waits for what it
// must.
class Timeline {
 public:
  explicit Timeline(const Run& run)
      : run_(run),
        units_(units_of(run.shape)),
        compute_(computing_of(run)),
        whole_(static_cast<size_t>(units_.count())),
        gathered_(whole_.size()),
        reduced_(whole_.size()) {
    if (run.sharded(1) && !run.sharded(3)) {  // the last step's update changed parts of them
      for (int u = 0; u < units_.count(); ++u) gather(u);
    }
    for (int64_t m = run.micro_batches(); m > 0; --m) micro_batch(m == 1);
    wait(network_free_);
    if (run.gpus > 1) wait(now_ + all_reduce_seconds(run, 0));  // loss and norm, before the update
    const double n = static_cast<double>(run.micro_batches());
    for (size_t part = 0; part < 3; ++part) time_.parts[part] = n * compute_.parts[part];
    time_.parts[3] = compute_.optimizer;
    time_.launching = n * compute_.launching;
  }
  const StepTime& time() const { return time_; }

 private:
  void compute(double seconds) { now_ += seconds; }
  void wait(double until) {
    if (until <= now_) return;
    time_.exposed += until - now_;
    now_ = until;
  }
  // Queues a collective; returns when it will be done.
  double send(int64_t elements, int times, double seconds) {
    time_.volume += times * elements;
    time_.communication += seconds;
    return network_free_ = std::max(now_, network_free_) + seconds;
  }

  // Where parameters are sharded, a block's parameters take the place of those of the block two before or after it.
  bool same_place(int u, int v) const {
    const auto block = [&](int w) { return w >= 1 && w <= units_.blocks; };
    return u == v || (block(u) && block(v) && (u - v) % 2 == 0);
  }
  void gather(int u) {
    if (!run_.sharded(1) || whole_[static_cast<size_t>(u)]) return;
    if (run_.sharded(3)) {
      for (int v = 0; v < units_.count(); ++v) {
        if (same_place(u, v)) whole_[static_cast<size_t>(v)] = false;
      }
    }
    whole_[static_cast<size_t>(u)] = true;
    const int64_t n = units_.size(u);
    gathered_[static_cast<size_t>(u)] =
        send(n, 1, collective_seconds(run_, static_cast<double>(n) * (run_.bf16 ? 2 : 4)));
  }
  void need(int u) {
    gather(u);
    wait(gathered_[static_cast<size_t>(u)]);
  }
  void begin_gradients(int u) {
    for (int v = 0; v < units_.count() && run_.sharded(2); ++v) {
      if (same_place(u, v)) wait(reduced_[static_cast<size_t>(v)]);
    }
  }
  void reduce(int u, bool last_micro_batch) {
    if (run_.gpus == 1 || (!run_.sharded(2) && !last_micro_batch)) return;
    const int64_t n = units_.size(u);
    const double bytes = static_cast<double>(n) * run_.gradient_bytes;
    reduced_[static_cast<size_t>(u)] =
        run_.zero == 0 ? send(n, 2, all_reduce_seconds(run_, bytes)) : send(n, 1, collective_seconds(run_, bytes));
  }

  void micro_batch(bool last) {
    const int L = units_.blocks, head = L + 1;
    if (run_.sharded(3)) {
      gather(0);
      gather(1);
    }
    need(0);
    compute(compute_.embedding);
    for (int u = 1; u <= L; ++u) {
      if (run_.sharded(3)) gather(u + 1);  // the next arrives meanwhile
      need(u);
      compute(compute_.block);
    }
    need(head);
    compute(compute_.head);
    begin_gradients(0);
    begin_gradients(head);
    compute(compute_.head_backward);
    reduce(head, last);
    for (int u = L; u >= 1; --u) {
      if (run_.sharded(3) && u > 1) gather(u - 1);
      need(u);
      begin_gradients(u);
      compute(compute_.block_backward);
      reduce(u, last);
    }
    compute(compute_.embedding_backward);
    reduce(0, last);
  }

  const Run& run_;
  const Units units_;
  const Computing compute_;
  double now_ = 0, network_free_ = 0;
  std::vector<bool> whole_;
  std::vector<double> gathered_, reduced_;  // times; 0: nothing to wait for
  StepTime time_;
};

inline StepTime step_time(const Run& run) { return Timeline(run).time(); }

inline double tokens_per_second(const Run& run) {
  return static_cast<double>(run.total_batch_tokens) / step_time(run).seconds();
}
// As a share of the GPUs' peak, by the trainer's count of operations.
inline double model_flops_utilisation(const Run& run) {
  return tokens_per_second(run) * flops_per_token(run.shape, run.T) / (run.gpus * run.gpu.peak * (run.bf16 ? 1 : 0.5));
}

// ---- published runs ------------------------------------------------------------------------------------------------

// llm.c's runs on one node of 8 GPUs, bf16, T = 1,024, ZeRO stage 1, no recomputation, gradients summed in bf16.
struct Published {
  const char *model, *gpu;
  int B;
  int64_t total_batch_tokens;
  double ms;        // per step
  bool calibrates;  // it gives its GPU's matmul_share; the others are predicted from that
  const char* from;
};
inline constexpr Published kPublished[] = {
    {"gpt2", "a100", 64, 524288, 300, false, "scripts/run_gpt2_124M.sh, discussion 481"},
    {"gpt2-medium", "a100", 64, 524288, 820, true, "scripts/run_gpt2_350M.sh"},
    {"gpt2-large", "a100", 32, 524288, 1700, false, "scripts/run_gpt2_774M.sh"},
    {"gpt2", "h100", 64, 524288, 138, false, "log, 475k tokens/s per GPU"},
    {"gpt2-medium", "h100", 64, 524288, 349, true, "log, 188k tokens/s per GPU"},
    {"gpt2-xl", "h100", 16, 1048576, 2750, false, "discussion 677, its log"},
};

inline constexpr double kPublishedActivations = 40409;  // MiB, of the last run

inline Run run_of(const Published& published, const ModelConfig& shape) {
  Run run{.shape = shape, .gpu = *find_gpu(published.gpu)};
  run.B = published.B;
  run.total_batch_tokens = published.total_batch_tokens;
  run.zero = 1;
  run.gradient_bytes = 2;
  return run;
}

}  // namespace plan
