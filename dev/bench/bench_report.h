// The uses of the ladders' results: a page, and a budget. Plain C++, no CUDA.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bench {

// What bench_kernels_* write with --json:
//   device, kind ("gpu" or "cudasim"), date
//   ceilings: measured, copy_gbps, matmul_tflops, float_tflops
//   ladders: operation, size, limit, bytes, flops (the minimum), and for each version
//     name, idea, library, kernel (the last: that of kernels/), in_kernels (from there, the last or not)
//     on a GPU  us, us_p10, us_p90, samples, launches_a_sample, gbps, tflops, share (of the ceiling)
//     counted   counts: sums over its kernels, and the same for each; ratio: dram_bytes / bytes. A kernel's DRAM bytes
//               are counted with an empty cache at its start, those of the version with a cache that its kernels share.
//     or error, if it does not compute what the CPU twin computes
using json = nlohmann::ordered_json;

// A self-contained page for a browser.
std::string html_page(const json& results);

// The counts of the versions that are in kernels/, among results' ladders, in the format of a budget file.
json make_budget(const json& results);

// One line for each figure that exceeds the budget, and each kernel or ladder that only one of the two has (including
// ladders of the budget that were not run, if all_ladders were to be). Throws Error for a bad budget.
std::vector<std::string> budget_excesses(const json& budget, const json& results, const std::string& path,
                                         bool all_ladders);

}  // namespace bench
