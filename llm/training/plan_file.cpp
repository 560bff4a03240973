#include "llm/training/plan_file.h"

#include <stdlib.h>

#include <nlohmann/json.hpp>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kVersion = 1;

std::string hash_of(const json& j) {
  const std::string text = j.dump(-1, ' ', false, json::error_handler_t::replace);
  return strprintf("%016llx", static_cast<unsigned long long>(hash64(text.data(), text.size(), 0)));
}

json to_json(const MatmulPlans& plans) {
  json j{{"version", kVersion},
         {"device", plans.device},
         {"library", plans.library},
         {"binary", plans.binary},
         {"products", json::object()}};
  for (const auto& [product, plan] : plans.products) {
    j["products"][product] = {{"algorithm", plan.algorithm},
                              {"candidate", plan.candidate},
                              {"candidates", plan.candidates},
                              {"microseconds", plan.microseconds},
                              {"first_microseconds", plan.first_microseconds}};
  }
  return j;
}

// Throws json::exception if a field is missing or of another type.
MatmulPlans from_json(const json& j) {
  MatmulPlans plans;
  j.at("device").get_to(plans.device);
  j.at("library").get_to(plans.library);
  j.at("binary").get_to(plans.binary);
  for (const auto& [product, from] : j.at("products").items()) {
    MatmulPlan& plan = plans.products[product];
    from.at("algorithm").get_to(plan.algorithm);
    from.at("candidate").get_to(plan.candidate);
    from.at("candidates").get_to(plan.candidates);
    from.at("microseconds").get_to(plan.microseconds);
    from.at("first_microseconds").get_to(plan.first_microseconds);
  }
  return plans;
}

// Why plans for `found` are none for `here`; empty: they are.
std::string other_than(const MatmulPlans& found, const MatmulPlans& here) {
  const auto other = [](const char* what, const std::string& of, const std::string& is) {
    return of == is ? "" : strprintf("for another %s (%s, here %s)", what, of.c_str(), is.c_str());
  };
  std::string why = other("device", found.device, here.device);
  if (why.empty()) why = other("version of the library", found.library, here.library);
  if (why.empty()) why = other("build of the program", found.binary, here.binary);
  return why;
}

// A file's plans, or, said, none where it is for something else. Throws Error if it is damaged.
MatmulPlans plans_for(const MatmulPlans& here, const fs::path& path, const char* consequence, const Say& say) {
  const MatmulPlans found = read_plans(path);
  const std::string why = other_than(found, here);
  if (why.empty()) return found;
  say(strprintf("plans: %s is %s: %s", path.c_str(), why.c_str(), consequence));
  return here;
}

}  // namespace

MatmulPlans read_plans(const fs::path& path) {
  const char* advice = "delete it, and the plans are measured anew";
  json j;
  try {
    j = read_json_object(path);
  } catch (const Error& error) {
    fail("%s (expected plans of matrix products); if that is what it was, %s", error.what(), advice);
  }
  const auto version = j.find("version");
  if (version != j.end() && version->is_number_integer() && *version > kVersion) {
    fail("%s: plans of version %s, and this program knows %d; take the program that wrote it, or %s", path.c_str(),
         shown(*version).c_str(), kVersion, advice);
  }
  json rest = j;
  rest.erase("checksum");
  if (!j.contains("checksum") || j["checksum"] != hash_of(rest)) {
    fail("%s: damaged, or changed by hand: the checksum of its plans is %s, expected %s; %s", path.c_str(),
         hash_of(rest).c_str(), j.contains("checksum") ? shown(j["checksum"]).c_str() : "none", advice);
  }
  try {
    return from_json(j);
  } catch (const json::exception& error) {
    fail("%s: not plans of matrix products: %s; %s", path.c_str(), error.what(), advice);
  }
}

void write_plans(const fs::path& path, const MatmulPlans& plans) {
  json j = to_json(plans);
  j["checksum"] = hash_of(j);
  write_json(path, j);
}

std::string plans_hash(const MatmulPlans& plans) {
  json j{{"device", plans.device}, {"library", plans.library}, {"products", json::object()}};
  for (const auto& [product, plan] : plans.products) j["products"][product] = plan.algorithm;
  return hash_of(j);
}

