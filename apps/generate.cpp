// Continues prompts with a trained model, or asks a classifier.
//   build/generate --model runs/stories/latest --prompt "Once upon a time" --tokens 200
//   build/generate --model runs/stories/latest --prompts prompts.jsonl --samples 4 --precision int8
//   build/generate --model runs/spam/latest --classify "You have won a prize"
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "apps/device.h"
#include "llm/flags/command_line.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/classifier.h"
#include "llm/inference/engine.h"
#include "llm/inference/stop.h"
#include "llm/inference/text_request.h"
#include "llm/models/packed_decoder.h"
#include "llm/support/file.h"
#include "llm/support/output.h"
#include "llm/support/progress.h"
#include "llm/support/terminal.h"
#include "llm/text/tokenizer.h"
#include "llm/training/inspect.h"

using nlohmann::json;

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

struct Flags {
  std::string model, tokenizer;  // tokenizer: a file; empty: the model directory's tokenizer
  std::string prompts;           // a file; empty: the one prompt
  std::string cache;             // fp32 | bf16; empty: fp32 with --precision fp32
  TextRequest request;           // the one prompt, and what a file's leave open
  int samples = 1, batch = 16;
  int64_t cache_tokens = 0;  // 0: enough for the batch
  bool ids = false;          // prompt and text are token ids
  bool special = true;       // special tokens in a prompt are those tokens
  bool keep_going = false;   // continue after the end of a text
  bool as_json = false, memory = false, reuse = true;
  DeviceFlags device;

  bool one_text() const { return prompts.empty() && samples == 1; }
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

// ---- the model -----------------------------------------------------------------------------------------------------

constexpr int kMaxRows = 256;  // tokens per pass: a block of rows in products, and prompts pass in few passes

struct LoadedModel {
  std::unique_ptr<Model> model;  // whose decoder it is, on a GPU and with --reference
  std::unique_ptr<Decoder> decoder;
  std::vector<MemoryRow> memory;
};

// The CPU's own decoder, with weights in the precision in which they are multiplied; else that of a model.
LoadedModel load_model(const Flags& flags, const ModelConfig& shape, int pages) {
  LoadedModel loaded;
  if (flags.device.on_gpu() || flags.device.reference) {
    loaded.model = make_device_model(flags.device, shape, {.trainable = trains_nothing(shape)}, 1, 1);
    load_weights(*loaded.model, flags.model);
    loaded.decoder = loaded.model->make_decoder(pages, kMaxRows);
    return loaded;
  }
  const std::string& precision = flags.device.precision;
  PackedOptions options;
  options.weights = precision == "int8" ? WeightType::int8 : precision == "bf16" ? WeightType::bf16 : WeightType::f32;
  options.cache_bf16 = flags.cache.empty() ? precision != "fp32" : flags.cache == "bf16";
  options.pages = pages, options.max_rows = kMaxRows;
  std::unique_ptr<PackedDecoder> decoder = make_packed_decoder(shape, options);
  const PackedBytes bytes = decoder->bytes();
  int64_t largest = 0;
  for (const ParamTensor& tensor : decoder->table) largest = std::max(largest, tensor.size());
  loaded.memory = {
      {"weights", precision, bytes.weights},
      {"cache", strprintf("%d tokens, %s", pages * kPageTokens, options.cache_bf16 ? "bf16" : "fp32"), bytes.cache},
      {"activations", strprintf("%d tokens at a time", kMaxRows), bytes.activations},
      {"loading", "one tensor at a time, fp32", 4 * largest}};
  check_machine_memory(loaded.memory, strprintf("the model and a cache of %d tokens", pages * kPageTokens),
                       "take a smaller {cache-tokens} or {batch}");
  if (!flags.memory) load_weights(*decoder, flags.model);
  loaded.decoder = std::move(decoder);
  return loaded;
}

// ---- texts ---------------------------------------------------------------------------------------------------------

// A text as it is written.
struct Text {
  const TextRequest* of;
  size_t index, sample;  // of the prompt, of its samples
  uint64_t seed;
  StopStream stop;
  std::string text = {};
  std::vector<int32_t> tokens = {};
  std::vector<LogProbabilities> probabilities = {};  // of each token, if they are wanted
  Ended ended = Ended::not_yet;
};

class Writer {
 public:
  Writer(const Flags& flags, const Tokenizer* tokenizer) : flags_(flags), tokenizer_(tokenizer) {}

  void begin(int64_t request, Text text) { texts_.emplace(request, std::move(text)); }

