// Models with shapes and parts other than GPT-2's own, and those of which only a part is trained: compared with finite
// differences and with the whole model.
#include <tuple>

#include "llm/models/check.h"
#include "llm/models/cpu.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/support/error.h"
#include "tests/helpers/documents.h"
#include "tests/helpers/model_variants.h"

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};
const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 2, .num_heads = 3, .channels = 33};

template <class Visit>
void for_each_pair(CpuModel<double>& model, Visit&& visit) {  // values, gradients
  std::vector<double*> grads;
  Gpt2::for_each_param(model.config, model.options.lora, model.grads,
                       [&](double*& g, const ParamTensor&) { grads.push_back(g); });
  size_t k = 0;
  Gpt2::for_each_param(model.config, model.options.lora, model.params, [&](double*& values, const ParamTensor&) {
    visit(model.table[k], std::span(values, static_cast<size_t>(model.table[k].file_size())), grads[k]);
    ++k;
  });
}

void micro_step(Model& model, const VariantBatch& batch) {
  model.forward(input_of(batch, Pass::train));
  model.backward(batch.targets.data(), batch.weights.data());
}

Floats logits_of(Model& model, const VariantBatch& batch) {
  model.forward(input_of(batch, Pass::evaluate));
  const size_t columns = static_cast<size_t>(model.config.outputs());
  Floats all(batch.weights.size() * columns);
  for (size_t r = 0; r < batch.weights.size(); ++r) model.read_logits(static_cast<int64_t>(r), &all[r * columns]);
  return all;
}

const ParamTensor& tensor_named(const Model& model, const std::string& name) {
  for (const ParamTensor& tensor : model.table) {
    if (tensor.name == name) return tensor;
  }
  throw std::logic_error("no tensor " + name);
}

}  // namespace

TEST_CASE("every variant's gradients match finite differences, with dropout; untrained parts have none") {
  for (const Variant& v : model_variants(kTiny)) {
    INFO(v.name);
    const ThreadCount one(1);
    CpuModel<double> model(v.config, true, v.options);
    random_weights(model, 0.5);
    VariantBatch batch(v.config, 2, 5, 3);
    batch.weights = random_tensor<float>(batch.weights.size(), 5);
    if (batch.weights.size() > 2) batch.targets[2] = -1;
    const auto loss = [&] {
      model.forward(input_of(batch, Pass::train, {0.2f, 7, 8}));
      model.loss(batch.targets.data(), nullptr);
      return dot_product(batch.weights, std::span<const double>(model.acts.losses, batch.weights.size()));
    };
    const double expected = loss();
    model.zero_grad();
    model.backward(batch.targets.data(), batch.weights.data());
    CHECK(model.step_loss() == doctest::Approx(expected).epsilon(1e-13));
    Floats losses(batch.weights.size());
    model.read_losses(losses.data());
    CHECK(dot_product(batch.weights, losses) == doctest::Approx(expected).epsilon(1e-5));
    double squares = 0;
    for_each_pair(model, [&](const ParamTensor& tensor, std::span<double> values, double* grads) {
      CHECK((grads != nullptr) == tensor.trainable());
      if (!grads) return;
      check_gradient(tensor.name, values, std::span<const double>(grads, values.size()), loss);
      for (size_t i = 0; i < values.size(); ++i) squares += grads[i] * grads[i];
    });
    CHECK(model.grad_norm() == doctest::Approx(std::sqrt(squares)).epsilon(1e-12));
  }
}

TEST_CASE("the fast path agrees with the reference in every variant and precision") {
  for (const Variant& v : model_variants(kSmall)) {
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      if (!cpu_can(precision)) continue;
      ModelOptions options = v.options;
      CpuModel<float> reference(v.config, true, options);
      options.precision = precision;
      CpuModel<float> fast(v.config, false, options);
      const VariantBatch batch(v.config, 3, 13, 1);
      for (Model* model : {static_cast<Model*>(&reference), static_cast<Model*>(&fast)}) {
        random_weights(*model, 0.2);
      }
      for (const CheckRow& row : compare_models(fast, reference, batch, precision, {0.1f, 5, 6})) {
        INFO(v.name, ", ", row.tensor, ": relative ", row.relative, ", cosine ", row.cosine, ", bound ", row.bound);
        CHECK(row.ok);
      }
    }
  }
}

TEST_CASE("two steps of two micro-batches: only trained parts move, and the norm is that of their gradients") {
  for (const Variant& v : model_variants(kSmall)) {
    INFO(v.name);
    CpuModel<float> model(v.config, false, v.options);
    random_weights(model, 0.2);
    std::vector<Floats> before;
    for (const ParamTensor& tensor : model.table) before.push_back(tensor_of(model, Arena::params, tensor));
    for (int t = 0; t < 2; ++t) {
      model.zero_grad();
      for (uint64_t micro = 0; micro < 2; ++micro) micro_step(model, VariantBatch(v.config, 2, 9, 10 + micro));
      double squares = 0;
      for (const ParamTensor& tensor : model.table) {
        const Floats g = tensor_of(model, Arena::grads, tensor);
        squares += dot_product(g, g);
        if (!tensor.trainable()) CHECK(norm(g) == 0);
      }
      CHECK(model.grad_norm() == doctest::Approx(std::sqrt(squares)).epsilon(1e-5));
      model.update({}, 1);
      CHECK(model.result(0).grad_norm == doctest::Approx(std::sqrt(squares)).epsilon(1e-5));
    }
    for (size_t k = 0; k < model.table.size(); ++k) {
      INFO(model.table[k].name);
      CHECK(same_bits(before[k], tensor_of(model, Arena::params, model.table[k])) == !model.table[k].trainable());
    }
  }
}

