// The GPU's model in all its variants, compared with that of the CPU.
#include <map>
#include <tuple>

#include "llm/models/check.h"
#include "llm/models/cpu.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/memory_plan.h"
#include "tests/helpers/device.h"
#include "tests/helpers/model_variants.h"

namespace {

const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 2, .num_heads = 2, .channels = 64};
const ModelConfig kRagged = {.max_seq_len = 40, .vocab_size = 131, .num_layers = 2, .num_heads = 3, .channels = 51};

#ifdef WROUGHT_CUBLASLT
constexpr bool kOwnProducts = false;
#else
constexpr bool kOwnProducts = true;
#endif

void step(Model& model, const VariantBatch& batch, const PassDropout& dropout = {}) {
  model.zero_grad();
  model.forward(input_of(batch, Pass::train, dropout));
  model.backward(batch.targets.data(), batch.weights.data());
  model.update({.lr = 1e-3f}, 1);
}

Floats all_of(const Model& model, Arena arena) {
  Floats all;
  for (const ParamTensor& tensor : model.table) {
    const Floats values = tensor_of(model, arena, tensor);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// Compares loss, losses, logits and gradients.
void check_against_cpu(const Variant& v, Precision precision, int B, int T) {
  ModelOptions options = v.options;
  const auto cpu = make_cpu_model(v.config, true, options);
  options.precision = precision;
  const auto model = make_gpu_model(v.config, options, B, T, false);
  const VariantBatch batch(v.config, B, T, 1);
  for (Model* m : {model.get(), cpu.get()}) {
    random_weights(*m, 0.125);
  }
  for (const CheckRow& row : compare_models(*model, *cpu, batch, precision, {0.1f, 7, 8})) {
    INFO(v.name, precision == Precision::fp32 ? ", fp32, " : ", bf16, ", row.tensor, ": relative ", row.relative,
         ", cosine ", row.cosine, ", bound ", row.bound);
    CHECK(row.ok);
  }
  Floats losses(batch.weights.size()), expected(losses.size());
  model->read_losses(losses.data());
  cpu->read_losses(expected.data());
  CHECK(relative_difference(losses, expected) < (precision == Precision::fp32 ? 1e-5 : 1e-2));
}

}  // namespace

TEST_CASE("every variant's loss, logits and gradients equal those of the CPU, within what the precision allows") {
  for (const ModelConfig& base : {kSmall, kRagged}) {
    if (quick_set() && base == kRagged) continue;
    for (const Variant& v : model_variants(base)) {
      check_against_cpu(v, Precision::fp32, 8, 16);
      if (base == kSmall) check_against_cpu(v, Precision::bf16, 8, 16);  // the other base has fp32's plain kernels
    }
  }
}

TEST_CASE("an adapter's dropout at the head is one mask, however many rows of logits are made at once" * full_set()) {
  const ModelConfig config = {
      .max_seq_len = 11, .vocab_size = 8200, .num_layers = 1, .num_heads = 1, .channels = 5, .tied_head = false};
  const Variant head{"a head's adapter", config, {.lora = {.rank = 2, .alpha = 8, .dropout = 0.5f, .targets = "head"}}};
  REQUIRE(cpu_logits_rows(config, {}, 27 * 11) < 27 * 11);  // rows per chunk on the CPU
  check_against_cpu(head, Precision::fp32, 27, 11);
}

TEST_CASE(
    "logits chunk by chunk: losses, logits and gradients as of all at once, also of a head with dropped adapters") {
  for (const ModelConfig& base : {kSmall, kRagged}) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      if (quick_set() && (precision == Precision::bf16) == (base == kRagged)) continue;
      for (const bool adapters : {false, true}) {
        ModelConfig config = base;
        ModelOptions options{.precision = precision};
        if (adapters) {
          config.tied_head = false;
          options.lora = {.rank = 2, .alpha = 8, .dropout = 0.5f, .targets = "head,fc"};
        }
        const int B = 3, T = 11, N = B * T;
        const VariantBatch batch(config, B, T, 1);
        struct Results {
          Floats losses, logits, gradients;
          double loss, step_loss;
        };
        const auto run = [&](int64_t chunk) {
          ModelOptions own = options;
          own.loss_chunk = chunk;
          const auto model = make_gpu_model(config, own, B, T, false);
          random_weights(*model, 0.125);
          Results r{Floats(N), {}, {}, 0, 0};
          model->zero_grad();
          model->forward(input_of(batch, Pass::train, {0.1f, 7, 8}));
          Floats row(static_cast<size_t>(config.outputs()));
          for (const int64_t n : {N - 1, 0, 7, N - 2}) {
            model->read_logits(n, row.data());
            r.logits.insert(r.logits.end(), row.begin(), row.end());
          }
          r.loss = model->loss(batch.targets.data());
          model->backward(batch.targets.data(), batch.weights.data());
          model->read_losses(r.losses.data());
          r.step_loss = model->step_loss();
          r.gradients = all_of(*model, Arena::grads);
          return r;
        };
        const Results whole = run(0);
        for (const int64_t chunk : {1, 2, 7, 32, 33, 1000}) {
          if (quick_set() && chunk == 2) continue;
          INFO(base.channels, " channels, ", precision == Precision::fp32 ? "fp32" : "bf16", ", adapters ", adapters,
               ", chunks of ", chunk);
          const Results part = run(chunk);
          const double tolerance = precision == Precision::fp32 ? 1e-6 : 1e-2;
          if constexpr (kOwnProducts) {  // which add up a row's products in one order, whatever the number of rows
            CHECK(same_bits(part.logits, whole.logits));
            CHECK(same_bits(part.losses, whole.losses));
          }
          CHECK(relative_difference(part.logits, whole.logits) <= tolerance);
          CHECK(relative_difference(part.losses, whole.losses) <= tolerance);
          CHECK(part.loss == doctest::Approx(whole.loss).epsilon(tolerance));
          CHECK(part.step_loss == doctest::Approx(whole.step_loss).epsilon(tolerance));
          CHECK(relative_difference(part.gradients, whole.gradients) <= tolerance);
          if (chunk >= N) CHECK(same_bits(part.gradients, whole.gradients));
        }
      }
    }
  }
}

