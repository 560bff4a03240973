// The whole model: compared with PyTorch, with finite differences, and with itself.
#include <functional>

#include "kernels/muon.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "tests/helpers/documents.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};
const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 2, .num_heads = 3, .channels = 33};

// The same weights as make_params in dev/reference/gpt2.py. Rows of wte from V on stay zero.
void formula_weights(Model& model, double scale) {
  for (size_t k = 0; k < model.table.size(); ++k) {
    const ParamTensor& tensor = model.table[k];
    Floats values(static_cast<size_t>(tensor.size()));
    for (int64_t i = 0; i < tensor.file_size(); ++i) {
      const double base = tensor.init == Init::ones ? 1 : 0;
      values[static_cast<size_t>(i)] = static_cast<float>(base + scale * golden_uniform(k, static_cast<uint64_t>(i)));
    }
    model.write(Arena::params, tensor, values.data());
  }
}

template <class floatX>
struct NamedTensor {
  ParamTensor tensor;
  std::span<floatX> values;  // as in files: without wte's padding
};

template <class floatX>
std::vector<NamedTensor<floatX>> tensors(const ModelConfig& config, Gpt2::Params<floatX>& params) {
  std::vector<NamedTensor<floatX>> all;
  Gpt2::for_each_param(config, {}, params, [&](floatX*& pointer, const ParamTensor& tensor) {
    all.push_back({tensor, std::span<floatX>(pointer, static_cast<size_t>(tensor.file_size()))});
  });
  return all;
}

