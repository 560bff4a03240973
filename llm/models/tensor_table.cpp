#include "llm/models/tensor_table.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "kernels/muon.h"
#include "llm/support/error.h"

namespace {

constexpr const char* kLoraTargets[] = {"q", "k", "v", "attproj", "fc", "fcproj", "head"};

// Whether the comma list has this name.
bool in_list(const std::string& list, const std::string& name) {
  return ("," + list + ",").find("," + name + ",") != std::string::npos;
}

}  // namespace

bool lora_targets(const LoraOptions& lora, const char* matrix) {
  return lora.rank > 0 && (lora.targets == "all" || in_list(lora.targets, matrix));
}

int lora_place(const std::string& matrix) {
  return static_cast<int>(std::find(std::begin(kLoraTargets), std::end(kLoraTargets), matrix) - kLoraTargets);
}

void validate(const ModelOptions& o, const ModelConfig& config, const std::string& where) {
  const char* at = where.c_str();
  if (o.lora.rank < 0 || o.lora.rank > config.channels) {
    fail("%s: adapters of rank %d, expected 0 to the model's %d channels", at, o.lora.rank, config.channels);
  }
  if (!(o.lora.dropout >= 0 && o.lora.dropout < 1)) {
    fail("%s: the adapters' dropout is %g, expected 0 <= dropout < 1", at, static_cast<double>(o.lora.dropout));
  }
  if (!(o.lora.alpha > 0))
    fail("%s: the adapters' alpha is %g, expected above 0", at, static_cast<double>(o.lora.alpha));
  if (o.lora.rank > 0 && o.lora.targets != "all") {
    size_t found = 0;
    for (const char* target : kLoraTargets) found += in_list(o.lora.targets, target);
    if (found == 0 || found != 1 + static_cast<size_t>(std::count(o.lora.targets.begin(), o.lora.targets.end(), ','))) {
      fail("%s: adapters on '%s', expected \"all\" or a list, each once, of q,k,v,attproj,fc,fcproj,head", at,
           o.lora.targets.c_str());
    }
    if (in_list(o.lora.targets, "head") && !config.has_head()) {
      fail("%s: adapters on the head, which is the token embedding in this model: leave it out", at);
    }
  }
  if (o.loss_chunk < 0) {
    fail("%s: %lld rows of logits at a time, expected 0 (the device's rule) or more", at,
         static_cast<long long>(o.loss_chunk));
  }
  if (!(o.ema >= 0 && o.ema < 1)) fail("%s: an average with a decay of %g, expected 0 <= decay < 1", at, o.ema);
  if (o.ema > 0 && o.precision == Precision::bf16 && !o.master_weights) {
    fail("%s: an average of the weights needs float ones: keep the master copy", at);
  }
  if (o.moments == Moments::bf16 && o.optimizer == Optimizer::muon) {
    fail("%s: only AdamW has moments in bf16, and Muon's momentum is float: expected float moments, or AdamW", at);
  }
  if (o.ranks < 1 || o.zero < 0 || o.zero > 3) {
    fail("%s: zero %d among %d processes, expected 0 to 3 among at least one", at, o.zero, o.ranks);
  }
  if (o.ranks > 1) {
    const TrainablePart& part = o.trainable;
    if (o.lora.rank > 0 || part.first_block > 0 || !part.embeddings || !part.final_norm || !part.head) {
      fail("%s: several processes train whole models: expected one process for adapters or frozen parts", at);
    }
  }
  if (o.zero > 0 && o.optimizer == Optimizer::muon) {
    fail("%s: zero %d cuts matrices apart, and Muon works on whole ones: expected zero 0, or AdamW", at, o.zero);
  }
  if (o.trainable.first_block < 0 || o.trainable.first_block > config.num_layers) {
    fail("%s: training from block %d on, expected 0 to %d", at, o.trainable.first_block, config.num_layers);
  }
}

namespace {

int64_t aligned(int64_t n) { return (n + kParamAlignment - 1) / kParamAlignment * kParamAlignment; }
int64_t aligned_size(const ParamTensor& tensor) { return tensor.size() + tensor.padding; }

}  // namespace

