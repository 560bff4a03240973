#include "gpt2/generate.h"

#include <algorithm>

#include "gpt2/error.h"
#include "kernels/philox.h"

std::vector<int32_t> generate(Model& model, std::vector<int32_t> ids, const GenerateConfig& config,
                              const std::function<bool(int32_t)>& each) {
  constexpr uint64_t kSampleSequence = 0x73616d706c65;  // apart from initialisation's and dropout's numbers
  if (ids.empty()) fail("the prompt is empty: generation needs at least one token to start from");
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  std::vector<int32_t> made;
  const int context =
      config.context > 0 ? std::min(config.context, model.config.max_seq_len) : model.config.max_seq_len;
  while (static_cast<int>(made.size()) < config.tokens) {
    const size_t window = std::min(ids.size(), static_cast<size_t>(context));
    model.forward(ids.data() + ids.size() - window, 1, static_cast<int>(window), Pass::generate);
    model.read_logits(0, logits.data());
    const int32_t id = sample(logits, config.sampler, philox_uniform(config.seed, kSampleSequence, made.size()));
    if (id == config.end_of_text) break;
    ids.push_back(id);
    made.push_back(id);
    if (!each(id)) break;
  }
  return made;
}
