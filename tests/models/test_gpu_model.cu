// The GPU's model: compared with that of the CPU, with itself under variations that must not matter, and as a queue
// that the host runs ahead of.
#include <functional>
#include <limits>
#include <memory>

#include "kernels/ema.h"
#include "llm/models/check.h"
#include "llm/models/cpu.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/support/error.h"
#include "tests/helpers/device.h"
#include "tests/helpers/documents.h"

namespace {

// With every access checked, a step takes a hundred times as long and adds little to the one before: run fewer.
#ifdef CUDASIM_INSTRUMENTED
constexpr bool kInstrumented = true;
#else
constexpr bool kInstrumented = false;
#endif

const ModelConfig kSmall = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 3, .num_heads = 2, .channels = 64};
const ModelConfig kRagged = {.max_seq_len = 40, .vocab_size = 131, .num_layers = 2, .num_heads = 3, .channels = 51};

ModelOptions with(Precision precision, Recompute recompute = Recompute::none, bool master_weights = true,
                  Optimizer optimizer = Optimizer::adamw) {
  return {.precision = precision,
          .recompute = recompute,
          .master_weights = master_weights,
          .seed = 3,
          .optimizer = optimizer};
}

std::unique_ptr<Model> gpu_model(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                 bool reference = false) {
  auto model = make_gpu_model(config, options, B, T, reference);
  init_weights(*model, 1);
  return model;
}

Batch random_batch(const ModelConfig& config, int B, int T, uint64_t seed) {
  const auto n = static_cast<size_t>(B * T);
  Batch batch{B, T, random_ints(n, seed, config.vocab_size), random_ints(n, seed + 1000, config.vocab_size),
              Floats(n, 1.0f / static_cast<float>(n))};
  batch.targets[n / 2] = -1;
  return batch;
}

void micro_step(Model& model, const Batch& batch, const PassDropout& dropout = {}) {
  model.forward(input_of(batch, Pass::train, dropout));
  model.backward(batch.targets.data(), batch.weights.data());
}

StepResult step(Model& model, const Batch& batch, const OptimizerConfig& optimizer = {}, float grad_clip = 1) {
  model.zero_grad();
  micro_step(model, batch);
  model.update(optimizer, grad_clip);
  return model.result(0);
}

