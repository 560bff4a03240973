// Several processes, one model: threads stand for them (local_comm.h). Whatever the ZeRO stage, the steps equal those
// of one process with the whole batch.
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#include "llm/models/sharding.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/local_comm.h"

namespace {

const ModelConfig kOneBlock = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 1, .num_heads = 2, .channels = 6};
const ModelConfig kThree = {.max_seq_len = 16, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 33};
const ModelConfig kUntied = {
    .max_seq_len = 16, .vocab_size = 61, .num_layers = 4, .num_heads = 2, .channels = 16, .tied_head = false};

std::vector<Floats> read_all(const Model& model, Arena arena) {
  std::vector<Floats> all;
  for (const ParamTensor& tensor : model.table) {
    all.emplace_back(static_cast<size_t>(tensor.size()));
    model.read(arena, tensor, all.back().data());
  }
  return all;
}

// `rows` windows in all, 12 of them a step, dealt to the ranks in micro-batches of one window.
struct Data {
  static constexpr int kRows = 12;
  int T;
  std::vector<int32_t> inputs, targets;
  Data(const ModelConfig& config, int steps) : T(config.max_seq_len - 1) {
    inputs = random_ints(static_cast<size_t>(steps * kRows * T), 1, config.vocab_size);
    targets = random_ints(static_cast<size_t>(steps * kRows * T), 2, config.vocab_size);
  }
};

// A step with this process's share of the batch.
StepResult train_step(Model& model, const Data& data, int step, int rank, int ranks, bool early, float lr = 1e-2f) {
  const int T = data.T;
  const Floats weights(static_cast<size_t>(T), 1.0f / static_cast<float>(Data::kRows * T));
  model.zero_grad();
  for (int row = rank; row < Data::kRows; row += ranks) {
    const int64_t at = int64_t{step * Data::kRows + row} * T;
    model.forward({.tokens = data.inputs.data() + at,
                   .B = 1,
                   .T = T,
                   .dropout = {0.1f, 7, static_cast<uint64_t>(step * Data::kRows + row)}});
    model.backward(data.targets.data() + at, weights.data(), early && row + ranks >= Data::kRows);
  }
  OptimizerConfig o{.lr = lr};
  o.signal = rank == ranks - 1;
  model.update(o, 0.5f);
  return model.result(0);
}

double relative(const std::vector<Floats>& a, const std::vector<Floats>& b) {
  double difference = 0, size = 0;
  REQUIRE(a.size() == b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    REQUIRE(a[t].size() == b[t].size());
    for (size_t i = 0; i < a[t].size(); ++i) {
      difference += std::pow(static_cast<double>(a[t][i]) - b[t][i], 2);
      size += std::pow(static_cast<double>(b[t][i]), 2);
    }
  }
  return std::sqrt(difference / std::max(size, 1e-300));
}

// With zeros for what is smaller: the gradient of the keys' bias is zero but for rounding, since softmax does not see
// it.
std::vector<Floats> apart_from_noise(std::vector<Floats> all, float noise) {
  for (Floats& values : all) {
    for (float& x : values) x = std::abs(x) < noise ? 0 : x;
  }
  return all;
}

}  // namespace

TEST_CASE("several processes take the same steps as one, whatever is sharded") {
  constexpr int steps = 5;
  for (const ModelConfig& config : {kOneBlock, kThree, kUntied}) {
    const Data data(config, steps);
    ModelOptions options;
    options.ema = 0.5;
    CpuModel<double> alone(config, true, options);
    init_weights(alone, 3);
    std::vector<StepResult> expected;
    for (int step = 0; step < steps; ++step) expected.push_back(train_step(alone, data, step, 0, 1, true));
    std::vector<std::vector<Floats>> arenas;
    for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v, Arena::average}) {
      arenas.push_back(read_all(alone, arena));
    }
    alone.exchange_average();
    const std::vector<Floats> averages = read_all(alone, Arena::params);

    for (const int ranks : {2, 3, 4}) {
      for (int zero = 0; zero <= 3; ++zero) {
        for (const bool early : {false, true}) {
          CAPTURE(config.num_layers);
          CAPTURE(ranks);
          CAPTURE(zero);
          CAPTURE(early);
          in_ranks(ranks, [&](Comm& comm) {
            ModelOptions own = options;
            own.ranks = ranks;
            own.zero = zero;
            own.comm = &comm;
            CpuModel<double> model(config, true, own);
            init_weights(model, 3);
            for (int step = 0; step < steps; ++step) {
              const StepResult result = train_step(model, data, step, comm.rank(), ranks, early);
              const StepResult& one = expected[static_cast<size_t>(step)];
              CHECK(result.loss == doctest::Approx(one.loss).epsilon(1e-10));
              CHECK(result.grad_norm == doctest::Approx(one.grad_norm).epsilon(1e-10));
              CHECK(result.signals == 1);
              CHECK(result.updated);
            }
            size_t k = 0;
            for (const Arena arena : {Arena::params, Arena::grads, Arena::m, Arena::v, Arena::average}) {
              CHECK(relative(read_all(model, arena), arenas[k++]) < 1e-6);  // read returns floats
            }
            model.exchange_average();
            CHECK(relative(read_all(model, Arena::params), averages) < 1e-6);
          });
        }
      }
    }
  }
}

