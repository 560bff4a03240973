// The ladders of dev/bench/bench_*.cu: every version checked against the CPU twin, then timed (bench_kernels_cu, on a
// GPU) or counted (bench_kernels_sim, anywhere), as a table, as JSON and as a page. docs/benchmarks.md.
#include <chrono>
#include <ctime>
#include <fstream>
#include <optional>
#include <regex>

#include "dev/bench/bench_run.h"
#include "llm/flags/command_line.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace {

using bench::json;

struct Options {
  std::string only, json_file, html_file, rows_file, budget_file, write_budget_file;
  bool list = false;
  bench::MeasureOptions measure;

  bool kernels_only() const { return !budget_file.empty() || !write_budget_file.empty(); }
};

// The ladders whose operation `only` names; all without it.
std::vector<bench::Registered> chosen(const std::string& only) {
  std::vector<bench::Registered> all = bench::registered(), ladders;
  constexpr size_t kMaxPattern = 200;  // std::regex recurses for each part of one
  if (only.size() > kMaxPattern) {
    fail_usage("--only: a regular expression of %zu characters, expected at most %zu", only.size(), kMaxPattern);
  }
  std::regex pattern;
  try {
    pattern = std::regex(only);
  } catch (const std::regex_error& error) {
    fail_usage("--only: '%s' is not a regular expression: %s", only.c_str(), error.what());
  }
  for (const bench::Registered& ladder : all) {
    if (std::regex_search(ladder.operation, pattern)) ladders.push_back(ladder);
  }
  if (ladders.empty()) fail_usage("--only: no operation matches '%s'; --list prints the operations", only.c_str());
  return ladders;
}

const char* limit_name(bench::Limit limit) {
  switch (limit) {
    case bench::Limit::memory:
      return "memory";
    case bench::Limit::tensor_cores:
      return "tensor_cores";
    default:
      return "float_units";
  }
}

size_t kernel_version(const bench::Ladder& ladder) {
  for (size_t i = ladder.versions.size(); i-- > 0;) {
    if (!ladder.versions[i].library) return i;
  }
  fail("%s has only a library's version", ladder.operation.c_str());
}

// --rows: a line of JSON for each version as soon as it is measured, in case the run is cut short.
class Rows {
 public:
  explicit Rows(const std::string& path) : path_(path) {
    if (path.empty()) return;
    check_output_file(path);
    file_.open(path);
    if (!file_) fail("%s cannot be written", path.c_str());
  }
  void add(const bench::Ladder& ladder, json version) {
    if (path_.empty()) return;
    version.erase("idea");
    json row = {{"operation", ladder.operation}, {"size", ladder.size}};
    row.update(version);
    file_ << row.dump() + "\n" << std::flush;
    if (!file_) fail("%s cannot be written: the disk is full", path_.c_str());
  }

 private:
  std::string path_;
  std::ofstream file_;
};

// Runs one ladder; `wrong` counts the versions that failed their check.
json run_ladder(const bench::Ladder& ladder, const Options& options, const json& ceilings, Rows& rows, int& wrong) {
  json result = {{"operation", ladder.operation}, {"size", ladder.size},   {"limit", limit_name(ladder.limit)},
                 {"bytes", ladder.bytes},         {"flops", ladder.flops}, {"versions", json::array()}};
  const size_t kernel = kernel_version(ladder);
  for (size_t i = 0; i < ladder.versions.size(); ++i) {
    const bench::Version& version = ladder.versions[i];
    const bool in_kernels = version.in_kernels || i == kernel;
    if (options.kernels_only() && !in_kernels) continue;
    if (options.measure.quick && bench::kCounts && i != 0 && i != kernel) continue;
    json entry = {{"name", version.name},
                  {"idea", version.idea},
                  {"library", version.library},
                  {"kernel", i == kernel},
                  {"in_kernels", in_kernels}};
    try {
      bench::measure(ladder, version, options.measure, ceilings, entry);
    } catch (const CudaError& error) {  // the device is no longer usable
      fail("%s, version '%s': %s", ladder.operation.c_str(), version.name.c_str(), error.what());
    } catch (const std::exception& error) {
      ++wrong;
      entry["error"] = error.what();
    }
    rows.add(ladder, entry);
    result["versions"].push_back(entry);
  }
  return result;
}

std::string today() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

// A file to write at the end, opened at the start: a bad path is found before minutes of work.
class Output {
 public:
  explicit Output(const std::string& path) {
    if (!path.empty()) file_.emplace(path);
  }
  void write(const std::string& text) {
    file_->write(text);
    file_->commit();
  }
  explicit operator bool() const { return file_.has_value(); }

 private:
  std::optional<FileWriter> file_;
};