Floats read(const Model& model, Arena arena) {
  Floats all, values;
  for (const ParamTensor& tensor : model.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    model.read(arena, tensor, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

Floats state_of(const Model& model) {
  Floats all;
  for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
    const Floats values = read(model, arena);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

Floats logits_of(Model& model, int64_t rows) {
  Floats all(static_cast<size_t>(rows * model.config.vocab_size));
  for (int64_t r = 0; r < rows; ++r) model.read_logits(r, &all[static_cast<size_t>(r * model.config.vocab_size)]);
  return all;
}

// Two steps of two micro-batches with dropout; returns all their results.
Floats train(const ModelConfig& config, const ModelOptions& options, int B, int T, float dropout) {
  const auto model = gpu_model(config, options, B, T);
  Floats all;
  for (int t = 0; t < 2; ++t) {
    model->zero_grad();
    for (int micro = 0; micro < 2; ++micro) {
      const uint64_t pass = static_cast<uint64_t>(2 * t + micro);
      micro_step(*model, random_batch(config, B, T, pass), {dropout, 5, pass});
    }
    model->update(OptimizerConfig{}, 1);
    all.push_back(static_cast<float>(model->result(0).loss));
  }
  const Floats state = state_of(*model);
  all.insert(all.end(), state.begin(), state.end());
  return all;
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const char* name_of(Precision precision) {
  return precision == Precision::fp32 ? "fp32" : precision == Precision::tf32 ? "tf32" : "bf16";
}

}  // namespace

// ---- against the CPU -----------------------------------------------------------------------------------------------

TEST_CASE("loss, logits and all gradients equal those of the CPU, within what the precision allows") {
  struct Sizes {
    ModelConfig config;
    int B, T;
  };
  for (const Sizes& s : {Sizes{kSmall, 2, 16}, Sizes{kRagged, 3, 37}, Sizes{kRagged, 1, 1}}) {
    for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
      for (const bool reference : {false, true}) {
        if (reference && s.T < 37) continue;
        const auto model = gpu_model(s.config, with(precision), s.B, s.T, reference);
        const auto cpu = make_cpu_model(s.config, true);
        init_weights(*cpu, 1);
        for (const CheckRow& row : compare_models(*model, *cpu, random_batch(s.config, s.B, s.T, 1), precision,
                                                  {s.B == 3 ? 0.2f : 0, 7, 8})) {
          INFO(name_of(precision), ", T ", s.T, ", ", row.tensor, ": relative ", row.relative, ", cosine ", row.cosine,
               ", bound ", row.bound);
          CHECK(row.ok);
        }
      }
    }
  }
}

TEST_CASE("rows of several documents: loss, logits and all gradients equal those of the CPU, whatever is recomputed" *
          full_set()) {
  for (const auto& [config, B, T] : {std::tuple{kSmall, 2, 16}, {kRagged, 3, 37}}) {
    Batch batch = random_batch(config, B, T, 1);
    batch.documents = documents_of(B, T, {5, 1, 9});
    for (const Precision precision : {Precision::fp32, Precision::bf16}) {
      std::vector<Floats> gradients;
      for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::block}) {
        const auto model = gpu_model(config, with(precision, recompute), B, T);
        const auto cpu = make_cpu_model(config, true);
        init_weights(*cpu, 1);
        for (const CheckRow& row : compare_models(*model, *cpu, batch, precision, {B == 3 ? 0.2f : 0, 7, 8})) {
          INFO(name_of(precision), ", T ", T, ", ", row.tensor, ": relative ", row.relative, ", cosine ", row.cosine,
               ", bound ", row.bound);
          CHECK(row.ok);
        }
        gradients.push_back(read(*model, Arena::grads));
      }
      CHECK(same_bits(gradients[0], gradients[1]));
      CHECK(same_bits(gradients[0], gradients[2]));
    }
  }
}

TEST_CASE("the caller's documents may change after the call") {
  const auto model = gpu_model(kSmall, with(Precision::fp32), 2, 9),
             fresh = gpu_model(kSmall, with(Precision::fp32), 2, 9);
  Batch batch = random_batch(kSmall, 2, 9, 1);
  const auto loss = [&](Model& m, bool changes) {
    m.forward(input_of(batch, Pass::evaluate));
    if (changes) batch.documents.assign(batch.documents.size(), 0);
    return m.loss(batch.targets.data(), nullptr);
  };
  const double whole = loss(*model, false);
  batch.documents = documents_of(2, 9, {4, 2});
  const double parts = loss(*fresh, false);
  CHECK(parts != whole);
  CHECK(loss(*model, true) == parts);
  batch.documents.clear();
  CHECK(loss(*model, false) == whole);
}

TEST_CASE("ten steps follow those of the CPU") {
  // fp32: docs/testing.md's bound on a curve. bf16: its bound on norms of gradients, 1 %, also for each loss.
  const OptimizerConfig optimizer = {.lr = 3e-3f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f};
  const auto cpu = make_cpu_model(kRagged, true);
  init_weights(*cpu, 1);
  std::vector<StepResult> expected;
  for (uint64_t t = 0; t < 10; ++t) expected.push_back(step(*cpu, random_batch(kRagged, 2, 33, t % 3), optimizer));
  CHECK(expected[9].loss < expected[0].loss - 0.3);
  const uint64_t steps = kInstrumented || kSanitized || quick_set() ? 3 : 10;
  for (const auto& [precision, master, tolerance] :
       {std::tuple{Precision::fp32, true, 1e-5}, {Precision::bf16, true, 1e-2}, {Precision::bf16, false, 1e-2}}) {
    const auto model = gpu_model(kRagged, with(precision, Recompute::none, master), 2, 33);
    for (uint64_t t = 0; t < steps; ++t) {
      const StepResult result = step(*model, random_batch(kRagged, 2, 33, t % 3), optimizer);
      INFO(name_of(precision), ", step ", t);
      const bool fp32 = precision == Precision::fp32;
      CHECK(std::abs(result.loss - expected[t].loss) <= tolerance * (fp32 ? 1 : expected[t].loss));
      if (fp32 || t == 0) {  // later the weights differ, too
        CHECK(std::abs(result.grad_norm / expected[t].grad_norm - 1) <= (fp32 ? 1e-4 : 1e-2));
      }
      CHECK(result.updated);
    }
    CHECK(model->updates() == static_cast<int64_t>(steps));
  }
}

TEST_CASE("four steps of Muon follow those of the CPU" * full_set()) {
  const OptimizerConfig optimizer = {.lr = 1e-2f};
  const auto cpu = make_cpu_model(kRagged, true, {.optimizer = Optimizer::muon});
  init_weights(*cpu, 1);
  std::vector<StepResult> expected;
  std::vector<Floats> params, moments;
  const Floats start = read(*cpu, Arena::params);
  for (uint64_t t = 0; t < 4; ++t) {
    expected.push_back(step(*cpu, random_batch(kRagged, 2, 33, 1), optimizer));
    params.push_back(read(*cpu, Arena::params));
    moments.push_back(read(*cpu, Arena::m));
  }
  CHECK(expected[3].loss < expected[0].loss - 0.1);
  for (const auto& [precision, master, tolerance] : {std::tuple{Precision::fp32, true, 1e-4},
                                                     {Precision::tf32, true, 2e-2},
                                                     {Precision::bf16, true, 2e-2},
                                                     {Precision::bf16, false, 2e-2}}) {
    const auto model = gpu_model(kRagged, with(precision, Recompute::none, master, Optimizer::muon), 2, 33);
    for (uint64_t t = 0; t < (kInstrumented ? 2 : 4); ++t) {
      const StepResult result = step(*model, random_batch(kRagged, 2, 33, 1), optimizer);
      INFO(name_of(precision), ", step ", t);
      const bool fp32 = precision == Precision::fp32;
      CHECK(std::abs(result.loss - expected[t].loss) <= tolerance * (fp32 ? 1 : expected[t].loss));
      CHECK(result.updated);
      if (t > 0 || !fp32) continue;
      // The update itself: gradients that differ by 1e-6 of their norm, which the iteration amplifies up to 485 times
      // where a matrix has a small singular value.
      size_t begin = 0;
      const Floats found = read(*model, Arena::params), m = read(*model, Arena::m);
      for (const ParamTensor& tensor : model->table) {
        const size_t end = begin + static_cast<size_t>(tensor.size());
        Floats moved, expected_move, momentum, expected_momentum;
        for (size_t i = begin; i < end; ++i) {
          moved.push_back(found[i] - start[i]), expected_move.push_back(params[0][i] - start[i]);
          momentum.push_back(m[i]), expected_momentum.push_back(moments[0][i]);
        }
        begin = end;
        if (!tensor.muon) continue;
        CAPTURE(tensor.name);
        CHECK(relative_difference(moved, expected_move) < 1e-3);
        CHECK(relative_difference(momentum, expected_momentum) < 1e-4);
      }
    }
    for (const ParamTensor& tensor : model->table) {
      Floats v(static_cast<size_t>(tensor.size()));
      model->read(Arena::v, tensor, v.data());
      CAPTURE(tensor.name);
      CHECK((rms(v) > 0) == !tensor.muon);
      if (tensor.muon) CHECK_THROWS_AS(model->write(Arena::v, tensor, v.data()), std::logic_error);
    }
  }
}

TEST_CASE("validation and generation equal those of the CPU") {
  const Batch batch = random_batch(kRagged, 3, 19, 1);
  const auto cpu = make_cpu_model(kRagged, true), model = gpu_model(kRagged, with(Precision::fp32), 2, 8);
  init_weights(*cpu, 1);
  double sum = 0, cpu_sum = 0;
  // Dropout acts only in Pass::train; the batch is larger than was planned for.
  model->forward(input_of(batch, Pass::evaluate, {0.5f, 1, 1}));
  cpu->forward(batch.inputs.data(), 3, 19, Pass::evaluate);
  CHECK(std::abs(model->loss(batch.targets.data(), &sum) - cpu->loss(batch.targets.data(), &cpu_sum)) < 1e-5);
  CHECK(sum == doctest::Approx(cpu_sum).epsilon(1e-6));
  const Floats all = logits_of(*model, 3 * 19);
  CHECK(max_difference(all, logits_of(*cpu, 3 * 19)) < 1e-4);
  model->forward(batch.inputs.data(), 3, 19, Pass::generate);
  const Floats last = logits_of(*model, 3);
  for (size_t b = 0; b < 3; ++b) {
    const auto row = [](const Floats& from, size_t r) {
      return Floats(from.begin() + static_cast<int>(r * 131), from.begin() + static_cast<int>((r + 1) * 131));
    };
    CHECK(max_difference(row(last, b), row(all, b * 19 + 18)) < 1e-5);
  }
  CHECK_THROWS_AS(model->read_logits(3, Floats(131).data()), std::logic_error);
}

// ---- what must not matter ------------------------------------------------------------------------------------------

TEST_CASE("steps give the same bits under every schedule, run after run" * full_set()) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    INFO(name_of(precision));
    same_under_all_schedules([&] { return train(kRagged, with(precision), 2, 21, 0.1f); });
  }
}

