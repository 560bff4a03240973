// Units of parameters and gradients on their way between processes (ParamUnit, ZeRO), as a pass visits the layers. With
// a single process there is nothing to exchange.
#pragma once

#include <functional>
#include <vector>

#include "llm/distributed/comm.h"
#include "llm/models/options.h"
#include "llm/models/sharding.h"
#include "llm/models/tensor_table.h"

class Exchange {
 public:
  // The memory of an arena, and of the units that are temporarily whole if it is sharded.
  struct Memory {
    void *arena = nullptr, *whole = nullptr;
    Number number = Number::f32;
  };

  // Throws std::logic_error for several processes without a Comm of that size.
  Exchange(int num_layers, const ModelOptions& options, const std::vector<ParamTensor>& table);
  // Gives it parameters and gradients: to += from, and = 0, for n gradients.
  void bind(const Memory& params, const Memory& grads, std::function<void(void* to, const void* from, int64_t n)> add,
            std::function<void(void* to, int64_t n)> clear);

  bool parallel() const { return options_.ranks > 1; }
  bool in_parts() const { return parallel() && options_.zero > 0; }  // an update works only on this rank's parts
  Comm& comm() const { return *options_.comm; }
  int rank() const { return parallel() ? comm().rank() : 0; }
  const std::vector<ParamUnit>& units() const { return units_; }

  // Visits the layers 0, 1, ...: each with its parameters, and while it computes, the next one's arrive. Those
  // of the embeddings are there from begin_forward() on, those of the head after the last layer.
  void begin_forward();
  template <class Visit>
  void forward(Visit&& visit);
  // Visits the layers from the last down to `end`, each with its parameters, with gradients to add to, and after
  // again(l); when visit(l) is done, its gradients' sum is queued. Before it those of the head, after it, by
  // end_backward(), those of the embeddings; is_last: of a step, so that they are summed over the processes. Throws
  // std::logic_error if the gradients are sums already.
  void begin_backward(bool is_last);
  template <class Again, class Visit>
  void backward(int end, Again&& again, Visit&& visit);
  template <class Visit>
  void backward(int end, Visit&& visit) {
    backward(
        end, [](int) {}, visit);
  }
  void end_backward() { reduce(0); }
  int layer() const { return layer_; }       // that is visited: -1 before the first, their number after the last
  bool repeats() const { return repeats_; }  // whether again() is at work
  void gather_changed();     // own parts of all parameters have changed: all ranks get them, now or when needed
  void settle_params();      // waits for all parameters on their way
  void finish_gradients();   // waits for the sums, which it queues if no backward did
  void forget_gradients();   // they are about to be cleared
  void settle();             // waits for all that is on its way: before memory is freed
  void arrive(Arena arena);  // waits for what is on its way to an arena: before it is read

  // The first element of this rank's part of a unit, in the memory of an arena (parameters, gradients).
  int64_t own_at(Arena arena, int u) const;

 private:
  const ParamUnit& unit(int u) const { return units_[static_cast<size_t>(u)]; }
  char* whole(Arena arena, int u) const;
  char* own(Arena arena, int u) const;
  void gather(int u);
  void need(int u);
  void begin_gradients(int u);
  void reduce(int u);
  void wait_for(std::vector<Comm::Ticket>& tickets);

  enum class Sums { none, queued, done };  // of gradients that are not sharded; sharded ones are always sums
  const int num_layers_;
  const ModelOptions options_;
  const std::vector<ParamUnit> units_;
  Memory params_, grads_;
  std::function<void(void*, const void*, int64_t)> add_;
  std::function<void(void*, int64_t)> clear_;
  std::vector<Comm::Ticket> gathering_, reducing_;  // of units; 0: nothing to wait for
  std::vector<bool> whole_;                         // of a sharded arena: whether a unit's parameters are whole
  bool last_backward_ = false;                      // of a step
  Sums sums_ = Sums::none;
  int layer_ = -1;
  bool repeats_ = false;
};

template <class Visit>
void Exchange::forward(Visit&& visit) {
  for (int l = 0; l < num_layers_; ++l) {
    gather(l + 2);  // the next unit arrives meanwhile
    need(l + 1);
    layer_ = l;
    visit(l);
  }
  need(num_layers_ + 1);
  layer_ = num_layers_;
}

template <class Again, class Visit>
void Exchange::backward(int end, Again&& again, Visit&& visit) {
  reduce(num_layers_ + 1);
  for (int l = num_layers_ - 1; l >= end; --l) {
    if (l > end) gather(l);  // the layer below arrives meanwhile
    need(l + 1);
    begin_gradients(l + 1);
    layer_ = l;
    repeats_ = true;
    again(l);
    repeats_ = false;
    visit(l);
    reduce(l + 1);
  }
  layer_ = -1;
}