std::vector<ParamTensor> arrange_table(std::vector<ParamTensor> table, const ModelConfig& config,
                                       const ModelOptions& options) {
  validate(options, config, "the model's options");
  std::set<std::string> names;
  for (const ParamTensor& tensor : table) {
    if (tensor.role == Role::none)
      fail("the tensor %s of a %s has no role", tensor.name.c_str(), config.family.c_str());
    if (!names.insert(tensor.name).second) {
      fail("two tensors of a %s are called %s", config.family.c_str(), tensor.name.c_str());
    }
  }
  const int L = config.num_layers;
  const TrainablePart& part = options.trainable;
  const auto trains = [&](const ParamTensor& tensor) {
    if (options.lora.rank > 0) return tensor.adapter();
    if (tensor.layer < 0) return part.embeddings;
    if (tensor.layer < L) return tensor.layer >= part.first_block;
    return tensor.role == Role::norm ? part.final_norm : part.head;
  };

  int64_t offset = 0, grad_offset = 0, v_offset = 0, number = 0, begin = 0;
  for (size_t k = 0; k < table.size(); ++k) {
    ParamTensor& tensor = table[k];
    tensor.decay = options.decay_all || !tensor.vector();
    tensor.muon = options.optimizer == Optimizer::muon && tensor.role == Role::weight;
    // One factor per step away from the head.
    tensor.lr_scale = static_cast<float>(std::pow(static_cast<double>(options.lr_decay_per_layer), L - tensor.layer));
    const auto unit_of = [&](const ParamTensor& t) { return t.adapter() ? L + 1 : t.layer + 1; };
    tensor.unit = unit_of(tensor);
    if (k == 0 || tensor.unit != table[k - 1].unit) begin = offset;
    const bool unit_ends = k + 1 == table.size() || unit_of(table[k + 1]) != tensor.unit;
    int64_t size = aligned(tensor.size());
    if (options.zero > 0 && unit_ends) {
      size = begin + aligned((offset + size - begin + options.ranks - 1) / options.ranks) * options.ranks - offset;
    }
    tensor.padding = size - tensor.size();
    tensor.offset = offset;
    offset += size;
    if (!trains(tensor)) continue;
    tensor.grad_offset = grad_offset;
    tensor.averaged = options.ema > 0;
    tensor.number = number;
    grad_offset += size;
    number += aligned(tensor.size());
    if (tensor.muon) continue;
    tensor.v_offset = v_offset;
    v_offset += size;
  }
  return table;
}

int64_t arena_size(const std::vector<ParamTensor>& table, Arena arena) {
  int64_t n = 0;
  for (const ParamTensor& tensor : table) n += tensor.offset_in(arena) >= 0 ? aligned_size(tensor) : 0;
  return n;
}

namespace {

// Runs of the tensors that belong(tensor); one continues while fits(run, tensor).
template <class Belong, class Fit>
std::vector<ParamRun> runs_of(const std::vector<ParamTensor>& table, Belong&& belong, Fit&& fits) {
  std::vector<ParamRun> runs;
  bool open = false;  // the last run continues
  for (const ParamTensor& tensor : table) {
    if (belong(tensor)) {
      if (!open || !fits(runs.back(), tensor)) {
        runs.push_back({tensor.offset, tensor.grad_offset, tensor.v_offset, tensor.number, 0, tensor.lr_scale});
      }
      runs.back().size += aligned_size(tensor);
    }
    open = belong(tensor);
  }
  return runs;
}

}  // namespace

std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table) {
  return runs_of(
      table, [](const ParamTensor& tensor) { return tensor.v_offset >= 0; },
      [](const ParamRun& run, const ParamTensor& tensor) { return run.lr_scale == tensor.lr_scale; });
}

std::vector<ParamRun> trained_runs(const std::vector<ParamTensor>& table) {
  return runs_of(
      table, [](const ParamTensor& tensor) { return tensor.trainable(); },
      [](const ParamRun&, const ParamTensor&) { return true; });
}

// A tied head's matrix is the embedding: the head's backward sets its gradient before the embedding's adds to it.
static bool set_by_backward(const ParamTensor& tensor, const ModelConfig& config) {
  const bool embedding = tensor.role == Role::embedding && config.has_head();
  return !embedding && tensor.role != Role::position && tensor.role != Role::adapter;
}

std::vector<ParamRun> grad_runs(const std::vector<ParamTensor>& table, const ModelConfig& config, bool set_first) {
  return runs_of(
      table,
      [&](const ParamTensor& tensor) { return tensor.trainable() && set_by_backward(tensor, config) == set_first; },
      [](const ParamRun&, const ParamTensor&) { return true; });
}

int64_t muon_scratch(const std::vector<ParamTensor>& table) {
  int64_t most = 0;
  for (const ParamTensor& tensor : table) {
    if (!tensor.muon || !tensor.trainable()) continue;
    most = std::max(most, muon_scratch(static_cast<int>(tensor.rows / tensor.stacked), static_cast<int>(tensor.cols)));
  }
  return most;
}

int64_t num_parameters(const std::vector<ParamTensor>& table) {
  int64_t n = 0;
  for (const ParamTensor& tensor : table) n += tensor.file_size();
  return n;
}

int64_t num_trainable(const std::vector<ParamTensor>& table) {
  int64_t n = 0;
  for (const ParamTensor& tensor : table) n += tensor.trainable() ? tensor.file_size() : 0;
  return n;
}

int last_trained_layer(const std::vector<ParamTensor>& table, int num_layers) {
  int last = num_layers + 1;
  for (const ParamTensor& tensor : table) {
    if (!tensor.trainable()) continue;
    const bool under_head = tensor.layer < num_layers || tensor.role == Role::norm;
    if (under_head) last = std::min(last, std::max(tensor.layer, 0));
  }
  return last;
}
