#include "llm/inference/generate.h"

#include <algorithm>
#include <memory>
#include <new>

#include "kernels/kv_cache.h"
#include "llm/inference/engine.h"
#include "llm/support/error.h"

namespace {

constexpr int kMaxRows = 256;  // tokens of a prompt per pass

// Every token computes the whole window.
std::vector<int32_t> without_decoder(Model& model, const Request& request, int context,
                                     const std::function<bool(int32_t)>& each) {
  Sampler sampler(request.sampler, request.seed, request.prompt, model.config.vocab_size);
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  std::vector<int32_t> window = request.prompt, made;
  while (static_cast<int>(made.size()) < request.tokens) {
    if (static_cast<int>(window.size()) > context) {
      window.erase(window.begin(), window.end() - (context - request.slide + 1));
    }
    model.forward(window.data(), 1, static_cast<int>(window.size()), Pass::generate);
    model.read_logits(0, logits.data());
    const int32_t id = sampler.next(logits);
    if (std::find(request.end_tokens.begin(), request.end_tokens.end(), id) != request.end_tokens.end()) break;
    window.push_back(id);
    made.push_back(id);
    if (!each(id)) break;
  }
  return made;
}

}  // namespace

std::vector<int32_t> generate(Model& model, std::vector<int32_t> ids, const GenerateConfig& config,
                              const std::function<bool(int32_t)>& each) {
  if (ids.empty()) fail("the prompt is empty: generation needs at least one token to start from");
  const int longest = model.config.max_seq_len;
  const int context = config.context > 0 ? std::min(config.context, longest) : longest;
  if (config.slide < 1 || config.slide > context) {
    fail("a window of %d tokens cannot move by %d: expected 1 to %d", context, config.slide, context);
  }
  if (config.tokens < 1) return {};
  Request request;
  request.prompt = std::move(ids), request.sampler = config.sampler, request.seed = config.seed;
  request.tokens = config.tokens, request.context = context, request.slide = config.slide;
  if (config.end_of_text >= 0) request.end_tokens = {config.end_of_text};
  std::unique_ptr<Decoder> decoder;
  if (config.cache && model.config.causal) {
    const int64_t all = static_cast<int64_t>(request.prompt.size()) + config.tokens;
    const int room = static_cast<int>(std::min<int64_t>(all, context));
    try {
      decoder = model.make_decoder(pages_of(room), std::min(room, kMaxRows));
    } catch (const std::bad_alloc&) {
      // the same text, more slowly: a sample must not end a run whose training fills the memory
    }
  }
  if (!decoder) return without_decoder(model, request, context, each);
  Engine engine(*decoder, 1);
  engine.add(std::move(request));
  std::vector<int32_t> made;
  while (engine.busy()) {
    engine.step([&](const NewToken& token) {
      if (token.token < 0) return false;
      made.push_back(token.token);
      return each(token.token);
    });
  }
  return made;
}
