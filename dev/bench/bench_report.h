// What becomes of the ladders' results: a page, and a budget. Plain C++, no CUDA.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace bench {

// What bench_kernels_* write with --json:
//   device, kind ("gpu" or "cudasim"), date
//   ceilings: measured, copy_gbps, matmul_tflops, float_tflops
//   ladders: operation, size, limit, bytes, flops (the least), and of each version
//     name, idea, library, kernel (the last: that of kernels/), in_kernels (from there, the last or not)
//     on a GPU  us, us_p10, us_p90, samples, launches_a_sample, gbps, tflops, share (of the ceiling)
//     counted   counts: sums over its kernels, and of each the same; ratio: dram_bytes / bytes. A kernel's DRAM bytes
//               are those behind an empty cache, the version's those behind one that its kernels share.
//     or error, where it does not compute what the CPU twin does
using json = nlohmann::ordered_json;

// A page for a browser that needs nothing besides itself.
std::string html_page(const json& results);

// What the versions of results' ladders that are in kernels/ were counted to do, as a budget file has it.
json make_budget(const json& results);

// One line for each figure that is above the budget's, and each kernel or ladder that only one of the two has
// (ladders of the budget that were not run: if all_ladders were to be). Throws Error for a budget that is none.
std::vector<std::string> budget_excesses(const json& budget, const json& results, const std::string& path,
                                         bool all_ladders);

}  // namespace bench
