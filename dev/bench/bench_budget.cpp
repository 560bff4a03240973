// The budget: upper bounds on the counts of the kernels in kernels/; a change that makes one do more fails.
#include <algorithm>
#include <cmath>
#include <map>

#include "dev/bench/bench_report.h"
#include "llm/support/error.h"

namespace bench {

namespace {

struct Figure {
  const char* key;
  const char* meaning;  // for a message
};
const Figure kFigures[] = {
    {"dram_ratio", "bytes to and from memory, for each byte that the launch touches"},
    {"requests", "requests of warps to global memory"},
    {"sector_ratio", "sectors, for each that its bytes need"},
    {"shared_requests", "requests of warps to shared memory"},
    {"bank_conflicts", "wavefronts beyond those that its shared accesses need"},
    {"barriers_a_block", "barriers a block"},
    {"shuffles", "shuffles"},
    {"mma", "mma instructions"},
    {"atomics", "atomic operations"},
    {"partial_share", "share of requests in which a lane is missing"},
};

// Four digits, rounded up: what was counted is then within the budget written from it.
double rounded_up(double x) { return std::max(0.0, std::ceil(x * 1e4 - 1e-6) / 1e4); }

double ratio(const json& counts, const char* part, const char* whole) {
  const double of = counts[whole].get<double>();
  return of > 0 ? counts[part].get<double>() / of : 0;
}

// The work of one kernel, by the keys above.
json figures(const json& counts) {
  return {{"dram_ratio", rounded_up(ratio(counts, "dram_bytes", "distinct_bytes"))},
          {"requests", counts["requests"]},
          {"sector_ratio", rounded_up(ratio(counts, "sectors", "least_sectors"))},
          {"shared_requests", counts["shared_requests"]},
          {"bank_conflicts", counts["bank_conflicts"]},
          {"barriers_a_block", rounded_up(counts["barriers_a_block"].get<double>())},
          {"shuffles", counts["shuffles"]},
          {"mma", counts["mma"]},
          {"atomics", counts["atomics"]},
          {"partial_share", rounded_up(counts["partial_share"].get<double>())}};
}

// An entry of a budget: a version that is in kernels/, and its name there.
struct Held {
  std::string name;
  const json& counts;
};
std::vector<Held> held(const json& results) {
  std::vector<Held> all;
  for (const json& ladder : results["ladders"]) {
    for (const json& version : ladder["versions"]) {
      if (!version["in_kernels"].get<bool>() || !version.contains("counts")) continue;
      all.push_back({ladder["operation"].get<std::string>() + " " + ladder["size"].get<std::string>() + ", " +
                         version["name"].get<std::string>(),
                     version["counts"]});
    }
  }
  return all;
}

// The kernel's most wasteful line, as advice.
std::string worst_line(const json& kernel) {
  if (kernel["lines"].empty()) return "";
  return "; look at " + kernel["lines"][0]["place"].get<std::string>();
}

// A number of the budget. Throws Error if it is not one.
double allowed(const json& object, const char* key, const std::string& where) {
  if (!object.contains(key) || !object[key].is_number()) {
    fail("%s: \"%s\" is missing or not a number; rewrite the file with --write-budget", where.c_str(), key);
  }
  return object[key].get<double>();
}

const json& member(const json& object, const std::string& key, const std::string& where) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_object()) {
    fail("%s: expected an object with an object \"%s\"; rewrite the file with --write-budget", where.c_str(),
         key.c_str());
  }
  return object[key];
}

void compare(double counted, double most, const std::string& what, const std::string& meaning, const std::string& file,
             const std::string& hint, std::vector<std::string>& lines) {
  if (counted <= most) return;
  lines.push_back(strprintf("%s: %s: counted %.10g, allowed %.10g%s. Fix it, or raise the figure in %s with a reason",
                            what.c_str(), meaning.c_str(), counted, most, hint.c_str(), file.c_str()));
}

}  // namespace

json make_budget(const json& results) {
  json versions;
  for (const auto& [name, counts] : held(results)) {
    json entry = {{"dram_bytes_to_least", rounded_up(counts["ratio"].get<double>())}};
    for (const json& kernel : counts["kernels"]) {
      entry["kernels"][kernel["name"].get<std::string>()] = figures(kernel);
    }
    versions[name] = entry;
  }
  json about;
  for (const Figure& figure : kFigures) about[figure.key] = figure.meaning;
  return {{"about", about}, {"versions", versions}};
}

std::vector<std::string> budget_excesses(const json& budget, const json& results, const std::string& path,
                                         bool all_ladders) {
  std::vector<std::string> lines;
  std::map<std::string, bool> seen;
  const json& versions = member(budget, "versions", path);
  for (const auto& [name, counts] : held(results)) {
    seen[name] = true;
    if (!versions.contains(name)) {
      lines.push_back(name + ": not in " + path + "; add it with --write-budget");
      continue;
    }
    const json &entry = versions[name], &kernels = member(entry, "kernels", path + ": " + name);
    compare(rounded_up(counts["ratio"].get<double>()), allowed(entry, "dram_bytes_to_least", path + ": " + name), name,
            "bytes to and from memory, for each of the minimum", path, "", lines);
    std::map<std::string, bool> ran;
    for (const json& kernel : counts["kernels"]) {
      const std::string kernel_name = kernel["name"].get<std::string>(), where = name + ", " + kernel_name;
      ran[kernel_name] = true;
      if (!kernels.contains(kernel_name)) {
        lines.push_back(where + ": not in " + path + "; add it with --write-budget");
        continue;
      }
      const json counted = figures(kernel);
      for (const Figure& figure : kFigures) {
        compare(counted[figure.key].get<double>(), allowed(kernels[kernel_name], figure.key, path + ": " + where),
                where, figure.meaning, path, worst_line(kernel), lines);
      }
    }
    for (const auto& [kernel_name, unused] : kernels.items()) {
      if (!ran[kernel_name]) {
        lines.push_back(name + ", " + kernel_name + ": in " + path + ", but it no longer runs; remove it");
      }
    }
  }
  if (all_ladders) {
    for (const auto& [name, unused] : versions.items()) {
      if (!seen[name]) lines.push_back(name + ": in " + path + ", but no version has that name; remove it");
    }
  }
  return lines;
}

}  // namespace bench
