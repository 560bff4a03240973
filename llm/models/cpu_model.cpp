// The CPU as a device, and what programs ask for.
#include "llm/models/cpu_model.h"

#include <sys/mman.h>

#include "llm/models/cpu.h"
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <new>

#include "kernels/ema.h"
#include "kernels/muon.h"
#include "llm/support/error.h"

// ---- memory --------------------------------------------------------------------------------------------------------

void* HostPages::allocate(int64_t bytes) {
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // fewer TLB misses where the system has large pages
  return data;
}

void HostPages::release(void* data, int64_t bytes) { ::munmap(data, static_cast<size_t>(bytes)); }

// Elements that a thread takes at a time in loops over an arena.
static constexpr int64_t kPiece = 1 << 16;
// Smaller tensors are cleared by one thread: starting the others takes longer.
static constexpr int64_t kParallelElements = 100'000;

template <class T>
void CpuDevice<T>::clear(T* out, int64_t n) {
#pragma omp parallel for if (n >= kParallelElements)
  for (int64_t i = 0; i < n; ++i) out[i] = 0;
}

template <class T>
void CpuDevice<T>::add(T* to, const T* from, int64_t n) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// By all threads, piece by piece: on machines with several memories each then holds its share of the weights.
template <class T>
void CpuDevice<T>::write(T* to, const float* from, int64_t n) {
  const int64_t pieces = (n + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static, 1)
  for (int64_t k = 0; k < pieces; ++k) {
    std::copy(from + k * kPiece, from + std::min(n, (k + 1) * kPiece), to + k * kPiece);
  }
}

template <class T>
BatchRows CpuDevice<T>::stage(const int32_t* tokens, const int32_t* documents, const float* pooling, int N) {
  BatchRows batch;
  tokens_.assign(tokens, tokens + N);
  batch.tokens = tokens_.data();
  if (documents) {
    documents_.assign(documents, documents + N);
    batch.documents = documents_.data();
  }
  if (pooling) {
    pooling_.assign(pooling, pooling + N);
    batch.pooling = pooling_.data();
  }
  return batch;
}

// ---- a step --------------------------------------------------------------------------------------------------------

template <class T>
void CpuDevice<T>::add_loss(const sum_t* losses, const float* weights, int N) {
  double loss = 0;
  for (int n = 0; n < N; ++n) loss += static_cast<double>(weights[n]) * losses[n];
  loss_ += loss;
}

template <class T>
double CpuDevice<T>::sum(const sum_t* losses, int N) const {
  double sum = 0;
  for (int n = 0; n < N; ++n) sum += losses[n];
  return sum;
}

template <class T>
void CpuDevice<T>::queue_squares(const std::vector<std::pair<const T*, int64_t>>& stretches, bool known) {
  sums_[2] = known ? squares_ : 0;
  for (const auto& [grads, n] : stretches) sums_[2] += k_.global_norm_squared(grads, n);
}

template <class T>
double* CpuDevice<T>::gather_sums(double signal) {
  sums_[0] = loss_;
  sums_[1] = signal;
  return sums_;
}

template <class T>
bool CpuDevice<T>::prepare_update(const OptimizerConfig&, float grad_clip) {
  StepResult result{sums_[0], loss_, std::sqrt(sums_[2]), false, sums_[1]};
  result.updated = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  if (results_.size() == 2) results_.erase(results_.begin());
  results_.push_back(result);
  grad_scale_ = grad_clip > 0 && result.grad_norm > grad_clip ? static_cast<float>(grad_clip / result.grad_norm) : 1.0f;
  updates_ += result.updated;
  return result.updated;
}

