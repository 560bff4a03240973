// Matrix products by NVIDIA's cuBLASLt, with the same epilogues as ours. Only where it was compiled in
// (WROUGHT_CUBLASLT); else the functions at the end of this file say so.
//
// cuBLASLt counts matrices by columns: what is (M, N) by rows is (N, M) to it, with leading dimension N. So it is asked
// for the transposed product,  D^T (N, M) = B^T (N, K) A^T (K, M),  B's matrix first:
//   B by rows (N, K), Major::k:   to it (K, N), ld K; transposed by its flag.   (K, N), Major::mn: (N, K), ld N, as it
//   is. A by rows (M, K), Major::k:   to it (K, M), ld K, as it is.                 (K, M), Major::mn: (M, K), ld M;
//   transposed.
// Its bias has a number for each row of D^T, which is each column of D. GELU's aux matrix is laid out as D^T.
//
// The bias gradient is our own kernel's in this tier too: CUBLASLT_EPILOGUE_BGRADA has the type of the output, float
// for dweight, but sets it where dbias is to be added to.
#pragma once

#include "kernels/matmul_common.cuh"

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

// cuBLASLt's handle, its plans, one a product, and a workspace a stream. One for the process, which has one GPU.
class CublasLt {
 public:
  static constexpr size_t kWorkspace = size_t{32} << 20;  // bytes; what NVIDIA recommends for Hopper

  static CublasLt& instance() {
    static CublasLt* only = new CublasLt;  // never destroyed: CUDA may be gone before the program's statics are
    return *only;
  }

  // D = epilogue(A B), or D += A B. False: this product has no algorithm with this epilogue.
  bool multiply(const LtProduct& product, void* d, const void* a, const void* b, const void* bias, const void* aux,
                cudaStream_t stream) {
    const std::lock_guard<std::mutex> lock(mutex_);  // the plan's descriptor is given its pointers anew each time
    char* workspace = workspace_of(stream);
    Plan& plan = plan_of(product, workspace + 16);
    if (!plan.found) return false;
    if (bias) plan.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (aux) plan.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
    const float alpha = 1, beta = product.accumulate ? 1 : 0;
    check(cublasLtMatmul(handle_, plan.operation, &alpha, b, plan.b, a, plan.a, &beta, d, plan.d, d, plan.d,
                         &plan.algorithm, workspace, kWorkspace, stream),
          "multiplying", product);
    return true;
  }

 private:
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulAlgo_t algorithm;
    bool found = false;

    template <class T>
    void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
      const cublasStatus_t status = cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value);
      if (status != CUBLAS_STATUS_SUCCESS) {
        throw CudaError(std::string("cuBLASLt: setting an attribute: ") + cublasLtGetStatusString(status));
      }
    }
  };

  CublasLt() { check(cublasLtCreate(&handle_), "starting", {}); }

  static void check(cublasStatus_t status, const char* what, const LtProduct& product) {
    if (status == CUBLAS_STATUS_SUCCESS) return;
    throw CudaError(std::string("cuBLASLt: ") + what + " " + product.text() + ": " + cublasLtGetStatusString(status));
  }

  char* workspace_of(cudaStream_t stream) {
    char*& workspace = workspaces_[stream];
    if (!workspace) CUDA_CHECK(cudaMalloc(&workspace, kWorkspace));
    return workspace;
  }

  // The heuristic takes the alignment that it may rely on from the addresses of bias and aux: `aligned16` is a multiple
  // of 16 bytes and of no more.
  Plan& plan_of(const LtProduct& p, const void* aligned16) {
    std::unique_ptr<Plan>& known = plans_[p];
    if (known) return *known;
    auto plan = std::make_unique<Plan>();
    const cublasComputeType_t compute = p.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check(cublasLtMatmulDescCreate(&plan->operation, compute, CUDA_R_32F), "describing", p);
    // A and B change places here: cuBLASLt's first matrix is our B.
    plan->set<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, p.major_b == Major::k ? CUBLAS_OP_T : CUBLAS_OP_N);
    plan->set<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, p.major_a == Major::k ? CUBLAS_OP_N : CUBLAS_OP_T);
    plan->set<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
    if (p.epilogue & CUBLASLT_EPILOGUE_BIAS) plan->set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, aligned16);
    if (p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX || p.epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS ||
        p.epilogue == CUBLASLT_EPILOGUE_DGELU) {
      plan->set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aligned16);
      plan->set<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.N);
    }
    const cudaDataType_t factors = p.bf16_factors ? CUDA_R_16BF : CUDA_R_32F,
                         out = p.bf16_out ? CUDA_R_16BF : CUDA_R_32F;
    const auto layout = [&](cublasLtMatrixLayout_t* made, cudaDataType_t type, int rows, int columns) {
      check(cublasLtMatrixLayoutCreate(made, type, rows, columns, rows), "describing a matrix of", p);
    };
    p.major_b == Major::k ? layout(&plan->b, factors, p.K, p.N) : layout(&plan->b, factors, p.N, p.K);
    p.major_a == Major::k ? layout(&plan->a, factors, p.K, p.M) : layout(&plan->a, factors, p.M, p.K);
    layout(&plan->d, out, p.N, p.M);

    cublasLtMatmulPreference_t preference;
    check(cublasLtMatmulPreferenceCreate(&preference), "describing preferences for", p);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value),
            "setting preferences for", p);
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
    // Parts along K are added in float, in a step of their own: never in the output's type, which may be bf16.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      prefer(attribute, uint32_t{16});
    }
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, plan->operation, plan->b, plan->a, plan->d,
                                                                 plan->d, preference, 1, &result, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "choosing an algorithm for", p);
    plan->found = status == CUBLAS_STATUS_SUCCESS && count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    plan->algorithm = result.algo;
    known = std::move(plan);
    return *known;
  }

  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<LtProduct, std::unique_ptr<Plan>> plans_;
  std::map<cudaStream_t, char*> workspaces_;
};

