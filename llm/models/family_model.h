// A model of a family (gpt2.h) on a device: what all of these share. The device (cpu_device.h, gpu_device.cuh) has
// memory, the operations, a place for batches, and the arithmetic of an update.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "llm/models/activations.h"
#include "llm/models/model.h"
#include "llm/models/plan_ops.h"
#include "llm/models/update.h"

template <class Family, class Device>
class FamilyModel : public Model {
 public:
  using floatX = typename Device::floatX;
  using grad_t = typename Device::grad_t;    // of gradients
  using state_t = typename Device::state_t;  // of master weights, moments and average
  using Ops = typename Device::Ops;
  using sum_t = typename Ops::sum_t;
  using Memory = typename Device::Memory;

  // Allocates all but the activations, in zeros.
  template <class... DeviceArguments>
  FamilyModel(const ModelConfig& config, const ModelOptions& options, DeviceArguments&&... device);
  ~FamilyModel() override {
    exchange_.settle();
    device_.finish();
  }
  FamilyModel(const FamilyModel&) = delete;
  FamilyModel& operator=(const FamilyModel&) = delete;

  void read_logits(int64_t row, float* out) override;
  std::unique_ptr<Decoder> make_decoder(int pages, int max_rows) override {
    return std::make_unique<RowDecoder>(*this, pages, max_rows);
  }
  double loss(const int32_t* targets, double* sum) override;
  void backward(const int32_t* targets, const float* weights, bool is_last = false) override;
  void read_losses(float* out) override { device_.read(acts.losses, out, head_rows(config, B_, T_)); }
  void zero_grad() override;
  double step_loss() override { return device_.loss(); }
  double grad_norm() override;
  void update(const OptimizerConfig& optimizer, float grad_clip) override;
  StepResult result(int steps_back) override;
  void exchange_average() override;
  int64_t updates() const override { return device_.updates(); }
  void set_updates(int64_t count) override { device_.set_updates(count); }
  void read(Arena arena, const ParamTensor& tensor, float* out) const override;
  void write(Arena arena, const ParamTensor& tensor, const float* in) override;
  const float* view(Arena arena, const ParamTensor& tensor) const override;

  int64_t allocated_bytes() const;
  const ParamTensor* tensor_at(const void* params) const;  // the tensor whose parameters begin there, or null

  typename Family::template Params<floatX> params;
  typename Family::template Params<grad_t> grads;
  typename Family::template Activations<floatX, sum_t> acts;  // bound from the first forward on

 protected:
  void resize(int B, int T);
  virtual void prepare(int /* B */, int /* T */) {}  // for training at (B, T)

  mutable Device device_;

 private:
  // The model's own forward, over rows of a cache.
  class RowDecoder final : public Decoder {
   public:
    RowDecoder(FamilyModel& model, int pages, int max_rows);
    Logits logits(int i) override;
    void copy_page(int to, int from) override;

   private:
    void run(const DecodeRows& rows) override;
    void stage(const DecodeRows& rows);  // into the model's batch and cache
    static FamilyModel& with_room(FamilyModel& model, int rows);

    FamilyModel& model_;
    const int64_t page_;  // elements of a page
    Memory memory_;
    typename Device::Integers integers_;
    int64_t pass_ = -1;  // number of its last pass among the model's
    std::vector<float> logits_;
  };

  void run(const ForwardInput& in) override;
  Walk<Family, Ops> walk();
  AdapterPass<floatX> adapter_pass() const;
  StepPart step_part(StepPart::What what) const;
  void read_row(int64_t row, float* out);  // of the logits; makes them, with those of other rows, if they are not there
  void clear_grads(bool set_first) const;
  void settle_grads() const;
  void queue_squares();
  UpdateArenas<floatX, grad_t, state_t> arenas() const;
  // work(pointer) with an arena's memory, in state_t, grad_t or, for moments in it, bf16: for parameters the master
  // copy.
  template <class Work>
  auto with_states(Arena arena, Work&& work) const;
  bool in_bf16(Arena arena) const {
    return options.moments == Moments::bf16 && (arena == Arena::m || arena == Arena::v);
  }
  template <class T>
  void read_parts(const T* own, const ParamTensor& tensor, float* out) const;

