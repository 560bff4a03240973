// Appendix A of the book, by wrought's means: the data shared out to two processes, and their gradients averaged. Part
// of book.cpp.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/dataloader.h"

// The content of a row.
struct Outcome {
  std::string ours;
  bool pass = false;
  std::string why_not = {};  // "skipped: ..." if it cannot be computed here
};

// A folder for files that are not kept.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "wrought-book-XXXXXX").string();
    if (!::mkdtemp(name.data())) fail("%s: a temporary folder cannot be made", name.c_str());
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// ---- the data ------------------------------------------------------------------------------------------------------

// Counts where the windows of three shuffled epochs over a text's bytes go. Each byte is replaced by its position, so
// that a window shows where it is from even if the text has it twice.
inline Outcome windows_shared_out(const std::string& text) {
  constexpr int B = 2, T = 100, ranks = 2, epochs = 3;  // of the-verdict's 20,479 bytes all 204 windows fill batches
  const int64_t windows = (static_cast<int64_t>(text.size()) - 1) / T;
  if (windows < B * ranks) return {"", false, strprintf("skipped: the text has less than %d bytes", B * ranks * T + 1)};
  const ScratchFolder folder;
  const std::filesystem::path shard = folder.path() / "positions.bin";
  std::vector<int32_t> positions(text.size());
  std::iota(positions.begin(), positions.end(), 0);
  write_shard(shard, positions, static_cast<int>(positions.size()));

  std::array<DataLoader, ranks> loaders = {
      DataLoader(TokenSequence::open(shard.string()), LoaderConfig{B, T, 0, true, 123, 0, ranks, true}),
      DataLoader(TokenSequence::open(shard.string()), LoaderConfig{B, T, 0, true, 123, 1, ranks, true})};
  std::array<int64_t, ranks> dealt{};  // per epoch
  for (int epoch = 0; epoch < epochs; ++epoch) {
    std::vector<int> times(static_cast<size_t>(windows));
    dealt.fill(0);
    const int64_t batches = loaders[0].batches_per_epoch();
    for (int64_t k = 0; k < batches; ++k) {  // the ranks take turns, also across epochs
      const size_t rank = static_cast<size_t>((epoch * batches + k) % ranks);
      const Batch& batch = loaders[rank].next();
      for (size_t at = 0; at < batch.inputs.size(); at += T) {
        ++times.at(static_cast<size_t>(batch.inputs[at] / T));
        ++dealt[rank];
      }
    }
    const auto twice = std::count_if(times.begin(), times.end(), [](int n) { return n > 1; });
    const auto to_none = std::count(times.begin(), times.end(), 0);
    // Windows that fill no batch are left out; with an odd number of batches one rank has one more.
    if (twice > 0 || to_none != windows % B || std::abs(dealt[0] - dealt[1]) > (batches % ranks) * B) {
      return {strprintf("epoch %d: %lld and %lld of %lld, %lld twice, %lld to none", epoch,
                        static_cast<long long>(dealt[0]), static_cast<long long>(dealt[1]),
                        static_cast<long long>(windows), static_cast<long long>(twice),
                        static_cast<long long>(to_none))};
    }
  }
  return {strprintf("%lld + %lld of %lld, none twice", static_cast<long long>(dealt[0]),
                    static_cast<long long>(dealt[1]), static_cast<long long>(windows)),
          true};
}

// ---- the gradients -------------------------------------------------------------------------------------------------

inline bool on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path ? path : "";
  while (!rest.empty()) {
    const size_t end = std::min(rest.find(':'), rest.size());
    const std::filesystem::path file = std::filesystem::path(rest.substr(0, end)) / program;
    if (std::filesystem::is_regular_file(file) && ::access(file.c_str(), X_OK) == 0) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return false;
}