TEST_CASE("logits chunk by chunk: the same bits under every schedule" * full_set()) {
  const Variant head{"", kRagged, {.loss_chunk = 5, .lora = {.rank = 2, .alpha = 8, .dropout = 0.5f, .targets = "fc"}}};
  same_under_all_schedules([&] {
    const auto model = make_gpu_model(head.config, head.options, 2, 9, false);
    random_weights(*model, 0.125);
    step(*model, VariantBatch(head.config, 2, 9, 1));
    return all_of(*model, Arena::grads);
  });
}

TEST_CASE("a classifier, and generation, with fewer rows of logits than sequences") {
  const ModelConfig config = kSmall;
  const VariantBatch batch(config, 5, 9, 1);
  const auto last_logits = [&](int64_t chunk) {
    const auto model = make_gpu_model(config, {.loss_chunk = chunk}, 5, 9, false);
    random_weights(*model, 0.125);
    model->forward(batch.inputs.data(), 5, 9, Pass::generate);
    Floats all(5 * static_cast<size_t>(config.vocab_size));
    for (const int64_t row : {4, 0, 3, 1, 2})
      model->read_logits(row, &all[static_cast<size_t>(row * config.vocab_size)]);
    return all;
  };
  CHECK(relative_difference(last_logits(2), last_logits(0)) < 1e-6);
  for (const Variant& v : model_variants(kSmall)) {
    if (v.config.num_classes == 0 || v.options.trainable.first_block > 0) continue;
    Variant chunked = v;
    chunked.options.loss_chunk = 3;
    check_against_cpu(chunked, Precision::fp32, 8, 16);
  }
}

TEST_CASE("three steps: trained parts follow the CPU, the others keep their bits, with and without master weights" *
          full_set()) {
  for (const Variant& v : model_variants(kSmall)) {
    INFO(v.name);
    const VariantBatch batch(v.config, 2, 9, 1);
    const auto cpu = make_cpu_model(v.config, true, v.options), gpu = make_gpu_model(v.config, v.options, 2, 9, false);
    for (Model* model : {cpu.get(), gpu.get()}) {
      random_weights(*model, 0.125);
      for (int t = 0; t < 3; ++t) step(*model, batch);
    }
    // The curve of docs/testing.md: 1e-5 in the loss.
    CHECK(gpu->result(0).loss == doctest::Approx(cpu->result(0).loss).epsilon(1e-5));
    CHECK(gpu->result(0).grad_norm == doctest::Approx(cpu->result(0).grad_norm).epsilon(1e-4));
    for (const bool master : {true, false}) {
      ModelOptions options = v.options;
      options.precision = Precision::bf16;
      options.master_weights = master;
      const auto model = make_gpu_model(v.config, options, 2, 9, false);
      random_weights(*model, 0.125);
      std::vector<Floats> before;
      for (const ParamTensor& tensor : model->table) before.push_back(tensor_of(*model, Arena::params, tensor));
      for (int t = 0; t < 3; ++t) step(*model, batch);
      CHECK(model->result(0).loss == doctest::Approx(cpu->result(0).loss).epsilon(1e-2));
      for (size_t k = 0; k < before.size(); ++k) {
        INFO(model->table[k].name);
        const bool same = same_bits(before[k], tensor_of(*model, Arena::params, model->table[k]));
        CHECK(same == !model->table[k].trainable());
      }
    }
  }
}

