// The GPU itself, and what a model takes of it: memory and queues, the plan of memory, what programs ask for.
#include <algorithm>
#include <chrono>
#include <new>

#include "gpt2/error.h"
#include "gpt2/gpu.h"
#include "gpt2/model_gpu.cuh"
#include "kernels/embedding.cuh"
#include "kernels/global_norm.cuh"
#include "kernels/layernorm.cuh"
#include "kernels/muon.cuh"

// ---- memory and queues ---------------------------------------------------------------------------------------------

DeviceBuffer::DeviceBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const cudaError_t status = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // said, and not to be found again by the next call
    throw std::bad_alloc();
  }
  CUDA_CHECK(status);
  CUDA_CHECK(cudaMemset(data_, 0, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaDeviceSynchronize());  // other streams do not wait for the memset
}
DeviceBuffer::~DeviceBuffer() {
  if (data_) cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(int64_t bytes) { CUDA_CHECK(cudaMallocHost(&data_, static_cast<size_t>(bytes))); }
PinnedBuffer::~PinnedBuffer() {
  if (data_) cudaFreeHost(data_);
}

GpuStream::GpuStream() { CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
GpuStream::~GpuStream() { cudaStreamDestroy(stream_); }

GpuEvent::GpuEvent() { CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
GpuEvent::~GpuEvent() { cudaEventDestroy(event_); }

// ---- the device ----------------------------------------------------------------------------------------------------

GpuTiers gpu_tiers(Precision precision, bool reference) {
  if (reference) return {{MatmulTier::plain, false}, AttentionTier::plain};
  GpuTiers tiers{
      {precision == Precision::fp32 ? MatmulTier::plain : MatmulTier::tensor_core, precision == Precision::tf32},
      precision == Precision::bf16 ? AttentionTier::tensor_core : AttentionTier::plain};
#ifdef WROUGHT_CUBLASLT
  tiers.matmul.tier = MatmulTier::cublaslt;
#endif
#ifdef WROUGHT_CUDNN
  if (precision == Precision::bf16) tiers.attention = AttentionTier::cudnn;
#endif
  return tiers;
}

void check_gpu() {
  const char* cpu = "train on the CPU with build/train_gpt2";
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    fail("no CUDA device is to be found here (%s); %s",
         status != cudaSuccess ? cudaGetErrorString(status) : "the driver counts none", cpu);
  }
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  if (properties.major < 8) {
    fail("%s has compute capability %d.%d, and the kernels need 8.0 or later; %s", properties.name, properties.major,
         properties.minor, cpu);
  }
  // Any kernel will do, and one that asks for nothing.
  const auto* kernel = reinterpret_cast<const void*>(adamw_prepare_kernel<1>);
  const cudaError_t found = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 0);
  if (found == cudaErrorNoKernelImageForDevice || found == cudaErrorInvalidDeviceFunction) {
    fail("this program was not built for %s (compute capability %d.%d); build it again: make cuda CUDA_ARCH=%d%d",
         properties.name, properties.major, properties.minor, properties.major, properties.minor);
  }
  CUDA_CHECK(found);
}

std::string gpu_name() {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  return properties.name;
}

int64_t free_gpu_memory() {
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

// ---- what training takes -------------------------------------------------------------------------------------------

int64_t gpu_scratch_bytes(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  const int C = config.channels, N = B * T, rank = options.lora.rank;
  const bool muon = options.optimizer == Optimizer::muon;
  int64_t adapters = 0;
  if (rank > 0) {  // every product's rows, also those of a part of the logits
    for (const int OC : {C, 4 * C, config.padded_outputs()}) {
      adapters = std::max({adapters, matmul_backward_scratch(N, rank, OC), matmul_backward_scratch(N, OC, rank)});
    }
  }
  return std::max({
      adapters,
      matmul_backward_scratch(N, C, config.padded_outputs()),
      matmul_backward_scratch(N, C, 3 * C),
      matmul_backward_scratch(N, C, C),
      matmul_backward_scratch(N, C, 4 * C),
      matmul_backward_scratch(N, 4 * C, C),
      attention_backward_scratch(B, T, C, config.num_heads),
      layernorm_backward_scratch(N, C),
      embedding_backward_scratch(B, T, C, config.vocab_size),
      // The parts of units end in chunks of their own.
      global_norm_scratch(arena_size(param_table(config, options), Arena::grads)) + (config.num_layers + 2) * 8,
      muon ? muon_chunks(int64_t{4} * C * C) * static_cast<int64_t>(sizeof(double)) : 0,
      int64_t{256},
  });
}

std::vector<MemoryRow> gpu_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  const int64_t tokens = int64_t{B} * T;
  std::vector<MemoryRow> rows =
      arena_plan(config, options, B, T, head_rows(config, B, T), options.precision == Precision::bf16);
  const auto shape = [](int64_t a, int64_t b) {
    return strprintf("(%lld, %lld)", static_cast<long long>(a), static_cast<long long>(b));
  };
  rows.push_back({"inputs", shape(kBatchSlots, tokens), kBatchSlots * slot_elements(tokens) * 4});
  rows.push_back({"targets", shape(kBatchSlots, tokens), kBatchSlots * slot_elements(tokens) * 4});
  rows.push_back({"weights", shape(kBatchSlots, tokens), kBatchSlots * slot_elements(tokens) * 4});
  rows.push_back({config.num_classes > 0 ? "pooling" : "documents", shape(kBatchSlots, tokens),
                  kBatchSlots * slot_elements(tokens) * 4});
  rows.push_back({"scratch", "", gpu_scratch_bytes(config, options, B, T)});
  rows.push_back({"decay", "", arena_size(param_table(config, options), Arena::grads) / kParamAlignment});
  rows.push_back({"step", "", 5 * 8 + static_cast<int64_t>(sizeof(AdamWStep))});
  int64_t libraries = 0;
#ifdef WROUGHT_CUBLASLT
  libraries += 2 * static_cast<int64_t>(CublasLt::kWorkspace);  // the model's, the measurement's
#endif
#ifdef WROUGHT_CUDNN
  if (options.precision == Precision::bf16) libraries += attention_cudnn::kWorkspaceLimit;
#endif
  if (libraries > 0) rows.push_back({kLibraryRow, "", libraries});
  return rows;
}

void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free) {
  const auto needed = [&](const ModelOptions& o, int batch) {
    double sum = 0;  // absurd sizes pass 2^63
    for (const MemoryRow& row : gpu_memory_plan(config, o, batch, T)) sum += static_cast<double>(row.bytes);
    return sum;
  };
  const double available = static_cast<double>(free);
  if (needed(options, B) <= available) return;

  std::string ways;
  const auto way = [&](const std::string& flags, const ModelOptions& o, int batch) {
    const double bytes = needed(o, batch);
    ways += strprintf("\n  %-40s %15.0f bytes%s", flags.c_str(), bytes, bytes <= available ? ", fits" : "");
  };
  ModelOptions all = options;
  std::string all_flags;
  const auto try_option = [&](const char* flag, auto change) {
    ModelOptions changed = options;
    change(changed);
    way(flag, changed, B);
    change(all);
    all_flags += strprintf("%s%s", all_flags.empty() ? "" : " ", flag);
  };
  if (options.recompute == Recompute::none) {
    ModelOptions gelu = options;
    gelu.recompute = Recompute::gelu;
    way("--recompute gelu", gelu, B);
  }
  if (options.recompute != Recompute::block) {
    try_option("--recompute block", [](ModelOptions& o) { o.recompute = Recompute::block; });
  }
  if (options.precision != Precision::bf16) {
    try_option("--precision bf16", [](ModelOptions& o) { o.precision = Precision::bf16; });
  } else if (options.master_weights && options.ema == 0) {
    try_option("--no-master-weights", [](ModelOptions& o) { o.master_weights = false; });
  }
  int batch = B;
  while (batch > 1 && needed(options, batch) > available) batch /= 2;
  if (batch < B) way(strprintf("--batch-size %d", batch), options, batch);
  batch = B;
  while (batch > 1 && needed(all, batch) > available) batch /= 2;
  if (batch < B) all_flags += strprintf(" --batch-size %d", batch);
  if (all_flags.find(" --", 1) != std::string::npos) way(all_flags, all, batch);
  if (ways.empty()) ways = "\n  (no flag is left that takes less)";
  fail(
      "training takes %.0f bytes of GPU memory and %lld are free. It would take with\n"
      "%s\nA smaller batch leaves the step as it is if --total-batch-tokens stays; else a shorter --seq-len or a "
      "smaller --model. --memory shows what takes how much",
      needed(options, B), static_cast<long long>(free), ways.c_str() + 1);
}