TEST_CASE("moments in bf16 are rounded alike on any number of processes, whatever is sharded") {
  for (const ModelConfig& config : {kThree, kUntied}) {
    const Data data(config, 3);
    ModelOptions options;
    options.moments = Moments::bf16;
    options.seed = 5;
    CpuModel<double> alone(config, true, options);
    init_weights(alone, 3);
    for (int step = 0; step < 3; ++step) train_step(alone, data, step, 0, 1, true);
    const std::vector<Floats> m = read_all(alone, Arena::m), v = read_all(alone, Arena::v),
                              params = read_all(alone, Arena::params);
    for (const Floats& values : m) {
      for (const float x : values) REQUIRE(cpu::round_to_nearest(x) == x);
    }
    for (const int ranks : {2, 3}) {
      for (int zero = 0; zero <= 3; ++zero) {
        CAPTURE(config.num_layers);
        CAPTURE(ranks);
        CAPTURE(zero);
        in_ranks(ranks, [&](Comm& comm) {
          ModelOptions own = options;
          own.ranks = ranks;
          own.zero = zero;
          own.comm = &comm;
          CpuModel<double> model(config, true, own);
          init_weights(model, 3);
          for (int step = 0; step < 3; ++step) train_step(model, data, step, comm.rank(), ranks, true);
          // Sums in another order differ by 2^-52 of themselves, too little for another neighbour to be drawn.
          CHECK(apart_from_noise(read_all(model, Arena::m), 1e-16f) == apart_from_noise(m, 1e-16f));
          CHECK(apart_from_noise(read_all(model, Arena::v), 1e-32f) == apart_from_noise(v, 1e-32f));
          CHECK(relative(read_all(model, Arena::params), params) < 1e-6);
          if (comm.rank() == 0 && ranks == 2) {
            const ParamTensor& tensor = model.table[3];
            CHECK(model.view(Arena::m, tensor) == nullptr);
          }
        });
      }
    }
  }
}

TEST_CASE("reading returns what was written, in every arena, also between steps") {
  for (int zero = 0; zero <= 3; ++zero) {
    in_ranks(3, [&](Comm& comm) {
      ModelOptions options;
      options.ranks = 3;
      options.zero = zero;
      options.comm = &comm;
      options.ema = 0.9;
      options.moments = zero % 2 == 1 ? Moments::bf16 : Moments::f32;
      CpuModel<float> model(kThree, false, options);
      const Data data(kThree, 2);
      init_weights(model, 1);
      train_step(model, data, 0, comm.rank(), 3, true);
      for (const Arena arena : {Arena::params, Arena::m, Arena::v, Arena::average}) {
        for (size_t k = 0; k < model.table.size(); ++k) {
          const ParamTensor& tensor = model.table[k];
          Floats values = random_tensor<float>(static_cast<size_t>(tensor.size()), k + 11);
          if (zero % 2 == 1 && (arena == Arena::m || arena == Arena::v)) {  // what it can hold
            std::transform(values.begin(), values.end(), values.begin(), cpu::round_to_nearest);
          }
          model.write(arena, tensor, values.data());
          Floats back(values.size());
          model.read(arena, tensor, back.data());
          CHECK(back == values);
        }
      }
      // The next forward uses the new weights.
      CpuModel<float> other(kThree, false);
      for (const ParamTensor& tensor : model.table) {
        Floats values(static_cast<size_t>(tensor.size()));
        model.read(Arena::params, tensor, values.data());
        if (tensor.name == "wte") std::fill(values.begin() + tensor.file_size(), values.end(), 0.0f);
        model.write(Arena::params, tensor, values.data());
        other.write(Arena::params, tensor, values.data());
      }
      model.forward(data.inputs.data(), 1, data.T, Pass::evaluate);
      other.forward(data.inputs.data(), 1, data.T, Pass::evaluate);
      CHECK(model.loss(data.targets.data(), nullptr) == other.loss(data.targets.data(), nullptr));
    });
  }
}

TEST_CASE("a loss that is not finite anywhere stops the update everywhere") {
  for (int zero = 0; zero <= 3; ++zero) {
    in_ranks(2, [&](Comm& comm) {
      ModelOptions options;
      options.ranks = 2;
      options.zero = zero;
      options.comm = &comm;
      CpuModel<float> model(kThree, false, options);
      const Data data(kThree, 1);
      init_weights(model, 1);
      const std::vector<Floats> before = read_all(model, Arena::params);
      model.zero_grad();
      model.forward(data.inputs.data(), 1, data.T, Pass::train);
      Floats weights(static_cast<size_t>(data.T), 0.1f);
      if (comm.rank() == 1) weights[3] = std::numeric_limits<float>::infinity();
      model.backward(data.targets.data(), weights.data());
      model.update({}, 1);
      CHECK(!model.result(0).updated);
      CHECK(std::isfinite(model.result(0).own_loss) == (comm.rank() == 0));
      CHECK(model.updates() == 0);
      CHECK(read_all(model, Arena::params) == before);
    });
  }
}

