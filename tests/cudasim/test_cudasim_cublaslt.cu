// kernels/matmul_cublaslt.cuh and a model that multiplies by it, with cudasim's stand-in for cuBLASLt: the layouts, the
// epilogues, and what happens when the library has no algorithm. The tests of test_matmul.cu come first; here they have
// one more tier.
#define WROUGHT_CUBLASLT 1

#include "llm/models/check.h"
#include "llm/models/cpu.h"
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
std::vector<DryRun::Operation> dry_layer(const Layer<floatX>& layer, MatmulMode mode) {
  const DeviceArray<floatX> x(std::max({layer.inp.size(), layer.weight.size(), layer.dout.size()}));
  const DeviceArray<float> gradient(layer.weight.size());
  DryRun dry;
  matmul_forward<floatX>(x.data(), x.data(), x.data(), x.data(), x.data(), layer.N, layer.C, layer.OC, mode, nullptr);
  matmul_backward<floatX>(x.data(), gradient.data(), gradient.data(), x.data(), x.data(), x.data(), x.data(), x.data(),
                          layer.N, layer.C, layer.OC, mode, nullptr);
  return std::move(dry.operations);
}

template <class floatX>
Ran<floatX> run_layer(const Layer<floatX>& layer, MatmulMode mode) {
  Ran<floatX> ran;
  ran.operations = dry_layer(layer, mode);
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
  CHECK(ran.operation("matmul_backward dweight").tier == "cuBLASLt, algorithm 0 of 1, epilogue BGRADB");
  CHECK(ran.operation("matmul_forward").launches.empty());
  const DryRun::Operation& dbias = ran.operation("matmul_backward dbias");  // dweight's sums are added
  REQUIRE(dbias.launches.size() == 1);
  CHECK(dbias.launches[0].kernel == "add_parts_kernel");
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
    CHECK(ran.operation("matmul_backward dweight").tier == "cuBLASLt, algorithm 0 of 1, epilogue none");
    CHECK(ran.operation("matmul_backward dbias").launches[0].kernel.starts_with("bias_partial_kernel"));
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
  options.graph = false;  // capturing one allocates
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

// ---- algorithms that are measured ----------------------------------------------------------------------------------

namespace {

// Until the end of the scope: the algorithms that the heuristic offers, with ids from 0, and their milliseconds.
struct Offer {
  static inline std::vector<float> milliseconds;

  explicit Offer(std::vector<float> times, std::vector<cudasim::LtAlgorithm> algorithms = {}) {
    milliseconds = std::move(times);
    for (size_t k = algorithms.size(); k < milliseconds.size(); ++k) algorithms.push_back({k});
    cudasim::cublaslt().offered = std::move(algorithms);
    CublasLt::instance().elapsed = [](float* ms, cudaEvent_t, cudaEvent_t) {
      *ms = milliseconds.at(cudasim::cublaslt().last);
      return cudaSuccess;
    };
    CublasLt::instance().use({});
  }
  ~Offer() {
    cudasim::cublaslt().offered = {{}};
    cudasim::cublaslt().accepts = cudasim::cublaslt().runs = [](uint64_t) { return true; };
    CublasLt::instance().elapsed = cudaEventElapsedTime;
    CublasLt::instance().use({});
  }
};

ProductPlans measured(const ProductPlans& known, const Layer<bf16>& layer) {
  CublasLt::instance().use(known);
  return CublasLt::instance().measure([&] { dry_layer(layer, kLt); });
}

// How often the library was asked, and how many products it computed, by body().
struct Calls {
  int64_t heuristics, checks, products;
  bool operator==(const Calls&) const = default;
};
template <class Body>
Calls calls_of(Body&& body) {
  const cudasim::LtControl before = cudasim::cublaslt();
  body();
  const cudasim::LtControl& now = cudasim::cublaslt();
  return {now.heuristics - before.heuristics, now.checks - before.checks, now.products - before.products};
}

}  // namespace

TEST_CASE("cuBLASLt: algorithms whose sums have no fixed order, or that need more workspace, are refused") {
  const uint64_t much = CublasLt::kWorkspace + 1;
  {
    const Offer offer({}, {{0, CUBLASLT_REDUCTION_SCHEME_INPLACE},
                           {1, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE},
                           {2, CUBLASLT_REDUCTION_SCHEME_NONE, much},
                           {3, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
                           {4, CUBLASLT_REDUCTION_SCHEME_NONE, 0}});
    const auto ran = run_layer(Layer<bf16>({40, 56, 72}), kLt);
    CHECK(ran.operation("matmul_forward").tier == "cuBLASLt, algorithm 0 of 2, epilogue GELU_AUX_BIAS");
    CHECK(cudasim::cublaslt().last == 3);
    CHECK(cudasim::cublaslt().schemes == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  }
  const Offer offer({}, {{0, CUBLASLT_REDUCTION_SCHEME_INPLACE}, {1, CUBLASLT_REDUCTION_SCHEME_NONE, much}});
  const auto ran = run_layer(Layer<bf16>({40, 56, 72}), kLt);
  CHECK(ran.products == 0);
  CHECK(ran.operation("matmul_forward").tier == "own tensor cores");
  CHECK(ran.operation("matmul_forward").why.find("CUBLAS_STATUS_NOT_SUPPORTED") != std::string::npos);
}

TEST_CASE("cuBLASLt: the fastest algorithm is taken; the first stays unless another is 1 % faster") {
  struct Case {
    std::vector<float> milliseconds;
    uint64_t fails, best;  // one that the library cannot run after all
  };
  const Layer<bf16> layer({40, 56, 72});
  for (const Case& c : {Case{{5, 4.96f, 3, 1, 3}, 3, 2}, Case{{5, 4.96f}, 9, 0}, Case{{5, 4.94f}, 9, 1},
                        Case{{7}, 9, 0}, Case{{1, 8, 2, 9}, 0, 2}}) {
    CAPTURE(c.milliseconds.size());
    const Offer offer(c.milliseconds);
    cudasim::cublaslt().runs = [&](uint64_t id) { return id != c.fails; };
    const ProductPlans plans = measured({}, layer);
    CHECK(plans.size() == 3);
    for (const auto& [product, plan] : plans) {
      CAPTURE(product);
      CHECK(plan.candidate == static_cast<int>(c.best));
      CHECK(plan.candidates == static_cast<int>(c.milliseconds.size()));
      CHECK(plan.microseconds == doctest::Approx(1000 * c.milliseconds[c.best]));
      CHECK(plan.first_microseconds == doctest::Approx(1000 * c.milliseconds[c.fails == 0 ? 1 : 0]));
    }
    const auto ran = run_layer(layer, kLt);
    CHECK(ran.operation("matmul_forward").tier == strprintf("cuBLASLt, algorithm %d of %zu, epilogue GELU_AUX_BIAS",
                                                            static_cast<int>(c.best), c.milliseconds.size()));
    CHECK(ran.products == 3);
    CHECK(cudasim::cublaslt().last == c.best);
  }
}

TEST_CASE("cuBLASLt: plans that are given are checked and used; what is missing or refused is measured") {
  const Offer offer({5, 4, 3, 4});
  const Layer<bf16> layer({40, 56, 72});
  size_t free_before = 0, free_after = 0, total = 0;
  const ProductPlans plans = measured({}, layer);  // and allocates the workspace
  cudaMemGetInfo(&free_before, &total);
  const Calls measuring = calls_of([&] { CHECK(measured({}, layer) == plans); });
  cudaMemGetInfo(&free_after, &total);
  CHECK(free_before == free_after);
  CHECK(measuring.heuristics == 3);
  CHECK(measuring.products >= 3 * 4 * 6);
  CHECK(calls_of([&] { CHECK(measured(plans, layer) == plans); }) == Calls{0, 3, 0});

  const auto one_is_measured = [&](const ProductPlans& known) {
    const Calls calls = calls_of([&] { CHECK(measured(known, layer) == plans); });
    CHECK(calls.heuristics == 1);
    CHECK(calls.products >= 4 * 6);
  };
  ProductPlans known = plans;
  known.erase(known.begin());
  one_is_measured(known);
  const std::string own = plans.begin()->second.algorithm;
  const auto changed = [&](size_t at, char c) {
    std::string algorithm = own;
    algorithm[at] = c;
    return algorithm;
  };
  // Not an algorithm at all; one whose sums have no fixed order; one that takes too large a workspace.
  for (const std::string& algorithm :
       {std::string(), std::string("0"), changed(7, 'x'), own + "00", changed(17, '1'), changed(38, 'f')}) {
    CAPTURE(algorithm);
    known = plans;
    known.begin()->second.algorithm = algorithm;
    one_is_measured(known);
  }
  cudasim::cublaslt().accepts = [](uint64_t id) { return id != 1; };
  known.begin()->second.algorithm = changed(1, '1');
  one_is_measured(known);

  known = plans;
  known["1 x 2 x 3"] = {};  // not a product of this layer
  CHECK(calls_of([&] { CHECK(measured(known, layer) == plans); }) == Calls{0, 3, 0});
}

TEST_CASE("cuBLASLt: a step's plans are measured before the model is made, which then runs by them") {
  const Offer offer({5, 3});
  ModelOptions options;
  options.precision = Precision::bf16;
  const auto make = [&](const MatmulPlans& known) { return make_gpu_plans(known, kShape, options, 2, 13, 0, false); };
  const MatmulPlans none = no_gpu_plans(), plans = make(none);
  CHECK(none.products.empty());
  CHECK(none.library == "cuBLASLt 130000");
  CHECK(none.device.find("multiprocessors") != std::string::npos);
  const int64_t n = static_cast<int64_t>(plans.products.size());
  CHECK(n >= 10);  // four linear layers and the head, three products each; some have the same sizes
  CHECK(calls_of([&] { CHECK(make(plans) == plans); }) == Calls{0, n, 0});
  CHECK(make_gpu_plans(plans, kShape, options, 2, 13, 0, true).products.empty());  // by the plain kernels

  use_gpu_plans(plans);  // as another rank
  std::unique_ptr<GpuModel<bf16>> model;
  CHECK(calls_of([&] {
          model = std::make_unique<GpuModel<bf16>>(kShape, options, 2, 13, gpu_tiers(options.precision, false));
        }) == Calls{0, n, 0});
  for (const KernelRow& row : gpu_kernels(kShape, options, 2, 13, 0, false)) {
    if (row.tier.starts_with("cuBLASLt")) CHECK(row.tier.starts_with("cuBLASLt, algorithm 1 of 2, "));
  }
  init_weights(*model, 1);
  model->forward(random_ints(26, 1, 61).data(), 2, 13, Pass::train);
  cudaDeviceSynchronize();
  CHECK(cudasim::cublaslt().last == 1);
  model->forward(random_ints(14, 1, 61).data(), 2, 7, Pass::evaluate);  // sizes that were not measured
  cudaDeviceSynchronize();
  CHECK(cudasim::cublaslt().last == 0);
}