TEST_CASE(
    "moments in bf16 equal those of the CPU, with the same bits under every schedule, not those of another seed") {
  ModelOptions options = with(Precision::fp32);
  options.moments = Moments::bf16;
  const auto steps_of = [&](Model& model) {
    init_weights(model, 1);
    for (uint64_t t = 0; t < 2; ++t) step(model, random_batch(kRagged, 1, 9, t));
    Floats moments = read(model, Arena::m);
    const Floats v = read(model, Arena::v);
    moments.insert(moments.end(), v.begin(), v.end());
    return moments;
  };
  const auto on_gpu = [&](const ModelOptions& o) { return steps_of(*make_gpu_model(kRagged, o, 1, 9, false)); };
  const Floats moments = same_under_all_schedules([&] { return on_gpu(options); });
  // The numbers that are rounded differ by some 2^-20 of themselves, so that few draws end differently; with other
  // random numbers a third would.
  const Floats expected = steps_of(*make_cpu_model(kRagged, true, options));
  int64_t different = 0, present = 0;
  for (size_t i = 0; i < moments.size(); ++i) {
    present += expected[i] != 0;
    different += moments[i] != expected[i];
    CHECK(std::abs(moments[i] - expected[i]) <= 0.02f * std::abs(expected[i]) + 1e-5f);
  }
  CHECK(present > 10000);
  CHECK(different < present / 20);
  ModelOptions other = options;
  other.seed = 4;
  CHECK_FALSE(same_bits(on_gpu(other), moments));
}

TEST_CASE("steps of Muon give the same bits under every schedule" * full_set()) {
  same_under_all_schedules(
      [&] { return train(kRagged, with(Precision::bf16, Recompute::none, true, Optimizer::muon), 1, 7, 0); });
}

TEST_CASE("steps give the same bits, whatever is recomputed" * full_set()) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    if (kInstrumented && precision == Precision::fp32) continue;
    for (const float dropout : {0.0f, 0.2f}) {
      CAPTURE(dropout);
      const Floats expected = train(kSmall, with(precision), 2, 13, dropout);
      CHECK(same_bits(train(kSmall, with(precision, Recompute::gelu), 2, 13, dropout), expected));
      CHECK(same_bits(train(kSmall, with(precision, Recompute::block), 2, 13, dropout), expected));
    }
  }
}