fs::path plans_cache_file(const MatmulPlans& plans) {
  const auto folder_of = [](const char* variable) {
    const char* value = ::getenv(variable);
    return value && value[0] == '/' ? fs::path(value) : fs::path();  // one that is not absolute is to be ignored
  };
  fs::path folder = folder_of("XDG_CACHE_HOME");
  if (folder.empty() && !folder_of("HOME").empty()) folder = folder_of("HOME") / ".cache";
  if (folder.empty()) return {};
  std::string name = "plans-" + plans.device + "-" + plans.library + "-" + plans.binary;
  const auto is_plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.';
  };
  for (char& c : name) c = is_plain(c) ? c : '_';
  return folder / "wrought" / (name + ".json");
}

namespace {

// On rank 0.
MatmulPlans find_plans(const Run& run, bool keep_copy, const PlannedDevice& device, const Say& say) {
  MatmulPlans here = device.none;
  here.binary = file_checksum("/proc/self/exe");
  const std::string& named = run.config.plans;
  const fs::path copy = keep_copy ? run.folder / kPlansFile : fs::path();
  MatmulPlans known = here;
  fs::path from;  // where they come from, and new ones go to; empty: nowhere

  // 1. what is known
  if (!run.resume_from.empty() && named.empty() && keep_copy && fs::exists(copy)) {
    known = plans_for(here, copy, "measured anew, and the run's numbers differ in the last bits from here on", say);
  }
  const bool from_copy = !known.products.empty();
  if (from_copy) {
    from = copy;
  } else {
    from = named.empty() ? plans_cache_file(here) : fs::path(named);
    if (from.empty()) say("plans: no folder to keep them in (neither XDG_CACHE_HOME nor HOME is set): measured now");
    if (!from.empty() && fs::exists(from)) {
      try {
        known = plans_for(here, from, "measured anew", say);
      } catch (const Error& error) {
        if (!named.empty()) throw;
        say(strprintf("plans: %s: measured anew now", error.what()));
      }
    }
  }

  // 2. the rest
  const MatmulPlans plans = device.make(known);
  size_t measured = 0;
  for (const auto& [product, plan] : plans.products) {
    const auto before = known.products.find(product);
    if (before != known.products.end() && before->second == plan) continue;
    known.products[product] = plan;
    ++measured;
  }
  if (plans.products.empty()) return plans;  // no product is the library's

  // 3. what is kept
  if (measured > 0 && !from_copy && !from.empty()) {
    try {
      if (named.empty()) make_directories(from.parent_path());
      write_plans(from, known);
    } catch (const Error& error) {
      if (!named.empty()) throw;
      say(strprintf("plans: not kept for other runs: %s", error.what()));
      from.clear();
    }
  }
  if (!copy.empty() && (measured > 0 || !from_copy)) {
    if (run.lock) run.lock->check();
    write_plans(copy, from_copy ? known : plans);
  }
  say(strprintf("plans: %s, %zu products%s, hash %s",
                !from.empty()   ? from.c_str()
                : !copy.empty() ? copy.c_str()
                                : "not kept",
                plans.products.size(), measured > 0 ? strprintf(" (%zu measured now)", measured).c_str() : "",
                plans_hash(plans).c_str()));
  return plans;
}

}  // namespace

void settle_plans(const Run& run, bool keep_copy, const PlannedDevice& device, const Group& group, const Say& say) {
  if (device.none.library.empty()) return;
  MatmulPlans plans;
  group.on_root([&] { plans = find_plans(run, keep_copy, device, say); });
  if (group.size() == 1) return;
  const MatmulPlans all = from_json(json::parse(group.broadcast(to_json(plans).dump())));
  const std::string other = other_than(all, {device.none.device, device.none.library, all.binary, {}});
  const std::vector<std::string> others = group.all_gather(other);
  group.together([&] {
    if (group.rank() > 0) device.use(other.empty() ? all : device.none);
  });
  if (group.rank() > 0) return;
  for (size_t r = 1; r < others.size(); ++r) {
    if (others[r].empty()) continue;
    say(strprintf("plans: %s: its products run by the library's first algorithms, since rank 0's plans are %s",
                  group.name(static_cast<int>(r)).c_str(), others[r].c_str()));
  }
}
