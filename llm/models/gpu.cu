// The GPU: memory and queues, the memory plan, and what programs ask for (gpu.h).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <new>

#include "kernels/embedding.cuh"
#include "kernels/global_norm.cuh"
#include "kernels/layernorm.cuh"
#include "kernels/muon.cuh"
#include "kernels/philox.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/memory_plan.h"
#include "llm/support/error.h"

// ---- memory and queues ---------------------------------------------------------------------------------------------

DeviceBuffer::DeviceBuffer(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (DryRun::current()) {
    static std::atomic<uintptr_t> next{uintptr_t{1} << 40};
    data_ = reinterpret_cast<void*>(next.fetch_add(static_cast<uintptr_t>(ceil_div<int64_t>(bytes, 256) * 256)));
    return;
  }
  const cudaError_t status = cudaMalloc(&data_, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // reported here: the next call must not find it again
    throw std::bad_alloc();
  }
  CUDA_CHECK(status);
  CUDA_CHECK(cudaMemset(data_, 0, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaDeviceSynchronize());  // other streams do not wait for the memset
}
DeviceBuffer::~DeviceBuffer() {
  if (data_ && !DryRun::current()) cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(int64_t bytes) {
  if (DryRun::current()) data_ = ::operator new(static_cast<size_t>(bytes));  // the host does write to it
  CUDA_CHECK(cudaMallocHost(&data_, static_cast<size_t>(bytes)));
}
PinnedBuffer::~PinnedBuffer() {
  if (DryRun::current()) {
    ::operator delete(data_);
  } else if (data_) {
    cudaFreeHost(data_);
  }
}

GpuStream::GpuStream() { CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
GpuStream::~GpuStream() {
  if (stream_) cudaStreamDestroy(stream_);
}

GpuEvent::GpuEvent() { CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
GpuEvent::~GpuEvent() {
  if (event_) cudaEventDestroy(event_);
}

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

namespace {
__global__ void probe_kernel() {}  // shows whether this program has code for a GPU
}  // namespace

void check_gpu() {
  const char* cpu = "train on the CPU with build/train_gpt2";
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    fail("no CUDA device found here (%s); %s",
         status != cudaSuccess ? cudaGetErrorString(status) : "the driver counts none", cpu);
  }
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  if (properties.major < 8) {
    fail("%s has compute capability %d.%d, and the kernels need 8.0 or later; %s", properties.name, properties.major,
         properties.minor, cpu);
  }
  const auto* probe = reinterpret_cast<const void*>(probe_kernel);
  const cudaError_t found = cudaFuncSetAttribute(probe, cudaFuncAttributeMaxDynamicSharedMemorySize, 0);
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
      // Each part of a unit ends in its own chunk.
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
  libraries += 2 * static_cast<int64_t>(CublasLt::kWorkspace);  // one for the model, one for measuring
#endif
#ifdef WROUGHT_CUDNN
  if (options.precision == Precision::bf16) libraries += attention_cudnn::kWorkspaceLimit;
#endif
  if (libraries > 0) rows.push_back({kLibraryRow, "", libraries});
  return rows;
}

void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free) {
  const auto needed = [&](const ModelOptions& o, int batch) {
    double sum = 0;  // absurd sizes exceed 2^63
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
    way("{recompute} gelu", gelu, B);
  }
  if (options.recompute != Recompute::block) {
    try_option("{recompute} block", [](ModelOptions& o) { o.recompute = Recompute::block; });
  }
  if (options.precision != Precision::bf16) {
    try_option("{precision} bf16", [](ModelOptions& o) { o.precision = Precision::bf16; });
  } else if (options.master_weights && options.ema == 0) {
    try_option("{no-master-weights}", [](ModelOptions& o) { o.master_weights = false; });
  }
  int batch = B;
  while (batch > 1 && needed(options, batch) > available) batch /= 2;
  if (batch < B) way(strprintf("{batch-size} %d", batch), options, batch);
  batch = B;
  while (batch > 1 && needed(all, batch) > available) batch /= 2;
  if (batch < B) all_flags += strprintf(" {batch-size} %d", batch);
  if (all_flags.find(" {", 1) != std::string::npos) way(all_flags, all, batch);
  if (ways.empty()) ways = "\n  (no other flag takes less)";
  fail(
      "training takes %.0f bytes of GPU memory and %lld are free. It would take with\n"
      "%s\nA smaller batch does not change the step if {total-batch-tokens} stays; otherwise take a shorter {seq-len} "
      "or a smaller {model}. {memory} shows what takes how much",
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

// ---- which kernels run ---------------------------------------------------------------------------------------------

std::vector<KernelRow> gpu_kernels(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout,
                                   bool reference) {
  const GpuTiers tiers = gpu_tiers(options.precision, reference);
  const auto operations = options.precision == Precision::bf16 ? dry_step<bf16>(config, options, B, T, dropout, tiers)
                                                               : dry_step<float>(config, options, B, T, dropout, tiers);
  std::vector<KernelRow> rows;
  std::map<std::vector<std::string>, size_t> known;  // equal ones of several layers share a row
  for (const DryRun::Operation& o : operations) {
    KernelRow row{o.name, o.of, o.shape, 0, o.tier, o.why, {}};
    for (const DryRun::Launch& launch : o.launches) {
      const std::string name = launch.kernel.empty() ? "a kernel (a GPU's driver knows its name)" : launch.kernel;
      const char* blocks = launch.blocks == 1 ? "block" : "blocks";
      std::string text = strprintf("%s, %lld %s of %d threads", name.c_str(), static_cast<long long>(launch.blocks),
                                   blocks, launch.threads);
      if (launch.shared_bytes > 0) text += strprintf(", %zu bytes of shared memory", launch.shared_bytes);
      row.kernels.push_back(text);
    }
    std::vector<std::string> key = row.kernels;
    key.insert(key.end(), {row.operation, row.of, row.shape, row.tier, row.why});
    const auto [at, is_new] = known.emplace(key, rows.size());
    if (is_new) rows.push_back(std::move(row));
    ++rows[at->second].times;
  }
  return rows;
}

std::string kernels_line(const std::vector<KernelRow>& rows) {
  // What runs, and the first reason why nothing faster does; if launches differ, how often each runs.
  const auto summary = [&](const std::string& operation) {
    std::vector<std::pair<std::string, int>> found;
    int all = 0;
    for (const KernelRow& row : rows) {
      if (row.operation.rfind(operation, 0) != 0 || row.tier.empty()) continue;
      std::string text = row.tier.substr(0, row.tier.find(','));  // without the algorithm
      if (!row.why.empty()) text += " (" + row.why + ")";
      auto same = std::find_if(found.begin(), found.end(), [&](const auto& other) { return other.first == text; });
      if (same == found.end()) same = found.insert(found.end(), {text, 0});
      same->second += row.times;
      all += row.times;
    }
    std::string line;
    for (const auto& [text, times] : found) {
      line += (line.empty() ? "" : ", ") + text + (times < all ? strprintf(" for %d of %d", times, all) : "");
    }
    return line;
  };
  const std::string forward = summary("attention_forward"), backward = summary("attention_backward");
  return "kernels: products " + summary("matmul") + "; attention " +
         (forward == backward ? forward : "forward " + forward + ", backward " + backward);
}

std::string gpu_build() {
  std::string text;
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) {
    text = "device: " + gpu_name();
  } else {
    text = "device: none here; what only a GPU can tell is left open";
  }
#ifdef WROUGHT_CUBLASLT
  text += "; built with cuBLASLt";
#else
  text += "; built without cuBLASLt";
#endif
#ifdef WROUGHT_CUDNN
  text += ", with cuDNN";
#else
  text += ", without cuDNN";
#endif
  return text;
}

// ---- what products reach -------------------------------------------------------------------------------------------

namespace {

// Random numbers in [-1, 1): the factors' bits decide how much power a product takes, and so the clock. A pattern, made
// on the host, of prime length, so that no row of a matrix equals another.
template <class floatX>
void fill(const DeviceBuffer& buffer, uint64_t sequence) {
  const int64_t n = buffer.bytes() / static_cast<int64_t>(sizeof(floatX)), length = std::min<int64_t>(n, 1'048'573);
  std::vector<floatX> pattern(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; i += 4) {
    const Philox4 random = philox4(1, sequence, static_cast<uint64_t>(i));
    for (int64_t k = i; k < std::min(i + 4, length); ++k) {
      pattern[static_cast<size_t>(k)] = static_cast<floatX>(2 * uniform_from_bits(random.word[k - i]) - 1);
    }
  }
  for (int64_t i = 0; i < n; i += length) {
    CUDA_CHECK(cudaMemcpy(buffer.as<floatX>() + i, pattern.data(),
                          static_cast<size_t>(std::min(length, n - i)) * sizeof(floatX), cudaMemcpyHostToDevice));
  }
}

// Products of n x n matrices.
template <class floatX>
class Products {
 public:
  static int64_t bytes(int n) { return 3 * int64_t{n} * n * static_cast<int64_t>(sizeof(floatX)); }
  Products(int n, MatmulMode mode) : n_(n), mode_(mode), a_(bytes(n) / 3), b_(bytes(n) / 3), c_(bytes(n) / 3) {
    CUDA_CHECK(cudaEventCreate(&begun_));
    CUDA_CHECK(cudaEventCreate(&done_));
    fill<floatX>(a_, 0);
    fill<floatX>(b_, 1);
  }
  ~Products() {
    cudaEventDestroy(begun_);
    cudaEventDestroy(done_);
  }
  // Seconds per product, with `count` queued.
  double seconds(int count) {
    CUDA_CHECK(cudaEventRecord(begun_, nullptr));
    for (int k = 0; k < count; ++k) {
      const floatX* no_bias = nullptr;
      matmul_forward(c_.as<floatX>(), static_cast<floatX*>(nullptr), a_.as<floatX>(), b_.as<floatX>(), no_bias, n_, n_,
                     n_, mode_, nullptr);
    }
    CUDA_CHECK(cudaEventRecord(done_, nullptr));
    CUDA_CHECK(cudaEventSynchronize(done_));
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begun_, done_));
    return std::max(1e-3 * static_cast<double>(milliseconds) / count, 1e-9);
  }

 private:
  const int n_;
  const MatmulMode mode_;
  const DeviceBuffer a_, b_, c_;
  cudaEvent_t begun_ = nullptr, done_ = nullptr;
};

template <class floatX>
double peak_flops(MatmulMode mode) {
  constexpr double kLong = 4e-3, kWarm = 20e-3;  // seconds that a measurement takes, and that clocks need to settle
  double best = 0;
  for (int n = 128; n <= 8192 && Products<floatX>::bytes(n) <= free_gpu_memory() / 2; n *= 2) {
    Products<floatX> products(n, mode);
    products.seconds(1);  // the first call makes plans
    const double once = products.seconds(1);
    if (once < kLong && n < 8192 && Products<floatX>::bytes(2 * n) <= free_gpu_memory() / 2) continue;
    const auto as_long_as = [&](double seconds) { return static_cast<int>(std::ceil(seconds / once)); };
    if (once < kWarm) products.seconds(as_long_as(kWarm));
    for (int k = 0; k < 5; ++k) best = std::max(best, 2.0 * n * n * n / products.seconds(as_long_as(kLong)));
    break;
  }
  return best;
}

}  // namespace

double measure_gpu_peak_flops(Precision precision, bool reference) {
  const MatmulMode mode = gpu_tiers(precision, reference).matmul;
  return precision == Precision::bf16 ? peak_flops<bf16>(mode) : peak_flops<float>(mode);
}