[[noreturn]] inline void cublaslt_lacks(const LtProduct& product) {
  throw CudaError("cuBLASLt has no algorithm for the product " + product.text());
}

template <class floatX>
LtProduct lt_product(Major major_a, Major major_b, int M, int N, int K, bool tf32) {
  constexpr bool kBf16 = std::is_same_v<floatX, bf16>;
  return {major_a, major_b, M, N, K, kBf16, kBf16, !kBf16 && tf32, false, CUBLASLT_EPILOGUE_DEFAULT};
}

// The three products of kernels/matmul.cuh. False: lengths or pointers are not multiples of 16 bytes, and nothing was
// done; our own kernels take those.

template <class floatX>
bool cublaslt_forward(floatX* out, floatX* out_gelu, const floatX* inp, const floatX* weight, const floatX* bias, int N,
                      int C, int OC, bool tf32, cudaStream_t stream) {
  constexpr int kWidth = Pack<floatX>::size;
  if (C % kWidth != 0 || OC % kWidth != 0 || !aligned16(out, out_gelu, inp, weight, bias)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::k, Major::k, N, OC, C, tf32);
  if (out_gelu && OC % 8 == 0) {  // what it asks of aux's leading dimension
    product.epilogue = bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    if (lt.multiply(product, out_gelu, inp, weight, bias, out, stream)) return true;
  }
  product.epilogue = bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (!lt.multiply(product, out, inp, weight, bias, nullptr, stream)) cublaslt_lacks(product);
  if (out_gelu) gelu_forward(out_gelu, out, static_cast<int64_t>(N) * OC, stream);
  return true;
}

template <class floatX>
bool cublaslt_input_gradient(floatX* dinp, const floatX* dout, const floatX* weight, const floatX* pre_gelu, int N,
                             int C, int OC, bool tf32, cudaStream_t stream) {
  constexpr int kWidth = Pack<floatX>::size;
  if (C % kWidth != 0 || OC % kWidth != 0 || !aligned16(dinp, dout, weight, pre_gelu)) return false;
  CublasLt& lt = CublasLt::instance();
  LtProduct product = lt_product<floatX>(Major::k, Major::mn, N, C, OC, tf32);
  if (pre_gelu && C % 8 == 0) {
    product.epilogue = CUBLASLT_EPILOGUE_DGELU;
    if (lt.multiply(product, dinp, dout, weight, nullptr, pre_gelu, stream)) return true;
    product.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  }
  if (!lt.multiply(product, dinp, dout, weight, nullptr, nullptr, stream)) cublaslt_lacks(product);
  if (pre_gelu) gelu_backward(dinp, dinp, pre_gelu, static_cast<int64_t>(N) * C, stream);
  return true;
}

template <class floatX>
bool cublaslt_weight_gradient(float* dweight, const floatX* dout, const floatX* inp, int N, int C, int OC, bool tf32,
                              cudaStream_t stream) {
  constexpr int kWidth = Pack<floatX>::size;
  if (C % kWidth != 0 || OC % kWidth != 0 || !aligned16(dweight, dout, inp)) return false;
  LtProduct product = lt_product<floatX>(Major::mn, Major::mn, OC, C, N, tf32);
  product.bf16_out = false;
  product.accumulate = true;
  if (!CublasLt::instance().multiply(product, dweight, dout, inp, nullptr, nullptr, stream)) cublaslt_lacks(product);
  return true;
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
