// The part that models on all devices share.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "llm/models/model.h"
#include "llm/models/sharding.h"
#include "llm/support/error.h"

// ---- forward -------------------------------------------------------------------------------------------------------

void Model::forward(const int32_t* inputs, int B, int T, Pass pass) {
  check_batch(inputs, B, T);
  if (config.num_classes > 0 && (pooling_B_ != B || pooling_T_ != T)) {
    throw std::logic_error("forward() of a classifier without set_pooling() of the batch's shape");
  }
  if (!next_documents_.empty() && (documents_B_ != B || documents_T_ != T)) {
    throw std::logic_error("forward() of another shape than set_documents() was told");
  }
  const bool into_cache = pass == Pass::generate && cache_B_ > 0;
  if (into_cache && !next_documents_.empty()) throw std::logic_error("a cache of rows that hold several documents");
  if (into_cache && (B != cache_B_ || T > cache_T_)) {
    fail("a batch of %d sequences of %d tokens does not fit the cache, which holds %d of %d", B, T, cache_B_, cache_T_);
  }
  documents_ = std::exchange(next_documents_, {});
  cached_ = 0;
  run(inputs, B, T, pass);
  if (into_cache) cached_ = T;
}

void Model::set_documents(const int32_t* first, int B, int T) {
  if (!config.causal || config.num_classes > 0) {
    throw std::logic_error("set_documents() of a classifier, or of a model that is not causal");
  }
  for (int i = 0; i < B * T; ++i) {
    const int t = i % T;
    if (first[i] != t && (t == 0 || first[i] != first[i - 1])) {
      throw std::logic_error("set_documents(): position " + std::to_string(t) + " of row " + std::to_string(i / T) +
                             " neither begins a document nor belongs to the one before it");
    }
  }
  next_documents_.assign(first, first + static_cast<int64_t>(B) * T);
  documents_B_ = B;
  documents_T_ = T;
}

void Model::set_pooling(const float* weights, int B, int T) {
  if (config.num_classes == 0) throw std::logic_error("set_pooling() of a model that is not a classifier");
  if (B < 1 || T < 1) throw std::logic_error("set_pooling() of no positions");
  pooling_.assign(weights, weights + static_cast<int64_t>(B) * T);
  pooling_B_ = B;
  pooling_T_ = T;
}

void Model::set_cache(int B, int T) {
  if (config.num_classes > 0) throw std::logic_error("set_cache() of a classifier");
  const bool none = B == 0 && T == 0;
  if (!none && !config.causal) {
    fail("keys and values of a model that is not causal cannot be kept: each new token changes them");
  }
  if (!none && (B < 1 || T < 1 || T > config.max_seq_len)) {
    fail("a cache of %d sequences of %d tokens: expected at least one of each, and the model's context of %d at most",
         B, T, config.max_seq_len);
  }
  cache_B_ = cache_T_ = cached_ = 0;
  resize_cache(B, T);
  cache_B_ = B;
  cache_T_ = T;
}

void Model::decode(const int32_t* ids) {
  if (cached_ == 0) fail("decode() needs a forward(Pass::generate) after set_cache() to continue from");
  if (cached_ >= cache_T_)
    fail("a sequence of %d tokens does not fit the cache, which holds %d", cached_ + 1, cache_T_);
  check_batch(ids, cache_B_, 1);
  documents_.clear();
  run(ids, cache_B_, 1, Pass::generate);
  ++cached_;
}

// ---- what every model refuses --------------------------------------------------------------------------------------

void Model::check_batch(const int32_t* inputs, int B, int T) const {
  if (B < 1 || T < 1) fail("a batch of %d sequences of %d tokens: expected at least one of each", B, T);
  if (T > config.max_seq_len) {
    fail("a sequence of %d tokens does not fit the model's context of %d", T, config.max_seq_len);
  }
  if (B > std::numeric_limits<int>::max() / T) {
    fail("a batch of %d sequences of %d tokens: expected below 2^31 in all", B, T);
  }
  for (int i = 0; i < B * T; ++i) {
    if (inputs[i] < 0 || inputs[i] >= config.vocab_size) {
      fail("token %d at position %d is outside the vocabulary of %d", inputs[i], i, config.vocab_size);
    }
  }
}

int64_t Model::check_targets(const int32_t* targets, int N) const {
  int64_t counted = 0;
  for (int n = 0; n < N; ++n) {
    counted += targets[n] >= 0;
    if (targets[n] < -1 || targets[n] >= config.outputs()) {
      if (config.num_classes > 0) fail("class %d of sequence %d is not among %d", targets[n], n, config.num_classes);
      fail("target %d at position %d is outside the vocabulary of %d", targets[n], n, config.vocab_size);
    }
  }
  return counted;
}

int Model::last_block_of_backward() const {
  int last = config.num_layers + 1;
  for (const ParamTensor& tensor : table) {
    if (!tensor.trainable()) continue;
    const bool under_head = tensor.layer < config.num_layers || tensor.role == Role::norm;
    if (under_head) last = std::min(last, std::max(tensor.layer, 0));
  }
  return last;
}

void Model::check_dropout(float dropout) {
  if (!(dropout >= 0 && dropout < 1)) fail("dropout is %g, expected 0 <= dropout < 1", static_cast<double>(dropout));
}

