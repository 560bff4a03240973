// The rates of a GPU and of NVIDIA's libraries on it, from dev/bench/rates.json: {DEVICE: {RATE: {"value", "unit",
// "from"}}}. They describe the hardware and the libraries; the kernels' demands are in count.h and kernel_work.h, so
// work on kernels does not change this file.
#pragma once

#include <cmath>
#include <filesystem>
#include <string>

#include "llm/support/error.h"
#include "llm/support/json.h"

struct Rates {
  std::string device, file;
  double copy, copy_share, latency, saturation;         // TB/s, of copy, us, exponent
  double multiprocessors, clock, tensor_clock;          // clocks in GHz
  double issue_slots, issue_share, float_share;         // slots per cycle and multiprocessor
  double tensor_flops, tensor_issue, tensor_peak;       // FLOP per cycle and multiprocessor, share, TFLOP/s
  double tile_epilogue, library_share, mma_sync_share;  // cycles, shares
  double tuned_gain;                                    // factor
  double cudnn_forward_64, cudnn_forward_128;           // TFLOP/s, as the two below
  double cudnn_backward_64, cudnn_backward_128;
  double launch_gap, graph_gap, host_launch;  // us
};

struct RateField {
  const char *name, *unit;
  double Rates::*member;
  bool share = false, whole = false;  // at most 1; an integer
};
inline constexpr RateField kRateFields[] = {
    {"copy", "TB/s", &Rates::copy},
    {"copy_share", "of copy", &Rates::copy_share, true},
    {"latency", "us", &Rates::latency},
    {"saturation", "exponent", &Rates::saturation},
    {"multiprocessors", "multiprocessors", &Rates::multiprocessors, false, true},
    {"clock", "GHz", &Rates::clock},
    {"tensor_clock", "GHz", &Rates::tensor_clock},
    {"issue_slots", "warp instructions per cycle and multiprocessor", &Rates::issue_slots},
    {"issue_share", "of issue_slots", &Rates::issue_share, true},
    {"float_share", "of 128 FMA per cycle and multiprocessor", &Rates::float_share, true},
    {"tensor_flops", "FLOP per cycle and multiprocessor", &Rates::tensor_flops},
    {"tensor_issue", "of tensor_flops", &Rates::tensor_issue, true},
    {"tensor_peak", "TFLOP/s", &Rates::tensor_peak},
    {"tile_epilogue", "cycles per 64 KiB of a tile's results", &Rates::tile_epilogue},
    {"library_share", "of the tiles' model", &Rates::library_share, true},
    {"tuned_gain", "times library_share", &Rates::tuned_gain},
    {"mma_sync_share", "of tensor_flops", &Rates::mma_sync_share, true},
    {"cudnn_forward_64", "TFLOP/s", &Rates::cudnn_forward_64},
    {"cudnn_forward_128", "TFLOP/s", &Rates::cudnn_forward_128},
    {"cudnn_backward_64", "TFLOP/s", &Rates::cudnn_backward_64},
    {"cudnn_backward_128", "TFLOP/s", &Rates::cudnn_backward_128},
    {"launch_gap", "us", &Rates::launch_gap},
    {"graph_gap", "us", &Rates::graph_gap},
    {"host_launch", "us", &Rates::host_launch},
};

// Throws Error that names the wrong field and its file, what was expected and what was found.
inline Rates read_rates(const std::string& file, const std::string& device) {
  if (!std::filesystem::is_regular_file(file))
    fail("%s cannot be read; expected a file like dev/bench/rates.json", file.c_str());
  const nlohmann::json all = read_json_object(file);
  if (!all.contains(device)) {
    std::string names;
    for (const auto& [name, value] : all.items()) names += " " + name;
    fail("%s: there is no device \"%s\"; found:%s", file.c_str(), device.c_str(),
         names.empty() ? " none" : names.c_str());
  }
  const nlohmann::json& entry = all[device];
  const auto wrong = [&](const std::string& what, const nlohmann::json& found, const std::string& expected) {
    fail("%s: %s.%s is %s, expected %s", file.c_str(), device.c_str(), what.c_str(), shown(found).c_str(),
         expected.c_str());
  };
  if (!entry.is_object())
    fail("%s: %s is %s, expected an object of rates", file.c_str(), device.c_str(), shown(entry).c_str());
  for (const auto& [name, value] : entry.items()) {
    bool known = false;
    for (const RateField& field : kRateFields) known = known || name == field.name;
    if (!known) fail("%s: %s.%s is not a rate that predict knows", file.c_str(), device.c_str(), name.c_str());
  }
  Rates rates{};
  rates.device = device;
  rates.file = file;
  for (const RateField& field : kRateFields) {
    const std::string name = field.name;
    const std::string shape = strprintf("{\"value\": a number, \"unit\": \"%s\", \"from\": a text}", field.unit);
    if (!entry.contains(name)) {
      fail("%s: %s.%s is missing, expected %s", file.c_str(), device.c_str(), field.name, shape.c_str());
    }
    const nlohmann::json& rate = entry[name];
    if (!rate.is_object()) wrong(name, rate, shape);
    for (const char* key : {"value", "unit", "from"}) {
      if (!rate.contains(key)) {
        fail("%s: %s.%s.%s is missing, expected %s", file.c_str(), device.c_str(), field.name, key, shape.c_str());
      }
    }
    if (rate.size() != 3) wrong(name, rate, shape);
    const nlohmann::json& value = rate["value"];
    const char* expected = field.share   ? "a number above 0, at most 1"
                           : field.whole ? "an integer above 0"
                                         : "a number above 0";
    if (!value.is_number()) wrong(name + ".value", value, expected);
    const double number = value;
    if (!(number > 0) || std::isinf(number) || (field.share && number > 1) ||
        (field.whole && number != std::floor(number))) {
      wrong(name + ".value", value, expected);
    }
    if (rate["unit"] != field.unit) wrong(name + ".unit", rate["unit"], "\"" + std::string(field.unit) + "\"");
    const nlohmann::json& from = rate["from"];
    const auto begins = [&](const char* text) {
      return from.is_string() && from.get<std::string>().rfind(text, 0) == 0;
    };
    if (!begins("estimate") && !begins("published") && !begins("measured on ")) {
      wrong(name + ".from", from, "a text that begins with \"estimate\", \"published\" or \"measured on\" a device");
    }
    rates.*field.member = number;
  }
  return rates;
}
