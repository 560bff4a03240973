// What count_step() lists for a step, against what the kernels of the same step do in cudasim: the launches of each
// kernel, its bytes, and the FLOPs of its tensor cores.
//
// Bytes are those that a launch reads and those that it writes, each once however often it is accessed and whatever the
// caches do: the minimum that count_step() means. Repeated tokens would touch fewer rows of embeddings than it counts;
// here all tokens of a batch are different. cudasim counts the mma instructions of tensor cores, but no arithmetic of
// float units. count_step() lists FLOPs for products and attention; for all other kernels both sides have 0.
#include <cudasim.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <map>

#include "llm/models/batch.h"
#include "llm/models/count.h"
#include "llm/models/families.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "llm/models/init.h"
#include "tests/helpers/device.h"
#include "tests/models/toy.h"

namespace {

struct Sums {
  uint64_t launches = 0;
  double bytes = 0, flops = 0;  // of tensor cores
};
using Kernels = std::map<std::string, Sums>;  // by name

// ---- what is listed ------------------------------------------------------------------------------------------------

// What a launch does in addition to what is listed.
const struct Exception {
  const char* kernel;
  double bytes;     // moved
  double diagonal;  // of attention: pairs of positions, twice their number per row
  double tile;      // of products: rows and columns of a tile
} kExceptions[] = {
    // Norm, loss and the factors of the update: one thread reads and writes them. They are not listed.
    {"adamw_prepare_kernel", 68, 0, 0},
    // The diagonal: forward, a warp pairs 32 rows with 64 others at a time; backward, with 16. So a row has 32 or 16
    // pairs more than the T / 2 of the causal half. (Heads of at most 64; T a multiple of the 128 rows of a block.)
    {"attention_forward_tensor_core_kernel", 0, 64, 0},
    {"attention_backward_keys_tensor_core_kernel", 0, 32, 0},
    {"attention_backward_queries_tensor_core_kernel", 0, 32, 0},
    // Padding: tiles of sums are computed whole, and slices of 64 bytes of their depth.
    {"matmul_tensor_core_kernel", 0, 0, 64},
};

// How many FLOPs are done for one that is listed.
double done_for_one(const LaunchRow& row, const Exception& exception, const StepConfig& config) {
  const auto padded = [](double n, double size) { return std::ceil(n / size) * size / n; };
  if (exception.tile == 0) return 1 + exception.diagonal / config.T;
  return padded(row.rows, exception.tile) * padded(row.columns, exception.tile) *
         padded(row.depth / row.parts, config.bf16 ? 32 : 16);
}

Kernels listed(const StepConfig& config) {
  Kernels kernels;
  for (const LaunchRow& row : count_step(config)) {
    if (row.kernel == "memset") continue;  // in cudasim not a kernel
    const auto* exception = std::find_if(std::begin(kExceptions), std::end(kExceptions),
                                         [&](const Exception& e) { return row.kernel == e.kernel; });
    const Exception e = exception == std::end(kExceptions) ? Exception{} : *exception;
    const double launches = row.launches;
    Sums& sums = kernels[row.kernel];
    sums.launches += static_cast<uint64_t>(row.launches);
    sums.bytes += launches * (row.bytes + e.bytes);
    if (row.unit == Unit::tensor_cores) sums.flops += launches * row.flops * done_for_one(row, e, config);
  }
  return kernels;
}

// ---- what runs -----------------------------------------------------------------------------------------------------

// All tokens are different.
Batch batch_for(const ModelConfig& shape, int B, int T) {
  const bool classifier = shape.num_classes > 0;
  const int N = B * T, rows = classifier ? B : N;
  REQUIRE(N <= shape.vocab_size);
  Batch batch{B, T, {}, {}, Floats(static_cast<size_t>(rows), 1.0f / static_cast<float>(rows))};
  for (int i = 0; i < N; ++i) batch.inputs.push_back(N - 1 - i);
  for (int i = 0; i < rows; ++i) batch.targets.push_back(i % shape.outputs());
  if (classifier) {  // of the last position
    batch.pooling.assign(static_cast<size_t>(N), 0);
    for (int b = 1; b <= B; ++b) batch.pooling[static_cast<size_t>(b * T - 1)] = 1;
  }
  return batch;
}

// "f" of "n::f<float, 4>".
std::string plain_name(const std::string& name) {
  const std::string before = name.substr(0, name.find('<'));
  return before.substr(before.rfind(':') + 1);
}

// Of one "mma.m16n8k16" by a warp; 0 if it is not an mma.
double mma_flops(const std::string& name) {
  int m = 0, n = 0, k = 0;
  return std::sscanf(name.c_str(), "mma.m%dn%dk%d", &m, &n, &k) == 3 ? 2.0 * m * n * k : 0;
}

Kernels run(const StepConfig& config) {
  ModelOptions options = config.options;
  options.precision = config.bf16 ? Precision::bf16 : Precision::tf32;
  const Batch batch = batch_for(config.shape, config.B, config.T);
  const auto model = make_gpu_model(config.shape, options, config.B, config.T, false);
  init_weights(*model, 1);
  cudasim::set_checks(false);
  cudasim::start_counting(1 << 20);
  model->zero_grad();
  model->forward(input_of(batch, Pass::train, {config.dropout, 5, 0}));
  model->backward(batch.targets.data(), batch.weights.data());
  model->update({}, 1);
  const std::vector<cudasim::KernelCounts> counts = cudasim::stop_counting();
  cudasim::set_checks(true);
  CHECK(model->result(0).updated);
  Kernels kernels;
  for (const cudasim::KernelCounts& c : counts) {
    Sums& sums = kernels[plain_name(c.name)];
    sums.launches += c.launches;
    sums.bytes += static_cast<double>(c.distinct_read_bytes + c.distinct_write_bytes);
    for (const auto& [name, n] : c.collectives) sums.flops += mma_flops(name) * static_cast<double>(n);
  }
  return kernels;
}

// Bytes to a thousandth: the updates read the step's factors, some 16 bytes, which are not listed.
void check_step(const StepConfig& config) {
  Kernels expected = listed(config), ran = run(config);
  for (const auto& [kernel, sums] : ran) expected[kernel];
  for (const auto& [kernel, sums] : expected) {
    CAPTURE(kernel);
    CHECK(ran[kernel].launches == sums.launches);
    CHECK(ran[kernel].bytes == doctest::Approx(sums.bytes).epsilon(1e-3));
    CHECK(ran[kernel].flops == doctest::Approx(sums.flops).epsilon(1e-12));
  }
}

// No product and no head is padded.
const ModelConfig kEven = {.max_seq_len = 128, .vocab_size = 300, .num_layers = 2, .num_heads = 2, .channels = 128};
// Heads of 17, for which there is no tensor-core kernel; rows that are not whole packs of 16 bytes.
const ModelConfig kOdd = {.max_seq_len = 128, .vocab_size = 131, .num_layers = 2, .num_heads = 3, .channels = 51};

}  // namespace