TEST_CASE("a trained part has the same gradients as in the whole model") {
  for (const Variant& v : model_variants(kSmall)) {
    if (v.options.lora.rank > 0) continue;
    INFO(v.name);
    CpuModel<float> part(v.config, true, v.options), whole(v.config, true);
    const VariantBatch batch(v.config, 2, 9, 1);
    for (CpuModel<float>* model : {&part, &whole}) {
      random_weights(*model, 0.2);
      model->zero_grad();
      micro_step(*model, batch);
    }
    for (size_t k = 0; k < whole.table.size(); ++k) {
      if (!part.table[k].trainable()) continue;
      INFO(part.table[k].name);
      CHECK(same_bits(tensor_of(part, Arena::grads, part.table[k]), tensor_of(whole, Arena::grads, whole.table[k])));
    }
  }
}

TEST_CASE("decay_all decays everything, and learning rates fall per layer") {
  const auto moved = [](const ModelOptions& options, const char* name) {
    CpuModel<float> model(kSmall, true, options);
    random_weights(model, 0.2);
    model.zero_grad();
    const ParamTensor& tensor = tensor_named(model, name);
    const Floats before = tensor_of(model, Arena::params, tensor);
    model.update({.lr = 0.5f, .weight_decay = 0.5f}, 0);  // no gradients: only decay
    const Floats after = tensor_of(model, Arena::params, tensor);
    return after[0] / before[0];
  };
  CHECK(moved({}, "lnfw") == 1);
  CHECK(moved({.decay_all = true}, "lnfw") == doctest::Approx(0.75));
  CHECK(moved({}, "block.0.fcw") == doctest::Approx(0.75));
  CHECK(moved({.lr_decay_per_layer = 0.5f}, "block.1.fcw") == doctest::Approx(1 - 0.25 / 2));
  CHECK(moved({.lr_decay_per_layer = 0.5f}, "block.0.fcw") == doctest::Approx(1 - 0.25 / 4));
  CHECK(moved({.lr_decay_per_layer = 0.5f}, "wte") == doctest::Approx(1 - 0.25 / 8));
}

TEST_CASE("a new adapter changes nothing; one of full rank equals a change of the weights") {
  ModelConfig config = kSmall;
  config.tied_head = false;
  const int C = config.channels;
  const VariantBatch batch(config, 2, 9, 1);
  CpuModel<float> plain(config, true), adapted(config, true, {.lora = {.rank = C, .alpha = static_cast<float>(C)}});
  init_weights(plain, 1);
  init_weights(adapted, 1);
  CHECK(same_bits(logits_of(plain, batch), logits_of(adapted, batch)));

  // A = identity (of the first C inputs), B = D: W + D there.
  uint64_t seed = 100;
  for (const ParamTensor& b : adapted.table) {
    if (!b.name.ends_with(".lora_b")) continue;
    const std::string of = b.name.substr(0, b.name.size() - 7);  // block.0.qw
    const ParamTensor& a = tensor_named(adapted, of + ".lora_a");
    Floats identity(static_cast<size_t>(a.size()), 0.0f);
    for (int64_t r = 0; r < a.rows; ++r) identity[static_cast<size_t>(r * a.cols + r)] = 1;
    adapted.write(Arena::params, a, identity.data());
    Floats d = random_tensor<float>(static_cast<size_t>(b.size()), ++seed, 0.1);
    std::fill(d.begin() + b.file_size(), d.end(), 0.0f);
    adapted.write(Arena::params, b, d.data());

    std::string name = of;
    int64_t first_row = 0;
    for (const char* part : {"qw", "kw", "vw"}) {
      if (of.ends_with(std::string(".") + part)) {
        first_row = (part[0] == 'q' ? 0 : part[0] == 'k' ? 1 : 2) * C;
        name = of.substr(0, of.size() - 2) + "qkvw";
      }
    }
    const ParamTensor& w = tensor_named(plain, name);
    Floats merged = tensor_of(plain, Arena::params, w);
    for (int64_t row = 0; row < b.rows; ++row) {
      for (int64_t c = 0; c < C; ++c) merged[static_cast<size_t>((first_row + row) * w.cols + c)] += d[row * C + c];
    }
    plain.write(Arena::params, w, merged.data());
  }
  const Floats expected = logits_of(plain, batch), found = logits_of(adapted, batch);
  CHECK(relative_difference(found, expected) < 1e-5);

  // And then the gradient of B is that of W (its first C columns) through A = 1.
  plain.zero_grad();
  adapted.zero_grad();
  micro_step(plain, batch);
  micro_step(adapted, batch);
  const Floats dw = tensor_of(plain, Arena::grads, tensor_named(plain, "block.0.fcw")),
               db = tensor_of(adapted, Arena::grads, tensor_named(adapted, "block.0.fcw.lora_b"));
  CHECK(relative_difference(db, dw) < 1e-4);
}

