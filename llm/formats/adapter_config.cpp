#include "llm/formats/adapter_config.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;  // in rank_pattern and alpha_pattern the first key that matches counts

// ---- regular expressions -------------------------------------------------------------------------------------------

namespace {

constexpr size_t kMaxPattern = 1000;     // bytes
constexpr uint32_t kMaxSteps = 1000000;  // of a match; module names are short
constexpr const char* kGroups[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?P<"};

std::string pcre2_message(int error) {
  unsigned char text[200] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// The first construct that Python reads differently from PCRE2, or not at all; "" if there is none.
std::string foreign_construct(std::string_view pattern) {
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view rest = pattern.substr(i);
    if (rest[0] == '\\') {
      const bool is_letter = rest.size() > 1 && std::isalnum(static_cast<unsigned char>(rest[1]));
      if (is_letter && !std::strchr(in_class ? "dDwWsS" : "dDwWsSbB", rest[1])) return std::string(rest.substr(0, 2));
      ++i;
    } else if (in_class) {
      if (rest.starts_with("[:") || rest.starts_with("[.") || rest.starts_with("[="))
        return std::string(rest.substr(0, 2));
      in_class = rest[0] != ']';
    } else if (rest[0] == '[') {
      in_class = true;
      if (rest.substr(1).starts_with('^')) ++i;
      if (pattern.substr(i + 1).starts_with(']')) ++i;  // a literal there
    } else if (rest.starts_with("(?")) {
      const bool known = std::any_of(std::begin(kGroups), std::end(kGroups),
                                     [&](const char* group) { return rest.starts_with(group); });
      if (!known) return std::string(rest.substr(0, 3));
    } else if (rest.starts_with("(*") || rest.starts_with("{,")) {
      return std::string(rest.substr(0, 2));
    }
  }
  return "";
}

}  // namespace

ModulePattern::ModulePattern(const std::string& pattern, const std::string& where) : where_(where) {
  const std::string quoted = in_quotes(pattern);
  if (pattern.size() > kMaxPattern) {
    fail("%s: the regular expression %s has %zu bytes, expected at most %zu", where.c_str(), quoted.c_str(),
         pattern.size(), kMaxPattern);
  }
  if (const std::string foreign = foreign_construct(pattern); !foreign.empty()) {
    fail("%s: the regular expression %s has %s, which wrought does not read", where.c_str(), quoted.c_str(),
         in_quotes(foreign).c_str());
  }
  int error = 0;
  size_t at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &at, nullptr);
  if (!code) {
    fail("%s: the regular expression %s is not valid: %s", where.c_str(), quoted.c_str(), pcre2_message(error).c_str());
  }
  code_ = std::shared_ptr<void>(code, [](void* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); });
}

bool ModulePattern::matches(const std::string& module, std::string* layer) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> limits(pcre2_match_context_create(nullptr),
                                                                                    pcre2_match_context_free);
  pcre2_set_match_limit(limits.get(), kMaxSteps);
  const int found =
      pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(module.data()), module.size(), 0, 0, match.get(), limits.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    fail("%s: matching it with the module %s failed: %s", where_.c_str(), module.c_str(), pcre2_message(found).c_str());
  }
  if (layer) {
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
    const int group = pcre2_substring_number_from_name(code, reinterpret_cast<PCRE2_SPTR>("idx"));
    if (group > 0) *layer = module.substr(span[2 * group], span[2 * group + 1] - span[2 * group]);
  }
  return true;
}

// ---- fields --------------------------------------------------------------------------------------------------------

