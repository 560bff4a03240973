// A second family of models, one file (toy.h) and its registration: everything that works with a GPT-2 works with it.
#include <span>

#include "dev/predict/plan.h"
#include "llm/models/batch.h"
#include "llm/models/check.h"
#include "llm/models/count.h"
#include "llm/models/families.h"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/training/checkpoint.h"
#include "tests/helpers/decoding.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/local_comm.h"
#include "tests/helpers/model_files.h"
#include "tests/models/toy.h"

namespace {

const bool kRegistered = (register_family(make_family<Toy>("toy")), true);

// Heads of 3 channels, two to a head of keys.
const ModelConfig kTiny = {.max_seq_len = 12,
                           .vocab_size = 13,
                           .num_layers = 2,
                           .num_heads = 4,
                           .channels = 12,
                           .num_kv_heads = 2,
                           .family = "toy"};

using ToyModel = FamilyModel<Toy, CpuDevice<double>>;

Batch batch_of(const ModelConfig& c, int B, int T) {
  const size_t n = static_cast<size_t>(B * T);
  return {B, T, random_ints(n, 1, c.vocab_size), random_ints(n, 2, c.vocab_size),
          Floats(n, 1.0f / static_cast<float>(n))};
}

double step(Model& model, const Batch& batch, uint64_t pass, float lr = 1e-2f) {
  model.zero_grad();
  model.forward(input_of(batch, Pass::train, {0.1f, 7, pass}));
  model.backward(batch.targets.data(), batch.weights.data(), true);
  model.update({.lr = lr}, 1);
  return model.result(0).loss;
}

std::vector<Floats> tensors_of(const Model& model, Arena arena) {
  std::vector<Floats> all;
  for (const ParamTensor& tensor : model.table) {
    all.emplace_back(static_cast<size_t>(tensor.size()));
    model.read(arena, tensor, all.back().data());
  }
  return all;
}

}  // namespace

TEST_CASE("toy: all gradients match finite differences, with dropout, documents and adapters") {
  REQUIRE(kRegistered);
  for (const auto& [NKV, lora] : {std::pair(2, LoraOptions{}), std::pair(1, LoraOptions{}), std::pair(4, LoraOptions{}),
                                  std::pair(2, LoraOptions{.rank = 2, .alpha = 3, .dropout = 0.2f})}) {
    CAPTURE(NKV);
    ModelConfig config = kTiny;
    config.num_kv_heads = NKV;
    ToyModel model(config, {.lora = lora}, choose_kernels<double>(true, Precision::fp32));
    init_weights(model, 3);
    for (const ParamTensor& tensor : model.table) {  // also B of the adapters, which begins as zeros
      model.write(Arena::params, tensor, random_tensor<float>(static_cast<size_t>(tensor.size()), 5, 0.4).data());
    }
    Batch batch = batch_of(kTiny, 2, 5);
    batch.documents = {0, 0, 2, 2, 2, 0, 1, 1, 1, 1};
    const auto forward = [&] { model.forward(input_of(batch, Pass::train, {0.2f, 7, 1})); };
    model.zero_grad();
    forward();
    model.backward(batch.targets.data(), batch.weights.data());
    std::vector<double*> grads;
    Toy::for_each_param(config, lora, model.grads, [&](double*& g, const ParamTensor&) { grads.push_back(g); });
    size_t k = 0;
    Toy::for_each_param(config, lora, model.params, [&](double*& values, const ParamTensor&) {
      const ParamTensor& tensor = model.table[k];
      const size_t n = static_cast<size_t>(tensor.file_size());
      if (grads[k]) {
        check_gradient(tensor.name, std::span(values, n), std::span<const double>(grads[k], n), [&] {
          forward();
          return model.loss(batch.targets.data(), nullptr);
        });
      }
      CHECK((grads[k] != nullptr) == (lora.rank == 0 || tensor.adapter()));
      ++k;
    });
  }
}

TEST_CASE("toy: it learns on fast kernels, in bf16 products, with Muon, adapters and an average of its weights") {
  const Batch batch = batch_of(kTiny, 4, 11);
  for (const ModelOptions& options :
       {ModelOptions{}, ModelOptions{.precision = Precision::bf16}, ModelOptions{.optimizer = Optimizer::muon},
        ModelOptions{.lora = {.rank = 4}}, ModelOptions{.ema = 0.9}}) {
    const auto model = make_cpu_model(kTiny, false, options);
    init_weights(*model, 3);
    const double first = step(*model, batch, 0, 2e-2f);
    double last = first;
    for (uint64_t k = 1; k < 60; ++k) last = step(*model, batch, k, 2e-2f);
    CHECK(first == doctest::Approx(std::log(13.0)).epsilon(0.1));
    CHECK(last < (options.lora.rank > 0 ? 0.97 : 0.7) * first);
  }
}