  // Returns whether the text continues.
  bool take(const NewToken& token) {
    Text& text = texts_.at(token.request);
    if (token.token >= 0) {
      text.tokens.push_back(token.token);
      if (text.of->request.top) text.probabilities.push_back(token.probabilities);
      const bool known = tokenizer_ && token.token < tokenizer_->vocab_size();
      if (known) add(text, text.stop.next(tokenizer_->bytes_of(token.token)));
      if (!tokenizer_ && flags_.one_text() && !flags_.as_json) print_text(strprintf("%d ", token.token));
    }
    text.ended = text.stop.stopped() ? Ended::stopped : token.ended;
    if (text.ended == Ended::not_yet) return true;
    add(text, text.stop.finish());
    if (flags_.one_text() && !flags_.as_json) print_text("\n");
    // JSON lines come in the order of the prompts.
    while (flags_.as_json && !texts_.empty() && texts_.begin()->second.ended != Ended::not_yet) {
      print_line(texts_.begin()->second);
      texts_.erase(texts_.begin());
    }
    return false;
  }

 private:
  void add(Text& text, const std::string& more) {
    text.text += more;
    if (!flags_.as_json) print_text(more);
  }

  json probability_of(int32_t token, double log_probability) const {
    json entry = {{"token", token}, {"logprob", std::isfinite(log_probability) ? json(log_probability) : json()}};
    if (tokenizer_ && token < tokenizer_->vocab_size()) {
      entry["text"] = replace_invalid_utf8(tokenizer_->bytes_of(token));
    }
    return entry;
  }

  void print_line(const Text& text) const {
    json line = {{"index", text.index}, {"sample", text.sample}, {"seed", text.seed}, {"ended", name_of(text.ended)}};
    if (!text.of->id.is_null()) line["id"] = text.of->id;
    line["tokens"] = text.tokens;
    if (tokenizer_) {
      if (!text.of->ids) line["prompt"] = replace_invalid_utf8(text.of->prompt);
      line["text"] = text.text;
    }
    if (text.stop.stopped()) line["stop"] = text.of->stops[static_cast<size_t>(text.stop.stopped_by())];
    for (size_t i = 0; i < text.probabilities.size(); ++i) {
      json entry = probability_of(text.tokens[i], text.probabilities[i].chosen);
      entry["top"] = json::array();
      for (const TokenLogProbability& top : text.probabilities[i].top) {
        entry["top"].push_back(probability_of(top.id, top.log_probability));
      }
      line["logprobs"].push_back(entry);
    }
    Output::print(line.dump() + "\n");
  }