#ifdef WROUGHT_CUDASIM
// Steps of two micro-batches, with a schedule of rates, and evaluation and another shape in between. Returns the
// losses, and the state at the end.
static Floats long_run(const ModelConfig& config, const ModelOptions& options, float dropout, bool documents) {
  const int B = 2, T = 6;
  const auto model = gpu_model(config, options, B, T);
  Floats all;
  const auto batch = [&](int length, uint64_t seed) {
    Batch made = random_batch(config, B, length, seed);
    if (documents) made.documents = documents_of(B, length, {2, 3});
    return made;
  };
  for (int t = 0; t < 9; ++t) {
    const int length = t == 5 ? 5 : T;
    model->zero_grad();
    for (int micro = 0; micro < 2; ++micro) {
      const uint64_t pass = static_cast<uint64_t>(2 * t + micro);
      micro_step(*model, batch(length, pass), {dropout, 5, pass});
    }
    model->update({.lr = 1e-2f / static_cast<float>(t + 1)}, 1);
    all.push_back(static_cast<float>(model->result(0).loss));
    if (t % 3 != 1) continue;
    const Batch other = batch(T, 1000);
    model->forward(input_of(other, Pass::evaluate));
    all.push_back(static_cast<float>(model->loss(other.targets.data())));
  }
  const Floats state = state_of(*model);
  all.insert(all.end(), state.begin(), state.end());
  return all;
}

TEST_CASE("steps that are queued as graphs give the bits of steps that are queued kernel by kernel") {
  ModelOptions adapted = with(Precision::bf16);
  adapted.lora = {.rank = 2, .dropout = 0.2f};
  ModelOptions chunks = with(Precision::bf16, Recompute::gelu);
  chunks.loss_chunk = 5, chunks.moments = Moments::bf16, chunks.ema = 0.9;
  struct Case {
    ModelOptions options;
    float dropout;
    bool documents = false;
  };
  std::vector<Case> cases{{with(Precision::bf16), 0},
                          {with(Precision::bf16, Recompute::block), 0.3f, true},
                          {adapted, 0.2f},
                          {chunks, 0},
                          {with(Precision::fp32, Recompute::none, true, Optimizer::muon), 0.1f}};
  if (kInstrumented) cases.resize(2);
  for (const Case& c : cases) {
    const uint64_t before = cudasim::graph_launches();
    const Floats graphs = long_run(kSmall, c.options, c.dropout, c.documents);
    CHECK(cudasim::graph_launches() > before + 20);
    ModelOptions without = c.options;
    without.graph = false;
    const uint64_t now = cudasim::graph_launches();
    CHECK(same_bits(graphs, long_run(kSmall, without, c.dropout, c.documents)));
    CHECK(cudasim::graph_launches() == now);
  }
}

TEST_CASE("once its graphs are captured, a step neither allocates nor launches a kernel of theirs by itself") {
  const auto model = gpu_model(kSmall, with(Precision::bf16), 2, 6);
  const Batch batch = random_batch(kSmall, 2, 6, 1);
  for (int t = 0; t < 3 * kBatchSlots; ++t) step(*model, batch);
  const uint64_t allocations = cudasim::allocations(), graphs = cudasim::graph_launches();
  for (int t = 0; t < 2 * kBatchSlots; ++t) step(*model, batch);
  CHECK(cudasim::allocations() == allocations);
  CHECK(cudasim::graph_launches() == graphs + 3 * 2 * kBatchSlots);
}

TEST_CASE("a part of a step that begins otherwise is another part: another seed, and logits that were read before") {
  const auto run = [](bool graph) {
    ModelOptions options = with(Precision::bf16);
    options.graph = graph, options.loss_chunk = 5;
    const auto model = gpu_model(kSmall, options, 2, 6);
    Floats logits(static_cast<size_t>(kSmall.vocab_size));
    for (int t = 0; t < 4 * kBatchSlots; ++t) {
      const Batch batch = random_batch(kSmall, 2, 6, static_cast<uint64_t>(t));
      model->forward(input_of(batch, Pass::train, {0.3f, static_cast<uint64_t>(t / 9), 0}));
      if (t < 2 * kBatchSlots) model->read_logits(0, logits.data());
      model->backward(batch.targets.data(), batch.weights.data());
    }
    return read(*model, Arena::grads);
  };
  CHECK(same_bits(run(true), run(false)));
}

TEST_CASE("graphs give the same bits under every schedule" * full_set()) {
  same_under_all_schedules([] { return long_run(kSmall, with(Precision::bf16), 0.3f, false); });
}

TEST_CASE("graphs of ever new shapes: the first are kept, the others queued kernel by kernel, with the same bits") {
  const auto run = [](bool graph) {
    ModelOptions options = with(Precision::fp32);
    options.graph = graph;
    const auto model = gpu_model({.max_seq_len = 70, .vocab_size = 11, .num_layers = 1, .num_heads = 1, .channels = 4},
                                 options, 1, 70);
    for (int round = 0; round < 3; ++round) {
      for (int T = 1; T <= 70; ++T) {
        micro_step(*model, random_batch(model->config, 1, T, static_cast<uint64_t>(T)));
      }
    }
    return read(*model, Arena::grads);
  };
  CHECK(same_bits(run(true), run(false)));
}
#endif

TEST_CASE("a host that runs ahead, and overwrites its inputs, does not change the results") {
  const auto run = [](bool waits) {
    const auto model = gpu_model(kRagged, with(Precision::fp32), 1, 17);
    for (int t = 0; t < 2; ++t) {
      model->zero_grad();
      for (uint64_t micro = 0; micro < 7; ++micro) {  // more than the ring of batches holds
        Batch batch = random_batch(kRagged, 1, 17, micro);
        model->forward(batch.inputs.data(), 1, 17, Pass::train);
        std::fill(batch.inputs.begin(), batch.inputs.end(), 0);
        model->backward(batch.targets.data(), batch.weights.data());
        std::fill(batch.targets.begin(), batch.targets.end(), 0);
        std::fill(batch.weights.begin(), batch.weights.end(), 1e9f);
        if (waits) model->step_loss();
      }
      model->update(OptimizerConfig{}, 1);
      if (waits) model->result(0);
    }
    return state_of(*model);
  };
  CHECK(same_bits(run(false), run(true)));
}

