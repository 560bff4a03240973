#include "llm/models/exchange.h"

#include <stdexcept>
#include <utility>

Exchange::Exchange(int num_layers, const ModelOptions& options, const std::vector<ParamTensor>& table)
    : num_layers_(num_layers),
      options_(options),
      units_(options.ranks > 1 ? param_units(table, options.ranks) : std::vector<ParamUnit>()),
      gathering_(units_.size()),
      reducing_(units_.size()),
      whole_(units_.size()) {
  if (options.ranks > 1 && (!options.comm || options.comm->size() != options.ranks)) {
    throw std::logic_error("a model of several processes without a Comm of that size");
  }
}

void Exchange::bind(const Memory& params, const Memory& grads, std::function<void(void*, const void*, int64_t)> add,
                    std::function<void(void*, int64_t)> clear) {
  params_ = params;
  grads_ = grads;
  add_ = std::move(add);
  clear_ = std::move(clear);
}

// ---- where a unit is -----------------------------------------------------------------------------------------------

char* Exchange::whole(Arena arena, int u) const {
  const Memory& memory = arena == Arena::params ? params_ : grads_;
  const bool for_a_while = sharded(options_, arena);
  return static_cast<char*>(for_a_while ? memory.whole : memory.arena) +
         (for_a_while ? unit(u).whole_at : unit(u).offset) * bytes_of(memory.number);
}

int64_t Exchange::own_at(Arena arena, int u) const {
  return sharded(options_, arena) ? unit(u).kept_at : unit(u).offset + rank() * unit(u).shard;
}

char* Exchange::own(Arena arena, int u) const {
  const Memory& memory = arena == Arena::params ? params_ : grads_;
  return static_cast<char*>(memory.arena) + own_at(arena, u) * bytes_of(memory.number);
}

void Exchange::wait_for(std::vector<Comm::Ticket>& tickets) {
  for (Comm::Ticket& ticket : tickets) {
    if (ticket > 0) comm().wait(ticket);
    ticket = 0;
  }
}

// ---- parameters ----------------------------------------------------------------------------------------------------

// With sharded parameters: queues gathering the unit's into the place where they are whole, unless they are there.
void Exchange::gather(int u) {
  if (!parallel() || !sharded(options_, Arena::params) || whole_[static_cast<size_t>(u)]) return;
  for (size_t v = 0; v < units_.size(); ++v) {
    if (units_[v].whole_at == unit(u).whole_at) whole_[v] = false;
  }
  whole_[static_cast<size_t>(u)] = true;
  gathering_[static_cast<size_t>(u)] =
      comm().all_gather(whole(Arena::params, u), own(Arena::params, u), unit(u).shard, params_.number);
}

// Before its parameters are used: waits until they have arrived.
void Exchange::need(int u) {
  if (!parallel()) return;
  gather(u);
  if (Comm::Ticket& ticket = gathering_[static_cast<size_t>(u)]; ticket > 0) {
    comm().wait(ticket);
    ticket = 0;
  }
}

void Exchange::begin_forward() {
  layer_ = -1;
  gather(0);
  gather(1);
  need(0);
}

void Exchange::gather_changed() {
  if (!in_parts()) return;
  whole_.assign(units_.size(), false);
  if (sharded(options_, Arena::params)) return;
  for (size_t u = 0; u < units_.size(); ++u) {
    const int k = static_cast<int>(u);
    gathering_[u] = comm().all_gather(whole(Arena::params, k), own(Arena::params, k), unit(k).shard, params_.number);
  }
}

void Exchange::settle_params() { wait_for(gathering_); }

// ---- gradients -----------------------------------------------------------------------------------------------------

void Exchange::begin_backward(bool is_last) {
  if (!parallel()) return;
  last_backward_ = is_last;
  if (sums_ != Sums::none) {
    throw std::logic_error("backward() after the gradients were summed: zero_grad() comes first");
  }
  begin_gradients(0);
  begin_gradients(num_layers_ + 1);
}

// Before a backward writes a unit's gradients: clears them if they are sharded.
void Exchange::begin_gradients(int u) {
  if (!parallel() || !sharded(options_, Arena::grads)) return;
  for (size_t v = 0; v < units_.size(); ++v) {
    if (units_[v].whole_at != unit(u).whole_at || reducing_[v] == 0) continue;
    comm().wait(reducing_[v]);
    reducing_[v] = 0;
  }
  clear_(whole(Arena::grads, u), unit(u).size);
}

// A backward has completed a unit's gradients: queues their sum, if it is due.
void Exchange::reduce(int u) {
  if (!parallel()) return;
  Comm::Ticket& ticket = reducing_[static_cast<size_t>(u)];
  const int64_t shard = unit(u).shard;
  char* sum = whole(Arena::grads, u);
  if (sharded(options_, Arena::grads)) {  // what earlier backwards left goes through the sum, too
    add_(sum + rank() * shard * bytes_of(grads_.number), own(Arena::grads, u), shard);
    ticket = comm().reduce_scatter(own(Arena::grads, u), sum, shard, grads_.number);
  } else if (last_backward_) {
    ticket = options_.zero > 0 ? comm().reduce_scatter(own(Arena::grads, u), sum, shard, grads_.number)
                               : comm().all_reduce(sum, unit(u).size, grads_.number);
    sums_ = Sums::queued;
  }
}

void Exchange::finish_gradients() {
  if (!parallel()) return;
  if (!sharded(options_, Arena::grads) && sums_ == Sums::none) {
    last_backward_ = true;
    for (int u = num_layers_ + 1; u >= 0; --u) reduce(u);
  }
  wait_for(reducing_);
  last_backward_ = false;
  if (!sharded(options_, Arena::grads)) sums_ = Sums::done;
}

void Exchange::forget_gradients() {
  if (!parallel()) return;
  settle();
  last_backward_ = false;
  sums_ = Sums::none;
}

// ---- waiting -------------------------------------------------------------------------------------------------------

void Exchange::settle() {
  settle_params();
  wait_for(reducing_);
}

void Exchange::arrive(Arena arena) {
  if (arena == Arena::params) settle_params();
  if (arena == Arena::grads) finish_gradients();
}
