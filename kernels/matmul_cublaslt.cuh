// Matrix products by NVIDIA's cuBLASLt, with the same epilogues as ours. Only if it was compiled in (WROUGHT_CUBLASLT);
// else the functions at the end of this file report that it was not.
//
// cuBLASLt counts matrices by columns: (M, N) by rows is (N, M) to it, with leading dimension N. So it is asked for the
// transposed product,  D^T (N, M) = B^T (N, K) A^T (K, M),  B's matrix first:
//   factor   by rows             to cuBLASLt     flag
//   B        (N, K), Major::k    (K, N), ld K    transposed
//   B        (K, N), Major::mn   (N, K), ld N    as it is
//   A        (M, K), Major::k    (K, M), ld K    as it is
//   A        (K, M), Major::mn   (M, K), ld M    transposed
// Its bias has a number for each row of D^T, which is each column of D. GELU's aux matrix is laid out as D^T. The
// matrix C that is added, D = A B + C, may be D.
//
// The bias gradient comes from dweight's product, which reads dout anyway: with the epilogue BGRADB it also sets the
// sums of its second factor, our dout, along K, in float, the type of its output. (DGELU_BGRAD, with the product that
// makes dout, would round the sums to that product's bf16.)
#pragma once

#include "kernels/matmul_common.cuh"
#include "kernels/matmul_plan.h"
#include "kernels/random_fill.cuh"

// What multiplies, and if that is not cuBLASLt, why.
struct MatmulChoice {
  std::string library;  // cuBLASLt and its algorithm; empty: our own kernels
  std::string why;      // why cuBLASLt does not compute it, or not all of it
  std::string text() const { return library; }
};

#ifdef WROUGHT_CUBLASLT

#include <cublasLt.h>

#include <chrono>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <vector>

// A product as cuBLASLt plans it.
struct LtProduct {
  Major major_a, major_b;
  int M, N, K;
  bool bf16_factors, bf16_out;  // else float
  bool tf32;                    // float factors may be rounded to tf32
  bool accumulate;              // D = A B + C
  cublasLtEpilogue_t epilogue;

  auto operator<=>(const LtProduct&) const = default;

  std::string text() const {
    const char* factors = bf16_factors ? "bf16" : tf32 ? "float rounded to tf32" : "float";
    return std::to_string(M) + " x " + std::to_string(N) + " x " + std::to_string(K) + " (" + factors + ", A " +
           (major_a == Major::k ? "by rows" : "transposed") + ", B " +
           (major_b == Major::k ? "transposed" : "by rows") + ", output " + (bf16_out ? "bf16" : "float") +
           (accumulate ? ", added" : "") + ", epilogue " + std::to_string(static_cast<int>(epilogue)) + ")";
  }
};

// cuBLASLt's handle, its plans, one per product, and one workspace per stream. One for the process, which has one GPU.
//
// A plan's algorithm is the one that use() names for the product; else the fastest, if measure() saw the product; else
// the first that the library's heuristic offers. Algorithms whose sum along K has no fixed order are never taken.
class CublasLt {
 public:
  static constexpr size_t kWorkspace = kCublasLtWorkspace;

  static CublasLt& instance() {
    static CublasLt* only = new CublasLt;  // never destroyed: CUDA may be gone before the program's statics are
    return *only;
  }

  // The stream's workspace, allocated once: before a step, so that none of its products allocates.
  void prepare(cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    workspace_of(stream);
  }

  static std::string version() { return "cuBLASLt " + std::to_string(cublasLtGetVersion()); }

  // Algorithms for the products that `known` has, where the library accepts them. All plans are made again.
  void use(ProductPlans known) {
    const std::lock_guard<std::mutex> lock(mutex_);
    known_ = std::move(known);
    plans_.clear();
  }