template <class T>
void CpuDevice<T>::update(const UpdateArenas<T, T, T>& at, const UpdatePlan& plan, const ModelOptions& options,
                          const OptimizerConfig& o) {
  const double t = static_cast<double>(updates_);
  const T beta1_correction = static_cast<T>(1 - std::pow(static_cast<double>(o.beta1), t));
  const T beta2_correction = static_cast<T>(1 - std::pow(static_cast<double>(o.beta2), t));
  const T average_rate = static_cast<T>(cpu::ema_rate(options.ema, updates_));
  const auto average = [&](const Stretch& s, int64_t from, int64_t count) {
    if (s.averaged) cpu::ema_update(at.average + s.kept + from, at.params + s.param + from, average_rate, count);
  };
  // AdamW's tensors in pieces, all in one parallel region: most tensors are too small for their own.
  std::vector<std::pair<const Stretch*, int64_t>> pieces;
  for (const Stretch& s : plan.adamw) {
    for (int64_t i = 0; i < s.size; i += kPiece) pieces.push_back({&s, i});
  }
#pragma omp parallel for schedule(static, 1)
  for (size_t k = 0; k < pieces.size(); ++k) {
    const auto [s, i] = pieces[k];
    const int64_t count = std::min(kPiece, s->size - i);
    T* const params = at.params + s->param + i;
    const T *const grads = at.grads + s->grad + i, lr = o.lr * s->lr_scale, decay = s->decay ? o.weight_decay : 0;
    if (options.moments == Moments::bf16) {
      k_.adamw_update_bf16(params, static_cast<bf16*>(at.m) + s->kept + i, static_cast<bf16*>(at.v) + s->v + i, grads,
                           grad_scale_, lr, o.beta1, o.beta2, beta1_correction, beta2_correction, o.eps, decay,
                           {options.seed, s->number + i}, updates_, count);
    } else {
      k_.adamw_update(params, static_cast<T*>(at.m) + s->kept + i, static_cast<T*>(at.v) + s->v + i, grads, grad_scale_,
                      lr, o.beta1, o.beta2, beta1_correction, beta2_correction, o.eps, decay, count);
    }
    average(*s, i, count);  // while it is in the cache
  }
  for (const Matrix& matrix : plan.muon) {
    const Stretch& s = matrix.at;
    cpu::muon_update<T>(at.params + s.param, static_cast<T*>(at.m) + s.kept, at.muon, at.grads + s.grad, grad_scale_,
                        o.lr * s.lr_scale, o.momentum, s.decay ? o.weight_decay : 0, matrix.rows, matrix.cols,
                        k_.matmul_forward, k_.matmul_backward);
    average(s, 0, s.size);
  }
}

// ---- the model -----------------------------------------------------------------------------------------------------

namespace {

const cpu::Kernels<float>& fast_kernels(Precision precision) {
  const cpu::Kernels<float>* kernels = cpu::fast_kernels(cpu::best_isa(), precision == Precision::bf16);
  if (!kernels) {
    fail("{precision} bf16 needs a CPU with AVX512-BF16 instructions; this one has %s: take {precision} fp32",
         cpu::name_of(cpu::best_isa()));
  }
  return *kernels;
}

}  // namespace

template <class floatX>
const cpu::Kernels<floatX>& choose_kernels(bool reference, Precision precision) {
  if constexpr (std::is_same_v<floatX, float>) {
    if (!reference) return fast_kernels(precision);
  }
  return cpu::kPlainKernels<floatX>;
}
template const cpu::Kernels<float>& choose_kernels<float>(bool, Precision);
template const cpu::Kernels<double>& choose_kernels<double>(bool, Precision);

template <class floatX>
CpuModel<floatX>::CpuModel(const ModelConfig& config, bool reference, const ModelOptions& options)
    : FamilyModel<Gpt2, CpuDevice<floatX>>(config, options, choose_kernels<floatX>(reference, options.precision)) {}

template class CpuDevice<float>;
template class CpuDevice<double>;
template class FamilyModel<Gpt2, CpuDevice<float>>;
template class FamilyModel<Gpt2, CpuDevice<double>>;
template class CpuModel<float>;
template class CpuModel<double>;

// The kernels that CpuOps calls for an operation: fused ones are composed.
static std::vector<std::string> kernels_of(const PlannedOp& op) {
  const std::string name = op.name;
  std::vector<std::string> kernels;
  const auto add = [&](bool called, const char* kernel) {
    if (called) kernels.push_back(kernel);
  };
  const bool backward = name.ends_with("_backward"), linear = name.starts_with("linear"), dropped = op.dropout > 0;
  if (linear || name.starts_with("matmul")) {
    const bool gelu = name.starts_with("linear_gelu");
    add(true, backward ? "matmul_backward" : "matmul_forward");
    add(backward && linear && op.dweight, "matmul_dweight");
    add(gelu, backward ? "gelu_backward" : "gelu_forward");
    add(name == "linear_residual_forward", "residual_forward");
  } else if (name == "embedding_backward") {
    add(dropped, "dropout_backward");
    add(true, "embedding_backward");
  } else if (name == "embedding_forward") {
    add(true, "embedding_forward");
    add(dropped, "dropout_forward");
  } else if (name == "residual_forward") {
    add(dropped, "dropout_forward");
    add(true, "residual_forward");
  } else if (name == "norm_forward") {
    add(true, "layernorm_forward");
  } else if (name == "norm_backward") {
    add(true, "layernorm_backward");
  } else if (name == "dropout_part") {
    add(true, "dropout_forward");
  } else {
    add(name != "zero", op.name);
  }
  return kernels;
}