// Runs a program, for two minutes at most; its output goes into the file `log`. Returns "" if it succeeded, otherwise
// its last words.
inline std::string run_program_apart(std::vector<std::string> command, const std::filesystem::path& log) {
  constexpr std::chrono::seconds patience(120), farewell(5);
  // OpenMPI's mpirun does not work for root, often a container's only user, unless allowed to twice.
  std::vector<std::string> added = {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
  std::vector<char*> arguments, environment;
  for (std::string& word : command) arguments.push_back(word.data());
  for (char** variable = environ; *variable; ++variable) environment.push_back(*variable);
  for (std::string& variable : added) environment.push_back(variable.data());
  arguments.push_back(nullptr);
  environment.push_back(nullptr);

  posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ::posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  pid_t process = 0;
  const int error = ::posix_spawnp(&process, arguments[0], &files, nullptr, arguments.data(), environment.data());
  ::posix_spawn_file_actions_destroy(&files);
  if (error != 0) return command[0] + ": " + std::strerror(error);

  int status = 0;
  bool ended = false;
  const auto wait_for = [&](std::chrono::seconds most) {
    const auto until = std::chrono::steady_clock::now() + most;
    while (!(ended = ::waitpid(process, &status, WNOHANG) != 0) && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  };
  wait_for(patience);
  if (!ended) {
    ::kill(process, SIGTERM);  // mpirun ends those that it has started
    wait_for(farewell);
    if (!ended) {
      ::kill(process, SIGKILL);
      ::waitpid(process, &status, 0);
    }
    return strprintf("it had not ended after %lld s", static_cast<long long>(patience.count()));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";

  // Its last line; but mpirun adds its own paragraph after the program's error.
  std::string last = "it ended without a word", said;
  const MappedFile printed(log);
  std::string_view rest = printed.text();
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    if (line.find_first_not_of("- \r") == std::string_view::npos) continue;
    (line.starts_with("error:") ? said : last) = line;
  }
  return said.empty() ? last : said;
}

// The losses of the steps in a run's metrics.jsonl.
inline std::vector<double> losses_of(const std::filesystem::path& run) {
  std::vector<double> losses;
  const MappedFile file(run / "metrics.jsonl");
  std::string_view rest = file.text();
  while (!rest.empty()) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(text.size() + 1, rest.size()));
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (line.is_object() && line.contains("loss") && line["loss"].is_number()) losses.push_back(line["loss"]);
  }
  return losses;
}

// Trains a small model on the text twice: by one process, and by two with half of every batch each. Passes if no loss
// differs by more than 1e-5: fp32 sums in another order may differ by that.
inline Outcome gradients_averaged(const std::string& text) {
  constexpr int B = 4, T = 64, steps = 20;
  constexpr size_t shortest = 1000;
  const std::filesystem::path trainer = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "train_gpt2";
  if (!std::filesystem::exists(trainer)) return {"", false, "skipped: no train_gpt2 next to this program"};
  if (!on_path("mpirun")) return {"", false, "skipped: no mpirun"};
  if (text.size() < shortest) return {"", false, strprintf("skipped: the text has less than %zu bytes", shortest)};

  const ScratchFolder folder;
  FileWriter data(folder.path() / "text.txt");
  data.write(text);
  data.commit();
  const auto train = [&](std::vector<std::string> command, const char* run, int batch) {
    for (const std::string& word :
         {trainer.string(), std::string("--data"), (folder.path() / "text.txt").string(), std::string("--run"),
          (folder.path() / run).string(), std::string("--batch-size"), std::to_string(batch)}) {
      command.push_back(word);
    }
    // The book's set of windows, and nothing that draws different random numbers in each process.
    for (const char* word :
         {"--tokenizer",  "bytes", "--val-fraction",  "0", "--layers", "2",    "--heads", "2",   "--channels",  "32",
          "--data-order", "fixed", "--dropout",       "0", "--lr",     "3e-3", "--seed",  "123", "--precision", "fp32",
          "--threads",    "1",     "--sample-tokens", "0"}) {
      command.push_back(word);
    }
    for (const auto& [flag, value] :
         {std::pair{"--seq-len", T}, {"--total-batch-tokens", 2 * B * T}, {"--steps", steps}}) {
      command.push_back(flag);
      command.push_back(std::to_string(value));
    }
    return run_program_apart(command, folder.path() / (std::string(run) + ".log"));
  };
  if (const std::string error = train({}, "one", 2 * B); !error.empty()) return {error};
  const std::string error = train({"mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2"}, "two", B);
  if (error.find("was built without MPI") != std::string::npos) {
    return {"", false, "skipped: train_gpt2 was built without MPI"};
  }
  if (!error.empty()) return {error};

  const MappedFile state(folder.path() / "two" / "latest" / "trainer_state.json");
  const auto processes = nlohmann::json::parse(state.text()).value("ranks", 1);
  const std::vector<double> one = losses_of(folder.path() / "one"), two = losses_of(folder.path() / "two");
  if (processes != 2 || one.size() != steps || two.size() != steps) {
    return {strprintf("%zu losses, and %zu of %d processes; expected %d", one.size(), two.size(), processes, steps)};
  }
  double most = 0;
  for (size_t i = 0; i < one.size(); ++i) most = std::max(most, std::abs(one[i] - two[i]));
  return {strprintf("%d losses, %.1e apart", steps, most), most <= 1e-5};
}
