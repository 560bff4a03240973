// The formulas of plans for several GPUs: traffic, memory per GPU, overlap, and published runs.
#include <doctest/doctest.h>

#include <map>

#include "dev/predict/plan.h"
#include "llm/flags/train_flags.h"
#include "llm/models/memory_plan.h"
#include "llm/models/sharding.h"

namespace {

using namespace plan;

Run run_on(int gpus, int zero, const char* model = "gpt2") {
  Run run{.shape = find_preset(model)->shape, .gpu = *find_gpu("h100")};
  run.gpus = gpus;
  run.zero = zero;
  run.total_batch_tokens = run.tokens_at_once();
  return run;
}

std::map<std::string, int64_t> memory(const Run& run) {
  std::map<std::string, int64_t> bytes;
  for (const MemoryRow& row : memory_rows(run)) bytes[row.name] = row.bytes;
  return bytes;
}

}  // namespace

TEST_CASE("the units cover the whole model") {
  for (const char* model : {"gpt2", "gpt2-medium", "gpt2-xl"}) {
    const ModelConfig& shape = find_preset(model)->shape;
    int64_t parameters = 0;
    for (const ParamTensor& tensor : param_table(shape)) parameters += tensor.size();
    CHECK(units_of(shape).all() == parameters);
  }
  // The embeddings are summed up last: 31 % of the smallest GPT-2.
  const Units units = units_of(find_preset("gpt2")->shape);
  CHECK(static_cast<double>(units.embeddings) / static_cast<double>(units.all()) ==
        doctest::Approx(0.317).epsilon(0.01));
}

TEST_CASE("the traffic of a step") {
  const Units units = units_of(find_preset("gpt2")->shape);
  const int64_t N = units.all();
  CHECK(step_time(run_on(1, 3)).volume == 0);
  for (int gpus : {2, 8, 64}) {
    for (int zero : {0, 1, 2}) CHECK(step_time(run_on(gpus, zero)).volume == 2 * N);
    // 3 N except for what is still whole when backward begins: the embeddings, the last unit and the two last blocks.
    CHECK(step_time(run_on(gpus, 3)).volume == 3 * N - units.whole());
  }
  Run run = run_on(8, 0);
  const auto volume = [&](int zero) {
    run.zero = zero;
    return step_time(run).volume;
  };
  run.total_batch_tokens *= 4;  // micro-batches
  CHECK(volume(0) == 2 * N);
  CHECK(volume(1) == 2 * N);
  CHECK(volume(2) == 5 * N);
  CHECK(volume(3) == 4 * N + N + 7 * (N - units.whole()));
}

TEST_CASE("the memory that each GPU keeps") {
  const std::map<std::string, int64_t> one = memory(run_on(1, 3));
  const Units units = units_of(find_preset("gpt2")->shape);
  for (int gpus : {2, 8, 64}) {
    CAPTURE(gpus);
    const auto kept = [&](int zero, const char* name) { return memory(run_on(gpus, zero)).at(name); };
    // As many elements as the model's arenas, whose units are padded so that all parts have the same size: all of them,
    // and those that are whole for a while.
    const auto elements = [&](int zero) {
      const Run run = run_on(gpus, zero);
      const std::vector<ParamUnit> padded = param_units(param_table(run.shape, run.options()), gpus);
      int64_t n = 0;
      for (const ParamUnit& unit : padded) n += unit.size;
      CHECK(n >= units.all());
      CHECK(static_cast<double>(n) <= 1.001 * static_cast<double>(units.all()));
      return std::pair(n, padded[0].size + 2 * padded[1].size + padded.back().size);
    };
    CHECK(memory(run_on(gpus, 0)) == one);
    const auto [n, whole] = elements(1);
    CHECK(elements(2) == elements(1));
    CHECK(elements(3) == elements(1));
    for (const char* name : {"master weights", "AdamW m", "AdamW v"}) {
      for (int zero : {1, 2, 3}) CHECK(kept(zero, name) == 4 * n / gpus);
    }
    CHECK(kept(1, "gradients") == 4 * n);
    CHECK(kept(2, "gradients") == 4 * n / gpus);
    CHECK(kept(2, "gradients to sum") == 4 * whole);
    CHECK(kept(2, "parameters") == 2 * n);
    CHECK(kept(3, "parameters") == 2 * n / gpus);
    CHECK(kept(3, "gathered parameters") == 2 * whole);
    CHECK(kept(3, "activations") == one.at("activations"));
  }
  // Everything but the activations equals arena_plan().
  int64_t planned = 0;
  const Run run = run_on(1, 0);
  for (const MemoryRow& row : arena_plan(run.shape, run.options(), run.B, run.T, int64_t{run.B} * run.T, true)) {
    planned += row.bytes;
  }
  CHECK(memory_of(run) == planned);
  Run chunked = run;
  chunked.loss_chunk = 1000;
  CHECK(memory(chunked).at("logits") == 1000 * 50304 * 2);
  Run bf16_moments = run;
  bf16_moments.moments = Moments::bf16;
  CHECK(memory_of(run) - memory_of(bf16_moments) == 4 * arena_size(param_table(run.shape)));
  CHECK(step_time(bf16_moments).parts[3] < step_time(run).parts[3]);
  Run recomputing = run;
  recomputing.recompute = Recompute::gelu;
  CHECK(memory_of(recomputing) < memory_of(run));
}

