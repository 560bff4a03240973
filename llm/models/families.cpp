#include "llm/models/families.h"

#include <algorithm>
#include <stdexcept>

#include "llm/models/cpu.h"
#include "llm/models/cpu_model.h"
#include "llm/models/gpt2.h"
#include "llm/support/error.h"

static std::vector<Family>& families() {
  static std::vector<Family> all{make_family<Gpt2>("gpt2")};
  return all;
}

void register_family(const Family& family) {
  if (has_family(family.name)) throw std::logic_error("two families of models with the name " + family.name);
  families().push_back(family);
}

bool has_family(const std::string& name) {
  return std::any_of(families().begin(), families().end(), [&](const Family& f) { return f.name == name; });
}

const Family& find_family(const std::string& name) {
  std::string names;
  for (const Family& family : families()) {
    if (family.name == name) return family;
    names += (names.empty() ? "" : ", ") + family.name;
  }
  fail("there is no family of models \"%s\"; expected one of: %s", name.c_str(), names.c_str());
}

std::vector<ParamTensor> param_table(const ModelConfig& config, const ModelOptions& options) {
  return arrange_table(find_family(config.family).rows(config, options.lora), config, options);
}

Plan plan_of(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t logits_rows, float dropout,
             bool bf16) {
  return find_family(config.family).plan(config, options, B, T, logits_rows, dropout, bf16);
}

std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference, const ModelOptions& options) {
  return find_family(config.family).make_cpu_model(config, reference, options);
}

std::unique_ptr<PackedDecoder> make_packed_decoder(const ModelConfig& config, const PackedOptions& options) {
  return find_family(config.family).make_packed_decoder(config, options);
}
