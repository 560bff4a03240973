// Counts in cudasim, in place of times: each version's demands on memory, caches, banks, barriers and tensor cores.
#include <cudasim.h>

#include <algorithm>
#include <cstdio>

#include "dev/bench/bench_run.h"
#include "llm/support/error.h"

namespace bench {

const bool kCounts = true;

namespace {

// The GPU of the predictions, an H100 SXM: 50 MB of cache; ceilings as high as kernels get: 90 % of 3.0 TB/s, 88 % of
// the 795 TFLOP/s that its tensor cores reach with bf16 products; float units by the data sheet.
constexpr double kCacheBytes = 50e6, kCopyGbps = 0.9 * 3000, kMatmulTflops = 0.88 * 795, kFloatTflops = 66.9;

// Multiplies and adds of one "mma.m16n8k16..." by a warp; 0 if it is not an mma.
double mma_flops(const std::string& name) {
  int m = 0, n = 0, k = 0;
  if (std::sscanf(name.c_str(), "mma.m%dn%dk%d", &m, &n, &k) != 3) return 0;
  return 2.0 * m * n * k;
}

double share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// The same names for one kernel and for all kernels of a version.
json counts_of(const cudasim::KernelCounts& c) {
  uint64_t shuffles = 0, mmas = 0;
  double flops = 0;
  for (const auto& [name, count] : c.collectives) {
    if (name.find("shfl") != std::string::npos) shuffles += count;
    if (mma_flops(name) > 0) {
      mmas += count;
      flops += mma_flops(name) * static_cast<double>(count);
    }
  }
  return {{"launches", c.launches},
          {"blocks", c.blocks},
          {"warps", c.warps},
          {"requests", c.read_requests + c.write_requests},
          {"read_bytes", c.read_bytes},
          {"write_bytes", c.write_bytes},
          {"sectors", c.sectors},
          {"least_sectors", c.least_sectors},
          {"dram_bytes", c.dram_read_bytes + c.dram_write_bytes},
          {"dram_read_bytes", c.dram_read_bytes},
          {"dram_write_bytes", c.dram_write_bytes},
          {"distinct_bytes", c.distinct_read_bytes + c.distinct_write_bytes},
          {"shared_requests", c.shared_requests},
          {"bank_conflicts", c.bank_conflicts()},
          {"barriers", c.barriers},
          {"barriers_a_block", share(c.barriers, c.blocks)},
          {"shuffles", shuffles},
          {"mma", mmas},
          {"mma_flops", flops},
          {"atomics", c.atomics},
          {"partial_share", share(c.partial_requests, c.requests)}};
}

void add(cudasim::KernelCounts& to, const cudasim::KernelCounts& c) {
  using Counts = cudasim::KernelCounts;
  for (const auto member : {&Counts::launches,
                            &Counts::blocks,
                            &Counts::warps,
                            &Counts::read_requests,
                            &Counts::write_requests,
                            &Counts::read_bytes,
                            &Counts::write_bytes,
                            &Counts::sectors,
                            &Counts::least_sectors,
                            &Counts::kept_dram_read_bytes,
                            &Counts::kept_dram_write_bytes,
                            &Counts::distinct_read_bytes,
                            &Counts::distinct_write_bytes,
                            &Counts::shared_requests,
                            &Counts::wavefronts,
                            &Counts::least_wavefronts,
                            &Counts::atomics,
                            &Counts::partial_requests,
                            &Counts::requests,
                            &Counts::barriers}) {
    to.*member += c.*member;
  }
  for (const auto& [name, count] : c.collectives) to.collectives[name] += count;
}

// The wasteful lines: more sectors or wavefronts than needed, worst first.
json wasteful_lines(const cudasim::KernelCounts& c) {
  std::vector<const cudasim::LineCounts*> lines;
  const auto waste = [](const cudasim::LineCounts& l) {
    return l.sectors - l.least_sectors + l.wavefronts - l.least_wavefronts;
  };
  for (const cudasim::LineCounts& line : c.lines) {
    if (waste(line) > 0) lines.push_back(&line);
  }
  std::sort(lines.begin(), lines.end(), [&](const auto* a, const auto* b) { return waste(*a) > waste(*b); });
  if (lines.size() > 5) lines.resize(5);
  json list = json::array();
  for (const auto* line : lines) {
    list.push_back({{"place", line->place},
                    {"requests", line->requests},
                    {"sectors", line->sectors},
                    {"least_sectors", line->least_sectors},
                    {"wavefronts", line->wavefronts},
                    {"least_wavefronts", line->least_wavefronts}});
  }
  return list;
}

}  // namespace

json open_device(const MeasureOptions&) {
  if (!cudasim::instrumented()) {
    fail("this program's kernels were compiled without counting: build it with CMake's target bench_kernels_sim");
  }
  cudasim::set_checks(false);  // only counts; the tests check
  cudasim::set_schedule(
      cudasim::Schedule::forward);  // regardless of CUDASIM_SCHEDULE: the cache's contents depend on it
  json results;
  results["device"] = "cudasim, counting; ceilings predicted for an H100 SXM";
  results["kind"] = "cudasim";
  results["ceilings"] = {
      {"measured", false}, {"copy_gbps", kCopyGbps}, {"matmul_tflops", kMatmulTflops}, {"float_tflops", kFloatTflops}};
  return results;
}

Problem make_problem() { return Problem(false, static_cast<size_t>(kCacheBytes)); }

void measure(const Ladder& ladder, const Version& version, const MeasureOptions&, const json&, json& result) {
  if (ladder.reset) ladder.reset();
  CUDA_CHECK(cudaDeviceSynchronize());
  const double scaled = ladder.gpu_bytes > 0 ? kCacheBytes * ladder.bytes / ladder.gpu_bytes : ladder.bytes / 2;
  const size_t cache_bytes = static_cast<size_t>(std::min(scaled, kCacheBytes));
  cudasim::start_counting(cache_bytes);
  std::vector<cudasim::KernelCounts> kernels;
  try {
    version.run(0, nullptr);
  } catch (...) {
    cudasim::stop_counting();
    throw;
  }
  kernels = cudasim::stop_counting();
  CUDA_CHECK(cudaDeviceSynchronize());
  ladder.check();

  cudasim::KernelCounts all;
  json of_kernels = json::array();
  for (const cudasim::KernelCounts& kernel : kernels) {
    add(all, kernel);
    json counts = counts_of(kernel);
    json named = {{"name", kernel.name}};
    named.update(counts);
    named["lines"] = wasteful_lines(kernel);
    of_kernels.push_back(named);
  }
  all.dram_read_bytes = all.kept_dram_read_bytes;
  all.dram_write_bytes = all.kept_dram_write_bytes;
  json counts = counts_of(all);
  counts["cache_bytes"] = cache_bytes;
  counts["ratio"] = counts["dram_bytes"].get<double>() / ladder.bytes;
  counts["kernels"] = of_kernels;
  result["counts"] = counts;
}

std::string table(const json& ladder) {
  std::string text = strprintf("  %-24s %9s %7s %9s %15s %10s %9s %9s %9s %8s\n", "version", "DRAM MB", "/ least",
                               "requests", "sectors (ideal)", "conflicts", "barriers", "shuffles", "mma", "partial");
  for (const json& version : ladder["versions"]) {
    text += strprintf("  %-24s ", version["name"].get<std::string>().c_str());
    if (version.contains("error")) {
      text += "wrong: " + version["error"].get<std::string>() + "\n";
      continue;
    }
    const json& c = version["counts"];
    const auto number = [&](const char* key) { return c[key].get<double>(); };
    const double requests = std::max(number("requests"), 1.0);
    text +=
        strprintf("%9.3f %7.2f %9.0f %7.2f (%5.2f) %10.0f %9.0f %9.0f %9.0f %6.1f %%%s\n", 1e-6 * number("dram_bytes"),
                  number("ratio"), requests, number("sectors") / requests, number("least_sectors") / requests,
                  number("bank_conflicts"), number("barriers"), number("shuffles"), number("mma"),
                  100 * number("partial_share"), version["kernel"].get<bool>() ? "  kernels/" : "");
  }
  return text;
}

}  // namespace bench
