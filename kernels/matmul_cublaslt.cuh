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
// Its bias has a number for each row of D^T, which is each column of D. GELU's aux matrix is laid out as D^T.
//
// In this tier too our own kernel computes the bias gradient: CUBLASLT_EPILOGUE_BGRADA has the type of the output,
// float for dweight, but sets dbias where it should be added to.
#pragma once

#include "kernels/matmul_common.cuh"

// What multiplies, and if that is not cuBLASLt, why.
struct MatmulChoice {
  std::string library;  // cuBLASLt and its algorithm; empty: our own kernels
  std::string why;      // why cuBLASLt does not compute it, or not all of it
  std::string text() const { return library; }
};

#ifdef WROUGHT_CUBLASLT

#include <cublasLt.h>

#include <map>
#include <memory>
#include <mutex>

// A product as cuBLASLt plans it.
struct LtProduct {
  Major major_a, major_b;
  int M, N, K;
  bool bf16_factors, bf16_out;  // else float
  bool tf32;                    // float factors may be rounded to tf32
  bool accumulate;              // D += A B
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
class CublasLt {
 public:
  static constexpr size_t kWorkspace = size_t{32} << 20;  // bytes; NVIDIA's recommendation for Hopper

  static CublasLt& instance() {
    static CublasLt* only = new CublasLt;  // never destroyed: CUDA may be gone before the program's statics are
    return *only;
  }

  // The stream's workspace, allocated once: before a step, so that none of its products allocates.
  void prepare(cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    workspace_of(stream);
  }

  // D = epilogue(A B), or D += A B, if there is an algorithm, which `choice` then names. False: there is none, which
  // choice.why explains, and nothing was done. In a dry run the plan is made and not run.
  bool multiply(MatmulChoice& choice, const LtProduct& product, void* d, const void* a, const void* b, const void* bias,
                const void* aux, cudaStream_t stream) {
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
    check(cublasLtMatmul(handle_, plan.operation, &alpha, b, plan.b, a, plan.a, &beta, d, plan.d, d, plan.d,
                         &plan.algorithm, workspace_of(stream), kWorkspace, stream),
          "multiplying", product);
    return true;
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm;
    std::string text, why;  // which algorithm; why there is none

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

  // An epilogue is never required: any failure with one means that this product has no such algorithm. For a product
  // without one only the statuses that mean "no algorithm" do, and everything else is an error.
  Plan& plan_of(const LtProduct& p) {
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
    if (p.epilogue & CUBLASLT_EPILOGUE_BIAS) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, aligned16);
    if (p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX || p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
        p.epilogue == CUBLASLT_EPILOGUE_DGELU) {
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
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation, plan.b, plan.a, plan.d,
                                                                 plan.d, preference.get(), 1, &result, &count);
    Failure::check(status, "choosing an algorithm for");
    Failure::check(count > 0 ? result.state : CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm for");
    plan.algorithm = result.algo;
    plan.text =
        std::string("cuBLASLt, algorithm 0 of ") + std::to_string(count) + ", epilogue " + epilogue_name(p.epilogue);
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
      default:
        return "(unknown)";
    }
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<LtProduct, std::unique_ptr<Plan>> plans_;
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
                      const floatX* bias, int N, int C, int OC, bool tf32, cudaStream_t stream) {
  if (!cublaslt_takes<floatX>(choice, C, OC, out, out_gelu, inp, weight, bias)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::k, Major::k, N, OC, C, tf32);
  if (kLibraryGelu<floatX> && out_gelu) {
    product.epilogue = bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (lt.multiply(choice, product, out_gelu, inp, weight, bias, out, stream)) return true;
  }
  product.epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (!lt.multiply(choice, product, out, inp, weight, bias, nullptr, stream)) return false;
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
    if (lt.multiply(choice, product, dinp, dout, weight, nullptr, pre_gelu, stream)) return true;
    product.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  }
  if (!lt.multiply(choice, product, dinp, dout, weight, nullptr, nullptr, stream)) return false;
  if (pre_gelu) gelu_backward(dinp, dinp, pre_gelu, static_cast<int64_t>(N) * C, stream);
  return true;
}

template <class floatX>
bool cublaslt_weight_gradient(MatmulChoice& choice, float* dweight, const floatX* dout, const floatX* inp, int N, int C,
                              int OC, bool tf32, cudaStream_t stream) {
  if (!cublaslt_takes<floatX>(choice, C, OC, dweight, dout, inp)) return false;
  LtProduct product = lt_product<floatX>(Major::mn, Major::mn, OC, C, N, tf32);
  product.bf16_out = false;
  product.accumulate = true;
  return CublasLt::instance().multiply(choice, product, dweight, dout, inp, nullptr, nullptr, stream);
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