namespace {

enum class Treatment {
  computed,   // as PEFT does, by AdapterConfig()
  no_effect,  // on a loaded model: for training, or for finding files
  refused,    // unless null, false or empty
};

struct Field {
  const char* name;
  Treatment treatment;
};

// The fields of peft.LoraConfig 0.21 and of versions before it.
constexpr Field kFields[] = {
    {"alora_invocation_tokens", Treatment::refused},
    {"alpha_pattern", Treatment::computed},
    {"arrow_config", Treatment::refused},
    {"auto_mapping", Treatment::no_effect},
    {"base_model_name_or_path", Treatment::computed},
    {"bias", Treatment::computed},
    {"corda_config", Treatment::no_effect},  // this and the like: init_lora_weights says whether they are used
    {"enable_lora", Treatment::refused},
    {"ensure_weight_tying", Treatment::refused},
    {"eva_config", Treatment::no_effect},
    {"exclude_modules", Treatment::computed},
    {"fan_in_fan_out", Treatment::no_effect},  // PEFT corrects it by the module's type
    {"inference_mode", Treatment::no_effect},
    {"init_lora_weights", Treatment::computed},
    {"kasa_config", Treatment::refused},
    {"layer_replication", Treatment::refused},
    {"layers_pattern", Treatment::computed},
    {"layers_to_transform", Treatment::computed},
    {"loftq_config", Treatment::no_effect},
    {"lora_alpha", Treatment::computed},
    {"lora_bias", Treatment::computed},
    {"lora_dropout", Treatment::no_effect},
    {"lora_ga_config", Treatment::no_effect},
    {"megatron_config", Treatment::refused},
    {"megatron_core", Treatment::no_effect},  // without megatron_config
    {"merge_weights", Treatment::no_effect},
    {"modules_to_save", Treatment::computed},
    {"monteclora_config", Treatment::refused},
    {"peft_type", Treatment::computed},
    {"peft_version", Treatment::no_effect},
    {"qalora_group_size", Treatment::no_effect},  // without use_qalora
    {"r", Treatment::computed},
    {"rank_pattern", Treatment::computed},
    {"revision", Treatment::no_effect},
    {"runtime_config", Treatment::no_effect},
    {"target_modules", Treatment::computed},
    {"target_parameters", Treatment::refused},
    {"task_type", Treatment::no_effect},
    {"trainable_token_indices", Treatment::refused},
    {"use_bdlora", Treatment::refused},
    {"use_dora", Treatment::refused},
    {"use_qalora", Treatment::refused},
    {"use_rslora", Treatment::computed},
    {"velora_config", Treatment::no_effect},  // for the backward pass
};

// Values of init_lora_weights with which PEFT leaves the base as it is: A and B come from the file. pissa, corda, olora
// and loftq subtract from the base when the adapter is loaded.
constexpr const char* kInitialisations[] = {"gaussian", "eva", "orthogonal", "mica", "lora_ga"};

json value_of(const json& config, const char* field) {
  const auto found = config.find(field);
  return found == config.end() ? json() : *found;
}

bool is_off(const json& value) {
  return value.is_null() || value == false || value == "" || (value.is_structured() && value.empty());
}

json read_config(const fs::path& path) {
  json config = parse_ordered_json(MappedFile(path), 64);
  if (!config.is_object()) fail("%s: expected a JSON object", path.c_str());
  return config;
}

double positive(const json& value, const std::string& what, bool whole) {
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!(number > 0) || !std::isfinite(number) || (whole && (!value.is_number_integer() || number > INT32_MAX))) {
    fail("%s is %s, expected a %snumber above 0", what.c_str(), shown(value).c_str(), whole ? "whole " : "");
  }
  return number;
}

bool flag(const json& config, const char* field, const std::string& where) {
  const json value = value_of(config, field);
  if (value.is_null()) return false;
  if (!value.is_boolean()) fail("%s: %s is %s, expected true or false", where.c_str(), field, shown(value).c_str());
  return value.get<bool>();
}

std::vector<std::string> names_of(const json& value, const std::string& what) {
  std::vector<std::string> names;
  if (value.is_null()) return names;
  bool good = value.is_array();
  for (size_t k = 0; good && k < value.size(); ++k) {
    good = value[k].is_string();
    if (good) names.push_back(value[k].get<std::string>());
  }
  if (!good) fail("%s is %s, expected a list of modules' names", what.c_str(), shown(value).c_str());
  return names;
}

bool is_or_ends_with(const std::string& module, const std::string& name) {
  return module == name || module.ends_with("." + name);
}

}  // namespace

void AdapterConfig::check_fields(const json& config) const {
  for (const auto& [name, value] : config.items()) {
    const auto known = std::find_if(std::begin(kFields), std::end(kFields),
                                    [&name = name](const Field& field) { return name == field.name; });
    const bool is_known = known != std::end(kFields);
    if (is_known && known->treatment != Treatment::refused) continue;
    if (is_off(value)) continue;
    fail(
        "%s: %s is %s, expected it to be absent or null: wrought does not %s this option of PEFT, which may change "
        "the result",
        where_.c_str(), is_known ? name.c_str() : in_quotes(name).c_str(), shown(value).c_str(),
        is_known ? "have" : "know");
  }
}

AdapterConfig::Modules AdapterConfig::read_modules(const json& value, const char* field) const {
  const std::string what = where_ + ": " + field;
  Modules modules;
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
    modules.all_linear = lower == "all-linear";
    if (!text.empty() && !modules.all_linear) modules.pattern.emplace_back(text, what);
  } else {
    modules.names = names_of(value, what);
  }
  return modules;
}

std::vector<AdapterConfig::Override> AdapterConfig::read_overrides(const json& config, const char* field,
                                                                   bool whole) const {
  const json value = value_of(config, field);
  const std::string what = where_ + ": " + field;
  std::vector<Override> overrides;
  if (value.is_null()) return overrides;
  if (!value.is_object()) {
    fail("%s is %s, expected an object of modules and numbers", what.c_str(), shown(value).c_str());
  }
  for (const auto& [key, number] : value.items()) {
    const std::string at = what + ": " + in_quotes(key);
    ModulePattern(key, what);  // so that a message names the key, not what PEFT makes of it
    overrides.push_back({ModulePattern("(.*\\.)?(" + key + ")$", what), positive(number, at, whole)});
  }
  return overrides;
}

