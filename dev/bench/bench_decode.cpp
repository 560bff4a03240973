// Decoding on the CPU compared with the speed of memory: each precision reads all its weights once per pass.
//
//   build/bench_decode                                        GPT-2 124M, random weights
//   build/bench_decode --model gpt2-nano --vocabulary 4096
//   build/bench_decode --weights DIR --text FILE              also what each precision costs in loss, and how often its
//                                                             most likely next token is that of fp32
// Rounds alternate: a sum over 1 GiB by the same threads, then passes of one sequence at position 10 and at the last
// one, of 8 sequences, and a prompt. Shares and ratios are medians over the rounds.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>

#include "dev/bench/table.h"
#include "kernels/kv_cache.h"
#include "llm/flags/command_line.h"
#include "llm/flags/train_flags.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/packed_decoder.h"
#include "llm/support/file.h"
#include "llm/text/tokenizer.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  std::string model = "gpt2", weights, text, tokenizer;
  std::vector<std::string> precisions{"fp32", "bf16", "int8"};
  int vocabulary = 0, rounds = 9, tokens = 20, sequences = 8, prompt = 512, threads = 0;
  int64_t limit = 1 << 16;
  bool markdown = false;
};

double seconds_of(auto&& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Four vectors of sums side by side, with the widest vectors that the machine has: memory is the limit.
#if defined(__x86_64__)
#define WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDEST
#endif
WIDEST float sum_of(const float* begin, const float* end) {
  typedef float Vec __attribute__((vector_size(64), aligned(4)));
  Vec a{}, b{}, c{}, d{};
  for (const float* p = begin; p + 64 <= end; p += 64) {
    a += *reinterpret_cast<const Vec*>(p);
    b += *reinterpret_cast<const Vec*>(p + 16);
    c += *reinterpret_cast<const Vec*>(p + 32);
    d += *reinterpret_cast<const Vec*>(p + 48);
  }
  a += b + c + d;
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += a[i];
  return sum;
}

// 1 GiB of numbers, and the rate at which all threads together read it.
class Memory {
 public:
  Memory()
      : data_(
            static_cast<float*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    if (data_ == MAP_FAILED) fail("1 GiB of memory is not there");
    ::madvise(data_, kBytes, MADV_HUGEPAGE);
#pragma omp parallel for
    for (int64_t i = 0; i < kNumbers; ++i) data_[i] = static_cast<float>(i % 7);
  }
  ~Memory() { ::munmap(data_, kBytes); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  double bytes_per_second() {
    const double seconds = seconds_of([&] {
      double sum = 0;
      const int threads = cpu_threads();
#pragma omp parallel for reduction(+ : sum) schedule(static, 1)
      for (int t = 0; t < threads; ++t)
        sum += sum_of(data_ + kNumbers * t / threads, data_ + kNumbers * (t + 1) / threads);
      sum_ = sum;
    });
    return kBytes / seconds;
  }

 private:
  static constexpr int64_t kNumbers = 1 << 28, kBytes = 4 * kNumbers;
  float* data_;
  volatile double sum_ = 0;
};

class Passes {
 public:
  Passes(const ModelConfig& shape, const std::string& precision, int sequences, int max_rows)
      : max_pages_(pages_of(shape.max_seq_len)) {
    PackedOptions options;
    options.weights = precision == "int8" ? WeightType::int8 : precision == "bf16" ? WeightType::bf16 : WeightType::f32;
    options.cache_bf16 = precision != "fp32";
    options.pages = max_pages_ * sequences, options.max_rows = max_rows;
    decoder = make_packed_decoder(shape, options);
    pages_.resize(static_cast<size_t>(options.pages));
    std::iota(pages_.begin(), pages_.end(), 0);
  }

  // One pass: tokens [first, first + n) of `sequences` sequences that have the same text; all logits or the last ones.
  void run(std::span<const int32_t> text, int sequences, int first, int n, bool all = false) {
    std::vector<int32_t> tokens, positions, of, wanted;
    for (int s = 0; s < sequences; ++s) {
      for (int t = first; t < first + n; ++t) {
        if (all || t == first + n - 1) wanted.push_back(static_cast<int32_t>(tokens.size()));
        tokens.push_back(text[static_cast<size_t>(t)]);
        positions.push_back(t);
        of.push_back(s);
      }
    }
    decoder->forward({tokens, positions, of, pages_, max_pages_, wanted});
  }
  // A text into the cache.
  void fill(std::span<const int32_t> text, int sequences, int n) {
    for (int s = 0; s < sequences; ++s) {
      for (int first = 0; first < n; first += decoder->max_rows) {
        run(text, s + 1, first, std::min(n - first, decoder->max_rows / (s + 1)));
      }
    }
  }

  std::unique_ptr<PackedDecoder> decoder;

 private:
  int max_pages_;
  std::vector<int32_t> pages_;
};

void write_random_weights(PackedDecoder& decoder) {
  uint32_t state = 1;
  std::vector<float> values;
  for (const ParamTensor& tensor : decoder.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    for (float& value : values) {
      state = state * 1664525 + 1013904223;
      value = (static_cast<float>(state >> 8) * 0x1p-23f - 1) * 0.04f + (tensor.init == Init::ones ? 1.0f : 0.0f);
    }
    decoder.write(tensor, values.data());
  }
}

std::string number(const char* format, double value) { return strprintf(format, value); }

// One line of the table.
std::vector<std::string> measure(const Flags& flags, const ModelConfig& shape, const std::string& precision,
                                 Memory& memory) {
  const int late = std::min(1000, shape.max_seq_len - 1), prompt = std::min(flags.prompt, shape.max_seq_len);
  Passes passes(shape, precision, flags.sequences, std::max(prompt, flags.sequences));
  if (flags.weights.empty()) {
    write_random_weights(*passes.decoder);
  } else {
    load_weights(*passes.decoder, flags.weights);
  }
  std::vector<int32_t> text(static_cast<size_t>(shape.max_seq_len));
  for (size_t i = 0; i < text.size(); ++i)
    text[i] = static_cast<int32_t>(i * 37 % static_cast<size_t>(shape.vocab_size));
  for (int first = 0; first < late; first += prompt) passes.run(text, 1, first, std::min(prompt, late - first));
  for (int t = 0; t < 10; ++t) passes.run(text, flags.sequences, t, 1);
  const double bytes = static_cast<double>(passes.decoder->bytes_per_pass());
  std::vector<double> share, rate, growth, together, prompts;
  for (int round = 0; round < flags.rounds + 1; ++round) {
    const auto per_pass = [&](int sequences, int at) {
      return seconds_of([&] {
               for (int i = 0; i < flags.tokens; ++i) passes.run(text, sequences, at, 1);
             }) /
             flags.tokens;
    };
    const double before = memory.bytes_per_second(), early = per_pass(1, 10), after = memory.bytes_per_second();
    const double end = per_pass(1, late), many = per_pass(flags.sequences, 10);
    const double first = seconds_of([&] { passes.run(text, 1, 0, prompt); });
    if (round == 0) continue;  // touches new memory
    rate.push_back(1 / early);
    share.push_back(bytes / early / ((before + after) / 2));
    growth.push_back(end / early);
    together.push_back(flags.sequences * early / many);
    prompts.push_back(prompt / first);
  }
  const PackedBytes planned = passes.decoder->bytes();
  return {precision,
          number("%.1f", bytes / 1e6),
          number("%.1f", median(rate)),
          number("%.1f %%", 100 * median(share)),
          number("%.2f", median(growth)),
          number("%.2f", median(together)),
          number("%.0f", median(prompts)),
          number("%.0f", static_cast<double>(planned.weights) / 1e6),
          number("%.0f", static_cast<double>(planned.cache) / 1e6)};
}

// ---- what a precision costs ----------------------------------------------------------------------------------------

struct Predictions {
  double loss = 0;                 // mean, nats per token
  std::vector<int32_t> likeliest;  // after each token
};

Predictions predict(const Flags& flags, const ModelConfig& shape, const std::string& precision,
                    std::span<const int32_t> ids) {
  const int T = shape.max_seq_len, rows = std::min(T, 256);
  Passes passes(shape, precision, 1, rows);
  load_weights(*passes.decoder, flags.weights);
  Predictions found;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += static_cast<size_t>(T)) {
    const auto window = ids.subspan(begin, std::min<size_t>(static_cast<size_t>(T), ids.size() - 1 - begin));
    for (int first = 0; first < std::ssize(window); first += rows) {
      const int n = static_cast<int>(std::min<int64_t>(rows, std::ssize(window) - first));
      passes.run(window, 1, first, n, true);
      for (int i = 0; i < n;) {
        const Decoder::Logits logits = passes.decoder->logits(i);
        for (int k = 0; k < logits.count; ++k, ++i) {
          const float* row = logits.data + k * logits.stride;
          const float* max = std::max_element(row, row + shape.vocab_size);
          double sum = 0;
          for (int v = 0; v < shape.vocab_size; ++v) sum += std::exp(static_cast<double>(row[v]) - *max);
          const int32_t target = ids[begin + static_cast<size_t>(first + i) + 1];
          found.loss += std::log(sum) + static_cast<double>(*max) - static_cast<double>(row[target]);
          found.likeliest.push_back(static_cast<int32_t>(max - row));
        }
      }
    }
  }
  found.loss /= static_cast<double>(found.likeliest.size());
  return found;
}

void compare_predictions(const Flags& flags, const ModelConfig& shape) {
  const Tokenizer tokenizer = Tokenizer::load(flags.tokenizer.empty() ? flags.weights : flags.tokenizer);
  std::vector<int32_t> ids = tokenizer.encode_parallel(MappedFile(flags.text).text(), Special::parsed, 0);
  ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(flags.limit)));
  if (ids.size() < 2) fail("%s: a text of at least 2 tokens is needed", flags.text.c_str());
  const Predictions exact = predict(flags, shape, "fp32", ids);
  std::vector<std::vector<std::string>> rows = {{"precision", "loss", "above fp32", "same next token"}};
  for (const std::string& precision : flags.precisions) {
    const Predictions found = precision == "fp32" ? exact : predict(flags, shape, precision, ids);
    size_t same = 0;
    for (size_t i = 0; i < exact.likeliest.size(); ++i) same += exact.likeliest[i] == found.likeliest[i];
    rows.push_back(
        {precision, number("%.4f", found.loss), number("%+.4f", found.loss - exact.loss),
         number("%.2f %%", 100.0 * static_cast<double>(same) / static_cast<double>(exact.likeliest.size()))});
  }
  std::printf("\n%zu tokens of %s\n", exact.likeliest.size(), flags.text.c_str());
  print_table(rows, 1, flags.markdown);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Decoding on the CPU compared with the speed of memory.");
  Flags flags;
  app.add_option("--model", flags.model, "a preset's shape, with random weights")->capture_default_str();
  app.add_option("--vocabulary", flags.vocabulary, "of that shape; default: its own")->check(CLI::Range(2, 1 << 24));
  app.add_option("--weights", flags.weights, "a model to decode with instead")
      ->excludes("--model")
      ->excludes("--vocabulary");
  CLI::Option* text =
      app.add_option("--text", flags.text, "a text, whose loss in each precision is measured")->needs("--weights");
  app.add_option("--tokenizer", flags.tokenizer, "tokenizer file; default: that of --weights")->needs(text);
  app.add_option("--limit", flags.limit, "tokens of the text, at most")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  app.add_option("--precision", flags.precisions, "of fp32 bf16 int8; default: all")
      ->check(CLI::IsMember({"fp32", "bf16", "int8"}));
  app.add_option("--rounds", flags.rounds, "rounds; 0: measures no speed")
      ->check(CLI::Range(0, 10000))
      ->capture_default_str();
  app.add_option("--tokens", flags.tokens, "passes per measurement")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--sequences", flags.sequences, "that are decoded together")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--prompt", flags.prompt, "tokens of the prompt")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--threads", flags.threads, "CPU threads; 0: all cores")->check(CLI::Range(0, 4096));
  app.add_flag("--markdown", flags.markdown, "tables for a page");
  return run_program(app, argc, argv, [&] {
    if (flags.threads > 0) set_cpu_threads(flags.threads);
    const ModelPreset* preset = find_preset(flags.model);
    if (!preset) fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4", flags.model.c_str());
    ModelConfig shape = flags.weights.empty() ? preset->shape : read_model_config(flags.weights);
    if (flags.vocabulary > 0) shape.vocab_size = flags.vocabulary;
    if (flags.rounds > 0) {
      Memory memory;
      std::vector<std::vector<std::string>> rows = {
          {"precision", "MB per pass", "tokens/s", "of memory's speed",
           strprintf("time at %d / at 10", std::min(1000, shape.max_seq_len - 1)),
           strprintf("%d sequences / 1", flags.sequences),
           strprintf("prompt of %d, tokens/s", std::min(flags.prompt, shape.max_seq_len)), "weights, MB",
           strprintf("cache of %d, MB", flags.sequences)}};
      for (const std::string& precision : flags.precisions) rows.push_back(measure(flags, shape, precision, memory));
      print_table(rows, 1, flags.markdown);
      std::printf("memory: %.1f GB/s, %d threads\n", memory.bytes_per_second() / 1e9, cpu_threads());
    }
    if (!flags.text.empty()) compare_predictions(flags, shape);
  });
}