  // The plans of the products that `step` asks for: it queues them in a dry run of this thread. Those that use() did
  // not name are measured, in memory that is allocated for that: tens of milliseconds per product. Empty: no GPU.
  ProductPlans measure(const std::function<void()>& step) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      asked_.clear();
      asked_thread_ = std::this_thread::get_id();
    }
    step();
    const std::lock_guard<std::mutex> lock(mutex_);
    asked_thread_ = {};
    bool warm = false;
    ProductPlans found;
    for (const LtProduct& product : asked_) {
      Plan& plan = plan_of(product);
      if (!plan.why.empty()) continue;
      if (plan.candidates.size() > 0) choose_fastest(plan, product, warm);
      // One that could not be measured is not kept: it runs by the first candidate until there is memory to measure it.
      if (plan.choice.microseconds > 0) found[product.text()] = plan.choice;
    }
    return found;
  }

  // Milliseconds between two events, by which measure() compares; tests set known times.
  cudaError_t (*elapsed)(float*, cudaEvent_t, cudaEvent_t) = cudaEventElapsedTime;

  // D = epilogue(A B), or epilogue(A B + C), if there is an algorithm, which `choice` then names. False: there is none,
  // which choice.why explains, and nothing was done. In a dry run the plan is made and not run. c: null is d. bias:
  // read, or by BGRADB written.
  bool multiply(MatmulChoice& choice, const LtProduct& product, void* d, const void* a, const void* b, const void* c,
                const void* bias, const void* aux, cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(mutex_);  // each call sets the pointers of the plan's descriptor
    const bool dry = DryRun::current() != nullptr;
    if (!start(dry)) {  // no GPU: only report that
      choice = {"cuBLASLt", "if it has an algorithm (known only on a GPU); else our own"};
      return true;
    }
    Plan& plan = plan_of(product);
    if (!plan.why.empty()) {
      choice.why = plan.why;
      return false;
    }
    if (dry) {
      choice.library = plan.text;
      return true;
    }
    if (bias) check(plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), "setting the bias of", product);
    if (aux) check(plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux), "setting the second output of", product);
    const float alpha = 1, beta = product.accumulate ? 1 : 0;
    check(cublasLtMatmul(handle_, plan.operation, &alpha, b, plan.b, a, plan.a, &beta, c ? c : d, plan.d, d, plan.d,
                         &plan.algorithm, workspace_of(stream), kWorkspace, stream),
          "multiplying", product);
    return true;
  }

 private:
  struct Candidate {  // nvcc 13.0 crashes on a vector of the library's unnamed struct
    cublasLtMatmulAlgo_t algorithm;
  };

  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm;
    MatmulPlan choice;                  // the same, and how it was chosen
    std::vector<Candidate> candidates;  // until they are measured; none if the algorithm is known
    std::string text, why;              // which algorithm; why there is none

    Plan() = default;
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;
    ~Plan() {
      for (const cublasLtMatrixLayout_t layout : {a, b, d}) {
        if (layout) cublasLtMatrixLayoutDestroy(layout);
      }
      if (operation) cublasLtMatmulDescDestroy(operation);
    }

    template <class T>
    cublasStatus_t set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
      return cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value);
    }
  };

  // A call that failed, before it is known whether the product can do without it.
  struct Failure {
    cublasStatus_t status;
    const char* what;
    static void check(cublasStatus_t status, const char* what) {
      if (status != CUBLAS_STATUS_SUCCESS) throw Failure{status, what};
    }
  };

  CublasLt() = default;

  static void check(cublasStatus_t status, const char* what, const LtProduct& product) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw CudaError(std::string("cuBLASLt: ") + what + " " + product.text() + ": " + cublasLtGetStatusString(status));
  }

  // False, and only in a dry run: there is no GPU.
  bool start(bool dry) {
    if (handle_) return true;
    const cublasStatus_t status = cublasLtCreate(&handle_);
    if (status == CUBLAS_STATUS_SUCCESS) return true;
    handle_ = nullptr;
    if (dry) return false;
    throw CudaError(std::string("starting cuBLASLt: ") + cublasLtGetStatusString(status));
  }

  char* workspace_of(cudaStream_t stream) {
    char*& workspace = workspaces_[stream];
    if (!workspace) CUDA_CHECK(cudaMalloc(&workspace, kWorkspace));
    return workspace;
  }

  static bool has_bias(const LtProduct& p) {
    return (p.epilogue & CUBLASLT_EPILOGUE_BIAS) || p.epilogue == CUBLASLT_EPILOGUE_BGRADB;
  }
  static bool has_aux(const LtProduct& p) {
    return p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX || p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
           p.epilogue == CUBLASLT_EPILOGUE_DGELU;
  }

  // An epilogue is never required: any failure with one means that this product has no such algorithm. For a product
  // without one only the statuses that mean "no algorithm" do, and everything else is an error.
  Plan& plan_of(const LtProduct& p) {
    if (DryRun::current() && std::this_thread::get_id() == asked_thread_) asked_.insert(p);
    std::unique_ptr<Plan>& known = plans_[p];
    if (known) return *known;
    auto plan = std::make_unique<Plan>();
    try {
      make_plan(*plan, p);
    } catch (const Failure& failure) {
      const bool none = failure.status == CUBLAS_STATUS_NOT_SUPPORTED || failure.status == CUBLAS_STATUS_INVALID_VALUE;
      if (p.epilogue == CUBLASLT_EPILOGUE_DEFAULT && !none) check(failure.status, failure.what, p);
      plan->why = std::string("cuBLASLt has no algorithm with epilogue ") + epilogue_name(p.epilogue) + " (" +
                  failure.what + " it: " + cublasLtGetStatusString(failure.status) + ")";
    }
    known = std::move(plan);
    return *known;
  }

  void make_plan(Plan& plan, const LtProduct& p) {
    // The heuristic reads the alignment that it may rely on from the addresses of bias and aux, and does not read the
    // data: a multiple of exactly 16 bytes.
    const uintptr_t aligned16 = (uintptr_t{1} << 20) + 16;
    const cublasComputeType_t compute = p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    Failure::check(cublasLtMatmulDescCreate(&plan.operation, compute, CUDA_R_32F), "describing");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      Failure::check(plan.set(attribute, value), "setting an attribute of");
    };
    // A and B swap here: cuBLASLt's first matrix is our B.
    set(CUBLASLT_MATMUL_DESC_TRANSA, int32_t{p.major_b == Major::k ? CUBLAS_OP_T : CUBLAS_OP_N});
    set(CUBLASLT_MATMUL_DESC_TRANSB, int32_t{p.major_a == Major::k ? CUBLAS_OP_N : CUBLAS_OP_T});
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<int32_t>(p.epilogue));
    if (has_bias(p)) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, aligned16);
    if (p.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(CUDA_R_32F));
    }
    if (has_aux(p)) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aligned16);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, int64_t{p.N});
    }
    const cudaDataType_t factors = p.bf16_factors ? CUDA_R_16BF : CUDA_R_32F,
                         out = p.bf16_out ? CUDA_R_16BF : CUDA_R_32F;
    const auto layout = [&](cublasLtMatrixLayout_t* made, cudaDataType_t type, int rows, int columns) {
      Failure::check(cublasLtMatrixLayoutCreate(made, type, rows, columns, rows), "describing a matrix of");
    };
    p.major_b == Major::k ? layout(&plan.b, factors, p.K, p.N) : layout(&plan.b, factors, p.N, p.K);
    p.major_a == Major::k ? layout(&plan.a, factors, p.K, p.M) : layout(&plan.a, factors, p.M, p.K);
    layout(&plan.d, out, p.N, p.M);
    if (choose_known(plan, p)) return;

    cublasLtMatmulPreference_t created = nullptr;
    Failure::check(cublasLtMatmulPreferenceCreate(&created), "describing preferences for");
    const auto destroy = [](cublasLtMatmulPreference_t made) { cublasLtMatmulPreferenceDestroy(made); };
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(destroy)> preference(created);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      Failure::check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
                     "setting preferences for");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
    // Parts along K are added in float, in a separate step: never in the output's type, which may be bf16.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(attribute, uint32_t{16});
    }
    cublasLtMatmulHeuristicResult_t results[kCandidates] = {};
    int count = 0;
    Failure::check(cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.b, plan.a, plan.d, plan.d,
                                                  preference.get(), kCandidates, results, &count),
                   "choosing an algorithm for");
    for (const cublasLtMatmulHeuristicResult_t& result : std::span(results, static_cast<size_t>(count))) {
      if (result.state == CUBLAS_STATUS_SUCCESS && fits(result.algo, result.workspaceSize)) {
        plan.candidates.push_back({result.algo});
      }
    }
    Failure::check(count > 0 && plan.candidates.empty() ? results[0].state : CUBLAS_STATUS_SUCCESS,
                   "choosing an algorithm for");
    Failure::check(plan.candidates.empty() ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS,
                   "choosing an algorithm for");
    MatmulPlan choice;
    choice.candidates = static_cast<int>(plan.candidates.size());
    choose(plan, p, plan.candidates[0].algorithm, choice);
  }

  // ---- choosing an algorithm

  static constexpr int kCandidates = 16;      // that the heuristic is asked for
  static constexpr int kRepeats = 5;          // times that each is measured; the median counts
  static constexpr double kWorthIt = 0.99;    // of the first candidate's time: what another must stay below
  static constexpr double kWarm = 20e-3;      // seconds that the GPU's clocks need to settle
  static constexpr double kMeasured = 1e-3;   // seconds that one measurement should take
  static constexpr int kMeasuredAtMost = 16;  // products in one

  // Whether the workspace suffices and the sum along K has a fixed order: in one piece, or in parts that a separate
  // step adds as floats. In place, parts are added as their blocks come, and in the output's type.
  // An algorithm without this attribute has no parts; for the rest the heuristic's mask says the same.
  static bool fits(const cublasLtMatmulAlgo_t& algorithm, size_t workspace) {
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoConfigGetAttribute(
        &algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &written);
    const bool fixed_order = status != CUBLAS_STATUS_SUCCESS || scheme == CUBLASLT_REDUCTION_SCHEME_NONE ||
                             scheme == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    return fixed_order && workspace <= kWorkspace;
  }

  void choose(Plan& plan, const LtProduct& p, const cublasLtMatmulAlgo_t& algorithm, MatmulPlan choice) {
    plan.algorithm = algorithm;
    plan.choice = std::move(choice);
    plan.choice.algorithm = to_hex(algorithm);
    plan.text = "cuBLASLt, algorithm " + std::to_string(plan.choice.candidate) + " of " +
                std::to_string(plan.choice.candidates) + ", epilogue " + epilogue_name(p.epilogue);
  }

  // The algorithm that use() named, if there is one and the library accepts it for this product.
  bool choose_known(Plan& plan, const LtProduct& p) {
    const auto known = known_.find(p.text());
    cublasLtMatmulAlgo_t algorithm;
    if (known == known_.end() || !from_hex(known->second.algorithm, algorithm)) return false;
    cublasLtMatmulHeuristicResult_t result = {};
    if (cublasLtMatmulAlgoCheck(handle_, plan.operation, plan.b, plan.a, plan.d, plan.d, &algorithm, &result) !=
            CUBLAS_STATUS_SUCCESS ||
        !fits(algorithm, result.workspaceSize)) {
      return false;
    }
    choose(plan, p, algorithm, known->second);
    return true;
  }

  struct DeviceMemory {
    char* data = nullptr;
    ~DeviceMemory() { cudaFree(data); }
  };
  struct Event {
    cudaEvent_t event = nullptr;
    Event() { CUDA_CHECK(cudaEventCreate(&event)); }
    ~Event() { cudaEventDestroy(event); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
  };

  // Multiplies random matrices by each candidate. The matrices have the sizes and the alignment of those of the model,
  // which does not exist yet: its plans are an input, and until it exists there is memory for them. Candidates take
  // turns, so that a change of the clock is a change for all. `warm`: whether the GPU has been busy before, and then
  // true.
  void choose_fastest(Plan& plan, const LtProduct& p, bool& warm) {
    const std::vector<Candidate> candidates = std::exchange(plan.candidates, {});
    const int64_t factor = p.bf16_factors ? 2 : 4, out = p.bf16_out ? 2 : 4, M = p.M, N = p.N, K = p.K;
    const int64_t parts[] = {M * K * factor, N * K * factor, M * N * out, has_aux(p) ? M * N * out : 0,
                             std::max(M, N) * 4};  // a, b, d, aux, bias
    int64_t begins[std::size(parts) + 1] = {};
    for (size_t i = 0; i < std::size(parts); ++i) begins[i + 1] = begins[i] + ceil_div<int64_t>(parts[i], 256) * 256;
    DeviceMemory memory;
    const cudaError_t allocated = cudaMalloc(&memory.data, static_cast<size_t>(begins[std::size(parts)]));
    if (allocated == cudaErrorMemoryAllocation) {  // the first candidate stays, unmeasured
      cudaGetLastError();                          // reported here: the next call must not find it again
      return;
    }
    CUDA_CHECK(allocated);
    const cudaStream_t stream = nullptr;
    for (size_t i = 0; i < std::size(parts); ++i) {
      char* at = memory.data + begins[i];
      if (i < 2 ? p.bf16_factors : p.bf16_out) {
        random_fill(reinterpret_cast<bf16*>(at), parts[i] / 2, i, stream);
      } else {
        random_fill(reinterpret_cast<float*>(at), parts[i] / 4, i, stream);
      }
    }
    char *a = memory.data, *b = a + begins[1], *d = a + begins[2], *aux = a + begins[3], *bias = a + begins[4];
    if (has_bias(p)) check(plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias), "setting the bias of", p);
    if (has_aux(p)) check(plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux), "setting the second output of", p);
    const float alpha = 1, beta = p.accumulate ? 1 : 0;
    const auto run = [&](const cublasLtMatmulAlgo_t& algorithm) {
      return cublasLtMatmul(handle_, plan.operation, &alpha, b, plan.b, a, plan.a, &beta, d, plan.d, d, plan.d,
                            &algorithm, workspace_of(stream), kWorkspace, stream);
    };
    const Event begun, done;
    const auto seconds = [&](const cublasLtMatmulAlgo_t& algorithm, int count) {  // of one product, with `count` queued
      CUDA_CHECK(cudaEventRecord(begun.event, stream));
      for (int i = 0; i < count; ++i) check(run(algorithm), "measuring", p);
      CUDA_CHECK(cudaEventRecord(done.event, stream));
      CUDA_CHECK(cudaEventSynchronize(done.event));
      float milliseconds = 0;
      CUDA_CHECK(elapsed(&milliseconds, begun.event, done.event));
      return std::max(1e-3 * static_cast<double>(milliseconds) / count, 1e-9);
    };

    // 1. the first run of each, which loads its kernels; one that the library cannot run after all is left out
    std::vector<size_t> running;
    for (size_t k = 0; k < candidates.size(); ++k) {
      if (run(candidates[k].algorithm) == CUBLAS_STATUS_SUCCESS) running.push_back(k);
    }
    CUDA_CHECK(cudaStreamSynchronize(stream));
    if (running.empty()) return;  // multiply() will report why
    // 2. how long it takes; with the first product until the clocks have settled
    const auto since = std::chrono::steady_clock::now();
    double once = 0;
    do {
      once = seconds(candidates[running[0]].algorithm, 1);
      warm |= std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count() > kWarm;
    } while (!warm);
    // 3. in turns
    const int count = static_cast<int>(std::clamp(kMeasured / once, 1.0, double{kMeasuredAtMost}));
    std::vector<double> times[kCandidates];
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      for (const size_t k : running) times[k].push_back(seconds(candidates[k].algorithm, count));
    }
    const auto median = [&](size_t k) {
      std::sort(times[k].begin(), times[k].end());
      return times[k][kRepeats / 2];
    };
    const double first = median(running[0]);
    size_t best = running[0];
    double least = kWorthIt * first;
    for (const size_t k : running) {
      if (k != running[0] && median(k) < least) best = k, least = median(k);
    }
    const auto microseconds = [](double s) { return std::round(1e8 * s) / 100; };
    MatmulPlan choice;
    choice.candidate = static_cast<int>(best);
    choice.candidates = static_cast<int>(candidates.size());
    choice.microseconds = microseconds(median(best));
    choice.first_microseconds = microseconds(first);
    choose(plan, p, candidates[best].algorithm, choice);
  }

  // The library's description of an algorithm may be kept, for the same version of the library.
  static std::string to_hex(const cublasLtMatmulAlgo_t& algorithm) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(&algorithm);
    std::string text;
    for (size_t i = 0; i < sizeof algorithm; ++i) {
      for (const int digit : {bytes[i] >> 4, bytes[i] & 15}) text += "0123456789abcdef"[digit];
    }
    return text;
  }
  static bool from_hex(const std::string& text, cublasLtMatmulAlgo_t& algorithm) {
    static const std::string digits = "0123456789abcdef";
    if (text.size() != 2 * sizeof algorithm || text.find_first_not_of(digits) != std::string::npos) return false;
    auto* bytes = reinterpret_cast<unsigned char*>(&algorithm);
    for (size_t i = 0; i < sizeof algorithm; ++i) {
      bytes[i] = static_cast<unsigned char>(16 * digits.find(text[2 * i]) + digits.find(text[2 * i + 1]));
    }
    return true;
  }

  static const char* epilogue_name(cublasLtEpilogue_t epilogue) {
    switch (epilogue) {
      case CUBLASLT_EPILOGUE_DEFAULT:
        return "none";
      case CUBLASLT_EPILOGUE_BIAS:
        return "BIAS";
      case CUBLASLT_EPILOGUE_GELU_AUX:
        return "GELU_AUX";
      case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
        return "GELU_AUX_BIAS";
      case CUBLASLT_EPILOGUE_DGELU:
        return "DGELU";
      case CUBLASLT_EPILOGUE_BGRADB:
        return "BGRADB";
      default:
        return "(unknown)";
    }
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<LtProduct, std::unique_ptr<Plan>> plans_;
  ProductPlans known_;         // what use() named
  std::set<LtProduct> asked_;  // by the dry run of measure(), on this thread
  std::thread::id asked_thread_;
  std::map<cudaStream_t, char*> workspaces_;
};