  mutable Exchange exchange_;  // reading a model changes nothing in it, but waits for what is on its way
  Memory param_memory_, master_memory_, grad_memory_, m_memory_, v_memory_, average_memory_, whole_params_,
      whole_grads_, muon_memory_, activation_memory_;
  AdapterScratch<floatX> adapter_scratch_;
  int B_ = 0, T_ = 0;
  Pass pass_ = Pass::evaluate;
  BatchRows batch_;  // of the last forward
  typename Ops::Cache cache_;
  PassDropout dropout_;
  int64_t head_rows_ = 0;   // of logits that the last forward offers; 0 after backward
  int64_t logits_at_ = -1;  // the first in acts.logits; -1: none
  int64_t passes_ = 0;      // forwards so far
  // After zero_grad() the gradients that the first backward sets are stale and count as zeros; settle_grads() clears
  // them for readers before that.
  mutable bool grads_unset_ = false;
  bool squares_known_ = false;  // whether the device summed those of the gradients that were set, and nothing was added
};

// ---- memory --------------------------------------------------------------------------------------------------------

template <class Family, class Device>
template <class... DeviceArguments>
FamilyModel<Family, Device>::FamilyModel(const ModelConfig& c, const ModelOptions& o, DeviceArguments&&... device)
    : Model(c, o), device_(std::forward<DeviceArguments>(device)...), exchange_(c.num_layers, o, table) {
  const auto memory = [&](int64_t elements, size_t element) {
    return device_.memory(elements * static_cast<int64_t>(element));
  };
  const auto kept = [&](Arena arena) { return kept_size(table, options, arena); };
  param_memory_ = memory(kept(Arena::params), sizeof(floatX));
  if (Device::kHasMaster && options.master_weights) master_memory_ = memory(kept(Arena::m), sizeof(state_t));
  grad_memory_ = memory(kept(Arena::grads), sizeof(grad_t));
  const size_t moment = in_bf16(Arena::m) ? sizeof(typename Device::bf16) : sizeof(state_t);
  m_memory_ = memory(kept(Arena::m), moment);
  v_memory_ = memory(kept(Arena::v), moment);
  average_memory_ = memory(kept(Arena::average), sizeof(state_t));
  muon_memory_ = memory(muon_scratch(table), sizeof(floatX));
  const std::vector<ParamUnit>& units = exchange_.units();
  if (sharded(options, Arena::params)) {
    whole_params_ = memory(whole_size(units), sizeof(floatX));
    bind_units<Family>(config, options.lora, table, units, params, whole_params_.template as<floatX>());
  } else {
    bind_params<Family>(config, options.lora, table, params, param_memory_.template as<floatX>());
  }
  if (sharded(options, Arena::grads)) {
    whole_grads_ = memory(whole_size(units), sizeof(grad_t));
    bind_units<Family>(config, options.lora, table, units, grads, whole_grads_.template as<grad_t>());
  } else {
    bind_params<Family>(config, options.lora, table, grads, grad_memory_.template as<grad_t>(), Arena::grads);
  }
  exchange_.bind(
      {param_memory_.template as<void>(), whole_params_.template as<void>(), Device::kParamNumber},
      {grad_memory_.template as<void>(), whole_grads_.template as<void>(), Device::kGradNumber},
      [this](void* to, const void* from, int64_t n) {
        device_.add(static_cast<grad_t*>(to), static_cast<const grad_t*>(from), n);
      },
      [this](void* to, int64_t n) { device_.clear(static_cast<grad_t*>(to), n); });
  device_.attach(table, exchange_);
  check_plan(plan_of<Family, float>(config, options, 1, 1, 1, 0.1f));
}

template <class Family, class Device>
void FamilyModel<Family, Device>::resize(int B, int T) {
  if (B == B_ && T == T_) return;
  B_ = T_ = 0;  // if an allocation throws, nothing is bound
  head_rows_ = 0;
  const auto bind = [&](std::byte* arena) {
    const int64_t rows = device_.logits_rows(config, options, head_rows(config, B, T));
    return bind_activations<Family>(config, options, table, B, T, rows, acts, adapter_scratch_, arena);
  };
  const int64_t bytes = bind(nullptr);
  if (bytes > activation_memory_.bytes()) {
    device_.wait();
    device_.forget_parts();
    activation_memory_ = Memory();  // the old memory is freed before the new is allocated
    activation_memory_ = device_.memory(bytes);
  }
  device_.reserve(config, options, B, T);
  bind(activation_memory_.template as<std::byte>());
  B_ = B;
  T_ = T;
}

