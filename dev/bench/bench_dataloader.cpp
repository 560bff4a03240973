// The speed of the data loader: batches from next() with nothing else to do, so that each call waits for the thread
// that makes the batch, and the scan of check_vocabulary. A shard of 100 million tokens in the temporary folder, read
// from memory (the file cache); each figure is the median of 7 runs.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>

#include "llm/support/error.h"
#include "llm/text/dataloader.h"

static double median_seconds(const std::function<void()>& body) {
  std::vector<double> seconds;
  for (int run = 0; run < 7; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

int main() {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / "wrought_bench_dataloader.bin";
  try {
    std::vector<int32_t> tokens(100'000'000);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 2654435761u % 50257);
    write_shard(path, tokens, 50257);
    const TokenSequence data = TokenSequence::open(path.string());
    const double scan = median_seconds([&] { data.check_vocabulary(50257); });
    std::printf("check_vocabulary   %6.2f ms   %8.1f M tokens/s\n", scan * 1e3, 1e-6 * double(data.size()) / scan);
    for (const auto& [B, T] : {std::pair(4, 64), std::pair(12, 64), std::pair(8, 1024), std::pair(64, 1024)}) {
      for (const bool shuffled : {false, true}) {
        DataLoader loader(TokenSequence::open(path.string()), {.B = B, .T = T, .shuffled = shuffled});
        constexpr int batches = 200;
        const double each = median_seconds([&] {
                              for (int k = 0; k < batches; ++k) loader.next();
                            }) /
                            batches;
        std::printf("B=%-3d T=%-5d %-10s %8.1f us per batch   %8.1f M tokens/s\n", B, T,
                    shuffled ? "shuffled" : "sequential", each * 1e6, 1e-6 * B * T / each);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    std::filesystem::remove(path);
    return 1;
  }
  std::filesystem::remove(path);
  return 0;
}
