// The GPU as a device, and GPT-2 on it.
#include <chrono>

#include "llm/models/gpu_model.cuh"
#include "llm/support/error.h"

// ---- memory --------------------------------------------------------------------------------------------------------

template <class T>
void GpuDevice<T>::attach(const std::vector<ParamTensor>& table, Exchange& exchange) {
  if (exchange.parallel()) exchange.comm().attach(compute_);
  std::vector<uint8_t> decay(static_cast<size_t>(arena_size(table, Arena::grads) / kParamAlignment));
  for (const ParamTensor& tensor : table) {
    if (!tensor.trainable()) continue;
    const auto first = decay.begin() + tensor.grad_offset / kParamAlignment;
    std::fill(first, first + ceil_div(tensor.size(), kParamAlignment), static_cast<uint8_t>(tensor.decay));
  }
  decay_memory_ = DeviceBuffer(static_cast<int64_t>(decay.size()));
  copy_now(decay_memory_.as<void>(), decay.data(), decay.size(), cudaMemcpyHostToDevice);
  state_memory_ = DeviceBuffer(sizeof(State));
  state_ = state_memory_.as<State>();
  pinned_results_ = PinnedBuffer(kResults * sizeof(State) + kBatchSlots * (sizeof(double) + sizeof(uint64_t)));
  results_ = pinned_results_.as<State>();
  signals_ = reinterpret_cast<double*>(results_ + kResults);
  passes_ = reinterpret_cast<uint64_t*>(signals_ + kBatchSlots);
}

template <class T>
void GpuDevice<T>::reserve(const ModelConfig& config, const ModelOptions& options, int B, int T_) {
  const int64_t tokens = int64_t{B} * T_, scratch = gpu_scratch_bytes(config, options, B, T_);
  const auto grow = [this](DeviceBuffer& buffer, int64_t bytes) {
    if (bytes <= buffer.bytes()) return;
    wait();
    forget_parts();
    buffer = DeviceBuffer();  // the old memory is freed before the new is allocated
    buffer = DeviceBuffer(bytes);
  };
  grow(scratch_memory_, scratch);
  if (tokens <= batch_tokens_) return;
  batch_tokens_ = 0;
  grow(batch_memory_, kBatchSlots * kSlotArrays * slot_elements(tokens) * 4);
  const int64_t elements = batch_memory_.bytes() / (kBatchSlots * kSlotArrays * 4) / 64 * 64;
  pinned_batches_ = PinnedBuffer(batch_memory_.bytes());
  for (int k = 0; k < kBatchSlots; ++k) {
    int32_t *device = batch_memory_.as<int32_t>() + k * kSlotArrays * elements,
            *host = pinned_batches_.as<int32_t>() + k * kSlotArrays * elements;
    Slot& slot = slots_[k];
    slot.tokens = device;
    slot.targets = device + elements;
    slot.weights = reinterpret_cast<float*>(device + 2 * elements);
    slot.host_tokens = host;
    slot.host_targets = host + elements;
    slot.host_weights = reinterpret_cast<float*>(host + 2 * elements);
    slot.documents = device + 3 * elements;
    slot.host_documents = host + 3 * elements;
    slot.pooling = reinterpret_cast<float*>(slot.documents);
    slot.host_pooling = reinterpret_cast<float*>(slot.host_documents);
  }
  batch_tokens_ = elements;
}

template <class T>
void GpuDevice<T>::reserve_decoding(const ModelConfig& config, int rows) {
  const int64_t scratch =
      attention_decode_scratch(rows, config.num_heads, config.head_size(), pages_of(config.max_seq_len) * kPageTokens);
  if (scratch <= scratch_memory_.bytes()) return;
  wait();
  forget_parts();
  scratch_memory_ = DeviceBuffer(scratch);
}

template <class T>
void GpuDevice<T>::finish() {
  if (DryRun::current()) return;
  cudaStreamSynchronize(copies_);
  cudaStreamSynchronize(compute_);
}

// Copies in the order of compute_'s queue; returns when the copy is done.
template <class T>
void GpuDevice<T>::copy_now(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, kind, compute_));
  CUDA_CHECK(cudaStreamSynchronize(compute_));
}

template <class T>
double GpuDevice<T>::read_double(const double* from) const {
  double value;
  copy_now(&value, from, sizeof value, cudaMemcpyDeviceToHost);
  return value;
}

// ---- a batch -------------------------------------------------------------------------------------------------------