template <class Family, class Device>
int64_t FamilyModel<Family, Device>::allocated_bytes() const {
  int64_t sum = device_.allocated_bytes();
  for (const Memory* memory : {&param_memory_, &master_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_,
                               &whole_params_, &whole_grads_, &muon_memory_, &activation_memory_}) {
    sum += memory->bytes();
  }
  return sum;
}

template <class Family, class Device>
const ParamTensor* FamilyModel<Family, Device>::tensor_at(const void* at) const {
  for (const ParamTensor& tensor : table) {
    if (param_memory_.template as<floatX>() + tensor.offset == at) return &tensor;
  }
  return nullptr;
}

// ---- forward and backward ------------------------------------------------------------------------------------------

template <class Family, class Device>
AdapterPass<typename Device::floatX> FamilyModel<Family, Device>::adapter_pass() const {
  const LoraOptions& lora = options.lora;
  if (lora.rank == 0) return {};
  const float rate = pass_ == Pass::train ? lora.dropout : 0;
  return {
      lora.rank, lora.alpha / static_cast<float>(lora.rank), {rate, dropout_.seed, dropout_.pass}, adapter_scratch_};
}

template <class Family, class Device>
Walk<Family, typename Device::Ops> FamilyModel<Family, Device>::walk() {
  PassDropout dropout = dropout_;
  if (pass_ != Pass::train) dropout.rate = 0;
  const int64_t rows = device_.logits_rows(config, options, head_rows(config, B_, T_));
  return {config, params,  grads,  acts,       exchange_, options.recompute, B_, T_, pass_,
          batch_, dropout, cache_, head_rows_, rows,      logits_at_};
}

template <class Family, class Device>
StepPart FamilyModel<Family, Device>::step_part(StepPart::What what) const {
  return {.what = what,
          .B = B_,
          .T = T_,
          .pass = pass_,
          .documents = batch_.documents != nullptr,
          .pooling = batch_.pooling != nullptr,
          .set = what == StepPart::What::backward && grads_unset_,
          .logits_at = logits_at_,
          .dropout = pass_ == Pass::train ? dropout_.rate : 0,
          .seed = dropout_.seed};
}

template <class Family, class Device>
void FamilyModel<Family, Device>::run(const ForwardInput& in) {
  resize(in.B, in.T);
  if (in.pass == Pass::train) prepare(in.B, in.T);
  batch_ = device_.stage(in.tokens, in.documents, in.pooling, in.B * in.T);
  if (in.pass == Pass::generate && in.T > 1 && config.num_classes == 0) {
    std::vector<int32_t> last(static_cast<size_t>(in.B));
    for (int b = 0; b < in.B; ++b) last[static_cast<size_t>(b)] = (b + 1) * in.T - 1;
    device_.stage_rows(batch_, last.data(), in.B);
  }
  pass_ = in.pass;
  dropout_ = in.dropout;
  head_rows_ = pass_ == Pass::generate ? in.B : head_rows(config, in.B, in.T);
  logits_at_ = -1;
  ++passes_;
  exchange_.begin_forward();
  device_.begin_pass(dropout_);
  const AdapterPass<floatX> adapters = adapter_pass();
  Ops ops = device_.ops(adapters, pass_);
  const auto forward = [&] {
    Family::forward(ops, walk());
    return logits_at_;
  };
  logits_at_ = pass_ == Pass::generate ? forward() : device_.repeat(step_part(StepPart::What::forward), forward);
  device_.used();
}