TEST_CASE("results are read a step late, for the requested step") {
  const auto model = gpu_model(kRagged, with(Precision::fp32), 1, 9),
             other = gpu_model(kRagged, with(Precision::fp32), 1, 9);
  CHECK_THROWS_AS(model->result(0), std::logic_error);
  std::vector<StepResult> expected, found;
  for (uint64_t t = 0; t < 5; ++t) expected.push_back(step(*other, random_batch(kRagged, 1, 9, t)));
  for (uint64_t t = 0; t < 5; ++t) {
    const Batch batch = random_batch(kRagged, 1, 9, t);
    model->zero_grad();
    micro_step(*model, batch);
    model->update(OptimizerConfig{}, 1);
    if (t > 0) {
      found.push_back(model->result(1));
    } else {
      CHECK_THROWS_AS(model->result(1), std::logic_error);
    }
  }
  found.push_back(model->result(0));
  CHECK_THROWS_AS(model->result(2), std::logic_error);
  CHECK_THROWS_AS(model->result(-1), std::logic_error);
  for (size_t t = 0; t < 5; ++t) {
    CAPTURE(t);
    CHECK(found[t].loss == expected[t].loss);
    CHECK(found[t].grad_norm == expected[t].grad_norm);
    CHECK(found[t].updated);
  }
  CHECK(found[0].loss != found[1].loss);
}

TEST_CASE("earlier batches of other sizes leave no trace") {
  const auto run = [](bool used) {
    const auto model = gpu_model(kRagged, with(Precision::bf16), 1, 5);
    for (const auto& [B, T] : {std::pair{3, 37}, std::pair{1, 1}, std::pair{2, 18}}) {
      if (!used) continue;
      micro_step(*model, random_batch(kRagged, B, T, 9));
      const Batch batch = random_batch(kRagged, B, T, 10);
      model->forward(batch.inputs.data(), B, T, Pass::evaluate);
      model->loss(batch.targets.data());
    }
    step(*model, random_batch(kRagged, 2, 18, 1));
    return state_of(*model);
  };
  CHECK(same_bits(run(true), run(false)));
}

// ---- state ---------------------------------------------------------------------------------------------------------

TEST_CASE("reading returns what was written; moments and gradients are zero at first") {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    for (const bool master : {true, false}) {
      const bool rounds = precision == Precision::bf16 && !master;
      const auto model = make_gpu_model(kRagged, with(precision, Recompute::none, master), 1, 4, false);
      for (const size_t k : {size_t{0}, size_t{4}, model->table.size() - 1}) {
        const ParamTensor& tensor = model->table[k];
        Floats values = random_tensor<float>(static_cast<size_t>(tensor.size()), 1), found(values.size(), 1);
        for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
          model->read(arena, tensor, found.data());
          CHECK(std::all_of(found.begin(), found.end(), [](float x) { return x == 0; }));
          for (float& x : values) x += 1;
          model->write(arena, tensor, values.data());
          model->read(arena, tensor, found.data());
          const bool rounded = rounds && arena == Arena::params;
          CHECK(same_bits(found, rounded ? to_numbers<float>(to_storage<bf16>(values)) : values));
        }
      }
    }
  }
}

TEST_CASE("a run continued from its written state is the unbroken one, bit for bit") {
  constexpr Moments kFloat = Moments::f32, kBf16 = Moments::bf16;
  for (const auto& [precision, master, optimizer, moments] :
       {std::tuple{Precision::fp32, true, Optimizer::adamw, kFloat},
        {Precision::bf16, true, Optimizer::adamw, kFloat},
        {Precision::bf16, false, Optimizer::adamw, kFloat},
        {Precision::fp32, true, Optimizer::muon, kFloat},
        {Precision::bf16, true, Optimizer::muon, kFloat},
        {Precision::bf16, false, Optimizer::muon, kFloat},
        {Precision::fp32, true, Optimizer::adamw, kBf16},
        {Precision::bf16, true, Optimizer::adamw, kBf16},
        {Precision::bf16, false, Optimizer::adamw, kBf16}}) {
    if (kInstrumented && (precision == Precision::fp32 || master)) continue;
    if (quick_set() && (precision == Precision::fp32 || !master || optimizer == Optimizer::muon)) continue;
    ModelOptions options = with(precision, Recompute::none, master, optimizer);
    options.moments = moments;
    const auto unbroken = gpu_model(kRagged, options, 2, 9);
    for (uint64_t t = 0; t < 2; ++t) step(*unbroken, random_batch(kRagged, 2, 9, t));
    const auto resumed = make_gpu_model(kRagged, options, 2, 9, false);
    for (const Arena arena : {Arena::params, Arena::m, Arena::v}) {
      for (const ParamTensor& tensor : unbroken->table) {
        if (arena == Arena::v && tensor.muon) continue;
        Floats values(static_cast<size_t>(tensor.size()));
        unbroken->read(arena, tensor, values.data());
        resumed->write(arena, tensor, values.data());
      }
    }
    CHECK(unbroken->updates() == 2);
    resumed->set_updates(2);
    for (uint64_t t = 2; t < 4; ++t) {
      const StepResult a = step(*unbroken, random_batch(kRagged, 2, 9, t)),
                       b = step(*resumed, random_batch(kRagged, 2, 9, t));
      CHECK(a.loss == b.loss);
    }
    CHECK(resumed->updates() == 4);
    CHECK(same_bits(state_of(*unbroken), state_of(*resumed)));
  }
}