void print(const json& ladder) {
  std::printf("%s  %s  (limit: %s; least %.3f MB, %.3f MFLOP)\n%s\n", ladder["operation"].get<std::string>().c_str(),
              ladder["size"].get<std::string>().c_str(), ladder["limit"].get<std::string>().c_str(),
              1e-6 * ladder["bytes"].get<double>(), 1e-6 * ladder["flops"].get<double>(), bench::table(ladder).c_str());
  std::fflush(stdout);
}

void compare_with_budget(const Options& options, const json& results) {
  const MappedFile file(options.budget_file);
  const json budget = json::parse(parse_json(file.text(), options.budget_file, 8).dump());
  const std::vector<std::string> excesses =
      bench::budget_excesses(budget, results, options.budget_file, options.only.empty());
  for (const std::string& line : excesses) std::fprintf(stderr, "%s\n", line.c_str());
  if (!excesses.empty())
    fail("%zu figures beyond the budget of %s (above)", excesses.size(), options.budget_file.c_str());
  std::printf("within the budget of %s\n", options.budget_file.c_str());
}

void run(const Options& options) {
  const std::vector<bench::Registered> ladders = chosen(options.only);
  if (options.list) {
    for (const bench::Registered& ladder : ladders) std::printf("%s\n", ladder.operation.c_str());
    return;
  }
  Rows rows(options.rows_file);
  Output json_file(options.json_file), html_file(options.html_file), write_budget_file(options.write_budget_file);
  const auto start = std::chrono::steady_clock::now();
  json results = bench::open_device(options.measure);
  results["date"] = today();
  const json ceilings = results["ceilings"];
  std::printf("%s; %s: copy %.0f GB/s, matrix product %.0f TFLOP/s\n\n", results["device"].get<std::string>().c_str(),
              ceilings["measured"].get<bool>() ? "measured ceilings" : "predicted ceilings",
              ceilings["copy_gbps"].get<double>(), ceilings["matmul_tflops"].get<double>());
  const bench::Problem problem = bench::make_problem();
  int wrong = 0;
  results["ladders"] = json::array();
  for (const bench::Registered& ladder : ladders) {
    results["ladders"].push_back(run_ladder(ladder.make(problem), options, ceilings, rows, wrong));
    print(results["ladders"].back());
  }
  std::printf("%zu ladders in %.1f s\n", ladders.size(),
              std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (json_file) json_file.write(results.dump(1) + "\n");
  if (html_file) html_file.write(bench::html_page(results));
  if (wrong > 0) {
    for (const json& ladder : results["ladders"]) {
      for (const json& version : ladder["versions"]) {
        if (!version.contains("error")) continue;
        std::fprintf(stderr, "wrong: %s, version '%s': %s\n", ladder["operation"].get<std::string>().c_str(),
                     version["name"].get<std::string>().c_str(), version["error"].get<std::string>().c_str());
      }
    }
    fail("%d versions do not compute what the CPU twin computes (above)", wrong);
  }
  if (write_budget_file) {
    write_budget_file.write(bench::make_budget(results).dump(1) + "\n");
    std::printf("wrote %s\n", options.write_budget_file.c_str());
  }
  if (!options.budget_file.empty()) compare_with_budget(options, results);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(bench::kCounts
                   ? "Counts the demands of each version of each kernel on a GPU, in cudasim: bytes, sectors, bank "
                     "conflicts, barriers. Each is checked against the CPU twin."
                   : "Times each version of each kernel on this GPU, next to ceilings measured in the same "
                     "run. Each is checked against the CPU twin.");
  Options options;
  app.add_flag("--list", options.list, "print the operations and exit");
  app.add_option("--only", options.only, "operations to run: a regular expression, e.g. '^layernorm'");
  app.add_option("--json", options.json_file, "file for the results");
  app.add_option("--html", options.html_file, "file for the results as a page for a browser");
  app.add_option("--rows", options.rows_file, "file for a line of JSON per version, written as soon as it is measured");
  if (bench::kCounts) {
    app.add_flag("--quick", options.measure.quick, "only the first and the last version of each operation");
    const auto budget = app.add_option("--budget", options.budget_file,
                                       "run only the kernels of kernels/ and fail if they do more than FILE allows");
    app.add_option("--write-budget", options.write_budget_file, "write their current counts as such a FILE")
        ->excludes(budget);
  } else {
    app.add_flag("--quick", options.measure.quick, "fewer repetitions: medians of 7 instead of 31");
    app.add_option("--seconds", options.measure.seconds, "maximum seconds of timing per operation")
        ->capture_default_str()
        ->check(CLI::Range(0.01, 600.0));
  }
  programmatic_launches(false);  // the ladders' kernels do not wait, and each is timed by itself
  return run_program(app, argc, argv, [&] { run(options); });
}
