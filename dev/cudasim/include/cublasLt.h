// A stand-in for the part of cuBLASLt that kernels/matmul_cublaslt.cuh calls, for tests of that code without a GPU: one
// naive kernel, which multiplies as the descriptors say, and refuses what the library's documentation forbids. Nothing
// here is fast; results are rounded as in the library, but do not have its bits.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_16BF = 14 };
enum cublasStatus_t {
  CUBLAS_STATUS_SUCCESS = 0,
  CUBLAS_STATUS_NOT_INITIALIZED = 1,
  CUBLAS_STATUS_INVALID_VALUE = 7,
  CUBLAS_STATUS_INTERNAL_ERROR = 14,
  CUBLAS_STATUS_NOT_SUPPORTED = 15
};
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68, CUBLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum cublasOperation_t { CUBLAS_OP_N = 0, CUBLAS_OP_T = 1 };
enum cublasLtEpilogue_t {
  CUBLASLT_EPILOGUE_DEFAULT = 1,
  CUBLASLT_EPILOGUE_BIAS = 4,
  CUBLASLT_EPILOGUE_GELU_AUX = 32 | 128,
  CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 32 | 128 | 4,
  CUBLASLT_EPILOGUE_DGELU = 64 | 128,
  CUBLASLT_EPILOGUE_BGRADB = 512
};
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_TRANSA = 3,
  CUBLASLT_MATMUL_DESC_TRANSB = 4,
  CUBLASLT_MATMUL_DESC_EPILOGUE = 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER = 8,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER = 11,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD = 12,
  CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE = 26
};
enum cublasLtMatmulPreferenceAttributes_t {
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES = 1,
  CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK = 3,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES = 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES = 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES = 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES = 8
};
enum cublasLtReductionScheme_t {
  CUBLASLT_REDUCTION_SCHEME_NONE = 0,
  CUBLASLT_REDUCTION_SCHEME_INPLACE = 1,
  CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2,
  CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE = 4
};
enum cublasLtMatmulAlgoConfigAttributes_t { CUBLASLT_ALGO_CONFIG_ID = 0, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME = 3 };

namespace cudasim {

struct LtLayout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t ld;  // from one column to the next
};
struct LtOperation {
  cublasComputeType_t compute;
  int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N, epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void *bias = nullptr, *aux = nullptr;
  int64_t aux_ld = 0;
  int32_t bias_type = -1;  // -1: that of D
};

// An algorithm, as the heuristic offers it.
struct LtAlgorithm {
  uint64_t id = 0;
  uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  uint64_t workspace = ~uint64_t{0};  // the default: all that the preference allows
};

// For tests: the heuristic's answer for an epilogue and the algorithms that it offers, whatever reductions it was asked
// to leave out; those that the library does not accept or cannot run; and what was called.
struct LtControl {
  std::function<cublasStatus_t(int32_t epilogue)> answer = [](int32_t) { return CUBLAS_STATUS_SUCCESS; };
  std::vector<LtAlgorithm> offered{{}};
  std::function<bool(uint64_t id)> accepts = [](uint64_t) { return true; }, runs = accepts;
  uint32_t schemes = 0;                              // that the last call of the heuristic allowed
  int64_t products = 0, heuristics = 0, checks = 0;  // calls
  uint64_t last = 0;                                 // the algorithm of the last product
  size_t version = 130000;
};
inline LtControl& cublaslt() {
  static auto* control = new LtControl;
  return *control;
}

struct LtArguments {
  LtOperation operation;
  LtLayout a, b, d;
  const void *a_data, *b_data, *c_data;
  void* d_data;
  float beta;
};

__device__ inline float lt_load(const void* data, cudaDataType_t type, int64_t i) {
  if (type == CUDA_R_16BF) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  return static_cast<const float*>(data)[i];
}
__device__ inline void lt_store(void* data, cudaDataType_t type, int64_t i, float x) {
  if (type == CUDA_R_16BF) {
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(x);
  } else {
    static_cast<float*>(data)[i] = x;
  }
}