// Queues a copy to the GPU through the slot's pinned part, so that the caller's memory is free again at once; work that
// is queued for compute_ afterwards waits for it.
template <class T>
template <class U>
void GpuDevice<T>::send(U* device, U* host, const U* from, int n) {
  const Slot& slot = slots_[slot_];
  std::copy(from, from + n, host);
  CUDA_CHECK(cudaMemcpyAsync(device, host, static_cast<size_t>(n) * sizeof(U), cudaMemcpyHostToDevice, copies_));
  CUDA_CHECK(cudaEventRecord(slot.copied, copies_));
  CUDA_CHECK(cudaStreamWaitEvent(compute_, slot.copied));
}

template <class T>
BatchRows GpuDevice<T>::stage(const int32_t* tokens, const int32_t* documents, const float* pooling, int N) {
  slot_ = (slot_ + 1) % kBatchSlots;
  const Slot& slot = slots_[slot_];
  CUDA_CHECK(cudaEventSynchronize(slot.done));  // waits only if the host is a whole ring ahead
  BatchRows batch;
  batch.tokens = slot.tokens;
  send(slot.tokens, slot.host_tokens, tokens, N);
  if (documents) {
    batch.documents = slot.documents;
    send(slot.documents, slot.host_documents, documents, N);
  }
  if (pooling) {
    batch.pooling = slot.pooling;
    send(slot.pooling, slot.host_pooling, pooling, N);
  }
  return batch;
}

template <class T>
void GpuDevice<T>::stage_targets(BatchRows& batch, const int32_t* targets, const float* weights, int N) {
  const Slot& slot = slots_[slot_];
  batch.targets = slot.targets;
  send(slot.targets, slot.host_targets, targets, N);
  if (!weights) return;
  batch.weights = slot.weights;
  send(slot.weights, slot.host_weights, weights, N);
}

template <class T>
void GpuDevice<T>::stage_rows(BatchRows& batch, const int32_t* rows, int n) {
  const Slot& slot = slots_[slot_];
  batch.rows = slot.targets;
  send(slot.targets, slot.host_targets, rows, n);
}

template <class T>
GpuDevice<T>::Integers::Integers(int64_t n)
    : device_(n * static_cast<int64_t>(sizeof(int32_t))), pinned_(kBatchSlots * device_.bytes()), n_(n) {}

template <class T>
int32_t* GpuDevice<T>::Integers::host() {
  slot_ = (slot_ + 1) % kBatchSlots;
  CUDA_CHECK(cudaEventSynchronize(copied_[slot_]));  // waits only if the host is a whole ring ahead
  return pinned_.as<int32_t>() + slot_ * n_;
}

// In the queue of the kernels, which are done with those of the pass before.
template <class T>
const int32_t* GpuDevice<T>::Integers::send(GpuDevice& device, int64_t n) {
  int32_t* const to = device_.as<int32_t>();
  CUDA_CHECK(cudaMemcpyAsync(to, pinned_.as<int32_t>() + slot_ * n_, static_cast<size_t>(n) * sizeof(int32_t),
                             cudaMemcpyHostToDevice, device.compute_));
  CUDA_CHECK(cudaEventRecord(copied_[slot_], device.compute_));
  return to;
}

// ---- a step --------------------------------------------------------------------------------------------------------

template <class T>
void GpuDevice<T>::begin_pass(const PassDropout& dropout) {
  if (!graphs_) return;  // launches have the pass among their arguments
  passes_[slot_] = dropout.pass + 1;
  CUDA_CHECK(cudaMemcpyAsync(&state_->pass, passes_ + slot_, sizeof(uint64_t), cudaMemcpyHostToDevice, compute_));
}

template <class T>
double GpuDevice<T>::sum(const float* losses, int N) {
  CUDA_CHECK(cudaMemsetAsync(&state_->evaluation, 0, sizeof(double), compute_));
  classifier_loss(&state_->evaluation, losses, nullptr, N, compute_);
  return read_double(&state_->evaluation);
}

template <class T>
void GpuDevice<T>::queue_squares(const std::vector<std::pair<const float*, int64_t>>& stretches, bool) {
  double* sums = scratch_memory_.as<double>();
  if (stretches.size() == 1) {
    return global_norm_squared(squares(), sums, stretches[0].first, stretches[0].second, compute_);
  }
  int64_t chunks = 0;
  for (const auto& [grads, n] : stretches) {
    global_norm_chunks(sums + chunks, grads, n, compute_);
    chunks += ceil_div<int64_t>(n, kGlobalNormChunk);
  }
  global_norm_sum(squares(), sums, chunks, compute_);
}

template <class T>
double* GpuDevice<T>::gather_sums(double signal) {
  double *sums = state_->sums, *pinned = signals_ + slot_;
  *pinned = signal;
  CUDA_CHECK(cudaMemcpyAsync(sums, &state_->loss, sizeof(double), cudaMemcpyDeviceToDevice, compute_));
  CUDA_CHECK(cudaMemcpyAsync(sums + 1, pinned, sizeof(double), cudaMemcpyHostToDevice, compute_));
  return sums;
}