  const Flags& flags_;
  const Tokenizer* tokenizer_;
  std::map<int64_t, Text> texts_;  // by number: those that are being written, and those that wait for earlier ones
};

// The prompts as requests, in their order: each with its number among all, and of its samples.
struct Prompts {
  std::vector<TextRequest> requests;
  std::optional<Tokenizer> tokenizer;
};

Prompts read_prompts(const Flags& flags, const ModelConfig& shape) {
  Prompts all;
  if (!flags.ids) {
    if (flags.tokenizer.empty()) all.tokenizer = find_tokenizer(flags.model);
    if (!all.tokenizer) all.tokenizer = load_tokenizer(flags.tokenizer.empty() ? flags.model : flags.tokenizer);
    check_tokenizer(*all.tokenizer, shape, flags.tokenizer.empty() ? flags.model : flags.tokenizer);
  }
  if (flags.prompts.empty()) {
    all.requests = {flags.request};
  } else {
    all.requests = read_text_requests(flags.prompts, flags.request);
  }
  const int end = all.tokenizer ? all.tokenizer->end_of_text() : -1;
  int longest = 0;
  for (TextRequest& request : all.requests) {
    std::vector<int32_t>& ids = request.request.prompt;
    if (!all.tokenizer) {
      if (!request.ids) ids = parse_ids(request.prompt);
    } else if (!request.ids) {
      ids = all.tokenizer->encode(request.prompt, flags.special ? Special::parsed : Special::text);
      if (ids.empty() && end >= 0) ids = {end};
    }
    if (ids.empty()) {
      fail_usage("{prompt} is empty, and this model has no end-of-text token to start from: give a prompt");
    }
    if (!flags.keep_going && end >= 0) request.request.end_tokens = {end};
    longest = std::max(longest, static_cast<int>(ids.size()));
  }
  if (longest > shape.max_seq_len) {
    std::fprintf(stderr, "note: %s of %d tokens is longer than the model's context; it sees only the last %d\n",
                 all.requests.size() == 1 ? "the prompt" : "a prompt", longest,
                 shape.max_seq_len - flags.request.request.slide + 1);
  }
  return all;
}

void print_speed(const Engine& engine, size_t texts, double seconds) {
  const EngineCounts& counts = engine.counts();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::string shared =
      counts.reused > 0 ? strprintf(", %lld more were shared", static_cast<long long>(counts.reused)) : "";
  std::fprintf(stderr,
               "(%zu %s, %lld tokens in %.2f s: %.1f tokens/s; %lld tokens of prompts%s; memory at most %.0f MB)\n",
               texts, texts == 1 ? "text" : "texts", static_cast<long long>(counts.generated), seconds,
               static_cast<double>(counts.generated) / std::max(seconds, 1e-9), static_cast<long long>(counts.prompt),
               shared.c_str(), static_cast<double>(usage.ru_maxrss) * 1024 / 1e6);
}

void continue_prompts(const Flags& flags) {
  const std::string& dir = flags.model;
  const ModelConfig shape = read_model_config(dir);
  if (shape.num_classes > 0) {
    fail("%s: a classifier of %d classes, expected a model that predicts the next token: ask it with --classify TEXT",
         dir.c_str(), shape.num_classes);
  }
  check_language_model(shape, dir);
  if (flags.request.request.slide > shape.max_seq_len) {
    fail_usage("--slide %d is beyond the model's context of %d tokens", flags.request.request.slide, shape.max_seq_len);
  }
  const Prompts prompts = read_prompts(flags, shape);
  const Tokenizer* tokenizer = prompts.tokenizer ? &*prompts.tokenizer : nullptr;
  const size_t all = prompts.requests.size() * static_cast<size_t>(flags.samples);

  // 1. Memory, and the model.
  const int batch = static_cast<int>(std::min<size_t>(all, static_cast<size_t>(flags.batch)));
  int64_t pages = (flags.cache_tokens + kPageTokens - 1) / kPageTokens;
  if (flags.cache_tokens == 0) {
    int64_t longest = 0;
    for (const TextRequest& request : prompts.requests) {
      longest = std::max(longest, static_cast<int64_t>(request.request.prompt.size()) + request.request.tokens);
    }
    pages = batch * ((std::min<int64_t>(longest, shape.max_seq_len) + kPageTokens - 1) / kPageTokens);
  }
  const LoadedModel loaded = load_model(flags, shape, static_cast<int>(pages));
  if (flags.memory) return print_memory(loaded.memory);

  // 2. Requests join as there is room for them; texts are printed as they are written, or in lines of JSON.
  Engine engine(*loaded.decoder, batch, flags.reuse);
  Writer writer(flags, tokenizer);
  const auto start = std::chrono::steady_clock::now();
  if (flags.one_text() && !flags.as_json && tokenizer) print_text(flags.request.prompt);
  for (size_t next = 0; next < all || engine.busy();) {
    for (; next < all && engine.waiting() < static_cast<size_t>(batch); ++next) {
      const size_t index = next / static_cast<size_t>(flags.samples),
                   sample = next % static_cast<size_t>(flags.samples);
      const TextRequest& text = prompts.requests[index];
      Request request = text.request;
      request.seed += sample;
      const int64_t number = engine.add(request);
      writer.begin(number, {&text, index, sample, request.seed, StopStream(text.stops)});
    }
    engine.step([&](const NewToken& token) { return writer.take(token); });
  }
  if (flags.as_json || ::isatty(STDERR_FILENO)) print_speed(engine, all, seconds_since(start));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Continues prompts with a trained model, or asks a classifier.");
  Flags flags;
  std::string text;
  Request& request = flags.request.request;
  SamplerConfig& sampler = request.sampler;
  sampler.temperature = 0.8;
  bool greedy = false, no_cache = false;
  std::optional<uint64_t> seed;
  app.add_option(
         "--model", flags.model,
         "model directory (a run's latest/, or one that transformers saved), TensorFlow checkpoint, llm.c .bin, .gguf")
      ->required();
  app.add_option("--tokenizer", flags.tokenizer, "tokenizer file; default: the model's own");
  CLI::Option* prompt =
      app.add_option("--prompt", flags.request.prompt, "text to continue; default: the start of a text");
  app.add_option(
         "--prompts", flags.prompts,
         "file of prompts, one per line, or .jsonl with settings for each (docs/generation.md); prints lines of JSON")
      ->excludes(prompt);
  CLI::Option* markers = app.add_flag(
      "--special,!--no-special", flags.special,
      "<|endoftext|> and the vocabulary's other special tokens in the prompt are those tokens (default), or text");
  CLI::Option* classified =
      app.add_option("--classify", text, "a text for a classifier: prints its class and each class's probability");
  classified->excludes(prompt)->excludes("--prompts")->excludes("--tokenizer")->excludes(markers);
  app.add_option("--tokens", request.tokens, "tokens to make, at most")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  app.add_option("--stop", flags.request.stops, "the text ends before this string; may be given several times")
      ->take_all()
      ->expected(1)
      ->check(CLI::Validator([](std::string& stop) { return stop.empty() ? "expected a text that is not empty" : ""; },
                             ""));
  app.add_flag("--keep-going", flags.keep_going, "continue after the end of a text");
  app.add_option("--samples", flags.samples,
                 "texts for each prompt, with the seeds --seed, --seed + 1, ...; lines of JSON")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seed", seed, "same seed, same text; default: a new one each time");

  app.add_option("--temperature", sampler.temperature, "logits are divided by it; 0: greedy")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  app.add_flag("--greedy", greedy, "always the most likely token");
  app.add_option("--top-k", sampler.top_k, "only the k most likely tokens; 0: all")
      ->check(CLI::Range(0, 1 << 28))
      ->capture_default_str();
  app.add_option("--top-p", sampler.top_p, "only the most likely tokens that together reach p")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--min-p", sampler.min_p, "only tokens at least p times as likely as the most likely one")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampler.repetition_penalty,
                 "divides the logits of tokens that the prompt or the text has; 1: none")
      ->capture_default_str();
  app.add_option("--frequency-penalty", sampler.frequency_penalty,
                 "subtracted from a token's logit for each time that the text has it")
      ->check(CLI::Range(-2.0, 2.0))
      ->capture_default_str();
  app.add_option("--presence-penalty", sampler.presence_penalty,
                 "subtracted from the logits of tokens that the text has")
      ->check(CLI::Range(-2.0, 2.0))
      ->capture_default_str();

