// kernels/matmul_cublaslt.cuh and a model that multiplies by it, with cudasim's stand-in for cuBLASLt: the layouts, the
// epilogues, and what happens when the library has no algorithm. The tests of test_matmul.cu come first; here they have
// one more tier.
#define WROUGHT_CUBLASLT 1

#include "llm/models/check.h"
#include "llm/models/gpu.cu"
#include "llm/models/gpu_model.cu"
#include "llm/models/init.h"
#include "tests/kernels/test_matmul.cu"

namespace {

struct Answer {  // the heuristic's answer until the end of the scope
  explicit Answer(std::function<cublasStatus_t(int32_t epilogue)> answer) { cudasim::cublaslt().answer = answer; }
  ~Answer() {
    cudasim::cublaslt().answer = [](int32_t) { return CUBLAS_STATUS_SUCCESS; };
  }
};

// A layer of sizes that no other test has (plans are kept), computed by cuBLASLt as it answers; what a dry run reports
// about it; and the number of products that the library computed.
template <class floatX>
struct Ran {
  Outputs<floatX> outputs;
  std::vector<DryRun::Operation> operations;
  int64_t products;

  const DryRun::Operation& operation(const std::string& name) const {
    for (const DryRun::Operation& o : operations) {
      if (o.name == name) return o;
    }
    throw std::logic_error("no " + name);
  }
};

template <class floatX>
Ran<floatX> run_layer(const Layer<floatX>& layer, MatmulMode mode) {
  Ran<floatX> ran;
  {
    const DeviceArray<floatX> x(std::max({layer.inp.size(), layer.weight.size(), layer.dout.size()}));
    const DeviceArray<float> gradient(layer.weight.size());
    DryRun dry;
    matmul_forward<floatX>(x.data(), x.data(), x.data(), x.data(), x.data(), layer.N, layer.C, layer.OC, mode, nullptr);
    matmul_backward<floatX>(x.data(), gradient.data(), gradient.data(), x.data(), x.data(), x.data(), x.data(),
                            x.data(), layer.N, layer.C, layer.OC, mode, nullptr);
    ran.operations = std::move(dry.operations);
  }
  const int64_t before = cudasim::cublaslt().products;
  ran.outputs = run(layer, mode);
  ran.products = cudasim::cublaslt().products - before;
  check_against_twin(layer, mode, ran.outputs);
  return ran;
}

constexpr MatmulMode kLt{MatmulTier::cublaslt, false}, kLtTf32{MatmulTier::cublaslt, true};
bool fused(int32_t epilogue) { return epilogue != CUBLASLT_EPILOGUE_DEFAULT && epilogue != CUBLASLT_EPILOGUE_BIAS; }

}  // namespace

TEST_CASE("cuBLASLt computes all three products, for bf16 with GELU fused") {
  const auto ran = run_layer(Layer<bf16>({40, 56, 72}), kLt);
  CHECK(ran.products == 3);
  CHECK(ran.operation("matmul_forward").tier == "cuBLASLt, algorithm 0 of 1, epilogue GELU_AUX_BIAS");
  CHECK(ran.operation("matmul_forward").why == "");
  CHECK(ran.operation("matmul_forward").shape == "40 x 72 x 56");
  CHECK(ran.operation("matmul_backward dinp").tier == "cuBLASLt, algorithm 0 of 1, epilogue DGELU");
  CHECK(ran.operation("matmul_backward dweight").tier == "cuBLASLt, algorithm 0 of 1, epilogue none");
  CHECK(ran.operation("matmul_forward").launches.empty());
}

TEST_CASE("cuBLASLt: GELU of fp32 and tf32 is our own kernel") {
  for (const MatmulMode mode : {kLt, kLtTf32}) {
    const auto ran = run_layer(Layer<float>({44, 60, 76}), mode);
    CHECK(ran.products == 3);
    const DryRun::Operation& forward = ran.operation("matmul_forward");
    CHECK(forward.tier == "cuBLASLt, algorithm 0 of 1, epilogue BIAS");
    REQUIRE(forward.launches.size() == 1);
    CHECK(forward.launches[0].kernel.starts_with("gelu_forward_kernel<float"));
    const DryRun::Operation& dinp = ran.operation("matmul_backward dinp");
    CHECK(dinp.tier == "cuBLASLt, algorithm 0 of 1, epilogue none");
    REQUIRE(dinp.launches.size() == 1);
    CHECK(dinp.launches[0].kernel.starts_with("gelu_backward_kernel<float"));
  }
}

TEST_CASE("cuBLASLt: an epilogue with GELU that it refuses, for whatever reason, is done by our own kernel") {
  int N = 200;  // another product each time: a plan is made once
  for (const cublasStatus_t status :
       {CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_INVALID_VALUE, CUBLAS_STATUS_INTERNAL_ERROR}) {
    const Answer answer([&](int32_t epilogue) { return fused(epilogue) ? status : CUBLAS_STATUS_SUCCESS; });
    const auto ran = run_layer(Layer<bf16>({++N, 16, 24}), kLt);
    CHECK(ran.products == 3);
    const DryRun::Operation& forward = ran.operation("matmul_forward");
    CHECK(forward.tier == "cuBLASLt, algorithm 0 of 1, epilogue BIAS");
    CHECK(forward.why == std::string("cuBLASLt has no algorithm with epilogue GELU_AUX_BIAS (choosing an algorithm "
                                     "for it: ") +
                             cublasLtGetStatusString(status) + ")");
    REQUIRE(forward.launches.size() == 1);
    CHECK(forward.launches[0].kernel.starts_with("gelu_forward_kernel"));
    CHECK(ran.operation("matmul_backward dinp").launches[0].kernel.starts_with("gelu_backward_kernel"));
  }
}

