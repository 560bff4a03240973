#include "llm/training/sample.h"

#include <algorithm>
#include <string>
#include <vector>

#include "llm/inference/generate.h"
#include "llm/support/error.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"
#include "llm/support/terminal.h"
#include "llm/text/tokenizer.h"
#include "llm/training/average.h"

void print_sample(Model& model, const Run& run, int64_t step) {
  const bool in_parts = run.config.zero == 3 || (run.config.zero > 0 && run.config.ema > 0);
  if (run.group && run.group->rank() > 0 && !in_parts) return;
  const Tokenizer& tokenizer = *run.tokenizer;
  const AverageInUse average(model);
  GenerateConfig config;
  config.tokens = run.config.sample_tokens;
  // What the memory for training holds: a sample must not need more in the middle of a run.
  config.context = static_cast<int>(std::min<int64_t>(int64_t{run.config.batch_size} * run.config.seq_len, 1 << 30));
  config.end_of_text = tokenizer.end_of_text();
  config.sampler.temperature = 0.8;
  config.seed = run.config.seed + static_cast<uint64_t>(step);
  std::vector<int32_t> ids = tokenizer.encode(run.config.prompt);
  if (ids.empty())
    ids = {tokenizer.end_of_text() >= 0 && tokenizer.end_of_text() < model.config.vocab_size ? tokenizer.end_of_text()
                                                                                             : 0};
  StreamDecoder decoder(tokenizer);
  std::string text = run.config.prompt;
  try {
    generate(model, ids, config, [&](int32_t id) {
      if (id < tokenizer.vocab_size()) text += decoder.next(id);
      return run.group || StopSignal::received() == 0;
    });
  } catch (const Error& error) {  // weights that have run away: the loop decides whether that ends the run
    return say(std::string("no sample: ") + error.what());
  }
  text += decoder.finish();
  print_text("--- sample ---\n" + text + "\n--------------\n");
}