TEST_CASE("bf16: with master weights small updates count; without them they count on average, and weights are bf16" *
          full_set()) {
  // Updates of lr against weights of 1: below half of bf16's spacing there.
  const OptimizerConfig optimizer = {.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0};
  const Batch batch = random_batch(kSmall, 2, 16, 1);
  for (const bool master : {true, false}) {
    const auto model = gpu_model(kSmall, with(Precision::bf16, Recompute::none, master), 2, 16);
    const auto lnfw =
        std::find_if(model->table.begin(), model->table.end(), [](const auto& t) { return t.name == "lnfw"; });
    for (int t = 0; t < 4; ++t) step(*model, batch, optimizer);
    Floats values(static_cast<size_t>(lnfw->size()));
    model->read(Arena::params, *lnfw, values.data());
    const auto moved = std::count_if(values.begin(), values.end(), [](float x) { return x != 1; });
    const bool are_bf16 = same_bits(to_numbers<float>(to_storage<bf16>(values)), values);
    CHECK(are_bf16 == !master);
    if (master) {
      CHECK(moved == 64);
    } else {
      CHECK(moved > 0);  // a chance of 1e-4 / 2^-8 per step and weight, half of that upwards: about 5 of 256
      CHECK(moved < 32);
    }
  }
}

TEST_CASE("a step that is not finite changes nothing" * full_set()) {
  Optimizer optimizer = Optimizer::adamw;
  SUBCASE("AdamW") {}
  SUBCASE("Muon") { optimizer = Optimizer::muon; }
  const auto model = gpu_model(kSmall, with(Precision::bf16, Recompute::none, true, optimizer), 2, 8);
  Batch batch = random_batch(kSmall, 2, 8, 1);
  step(*model, batch);
  const auto weights_and_moments = [&] {
    return std::vector<Floats>{read(*model, Arena::params), read(*model, Arena::m), read(*model, Arena::v)};
  };
  const std::vector<Floats> before = weights_and_moments();
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    batch.weights[3] = bad;
    CHECK_FALSE(step(*model, batch).updated);
  }
  CHECK(model->updates() == 1);
  const std::vector<Floats> after = weights_and_moments();
  for (size_t k = 0; k < before.size(); ++k) CHECK(same_bits(after[k], before[k]));
  batch.weights[3] = batch.weights[2];
  CHECK(step(*model, batch).updated);  // and training continues
  CHECK(model->updates() == 2);
}

TEST_CASE("an average of the weights equals that of the CPU, and exchanging it twice changes no bit" * full_set()) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    for (const bool all : {true, false}) {
      CAPTURE(all);
      ModelOptions options = with(precision);
      options.ema = 0.7;
      options.trainable = {.first_block = all ? 0 : 1, .embeddings = all};
      const auto model = gpu_model(kSmall, options, 2, 8);
      const Floats initial = read(*model, Arena::params);
      model->exchange_average();  // there is no average yet
      CHECK(same_bits(read(*model, Arena::params), initial));
      Floats expected;
      for (int t = 1; t <= 5; ++t) {
        step(*model, random_batch(kSmall, 2, 8, static_cast<uint64_t>(t)), OptimizerConfig{.lr = 3e-2f});
        const Floats weights = read(*model, Arena::params);
        const double rate = cpu::ema_rate(0.7, t);
        if (t == 1) expected = weights;
        for (size_t i = 0; i < weights.size(); ++i) {
          expected[i] += static_cast<float>(rate * (static_cast<double>(weights[i]) - expected[i]));
        }
      }
      const Floats weights = read(*model, Arena::params);
      const Batch batch = random_batch(kSmall, 2, 8, 9);
      const auto loss = [&] {
        model->forward(batch.inputs.data(), 2, 8, Pass::evaluate);
        return model->loss(batch.targets.data(), nullptr);
      };
      const double before = loss();
      model->exchange_average();
      CHECK(max_difference(read(*model, Arena::params), expected) < 1e-6);
      CHECK(max_difference(weights, expected) > 1e-3);
      CHECK(loss() != before);  // products use the average
      model->exchange_average();
      CHECK(same_bits(read(*model, Arena::params), weights));
      CHECK(loss() == before);
    }
  }
  ModelOptions options = with(Precision::bf16, Recompute::none, false);
  options.ema = 0.9;
  CHECK_THROWS_WITH_AS(gpu_model(kSmall, options, 2, 8), doctest::Contains("keep the master copy"), Error);
}