TEST_CASE("a collective takes the time worked out by hand") {
  Run run = run_on(8, 0);
  CHECK(collective_seconds(run, 360e9) == doctest::Approx(7.0 / 8 + 8.4e-6 + 7 * 3.4e-6));
  CHECK(all_reduce_seconds(run, 360e9) == doctest::Approx(2 * 7.0 / 8 + 8.4e-6 + 14 * 3.4e-6));
  run.gpus = 64;  // 8 nodes: with a fast network NVLink's time counts, with a slow one the network's time
  CHECK(collective_seconds(run, 360e9) == doctest::Approx(7.0 / 8 + 8.4e-6 + 7 * 3.4e-6 + 3 * 14e-6));
  run.network = 1e9;
  CHECK(collective_seconds(run, 8e9) == doctest::Approx(7.0 / 8 / 0.9 + 8.4e-6 + 7 * 3.4e-6 + 3 * 14e-6));
  run.gpus = 1;
  CHECK(collective_seconds(run, 8e9) == 0);
}

TEST_CASE("communication overlaps with computing, except on a slow network") {
  for (int zero = 0; zero <= 3; ++zero) {
    CAPTURE(zero);
    Run run = run_on(64, zero, "gpt2-xl");
    run.B = 16;
    run.total_batch_tokens = run.tokens_at_once();
    const StepTime fast = step_time(run);
    CHECK(fast.exposed < 0.5 * fast.communication);
    CHECK(fast.exposed < 0.05 * fast.seconds());
    run.network /= 100;
    const StepTime slow = step_time(run);
    CHECK(slow.exposed > 0.5 * slow.seconds());
    CHECK(slow.exposed < slow.communication);
    CHECK(slow.parts == fast.parts);
  }
  CHECK(step_time(run_on(1, 0)).exposed == 0);
  // The embeddings' gradient is complete when nothing is left to hide it.
  const Run run = run_on(8, 0);
  const double embeddings = static_cast<double>(units_of(run.shape).embeddings);
  CHECK(step_time(run).exposed >= all_reduce_seconds(run, 4 * embeddings));
}

TEST_CASE("a small batch waits for launches by the host") {
  Run run = run_on(1, 0);
  CHECK(step_time(run).launching == 0);
  run.B = run.T = 1;
  run.total_batch_tokens = 1;
  CHECK(step_time(run).launching > 0);
}

TEST_CASE("published runs are predicted within 15 %") {
  for (const Published& published : kPublished) {
    CAPTURE(published.model);
    CAPTURE(published.gpu);
    const Run run = run_of(published, find_preset(published.model)->shape);
    CHECK(fits(run));
    CHECK(1e3 * step_time(run).seconds() == doctest::Approx(published.ms).epsilon(0.15));
  }
  // The sizes of m on each of 8 GPUs and of activations, from llm.c's log of the last run.
  const Published& largest = kPublished[std::size(kPublished) - 1];
  const std::map<std::string, int64_t> bytes = memory(run_of(largest, find_preset(largest.model)->shape));
  CHECK((bytes.at("AdamW m") >> 20) == 742);
  CHECK(static_cast<double>(bytes.at("activations") + bytes.at("logits")) / (1 << 20) ==
        doctest::Approx(kPublishedActivations).epsilon(0.15));
}
