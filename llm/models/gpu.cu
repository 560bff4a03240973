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
#include "kernels/random_fill.cuh"
#include "llm/models/cpu.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/memory_plan.h"
#include "llm/support/error.h"

#ifdef WROUGHT_CUBLASLT
static constexpr bool kCublasLt = true;
#else
static constexpr bool kCublasLt = false;
#endif
#ifdef WROUGHT_CUDNN
static constexpr bool kCudnn = true;
#else
static constexpr bool kCudnn = false;
#endif

// ---- memory and queues ---------------------------------------------------------------------------------------------

void* DevicePages::allocate(int64_t bytes) {
  if (DryRun::current()) {
    static std::atomic<uintptr_t> next{uintptr_t{1} << 40};
    return reinterpret_cast<void*>(next.fetch_add(static_cast<uintptr_t>(ceil_div<int64_t>(bytes, 256) * 256)));
  }
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // reported here: the next call must not find it again
    throw std::bad_alloc();
  }
  CUDA_CHECK(status);
  CUDA_CHECK(cudaMemset(data, 0, static_cast<size_t>(bytes)));
  CUDA_CHECK(cudaDeviceSynchronize());  // other streams do not wait for the memset
  return data;
}
void DevicePages::release(void* data, int64_t) {
  if (!DryRun::current()) cudaFree(data);
}

void* PinnedPages::allocate(int64_t bytes) {
  if (DryRun::current()) return ::operator new(static_cast<size_t>(bytes));  // the host does write to it
  void* data = nullptr;
  CUDA_CHECK(cudaMallocHost(&data, static_cast<size_t>(bytes)));
  return data;
}
void PinnedPages::release(void* data, int64_t) {
  if (DryRun::current()) {
    ::operator delete(data);
  } else {
    cudaFreeHost(data);
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

GpuGraph::~GpuGraph() {
  if (executable_) cudaGraphExecDestroy(executable_);
}

// Of a capture that failed.
void GpuGraph::end_capture(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
}

void GpuGraph::instantiate(cudaStream_t stream) {
  cudaGraph_t graph = nullptr;
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(status);
}

std::vector<MemoryRow> built_memory_plan(const ModelConfig& config, const ModelOptions& options, int B, int T) {
  return gpu_memory_plan(config, options, B, T, kCublasLt, kCudnn);
}

// ---- the device ----------------------------------------------------------------------------------------------------

GpuTiers gpu_tiers(Precision precision, bool reference) {
  if (reference) return {{MatmulTier::plain, false}, AttentionTier::plain};
  GpuTiers tiers{
      {precision == Precision::fp32 ? MatmulTier::plain : MatmulTier::tensor_core, precision == Precision::tf32},
      precision == Precision::bf16 ? AttentionTier::tensor_core : AttentionTier::plain, true};
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

void check_gpu_memory(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t free) {
  const auto needed = [&](const ModelOptions& o, int batch) {
    double sum = 0;  // absurd sizes exceed 2^63
    for (const MemoryRow& row : gpu_memory_plan(config, o, batch, T, kCublasLt, kCudnn))
      sum += static_cast<double>(row.bytes);
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
  if (options.moments == Moments::f32 && options.optimizer == Optimizer::adamw) {
    try_option("{moments} bf16", [](ModelOptions& o) { o.moments = Moments::bf16; });
  }
  constexpr int64_t kChunk = 4096;
  if (options.loss_chunk == 0 && head_rows(config, B, T) > kChunk) {
    try_option("{loss-chunk} 4096", [](ModelOptions& o) { o.loss_chunk = kChunk; });
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
  return find_gpu_family(config.family).make(config, options, B, T, gpu_tiers(options.precision, reference));
}

// ---- which kernels run ---------------------------------------------------------------------------------------------

std::vector<KernelRow> gpu_kernels(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout,
                                   bool reference) {
  const auto operations = find_gpu_family(config.family)
                              .dry_step(config, options, B, T, dropout, gpu_tiers(options.precision, reference), 1);
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

std::string graph_line(const ModelOptions& options) {
  if (!options.graph) return "graphs: none, kernels are queued one by one";
  if (options.ranks > 1) return "graphs: none, sums over processes are queued between kernels";
  return "graphs: forward, backward and update, captured per shape";
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
  text += kCublasLt ? "; built with cuBLASLt" : "; built without cuBLASLt";
  text += kCudnn ? ", with cuDNN" : ", without cuDNN";
  return text;
}

// ---- the algorithms of products ------------------------------------------------------------------------------------

MatmulPlans no_gpu_plans() {
  MatmulPlans plans;
#ifdef WROUGHT_CUBLASLT
  cudaDeviceProp properties;
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  plans.device = strprintf("%s, %d multiprocessors", properties.name, properties.multiProcessorCount);
  plans.library = CublasLt::version();
#endif
  return plans;
}

#ifdef WROUGHT_CUBLASLT
void use_gpu_plans(const MatmulPlans& plans) { CublasLt::instance().use(plans.products); }

MatmulPlans make_gpu_plans(const MatmulPlans& known, const ModelConfig& config, const ModelOptions& options, int B,
                           int T, float dropout, bool reference) {
  use_gpu_plans(known);
  MatmulPlans plans = known;
  plans.products = CublasLt::instance().measure([&] {
    const GpuTiers tiers = gpu_tiers(options.precision, reference);
    find_gpu_family(config.family).dry_step(config, options, B, T, dropout, tiers, 2);
  });
  use_gpu_plans(plans);  // without those of other runs' products: this run's bits follow from what it keeps
  return plans;
}
#else
void use_gpu_plans(const MatmulPlans&) {}

MatmulPlans make_gpu_plans(const MatmulPlans& known, const ModelConfig&, const ModelOptions&, int, int, float, bool) {
  return known;
}
#endif

// ---- what products reach -------------------------------------------------------------------------------------------

namespace {

// Products of n x n matrices.
template <class floatX>
class Products {
 public:
  static int64_t bytes(int n) { return 3 * int64_t{n} * n * static_cast<int64_t>(sizeof(floatX)); }
  Products(int n, MatmulMode mode) : n_(n), mode_(mode), a_(bytes(n) / 3), b_(bytes(n) / 3), c_(bytes(n) / 3) {
    CUDA_CHECK(cudaEventCreate(&begun_));
    CUDA_CHECK(cudaEventCreate(&done_));
    random_fill(a_.as<floatX>(), int64_t{n} * n, 0, nullptr);
    random_fill(b_.as<floatX>(), int64_t{n} * n, 1, nullptr);
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