TEST_CASE("weight decay acts as the table says, padding stays zero") {
  const ModelConfig config = {.max_seq_len = 8, .vocab_size = 1003, .num_layers = 1, .num_heads = 1, .channels = 12};
  const OptimizerConfig decay_alone = {.lr = 0.5f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.5f};
  const auto model = make_gpu_model(config, with(Precision::fp32), 1, 8, false);
  for (const ParamTensor& tensor : model->table) {
    const Floats ones(static_cast<size_t>(tensor.size()), 1);
    model->write(Arena::params, tensor, ones.data());
  }
  model->zero_grad();
  model->update(decay_alone, 0);
  for (const ParamTensor& tensor : model->table) {
    CAPTURE(tensor.name);
    Floats values(static_cast<size_t>(tensor.size()));
    model->read(Arena::params, tensor, values.data());
    CHECK(std::all_of(values.begin(), values.end(), [&](float x) { return x == (tensor.decay ? 0.75f : 1.0f); }));
  }
  init_weights(*model, 1);
  for (uint64_t t = 0; t < 2; ++t) step(*model, random_batch(config, 2, 8, t), OptimizerConfig{.lr = 1e-2f});
  const ParamTensor& wte = model->table[0];
  for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v}) {
    Floats values(static_cast<size_t>(wte.size()));
    model->read(arena, wte, values.data());
    CHECK(std::all_of(values.begin() + wte.file_size(), values.end(), [](float x) { return x == 0; }));
  }
}

// ---- memory --------------------------------------------------------------------------------------------------------

TEST_CASE("the memory plan equals what is allocated") {
  for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::block}) {
    for (const auto& [precision, master, optimizer] : {std::tuple{Precision::fp32, true, Optimizer::adamw},
                                                       {Precision::bf16, true, Optimizer::adamw},
                                                       {Precision::bf16, false, Optimizer::adamw},
                                                       {Precision::fp32, true, Optimizer::muon},
                                                       {Precision::bf16, true, Optimizer::muon}}) {
      ModelOptions options = with(precision, recompute, master, optimizer);
      if (recompute == Recompute::gelu && optimizer == Optimizer::adamw) options.moments = Moments::bf16;
      if (recompute == Recompute::block) options.loss_chunk = 13;
      int64_t planned = 0;
      for (const MemoryRow& row : built_memory_plan(kRagged, options, 3, 21)) {
        if (row.name != kLibraryRow) planned += row.bytes;
      }
      [[maybe_unused]] const int64_t before = free_gpu_memory();
      const GpuModel<float> as_float(kRagged, options, 3, 21, gpu_tiers(precision, false));
      const GpuModel<bf16> as_bf16(kRagged, options, 3, 21, gpu_tiers(precision, false));
      CHECK((precision == Precision::bf16 ? as_bf16.allocated_bytes() : as_float.allocated_bytes()) == planned);
#ifdef WROUGHT_CUDASIM  // a GPU gives out whole pages
      CHECK(before - free_gpu_memory() == as_float.allocated_bytes() + as_bf16.allocated_bytes());
#endif
    }
  }
}

// Rank 2 of four, which sends nothing.
struct SilentComm final : Comm {
  SilentComm() : Comm(2, 4) {}
  void wait(Ticket) override {}
  Ticket queue_all_reduce(void*, int64_t, Number) override { return 0; }
  Ticket queue_reduce_scatter(void*, const void*, int64_t, Number) override { return 0; }
  Ticket queue_all_gather(void*, const void*, int64_t, Number) override { return 0; }
  Ticket queue_broadcast(void*, int64_t, Number, int) override { return 0; }
  void wait_for_all() override {}
};

TEST_CASE("the memory plan of one of several processes equals what it allocates, and falls from stage to stage") {
  const ModelConfig config = {.max_seq_len = 40, .vocab_size = 131, .num_layers = 6, .num_heads = 3, .channels = 51};
  SilentComm comm;
  for (const auto& [precision, master] :
       {std::pair{Precision::fp32, true}, {Precision::bf16, true}, {Precision::bf16, false}}) {
    int64_t last = std::numeric_limits<int64_t>::max();
    for (int zero = 0; zero <= 3; ++zero) {
      ModelOptions options = with(precision, Recompute::none, master);
      options.ranks = 4;
      options.zero = zero;
      options.comm = &comm;
      int64_t planned = 0;
      for (const MemoryRow& row : built_memory_plan(config, options, 1, 21)) {
        if (row.name != kLibraryRow) planned += row.bytes;
      }
      if (precision == Precision::bf16) {
        CHECK(GpuModel<bf16>(config, options, 1, 21, gpu_tiers(precision, false)).allocated_bytes() == planned);
      } else {
        CHECK(GpuModel<float>(config, options, 1, 21, gpu_tiers(precision, false)).allocated_bytes() == planned);
      }
      CHECK(planned < last);
      last = planned;
    }
  }
}

TEST_CASE("Muon takes less memory than AdamW: v exists only for what AdamW updates") {
  const auto bytes = [](Optimizer optimizer) {
    int64_t sum = 0;
    const ModelConfig gpt2 = {
        .max_seq_len = 1024, .vocab_size = 50257, .num_layers = 12, .num_heads = 12, .channels = 768};
    for (const MemoryRow& row :
         built_memory_plan(gpt2, with(Precision::bf16, Recompute::none, true, optimizer), 4, 1024)) {
      sum += row.bytes;
    }
    return sum;
  };
  // v has 12 x 12 C^2 floats less; X and A are added, twice, in bf16.
  CHECK(bytes(Optimizer::adamw) - bytes(Optimizer::muon) == int64_t{768} * 768 * (12 * 12 * 4 - (2 * 4 + 2 * 1) * 2));
}

