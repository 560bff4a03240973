// Writes the built-in corpus: small stories whose entropy is known (llm/corpora/stories.h, docs/stories.md).
//
// FILE holds [story]<|endoftext|>[story]<|endoftext|>..., each story ending with its own newline. FILE.entropy.json,
// next to it, holds the floor: no model's mean loss on such stories is below it.
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "llm/corpora/stories.h"
#include "llm/flags/command_line.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;

namespace {

std::string summary(const StoryTotals& totals) {
  return strprintf("%llu stories, %llu bytes; the floor (mean -log p) is %.4f nats per story, %.6f nats per byte\n",
                   static_cast<unsigned long long>(totals.stories), static_cast<unsigned long long>(totals.story_bytes),
                   totals.nats_per_story(), totals.nats_per_byte());
}

void write_to_stdout(uint64_t seed, uint64_t bytes) {
  const auto check = [](bool good) {
    if (!good) fail("standard output cannot be written: %s", std::strerror(errno));
  };
  const StoryTotals totals = make_stories(seed, bytes, [&](std::string_view text, double) {
    check(std::fwrite(text.data(), 1, text.size(), stdout) == text.size());
  });
  check(std::fflush(stdout) == 0);
  std::fputs(summary(totals).c_str(), stderr);
}

void write_to_file(const fs::path& path, uint64_t seed, uint64_t bytes) {
  const fs::path entropy_path = path.string() + ".entropy.json";
  for (const fs::path& p : {path, entropy_path}) {
    std::error_code ignored;
    if (fs::exists(p, ignored) && !fs::is_regular_file(p, ignored)) {
      fail("%s: is not a regular file and will not be replaced; give --out another name, or - for standard output",
           p.c_str());
    }
  }
  FileWriter stories(path), entropy(entropy_path);
  const StoryTotals totals = make_stories(seed, bytes, [&](std::string_view text, double) { stories.write(text); });
  const nlohmann::ordered_json json = {
      {"source", "make_stories, built-in grammar"},
      {"seed", seed},
      {"stories", totals.stories},
      {"bytes", totals.story_bytes},
      {"nats_per_story", totals.nats_per_story()},
      {"nats_per_byte", totals.nats_per_byte()},
      {"entropy_of_source_nats_per_story", StoryGrammar::builtin().entropy()},
  };
  entropy.write(json.dump(2) + "\n");
  stories.commit();
  entropy.commit();
  std::printf("%s: %s", path.c_str(), summary(totals).c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Writes small English stories from a grammar of known entropy, and that entropy next to them.");
  std::string out = "stories.txt";
  uint64_t bytes = 8'000'000, seed = 0;
  app.add_option("--out", out, "file to write, with FILE.entropy.json next to it; - is standard output")
      ->capture_default_str();
  app.add_option("--bytes", bytes, "minimum size; the last story is whole (K, M, G: thousands, millions, ...)")
      ->capture_default_str()
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--seed", seed, "a different seed makes different stories")->capture_default_str();
  return run_program(app, argc, argv, [&] {
    if (out.empty()) fail_usage("--out: expected a file name, found an empty one");
    if (bytes < 1 || bytes > 1'000'000'000'000) {
      fail_usage("--bytes: expected 1 to 1000G, found %llu", static_cast<unsigned long long>(bytes));
    }
    out == "-" ? write_to_stdout(seed, bytes) : write_to_file(out, seed, bytes);
  });
}