template <class Family, class Device>
void FamilyModel<Family, Device>::backward(const int32_t* targets, const float* weights, bool is_last) {
  const int rows = static_cast<int>(head_rows(config, B_, T_));
  if (pass_ != Pass::train || head_rows_ != rows || rows == 0) {
    throw std::logic_error("backward() without forward(Pass::train)");
  }
  check_targets(targets, rows);
  exchange_.begin_backward(is_last);
  device_.stage_targets(batch_, targets, weights, rows);
  const AdapterPass<floatX> adapters = adapter_pass();
  Ops ops = device_.ops(adapters, pass_);
  logits_at_ = device_.repeat(step_part(StepPart::What::backward), [&] {
    Walk<Family, Ops> m = walk();
    m.end = last_trained_layer(table, config.num_layers);
    m.sum = grads_unset_ ? Sum::set : Sum::add;
    Family::backward(ops, m);
    return logits_at_;
  });
  exchange_.end_backward();
  device_.add_loss(acts.losses, batch_.weights, rows);
  device_.used();
  head_rows_ = 0;  // dlogits overwrote the logits: a second backward needs a new forward
  squares_known_ = Device::kSumsSquares && grads_unset_;
  grads_unset_ = false;
}

template <class Family, class Device>
void FamilyModel<Family, Device>::read_logits(int64_t row, float* out) {
  if (pass_ == Pass::decode || row < 0 || row >= head_rows_) {
    throw std::logic_error("read_logits() of a row that the last forward() did not compute");
  }
  read_row(row, out);
}

template <class Family, class Device>
void FamilyModel<Family, Device>::read_row(int64_t row, float* out) {
  const AdapterPass<floatX> adapters = adapter_pass();
  Ops ops = device_.ops(adapters, pass_);
  const Walk<Family, Ops> m = walk();
  head_forward(ops, m, Family::head_input(m), row / m.logits_rows * m.logits_rows);
  device_.read(acts.logits + (row - logits_at_) * config.padded_outputs(), out, config.outputs());
}

template <class Family, class Device>
double FamilyModel<Family, Device>::loss(const int32_t* targets, double* sum) {
  const int rows = static_cast<int>(head_rows(config, B_, T_));
  if (rows == 0 || head_rows_ != rows || pass_ == Pass::generate || pass_ == Pass::decode) {
    throw std::logic_error("loss() without forward()'s logits for every position");
  }
  const int64_t counted = check_targets(targets, rows);
  device_.stage_targets(batch_, targets, nullptr, rows);
  const AdapterPass<floatX> adapters = adapter_pass();
  Ops ops = device_.ops(adapters, pass_);
  const Walk<Family, Ops> m = walk();
  for (int64_t n = 0; n < rows; n += m.logits_rows) {
    const int count = head_forward(ops, m, Family::head_input(m), n);
    ops.classifier_forward(acts.losses + n, acts.logits, batch_.targets + n, count, config.outputs(),
                           config.padded_outputs());
  }
  const double total = device_.sum(acts.losses, rows);
  if (sum) *sum = total;
  return counted > 0 ? total / static_cast<double>(counted) : 0;
}

// ---- decoding ------------------------------------------------------------------------------------------------------

template <class Family, class Device>
FamilyModel<Family, Device>::RowDecoder::RowDecoder(FamilyModel& model, int pages_, int rows)
    : Decoder(model.config, pages_, rows),
      model_(with_room(model, rows)),
      page_(int64_t{2} * kPageTokens * config.kv_channels() * config.num_layers),
      memory_(model.device_.memory(pages * page_ * static_cast<int64_t>(sizeof(floatX)))),
      integers_(int64_t{max_rows} * (5 + pages_of(config.max_seq_len))) {}

template <class Family, class Device>
FamilyModel<Family, Device>& FamilyModel<Family, Device>::RowDecoder::with_room(FamilyModel& model, int rows) {
  model.resize(rows, 1);
  model.device_.reserve_decoding(model.config, rows);
  return model;
}