std::vector<KernelRow> cpu_kernels(const ModelConfig& config, const ModelOptions& options, double dropout,
                                   bool reference) {
  using Table = cpu::Kernels<float>;
  const Table &k = choose_kernels<float>(reference, options.precision), &plain = cpu::kPlainKernels<float>;
  const auto fast = [&](auto member) { return k.*member != plain.*member; };
  const std::map<std::string, bool> has_fast{{"layernorm_forward", fast(&Table::layernorm_forward)},
                                             {"layernorm_backward", fast(&Table::layernorm_backward)},
                                             {"matmul_forward", fast(&Table::matmul_forward)},
                                             {"matmul_backward", fast(&Table::matmul_backward)},
                                             {"matmul_dweight", fast(&Table::matmul_dweight)},
                                             {"attention_forward", fast(&Table::attention_forward)},
                                             {"attention_backward", fast(&Table::attention_backward)},
                                             {"gelu_forward", fast(&Table::gelu_forward)},
                                             {"gelu_backward", fast(&Table::gelu_backward)},
                                             {"classifier_backward", fast(&Table::classifier_backward)},
                                             {"global_norm_squared", fast(&Table::global_norm_squared)},
                                             {"adamw_update", fast(&Table::adamw_update)},
                                             {"adamw_update_bf16", fast(&Table::adamw_update_bf16)}};
  // The rest are plain loops.
  std::vector<KernelRow> rows;
  const auto add = [&](const std::string& kernel) {
    if (std::any_of(rows.begin(), rows.end(), [&](const KernelRow& row) { return row.operation == kernel; })) return;
    const auto found = has_fast.find(kernel);
    std::string tier = "plain loops";
    if (found != has_fast.end() && found->second) {
      const bool product = kernel.starts_with("matmul") || kernel.starts_with("attention");
      tier = std::string("fast, ") + cpu::name_of(cpu::best_isa()) +
             (product && options.precision == Precision::bf16 ? ", factors in bf16" : "");
    }
    rows.push_back({kernel, "", "", 0, tier, "", {}});
  };
  for (const PlannedOp& op : plan_of(config, options, 1, 1, 1, static_cast<float>(dropout), false).ops) {
    for (const std::string& kernel : kernels_of(op)) add(kernel);
  }
  add("global_norm_squared");
  add(options.moments == Moments::bf16 ? "adamw_update_bf16" : "adamw_update");
  if (options.optimizer == Optimizer::muon) add("muon_update");
  if (options.ema > 0) add("ema_update");
  return rows;
}

bool cpu_can(Precision precision) {
  return precision != Precision::tf32 && cpu::fast_kernels(cpu::best_isa(), precision == Precision::bf16);
}
void check_cpu_can(Precision precision) { fast_kernels(precision); }

double measure_peak_flops(Precision precision) {
  const cpu::Kernels<float>& kernels = fast_kernels(precision);
  const int n = 1024;
  std::vector<float> a(static_cast<size_t>(n) * n, 1.0f), b(a), c(a);
  double best = 0, spent = 0;
  while (spent < 0.2) {  // long enough for a moment when nothing else runs
    const auto start = std::chrono::steady_clock::now();
    kernels.matmul_forward(c.data(), a.data(), b.data(), nullptr, n, n, n);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * n * n * n / seconds);
    spent += seconds;
  }
  return best;
}

#ifdef _OPENMP
void set_cpu_threads(int threads) { omp_set_num_threads(threads); }
int cpu_threads() { return omp_get_max_threads(); }
#else
void set_cpu_threads(int) {}
int cpu_threads() { return 1; }
#endif
