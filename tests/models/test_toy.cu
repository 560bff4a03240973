// The family of toy.h on the GPU, by its registration.
#include "llm/models/batch.h"
#include "llm/models/cpu.h"
#include "llm/models/families.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/init.h"
#include "tests/helpers/decoding.h"
#include "tests/helpers/device.h"
#include "tests/models/toy.h"

namespace {

const bool kRegistered =
    (register_family(make_family<Toy>("toy")), register_gpu_family(make_gpu_family<Toy>("toy")), true);

// Heads of 32 channels, two to a head of keys: on tensor cores in bf16.
const ModelConfig kToy = {.max_seq_len = 40,
                          .vocab_size = 61,
                          .num_layers = 2,
                          .num_heads = 4,
                          .channels = 128,
                          .num_kv_heads = 2,
                          .family = "toy"};

Batch batch_of(const ModelConfig& c, int B, int T) {
  const size_t n = static_cast<size_t>(B * T);
  return {B, T, random_ints(n, 1, c.vocab_size), random_ints(n, 2, c.vocab_size),
          Floats(n, 1.0f / static_cast<float>(n))};
}

double step(Model& model, const Batch& batch, uint64_t pass) {
  model.zero_grad();
  model.forward(input_of(batch, Pass::train, {0.1f, 7, pass}));
  model.backward(batch.targets.data(), batch.weights.data());
  model.update({.lr = 3e-3f}, 1);
  return model.result(0).loss;
}

}  // namespace

TEST_CASE("toy: steps on the GPU follow the steps on the CPU, in float and in bf16, with adapters, too") {
  REQUIRE(kRegistered);
  const Batch batch = batch_of(kToy, 2, 33);
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    for (const LoraOptions& lora : {LoraOptions{}, LoraOptions{.rank = 2}}) {
      CAPTURE(static_cast<int>(precision));
      CAPTURE(lora.rank);
      const ModelOptions options{.precision = precision, .lora = lora};
      const auto cpu = make_cpu_model(kToy, true, {.lora = lora});
      const auto gpu = make_gpu_model(kToy, options, 2, 33, false);
      for (Model* model : {cpu.get(), gpu.get()}) init_weights(*model, 3);
      for (uint64_t k = 0; k < 3; ++k) {
        CHECK(step(*gpu, batch, k) ==
              doctest::Approx(step(*cpu, batch, k)).epsilon(precision == Precision::bf16 ? 2e-3 : 1e-5));
      }
    }
  }
  check_ran<bf16>("attention_tensor_core::attention_backward_keys_tensor_core_kernel<32, false, true>");
}

TEST_CASE("toy: the GPU model takes the memory that was planned, and names its kernels") {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const ModelOptions options{.precision = precision};
    int64_t planned = 0;
    for (const MemoryRow& row : built_memory_plan(kToy, options, 2, 33)) {
      if (row.name != kLibraryRow) planned += row.bytes;
    }
    const GpuTiers tiers = gpu_tiers(precision, false);
    const int64_t bytes = precision == Precision::bf16
                              ? GpuModel<bf16, Toy>(kToy, options, 2, 33, tiers).allocated_bytes()
                              : GpuModel<float, Toy>(kToy, options, 2, 33, tiers).allocated_bytes();
    CHECK(bytes == planned);
    bool found = false;
    for (const KernelRow& row : gpu_kernels(kToy, options, 2, 33, 0, false)) {
      found = found || row.shape == "2 x 33, 4 heads, 2 of keys, of 32";
    }
    CHECK(found);
  }
}

TEST_CASE("toy: decoding with a cache on the GPU gives the logits of a whole forward") {
  const auto model = make_gpu_model(kToy, {}, 2, 8, false);
  init_weights(*model, 3);
  const std::vector<int32_t> tokens = random_ints(16, 4, kToy.vocab_size);
  PagedTexts texts(*model, 2, 2);
  Floats decoded, whole(static_cast<size_t>(kToy.vocab_size));
  for (size_t t = 0; t < 8; ++t) {
    decoded = texts.feed({{0, std::span(tokens).subspan(t, 1)}, {1, std::span(tokens).subspan(8 + t, 1)}});
  }
  decoded.erase(decoded.begin(), decoded.begin() + kToy.vocab_size);
  model->forward(tokens.data(), 2, 8, Pass::generate);
  model->read_logits(1, whole.data());
  CHECK(relative_difference(decoded, Doubles(whole.begin(), whole.end())) < 1e-5);
}

TEST_CASE("toy: a row that is decoded on the GPU has the same bits in any batch, after any beginning") {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    if (quick_set() && precision == Precision::fp32) continue;
    const auto model = make_gpu_model(kToy, {.precision = precision}, 1, 1, false);
    init_weights(*model, 3);
    check_bits_of_rows(*model, 36);
  }
}

TEST_CASE("toy: a family that is only on the CPU is refused on the GPU") {
  register_family(make_family<Toy>("toy_of_the_cpu"));
  ModelConfig config = kToy;
  config.family = "toy_of_the_cpu";
  CHECK_THROWS_WITH(make_gpu_model(config, {}, 1, 8, false), doctest::Contains("run only on the CPU"));
  CHECK_THROWS_AS(register_gpu_family(make_gpu_family<Toy>("toy")), std::logic_error);
}