// One copy to the device: tokens, positions, -positions, the number of each row's sequence in this pass, the rows whose
// logits are wanted, and the pages of these sequences.
template <class Family, class Device>
void FamilyModel<Family, Device>::RowDecoder::stage(const DecodeRows& in) {
  const int64_t N = std::ssize(in.tokens), W = std::ssize(in.wanted);
  const int width = pages_of(*std::max_element(in.positions.begin(), in.positions.end()) + 1);
  int32_t* const begin = integers_.host();
  int32_t* to = std::copy(in.tokens.begin(), in.tokens.end(), begin);
  to = std::copy(in.positions.begin(), in.positions.end(), to);
  to = std::transform(in.positions.begin(), in.positions.end(), to, std::negate<int32_t>());
  int32_t* const wanted = to + N;
  int32_t* page = std::copy(in.wanted.begin(), in.wanted.end(), wanted);
  for (int64_t n = 0, sequences = 0; n < N; ++n) {
    const size_t k = static_cast<size_t>(n);
    if (n == 0 || in.sequences[k] != in.sequences[k - 1]) {
      page = std::copy_n(in.pages.begin() + int64_t{in.sequences[k]} * in.max_pages, width, page);
      ++sequences;
    }
    to[n] = static_cast<int32_t>(sequences - 1);
  }
  const int32_t* at = integers_.send(model_.device_, page - begin);
  model_.batch_ = {.tokens = at, .documents = at + 2 * N, .rows = W == N ? nullptr : at + 4 * N};
  model_.cache_ = {memory_.template as<floatX>(), config.num_layers, {at + N, at + 3 * N, at + 4 * N + W, width}};
}

template <class Family, class Device>
void FamilyModel<Family, Device>::RowDecoder::run(const DecodeRows& in) {
  FamilyModel& m = model_;
  m.resize(max_rows, 1);
  stage(in);
  m.pass_ = Pass::decode;
  m.dropout_ = {};
  m.head_rows_ = std::ssize(in.wanted);
  m.logits_at_ = -1;
  pass_ = ++m.passes_;
  m.exchange_.begin_forward();
  const AdapterPass<floatX> adapters = m.adapter_pass();
  Ops ops = m.device_.ops(adapters, Pass::decode);
  Walk<Family, Ops> walk = m.walk();
  walk.B = static_cast<int>(in.tokens.size());  // of the rows that there is room for
  Family::forward(ops, walk);
}

template <class Family, class Device>
Decoder::Logits FamilyModel<Family, Device>::RowDecoder::logits(int i) {
  if (pass_ != model_.passes_ || i < 0 || i >= model_.head_rows_) {
    throw std::logic_error("logits() of a row that was not wanted, or after another pass of the model");
  }
  logits_.resize(static_cast<size_t>(config.outputs()));
  model_.read_row(i, logits_.data());
  return {logits_.data(), 1, 0};
}

template <class Family, class Device>
void FamilyModel<Family, Device>::RowDecoder::copy_page(int to, int from) {
  if (to < 0 || to >= pages || from < 0 || from >= pages || to == from) {
    throw std::logic_error("copy_page() of a page that does not exist, or to itself");
  }
  floatX* const data = memory_.template as<floatX>();
  model_.device_.copy(data + to * page_, data + from * page_, page_);
}

// ---- gradients and update ------------------------------------------------------------------------------------------

template <class Family, class Device>
void FamilyModel<Family, Device>::zero_grad() {
  exchange_.forget_gradients();
  device_.begin_step();
  squares_known_ = false;
  grads_unset_ = !sharded(options, Arena::grads);
  if (grads_unset_) return clear_grads(false);
  device_.clear(grad_memory_.template as<grad_t>(), kept_size(table, options, Arena::grads));
}

// Those that a step's first backward sets, or the others.
template <class Family, class Device>
void FamilyModel<Family, Device>::clear_grads(bool set_first) const {
  for (const ParamRun& run : grad_runs(table, config, set_first)) {
    device_.clear(grad_memory_.template as<grad_t>() + run.grad_offset, run.size);
  }
}

template <class Family, class Device>
void FamilyModel<Family, Device>::settle_grads() const {
  if (grads_unset_) clear_grads(true);
  grads_unset_ = false;
}