// ---- several processes ---------------------------------------------------------------------------------------------

Model::Model(const ModelConfig& c, const ModelOptions& o)
    : config(c),
      options(o),
      table(param_table(c, o)),
      units(o.ranks > 1 ? param_units(table, o.ranks) : std::vector<ParamUnit>()),
      comm_(o.comm),
      gathering_(units.size()),
      reducing_(units.size()),
      whole_(units.size()) {
  if (o.ranks > 1 && (!comm_ || comm_->size() != o.ranks)) {
    throw std::logic_error("a model of several processes without a Comm of that size");
  }
}

// Bytes per number of an arena that is exchanged: the implementation gives the types.
int64_t Model::element_bytes(Arena arena) const {
  return arena == Arena::params ? bytes_of(param_number()) : bytes_of(grad_number());
}

void* Model::whole(Arena arena, int u) const {
  const bool for_a_while = sharded(options, arena);
  char* memory = static_cast<char*>(for_a_while ? whole_memory(arena) : arena_memory(arena));
  return memory + (for_a_while ? unit(u).whole_at : unit(u).offset) * element_bytes(arena);
}

void* Model::own(Arena arena, int u) const {
  const int64_t at = sharded(options, arena) ? unit(u).kept_at : unit(u).offset + comm().rank() * unit(u).shard;
  return static_cast<char*>(arena_memory(arena)) + at * element_bytes(arena);
}

void Model::gather(int u) {
  if (!parallel() || !sharded(options, Arena::params) || whole_[static_cast<size_t>(u)]) return;
  for (size_t v = 0; v < units.size(); ++v) {
    if (units[v].whole_at == unit(u).whole_at) whole_[v] = false;
  }
  whole_[static_cast<size_t>(u)] = true;
  gathering_[static_cast<size_t>(u)] =
      comm().all_gather(whole(Arena::params, u), own(Arena::params, u), unit(u).shard, param_number());
}

void Model::need(int u) {
  if (!parallel()) return;
  gather(u);
  if (Comm::Ticket& ticket = gathering_[static_cast<size_t>(u)]; ticket > 0) {
    comm().wait(ticket);
    ticket = 0;
  }
}

void Model::gather_changed() {
  if (!in_parts()) return;
  whole_.assign(units.size(), false);
  if (sharded(options, Arena::params)) return;
  for (int u = 0; u <= last_unit(); ++u) {
    gathering_[static_cast<size_t>(u)] =
        comm().all_gather(whole(Arena::params, u), own(Arena::params, u), unit(u).shard, param_number());
  }
}

void Model::wait_for(std::vector<Comm::Ticket>& tickets) {
  for (Comm::Ticket& ticket : tickets) {
    if (ticket > 0) comm().wait(ticket);
    ticket = 0;
  }
}

void Model::settle_params() { wait_for(gathering_); }

void Model::begin_backward() {
  if (!parallel()) return;
  if (sums_ != Sums::none)
    throw std::logic_error("backward() after the gradients were summed: zero_grad() comes first");
  begin_gradients(0);
  begin_gradients(last_unit());
}

void Model::begin_gradients(int u) {
  if (!parallel() || !sharded(options, Arena::grads)) return;
  for (size_t v = 0; v < units.size(); ++v) {
    if (units[v].whole_at != unit(u).whole_at || reducing_[v] == 0) continue;
    comm().wait(reducing_[v]);
    reducing_[v] = 0;
  }
  clear_grads(whole(Arena::grads, u), unit(u).size);
}

void Model::reduce(int u) {
  if (!parallel()) return;
  Comm::Ticket& ticket = reducing_[static_cast<size_t>(u)];
  const int64_t shard = unit(u).shard, element = bytes_of(grad_number());
  char* sum = static_cast<char*>(whole(Arena::grads, u));
  if (sharded(options, Arena::grads)) {  // what earlier backwards left goes through the sum, too
    add_grads(sum + comm().rank() * shard * element, own(Arena::grads, u), shard);
    ticket = comm().reduce_scatter(own(Arena::grads, u), sum, shard, grad_number());
  } else if (last_backward_) {
    ticket = options.zero > 0 ? comm().reduce_scatter(own(Arena::grads, u), sum, shard, grad_number())
                              : comm().all_reduce(sum, unit(u).size, grad_number());
    sums_ = Sums::queued;
  }
}

void Model::finish_gradients() {
  if (!parallel()) return;
  if (!sharded(options, Arena::grads) && sums_ == Sums::none) {
    last_backward_ = true;
    for (int u = last_unit(); u >= 0; --u) reduce(u);
  }
  wait_for(reducing_);
  last_backward_ = false;
  if (!sharded(options, Arena::grads)) sums_ = Sums::done;
}

// Reading a model changes nothing in it, so read() and view() are const; but numbers from other ranks may still be on
// their way. Only this function waits for them.
void Model::arrive(Arena arena) const {
  Model& self = const_cast<Model&>(*this);
  if (arena == Arena::params) self.settle_params();
  if (arena == Arena::grads) self.finish_gradients();
}

void Model::settle() {
  settle_params();
  wait_for(reducing_);
}

void Model::forget_gradients() {
  if (!parallel()) return;
  settle();
  last_backward_ = false;
  sums_ = Sums::none;
}
