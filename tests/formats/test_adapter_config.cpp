// adapter_config.json: the meaning of PEFT's fields for GPT-2's modules, and the refused ones. The expected values are
// those of PEFT 0.21.
#include <doctest/doctest.h>

#include "llm/formats/adapter_config.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "tests/helpers/temporary_folder.h"

namespace {

// `fields`: JSON without braces, added to the fields that every adapter has.
struct Config {
  TemporaryFolder tmp;
  std::filesystem::path path = tmp.path / "adapter_config.json";

  AdapterConfig read(const std::string& fields) const {
    FileWriter file(path);
    file.write(R"({"peft_type": "LORA", "base_model_name_or_path": "base")" + (fields.empty() ? "" : ", " + fields) +
               "}");
    file.commit();
    return AdapterConfig(path);
  }
  std::string error(const std::string& fields) const {
    try {
      read(fields);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

const std::string kModules[] = {"transformer.wte",
                                "transformer.wpe",
                                "transformer.h.0.attn.c_attn",
                                "transformer.h.0.attn.c_proj",
                                "transformer.h.0.mlp.c_fc",
                                "transformer.h.0.mlp.c_proj",
                                "transformer.h.1.attn.c_attn",
                                "transformer.h.1.attn.c_proj",
                                "transformer.h.1.mlp.c_fc",
                                "transformer.h.1.mlp.c_proj",
                                "lm_head"};

}  // namespace

TEST_CASE("the first key of a pattern that matches a module gives its rank and alpha") {
  const Config config;
  const std::string attn0 = "transformer.h.0.attn.c_attn", attn1 = "transformer.h.1.attn.c_attn",
                    fc0 = "transformer.h.0.mlp.c_fc";
  struct Case {
    std::string fields, module;
    int64_t rank;
    double scale;
  };
  for (const Case& c : std::vector<Case>{
           {"", attn0, 8, 1},
           {R"("r": 4, "lora_alpha": 32)", attn0, 4, 8},
           {R"("r": 4, "lora_alpha": 32, "use_rslora": true)", attn0, 4, 16},
           {R"("r": 4, "lora_alpha": 32, "use_rslora": true, "rank_pattern": {"c_attn": 16})", attn0, 16, 8},
           {R"("r": 4, "lora_alpha": 0.5)", attn0, 4, 0.125},
           {R"("alpha_pattern": {"c_attn": 2})", attn0, 8, 0.25},
           {R"("alpha_pattern": {"c_attn": 2})", fc0, 8, 1},
           {R"("alpha_pattern": {"attn": 2})", attn0, 8, 1},  // the whole name after a point
           {R"("alpha_pattern": {"_attn": 2})", attn0, 8, 1},
           {R"("alpha_pattern": {".*_attn": 2})", attn0, 8, 0.25},
           {R"("alpha_pattern": {"mlp.c_fc": 2})", fc0, 8, 0.25},
           {R"("alpha_pattern": {"mlp[.]c_fc": 2})", fc0, 8, 0.25},
           {R"("alpha_pattern": {"h.0.attn.c_attn": 2})", attn0, 8, 0.25},
           {R"("alpha_pattern": {"h.0.attn.c_attn": 2})", attn1, 8, 1},
           {R"("alpha_pattern": {"h\\.[0-9]+\\.mlp\\.c_fc": 2})", fc0, 8, 0.25},
           {R"("alpha_pattern": {"c_attn": 2, "h.0.attn.c_attn": 8})", attn0, 8, 0.25},
           {R"("alpha_pattern": {"h.0.attn.c_attn": 4, "c_attn": 2})", attn0, 8, 0.5},
           {R"("alpha_pattern": {"h.0.attn.c_attn": 4, "c_attn": 2})", attn1, 8, 0.25},
           {R"("alpha_pattern": {"c_fc|h.0.attn.c_attn": 2})", attn0, 8, 0.25},
           {R"("alpha_pattern": {"^transformer.h.1.attn.c_attn": 2})", attn1, 8, 0.25},
           {R"("alpha_pattern": {"^h.1.attn.c_attn": 2})", attn1, 8, 1},
           {R"("alpha_pattern": {"h.(?!0)\\d+.*": 2})", attn1, 8, 0.25},
           {R"("alpha_pattern": {"h.(?!0)\\d+.*": 2})", attn0, 8, 1},
           {R"("rank_pattern": {"c_fc": 2})", fc0, 2, 4},
           {R"("rank_pattern": {"h.0.*": 2}, "alpha_pattern": {"c_fc": 5})", fc0, 2, 2.5},
       }) {
    CAPTURE(c.fields);
    const AdapterConfig read = config.read(c.fields);
    CHECK(read.rank(c.module) == c.rank);
    CHECK(read.scale(c.module) == doctest::Approx(c.scale));
  }
}

TEST_CASE("target, layer and exclude fields select the modules with an adapter") {
  const Config config;
  struct Case {
    std::string fields, modules;  // digits: indices of kModules; a: lm_head
  };
  for (const Case& c : std::vector<Case>{
           {"", "26"},
           {R"("target_modules": null)", "26"},
           {R"("target_modules": ["c_attn", "mlp.c_fc"])", "2468"},
           {R"("target_modules": ["c_proj"])", "3579"},
           {R"("target_modules": ["proj", "attn", "h.1"])", ""},
           {R"("target_modules": ["h.1.attn.c_attn", "transformer.h.0.mlp.c_fc", "wte", "lm_head"])", "046a"},
           {R"("target_modules": "all-linear")", "23456789"},
           {R"("target_modules": "All-Linear", "exclude_modules": ["c_proj"])", "2468"},
           {R"x("target_modules": ".*\\.h\\.1\\..*(c_attn|c_fc)")x", "68"},
           {R"("target_modules": "c_attn")", ""},
           {R"x("target_modules": ".*(c_attn|wte)", "layers_to_transform": [1])x", "026"},
           {R"("target_modules": ["c_attn", "wte"], "layers_to_transform": [1])", "6"},
           {R"("target_modules": ["c_attn"], "layers_to_transform": 0)", "2"},
           {R"("target_modules": ["c_attn"], "layers_to_transform": [])", "26"},
           {R"("target_modules": ["c_attn"], "layers_to_transform": [0, 1], "layers_pattern": "h")", "26"},
           {R"("target_modules": ["c_attn"], "layers_to_transform": 1, "layers_pattern": ["layers", "h"])", "6"},
           {R"("target_modules": ["c_attn"], "layers_to_transform": 1, "layers_pattern": "layers")", ""},
           {R"("target_modules": ["c_attn"], "exclude_modules": ["h.0.attn.c_attn"])", "6"},
           {R"("target_modules": ["c_attn", "c_fc"], "exclude_modules": ".*h\\.0.*c_fc")", "268"},
           {R"("target_modules": ["c_attn", "c_fc"], "modules_to_save": ["h.1.mlp"])", "246"},
           {R"("target_modules": ["wte", "lm_head"], "modules_to_save": ["lm_head"])", "0"},
       }) {
    CAPTURE(c.fields);
    const AdapterConfig read = config.read(c.fields);
    std::string found;
    for (size_t k = 0; k < std::size(kModules); ++k) {
      if (read.is_target(kModules[k])) found += "0123456789a"[k];
    }
    CHECK(found == c.modules);
  }
}

TEST_CASE("modules saved whole are found by the end of their name or of an enclosing module's name") {
  const Config config;
  struct Case {
    const char *fields, *module;
    bool saved;
  };
  for (const Case& c : std::vector<Case>{{R"("modules_to_save": null)", "transformer.ln_f", false},
                                         {R"("modules_to_save": ["ln_f"])", "transformer.ln_f", true},
                                         {R"("modules_to_save": ["_f"])", "transformer.ln_f", true},
                                         {R"("modules_to_save": ["ln"])", "transformer.ln_f", false},
                                         {R"("modules_to_save": ["score", "lm_head"])", "lm_head", true},
                                         {R"("modules_to_save": ["h.1.mlp"])", "transformer.h.1.mlp.c_fc", true},
                                         {R"("modules_to_save": ["h.1.mlp"])", "transformer.h.0.mlp.c_fc", false},
                                         {R"("modules_to_save": ["transformer"])", "transformer.wte", true}}) {
    CAPTURE(c.fields);
    CAPTURE(c.module);
    CHECK(config.read(c.fields).is_saved(c.module) == c.saved);
  }
}

TEST_CASE("fields without effect on a loaded model are accepted, and so are those that are off") {
  const Config config;
  for (
      const char* fields :
      {R"("lora_dropout": 0.1, "inference_mode": false, "task_type": "CAUSAL_LM", "revision": "main")",
       R"("fan_in_fan_out": false, "auto_mapping": {"base_model_class": "GPT2LMHeadModel"}, "peft_version": "0.21.2")",
       R"("init_lora_weights": true)", R"("init_lora_weights": false)", R"("init_lora_weights": "gaussian")",
       R"("init_lora_weights": "orthogonal")", R"("init_lora_weights": "eva", "eva_config": {"rho": 2.0})",
       R"("init_lora_weights": "mica")", R"("init_lora_weights": "lora_ga", "lora_ga_config": {"scale": "unit"})",
       R"("loftq_config": {"loftq_bits": 4}, "corda_config": {"x": 1}, "velora_config": {"x": 1})",
       R"("qalora_group_size": 16, "megatron_core": "megatron.core", "merge_weights": true, "runtime_config": {"x": 1})",
       R"("use_dora": false, "use_qalora": false, "alora_invocation_tokens": null, "layer_replication": null)",
       R"("of_a_later_version": null, "another": false, "third": {}, "fourth": [])",
       R"("bias": "all", "modules_to_save": [], "rank_pattern": null, "alpha_pattern": null)"}) {
    CAPTURE(fields);
    CHECK(config.error(fields) == "no error");
  }
}

TEST_CASE("fields that would change the result but are not supported are refused by name") {
  const Config config;
  struct Case {
    std::string fields, message;
  };
  const std::string absent = ", expected it to be absent or null", init = "init_lora_weights is ";
  for (const Case& c : std::vector<Case>{
           {R"("use_dora": true)", "use_dora is true" + absent},
           {R"("use_qalora": true)", "use_qalora is true" + absent},
           {R"("alora_invocation_tokens": [9])", "alora_invocation_tokens is [9]" + absent},
           {R"("layer_replication": [[0, 2]])", "layer_replication is [[0,2]]" + absent},
           {R"("trainable_token_indices": [1])", "trainable_token_indices is [1]" + absent},
           {R"("trainable_token_indices": {"wte": [1]})", "trainable_token_indices is"},
           {R"("target_parameters": ["x"])", "target_parameters is"},
           {R"("megatron_config": {"x": 1})", "megatron_config is"},
           {R"("ensure_weight_tying": true)", "ensure_weight_tying is true" + absent},
           {R"("kasa_config": {"x": 1})", "kasa_config is"},
           {R"("arrow_config": {"x": 1})", "arrow_config is"},
           {R"("use_bdlora": {"x": 1})", "use_bdlora is"},
           {R"("monteclora_config": {"x": 1})", "monteclora_config is"},
           {R"("enable_lora": [true, false, true])", "enable_lora is"},
           {R"("of_a_later_version": 7)", "\"of_a_later_version\" is 7" + absent + ": wrought does not know"},
           {R"("of_a_later_version": true)", "\"of_a_later_version\" is true"},
           {R"("init_lora_weights": "pissa")", init + "\"pissa\", with which PEFT changes the base model"},
           {R"("init_lora_weights": "pissa_niter_16")", init + "\"pissa_niter_16\""},
           {R"("init_lora_weights": "olora")", init + "\"olora\""},
           {R"("init_lora_weights": "OLoRA")", init + "\"OLoRA\""},
           {R"("init_lora_weights": "corda")", init + "\"corda\""},
           {R"("init_lora_weights": "loftq")", init + "\"loftq\""},
           {R"("init_lora_weights": 1)", init + "1"},
           {R"("bias": "some")", "bias is \"some\", expected \"none\", \"all\" or \"lora_only\""},
           {R"("peft_type": "LORA", "r": 0)", "the name \"peft_type\" occurs twice"},
           {R"("r": 0)", "r is 0, expected a whole number above 0"},
           {R"("r": 2.5)", "r is 2.5, expected a whole number above 0"},
           {R"("r": 3000000000)", "r is 3000000000, expected a whole number"},
           {R"("lora_alpha": null)", "lora_alpha is null, expected a number above 0"},
           {R"("lora_alpha": -1)", "lora_alpha is -1"},
           {R"("rank_pattern": {"c_fc": 0})", "rank_pattern: \"c_fc\" is 0, expected a whole number above 0"},
           {R"("alpha_pattern": {"c_fc": "2"})", "alpha_pattern: \"c_fc\" is \"2\", expected a number above 0"},
           {R"("alpha_pattern": ["c_fc"])", "alpha_pattern is [\"c_fc\"], expected an object"},
           {R"("use_rslora": "yes")", "use_rslora is \"yes\", expected true or false"},
           {R"("lora_bias": 1)", "lora_bias is 1, expected true or false"},
           {R"("target_modules": 3)", "target_modules is 3, expected a list of modules' names"},
           {R"("target_modules": ["x", 3])", "target_modules is [\"x\",3]"},
           {R"("exclude_modules": {"x": 3})", "exclude_modules is {\"x\":3}"},
           {R"("modules_to_save": "score")", "modules_to_save is \"score\", expected a list"},
           {R"("layers_to_transform": "1")", "layers_to_transform is \"1\", expected the layers' numbers"},
           {R"("layers_to_transform": [1, 0.5])", "layers_to_transform is [1,0.5]"},
           {R"("layers_pattern": 1)", "layers_pattern is 1"},
       }) {
    CAPTURE(c.fields);
    const std::string error = config.error(c.fields);
    CHECK_MESSAGE(error.find("adapter_config.json: " + c.message) != std::string::npos, error);
  }
}

TEST_CASE("regular expressions: those that Python and PCRE2 read alike are accepted") {
  for (const char* good : {"c_attn", R"(h\.\d+\.(?:attn|mlp)\.c_.*)", "(?<!x)h[.][^]a-c]+", "[[]x{2,3}?", "a[.]b",
                           "(?P<n>x)", R"(\bh\b)", "[a.:=]"}) {
    CAPTURE(good);
    CHECK_NOTHROW(ModulePattern(good, "here"));
  }
  struct Case {
    std::string pattern, message;
  };
  for (const Case& c : std::vector<Case>{
           {"(", "here: the regular expression \"(\" is not valid: missing closing parenthesis"},
           {"a)(b", "is not valid"},
           {"[a", "is not valid"},
           {"*a", "is not valid"},
           {"a\\", "is not valid"},
           {"\xFF", "is not valid"},
           {"(?i)a", R"(has "(?i", which wrought does not read)"},
           {"(?R)", R"(has "(?R")"},
           {"(?C1)a", R"(has "(?C")"},
           {"(?>a)", R"(has "(?>")"},
           {"(*LIMIT_MATCH=9)a", R"x(has "(*")x"},
           {R"(\Qa.b\E)", R"(has "\\Q")"},
           {R"((a)\1)", R"(has "\\1")"},
           {R"(\x{41})", R"(has "\\x")"},
           {R"(a\Z)", R"(has "\\Z")"},
           {R"([\b])", R"(has "\\b")"},
           {"[[:alpha:]]", R"(has "[:")"},
           {"[a[.x.]]", R"(has "[.")"},
           {"a{,3}", R"(has "{,")"},
           {std::string(1001, 'a'), "has 1001 bytes, expected at most 1000"},
       }) {
    CAPTURE(c.pattern);
    try {
      ModulePattern(c.pattern, "here");
      FAIL("no error");
    } catch (const Error& error) {
      CHECK_MESSAGE(std::string(error.what()).find(c.message) != std::string::npos, error.what());
    }
  }
}

TEST_CASE("a regular expression that takes exponentially long is an error, and nesting is bounded") {
  const ModulePattern slow("(?:.|.)+[0-9]", "here: rank_pattern");
  try {
    slow.matches("transformer.h.0.attn.c_attn.transformer.h.0.attn.c_attn");
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(
        std::string(error.what()).find("here: rank_pattern: matching it with the module transformer.h.0.attn.c_attn") ==
        0);
  }
  CHECK_THROWS_AS(ModulePattern(std::string(400, '(') + "a" + std::string(400, ')'), "here"), Error);
  CHECK_THROWS_AS(ModulePattern("(((((a{1,999}){1,999}){1,999}){1,999}){1,999})", "here"), Error);
}
