#include "llm/models/plan_ops.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "kernels/scratch.h"
#include "llm/support/error.h"

namespace {

// Follows what is in each activation from operation to operation.
class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan), states_(plan.buffers.size()) {}

  void check() {
    for (const PlannedOp& op : plan_.ops) {
      for (const Span& read : op.reads) check_read(op, buffer_of(op, read));
      std::set<size_t> written;
      for (const Span& write : op.writes) {
        const size_t k = buffer_of(op, write);
        if (!written.insert(k).second) wrong(op, "writes two results to " + plan_.buffers[k].name);
        bool in_place = false;
        for (const Span& read : op.reads) {
          if (buffer_of(op, read) != k) continue;
          if (read.data != write.data) wrong(op, "reads " + plan_.buffers[k].name + " and writes another part of it");
          in_place = true;
        }
        note_write(op, k, in_place);
      }
    }
  }

 private:
  struct State {
    const PlannedOp* writer = nullptr;               // the last that set it
    std::set<int> forward_layers = {};               // in whose visits forward set it
    std::map<std::pair<int, bool>, int> times = {};  // that a layer set it, in forward or again
  };

  [[noreturn]] static void wrong(const PlannedOp& op, const std::string& what) {
    fail("the walk of layer %d: %s%s%s %s", op.layer, op.name, op.of[0] ? " of " : "", op.of, what.c_str());
  }

  size_t buffer_of(const PlannedOp& op, const Span& span) const {
    const size_t k = buffer_at(plan_, span.data);
    if (k == plan_.buffers.size()) {
      wrong(op, "works on memory that is not in the tables of tensors and activations");
    }
    const PlannedBuffer& b = plan_.buffers[k];
    if (static_cast<const std::byte*>(span.data) + span.bytes > b.data + b.bytes) {
      wrong(op, "goes beyond the end of " + b.name);
    }
    return k;
  }

  void check_read(const PlannedOp& op, size_t k) {
    const PlannedBuffer& buffer = plan_.buffers[k];
    if (!buffer.activation) return;
    const State& state = states_[k];
    if (!state.writer) wrong(op, "reads " + buffer.name + ", which no operation has written");
    const bool of_forward = state.writer->phase == Phase::forward || state.writer->again;
    if (op.phase != Phase::backward || op.again || !of_forward) return;
    if (state.forward_layers.size() > 1 && state.writer->layer != op.layer) {
      wrong(op, strprintf("reads %s as layer %d left it: activations that alias", buffer.name.c_str(),
                          state.writer->layer));
    }
    if (const auto found = state.times.find({op.layer, state.writer->again});
        found != state.times.end() && found->second > 1) {
      wrong(op, "reads " + buffer.name + ", which two operations of the layer have set: activations that alias");
    }
  }

  void note_write(const PlannedOp& op, size_t k, bool in_place) {
    State& state = states_[k];
    if (in_place) return;
    if (op.phase == Phase::forward) state.forward_layers.insert(op.layer);
    if (op.phase == Phase::forward || op.again) ++state.times[{op.layer, op.again}];
    state.writer = &op;
  }

  const Plan& plan_;
  std::vector<State> states_;
};

}  // namespace

size_t buffer_at(const Plan& plan, const void* data) {
  const std::byte* at = static_cast<const std::byte*>(data);
  const auto after = std::upper_bound(plan.buffers.begin(), plan.buffers.end(), at,
                                      [](const std::byte* x, const PlannedBuffer& b) { return x < b.data; });
  if (after == plan.buffers.begin() || at >= (after - 1)->data + (after - 1)->bytes) return plan.buffers.size();
  return static_cast<size_t>(after - 1 - plan.buffers.begin());
}

void check_plan(const Plan& plan) { Checker(plan).check(); }

int64_t gpu_scratch_bytes(const std::vector<PlannedOp>& ops) {
  int64_t most = 0;
  for (const PlannedOp& op : ops) {
    const std::string name = op.name;
    const int N = static_cast<int>(op.N), C = static_cast<int>(op.C), OC = static_cast<int>(op.OC);
    int64_t bytes = 0;
    if (name == "linear_backward" || name == "linear_gelu_backward" || name == "matmul_backward") {
      bytes = matmul_backward_scratch(N, C, OC);
    } else if (name == "attention_backward") {
      bytes = attention_backward_scratch(op.B, op.T, op.NH);
    } else if (name == "norm_backward") {
      bytes = layernorm_backward_scratch(N, C);
    } else if (name == "embedding_backward") {
      bytes = embedding_backward_scratch(op.B, op.T, C, op.V);
    }
    most = std::max(most, bytes);
  }
  return most;
}