template <class floatX>
LtProduct lt_product(Major major_a, Major major_b, int M, int N, int K, bool tf32) {
  constexpr bool kBf16 = std::is_same_v<floatX, bf16>;
  return {major_a, major_b, M, N, K, kBf16, kBf16, !kBf16 && tf32, false, CUBLASLT_EPILOGUE_DEFAULT};
}

// The library's GELU is an approximation that may differ from ours by more than float's rounding, but not by more than
// bf16's: it is used only for bf16.
template <class floatX>
inline constexpr bool kLibraryGelu = std::is_same_v<floatX, bf16>;

template <class floatX, class... Pointers>
bool cublaslt_takes(MatmulChoice& choice, int C, int OC, const Pointers*... pointers) {
  constexpr int kWidth = Pack<floatX>::size;
  if (C % kWidth != 0 || OC % kWidth != 0) {
    choice.why = "cuBLASLt is skipped: rows of " + std::to_string(C) + " or " + std::to_string(OC) +
                 " elements are not multiples of 16 bytes";
  } else if (!aligned16(pointers...)) {
    choice.why = "cuBLASLt is skipped: a tensor does not begin at a multiple of 16 bytes";
  }
  return choice.why.empty();
}

// The three products of kernels/matmul.cuh. False: cuBLASLt does not multiply these, for the reason in `choice`, and
// nothing was done; our own kernels multiply.

