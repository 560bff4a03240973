// Continues a prompt with a trained model, or asks a classifier.
//   build/generate --model runs/stories/latest --prompt "Once upon a time" --tokens 200
//   build/generate --model runs/spam/latest --classify "You have won a prize"
#include "llm/inference/generate.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "apps/device.h"
#include "llm/flags/command_line.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/classifier.h"
#include "llm/support/terminal.h"
#include "llm/text/tokenizer.h"

namespace {

// The class on a line, then each class's probability.
void print_classes(const std::string& dir, const std::string& text, const DeviceFlags& device) {
  const ClassifierInfo info = read_classifier_info(dir);
  const ModelConfig shape = read_model_config(dir);
  const Tokenizer tokenizer = Tokenizer::load(dir);
  check_tokenizer(tokenizer, shape, dir);
  const int T = info.length > 0 ? info.length : shape.max_seq_len;
  const std::unique_ptr<Model> model = make_device_model(device, shape, {.trainable = trains_nothing(shape)}, 1, T);
  load_weights(*model, dir);
  size_t length = 0;
  const std::vector<float> probability = classify(*model, tokenizer, info, text, &length);
  const auto most = std::max_element(probability.begin(), probability.end()) - probability.begin();
  print_text(info.classes[static_cast<size_t>(most)] + "\n");
  for (size_t k = 0; k < probability.size(); ++k) {
    print_text(strprintf("%.4f  ", static_cast<double>(probability[k])) + info.classes[k] + "\n");
  }
  if (length > static_cast<size_t>(T)) {
    std::fprintf(stderr, "(the text has %zu tokens, of which only the first %d were used)\n", length, T);
  }
}

struct Prompt {
  std::string text, tokenizer;  // tokenizer: a file; empty: the model directory's tokenizer
  bool ids = false;             // the text is token ids, and so is the output
  bool special = true;          // special tokens in the text are those tokens
  bool keep_going = false;      // continue after the end of a text
};

std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  for (size_t at = 0, used = 0; at < text.size(); at += used) {
    try {
      ids.push_back(std::stoi(text.substr(at), &used));
    } catch (const std::exception&) {
      fail_usage("--ids: expected token ids separated by spaces in --prompt, found '%s'", text.substr(at).c_str());
    }
    while (at + used < text.size() && text[at + used] == ' ') ++used;
  }
  return ids;
}

// Prints the prompt and what the model continues it with.
void continue_prompt(const std::string& dir, const Prompt& prompt, GenerateConfig config, const DeviceFlags& device) {
  const ModelConfig shape = read_model_config(dir);
  if (shape.num_classes > 0) {
    fail("%s: a classifier of %d classes, expected a model that predicts the next token: ask it with --classify TEXT",
         dir.c_str(), shape.num_classes);
  }
  check_language_model(shape, dir);
  if (config.slide > shape.max_seq_len) {
    fail_usage("--slide %d is beyond the model's context of %d tokens", config.slide, shape.max_seq_len);
  }
  std::optional<Tokenizer> tokenizer;
  std::vector<int32_t> ids;
  if (prompt.ids) {
    ids = parse_ids(prompt.text);
  } else {
    if (prompt.tokenizer.empty()) tokenizer = find_tokenizer(dir);
    if (!tokenizer) tokenizer = Tokenizer::load(prompt.tokenizer.empty() ? dir : prompt.tokenizer);
    check_tokenizer(*tokenizer, shape, prompt.tokenizer.empty() ? dir : prompt.tokenizer);
    ids = tokenizer->encode(prompt.text, prompt.special ? Special::parsed : Special::text);
    if (!prompt.keep_going) config.end_of_text = tokenizer->end_of_text();
    if (ids.empty() && tokenizer->end_of_text() >= 0) ids = {tokenizer->end_of_text()};
  }
  if (ids.empty())
    fail_usage("--prompt is empty, and this model has no end-of-text token to start from: give a prompt");

  const std::unique_ptr<Model> model = make_device_model(device, shape, {.trainable = trains_nothing(shape)}, 1, 1);
  load_weights(*model, dir);
  if (tokenizer) {
    print_text(prompt.text);
    StreamDecoder decoder(*tokenizer);
    generate(*model, ids, config, [&](int32_t id) {
      if (id < tokenizer->vocab_size()) print_text(decoder.next(id));
      return true;
    });
    print_text(decoder.finish() + "\n");
  } else {
    for (const int32_t id : generate(*model, ids, config, [](int32_t) { return true; })) std::printf("%d ", id);
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues a prompt with a trained model, or asks a classifier.");
  std::string dir, text;
  Prompt prompt;
  GenerateConfig config;
  config.sampler.temperature = 0.8;
  bool greedy = false;
  DeviceFlags device;
  std::optional<uint64_t> seed;
  app.add_option("--model", dir,
                 "model directory (a run's latest/, or one that transformers saved), TensorFlow checkpoint, llm.c .bin")
      ->required();
  app.add_option("--tokenizer", prompt.tokenizer, "tokenizer file; default: the model directory's tokenizer.json");
  app.add_option("--prompt", prompt.text, "text to continue; default: the start of a text");
  CLI::Option* markers = app.add_flag(
      "--special,!--no-special", prompt.special,
      "<|endoftext|> and the vocabulary's other special tokens in the prompt are those tokens (default), or text");
  CLI::Option* classified =
      app.add_option("--classify", text, "a text for a classifier: prints its class and each class's probability");
  classified->excludes("--prompt")->excludes("--tokenizer")->excludes(markers);
  app.add_option("--tokens", config.tokens, "tokens to make, at most")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--temperature", config.sampler.temperature, "logits are divided by it; 0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_option("--top-k", config.sampler.top_k, "only the k most likely tokens; 0: all")
      ->check(CLI::Range(0, 1 << 28))
      ->capture_default_str();
  app.add_option("--top-p", config.sampler.top_p, "only the most likely tokens that together reach p")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option(
         "--slide", config.slide,
         "tokens that leave a full context together; the others are computed again, so larger is faster but leaves "
         "less context")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  bool no_cache = false;
  app.add_flag("--no-cache", no_cache, "keep no keys and values: every token recomputes the whole window");
  app.add_option("--seed", seed, "same seed, same text; default: a new one each time");
  app.add_flag("--greedy", greedy, "always the most likely token");
  app.add_flag("--keep-going", prompt.keep_going, "continue after the end of a text");
  app.add_flag("--ids", prompt.ids, "prompt and output are token ids: needs no tokenizer")->excludes(markers);
  add_device_flags(app, device, true);

  return run_program(app, argc, argv, [&] {
    settle_device(device);
    if (std::isnan(config.sampler.temperature) || std::isnan(config.sampler.top_p)) {
      fail_usage("--temperature and --top-p are numbers, found nan");
    }
    if (greedy) config.sampler.temperature = 0;
    config.cache = !no_cache;
    config.seed = seed ? *seed : std::random_device{}();
    if (classified->count() > 0) return print_classes(dir, text, device);
    continue_prompt(dir, prompt, config, device);
  });
}
