// How bench_kernels.cu measures: in bench_time.cu (times, on a GPU) or in bench_count.cu (counts, in cudasim).
#pragma once

#include <string>

#include "dev/bench/bench.h"
#include "dev/bench/bench_report.h"

namespace bench {

struct MeasureOptions {
  bool quick = false;
  double seconds = 3;  // on a GPU, per ladder
};

extern const bool kCounts;  // counts, or times

// The results so far: "device", "kind" ("gpu" or "cudasim"), "date", "ceilings", which on a GPU are measured here.
// Throws if there is no device.
json open_device(const MeasureOptions& options);
Problem make_problem();

// Runs a version after the ladder's reset(), once on set 0, and checks it; then measures and adds the findings to
// `version`. Throws what check() and the version's run() throw.
void measure(const Ladder& ladder, const Version& version, const MeasureOptions& options, const json& ceilings,
             json& result);

// A ladder's results as a table of text.
std::string table(const json& ladder);

}  // namespace bench