template <class floatX>
bool cublaslt_forward(MatmulChoice& choice, floatX* out, floatX* out_gelu, const floatX* inp, const floatX* weight,
                      const floatX* bias, const floatX* residual, int N, int C, int OC, bool tf32,
                      cudaStream_t stream) {
  if (!cublaslt_takes<floatX>(choice, C, OC, out, out_gelu, inp, weight, bias, residual)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::k, Major::k, N, OC, C, tf32);
  product.accumulate = residual != nullptr;
  if (kLibraryGelu<floatX> && out_gelu) {
    product.epilogue = bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (lt.multiply(choice, product, out_gelu, inp, weight, residual, bias, out, stream)) return true;
  }
  product.epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (!lt.multiply(choice, product, out, inp, weight, residual, bias, nullptr, stream)) return false;
  if (out_gelu) gelu_forward(out_gelu, out, static_cast<int64_t>(N) * OC, stream);
  return true;
}

template <class floatX>
bool cublaslt_input_gradient(MatmulChoice& choice, floatX* dinp, const floatX* dout, const floatX* weight,
                             const floatX* pre_gelu, int N, int C, int OC, bool tf32, cudaStream_t stream) {
  if (!cublaslt_takes<floatX>(choice, C, OC, dinp, dout, weight, pre_gelu)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::k, Major::mn, N, C, OC, tf32);
  if (kLibraryGelu<floatX> && pre_gelu) {
    product.epilogue = CUBLASLT_EPILOGUE_DGELU;
    if (lt.multiply(choice, product, dinp, dout, weight, nullptr, nullptr, pre_gelu, stream)) return true;
    product.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  }
  if (!lt.multiply(choice, product, dinp, dout, weight, nullptr, nullptr, nullptr, stream)) return false;
  if (pre_gelu) gelu_backward(dinp, dinp, pre_gelu, static_cast<int64_t>(N) * C, stream);
  return true;
}