TEST_CASE("untrained parts take no memory for gradients and moments") {
  ModelConfig config = {
      .max_seq_len = 1024, .vocab_size = 50257, .num_layers = 12, .num_heads = 12, .channels = 768, .num_classes = 2};
  const ModelOptions lora = {.lora = {.rank = 16}};
  const auto bytes = [&](const ModelOptions& options, const std::string& name) {
    for (const MemoryRow& row : memory_plan(config, options, 8, 120)) {
      if (row.name == name) return row.bytes;
    }
    return int64_t{-1};
  };
  const std::vector<ParamTensor> all = param_table(config), adapters = param_table(config, lora);
  CHECK(num_parameters(all) == 124'441'346);
  CHECK(num_trainable(all) == 124'441'346);
  CHECK(num_trainable(adapters) == 2'666'528);
  for (const char* arena : {"gradients", "AdamW m", "AdamW v"}) {
    const double share = static_cast<double>(bytes(lora, arena)) / static_cast<double>(bytes({}, arena));
    CHECK(share == doctest::Approx(2'666'528 / 124'441'346.0).epsilon(0.02));  // 2 %: the padding of the head's B
  }
  config.num_classes = 0;
  config.tied_head = config.qkv_bias = false;
  CHECK(num_parameters(param_table(config)) == 163'009'536);
}

TEST_CASE("tokens decoded one by one have the same logits as in the whole sequence") {
  for (const Variant& v : model_variants(kSmall)) {
    if (v.config.num_classes > 0 || !v.config.causal) continue;
    INFO(v.name);
    for (const auto& [B, T, T0] : {std::tuple(1, 16, 1), {3, 16, 7}, {2, 5, 5}, {1, 2, 1}}) {
      const VariantBatch batch(v.config, B, T, 3);
      CpuModel<double> model(v.config, true, v.options);
      random_weights(model, 0.5);
      CHECK(relative_difference(decoded_logits(model, batch, T0), evaluated_logits(model, batch, T0)) < 1e-6);
      CpuModel<float> fast(v.config, false, v.options);
      random_weights(fast, 0.5);
      CHECK(relative_difference(decoded_logits(fast, batch, T0), evaluated_logits(model, batch, T0)) < 1e-5);
    }
  }
}

TEST_CASE("errors: a classifier without pooling, classes and options that do not fit") {
  ModelConfig config = kSmall;
  config.num_classes = 3;
  CpuModel<float> model(config, true), language(kSmall, true);
  const VariantBatch batch(config, 2, 9, 1);
  CHECK_THROWS_AS(model.forward(batch.inputs.data(), 2, 9, Pass::train), std::logic_error);
  CHECK_NOTHROW(model.forward(input_of(batch, Pass::train)));
  CHECK_THROWS_AS(language.forward(input_of(batch, Pass::train)), std::logic_error);
  const auto first = documents_of(2, 9, {4, 2});
  ForwardInput documents = input_of(batch, Pass::train);
  documents.documents = first.data();
  CHECK_THROWS_AS(model.forward(documents), std::logic_error);
  CHECK_THROWS_WITH_AS(model.make_decoder(2, 9), doctest::Contains("a classifier has no next token"), Error);
  const int32_t wrong[] = {0, 3};
  model.forward(input_of(batch, Pass::train));
  CHECK_THROWS_WITH_AS(model.loss(wrong, nullptr), "class 3 of sequence 1 is not among 3", Error);
  Floats values(static_cast<size_t>(model.table[0].size()));
  CpuModel<float> frozen(kSmall, true, {.trainable = {.embeddings = false}});
  CHECK_THROWS_AS(frozen.write(Arena::m, frozen.table[0], values.data()), std::logic_error);

  const auto refused = [&](const ModelOptions& options, const char* says) {
    CHECK_THROWS_WITH_AS(validate(options, kSmall, "--flags"), doctest::Contains(says), Error);
    CHECK_THROWS_AS(CpuModel<float>(kSmall, true, options), Error);
  };
  refused({.lora = {.rank = 34}}, "rank 34, expected 0 to the model's 33 channels");
  refused({.lora = {.rank = -1}}, "rank -1");
  refused({.lora = {.rank = 1, .dropout = 1}}, "dropout is 1");
  refused({.lora = {.rank = 1, .alpha = 0}}, "alpha is 0");
  refused({.lora = {.rank = 1, .targets = "q,w"}}, "'q,w'");
  refused({.lora = {.rank = 1, .targets = "q,q"}}, "'q,q'");
  refused({.lora = {.rank = 1, .targets = "q,head"}}, "token embedding");
  refused({.trainable = {.first_block = 3}}, "block 3 on, expected 0 to 2");
}
