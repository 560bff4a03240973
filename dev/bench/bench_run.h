// What bench_kernels.cu is put together from: a way to measure, which is bench_time.cu (times, on a GPU) or
// bench_count.cu (counts, in cudasim), a page, and a budget.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dev/bench/bench.h"

namespace bench {

using json = nlohmann::ordered_json;

// ---- measuring: one of the two files -------------------------------------------------------------------------------

struct MeasureOptions {
  bool quick = false;
  double seconds = 3;  // on a GPU, a ladder
};

extern const bool kCounts;  // counts, or times

// The results so far: "device", "kind" ("gpu" or "cudasim"), "date", "ceilings", which on a GPU are measured here.
// Throws where there is no device.
json open_device(const MeasureOptions& options);
Problem make_problem();

// Runs a version after the ladder's reset(), once on set 0, and has it checked; then measures. Adds to `version` what
// it found. Throws what check() throws; the version's run() may throw as well.
void measure(const Ladder& ladder, const Version& version, const MeasureOptions& options, const json& ceilings,
             json& result);

// A ladder's results as a table of text.
std::string table(const json& ladder);

// ---- report --------------------------------------------------------------------------------------------------------

// A page for a browser that needs nothing besides itself.
std::string html_page(const json& results);

// What the last versions of results' ladders were counted to do, as a budget file has it.
json make_budget(const json& results);

// One line for each figure that is above the budget's, and each kernel or ladder that only one of the two has
// (ladders of the budget that were not run: if all_ladders were to be). Throws Error for a budget that is none.
std::vector<std::string> budget_excesses(const json& budget, const json& results, const std::string& path,
                                         bool all_ladders);

}  // namespace bench