TEST_CASE("a step in bf16 launches, moves and multiplies what is listed") { check_step({kEven, 2, 128}); }

TEST_CASE("a step in tf32; attention on float units is listed with the FLOPs of tensor cores") {
  const StepConfig tf32{.shape = kEven, .B = 1, .T = 64, .bf16 = false};
  check_step(tf32);
  const auto flops = [](const StepConfig& step) {
    double sum = 0;
    for (const LaunchRow& row : count_step(step)) sum += row.launches * row.flops;
    return sum;
  };
  StepConfig bf16 = tf32;
  bf16.bf16 = true;
  CHECK(flops(tf32) == flops(bf16));
}

TEST_CASE("logits chunk by chunk, the last chunk with fewer rows") {
  check_step({.shape = kOdd, .B = 2, .T = 65, .options = {.loss_chunk = 50}});
  check_step({.shape = kEven, .B = 1, .T = 128, .options = {.loss_chunk = 64}});
}

TEST_CASE("Muon, an average, dropout, blocks computed again") {
  const ModelConfig shape = {.max_seq_len = 128, .vocab_size = 131, .num_layers = 2, .num_heads = 1, .channels = 48};
  check_step({.shape = shape,
              .B = 1,
              .T = 128,
              .options = {.recompute = Recompute::block, .optimizer = Optimizer::muon, .ema = 0.9},
              .dropout = 0.1f});
}

TEST_CASE("odd sizes: bf16 and tf32, adapters, frozen parts, no master weights, not causal") {
  check_step({.shape = kOdd, .B = 1, .T = 72, .options = {.master_weights = false}});
  check_step({.shape = kOdd, .B = 1, .T = 5, .options = {.moments = Moments::bf16}});
  check_step({.shape = kOdd,
              .B = 1,
              .T = 72,
              .bf16 = false,
              .options = {.recompute = Recompute::gelu, .optimizer = Optimizer::muon, .ema = 0.9}});
  check_step({.shape = kOdd, .B = 1, .T = 72, .options = {.lora = {.rank = 3, .dropout = 0.1f}}, .dropout = 0.1f});
  check_step({.shape = kOdd, .B = 1, .T = 72, .options = {.trainable = {.first_block = 1, .embeddings = false}}});
  ModelConfig shape = kOdd;
  shape.causal = shape.tied_head = shape.qkv_bias = false;
  check_step({.shape = shape, .B = 1, .T = 72, .options = {.lr_decay_per_layer = 0.5f}});
}

TEST_CASE("a classifier of 2,048 tokens: dweight in parts, more than one tile to sort") {
  const ModelConfig shape = {.max_seq_len = 128,
                             .vocab_size = 2050,
                             .num_layers = 1,
                             .num_heads = 1,
                             .channels = 32,
                             .tied_head = false,
                             .num_classes = 3};
  check_step({.shape = shape, .B = 16, .T = 128});
}

TEST_CASE("another family: heads that share keys and values, RMSNorm, no biases") {
  register_family(make_family<Toy>("counted_toy"));
  register_gpu_family(make_gpu_family<Toy>("counted_toy"));
  ModelConfig shape = kEven;
  shape.num_kv_heads = 1, shape.family = "counted_toy";
  check_step({.shape = shape, .B = 1, .T = 128});
  shape = kOdd;
  shape.num_kv_heads = 1, shape.family = "counted_toy";
  check_step({.shape = shape, .B = 1, .T = 72, .options = {.optimizer = Optimizer::muon}, .dropout = 0.1f});
}