template <class T>
bool GpuDevice<T>::prepare_update(const OptimizerConfig& o, float grad_clip) {
  adamw_prepare(&state_->step, squares(), state_->sums, o.lr, grad_clip, o.beta1, o.beta2, compute_);
  return true;  // what follows does nothing if the sums are not finite
}

template <class T>
void GpuDevice<T>::update(const UpdateArenas<T, float, float>& at, const UpdatePlan& plan, const ModelOptions& options,
                          const OptimizerConfig& o) {
  const auto master = [&](const Stretch& s) { return at.master ? at.master + s.kept : nullptr; };
  // Each stretch of the arena that is updated separately draws its own numbers for stochastic rounding.
  const auto seed = [&](const Stretch& s) { return options.seed + static_cast<uint64_t>(s.whole); };
  const auto lr = [&](const Stretch& s) { return LearningRate(s.lr_scale, &state_->step.lr); };
  for (const Stretch& s : plan.adamw) {
    const uint8_t* decay = decay_memory_.as<uint8_t>() + s.whole / kParamAlignment;
    if (options.moments == Moments::bf16) {
      adamw_update_bf16(at.params + s.param, master(s), static_cast<bf16*>(at.m) + s.kept,
                        static_cast<bf16*>(at.v) + s.v, at.grads + s.grad, decay, &state_->step, lr(s), o.beta1,
                        o.beta2, o.eps, o.weight_decay, seed(s), {options.seed, s.number}, s.size, compute_);
    } else {
      adamw_update(at.params + s.param, master(s), static_cast<float*>(at.m) + s.kept, static_cast<float*>(at.v) + s.v,
                   at.grads + s.grad, decay, &state_->step, lr(s), o.beta1, o.beta2, o.eps, o.weight_decay, seed(s),
                   s.size, compute_);
    }
  }
  for (const Matrix& matrix : plan.muon) {
    const Stretch& s = matrix.at;
    muon_update(at.params + s.param, master(s), static_cast<float*>(at.m) + s.kept, at.muon,
                scratch_memory_.as<double>(), at.grads + s.grad, &state_->step, lr(s), o.momentum,
                s.decay ? o.weight_decay : 0, seed(s), matrix.rows, matrix.cols, tiers_.matmul, compute_);
  }
  if (options.ema == 0) return;
  for (const Stretch& s : plan.averaged) {
    const float* weights = master(s);  // bf16 has a master copy: options that ask for an average without are refused
    if constexpr (std::is_same_v<T, float>) weights = at.params + s.param;
    ema_update(at.average + s.kept, weights, &state_->step, options.ema, s.size, compute_);
  }
}

template <class T>
void GpuDevice<T>::finish_update() {
  const int64_t k = update_calls_++ % kResults;
  CUDA_CHECK(cudaMemcpyAsync(results_ + k, state_, sizeof(State), cudaMemcpyDeviceToHost, compute_));
  CUDA_CHECK(cudaEventRecord(result_copied_[k], compute_));
  used();  // the slot's signal was read
}

template <class T>
StepResult GpuDevice<T>::result(int steps_back) {
  const int64_t k = (update_calls_ - 1 - steps_back) % kResults;
  CUDA_CHECK(cudaEventSynchronize(result_copied_[k]));
  const State& state = results_[k];
  return {state.step.loss, state.loss, state.step.norm, state.step.updated != 0, state.sums[1]};
}

template <class T>
int64_t GpuDevice<T>::updates() const {
  AdamWStep step;
  copy_now(&step, &state_->step, sizeof step, cudaMemcpyDeviceToHost);
  return step.updates;
}

template <class T>
void GpuDevice<T>::set_updates(int64_t count) {
  AdamWStep step{};
  step.updates = count;
  copy_now(&state_->step, &step, sizeof step, cudaMemcpyHostToDevice);
}

// ---- the models ----------------------------------------------------------------------------------------------------

template class GpuDevice<float>;
template class GpuDevice<bf16>;
template class FamilyModel<Gpt2, GpuDevice<float>>;
template class FamilyModel<Gpt2, GpuDevice<bf16>>;

static std::vector<GpuFamily>& gpu_families() {
  static std::vector<GpuFamily> all{make_gpu_family<Gpt2>("gpt2")};
  return all;
}

void register_gpu_family(const GpuFamily& family) {
  for (const GpuFamily& known : gpu_families()) {
    if (known.name == family.name) throw std::logic_error("two families of models with the name " + family.name);
  }
  gpu_families().push_back(family);
}

const GpuFamily& find_gpu_family(const std::string& name) {
  for (const GpuFamily& family : gpu_families()) {
    if (family.name == name) return family;
  }
  fail("models of the family \"%s\" run only on the CPU in this program", name.c_str());
}
