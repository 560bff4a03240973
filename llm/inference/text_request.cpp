#include "llm/inference/text_request.h"

#include <functional>
#include <map>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/support/json_rows.h"

using nlohmann::json;

namespace {

constexpr int kMaxNumber = 1 << 30;  // of tokens and the like

using Set = std::function<void(TextRequest& to, const json& value, const std::string& where)>;

[[noreturn]] void refuse(const std::string& where, const std::string& expected, const json& found) {
  fail("%s is %s, expected %s", where.c_str(), found.dump(-1, ' ', true).substr(0, 60).c_str(), expected.c_str());
}

int64_t whole(const json& value, const std::string& where, int64_t low, int64_t high) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) ||
      value.get<int64_t>() < low || value.get<int64_t>() > high) {
    refuse(where,
           strprintf("a whole number from %lld to %lld", static_cast<long long>(low), static_cast<long long>(high)),
           value);
  }
  return value.get<int64_t>();
}

std::string text(const json& value, const std::string& where) {
  if (!value.is_string()) refuse(where, "a string", value);
  return value.get<std::string>();
}

Set sampler_number(double SamplerConfig::*field) {
  return [field](TextRequest& to, const json& value, const std::string& where) {
    if (!value.is_number()) refuse(where, "a number", value);
    to.request.sampler.*field = value.get<double>();
  };
}

const std::map<std::string, Set>& keys() {
  static const std::map<std::string, Set> all = {
      {"prompt", [](TextRequest& to, const json& v, const std::string& where) { to.prompt = text(v, where); }},
      {"ids",
       [](TextRequest& to, const json& v, const std::string& where) {
         if (!v.is_array()) refuse(where, "an array of token ids", v);
         to.ids = true;
         to.request.prompt.clear();
         for (const json& id : v) to.request.prompt.push_back(static_cast<int32_t>(whole(id, where, 0, INT32_MAX)));
       }},
      {"id", [](TextRequest& to, const json& v, const std::string&) { to.id = v; }},
      {"tokens",
       [](TextRequest& to, const json& v, const std::string& where) {
         to.request.tokens = static_cast<int>(whole(v, where, 1, kMaxNumber));
       }},
      {"top_k",
       [](TextRequest& to, const json& v, const std::string& where) {
         to.request.sampler.top_k = static_cast<int>(whole(v, where, 0, kMaxNumber));
       }},
      {"seed",
       [](TextRequest& to, const json& v, const std::string& where) {
         to.request.seed = static_cast<uint64_t>(whole(v, where, 0, INT64_MAX));
       }},
      {"logprobs", [](TextRequest& to, const json& v,
                      const std::string& where) { to.request.top = static_cast<int>(whole(v, where, 0, kMaxNumber)); }},
      {"stop",
       [](TextRequest& to, const json& v, const std::string& where) {
         to.stops.clear();
         if (v.is_array()) {
           for (const json& stop : v) to.stops.push_back(text(stop, where));
         } else {
           to.stops.push_back(text(v, where));
         }
         for (const std::string& stop : to.stops) {
           if (stop.empty()) refuse(where, "strings that are not empty", v);
         }
       }},
      {"temperature", sampler_number(&SamplerConfig::temperature)},
      {"top_p", sampler_number(&SamplerConfig::top_p)},
      {"min_p", sampler_number(&SamplerConfig::min_p)},
      {"repetition_penalty", sampler_number(&SamplerConfig::repetition_penalty)},
      {"frequency_penalty", sampler_number(&SamplerConfig::frequency_penalty)},
      {"presence_penalty", sampler_number(&SamplerConfig::presence_penalty)},
  };
  return all;
}

TextRequest request_in(const JsonRow& row, const TextRequest& defaults) {
  TextRequest request = defaults;
  if (row.value.contains("prompt") == row.value.contains("ids")) {
    fail("%s: expected one of \"prompt\" and \"ids\"", row.where.c_str());
  }
  for (const auto& [key, value] : row.value.items()) {
    const auto found = keys().find(key);
    if (found == keys().end()) {
      std::string names;
      for (const auto& [name, set] : keys()) names += (names.empty() ? "" : ", ") + name;
      fail("%s: there is no setting %s; expected some of: %s", row.where.c_str(), in_quotes(key).c_str(),
           names.c_str());
    }
    found->second(request, value, row.where + ": \"" + key + "\"");
  }
  try {
    validate(request.request.sampler);
  } catch (const Error& error) {
    fail("%s: %s", row.where.c_str(), error.what());
  }
  return request;
}

}  // namespace

std::vector<TextRequest> read_text_requests(const std::filesystem::path& path, const TextRequest& defaults) {
  std::vector<TextRequest> requests;
  if (const std::string ending = ending_of(path); ending == ".jsonl" || ending == ".json") {
    for_each_json_row(path, [&](const JsonRow& row) { requests.push_back(request_in(row, defaults)); });
    return requests;
  }
  const MappedFile file(path);
  check_not_utf16(file.text(), path);
  for_each_line(file, [&](std::string_view line, size_t) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    TextRequest request = defaults;
    request.prompt = line;
    requests.push_back(request);
  });
  if (requests.empty()) fail("%s: there are no prompts in it", path.c_str());
  return requests;
}