TEST_CASE("a model that does not fit is refused with flags that would help, and one that fits is not") {
  const auto bytes = [](const ModelOptions& options, int B) {
    int64_t sum = 0;
    for (const MemoryRow& row : built_memory_plan(kSmall, options, B, 16)) sum += row.bytes;
    return sum;
  };
  const ModelOptions fp32 = with(Precision::fp32), bf16 = with(Precision::bf16);
  CHECK_NOTHROW(check_gpu_memory(kSmall, fp32, 8, 16, bytes(fp32, 8)));
  const std::string little = error_of([&] { check_gpu_memory(kSmall, fp32, 8, 16, bytes(fp32, 8) - 1); });
  CHECK(
      contains(little, strprintf("takes %lld bytes of GPU memory and %lld are free",
                                 static_cast<long long>(bytes(fp32, 8)), static_cast<long long>(bytes(fp32, 8) - 1))));
  const auto says = [](const std::string& text, const std::string& flags, int64_t planned, bool fits) {
    INFO(flags, " in: ", text);
    CHECK(contains(text, strprintf("  %-40s %15lld bytes%s\n", flags.c_str(), static_cast<long long>(planned),
                                   fits ? ", fits" : "")));
  };
  says(little, "{recompute} gelu", bytes(with(Precision::fp32, Recompute::gelu), 8), true);
  says(little, "{recompute} block", bytes(with(Precision::fp32, Recompute::block), 8), true);
  says(little, "{precision} bf16", bytes(bf16, 8), true);
  says(little, "{batch-size} 4", bytes(fp32, 4), true);
  const std::string none = error_of([&] { check_gpu_memory(kSmall, bf16, 8, 16, 1000); });
  says(none, "{no-master-weights}", bytes(with(Precision::bf16, Recompute::none, false), 8), false);
  says(none, "{batch-size} 1", bytes(bf16, 1), false);
  ModelOptions bf16_moments = bf16, all = with(Precision::bf16, Recompute::block, false);
  bf16_moments.moments = all.moments = Moments::bf16;
  says(none, "{moments} bf16", bytes(bf16_moments, 8), false);
  says(none, "{recompute} block {no-master-weights} {moments} bf16 {batch-size} 1", bytes(all, 1), false);
  CHECK_FALSE(contains(error_of([&] { check_gpu_memory(kSmall, all, 8, 16, 1000); }), "{moments}"));
  CHECK_FALSE(contains(none, "{loss-chunk}"));  // a batch of 128 rows
  const std::string many = error_of([&] { check_gpu_memory(kSmall, bf16, 257, 16, 1000); });
  ModelOptions chunked = bf16;
  chunked.loss_chunk = 4096;
  says(many, "{loss-chunk} 4096", bytes(chunked, 257), false);
  CHECK(contains(many, "{moments} bf16 {loss-chunk} 4096 {batch-size} 1"));
  CHECK_FALSE(contains(none, "{precision}"));
}

// {--} misuse --------------------------------------------------------------------------------------------------------

TEST_CASE("bad batches and calls out of order are errors; the model stays usable") {
  const auto model = gpu_model(kSmall, with(Precision::fp32), 2, 8);
  const Batch good = random_batch(kSmall, 2, 8, 1);
  Floats row(61);
  const auto backward = [&] { model->backward(good.targets.data(), good.weights.data()); };
  CHECK_THROWS_AS(backward(), std::logic_error);
  CHECK_THROWS_AS(model->loss(good.targets.data()), std::logic_error);
  CHECK_THROWS_AS(model->read_logits(0, row.data()), std::logic_error);
  model->forward(good.inputs.data(), 2, 8, Pass::evaluate);
  const Floats expected = logits_of(*model, 16);
  CHECK_THROWS_AS(backward(), std::logic_error);

  Batch bad = good;
  bad.inputs[3] = 61;
  CHECK(error_of([&] { model->forward(bad.inputs.data(), 2, 8, Pass::train); }) ==
        "token 61 at position 3 is outside the vocabulary of 61");
  CHECK_THROWS_AS(model->forward(good.inputs.data(), 1, 17, Pass::train), Error);
  CHECK_THROWS_AS(model->forward(good.inputs.data(), 0, 8, Pass::train), Error);
  CHECK_THROWS_AS(model->forward(input_of(good, Pass::train, {1, 0, 0})), Error);
  bad.targets[5] = -2;
  model->forward(good.inputs.data(), 2, 8, Pass::train);
  CHECK_THROWS_AS(model->backward(bad.targets.data(), bad.weights.data()), Error);
  CHECK_NOTHROW(backward());  // the previous forward is still valid
  CHECK_THROWS_AS(backward(), std::logic_error);
  model->forward(good.inputs.data(), 2, 8, Pass::evaluate);
  CHECK(same_bits(logits_of(*model, 16), expected));
}

TEST_CASE("a batch that no memory can hold is an exception; the model stays usable") {
  const ModelConfig config = {.max_seq_len = 1, .vocab_size = 1 << 20, .num_layers = 1, .num_heads = 1, .channels = 1};
  const auto model = make_gpu_model(config, with(Precision::fp32), 1, 1, false);
  const std::vector<int32_t> inputs(1 << 20, 0);
  CHECK_THROWS_AS(model->forward(inputs.data(), 1 << 20, 1, Pass::generate), std::bad_alloc);  // logits of 2^42 bytes
  model->forward(inputs.data(), 1, 1, Pass::evaluate);
  Floats row(1 << 20);
  model->read_logits(0, row.data());
  CHECK(row[0] == 0);  // all weights are zero
}
