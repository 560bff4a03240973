#include "llm/training/run_search.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/formats/run_folder.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/output.h"
#include "llm/support/stop_signal.h"
#include "llm/text/shards.h"
#include "llm/training/search.h"

namespace {

std::string describe(const Trial& trial) {
  std::string text;
  for (const auto& [flag, value] : trial.flags.items()) {
    const bool real = value.is_number_float();
    text += strprintf("%s%s %s", text.empty() ? "" : ", ", flag.c_str(),
                      real                ? strprintf("%.4g", value.get<double>()).c_str()
                      : value.is_string() ? value.get<std::string>().c_str()
                                          : value.dump().c_str());
  }
  return text;
}

std::filesystem::path trial_folder(const std::filesystem::path& folder, size_t k) {
  return folder / strprintf("trial_%03zu", k + 1);
}

// FOLDER/search.json: each trial's flags and results.
void write_trials(const std::filesystem::path& folder, const std::vector<Trial>& trials) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (size_t k = 0; k < trials.size(); ++k) {
    const Trial& t = trials[k];
    nlohmann::ordered_json row{{"run", trial_folder(folder, k).string()}, {"flags", t.flags}};
    if (std::isfinite(t.best())) row["best_loss"] = t.best();
    row["validations"] = nlohmann::ordered_json::array();
    for (const Trial::Loss& loss : t.losses) row["validations"].push_back({{"step", loss.step}, {"loss", loss.value}});
    if (t.stopped) row["stopped"] = true;
    if (!t.failed.empty()) row["failed"] = t.failed;
    all.push_back(std::move(row));
  }
  FileWriter file(folder / "search.json");
  file.write(all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file.commit();
}

void print_trials(const std::filesystem::path& folder, const std::vector<Trial>& trials) {
  Output::when_unread(Output::Unread::wait);
  std::vector<size_t> order;
  for (size_t k = 0; k < trials.size(); ++k) order.push_back(k);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return trials[a].best() < trials[b].best(); });
  say(strprintf("%-10s %10s %6s  %s", "trial", "best loss", "step", "flags"));
  for (const size_t k : order) {
    const Trial& t = trials[k];
    int64_t step = 0;
    for (const Trial::Loss& loss : t.losses) {
      if (loss.value == t.best()) step = loss.step;
    }
    const std::string loss = std::isfinite(t.best()) ? strprintf("%.4f", t.best()) : "-";
    say(strprintf("%-10s %10s %6lld  %s%s", trial_folder("", k).c_str(), loss.c_str(), static_cast<long long>(step),
                  describe(t).c_str(),
                  !t.failed.empty() ? "  (failed)"
                  : t.stopped       ? "  (stopped by the median)"
                                    : ""));
  }
  if (trials.empty() || !std::isfinite(trials[order[0]].best())) {
    if (StopSignal::received() != 0) return;
    fail("no trial has a validation loss that is finite");
  }
  say(strprintf("best: %s, %.4f: %s", trial_folder(folder, order[0]).c_str(), trials[order[0]].best(),
                describe(trials[order[0]]).c_str()));
}

}  // namespace

void search(const TrainConfig& base, const TrainRun& train) {
  validate(base);
  check_output_folder("{run}", base.run.empty() ? "runs" : base.run);
  const bool shards = names_shards(base.data);
  if (shards ? base.val_data.empty() : base.val_fraction == 0) {
    fail_usage("{search} compares validation losses: it needs validation data");
  }
  const SearchPlan plan = read_search(base.search);
  std::filesystem::path folder = base.run;
  for (int k = 1; base.run.empty() && (k == 1 || std::filesystem::exists(folder)); ++k) {
    folder = std::filesystem::path("runs") / (k == 1 ? "search" : strprintf("search-%d", k));
  }
  const auto check_free = [&] {
    if (std::filesystem::exists(folder / "search.json") || std::filesystem::exists(trial_folder(folder, 0))) {
      fail("%s already holds a search; choose another {run}, or delete the folder", folder.c_str());
    }
  };
  check_free();
  std::vector<TrainConfig> configs;
  for (size_t k = 0; k < plan.trials.size(); ++k) {
    TrainConfig c = base;
    c.search.clear();
    c.run = trial_folder(folder, k).string();
    for (const auto& [flag, value] : plan.trials[k].items()) set_flag(c, flag, nlohmann::json(value));
    validate(c);  // of all, before the first begins
    configs.push_back(std::move(c));
  }
  const RunLock lock(folder, say);
  check_free();  // no other process can begin one now

  std::vector<Trial> trials;
  for (size_t k = 0; k < configs.size() && StopSignal::received() == 0; ++k) {
    Trial trial;
    trial.flags = plan.trials[k];
    say(strprintf("=== trial %zu of %zu: %s", k + 1, configs.size(), describe(trial).c_str()));
    try {
      train(configs[k], [&](int64_t step, double loss) {
        trial.losses.push_back({step, loss});
        trial.stopped = plan.median_stopping && !below_median(trials, trial);
        if (trial.stopped) say("its best loss is above the median of the trials before it: stopped");
        return !trial.stopped;
      });
    } catch (const Error& error) {
      trial.failed = spell_settings(error.what());
      say(std::string("failed: ") + error.what());
    }
    trials.push_back(std::move(trial));
    lock.check();
    write_trials(folder, trials);
  }
  if (StopSignal::received() != 0) say("stopped by a signal: the trials so far");
  print_trials(folder, trials);
}