// D = epilogue(op(A) op(B) + beta C); one thread per row of a column. BGRADB: the bias is set to the sums of op(B)
// along K, one for each column.
__global__ inline void cublaslt_stand_in_kernel(LtArguments p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, j = blockIdx.y;
  if (i >= static_cast<int64_t>(p.d.rows)) return;
  const LtOperation& o = p.operation;
  const auto factor = [&](const void* data, const LtLayout& layout, int64_t row, int64_t column) {
    float x = lt_load(data, layout.type, row + column * layout.ld);
    if (o.compute != CUBLAS_COMPUTE_32F_FAST_TF32) return x;
    uint32_t bits;  // as the hardware reads it
    std::memcpy(&bits, &x, sizeof bits);
    bits &= 0xffffe000u;
    std::memcpy(&x, &bits, sizeof bits);
    return x;
  };
  const int64_t K = static_cast<int64_t>(o.trans_a == CUBLAS_OP_T ? p.a.rows : p.a.columns);
  float sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    sum += (o.trans_a == CUBLAS_OP_T ? factor(p.a_data, p.a, k, i) : factor(p.a_data, p.a, i, k)) *
           (o.trans_b == CUBLAS_OP_T ? factor(p.b_data, p.b, j, k) : factor(p.b_data, p.b, k, j));
  }
  const int64_t at = i + j * p.d.ld;
  if (p.beta != 0) sum += p.beta * lt_load(p.c_data, p.d.type, at);
  if (o.epilogue & CUBLASLT_EPILOGUE_BIAS) sum += lt_load(o.bias, p.d.type, i);
  const float c = 0.7978845608f;  // sqrt(2 / pi)
  if (o.epilogue & 32) {          // GELU, and its argument to aux
    lt_store(const_cast<void*>(o.aux), p.d.type, i + j * o.aux_ld, sum);
    sum = 0.5f * sum * (1 + tanhf(c * (sum + 0.044715f * sum * sum * sum)));
  } else if (o.epilogue == CUBLASLT_EPILOGUE_DGELU) {
    const float x = lt_load(o.aux, p.d.type, i + j * o.aux_ld), t = tanhf(c * (x + 0.044715f * x * x * x));
    sum *= 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * c * (1 + 3 * 0.044715f * x * x);
  }
  lt_store(p.d_data, p.d.type, at, sum);
  if (o.epilogue != CUBLASLT_EPILOGUE_BGRADB || i > 0) return;
  float column = 0;
  for (int64_t k = 0; k < K; ++k) {
    column += o.trans_b == CUBLAS_OP_T ? factor(p.b_data, p.b, j, k) : factor(p.b_data, p.b, k, j);
  }
  lt_store(const_cast<void*>(o.bias), static_cast<cudaDataType_t>(o.bias_type), j, column);
}