TEST_CASE("toy: fast kernels compute what the plain ones do, and recomputation has nothing to repeat") {
  const Batch batch = batch_of(kTiny, 3, 9);
  const auto plain = make_cpu_model(kTiny, true), fast = make_cpu_model(kTiny, false);
  for (Model* model : {plain.get(), fast.get()}) {
    init_weights(*model, 3);
    model->zero_grad();
    model->forward(input_of(batch, Pass::train));
    model->backward(batch.targets.data(), batch.weights.data());
  }
  CHECK(fast->step_loss() == doctest::Approx(plain->step_loss()).epsilon(1e-6));
  const auto a = tensors_of(*fast, Arena::grads), b = tensors_of(*plain, Arena::grads);
  for (size_t k = 0; k < a.size(); ++k) {
    CAPTURE(plain->table[k].name);
    const Doubles exact(b[k].begin(), b[k].end());
    CHECK(max_difference(a[k], exact) <= 1e-5 * (1e-3 + rms(exact)) * 10);
  }
}

TEST_CASE("toy: decoding with a cache gives the logits of a whole forward") {
  const auto model = make_cpu_model(kTiny, true);
  init_weights(*model, 3);
  const int B = 2, T = 9;
  const std::vector<int32_t> tokens = random_ints(B * T, 4, kTiny.vocab_size);
  PagedTexts texts(*model, B, 2 * B);
  const auto part = [&](int b, int t, size_t n) {
    return PagedTexts::Part{b, std::span(tokens).subspan(static_cast<size_t>(b * T + t), n)};
  };
  texts.feed({part(1, 0, 4)});
  texts.feed({part(0, 0, 4)});
  for (int t = 4; t < T; ++t) {
    const Floats decoded = texts.feed({part(0, t, 1), part(1, t, 1)});
    std::vector<int32_t> whole;
    for (int b = 0; b < B; ++b) whole.insert(whole.end(), tokens.begin() + b * T, tokens.begin() + b * T + t + 1);
    model->forward(whole.data(), B, t + 1, Pass::generate);
    Doubles expected;
    for (int b = 0; b < B; ++b) {
      Floats row(static_cast<size_t>(kTiny.vocab_size));
      model->read_logits(b, row.data());
      expected.insert(expected.end(), row.begin(), row.end());
    }
    CHECK(max_difference(decoded, expected) < 1e-5);
  }
}

TEST_CASE("toy: a row that is decoded has the same bits in any batch, after any beginning") {
  ModelConfig config = kTiny;
  config.max_seq_len = 44;
  const auto model = make_cpu_model(config, true);
  init_weights(*model, 3);
  check_bits_of_rows(*model, 40);
}

TEST_CASE("toy: ZeRO 3 among three processes takes the steps of one") {
  const Batch batch = batch_of(kTiny, 3, 11);
  ToyModel alone(kTiny, {}, choose_kernels<double>(true, Precision::fp32));
  init_weights(alone, 3);
  for (uint64_t k = 0; k < 4; ++k) {
    alone.zero_grad();
    alone.forward(input_of(batch, Pass::train));
    alone.backward(batch.targets.data(), batch.weights.data(), true);
    alone.update({.lr = 1e-2f}, 1);
  }
  const std::vector<Floats> expected = tensors_of(alone, Arena::params);
  in_ranks(3, [&](Comm& comm) {
    ToyModel model(kTiny, {.ranks = 3, .zero = 3, .comm = &comm}, choose_kernels<double>(true, Precision::fp32));
    init_weights(model, 3);
    const int T = batch.T, at = comm.rank() * T;
    for (uint64_t k = 0; k < 4; ++k) {
      model.zero_grad();
      model.forward({.tokens = batch.inputs.data() + at, .B = 1, .T = T});
      model.backward(batch.targets.data() + at, batch.weights.data() + at, true);
      model.update({.lr = 1e-2f}, 1);
    }
    const std::vector<Floats> found = tensors_of(model, Arena::params);
    if (comm.rank() != 0) return;
    for (size_t t = 0; t < found.size(); ++t) {
      CHECK(max_difference(found[t], Doubles(expected[t].begin(), expected[t].end())) < 1e-6);
    }
  });
}