std::unique_ptr<Model> make_gpu_model(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                      bool reference) {
  check_gpu();
  check_gpu_memory(config, options, B, T, free_gpu_memory());
  const GpuTiers tiers = gpu_tiers(options.precision, reference);
  if (options.precision == Precision::bf16) return std::make_unique<GpuModel<bf16>>(config, options, B, T, tiers);
  return std::make_unique<GpuModel<float>>(config, options, B, T, tiers);
}

namespace {

// The best of a few products of n x n matrices, in seconds; 0 if there is no memory for them.
template <class floatX>
double product_seconds(int n, MatmulMode mode) {
  const int64_t bytes = int64_t{n} * n * static_cast<int64_t>(sizeof(floatX));
  if (3 * bytes > free_gpu_memory() / 2) return 0;
  const DeviceBuffer a(bytes), b(bytes), c(bytes);
  for (const DeviceBuffer* factor : {&a, &b}) {  // not zeros: they would take less power, and run faster
    CUDA_CHECK(cudaMemset(factor->as<void>(), 0x3c, static_cast<size_t>(bytes)));
  }
  CUDA_CHECK(cudaDeviceSynchronize());
  double best = 1e30;
  for (int k = 0; k < 5; ++k) {
    const auto start = std::chrono::steady_clock::now();
    const floatX* no_bias = nullptr;
    matmul_forward(c.as<floatX>(), static_cast<floatX*>(nullptr), a.as<floatX>(), b.as<floatX>(), no_bias, n, n, n,
                   mode, nullptr);
    CUDA_CHECK(cudaStreamSynchronize(nullptr));
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

double measure_gpu_peak_flops(Precision precision, bool reference) {
  const MatmulMode mode = gpu_tiers(precision, reference).matmul;
  double best = 0, seconds = 0;
  for (int n = 128; n <= 8192 && seconds < 0.02; n *= 2) {  // larger ones until one takes a while
    seconds = precision == Precision::bf16 ? product_seconds<bf16>(n, mode) : product_seconds<float>(n, mode);
    if (seconds == 0) break;
    best = std::max(best, 2.0 * n * n * n / seconds);
  }
  return best;
}