TEST_CASE("cuBLASLt: a product without an algorithm is computed by our own kernels") {
  int N = 300;
  for (const cublasStatus_t status : {CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_INVALID_VALUE}) {
    const Answer answer([&](int32_t) { return status; });
    const auto ran = run_layer(Layer<bf16>({++N, 24, 16}), kLt);
    CHECK(ran.products == 0);
    for (const char* name : {"matmul_forward", "matmul_backward dinp", "matmul_backward dweight"}) {
      const DryRun::Operation& operation = ran.operation(name);
      CHECK(operation.tier == "own tensor cores");
      CHECK(operation.why.find(cublasLtGetStatusString(status)) != std::string::npos);
      REQUIRE(operation.launches.size() == 1);
      CHECK(operation.launches[0].kernel.starts_with("matmul_tensor_core_kernel"));
    }
    CHECK(run_layer(Layer<float>({N, 24, 16}), kLt).operation("matmul_forward").tier == "own plain kernel");
  }
  const Answer only_bias([](int32_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BIAS ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
  });
  CHECK(run_layer(Layer<float>({++N, 24, 16}), kLt).products == 2);
}

TEST_CASE("cuBLASLt: an error of a product without an epilogue ends the run and names the product and the reason") {
  const Answer answer([](int32_t) { return CUBLAS_STATUS_INTERNAL_ERROR; });
  const DeviceArray<bf16> x(std::vector<bf16>(40 * 16, __float2bfloat16_rn(1)));
  const auto forward = [&] {
    matmul_forward<bf16>(x.data(), nullptr, x.data(), x.data(), nullptr, 40, 16, 8, kLt, nullptr);
  };
  CHECK_THROWS_WITH_AS(forward(),
                       "cuBLASLt: choosing an algorithm for 40 x 8 x 16 (bf16, A by rows, B transposed, output bf16, "
                       "epilogue 1): CUBLAS_STATUS_INTERNAL_ERROR",
                       CudaError);
}

TEST_CASE("cuBLASLt is not asked for products that are not aligned, and the reason is reported") {
  const auto odd = run_layer(Layer<bf16>({9, 12, 16}), kLt);
  CHECK(odd.products == 0);
  CHECK(odd.operation("matmul_forward").tier == "own tensor cores");
  CHECK(odd.operation("matmul_forward").why ==
        "cuBLASLt is skipped: rows of 12 or 16 elements are not multiples of 16 bytes");
}

namespace {

const ModelConfig kShape = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 2, .num_heads = 2, .channels = 64};

template <class floatX>
void check_model(Precision precision) {
  ModelOptions options;
  options.precision = precision;
  const int B = 3, T = 13, N = B * T;
  GpuModel<floatX> model(kShape, options, B, T, gpu_tiers(precision, false));
  const auto reference = make_cpu_model(kShape, true);
  for (Model* m : std::initializer_list<Model*>{&model, reference.get()}) init_weights(*m, 1);
  Batch batch{B, T, random_ints(N, 1, 61), random_ints(N, 2, 61), Floats(N, 1.0f / N)};
  cudaDeviceSynchronize();
  const uint64_t allocations = cudasim::allocations();
  const int64_t products = cudasim::cublaslt().products;
  for (int k = 0; k < 3; ++k) {
    model.zero_grad();
    model.forward(batch.inputs.data(), B, T, Pass::train);
    model.backward(batch.targets.data(), batch.weights.data());
    if (k < 2) model.update({.lr = 0}, 1);
  }
  CHECK(cudasim::allocations() == allocations);
  CHECK(cudasim::cublaslt().products - products == 3 * 27);
  for (const CheckRow& row : compare_models(model, *reference, batch, precision)) {
    INFO(row.tensor, ": relative ", row.relative, ", cosine ", row.cosine, ", bound ", row.bound);
    CHECK(row.ok);
  }
}

}  // namespace

TEST_CASE("a model's step by cuBLASLt equals that of the CPU and allocates nothing") {
  check_model<float>(Precision::fp32);
  check_model<float>(Precision::tf32);
  check_model<bf16>(Precision::bf16);
}

TEST_CASE("one line names the kernels of a step by cuBLASLt") {
  ModelOptions options;
  options.precision = Precision::bf16;
  CHECK(kernels_line(gpu_kernels(kShape, options, 2, 15, 0, false)) ==
        "kernels: products cuBLASLt; attention own kernels on tensor cores (built without cuDNN)");
  const Answer answer([&](int32_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_DGELU ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
  });
  CHECK(kernels_line(gpu_kernels(kShape, options, 2, 14, 0, false)) ==
        "kernels: products cuBLASLt for 25 of 27, cuBLASLt (cuBLASLt has no algorithm with epilogue DGELU (choosing an "
        "algorithm for it: CUBLAS_STATUS_NOT_SUPPORTED)) for 2 of 27; attention own kernels on tensor cores (built "
        "without cuDNN)");
}
