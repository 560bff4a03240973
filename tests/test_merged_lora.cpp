// Merged adapters: the model without them computes what the model with them does.
#include "gpt2/lora.h"
#include "gpt2/model_cpu.h"
#include "tests/finite_differences.h"

namespace {

void copy_weights(Model& to, const Model& from) {
  Floats values;
  for (const ParamTensor& tensor : to.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    from.read(Arena::params,
              *std::find_if(from.table.begin(), from.table.end(),
                            [&](const ParamTensor& t) { return t.name == tensor.name; }),
              values.data());
    to.write(Arena::params, tensor, values.data());
  }
}

}  // namespace

TEST_CASE("every kind of adapter is in the merged matrices") {
  for (const char* targets : {"all", "q", "k", "v", "attproj", "fc", "fcproj", "head"}) {
    CAPTURE(targets);
    ModelConfig shape{.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};
    shape.num_classes = 3;
    shape.tied_head = false;
    ModelOptions options;
    options.lora = {2, 6, 0, targets};
    CpuModel<float> adapted(shape, true, options), merged(shape, true), bare(shape, true);
    init_weights(adapted, 1);
    uint64_t seed = 5;
    for (const ParamTensor& tensor : adapted.table) {  // B begins as zeros: then there would be nothing to see
      if (!tensor.adapter()) continue;
      adapted.write(Arena::params, tensor,
                    random_tensor<float>(static_cast<size_t>(tensor.size()), seed++, 0.5).data());
    }
    copy_weights(bare, adapted);
    const MergedLora view(adapted);
    copy_weights(merged, view);

    const auto inputs = random_ints(16, 3, 11);
    const Floats pooling(16, 0.125f);
    const auto logits = [&](Model& model) {
      Floats out(6);
      model.set_pooling(pooling.data(), 2, 8);
      model.forward(inputs.data(), 2, 8, Pass::evaluate);
      model.read_logits(0, out.data());
      model.read_logits(1, out.data() + 3);
      return out;
    };
    const Floats expected = logits(adapted);
    CHECK(max_difference(logits(merged), expected) < 2e-6);
    CHECK(max_difference(logits(bare), expected) > 1e-3);
  }
}
