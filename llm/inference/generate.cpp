#include "llm/inference/generate.h"

#include <algorithm>
#include <memory>
#include <new>

#include "kernels/philox.h"
#include "llm/support/error.h"

std::vector<int32_t> generate(Model& model, std::vector<int32_t> ids, const GenerateConfig& config,
                              const std::function<bool(int32_t)>& each) {
  constexpr uint64_t kSampleSequence = 0x73616d706c65;  // differs from the sequences of initialisation and dropout
  if (ids.empty()) fail("the prompt is empty: generation needs at least one token to start from");
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  std::vector<int32_t> made;
  const int context =
      config.context > 0 ? std::min(config.context, model.config.max_seq_len) : model.config.max_seq_len;
  if (config.slide < 1 || config.slide > context) {
    fail("a window of %d tokens cannot move by %d: expected 1 to %d", context, config.slide, context);
  }
  std::unique_ptr<KeyValueCache> cache;
  if (config.cache && model.config.causal) {
    try {
      const int64_t all = static_cast<int64_t>(ids.size()) + config.tokens;
      cache = model.make_cache(1, static_cast<int>(std::min<int64_t>(all, context)));
    } catch (const std::bad_alloc&) {
      // the same text, more slowly: a sample must not end a run whose training fills the memory
    }
  }
  const auto length = [&](size_t begin) { return static_cast<int>(ids.size() - begin); };
  size_t begin = 0;  // of the window
  while (static_cast<int>(made.size()) < config.tokens) {
    if (length(begin) > context) {
      begin = ids.size() - static_cast<size_t>(context - config.slide + 1);
      if (cache) cache->clear();
    }
    // If the window is in the cache, only its last token is new.
    const bool known = cache && cache->lengths[0] > 0;
    model.forward({.tokens = known ? &ids.back() : ids.data() + begin,
                   .B = 1,
                   .T = known ? 1 : length(begin),
                   .pass = Pass::generate,
                   .cache = cache.get()});
    model.read_logits(0, logits.data());
    const int32_t id = sample(logits, config.sampler, philox_uniform(config.seed, kSampleSequence, made.size()));
    if (id == config.end_of_text) break;
    ids.push_back(id);
    made.push_back(id);
    if (!each(id)) break;
  }
  return made;
}
