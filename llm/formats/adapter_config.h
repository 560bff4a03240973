// adapter_config.json as PEFT (github.com/huggingface/peft) writes it: which modules have a low-rank adapter, of what
// rank and scale. Modules are named as in `transformers`: transformer.h.0.attn.c_attn, transformer.wte, lm_head.
//
// Every field is either computed as in PEFT, or has no effect on a loaded model, or is refused by name; so are unknown
// fields, unless they are null, false or empty. docs/formats.md has the table.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// One of PEFT's regular expressions, in the syntax that Python and PCRE2 have in common.
class ModulePattern {
 public:
  // Throws Error beginning with `where` if it is too long, not valid, or has a construct that the two read differently.
  ModulePattern(const std::string& pattern, const std::string& where);
  // Whether all of `module` matches. `layer`: what the group (?P<idx>...) matched. Throws Error if it takes too long.
  bool matches(const std::string& module, std::string* layer = nullptr) const;

 private:
  std::shared_ptr<void> code_;
  std::string where_;
};

// peft_type: that of PEFT, and that of adapters that only wrought computes as they were trained.
inline constexpr const char *kPeftType = "LORA", *kOwnPeftType = "WROUGHT_LORA";

class AdapterConfig {
 public:
  // Throws Error naming file and field.
  explicit AdapterConfig(const std::filesystem::path& file);

  const std::string& base() const { return base_; }  // base_model_name_or_path
  bool lora_bias() const { return lora_bias_; }      // whether lora_B has a bias
  bool is_target(const std::string& module) const;   // whether it has an adapter
  bool is_saved(const std::string& module) const;    // whether modules_to_save names it, or a module that it is in
  int64_t rank(const std::string& module) const;     // by rank_pattern: the first key in the file that matches
  double scale(const std::string& module) const;     // alpha / rank, or with use_rslora alpha / sqrt(rank)

 private:
  // target_modules, exclude_modules: one regular expression, or names that a module's name equals or ends with.
  struct Modules {
    std::vector<ModulePattern> pattern;  // at most one
    std::vector<std::string> names;
    bool all_linear = false;
    bool match(const std::string& module) const;
  };
  struct Override {
    ModulePattern pattern;
    double value;
  };
  std::string where_, base_;
  double rank_ = 0, alpha_ = 0;
  std::vector<Override> ranks_, alphas_;
  Modules targets_, excluded_;
  std::vector<int64_t> layers_;  // layers_to_transform; none: all
  std::vector<ModulePattern> layer_patterns_;
  std::vector<std::string> saved_;
  std::vector<ModulePattern> saved_patterns_;
  bool rslora_ = false, lora_bias_ = false;

  void check_fields(const nlohmann::ordered_json& config) const;
  Modules read_modules(const nlohmann::ordered_json& value, const char* field) const;
  std::vector<Override> read_overrides(const nlohmann::ordered_json& config, const char* field, bool whole) const;
  bool in_layers(const std::string& module) const;
};