inline bool lt_aligned(const void* pointer) { return pointer && reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// The products that the library refuses, whatever their pointers.
inline cublasStatus_t lt_check(const LtOperation& o, const LtLayout& a, const LtLayout& b, const LtLayout& d) {
  const bool ta = o.trans_a == CUBLAS_OP_T, tb = o.trans_b == CUBLAS_OP_T;
  if ((ta ? a.columns : a.rows) != d.rows || (tb ? b.rows : b.columns) != d.columns ||
      (ta ? a.rows : a.columns) != (tb ? b.columns : b.rows) || a.type != b.type) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  for (const LtLayout* layout : {&a, &b, &d}) {
    if (layout->ld < static_cast<int64_t>(layout->rows)) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool bgrad = o.epilogue == CUBLASLT_EPILOGUE_BGRADB;
  if (((o.epilogue & CUBLASLT_EPILOGUE_BIAS) || bgrad) && !lt_aligned(o.bias)) return CUBLAS_STATUS_INVALID_VALUE;
  if (bgrad && o.bias_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool aux = o.epilogue & 128;
  if (aux && (!lt_aligned(o.aux) || o.aux_ld < static_cast<int64_t>(d.rows) || o.aux_ld % 8 != 0)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  return cublaslt().answer(o.epilogue);
}

}  // namespace cudasim

using cublasLtMatmulDesc_t = cudasim::LtOperation*;
using cublasLtMatrixLayout_t = cudasim::LtLayout*;
struct cublasLtPreference {
  uint64_t workspace = 0;
  uint32_t schemes = 7;
};
using cublasLtMatmulPreference_t = cublasLtPreference*;
using cublasLtHandle_t = int*;
struct cublasLtMatmulAlgo_t {
  uint64_t data[8];  // id, scheme, workspace
};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
  size_t workspaceSize;
  cublasStatus_t state;
};

inline const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_INTERNAL_ERROR:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}

inline size_t cublasLtGetVersion() { return cudasim::cublaslt().version; }
inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return CUBLAS_STATUS_NOT_INITIALIZED;
  *handle = new int;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t compute,
                                               cudaDataType_t) {
  *made = new cudasim::LtOperation{compute};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t o, cublasLtMatmulDescAttributes_t attribute,
                                                     const void* value, size_t bytes) {
  const auto set = [&](auto& field) {
    if (bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(o->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(o->trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(o->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(o->bias);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return set(o->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return set(o->aux_ld);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(o->bias_type);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType_t type, uint64_t rows,
                                                 uint64_t columns, int64_t ld) {
  *made = new cudasim::LtLayout{type, rows, columns, ld};
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
  delete operation;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
  *made = new cublasLtPreference;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                           cublasLtMatmulPreferenceAttributes_t attribute,
                                                           const void* value, size_t bytes) {
  const bool workspace = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
  if (bytes != (workspace ? sizeof(uint64_t) : sizeof(uint32_t))) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace) std::memcpy(&preference->workspace, value, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) std::memcpy(&preference->schemes, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a,
                                                     cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                                     cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference,
                                                     int wanted, cublasLtMatmulHeuristicResult_t* results, int* count) {
  cudasim::LtControl& control = cudasim::cublaslt();
  ++control.heuristics;
  control.schemes = preference->schemes;
  const cublasStatus_t status = cudasim::lt_check(*o, *a, *b, *d);
  *count = status == CUBLAS_STATUS_SUCCESS ? std::min(wanted, static_cast<int>(control.offered.size())) : 0;
  for (int k = 0; k < *count; ++k) {
    const cudasim::LtAlgorithm& offer = control.offered[static_cast<size_t>(k)];
    const uint64_t workspace = offer.workspace == ~uint64_t{0} ? preference->workspace : offer.workspace;
    results[k] = {{{offer.id, offer.scheme, workspace}}, workspace, CUBLAS_STATUS_SUCCESS};
  }
  return status;
}
inline cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                           cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                           size_t bytes, size_t* written) {
  const auto number = static_cast<uint32_t>(algorithm->data[attribute == CUBLASLT_ALGO_CONFIG_ID ? 0 : 1]);
  if (bytes != sizeof number) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(value, &number, bytes);
  *written = bytes;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t o, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t* algorithm,
                                              cublasLtMatmulHeuristicResult_t* result) {
  ++cudasim::cublaslt().checks;
  if (const cublasStatus_t status = cudasim::lt_check(*o, *a, *b, *d); status) return status;
  if (!cudasim::cublaslt().accepts(algorithm->data[0])) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = algorithm->data[2];
  result->state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t o, const float* alpha, const void* a,
                                     cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout,
                                     const float* beta, const void* c, cublasLtMatrixLayout_t, void* d,
                                     cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm,
                                     void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (const cublasStatus_t status = cudasim::lt_check(*o, *a_layout, *b_layout, *d_layout); status) return status;
  if (*alpha != 1 || !cudasim::lt_aligned(c) || !cudasim::lt_aligned(a) || !cudasim::lt_aligned(b) ||
      !cudasim::lt_aligned(d) || !cudasim::lt_aligned(workspace) || workspace_bytes < algorithm->data[2]) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (!cudasim::cublaslt().runs(algorithm->data[0])) return CUBLAS_STATUS_NOT_SUPPORTED;
  cudasim::cublaslt().last = algorithm->data[0];
  ++cudasim::cublaslt().products;
  const cudasim::LtArguments arguments{*o, *a_layout, *b_layout, *d_layout, a, b, c, d, *beta};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((d_layout->rows + 127) / 128), static_cast<unsigned>(d_layout->columns));
  config.blockDim = dim3(128);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, cudasim::cublaslt_stand_in_kernel, arguments) == cudaSuccess
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_INTERNAL_ERROR;
}