TEST_CASE("toy: a checkpoint names the family, and training continues from it bit for bit") {
  const Folder folder;
  const auto model = make_cpu_model(kTiny, true);
  init_weights(*model, 3);
  const Batch batch = batch_of(kTiny, 2, 7);
  for (uint64_t k = 0; k < 3; ++k) step(*model, batch, k);
  const auto saved = save_checkpoint(folder.path, 3, *model, nullptr, {{"step", 3}}, 0);
  const ModelConfig config = read_model_config(saved);
  CHECK(config == kTiny);
  const auto resumed = make_cpu_model(config, true);
  load_checkpoint(*resumed, saved, 3);
  step(*model, batch, 3);
  step(*resumed, batch, 3);
  for (const Arena arena : {Arena::params, Arena::m, Arena::v}) {
    const auto a = tensors_of(*model, arena), b = tensors_of(*resumed, arena);
    for (size_t k = 0; k < a.size(); ++k) CHECK(same_bits(a[k], b[k]));
  }
}

TEST_CASE(
    "toy: its memory is planned, its walk is checked, a step on a GPU is listed, and a run on several GPUs planned") {
  ModelConfig config = kTiny;
  const auto bytes = [&](const ModelConfig& c, const char* name) {
    for (const MemoryRow& row : memory_plan(c, {}, 2, 8)) {
      if (row.name == name) return row.bytes;
    }
    return int64_t{-1};
  };
  CHECK(bytes(config, "block.1.kv") == 2 * 8 * 12 * 4);
  config.num_kv_heads = 1;
  CHECK(bytes(config, "block.1.kv") == 2 * 8 * 6 * 4);
  CHECK(gpu_memory_plan(config, {.precision = Precision::bf16}, 2, 8).size() > 30);
  check_plan(plan_of(kTiny, {}, 2, 8, 16, 0.1f, true));

  StepConfig step{.shape = {.max_seq_len = 128,
                            .vocab_size = 300,
                            .num_layers = 2,
                            .num_heads = 4,
                            .channels = 256,
                            .num_kv_heads = 2,
                            .family = "toy"},
                  .B = 2,
                  .T = 128};
  const auto bytes_of = [&](const char* kernel) {
    double sum = 0;
    for (const LaunchRow& row : count_step(step)) sum += row.kernel == kernel ? row.bytes * row.launches : 0;
    return sum;
  };
  const double shared = bytes_of("attention_forward_tensor_core_kernel");
  plan::Run run{.shape = step.shape, .gpu = *plan::find_gpu("h100"), .B = 2, .T = 128, .zero = 3};
  run.total_batch_tokens = run.tokens_at_once();
  const int64_t shared_memory = plan::memory_of(run);
  CHECK(plan::step_time(run).seconds() > 0);
  step.shape.num_kv_heads = run.shape.num_kv_heads = 4;
  CHECK(plan::memory_of(run) > shared_memory);
  const double whole = bytes_of("attention_forward_tensor_core_kernel");
  CHECK(whole - shared == 2.0 * 2 * 128 * 128 * 2 * 2);  // keys and values of two layers, half of 256 channels, bf16
}

TEST_CASE("toy: heads of keys must divide the heads, and GPT-2 has as many") {
  ModelConfig config = kTiny;
  config.num_kv_heads = 3;
  CHECK_THROWS_WITH_AS(validate(config, "x"), doctest::Contains("x: 3 heads of keys do not divide 4 heads"), Error);
  CHECK_THROWS_WITH_AS(make_cpu_model(config, true), doctest::Contains("the model: 3 heads of keys do not divide"),
                       Error);
  config.num_kv_heads = 5;
  CHECK_THROWS_WITH_AS(validate(config, "x"), doctest::Contains("the number of key heads is 5, expected 0 to 4"),
                       Error);
  config.num_kv_heads = 2;
  config.family = "gpt2";
  CHECK_THROWS_WITH_AS(make_cpu_model(config, true), doctest::Contains("as many heads of keys"), Error);
  config.family = "unknown";
  CHECK_THROWS_WITH_AS(make_cpu_model(config, true), doctest::Contains("expected one of: gpt2, toy"), Error);
}