TEST_CASE("memory falls with the stage, and equals the plan") {
  const ModelConfig config = {.max_seq_len = 32, .vocab_size = 300, .num_layers = 6, .num_heads = 4, .channels = 64};
  int64_t last = std::numeric_limits<int64_t>::max();
  for (int zero = 0; zero <= 3; ++zero) {
    int64_t planned = 0;
    std::atomic<int64_t> allocated = 0;
    ModelOptions options;
    options.ranks = 4;
    options.zero = zero;
    const int T = config.max_seq_len - 1;
    for (const MemoryRow& row : memory_plan(config, options, 1, T)) planned += row.bytes;
    in_ranks(4, [&](Comm& comm) {
      ModelOptions own = options;
      own.comm = &comm;
      CpuModel<float> model(config, false, own);
      const Data data(config, 1);
      init_weights(model, 1);
      train_step(model, data, 0, comm.rank(), 4, true);
      if (comm.rank() == 0) allocated = model.allocated_bytes();
    });
    CHECK(static_cast<double>(allocated) == doctest::Approx(static_cast<double>(planned)).epsilon(0.02));
    CHECK(planned < last);
    last = planned;
  }
}

TEST_CASE("network traffic is what theory predicts") {
  for (const ModelConfig& config : {kThree, kUntied}) {
    for (const int micro_batches : {1, 3}) {
      for (int zero = 0; zero <= 3; ++zero) {
        const int ranks = 12 / micro_batches;
        in_ranks(ranks, [&](Comm& comm) {
          ModelOptions options;
          options.ranks = ranks;
          options.zero = zero;
          options.comm = &comm;
          CpuModel<float> model(config, false, options);
          const Data data(config, 3);
          init_weights(model, 1);
          train_step(model, data, 0, comm.rank(), ranks, true);
          comm.take_traffic();
          train_step(model, data, 1, comm.rank(), ranks, true);
          // The words are the loss, the signal, and the norm if it is in parts.
          const Traffic traffic = comm.take_traffic();
          const int64_t words = zero > 0 ? 3 : 2, L = config.num_layers;
          int64_t n = 0;
          const std::vector<ParamUnit> units = param_units(model.table, ranks);
          for (const ParamUnit& unit : units) n += unit.size;
          const int64_t block = units[1].size, whole = n - L * block;
          CHECK(traffic.all_reduced == (zero == 0 ? n : 0) + words);
          CHECK(traffic.reduce_scattered == (zero == 0 ? 0 : zero == 1 ? n : micro_batches * n));
          // In stage 3 the embeddings and the last unit are gathered once per step and stay; the blocks are gathered
          // twice per micro-batch, except two that are still there where the direction reverses or a pass begins again.
          const int64_t blocks = micro_batches * (2 * L - 2) - (micro_batches - 1) * 2;
          CHECK(traffic.all_gathered == (zero == 0 ? 0 : zero < 3 ? n : whole + blocks * block));
          CHECK(traffic.broadcast == 0);
        });
      }
    }
  }
}

TEST_CASE("invalid calls and options are refused") {
  in_ranks(2, [&](Comm& comm) {
    ModelOptions options;
    options.ranks = 2;
    options.comm = &comm;
    CpuModel<float> model(kThree, false, options);
    const Data data(kThree, 1);
    init_weights(model, 1);
    train_step(model, data, 0, comm.rank(), 2, true);
    const Floats weights(static_cast<size_t>(data.T), 0.1f);
    model.forward(data.inputs.data(), 1, data.T, Pass::train);
    CHECK_THROWS_WITH_AS(model.backward(data.targets.data(), weights.data()), doctest::Contains("zero_grad"),
                         std::logic_error);
    ModelOptions wrong = options;
    wrong.ranks = 3;
    CHECK_THROWS_AS(CpuModel<float>(kThree, false, wrong), std::logic_error);
    wrong = options;
    wrong.zero = 1;
    wrong.optimizer = Optimizer::muon;
    CHECK_THROWS_WITH_AS(CpuModel<float>(kThree, false, wrong), doctest::Contains("Muon"), Error);
    wrong = options;
    wrong.lora.rank = 2;
    CHECK_THROWS_WITH_AS(CpuModel<float>(kThree, false, wrong), doctest::Contains("several processes"), Error);
    wrong = options;
    wrong.zero = 4;
    CHECK_THROWS_WITH_AS(CpuModel<float>(kThree, false, wrong), doctest::Contains("expected 0 to 3"), Error);
  });
}
