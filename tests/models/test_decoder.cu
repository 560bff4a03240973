// Decoding on the GPU: the bits of a row, memory, and what a pass queues.
#include "llm/models/cpu.h"
#include "llm/models/decoder.h"
#include "llm/models/gpu.h"
#include "llm/models/gpu_model.cuh"
#include "tests/helpers/device.h"
#include "tests/helpers/model_variants.h"

namespace {

const ModelConfig kSmall = {.max_seq_len = 44, .vocab_size = 61, .num_layers = 2, .num_heads = 2, .channels = 64};
const ModelConfig kRagged = {.max_seq_len = 44, .vocab_size = 131, .num_layers = 1, .num_heads = 3, .channels = 51};

}  // namespace

TEST_CASE("a row that is decoded on the GPU has the same bits in any batch, after any beginning") {
  for (const ModelConfig& base : {kSmall, kRagged}) {
    for (const Precision precision : {Precision::fp32, Precision::tf32, Precision::bf16}) {
      if (quick_set() && (precision == Precision::tf32 || base == kRagged)) continue;
      for (const Variant& v : model_variants(base)) {
        if (v.config.num_classes > 0 || !v.config.causal) continue;
        if (v.options.lora.rank == 0 && v.config.tied_head) continue;  // the plain one is below
        if (quick_set() || v.options.trainable.first_block > 0) continue;
        INFO(v.name);
        ModelOptions options = v.options;
        options.precision = precision;
        const auto model = make_gpu_model(v.config, options, 1, 1, false);
        random_weights(*model, 0.125);
        check_bits_of_rows(*model, 36);
      }
      const auto model = make_gpu_model(base, {.precision = precision}, 1, 1, false);
      random_weights(*model, 0.125);
      check_bits_of_rows(*model, 36);
    }
  }
}

TEST_CASE("decoding gives the same bits under every schedule" * full_set()) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    same_under_all_schedules([&] {
      const auto model = make_gpu_model(kSmall, {.precision = precision}, 1, 1, false);
      random_weights(*model, 0.125);
      return decoded_logits(*model, VariantBatch(kSmall, 3, 36, 4), 33);
    });
  }
}

TEST_CASE("a decoder between training steps changes no bit of them, also if it does not fit") {
  const VariantBatch batch(kSmall, 2, 9, 1);
  const auto train = [&](bool decode) {
    const auto model = make_gpu_model(kSmall, {.precision = Precision::bf16}, 2, 9, false);
    random_weights(*model, 0.125);
    Floats all;
    for (uint64_t k = 0; k < 5; ++k) {
      model->zero_grad();
      model->forward(input_of(batch, Pass::train, {0.1f, 7, k}));
      model->backward(batch.targets.data(), batch.weights.data());
      model->update({.lr = 1e-2f}, 1);
      if (!decode) continue;
      decoded_logits(*model, batch, k == 3 ? 9 : 4);  // 18 rows are as many as training has
      CHECK_THROWS_AS(model->make_decoder(1 << 30, 1), std::bad_alloc);
      CHECK_THROWS_AS(model->make_decoder(1, 1 << 30), std::bad_alloc);
    }
    for (const ParamTensor& tensor : model->table) {
      const Floats values = tensor_of(*model, Arena::params, tensor);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  CHECK(same_bits(train(true), train(false)));
}

TEST_CASE("a pass on the GPU of which no row is wanted, or a few") {
  const auto model = make_gpu_model(kSmall, {}, 1, 1, false);
  random_weights(*model, 0.125);
  const auto decoder = model->make_decoder(2, 5);
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5}, positions = {0, 1, 2, 3, 4}, sequences(5, 0), pages = {1, 0},
                             none, all = {0, 1, 2, 3, 4}, some = {1, 4};
  Floats expected(61), row(61);
  decoder->forward({tokens, positions, sequences, pages, 2, all});
  decoder->read_logits(4, expected.data());
  decoder->forward({tokens, positions, sequences, pages, 2, none});
  CHECK_THROWS_AS(decoder->read_logits(0, row.data()), std::logic_error);
  decoder->forward({tokens, positions, sequences, pages, 2, some});
  decoder->read_logits(1, row.data());
  CHECK(same_bits(row, expected));
}

TEST_CASE("a decode pass takes our own tiers, which give a row the same bits for every number of rows") {
  const GpuTiers library{{MatmulTier::cublaslt, true}, AttentionTier::cudnn, true};
  CHECK(decode_tiers(library).matmul.tier == MatmulTier::tensor_core);
  CHECK(decode_tiers(library).matmul.tf32);
  CHECK(decode_tiers(library).packed);
  CHECK(!training_tiers(library).packed);
  CHECK(gpu_tiers(Precision::fp32, false).packed);
  CHECK(!gpu_tiers(Precision::bf16, true).packed);
}

#ifdef WROUGHT_CUDASIM
TEST_CASE("a token is decoded by nine launches per layer and three more, and allocates nothing") {
  ModelConfig config = kSmall;
  config.num_layers = 12;
  const auto model = make_gpu_model(config, {.precision = Precision::bf16}, 1, 1, false);
  random_weights(*model, 0.125);
  const std::vector<int32_t> text = random_ints(12, 1, config.vocab_size);
  PagedTexts texts(*model, 1, 8);
  texts.feed({{0, std::span(text).first(8)}});
  const auto launches = [] {
    uint64_t sum = 0;
    for (const auto& [kernel, times] : cudasim::kernel_launches()) sum += times;
    return sum;
  };
  for (size_t t = 8; t < 12; ++t) {
    const uint64_t before = launches(), allocations = cudasim::allocations();
    texts.feed({{0, std::span(text).subspan(t, 1)}});
    CHECK(launches() - before == 9 * 12 + 3);
    CHECK(cudasim::allocations() == allocations);
  }
}
#endif
