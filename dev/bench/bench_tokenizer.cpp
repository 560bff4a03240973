// Seconds of CPU time per pass over a text, on one thread: how fast Tokenizer encodes and trains.
//   bench_tokenizer encode TOKENIZER TEXT [REPETITIONS]
//   bench_tokenizer train VOCAB_SIZE TEXT [REPETITIONS]
#include <charconv>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/tokenizer.h"

namespace {

int number_from_1(const char* text) {
  int number = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, number);
  if (error != std::errc() || stop != end || number < 1) fail("expected a whole number from 1 on, found '%s'", text);
  return number;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4) fail("usage: %s encode TOKENIZER TEXT [REPETITIONS] | train VOCAB_SIZE TEXT [REPETITIONS]", argv[0]);
  const bool train = std::strcmp(argv[1], "train") == 0;
  const Tokenizer tokenizer = train ? Tokenizer::bytes() : make_tokenizer(argv[2], "");
  const MappedFile file(argv[3]);
  tokenizer.encode(file.text().substr(0, 1));  // the character classes are built on first use
  const int repetitions = argc > 4 ? number_from_1(argv[4]) : 5;
  for (int r = 0; r < repetitions; ++r) {
    const std::clock_t start = std::clock();
    const size_t made =
        train ? static_cast<size_t>(Tokenizer::train_bpe(file.text(), number_from_1(argv[2])).vocab_size())
              : tokenizer.encode(file.text()).size();
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    std::printf("%.6f s  %.1f MB/s  %zu tokens\n", seconds, 1e-6 * static_cast<double>(file.size()) / seconds, made);
  }
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