  app.add_flag("--json", flags.as_json, "a line of JSON for each text, when it has ended");
  app.add_option("--logprobs", request.top,
                 "log-probabilities of each token and of the k most likely ones; lines of JSON")
      ->check(CLI::Range(0, 1 << 20));
  app.add_flag("--ids", flags.ids, "prompts and texts are token ids: needs no tokenizer")->excludes(markers);
  app.add_option("--slide", request.slide,
                 "tokens that leave a full context together; the others are computed again, so larger is faster but "
                 "leaves less context")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  add_decode_flags(app, flags.device);
  app.add_option("--cache", flags.cache,
                 "fp32 | bf16: type of the cached keys and values; default: as --precision, bf16 with int8")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--batch", flags.batch, "texts that are written at a time, at most")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--cache-tokens", flags.cache_tokens,
                 "tokens for which there is memory; requests wait for it; 0: enough for --batch texts")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  app.add_flag("--no-cache", no_cache, "keep no keys and values: every token recomputes the whole window");
  app.add_flag("--memory", flags.memory, "print what the model and the cache take, and end");

  for (const char* of_texts : {"--stop", "--samples", "--json", "--logprobs", "--cache", "--batch", "--cache-tokens",
                               "--no-cache", "--memory"}) {
    classified->excludes(of_texts);
  }

  return run_program(app, argc, argv, [&] {
    settle_device(flags.device);
    if (!flags.cache.empty() && (flags.device.on_gpu() || flags.device.reference)) {
      fail_usage("--cache is for the CPU's fast path; elsewhere keys and values have the precision of the model");
    }
    if (flags.memory && (flags.device.on_gpu() || flags.device.reference)) {
      fail_usage("--memory is for the CPU's fast path");
    }
    if (greedy) sampler.temperature = 0;
    validate(sampler);
    request.seed = seed ? *seed : std::random_device{}();
    flags.reuse = !no_cache;
    flags.as_json = flags.as_json || !flags.one_text() || request.top;
    if (classified->count() > 0 && flags.device.precision == "int8") {
      fail_usage("--precision int8 is for texts that are continued, not for --classify");
    }
    if (classified->count() > 0) return print_classes(flags.model, text, flags.device);
    continue_prompts(flags);
  });
}