AdapterConfig::AdapterConfig(const fs::path& file) : where_(file.string()) {
  const json config = read_config(file);
  const auto value = [&](const char* field) { return value_of(config, field); };
  if (const json type = value("peft_type"); type != kPeftType && type != kOwnPeftType) {
    fail("%s: peft_type is %s, expected \"%s\"", where_.c_str(), shown(type).c_str(), kPeftType);
  }
  check_fields(config);
  const json bias = value("bias"), init = value("init_lora_weights"), base = value("base_model_name_or_path");
  if (!bias.is_null() && bias != "none" && bias != "all" && bias != "lora_only") {
    fail("%s: bias is %s, expected \"none\", \"all\" or \"lora_only\"", where_.c_str(), shown(bias).c_str());
  }
  const bool leaves_base =
      init.is_null() || init.is_boolean() ||
      std::find(std::begin(kInitialisations), std::end(kInitialisations), init) != std::end(kInitialisations);
  if (!leaves_base) {
    fail(
        "%s: init_lora_weights is %s, with which PEFT changes the base model when it loads the adapter: wrought does "
        "not have this option; PEFT converts such an adapter by save_pretrained(..., "
        "path_initial_model_for_weight_conversion=...)",
        where_.c_str(), shown(init).c_str());
  }
  if (!base.is_string()) {
    fail("%s: base_model_name_or_path is %s, expected a folder", where_.c_str(), shown(base).c_str());
  }
  base_ = base.get<std::string>();
  rslora_ = flag(config, "use_rslora", where_);
  lora_bias_ = flag(config, "lora_bias", where_);
  rank_ = positive(config.contains("r") ? config["r"] : json(8), where_ + ": r", true);  // 8: PEFT's default
  alpha_ = positive(config.contains("lora_alpha") ? config["lora_alpha"] : json(8), where_ + ": lora_alpha", false);
  ranks_ = read_overrides(config, "rank_pattern", true);
  alphas_ = read_overrides(config, "alpha_pattern", false);
  targets_ = read_modules(value("target_modules").is_null() ? json::array({"c_attn"}) : value("target_modules"),
                          "target_modules");  // c_attn: PEFT's default for GPT-2
  excluded_ = read_modules(value("exclude_modules"), "exclude_modules");

  saved_ = names_of(value("modules_to_save"), where_ + ": modules_to_save");
  for (const std::string& name : saved_) {
    saved_patterns_.emplace_back("(^|.*\\.)" + name + "($|\\..*)", where_ + ": modules_to_save");
  }
  const json layers = value("layers_to_transform"), in = value("layers_pattern");
  for (const json& layer : layers.is_number() ? json::array({layers}) : layers) {
    if (!layer.is_number_integer()) {
      fail("%s: layers_to_transform is %s, expected the layers' numbers", where_.c_str(), shown(layers).c_str());
    }
    layers_.push_back(layer.get<int64_t>());
  }
  std::vector<std::string> lists = in.is_string() && in != "" ? std::vector{in.get<std::string>()}
                                   : in.is_string()           ? std::vector<std::string>{}
                                                              : names_of(in, where_ + ": layers_pattern");
  for (std::string& list : lists) list = "(?:^|.*?\\.)" + list;
  if (lists.empty()) lists = {".*?\\.[^.]*"};
  for (const std::string& list : lists) {
    layer_patterns_.emplace_back(list + "\\.(?P<idx>\\d+)\\..*", where_ + ": layers_pattern");
  }
}

// ---- modules -------------------------------------------------------------------------------------------------------

bool AdapterConfig::Modules::match(const std::string& module) const {
  if (all_linear) return module.find(".h.") != std::string::npos;  // neither embeddings nor a head
  if (!pattern.empty()) return pattern[0].matches(module);
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return is_or_ends_with(module, name); });
}

bool AdapterConfig::in_layers(const std::string& module) const {
  if (layers_.empty() || !targets_.pattern.empty()) return true;  // PEFT ignores layers with a regular expression
  for (const ModulePattern& pattern : layer_patterns_) {
    std::string layer;
    if (!pattern.matches(module, &layer)) continue;
    return std::any_of(layers_.begin(), layers_.end(), [&](int64_t l) { return std::to_string(l) == layer; });
  }
  return false;
}

bool AdapterConfig::is_target(const std::string& module) const {
  if (excluded_.match(module)) return false;
  for (const ModulePattern& pattern : saved_patterns_) {
    if (pattern.matches(module)) return false;
  }
  return targets_.match(module) && in_layers(module);
}

bool AdapterConfig::is_saved(const std::string& module) const {
  for (std::string outer = module;; outer.resize(outer.rfind('.'))) {
    const auto named = [&](const std::string& name) { return outer.ends_with(name); };
    if (std::any_of(saved_.begin(), saved_.end(), named)) return true;
    if (outer.find('.') == std::string::npos) return false;
  }
}

int64_t AdapterConfig::rank(const std::string& module) const {
  for (const Override& o : ranks_) {
    if (o.pattern.matches(module)) return static_cast<int64_t>(o.value);
  }
  return static_cast<int64_t>(rank_);
}

double AdapterConfig::scale(const std::string& module) const {
  double alpha = alpha_;
  for (const Override& o : alphas_) {
    if (!o.pattern.matches(module)) continue;
    alpha = o.value;
    break;
  }
  const auto r = static_cast<double>(rank(module));
  return alpha / (rslora_ ? std::sqrt(r) : r);
}