TEST_CASE("tokens decoded one by one have the logits of the whole sequence, equal to those of the CPU") {
  for (const ModelConfig& base : {kSmall, kRagged}) {
    if (quick_set() && base == kSmall) continue;
    for (const Variant& v : model_variants(base)) {
      if (v.config.num_classes > 0 || !v.config.causal) continue;
      INFO(v.name);
      for (const Precision precision : {Precision::fp32, Precision::bf16}) {
        ModelOptions options = v.options;
        const auto cpu = make_cpu_model(v.config, true, options);
        options.precision = precision;
        const auto model = make_gpu_model(v.config, options, 1, 1, false);
        for (Model* m : {model.get(), cpu.get()}) random_weights(*m, 0.125);
        for (const auto& [B, T, T0] : {std::tuple(1, 12, 1), {3, 16, 7}}) {
          const VariantBatch batch(v.config, B, T, 3);
          const Floats decoded = decoded_logits(*model, batch, T0), expected = evaluated_logits(*cpu, batch, T0);
          CHECK(relative_difference(decoded, expected) < (precision == Precision::fp32 ? 1e-5 : 1e-2));
        }
      }
    }
  }
}

TEST_CASE("recomputing changes no bit of any variant" * full_set()) {
  for (const Variant& v : model_variants(kSmall)) {
    INFO(v.name);
    const VariantBatch batch(v.config, 2, 9, 1);
    std::vector<Floats> results;
    for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::block}) {
      ModelOptions options = v.options;
      options.recompute = recompute;
      const auto model = make_gpu_model(v.config, options, 2, 9, false);
      random_weights(*model, 0.125);
      step(*model, batch, {0.1f, 7, 8});
      results.push_back(all_of(*model, Arena::params));
    }
    CHECK(same_bits(results[0], results[1]));
    CHECK(same_bits(results[0], results[2]));
  }
}

TEST_CASE("the memory plan equals what every variant allocates") {
  for (const Variant& v : model_variants(kRagged)) {
    INFO(v.name);
    const GpuModel<float> model(v.config, v.options, 2, 9, gpu_tiers(Precision::fp32, false));
    int64_t planned = 0;
    for (const MemoryRow& row : built_memory_plan(v.config, v.options, 2, 9)) {
      if (row.name != kLibraryRow) planned += row.bytes;
    }
    CHECK(model.allocated_bytes() == planned);
  }
}

#ifdef WROUGHT_CUDASIM
namespace {

// The kernels that a dry run of a model's step names, and those that ran.
template <class floatX>
void check_step(const std::string& name, const ModelConfig& config, ModelOptions options, Precision precision,
                bool reference, float dropout, int B, int T) {
  INFO(name);
  options.precision = precision;
  options.graph = false;  // test_gpu_model.cu: with graphs a step allocates nothing once they are captured
  const GpuTiers tiers = gpu_tiers(precision, reference);
  std::map<std::string, uint64_t> expected;
  for (const DryRun::Operation& operation : dry_step<floatX>(config, options, B, T, dropout, tiers)) {
    for (const DryRun::Launch& launch : operation.launches) ++expected[launch.kernel];
  }
  GpuModel<floatX> model(config, options, B, T, tiers);
  random_weights(model, 0.125);
  const VariantBatch batch(config, B, T, 1);
  cudaDeviceSynchronize();
  const uint64_t allocations = cudasim::allocations();
  for (int k = 0; k < 3; ++k) {
    const std::map<std::string, uint64_t> before = cudasim::kernel_launches();
    step(model, batch, {dropout, 7, 8});
    cudaDeviceSynchronize();
    std::map<std::string, uint64_t> ran = cudasim::kernel_launches();
    for (const auto& [kernel, times] : before) {
      if ((ran[kernel] -= times) == 0) ran.erase(kernel);
    }
    std::string difference;
    for (const auto* side : {&ran, &expected}) {
      for (const auto& [kernel, times] : *side) {
        const auto* other = side == &ran ? &expected : &ran;
        const auto found = other->find(kernel);
        if (found != other->end() && found->second == times) continue;
        difference += (side == &ran ? "ran " : "dry run: ") + kernel + " " + std::to_string(times) + "; ";
      }
    }
    CHECK(difference == "");
  }
  CHECK(cudasim::allocations() == allocations);
}

void check_step(const std::string& name, const ModelConfig& config, const ModelOptions& options, Precision precision,
                bool reference, float dropout, int B, int T) {
  const auto check = precision == Precision::bf16 ? check_step<bf16> : check_step<float>;
  check(name, config, options, precision, reference, dropout, B, T);
}

}  // namespace

TEST_CASE("a dry run names the kernels that a step launches, with their counts; and no step allocates" * full_set()) {
  for (const ModelConfig& base : {kSmall, kRagged}) {
    for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
      for (const bool reference : {false, true}) {
        check_step("the model", base, {}, precision, reference, 0, 2, 9);
      }
      for (const Recompute recompute : {Recompute::gelu, Recompute::block}) {
        check_step("recomputing, with dropout", base, {.recompute = recompute}, precision, false, 0.1f, 3, 11);
      }
      check_step("Muon and an average", base, {.optimizer = Optimizer::muon, .ema = 0.9}, precision, false, 0, 1, 16);
    }
    for (const Variant& v : model_variants(base)) {
      check_step(v.name, v.config, v.options, Precision::bf16, false, 0.1f, 2, 9);
    }
  }
  check_step("large enough for larger tiles",
             {.max_seq_len = 64, .vocab_size = 16500, .num_layers = 1, .num_heads = 2, .channels = 128}, {},
             Precision::bf16, false, 0, 2, 64);
}
#endif