// The squares of the gradients, of this rank's part if the optimizer's state is sharded, go to the device.
template <class Family, class Device>
void FamilyModel<Family, Device>::queue_squares() {
  const grad_t* g = grad_memory_.template as<grad_t>();
  std::vector<std::pair<const grad_t*, int64_t>> stretches;
  const bool known = squares_known_ && !exchange_.parallel();
  if (exchange_.in_parts()) {
    for (size_t u = 0; u < exchange_.units().size(); ++u) {
      stretches.push_back({g + exchange_.own_at(Arena::grads, static_cast<int>(u)), exchange_.units()[u].shard});
    }
  } else if (!known) {
    stretches.push_back({g, arena_size(table, Arena::grads)});
  } else {
    for (const ParamTensor& tensor : table) {
      if (tensor.role != Role::weight && tensor.trainable()) {
        stretches.push_back({g + tensor.grad_offset, tensor.size()});
      }
    }
  }
  device_.queue_squares(stretches, known);
}

template <class Family, class Device>
double FamilyModel<Family, Device>::grad_norm() {
  settle_grads();
  exchange_.finish_gradients();
  queue_squares();
  if (exchange_.in_parts()) exchange_.comm().wait(exchange_.comm().all_reduce(device_.squares(), 1, Number::f64));
  return std::sqrt(device_.read_double(device_.squares()));
}

template <class Family, class Device>
UpdateArenas<typename Device::floatX, typename Device::grad_t, typename Device::state_t>
FamilyModel<Family, Device>::arenas() const {
  return {param_memory_.template as<floatX>(), master_memory_.template as<state_t>(),
          grad_memory_.template as<grad_t>(),  m_memory_.template as<void>(),
          v_memory_.template as<void>(),       average_memory_.template as<state_t>(),
          muon_memory_.template as<floatX>()};
}

template <class Family, class Device>
void FamilyModel<Family, Device>::update(const OptimizerConfig& o, float grad_clip) {
  settle_grads();
  exchange_.finish_gradients();
  exchange_.settle_params();
  queue_squares();
  double* sums = device_.gather_sums(o.signal);
  if (exchange_.parallel()) {
    exchange_.comm().wait(exchange_.comm().all_reduce(sums, exchange_.in_parts() ? 3 : 2, Number::f64));
  }
  if (!device_.prepare_update(o, grad_clip)) return;
  device_.repeat({.what = StepPart::What::update, .update = {o.beta1, o.beta2, o.eps, o.weight_decay, o.momentum}},
                 [&] {
                   device_.update(arenas(), update_plan(table, exchange_, Device::kUpdatesByTensor), options, o);
                   return int64_t{0};
                 });
  exchange_.gather_changed();
  device_.finish_update();
}

template <class Family, class Device>
StepResult FamilyModel<Family, Device>::result(int steps_back) {
  if (steps_back < 0 || steps_back >= device_.results()) {
    throw std::logic_error("result() of an update that is not one of the last two");
  }
  return device_.result(steps_back);
}

template <class Family, class Device>
void FamilyModel<Family, Device>::exchange_average() {
  if (options.ema == 0 || updates() == 0) return;
  exchange_.settle_params();
  const auto at = arenas();
  for (const Stretch& s : update_plan(table, exchange_, false).averaged) {
    device_.exchange(at.params + s.param, at.master ? at.master + s.kept : nullptr, at.average + s.kept, s.size);
  }
  exchange_.gather_changed();
}

// ---- access --------------------------------------------------------------------------------------------------------

template <class Family, class Device>
template <class Work>
auto FamilyModel<Family, Device>::with_states(Arena arena, Work&& work) const {
  static_assert(std::is_same_v<state_t, grad_t>);
  const Memory* memory[] = {Device::kHasMaster ? &master_memory_ : &param_memory_, &grad_memory_, &m_memory_,
                            &v_memory_, &average_memory_};
  const Memory& of = *memory[static_cast<int>(arena)];
  if (in_bf16(arena)) return work(of.template as<typename Device::bf16>());
  return work(of.template as<state_t>());
}