// All values of an arena, for comparisons bit by bit.
Floats read_all(const Model& model, Arena arena) {
  Floats all, values;
  for (const ParamTensor& tensor : model.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    model.read(arena, tensor, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

Floats read_tensor(const Model& model, Arena arena, const ParamTensor& tensor) {
  Floats values(static_cast<size_t>(tensor.size()));
  model.read(arena, tensor, values.data());
  return values;
}

Floats read_logits(Model& model, int64_t rows) {
  Floats all(static_cast<size_t>(rows * model.config.vocab_size));
  for (int64_t r = 0; r < rows; ++r) model.read_logits(r, &all[static_cast<size_t>(r * model.config.vocab_size)]);
  return all;
}

struct Batch {
  int B, T;
  std::vector<int32_t> inputs, targets;
  Floats weights;
  Batch(const ModelConfig& config, int B_, int T_, uint64_t seed) : B(B_), T(T_) {
    inputs = random_ints(static_cast<size_t>(B * T), seed, config.vocab_size);
    targets = random_ints(static_cast<size_t>(B * T), seed + 1, config.vocab_size);
    weights.assign(inputs.size(), 1.0f / static_cast<float>(B * T));
  }
};

StepResult step(Model& model, const Batch& batch, const OptimizerConfig& optimizer, const PassDropout& dropout = {}) {
  model.zero_grad();
  model.forward({.tokens = batch.inputs.data(), .B = batch.B, .T = batch.T, .dropout = dropout});
  model.backward(batch.targets.data(), batch.weights.data());
  model.update(optimizer, 0);
  return model.result(0);
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// ---- against PyTorch -----------------------------------------------------------------------------------------------

struct Tolerances {
  double logits, loss, gradient, curve;
  double rounding;  // relative, because golden values were rounded to float
};

// A tensor against its golden summary (norm, products with three fixed vectors) and values (all, or every 97th).
template <class Values>
void check_tensor(const Golden& golden, const std::string& name, const Values& values, bool full, double tolerance,
                  double rounding) {
  CAPTURE(name);
  const Doubles summary = golden.get("summary:" + name), expected = golden.get("values:" + name);
  const double size = std::max(summary[0], 1e-300);
  CHECK(std::abs(norm(values) - summary[0]) <= tolerance * size);
  for (uint64_t j = 0; j < 3; ++j) {
    double product = 0;
    for (size_t i = 0; i < values.size(); ++i) product += static_cast<double>(values[i]) * golden_uniform(2000 + j, i);
    CHECK(std::abs(product - summary[1 + j]) <= tolerance * size);
  }
  Doubles found;
  for (size_t i = 0; i < values.size(); i += full ? 1 : 97) found.push_back(values[i]);
  CHECK(relative_difference(found, expected) <= tolerance + (full ? rounding : 0));
}

template <class floatX>
void check_against_pytorch(const char* file, bool reference, const Tolerances& tolerance) {
  INFO(file, reference ? ", reference" : ", fast");
  const Golden golden(file);
  const auto c = golden.get<int>("config");
  const ModelConfig config = {
      .max_seq_len = c[0], .vocab_size = c[1], .num_layers = c[2], .num_heads = c[3], .channels = c[4]};
  const int B = c[5], T = c[6];
  const bool full = c[7];
  const auto inputs = golden.get<int32_t>("inputs"), targets = golden.get<int32_t>("targets");
  const Floats weights = golden.get<float>("weights");
  const Doubles curve = golden.get("curve");

  CpuModel<floatX> model(config, reference);
  formula_weights(model, golden.get("scale")[0]);
  model.forward(inputs.data(), B, T, Pass::evaluate);
  std::vector<floatX> logits;
  Floats row(static_cast<size_t>(config.vocab_size));
  for (int n = 0; n < B * T; ++n) {
    model.read_logits(n, row.data());  // this brings the row's chunk into memory
    const floatX* exact = model.acts.logits + n % cpu_logits_rows(config, {}, B * T) * config.padded_vocab_size();
    logits.insert(logits.end(), exact, exact + config.vocab_size);
  }
  const Doubles expected = golden.get("values:logits");
  Doubles found;
  for (size_t i = 0; i < logits.size(); i += full ? 1 : 97) found.push_back(logits[i]);
  CHECK(max_difference(found, expected) <= tolerance.logits + tolerance.rounding * (full ? 16 : 0));
  check_tensor(golden, "logits", logits, full, tolerance.logits, tolerance.rounding);
  CHECK(std::abs(model.loss(targets.data(), nullptr) - curve[0]) <= tolerance.loss);

  model.zero_grad();
  model.forward(inputs.data(), B, T, Pass::train);
  model.backward(targets.data(), weights.data());
  CHECK(std::abs(model.step_loss() - curve[0]) <= tolerance.loss);
  double squares = 0;
  for (const auto& [tensor, values] : tensors(config, model.grads)) {
    check_tensor(golden, tensor.name, values, full, tolerance.gradient, tolerance.rounding);
    squares += std::pow(golden.get("summary:" + tensor.name)[0], 2);
  }
  CHECK(std::abs(model.grad_norm() / std::sqrt(squares) - 1) <= tolerance.gradient);

  const OptimizerConfig optimizer = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
  const Doubles o = golden.get("optimizer");
  REQUIRE(o == Doubles{optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay});
  for (size_t t = 0; t < curve.size(); ++t) {
    CAPTURE(t);
    model.zero_grad();
    model.forward(inputs.data(), B, T, Pass::train);
    model.backward(targets.data(), weights.data());
    model.update(optimizer, 0);
    CHECK(std::abs(model.result(0).loss - curve[t]) <= tolerance.curve);
  }
}

}  // namespace

TEST_CASE("logits, loss, all gradients and ten steps of AdamW match PyTorch") {
  const Tolerances single = {.logits = 1e-4, .loss = 1e-5, .gradient = 1e-4, .curve = 1e-5, .rounding = 0};
  const Tolerances exact = {.logits = 1e-12, .loss = 1e-13, .gradient = 1e-12, .curve = 1e-12, .rounding = 0x1p-24};
  for (const char* file : {"gpt2_c51.bin", "gpt2_hs64.bin"}) {
    check_against_pytorch<float>(file, true, single);
    check_against_pytorch<float>(file, false, single);
    check_against_pytorch<double>(file, true, exact);
  }
}

// As in dev/reference/gpt2_variants.py.
struct PyTorchVariant {
  ModelConfig config;
  int B, T;
  std::vector<int> documents = {};  // where row b's second document begins
  float dropout;
  LoraOptions lora = {.rank = 0};
};

template <class floatX>
void check_variant_against_pytorch(const Golden& golden, int number, const PyTorchVariant& v, bool reference,
                                   const Tolerances& tolerance) {
  CAPTURE(number);
  CAPTURE(reference);
  const std::string at = std::to_string(number) + ":";
  const bool classifies = v.config.num_classes > 0;
  const size_t tokens = static_cast<size_t>(v.B * v.T), rows = classifies ? static_cast<size_t>(v.B) : tokens;
  const auto inputs = golden.get<int32_t>(at + "inputs"), targets = golden.get<int32_t>(at + "targets");
  const Floats weights = golden.get<float>(at + "weights"), pooling = golden.get<float>(at + "pooling");
  std::vector<int32_t> documents(tokens, 0);
  for (size_t b = 0; b < v.documents.size(); ++b) {
    for (int t = v.documents[b]; t < v.T; ++t)
      documents[b * static_cast<size_t>(v.T) + static_cast<size_t>(t)] = v.documents[b];
  }
  CpuModel<floatX> model(v.config, reference, {.lora = v.lora});
  formula_weights(model, 0.25);
  const auto forward = [&](Pass pass, uint64_t step) {
    model.forward({.tokens = inputs.data(),
                   .B = v.B,
                   .T = v.T,
                   .pass = pass,
                   .dropout = {v.dropout, 11, step},
                   .documents = v.documents.empty() ? nullptr : documents.data(),
                   .pooling = classifies ? pooling.data() : nullptr});
  };
  forward(Pass::evaluate, 0);
  Floats row(static_cast<size_t>(v.config.outputs()));
  std::vector<floatX> logits;
  for (size_t n = 0; n < rows; ++n) {
    model.read_logits(static_cast<int64_t>(n), row.data());
    const floatX* exact = model.acts.logits + static_cast<int64_t>(n) * v.config.padded_outputs();
    logits.insert(logits.end(), exact, exact + v.config.outputs());
  }
  CHECK(max_difference(logits, golden.get(at + "logits")) <= tolerance.logits);

  const Doubles curve = golden.get(at + "curve");
  const OptimizerConfig optimizer = {.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
  for (size_t t = 0; t < curve.size(); ++t) {
    CAPTURE(t);
    model.zero_grad();
    forward(Pass::train, t);
    model.backward(targets.data(), weights.data());
    if (t == 0) {
      for (const ParamTensor& tensor : model.table) {
        if (!tensor.trainable()) continue;
        CAPTURE(tensor.name);
        Floats values(static_cast<size_t>(tensor.size()));
        model.read(Arena::grads, tensor, values.data());
        values.resize(static_cast<size_t>(tensor.file_size()));
        const Doubles expected = golden.get(at + "values:" + tensor.name);
        CHECK(relative_difference(values, expected) <= std::max(tolerance.gradient, 0x1p-23));  // read as floats
      }
    }
    model.update(optimizer, 0);
    CHECK(std::abs(model.result(0).loss - curve[t]) <= tolerance.curve);
  }
}

TEST_CASE("variants at four odd shapes match PyTorch: heads, biases, documents, classifiers, adapters, dropout") {
  const Golden golden("gpt2_variants.bin");
  const auto shape = [](int context, int V, int L, int NH, int C) {
    return ModelConfig{.max_seq_len = context, .vocab_size = V, .num_layers = L, .num_heads = NH, .channels = C};
  };
  std::vector<PyTorchVariant> all = {
      {.config = shape(11, 29, 2, 3, 15), .B = 2, .T = 9, .documents = {4, 2}, .dropout = 0.2f},
      {.config = shape(8, 23, 3, 2, 14), .B = 3, .T = 7, .dropout = 0.1f},
      {.config = shape(13, 31, 2, 3, 21),
       .B = 1,
       .T = 13,
       .dropout = 0.2f,
       .lora = {.rank = 2, .alpha = 3, .dropout = 0.3f}},
      {.config = shape(6, 17, 1, 5, 35), .B = 2, .T = 5, .documents = {1, 3}, .dropout = 0.3f}};
  all[0].config.tied_head = all[0].config.qkv_bias = all[1].config.tied_head = all[2].config.tied_head = false;
  all[1].config.num_classes = 3;
  all[1].config.causal = false;
  const Tolerances single = {.logits = 1e-4, .loss = 1e-5, .gradient = 1e-4, .curve = 1e-5, .rounding = 0};
  const Tolerances exact = {.logits = 1e-12, .loss = 1e-13, .gradient = 1e-12, .curve = 1e-12, .rounding = 0x1p-24};
  for (size_t k = 0; k < all.size(); ++k) {
    check_variant_against_pytorch<float>(golden, static_cast<int>(k), all[k], true, single);
    check_variant_against_pytorch<float>(golden, static_cast<int>(k), all[k], false, single);
    check_variant_against_pytorch<double>(golden, static_cast<int>(k), all[k], true, exact);
  }
}

TEST_CASE("logits that do not fit are computed chunk by chunk, with the results of smaller batches") {
  // 8,192 padded columns: 256 rows at a time. The batch has 300, the three smaller ones 100 each.
  const ModelConfig config = {.max_seq_len = 6, .vocab_size = 8100, .num_layers = 1, .num_heads = 2, .channels = 6};
  REQUIRE(cpu_logits_rows(config, {}, 300) == 256);
  CpuModel<double> whole(config, true), parts(config, true);
  Batch batch(config, 50, 6, 1);
  batch.targets[290] = -1;
  const int columns = config.vocab_size;
  for (CpuModel<double>* model : {&whole, &parts}) {
    formula_weights(*model, 0.5);
    model->zero_grad();
  }
  whole.forward(batch.inputs.data(), 50, 6, Pass::train);
  Floats logits(300 * static_cast<size_t>(columns)), row(static_cast<size_t>(columns)), losses(300), part_losses(120);
  for (const int64_t n : {299, 0, 270, 255, 256}) whole.read_logits(n, &logits[static_cast<size_t>(n * columns)]);
  const double loss = whole.loss(batch.targets.data(), nullptr);
  std::fill(whole.acts.losses, whole.acts.losses + 300, std::nan(""));  // backward sets them, too
  whole.backward(batch.targets.data(), batch.weights.data());
  whole.read_losses(losses.data());
  double sum = 0;
  for (int k = 0; k < 3; ++k) {
    const int b = k * 20, B = k < 2 ? 20 : 10, first = b * 6;
    parts.forward(&batch.inputs[static_cast<size_t>(first)], B, 6, Pass::train);
    for (const int n : {299, 0, 270, 255, 256}) {
      if (n < first || n >= first + 6 * B) continue;
      parts.read_logits(n - first, row.data());
      CHECK(std::equal(row.begin(), row.end(), logits.begin() + n * columns));
    }
    double part = 0;
    parts.loss(&batch.targets[static_cast<size_t>(first)], &part);
    sum += part;
    parts.backward(&batch.targets[static_cast<size_t>(first)], &batch.weights[static_cast<size_t>(first)]);
    parts.read_losses(part_losses.data());
    CHECK(std::equal(part_losses.begin(), part_losses.begin() + 6 * B, losses.begin() + first));
  }
  CHECK(loss == doctest::Approx(sum / 299).epsilon(1e-13));
  CHECK(parts.step_loss() == doctest::Approx(whole.step_loss()).epsilon(1e-13));
  const auto expected = tensors(config, parts.grads), found = tensors(config, whole.grads);
  for (size_t k = 0; k < expected.size(); ++k) {
    CAPTURE(expected[k].tensor.name);
    CHECK(relative_difference(found[k].values, expected[k].values) < 1e-12);
  }
}

TEST_CASE("ModelOptions::loss_chunk bounds the logits in memory, and changes no loss") {
  const Batch batch(kSmall, 3, 11, 1);
  const auto run = [&](int64_t chunk, Floats& results) {
    auto model = std::make_unique<CpuModel<double>>(kSmall, true, ModelOptions{.loss_chunk = chunk});
    formula_weights(*model, 0.5);
    model->zero_grad();
    model->forward(batch.inputs.data(), 3, 11, Pass::train);
    Floats logits(static_cast<size_t>(kSmall.vocab_size)), losses(33);
    for (const int64_t row : {32, 0, 7, 31, 6}) {
      model->read_logits(row, logits.data());
      results.insert(results.end(), logits.begin(), logits.end());
    }
    results.push_back(static_cast<float>(model->loss(batch.targets.data(), nullptr)));
    model->backward(batch.targets.data(), batch.weights.data());
    model->read_losses(losses.data());
    results.insert(results.end(), losses.begin(), losses.end());
    return model;
  };
  Floats expected;
  const auto whole = run(0, expected);
  const auto gradients = tensors(kSmall, whole->grads);
  for (const int64_t chunk : {1, 2, 7, 31, 32, 33, 34, 1000}) {
    CAPTURE(chunk);
    Floats results;
    const auto model = run(chunk, results);
    CHECK(same_bits(results, expected));
    const auto found = tensors(kSmall, model->grads);
    for (size_t k = 0; k < gradients.size(); ++k) {
      CAPTURE(gradients[k].tensor.name);
      CHECK(relative_difference(found[k].values, gradients[k].values) < 1e-12);
    }
    const int64_t rows = std::min<int64_t>(chunk, 33), columns = kSmall.padded_vocab_size();
    CHECK(whole->allocated_bytes() - model->allocated_bytes() == (33 - rows) * columns * 8);
  }
  CHECK_THROWS_WITH_AS(CpuModel<float>(kSmall, false, {.loss_chunk = -1}),
                       doctest::Contains("-1 rows of logits at a time, expected 0"), Error);
}

// ---- against finite differences ------------------------------------------------------------------------------------

TEST_CASE("all gradients of the whole model match finite differences, with and without dropout and documents") {
  for (const auto& [dropout, documents] : {std::pair{0.0f, false}, {0.2f, false}, {0.2f, true}}) {
    CAPTURE(dropout);
    CAPTURE(documents);
    const auto first = documents_of(2, 5, {3, 1});
    const ThreadCount one(1);
    CpuModel<double> model(kTiny, true);
    formula_weights(model, 0.5);
    Batch batch(kTiny, 2, 5, 3);
    batch.targets[4] = -1;
    batch.weights = random_tensor<float>(batch.weights.size(), 5);  // any weights, also negative: tasks may set them
    const auto loss = [&] {
      model.forward({.tokens = batch.inputs.data(),
                     .B = batch.B,
                     .T = batch.T,
                     .dropout = {dropout, 7, 8},
                     .documents = documents ? first.data() : nullptr});
      model.loss(batch.targets.data(), nullptr);
      return dot_product(batch.weights, std::span<const double>(model.acts.losses, batch.weights.size()));
    };
    const double expected = loss();
    model.zero_grad();
    model.backward(batch.targets.data(), batch.weights.data());
    CHECK(model.step_loss() == doctest::Approx(expected).epsilon(1e-14));
    const auto params = tensors(kTiny, model.params), grads = tensors(kTiny, model.grads);
    for (size_t k = 0; k < params.size(); ++k)
      check_gradient(params[k].tensor.name, params[k].values, grads[k].values, loss);
  }
}

// ---- against itself ------------------------------------------------------------------------------------------------

TEST_CASE("two micro-batches of half the weight equal one batch of twice the size") {
  for (const bool reference : {true, false}) {
    CpuModel<float> whole(kSmall, reference), halves(kSmall, reference);
    formula_weights(whole, 0.25);
    formula_weights(halves, 0.25);
    const Batch batch(kSmall, 4, 13, 1);
    const size_t half = batch.inputs.size() / 2;
    whole.zero_grad();
    whole.forward(batch.inputs.data(), 4, 13, Pass::train);
    whole.backward(batch.targets.data(), batch.weights.data());
    halves.zero_grad();
    for (const size_t from : {size_t{0}, half}) {
      halves.forward(&batch.inputs[from], 2, 13, Pass::train);
      halves.backward(&batch.targets[from], &batch.weights[from]);  // weights of 1/(2 B T)
    }
    CHECK(halves.step_loss() == doctest::Approx(whole.step_loss()).epsilon(1e-6));
    const auto expected = tensors(kSmall, whole.grads), found = tensors(kSmall, halves.grads);
    for (size_t k = 0; k < expected.size(); ++k) {
      INFO(expected[k].tensor.name);
      CHECK(relative_difference(found[k].values, expected[k].values) < 1e-5);
    }
  }
}

TEST_CASE("one batch can be memorised") {
  CpuModel<float> model(kSmall, false);
  init_weights(model, 1);
  const Batch batch(kSmall, 2, 16, 1);
  const OptimizerConfig optimizer = {.lr = 3e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0};
  double loss = 0;
  for (int t = 1; t <= 200; ++t) loss = step(model, batch, optimizer).loss;
  CHECK(loss < 0.01);
  model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
  CHECK(model.loss(batch.targets.data(), nullptr) < 0.01);
}

TEST_CASE("a fresh model has loss log V") {
  CpuModel<float> model(kSmall, false);
  init_weights(model, 1);
  const Batch batch(kSmall, 4, 16, 1);
  model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
  double sum = 0;
  const double mean = model.loss(batch.targets.data(), &sum);
  CHECK(std::abs(mean - std::log(61.0)) < 0.1);
  CHECK(sum == doctest::Approx(mean * 64));
}

TEST_CASE("training repeats its bits, for the reference on any number of threads") {
  const Batch batch(kSmall, 3, 11, 1);
  const auto train = [&](bool reference, const ModelOptions& options) {
    CpuModel<float> model(kSmall, reference, options);
    init_weights(model, 1);
    for (int t = 1; t <= 3; ++t) {
      step(model, batch, OptimizerConfig{}, {0.1f, 5, static_cast<uint64_t>(t)});
    }
    Floats all = read_all(model, Arena::params);
    for (const Arena arena : {Arena::grads, Arena::m, Arena::v}) {
      const Floats more = read_all(model, arena);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  };
  CHECK(same_bits(train(false, {}), train(false, {})));
  const ModelOptions bf16_moments = {.moments = Moments::bf16, .seed = 9};
  CHECK(same_bits(train(false, bf16_moments), train(false, bf16_moments)));
  check_thread_independence([&] { return train(true, {}); });
  check_thread_independence([&] { return train(true, bf16_moments); });
}

TEST_CASE("a model that saw batches of other sizes computes what a fresh one does") {
  const auto run = [](CpuModel<float>& model, int B, int T) {
    const Batch batch(kSmall, B, T, 1);
    model.zero_grad();
    model.forward(batch.inputs.data(), B, T, Pass::train);
    Floats all = read_logits(model, B * T);
    model.backward(batch.targets.data(), batch.weights.data());
    const Floats grads = read_all(model, Arena::grads);
    all.insert(all.end(), grads.begin(), grads.end());
    return all;
  };
  CpuModel<float> used(kSmall, false);
  formula_weights(used, 0.25);
  for (const auto& [B, T] :
       {std::pair{2, 8}, std::pair{5, 16}, std::pair{1, 1}, std::pair{8, 2}, std::pair{2, 8}, std::pair{1, 16}}) {
    CAPTURE(B);
    CAPTURE(T);
    CpuModel<float> fresh(kSmall, false);
    formula_weights(fresh, 0.25);
    CHECK(same_bits(run(used, B, T), run(fresh, B, T)));
  }
}

TEST_CASE("Pass::generate computes the last rows of Pass::evaluate") {
  for (const bool reference : {true, false}) {
    CpuModel<float> model(kSmall, reference);
    formula_weights(model, 0.25);
    for (const int T : {1, 7, 16}) {
      const Batch batch(kSmall, 3, T, 1);
      model.forward(batch.inputs.data(), 3, T, Pass::evaluate);
      const Floats all = read_logits(model, 3 * T);
      model.forward(batch.inputs.data(), 3, T, Pass::generate);
      const Floats last = read_logits(model, 3);
      const double tolerance = reference ? 0 : sum_tolerance<float>(33, rms(all));
      for (int b = 0; b < 3; ++b) {
        const auto row = [](const Floats& from, int r) {
          return Floats(from.begin() + r * 61, from.begin() + (r + 1) * 61);
        };
        CHECK(max_difference(row(last, b), row(all, b * T + T - 1)) <= tolerance);
      }
    }
  }
}

TEST_CASE("dropout acts only in Pass::train, and draws by seed and sequence") {
  CpuModel<float> model(kSmall, true);
  formula_weights(model, 0.25);
  const Batch batch(kSmall, 2, 8, 1);
  const auto logits = [&](float dropout, uint64_t seed, uint64_t sequence, Pass pass) {
    model.forward({.tokens = batch.inputs.data(), .B = 2, .T = 8, .pass = pass, .dropout = {dropout, seed, sequence}});
    return read_logits(model, 16);
  };
  const Floats plain = logits(0, 1, 1, Pass::evaluate), train = logits(0.3f, 1, 1, Pass::train);
  CHECK(same_bits(logits(0, 1, 1, Pass::train), plain));
  CHECK(same_bits(logits(0.3f, 1, 1, Pass::evaluate), plain));
  CHECK(same_bits(logits(0.3f, 1, 1, Pass::train), train));
  CHECK_FALSE(same_bits(train, plain));
  CHECK_FALSE(same_bits(logits(0.3f, 2, 1, Pass::train), train));
  CHECK_FALSE(same_bits(logits(0.3f, 1, 2, Pass::train), train));
}

TEST_CASE("every layer and dropout site draws its own mask") {
  CpuModel<float> model(kSmall, true);
  formula_weights(model, 0.25);
  const Batch batch(kSmall, 2, 16, 1);
  model.forward({.tokens = batch.inputs.data(), .B = 2, .T = 16, .dropout = {0.3f, 1, 0}});
  // Where a sublayer's output was dropped, the stream is unchanged; where the embedding was, it is zero.
  const Floats zeros(2 * 16 * 33);
  const auto& a = model.acts;
  const std::pair<const float*, const float*> before_after[] = {{zeros.data(), a.encoded},
                                                                {a.encoded, a.block[0].residual2},
                                                                {a.block[0].residual2, a.block[0].residual3},
                                                                {a.block[0].residual3, a.block[1].residual2},
                                                                {a.block[1].residual2, a.block[1].residual3}};
  std::vector<std::vector<bool>> masks;
  for (const auto& [before, after] : before_after) {
    std::vector<bool> mask;
    for (size_t i = 0; i < zeros.size(); ++i) mask.push_back(before[i] == after[i]);
    const double n = static_cast<double>(mask.size()),
                 dropped = static_cast<double>(std::count(mask.begin(), mask.end(), true));
    CHECK(std::abs(dropped / n - 0.3) < 5 * std::sqrt(0.3 * 0.7 / n));
    for (const auto& other : masks) CHECK(mask != other);
    masks.push_back(mask);
  }
}

TEST_CASE("clipping scales gradients down, and only if they are larger") {
  CpuModel<float> a(kTiny, true), b(kTiny, true);
  for (CpuModel<float>* model : {&a, &b}) {
    formula_weights(*model, 0.25);
    model->zero_grad();
    for (const ParamTensor& tensor : model->table) {
      Floats grads = random_tensor<float>(static_cast<size_t>(tensor.size()), 1);
      for (float& g : grads) g *= model == &b ? 0.25f : 1.0f;
      model->write(Arena::grads, tensor, grads.data());
    }
  }
  const double norm = b.grad_norm();
  CHECK(a.grad_norm() == doctest::Approx(4 * norm).epsilon(1e-12));
  // Clipped to a quarter. The scale is rounded to float, and so is that of b, which is otherwise 1.
  a.update(OptimizerConfig{}, static_cast<float>(norm));
  b.update(OptimizerConfig{}, static_cast<float>(2 * norm));
  CHECK(a.result(0).grad_norm == doctest::Approx(4 * norm).epsilon(1e-12));
  CHECK(relative_difference(read_all(a, Arena::m), read_all(b, Arena::m)) < 1e-6);
  CHECK(relative_difference(read_all(a, Arena::v), read_all(b, Arena::v)) < 1e-6);
}

TEST_CASE("results are those of the last two updates; a step that is not finite changes only the results") {
  CpuModel<float> model(kTiny, true);
  formula_weights(model, 0.25);
  Batch batch(kTiny, 2, 8, 1);
  CHECK_THROWS_AS(model.result(0), std::logic_error);
  const StepResult first = step(model, batch, OptimizerConfig{});
  CHECK(first.updated);
  CHECK_THROWS_AS(model.result(1), std::logic_error);
  CHECK_THROWS_AS(model.result(-1), std::logic_error);
  const StepResult second = step(model, batch, OptimizerConfig{});
  CHECK(second.loss < first.loss);
  CHECK(model.result(1).loss == first.loss);
  CHECK(model.result(1).grad_norm == first.grad_norm);
  CHECK_THROWS_AS(model.result(2), std::logic_error);
  CHECK(model.updates() == 2);

  const auto state = [&] {
    return std::vector<Floats>{read_all(model, Arena::params), read_all(model, Arena::m), read_all(model, Arena::v)};
  };
  const std::vector<Floats> before = state();
  batch.weights[3] = std::numeric_limits<float>::infinity();
  CHECK_FALSE(step(model, batch, OptimizerConfig{}).updated);
  batch.weights[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(step(model, batch, OptimizerConfig{}).updated);
  CHECK(model.updates() == 2);
  CHECK(std::isnan(model.result(0).loss));
  const std::vector<Floats> after = state();
  for (size_t k = 0; k < before.size(); ++k) CHECK(same_bits(after[k], before[k]));
}

TEST_CASE("recomputing gives the same bits, whatever is recomputed, and takes less memory") {
  const ModelConfig config = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 33};
  const auto train = [&](Recompute recompute, bool reference) {
    CpuModel<float> model(config, reference, {.recompute = recompute});
    formula_weights(model, 0.25);
    for (int t = 1; t <= 2; ++t) {
      model.zero_grad();
      for (int micro = 0; micro < 2; ++micro) {
        const Batch batch(config, 3, 11, static_cast<uint64_t>(micro));
        model.forward({.tokens = batch.inputs.data(),
                       .B = batch.B,
                       .T = batch.T,
                       .dropout = {0.2f, 5, static_cast<uint64_t>(2 * t + micro)}});
        model.backward(batch.targets.data(), batch.weights.data());
      }
      model.update(OptimizerConfig{}, 1);
    }
    Floats all = read_all(model, Arena::params);
    const Floats grads = read_all(model, Arena::grads);
    all.insert(all.end(), grads.begin(), grads.end());
    return all;
  };
  for (const bool reference : {true, false}) {
    const Floats expected = train(Recompute::none, reference);
    CHECK(same_bits(train(Recompute::gelu, reference), expected));
    CHECK(same_bits(train(Recompute::block, reference), expected));
  }
  const auto bytes = [&](Recompute recompute) {
    int64_t sum = 0;
    for (const MemoryRow& row : memory_plan(config, {.recompute = recompute}, 3, 11)) sum += row.bytes;
    return sum;
  };
  const int64_t gelu = activation_bytes(33, 4 * 33, 4);
  CHECK(bytes(Recompute::none) - bytes(Recompute::gelu) == 2 * gelu);
  CHECK(bytes(Recompute::gelu) - bytes(Recompute::block) > 2 * gelu);
}

TEST_CASE("a vocabulary of odd size: wte's padding stays exactly zero") {
  const ModelConfig config = {.max_seq_len = 8, .vocab_size = 1003, .num_layers = 1, .num_heads = 1, .channels = 12};
  REQUIRE(config.padded_vocab_size() == 1024);
  CpuModel<float> model(config, false);
  init_weights(model, 1);
  const Batch batch(config, 2, 8, 1);
  for (int t = 1; t <= 10; ++t) step(model, batch, OptimizerConfig{.lr = 1e-2f});
  model.forward(batch.inputs.data(), 2, 8, Pass::train);
  model.backward(batch.targets.data(), batch.weights.data());
  const ParamTensor& wte = model.table[0];
  for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
    Floats values(static_cast<size_t>(wte.size()));
    model.read(arena, wte, values.data());
    const auto padding = values.begin() + wte.file_size();
    CHECK(values.end() - padding == 21 * 12);
    CHECK(std::all_of(padding, values.end(), [](float x) { return x == 0; }));
    CHECK(std::any_of(values.begin(), padding, [](float x) { return x != 0; }));
  }
}

TEST_CASE("reading returns what was written; moments are zero before the first update") {
  CpuModel<float> model(kSmall, true);
  const ParamTensor& tensor = model.table[4];
  Floats values = random_tensor<float>(static_cast<size_t>(tensor.size()), 1), found(values.size(), 1);
  for (const Arena arena : {Arena::grads, Arena::m, Arena::v}) {
    model.read(arena, tensor, found.data());
    CHECK(std::all_of(found.begin(), found.end(), [](float x) { return x == 0; }));
  }
  for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
    for (float& x : values) x += 1;
    model.write(arena, tensor, values.data());
    model.read(arena, tensor, found.data());
    CHECK(same_bits(found, values));
  }
}

TEST_CASE("a run continued from its written state is the unbroken one, bit for bit") {
  const Batch batch(kSmall, 2, 8, 1);
  for (const auto& [reference, moments] :
       {std::pair{true, Moments::f32}, {false, Moments::f32}, {true, Moments::bf16}, {false, Moments::bf16}}) {
    const ModelOptions options = {.moments = moments, .seed = 9};
    CpuModel<float> unbroken(kSmall, reference, options), resumed(kSmall, reference, options);
    init_weights(unbroken, 1);
    for (int t = 1; t <= 3; ++t) step(unbroken, batch, OptimizerConfig{});
    for (const Arena arena : {Arena::params, Arena::m, Arena::v}) {
      for (const ParamTensor& tensor : unbroken.table) {
        Floats values(static_cast<size_t>(tensor.size()));
        unbroken.read(arena, tensor, values.data());
        resumed.write(arena, tensor, values.data());
      }
    }
    resumed.set_updates(unbroken.updates());
    for (int t = 4; t <= 6; ++t) {
      step(unbroken, batch, OptimizerConfig{});
      step(resumed, batch, OptimizerConfig{});
    }
    CHECK(same_bits(read_all(unbroken, Arena::params), read_all(resumed, Arena::params)));
  }
}

TEST_CASE("moments in bf16: half the memory, rounded to the nearest when written, not in place as floats, not Muon's") {
  const ModelOptions options = {.moments = Moments::bf16, .seed = 9};
  CpuModel<float> model(kSmall, false, options);
  const ParamTensor& tensor = model.table[4];
  const Floats values = random_tensor<float>(static_cast<size_t>(tensor.size()), 1);
  Floats found(values.size());
  for (const Arena arena : {Arena::m, Arena::v}) {
    model.read(arena, tensor, found.data());
    CHECK(std::all_of(found.begin(), found.end(), [](float x) { return x == 0; }));
    model.write(arena, tensor, values.data());
    model.read(arena, tensor, found.data());
    for (size_t i = 0; i < values.size(); ++i) CHECK(found[i] == cpu::round_to_nearest(values[i]));
    CHECK(model.view(arena, tensor) == nullptr);
  }
  CHECK(model.view(Arena::params, tensor) != nullptr);
  CHECK(CpuModel<float>(kSmall, false).allocated_bytes() - model.allocated_bytes() == 4 * arena_size(model.table));
  CHECK_THROWS_WITH_AS(CpuModel<float>(kSmall, false, {.moments = Moments::bf16, .optimizer = Optimizer::muon}),
                       doctest::Contains("expected float moments, or AdamW"), Error);
}

TEST_CASE("moments in bf16 follow the losses of float ones; a step that is not finite changes nothing") {
  const Batch batch(kSmall, 2, 8, 1);
  const OptimizerConfig o = {.lr = 0.01f};
  CpuModel<float> as_float(kSmall, false), as_bf16(kSmall, false, {.moments = Moments::bf16, .seed = 9});
  init_weights(as_float, 1);
  init_weights(as_bf16, 1);
  double first = 0, last = 0;
  for (int t = 1; t <= 20; ++t) {
    const double expected = step(as_float, batch, o).loss, loss = step(as_bf16, batch, o).loss;
    CHECK(std::abs(loss / expected - 1) < 0.02);
    if (t == 1) first = loss;
    last = loss;
  }
  CHECK(last < first - 1);
  const Floats m = read_all(as_bf16, Arena::m), v = read_all(as_bf16, Arena::v);
  CHECK_FALSE(same_bits(m, read_all(as_float, Arena::m)));
  Batch bad = batch;
  bad.weights[0] = std::numeric_limits<float>::infinity();
  CHECK_FALSE(step(as_bf16, bad, o).updated);
  CHECK(same_bits(read_all(as_bf16, Arena::m), m));
  CHECK(same_bits(read_all(as_bf16, Arena::v), v));
}

TEST_CASE("Muon updates the blocks' matrices, three of them in qkvw, and AdamW the rest") {
  const OptimizerConfig o = {.lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
  const Batch batch(kSmall, 2, 16, 1);
  CpuModel<double> muon(kSmall, true, {.optimizer = Optimizer::muon}), adamw(kSmall, true);
  for (CpuModel<double>* model : {&muon, &adamw}) {
    formula_weights(*model, 0.25);
    for (int t = 0; t < 2; ++t) {  // the gradients of the first weights: a second step has a momentum
      model->zero_grad();
      model->forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
      model->backward(batch.targets.data(), batch.weights.data());
      if (t == 0) model->update({.lr = 0, .weight_decay = 0}, 0);
    }
  }
  const double clip = 0.5 * adamw.grad_norm();
  const auto before = tensors(kSmall, adamw.params), grads = tensors(kSmall, adamw.grads);
  std::vector<Doubles> expected;
  for (size_t k = 0; k < before.size(); ++k) {
    const ParamTensor& tensor = muon.table[k];
    Doubles p(before[k].values.begin(), before[k].values.end());
    const Doubles g(grads[k].values.begin(), grads[k].values.end());
    CHECK(tensor.muon == tensor.transposed);
    if (tensor.muon) {
      const int rows = static_cast<int>(tensor.rows) / tensor.stacked, cols = static_cast<int>(tensor.cols);
      Doubles m(p.size()), scratch(static_cast<size_t>(muon_scratch(rows, cols)));
      for (size_t i = 0; i < m.size(); ++i) m[i] = g[i];  // gradients of the first step, unclipped
      for (size_t i = 0; i < p.size(); i += static_cast<size_t>(rows) * cols) {
        cpu::muon_update<double>(&p[i], &m[i], scratch.data(), &g[i], 0.5, o.lr, o.momentum, o.weight_decay, rows, cols,
                                 cpu::matmul_forward<double>, cpu::matmul_backward<double>);
      }
    }
    expected.push_back(p);
  }
  for (CpuModel<double>* model : {&muon, &adamw}) {
    model->update(o, static_cast<float>(clip));
    CHECK(model->result(0).updated);
  }
  const auto after = tensors(kSmall, muon.params), other = tensors(kSmall, adamw.params);
  for (size_t k = 0; k < after.size(); ++k) {
    CAPTURE(after[k].tensor.name);
    if (muon.table[k].muon) {
      CHECK(max_difference(after[k].values, expected[k]) < 1e-8);  // grad_scale is a float
      CHECK(max_difference(after[k].values, other[k].values) > 1e-4);
      CHECK(rms(read_tensor(muon, Arena::m, muon.table[k])) > 0);
      CHECK(rms(read_tensor(muon, Arena::v, muon.table[k])) == 0);
    } else {
      CHECK(max_difference(after[k].values, other[k].values) == 0);
      CHECK(same_bits(read_tensor(muon, Arena::v, muon.table[k]), read_tensor(adamw, Arena::v, adamw.table[k])));
    }
  }
}

TEST_CASE("Muon learns, skips a step that is not finite, and continues from its written state bit for bit") {
  const Batch batch(kSmall, 2, 8, 1);
  const OptimizerConfig o = {.lr = 3e-3f, .weight_decay = 0};
  for (const bool reference : {true, false}) {
    CpuModel<float> unbroken(kSmall, reference, {.optimizer = Optimizer::muon}),
        resumed(kSmall, reference, {.optimizer = Optimizer::muon});
    init_weights(unbroken, 1);
    double first = 0, last = 0;
    for (int t = 1; t <= 20; ++t) (t == 1 ? first : last) = step(unbroken, batch, o).loss;
    CHECK(last < 0.5 * first);

    Batch bad = batch;
    bad.weights[3] = std::numeric_limits<float>::infinity();
    const auto state = [&] {
      return std::vector<Floats>{read_all(unbroken, Arena::params), read_all(unbroken, Arena::m),
                                 read_all(unbroken, Arena::v)};
    };
    const std::vector<Floats> before = state();
    CHECK_FALSE(step(unbroken, bad, o).updated);
    const std::vector<Floats> after = state();
    for (size_t k = 0; k < 3; ++k) CHECK(same_bits(before[k], after[k]));

    for (const Arena arena : {Arena::params, Arena::m, Arena::v}) {
      for (const ParamTensor& tensor : unbroken.table) {
        const Floats values = read_tensor(unbroken, arena, tensor);
        if (arena == Arena::v && tensor.muon) {
          CHECK_THROWS_AS(resumed.write(arena, tensor, values.data()), std::logic_error);
        } else {
          resumed.write(arena, tensor, values.data());
        }
      }
    }
    resumed.set_updates(unbroken.updates());
    for (int t = 4; t <= 6; ++t) {
      step(unbroken, batch, o);
      step(resumed, batch, o);
    }
    CHECK(same_bits(read_all(unbroken, Arena::params), read_all(resumed, Arena::params)));
  }
}

TEST_CASE("an average of the weights follows them, takes their place, and gives it back") {
  const Batch batch(kSmall, 2, 8, 1);
  const OptimizerConfig o = {.lr = 3e-2f};
  for (const Optimizer optimizer : {Optimizer::adamw, Optimizer::muon}) {
    for (const bool all : {true, false}) {
      CAPTURE(all);
      const ModelOptions plain = {.optimizer = optimizer, .trainable = {.first_block = all ? 0 : 1, .embeddings = all}};
      ModelOptions averaging = plain;
      averaging.ema = 0.7;
      CpuModel<float> alone(kSmall, false, plain), model(kSmall, false, averaging);
      for (CpuModel<float>* m : {&alone, &model}) init_weights(*m, 1);
      const Floats initial = read_all(model, Arena::params);
      model.exchange_average();  // there is no average yet
      CHECK(same_bits(read_all(model, Arena::params), initial));
      Floats expected;
      for (int t = 1; t <= 8; ++t) {
        step(alone, batch, o);
        step(model, batch, o);
        const Floats weights = read_all(alone, Arena::params);
        const double rate = std::max(1 - 0.7, 9.0 / (t + 8));
        if (t == 1) expected = weights;
        for (size_t i = 0; i < weights.size(); ++i) {
          expected[i] += static_cast<float>(rate * (static_cast<double>(weights[i]) - expected[i]));
        }
        Batch bad = batch;
        bad.weights[3] = std::numeric_limits<float>::infinity();
        if (t == 5) CHECK_FALSE(step(model, bad, o).updated);  // does not change the average, either
      }
      const Floats weights = read_all(alone, Arena::params);
      CHECK(same_bits(read_all(model, Arena::params), weights));
      model.exchange_average();
      CHECK(max_difference(read_all(model, Arena::params), expected) < 1e-6);
      CHECK(max_difference(weights, expected) > 1e-3);
      for (const ParamTensor& tensor : model.table) {
        CHECK(tensor.averaged == tensor.trainable());
        if (tensor.averaged) {
          CHECK(same_bits(read_tensor(model, Arena::average, tensor), read_tensor(alone, Arena::params, tensor)));
        }
      }
      model.exchange_average();
      CHECK(same_bits(read_all(model, Arena::params), weights));
    }
  }
}

// ---- misuse --------------------------------------------------------------------------------------------------------

TEST_CASE("bad batches are errors that name what was found; the model stays usable") {
  CpuModel<float> model(kTiny, true);
  formula_weights(model, 0.25);
  const Batch good(kTiny, 2, 8, 1);
  model.forward(good.inputs.data(), 2, 8, Pass::evaluate);
  const Floats expected = read_logits(model, 16);

  Batch bad = good;
  CHECK(error_of([&] { model.forward(bad.inputs.data(), 1, 9, Pass::train); }) ==
        "a sequence of 9 tokens does not fit the model's context of 8");
  bad.inputs[3] = 11;
  CHECK(error_of([&] { model.forward(bad.inputs.data(), 2, 8, Pass::train); }) ==
        "token 11 at position 3 is outside the vocabulary of 11");
  bad.inputs[3] = -1;
  CHECK_THROWS_AS(model.forward(bad.inputs.data(), 2, 8, Pass::train), Error);
  CHECK_THROWS_AS(model.forward(good.inputs.data(), 0, 8, Pass::train), Error);
  CHECK_THROWS_AS(model.forward(good.inputs.data(), 2, 0, Pass::train), Error);
  CHECK_THROWS_AS(model.forward(good.inputs.data(), -1, 8, Pass::train), Error);
  CHECK_THROWS_AS(model.forward(good.inputs.data(), 1 << 30, 8, Pass::train), Error);
  for (const float rate : {1.0f, -0.1f, std::numeric_limits<float>::quiet_NaN()}) {
    CHECK_THROWS_AS(model.forward({.tokens = good.inputs.data(), .B = 2, .T = 8, .dropout = {.rate = rate}}), Error);
  }

  bad.targets[5] = 11;
  model.forward(good.inputs.data(), 2, 8, Pass::train);
  CHECK_THROWS_AS(model.backward(bad.targets.data(), bad.weights.data()), Error);
  CHECK(error_of([&] { model.loss(bad.targets.data(), nullptr); }) ==
        "target 11 at position 5 is outside the vocabulary of 11");
  bad.targets[5] = -2;
  CHECK_THROWS_AS(model.loss(bad.targets.data(), nullptr), Error);
  CHECK_NOTHROW(model.backward(good.targets.data(), good.weights.data()));  // the previous forward is still valid

  model.forward(good.inputs.data(), 2, 8, Pass::evaluate);
  CHECK(same_bits(read_logits(model, 16), expected));
}

TEST_CASE("calls out of order are errors, not wrong numbers") {
  CpuModel<float> model(kTiny, true);
  formula_weights(model, 0.25);
  const Batch batch(kTiny, 2, 8, 1);
  const auto backward = [&] { model.backward(batch.targets.data(), batch.weights.data()); };
  const auto forward = [&](Pass pass) { model.forward(batch.inputs.data(), 2, 8, pass); };
  const auto loss = [&] { model.loss(batch.targets.data(), nullptr); };
  float row[11];
  CHECK_THROWS_AS(backward(), std::logic_error);
  CHECK_THROWS_AS(loss(), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(0, row), std::logic_error);
  forward(Pass::evaluate);
  CHECK_THROWS_AS(backward(), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(16, row), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(-1, row), std::logic_error);
  forward(Pass::generate);
  CHECK_THROWS_AS(loss(), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(2, row), std::logic_error);
  forward(Pass::train);
  CHECK_NOTHROW(loss());
  backward();
  CHECK_THROWS_AS(backward(), std::logic_error);
  CHECK_THROWS_AS(loss(), std::logic_error);
  CHECK_THROWS_AS(model.read_logits(0, row), std::logic_error);
}

TEST_CASE("documents must be valid, and of a causal model of tokens") {
  CpuModel<float> model(kSmall, false);
  formula_weights(model, 0.25);
  const Batch batch(kSmall, 2, 9, 1);
  const auto forward = [&](Model& m, const std::vector<int32_t>& documents) {
    m.forward({.tokens = batch.inputs.data(),
               .B = 2,
               .T = 9,
               .pass = Pass::evaluate,
               .documents = documents.empty() ? nullptr : documents.data()});
  };
  const auto loss = [&](const std::vector<int32_t>& documents) {
    forward(model, documents);
    return model.loss(batch.targets.data(), nullptr);
  };
  const auto first = documents_of(2, 9, {4, 2});
  const double whole = loss({});
  CHECK(loss(first) != whole);
  CHECK(loss({}) == whole);
  for (const auto& [at, value] : {std::pair<size_t, int32_t>{0, 1}, {3, 2}, {4, 3}, {9, 4}, {5, -1}}) {
    auto wrong = first;
    wrong[at] = value;
    CAPTURE(at);
    CHECK_THROWS_AS(forward(model, wrong), std::logic_error);
  }
  ModelConfig other = kSmall;
  other.causal = false;
  CpuModel<float> both_ways(other, false);
  CHECK_THROWS_AS(forward(both_ways, first), std::logic_error);
}

TEST_CASE("a batch that no memory can hold is an exception; the model stays usable") {
  const ModelConfig config = {.max_seq_len = 1, .vocab_size = 2, .num_layers = 1, .num_heads = 1, .channels = 1024};
  CpuModel<float> model(config, true);
  const std::vector<int32_t> inputs(1 << 23, 0);
  Floats row(2, 1);
  model.forward(inputs.data(), 1, 1, Pass::evaluate);
  CHECK_THROWS_AS(model.forward(inputs.data(), 1 << 23, 1, Pass::evaluate), std::bad_alloc);  // 0.7 TB
  CHECK_THROWS_AS(model.read_logits(0, row.data()), std::logic_error);
  model.forward(inputs.data(), 1, 1, Pass::evaluate);
  model.read_logits(0, row.data());
  CHECK(row[0] == 0);  // all weights are zero
}

TEST_CASE("zeroed gradients read as zeros before the first backward, and the next backward replaces the old ones") {
  for (const bool reference : {true, false}) {
    CpuModel<float> model(kSmall, reference), fresh(kSmall, reference);
    const Batch first(kSmall, 2, 8, 1), second(kSmall, 3, 7, 2);
    for (CpuModel<float>* m : {&model, &fresh}) formula_weights(*m, 0.25);
    const auto backward = [](CpuModel<float>& m, const Batch& batch, int B, int T) {
      m.forward(batch.inputs.data(), B, T, Pass::train);
      m.backward(batch.targets.data(), batch.weights.data());
    };
    model.zero_grad();
    backward(model, first, 2, 8);
    CHECK(model.grad_norm() > 0);
    model.zero_grad();
    backward(model, second, 3, 7);
    fresh.zero_grad();
    backward(fresh, second, 3, 7);
    for (const ParamTensor& tensor : model.table) {
      Floats a(static_cast<size_t>(tensor.size())), b(a.size());
      model.read(Arena::grads, tensor, a.data());
      fresh.read(Arena::grads, tensor, b.data());
      CHECK(same_bits(a, b));
    }
    // The norm is that of the tensors, whether or not backward summed up its squares.
    const auto norm_of_tensors = [&] {
      double squares = 0;
      for (const ParamTensor& tensor : model.table) {
        Floats g(static_cast<size_t>(tensor.size()));
        model.read(Arena::grads, tensor, g.data());
        squares += dot_product(g, g);
      }
      return std::sqrt(squares);
    };
    CHECK(model.grad_norm() == doctest::Approx(norm_of_tensors()).epsilon(1e-6));
    backward(model, first, 2, 8);
    CHECK(model.grad_norm() == doctest::Approx(norm_of_tensors()).epsilon(1e-6));
    Floats changed(static_cast<size_t>(model.table[2].size()), 3);
    model.write(Arena::grads, model.table[2], changed.data());
    CHECK(model.grad_norm() == doctest::Approx(norm_of_tensors()).epsilon(1e-6));
    model.zero_grad();
    Floats row(static_cast<size_t>(model.table[0].size()), 1);
    model.read(Arena::grads, model.table[0], row.data());
    CHECK(std::all_of(row.begin(), row.end(), [](float g) { return g == 0; }));
    model.zero_grad();
    CHECK(model.grad_norm() == 0);
  }
}

TEST_CASE("view points to what read copies, and is null where no memory holds it") {
  CpuModel<float> model(kSmall, false, {.optimizer = Optimizer::muon});
  CpuModel<double> exact(kSmall, true);
  formula_weights(model, 0.25);
  const ParamTensor& wte = model.table[0];
  REQUIRE(model.view(Arena::m, wte) != nullptr);
  CHECK(model.view(Arena::m, wte)[0] == 0);  // before the first update
  CHECK(exact.view(Arena::params, wte) == nullptr);
  const Batch batch(kSmall, 2, 8, 1);
  step(model, batch, OptimizerConfig{});
  for (const ParamTensor& tensor : model.table) {
    for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
      Floats copy(static_cast<size_t>(tensor.size()));
      model.read(arena, tensor, copy.data());
      const float* view = model.view(arena, tensor);
      REQUIRE((view != nullptr) == (arena != Arena::v || !tensor.muon));
      if (view) CHECK(std::equal(copy.begin(), copy.end(), view));
    }
  }
}

TEST_CASE("targets that are all ignored give loss zero and gradients zero") {
  CpuModel<float> model(kTiny, true);
  formula_weights(model, 0.25);
  Batch batch(kTiny, 2, 8, 1);
  std::fill(batch.targets.begin(), batch.targets.end(), -1);
  model.zero_grad();
  model.forward(batch.inputs.data(), 2, 8, Pass::train);
  double sum = 1;
  CHECK(model.loss(batch.targets.data(), &sum) == 0);
  CHECK(sum == 0);
  model.backward(batch.targets.data(), batch.weights.data());
  CHECK(model.step_loss() == 0);
  CHECK(model.grad_norm() == 0);
}
