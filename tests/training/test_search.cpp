// Searches: from files to trials, flags by name, the median.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <cmath>
#include <fstream>
#include <set>

#include "llm/support/error.h"
#include "llm/training/search.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

struct File {
  fs::path folder = [] {
    char name[] = "/tmp/wrought-search-XXXXXX";
    return fs::path(::mkdtemp(name));
  }();
  ~File() { fs::remove_all(folder); }
  fs::path operator()(const std::string& text) const {
    std::ofstream(folder / "s.json", std::ios::binary) << text;
    return folder / "s.json";
  }
};

Trial trial(std::vector<double> losses) {  // at steps 0, 10, 20 ...
  Trial t;
  for (size_t k = 0; k < losses.size(); ++k) t.losses.push_back({static_cast<int64_t>(k) * 10, losses[k]});
  return t;
}

}  // namespace

TEST_CASE("a grid has every combination, with the last flag changing fastest") {
  const File file;
  const SearchPlan plan =
      read_search(file("{\"flags\": {\"lr\": [1e-3, 2e-3], \"heads\": [1, 2, 4], \"optimizer\": [\"muon\"]}}"));
  REQUIRE(plan.trials.size() == 6);
  CHECK(!plan.median_stopping);
  CHECK(plan.trials[0].dump() == "{\"lr\":0.001,\"heads\":1,\"optimizer\":\"muon\"}");
  CHECK(plan.trials[1].dump() == "{\"lr\":0.001,\"heads\":2,\"optimizer\":\"muon\"}");
  CHECK(plan.trials[5].dump() == "{\"lr\":0.002,\"heads\":4,\"optimizer\":\"muon\"}");
}

TEST_CASE("random trials stay in their ranges, spread over them, and depend only on the seed") {
  const File file;
  const auto read = [&](int seed) {
    return read_search(
        file("{\"method\": \"random\", \"trials\": 200, \"median_stopping\": true, \"seed\": " + std::to_string(seed) +
             ", \"flags\": {\"lr\": {\"min\": 1e-4, \"max\": 1e-2, \"log\": true}, \"dropout\": {\"min\": "
             "0.0, \"max\": 0.5}, \"layers\": {\"min\": 1, \"max\": 3}, \"heads\": [1, 2]}}"));
  };
  const SearchPlan plan = read(1);
  CHECK(plan.median_stopping);
  REQUIRE(plan.trials.size() == 200);
  int low = 0;
  std::set<int> layers, heads;
  for (const auto& t : plan.trials) {
    const double lr = t["lr"], dropout = t["dropout"];
    CHECK((lr >= 1e-4 && lr <= 1e-2));
    CHECK((dropout >= 0 && dropout <= 0.5));
    low += lr < 1e-3;
    layers.insert(t["layers"].get<int>());
    heads.insert(t["heads"].get<int>());
  }
  CHECK((low > 70 && low < 130));  // half of the range, in logarithms
  CHECK(layers == std::set<int>{1, 2, 3});
  CHECK(heads == std::set<int>{1, 2});
  CHECK(read(1).trials == plan.trials);
  CHECK(read(2).trials != plan.trials);
}

TEST_CASE("flags are set by name, as llm/flags/train_flags does") {
  TrainConfig config;
  set_flag(config, "lr", 0.5);
  set_flag(config, "steps", 7);
  set_flag(config, "optimizer", "muon");
  set_flag(config, "no-master-weights", true);
  CHECK((config.lr == 0.5 && config.steps == 7 && config.optimizer == "muon" && config.no_master_weights));
  for (const auto& [name, value] : std::vector<std::pair<std::string, json>>{{"nothing", 1},
                                                                             {"run", "x"},
                                                                             {"lr", "x"},
                                                                             {"steps", 1.5},
                                                                             {"steps", true},
                                                                             {"layers", 1e10},
                                                                             {"lossy", 1}}) {
    CAPTURE(name);
    CHECK_THROWS_AS(set_flag(config, name, value), UsageError);
  }
}

TEST_CASE("a trial is stopped when its best loss is worse than the median of the means of earlier trials") {
  const std::vector<Trial> before = {trial({9, 5, 3}), trial({9, 4, 2}), trial({9, 6, 5}), trial({9, 1})};
  // Means up to step 20: 4, 3, 5.5 (the last ended earlier): median 4.
  CHECK(below_median(before, trial({9, 6, 4})));
  CHECK(!below_median(before, trial({9, 6, 4.1})));
  CHECK(below_median(before, trial({9, 3.9, 8})));                                  // its best loss counts
  CHECK(below_median(before, trial({9, 100})));                                     // too early
  CHECK(below_median({before.begin(), before.begin() + 2}, trial({9, 100, 100})));  // too few trials to compare with
  CHECK(!below_median(before, trial({9, std::nan(""), std::nan("")})));
  CHECK(before[0].best() == 3);
}

TEST_CASE("files that are not a search are refused") {
  const File file;
  const auto refuse = [&](const std::string& text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read_search(file(text)), doctest::Contains(message), Error);
  };
  refuse("[]", "s.json: expected an object with \"flags\"");
  refuse("{\"flags\": {}}", "expected an object with \"flags\"");
  refuse("{\"flags\": ", "not JSON");
  refuse("{\"flags\": {\"lr\": [1]}, \"methods\": \"grid\"}", "\"methods\" is \"grid\", expected flags, method");
  refuse("{\"flags\": {\"lr\": [1]}, \"method\": \"bayes\"}", "\"method\" is \"bayes\"");
  refuse("{\"flags\": {\"lr\": [1]}, \"trials\": 3}", "\"trials\" goes with the method \"random\"");
  refuse("{\"flags\": {\"lr\": [1]}, \"method\": \"random\"}", "needs \"trials\"");
  refuse("{\"flags\": {\"lr\": []}}", "\"lr\" is an empty list");
  refuse("{\"flags\": {\"lr\": 3}}", "\"lr\" is 3, expected a list of values");
  refuse("{\"flags\": {\"lr\": {\"min\": 1, \"max\": 2}}}", "\"lr\" is a range: a grid needs a list");
  refuse("{\"flags\": {\"lr\": {\"min\": 2, \"max\": 1}}, \"method\": \"random\", \"trials\": 1}", "min below max");
  refuse("{\"flags\": {\"lr\": {\"min\": 0, \"max\": 1, \"log\": true}}, \"method\": \"random\", \"trials\": 1}",
         "above 0");
  refuse("{\"flags\": {\"lr\": {\"min\": 0, \"max\": 1, \"step\": 1}}, \"method\": \"random\", \"trials\": 1}",
         "\"step\"");
  refuse("{\"flags\": {\"rate\": [1]}}", "s.json: --rate is not a flag");
  refuse("{\"flags\": {\"lr\": [\"x\"]}}", "s.json: --lr cannot be \"x\"");
  refuse("{\"flags\": {\"lr\": [1], \"lr\": [2]}}", "occurs twice");
  refuse("{\"flags\": {\"lr\": [1]}, \"method\": \"random\", \"trials\": 10001}", "more than 10000 trials");
}
