#include "llm/training/search.h"

#include <algorithm>
#include <cmath>

#include "kernels/philox.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

namespace {

constexpr size_t kMaxTrials = 10000;
constexpr uint64_t kSearchSequence = 0x736561726368;  // its own numbers

std::string value_text(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// A flag's values: a list, or a range to draw from.
struct Choice {
  std::string flag;
  json values;               // of a list
  double low = 0, high = 0;  // of a range
  bool log = false, whole = false;
};

Choice read_choice(const std::string& flag, const json& value, const std::string& where) {
  Choice choice{flag, json::array()};
  const char* name = flag.c_str();
  if (value.is_array()) {
    if (value.empty()) fail("%s: \"%s\" is an empty list", where.c_str(), name);
    choice.values = value;
    return choice;
  }
  if (!value.is_object() || !value.contains("min") || !value.contains("max") || !value["min"].is_number() ||
      !value["max"].is_number()) {
    fail("%s: \"%s\" is %s, expected a list of values, or {\"min\": .., \"max\": ..}", where.c_str(), name,
         value_text(value).c_str());
  }
  for (const auto& [key, v] : value.items()) {
    if (key != "min" && key != "max" && !(key == "log" && v.is_boolean())) {
      fail("%s: \"%s\" has %s, expected min, max and log (true or false)", where.c_str(), name, in_quotes(key).c_str());
    }
  }
  choice.low = value["min"];
  choice.high = value["max"];
  choice.log = value.value("log", false);
  choice.whole = value["min"].is_number_integer() && value["max"].is_number_integer();
  if (!(choice.low < choice.high) || (choice.log && choice.low <= 0)) {
    fail("%s: \"%s\" ranges from %g to %g, expected min below max%s", where.c_str(), name, choice.low, choice.high,
         choice.log ? ", and above 0 for log" : "");
  }
  return choice;
}

json draw(const Choice& choice, double uniform) {
  if (!choice.values.empty()) {
    const auto n = static_cast<double>(choice.values.size());
    return choice.values[std::min(static_cast<size_t>(uniform * n), choice.values.size() - 1)];
  }
  if (choice.log) return choice.low * std::pow(choice.high / choice.low, uniform);
  if (choice.whole) {
    return static_cast<int64_t>(
        std::min(choice.high, std::floor(choice.low + uniform * (choice.high - choice.low + 1))));
  }
  return choice.low + uniform * (choice.high - choice.low);
}

}  // namespace

SearchPlan read_search(const fs::path& path) {
  const std::string where = path.string();
  const MappedFile file(path);
  const ordered_json root = parse_ordered_json(file, 8);  // keeps the flags' order
  if (!root.is_object() || !root.contains("flags") || !root["flags"].is_object() || root["flags"].empty()) {
    fail("%s: expected an object with \"flags\": {flag: values}", where.c_str());
  }
  for (const auto& [key, value] : root.items()) {
    const bool known = key == "flags" || (key == "method" && (value == "grid" || value == "random")) ||
                       ((key == "trials" || key == "seed") && value.is_number_unsigned()) ||
                       (key == "median_stopping" && value.is_boolean());
    if (!known) {
      fail(
          "%s: %s is %s, expected flags, method (grid or random), trials and seed (whole numbers), median_stopping "
          "(true or false)",
          where.c_str(), in_quotes(key).c_str(), value_text(value).c_str());
    }
  }
  const bool random = root.value("method", "grid") == "random";
  std::vector<Choice> choices;
  for (const auto& [flag, value] : root["flags"].items()) choices.push_back(read_choice(flag, json(value), where));

  SearchPlan plan;
  plan.median_stopping = root.value("median_stopping", false);
  size_t trials = 1;
  if (random) {
    trials = root.value("trials", size_t{0});
    if (trials == 0) fail("%s: a random search needs \"trials\": how many", where.c_str());
  } else {
    if (root.contains("trials")) fail("%s: \"trials\" goes with the method \"random\"", where.c_str());
    for (const Choice& choice : choices) {
      if (choice.values.empty()) {
        fail("%s: \"%s\" is a range: a grid needs a list, or the method \"random\"", where.c_str(),
             choice.flag.c_str());
      }
      trials = std::min(trials * choice.values.size(), kMaxTrials + 1);
    }
  }
  if (trials > kMaxTrials) fail("%s: more than %zu trials", where.c_str(), kMaxTrials);
  const uint64_t seed = root.value("seed", uint64_t{1});
  for (size_t k = 0; k < trials; ++k) {
    ordered_json flags = ordered_json::object();
    size_t rest = k, combinations = trials;
    for (size_t c = 0; c < choices.size(); ++c) {
      if (random) {
        flags[choices[c].flag] = draw(choices[c], philox_uniform(seed, kSearchSequence + c, k));
      } else {
        combinations /= choices[c].values.size();
        flags[choices[c].flag] = choices[c].values[rest / combinations];
        rest %= combinations;
      }
    }
    TrainConfig unused;
    try {
      for (const auto& [flag, value] : flags.items()) set_flag(unused, flag, json(value));
    } catch (const UsageError& error) {
      fail("%s: %s", where.c_str(), error.what());
    }
    plan.trials.push_back(std::move(flags));
  }
  return plan;
}

double Trial::best() const {
  double best = std::numeric_limits<double>::infinity();
  for (const Loss& loss : losses) best = loss.value < best ? loss.value : best;
  return best;
}

bool below_median(const std::vector<Trial>& before, const Trial& trial) {
  int64_t evaluations = 0, step = 0;
  double best = std::numeric_limits<double>::infinity();
  for (const Trial::Loss& loss : trial.losses) {
    if (loss.step == 0) continue;
    ++evaluations;
    step = loss.step;
    best = std::min(best, loss.value);
  }
  std::vector<double> means;  // of those that got as far
  for (const Trial& other : before) {
    double sum = 0, count = 0;
    bool reached = false;
    for (const Trial::Loss& loss : other.losses) {
      reached = reached || loss.step >= step;
      if (loss.step == 0 || loss.step > step) continue;
      sum += loss.value;
      ++count;
    }
    if (reached && count > 0) means.push_back(sum / count);
  }
  if (evaluations < 2 || means.size() < 3) return true;
  std::sort(means.begin(), means.end());
  const size_t half = means.size() / 2;
  const double median = means.size() % 2 == 1 ? means[half] : (means[half - 1] + means[half]) / 2;
  return best <= median;
}