// dout_sums: null, or what gets the column sums of dout, if `summed` is then true.
template <class floatX>
bool cublaslt_weight_gradient(MatmulChoice& choice, bool& summed, float* dweight, float* dout_sums, const floatX* dout,
                              const floatX* inp, bool set, int N, int C, int OC, bool tf32, cudaStream_t stream) {
  if (!cublaslt_takes<floatX>(choice, C, OC, dweight, dout, inp)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::mn, Major::mn, OC, C, N, tf32);
  product.bf16_out = false;
  product.accumulate = !set;
  if (product.bf16_factors && dout_sums && aligned16(dout_sums)) {
    product.epilogue = CUBLASLT_EPILOGUE_BGRADB;
    summed = lt.multiply(choice, product, dweight, dout, inp, nullptr, dout_sums, nullptr, stream);
    if (summed) return true;
    product.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  }
  return lt.multiply(choice, product, dweight, dout, inp, nullptr, nullptr, nullptr, stream);
}

#else

[[noreturn]] inline void no_cublaslt() { throw CudaError("matmul: this program was built without cuBLASLt"); }

template <class... Args>
bool cublaslt_forward(Args&&...) {
  no_cublaslt();
}
template <class... Args>
bool cublaslt_input_gradient(Args&&...) {
  no_cublaslt();
}
template <class... Args>
bool cublaslt_weight_gradient(Args&&...) {
  no_cublaslt();
}

#endif  // WROUGHT_CUBLASLT