template <class Family, class Device>
void FamilyModel<Family, Device>::read(Arena arena, const ParamTensor& tensor, float* out) const {
  if (arena == Arena::grads) settle_grads();
  exchange_.arrive(arena);
  const floatX* params_at = param_memory_.template as<floatX>();
  const bool in_master = arena == Arena::params && master_memory_.bytes() > 0 && tensor.trainable();
  const auto own = [&] { return exchange_.units()[static_cast<size_t>(tensor.unit)].kept_at; };
  if (arena == Arena::params && !in_master) {
    if (sharded(options, arena)) return read_parts(params_at + own(), tensor, out);
    return device_.read(params_at + tensor.offset, out, tensor.size());
  }
  // The master copy holds what is trained, as gradients do.
  const int64_t offset = tensor.offset_in(arena == Arena::params ? Arena::grads : arena);
  if (offset < 0) {
    std::fill(out, out + tensor.size(), 0.0f);
  } else if (exchange_.in_parts()) {  // from stage 1 on, gradients are sums only in this rank's own part
    const int64_t at = arena == Arena::grads ? exchange_.own_at(arena, tensor.unit) : own();
    with_states(arena, [&](const auto* states) { read_parts(states + at, tensor, out); });
  } else {
    with_states(arena, [&](const auto* states) { device_.read(states + offset, out, tensor.size()); });
  }
}

// Reads a tensor from every rank's part of it; `own`: this rank's part of its unit.
template <class Family, class Device>
template <class T>
void FamilyModel<Family, Device>::read_parts(const T* own, const ParamTensor& tensor, float* out) const {
  constexpr int64_t kAtOnce = 1 << 22;
  constexpr Number kNumber = sizeof(T) == 2 ? Number::bf16 : sizeof(T) == 4 ? Number::f32 : Number::f64;
  const Memory memory = device_.memory(std::min(kAtOnce, tensor.size()) * static_cast<int64_t>(sizeof(T)));
  T* piece = memory.template as<T>();
  const ParamUnit& unit = exchange_.units()[static_cast<size_t>(tensor.unit)];
  for (int r = 0; r < options.ranks; ++r) {
    const TensorPart part = part_of(tensor, unit, r);
    for (int64_t i = 0; i < part.count; i += kAtOnce) {
      const int64_t n = std::min(kAtOnce, part.count - i);
      if (r == exchange_.rank()) device_.copy(piece, own + part.kept_at - unit.kept_at + i, n);
      exchange_.comm().wait(exchange_.comm().broadcast(piece, n, kNumber, r));
      device_.read(piece, out + part.from + i, n);
    }
  }
}

template <class Family, class Device>
void FamilyModel<Family, Device>::write(Arena arena, const ParamTensor& tensor, const float* in) {
  const int64_t offset = tensor.offset_in(arena == Arena::params ? Arena::grads : arena);
  if (offset < 0 && arena != Arena::params) {
    throw std::logic_error("write() to an arena that does not have " + tensor.name);
  }
  if (arena == Arena::grads) {
    settle_grads();
    squares_known_ = false;
  }
  exchange_.settle_params();
  const TensorPart whole{0, tensor.size(), 0};
  const TensorPart own = exchange_.in_parts()
                             ? part_of(tensor, exchange_.units()[static_cast<size_t>(tensor.unit)], exchange_.rank())
                             : whole;
  if (arena == Arena::params) {
    const TensorPart part = sharded(options, arena) ? own : whole;
    const int64_t at = sharded(options, arena) ? part.kept_at : tensor.offset;
    device_.write(param_memory_.template as<floatX>() + at, in + part.from, part.count);
    if (sharded(options, arena)) exchange_.gather_changed();
    if (master_memory_.bytes() == 0 || offset < 0) return;
  }
  const bool parts = arena == Arena::grads ? sharded(options, arena) : exchange_.in_parts();
  const TensorPart part = parts ? own : whole;
  const int64_t at = parts ? part.kept_at : offset;
  with_states(arena, [&](auto* states) { device_.write(states + at, in + part.from, part.count); });
}

template <class Family, class Device>
const float* FamilyModel<Family, Device>::view(Arena arena, const ParamTensor& tensor) const {
  if constexpr (Device::kHostFloats) {
    if (arena == Arena::params ? sharded(options, arena) : exchange_.in_parts()) return nullptr;
    if (arena == Arena::grads) settle_grads();
    exchange_.arrive(arena);
    const int64_t offset = tensor.offset_in(arena);
    if (offset < 0 || in_bf16(arena)) return nullptr;
    return with_states(arena, [&](const auto* states) -> const float* {
      if constexpr (sizeof *states == sizeof(float)) return states + offset;
      return nullptr;
    });
  }
  return nullptr;
}
