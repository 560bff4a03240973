// Merged adapters: the merged model computes the same as the model with adapters.
#include <fstream>

#include "llm/formats/adapter.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/model_files.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;

namespace {

void copy_weights(Model& to, const Weights& from) {
  Floats values;
  for (const ParamTensor& tensor : to.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    from.read(tensor, values.data());
    to.write(Arena::params, tensor, values.data());
  }
}

void copy_weights(Model& to, const Model& from) {
  Floats values;
  for (const ParamTensor& tensor : to.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    from.read(Arena::params,
              *std::find_if(from.table.begin(), from.table.end(),
                            [&](const ParamTensor& t) { return t.name == tensor.name; }),
              values.data());
    to.write(Arena::params, tensor, values.data());
  }
}

}  // namespace

TEST_CASE("the merged matrices contain every kind of adapter") {
  for (const char* targets : {"all", "q", "k", "v", "attproj", "fc", "fcproj", "head"}) {
    CAPTURE(targets);
    ModelConfig shape{.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};
    shape.num_classes = 3;
    shape.tied_head = false;
    ModelOptions options;
    options.lora = {2, 6, 0, targets};
    CpuModel<float> adapted(shape, true, options), merged(shape, true), bare(shape, true);
    init_weights(adapted, 1);
    uint64_t seed = 5;
    for (const ParamTensor& tensor : adapted.table) {  // B begins as zeros, which would hide the adapter
      if (!tensor.adapter()) continue;
      adapted.write(Arena::params, tensor,
                    random_tensor<float>(static_cast<size_t>(tensor.size()), seed++, 0.5).data());
    }
    copy_weights(bare, adapted);
    const MergedLora view(adapted);
    copy_weights(merged, view);

    const auto inputs = random_ints(16, 3, 11);
    const Floats pooling(16, 0.125f);
    const auto logits = [&](Model& model) {
      Floats out(6);
      model.forward({.tokens = inputs.data(), .B = 2, .T = 8, .pass = Pass::evaluate, .pooling = pooling.data()});
      model.read_logits(0, out.data());
      model.read_logits(1, out.data() + 3);
      return out;
    };
    const Floats expected = logits(adapted);
    CHECK(max_difference(logits(merged), expected) < 2e-6);
    CHECK(max_difference(logits(bare), expected) > 1e-3);
  }
}

namespace {

const ModelConfig kBase = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};

void randomise_adapters(Model& model) {
  uint64_t seed = 5;
  for (const ParamTensor& tensor : model.table) {
    if (!tensor.adapter()) continue;
    Floats values = random_tensor<float>(static_cast<size_t>(tensor.size()), seed++, 0.5);
    std::fill(values.begin() + tensor.file_size(), values.end(), 0.0f);
    model.write(Arena::params, tensor, values.data());
  }
}

Floats all_of(const Weights& weights) {
  Floats all, values;
  for (const ParamTensor& tensor : weights.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    weights.read(tensor, values.data());
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// The folder of a base model, and next to it that of an adapter.
struct Saved {
  TemporaryFolder tmp;
  fs::path base = tmp.path / "base", adapter = tmp.path / "adapter";
  std::unique_ptr<CpuModel<float>> model;

  Saved(const ModelConfig& shape, const ModelOptions& options) {
    CpuModel<float> base_model(kBase, true);
    init_weights(base_model, 1);
    fs::create_directories(base);
    fs::create_directories(adapter);
    save_model(base_model, nullptr, base);
    model = std::make_unique<CpuModel<float>>(shape, true, options);
    init_weights(*model, 1);
    copy_shared(*open_weights(base));
    randomise_adapters(*model);
    save_adapter(*model, base, adapter, true);
    if (shape.num_classes > 0) save_huggingface(MergedLora(*model), nullptr, adapter);
    fs::remove(adapter / "model.safetensors");
  }
  void copy_shared(const Weights& from) {
    for (const ParamTensor& tensor : from.table) {
      Floats values(static_cast<size_t>(tensor.size()));
      from.read(tensor, values.data());
      model->write(Arena::params, tensor, values.data());
    }
  }
  void change_config(const char* field, const nlohmann::json& value) {
    nlohmann::json config = read_json_object(adapter / "adapter_config.json");
    config[field] = value;
    write_json(adapter / "adapter_config.json", config);
  }
  void forget_checksum() {  // as PEFT saves an adapter
    const fs::path path = adapter / "adapter_model.safetensors", copy = adapter / "copy";
    {
      const SafetensorsFile file(path);
      SafetensorsWriter writer(copy, {file.tensors().begin(), file.tensors().end()}, {{"format", "pt"}});
      for (const TensorView& tensor : file.tensors()) writer.write(tensor.name, tensor.bytes);
      writer.commit();
    }
    fs::rename(copy, path);
  }
  std::string error() { return refusal(adapter); }
};

}  // namespace

TEST_CASE("opening an adapter's folder gives the merged model") {
  for (const int classes : {0, 3}) {
    for (const char* targets : {"all", "q,v", "k,fc", "attproj,fcproj"}) {
      CAPTURE(targets);
      ModelConfig shape = kBase;
      shape.num_classes = classes;
      if (classes > 0) shape.tied_head = false;
      const Saved saved(shape, {.lora = {2, 6, 0, targets}});
      CHECK(weights_kind(saved.adapter) == WeightsKind::adapter);
      CHECK(read_model_config(saved.adapter) == shape);
      const Floats expected = all_of(MergedLora(*saved.model)), found = all_of(*open_weights(saved.adapter));
      REQUIRE(found.size() == expected.size());
      CHECK(max_difference(found, expected) < 1e-6);
    }
  }
}

TEST_CASE("an adapter that does not fit is refused: the base changed or missing, other options, other tensors") {
  Saved saved(kBase, {.lora = {2, 6, 0, "q,v,fc"}});
  CHECK(saved.error() == "nothing");
  const nlohmann::json good = read_json_object(saved.adapter / "adapter_config.json");
  CHECK(good["rank_pattern"]["attn.c_attn"] == 4);
  CHECK(good["target_modules"] == nlohmann::json::array({"attn.c_attn", "mlp.c_fc"}));
  const auto says = [&](const char* field, const nlohmann::json& value, const char* text) {
    CAPTURE(field);
    saved.change_config(field, value);
    CHECK_MESSAGE(saved.error().find(text) != std::string::npos, saved.error());
    write_json(saved.adapter / "adapter_config.json", good);
  };
  says("peft_type", "IA3", "peft_type is \"IA3\", expected \"LORA\"");
  says("bias", "some", "bias is \"some\", expected \"none\", \"all\" or \"lora_only\"");
  says("use_dora", true, "use_dora is true");
  says("r", 0, "r is 0, expected a whole number above 0");
  says("r", 3, "lora_A");  // that of the MLP
  says("rank_pattern", nlohmann::json::object(), "lora_A");
  says("lora_alpha", "x", "lora_alpha is \"x\"");
  says("lora_alpha", 1e39, "with it merged, a value of \"h.0.mlp.c_fc.weight\" is inf");
  says("base_model_name_or_path", saved.adapter.string(), "which is an adapter itself; expected a model directory");
  says("base_model_name_or_path", 7, "expected a folder");
  says("base_model_name_or_path", "nowhere", "the adapter's base model is \"nowhere\", which does not exist");

  CpuModel<float> other(kBase, true);  // the base was trained further
  init_weights(other, 2);
  save_model(other, nullptr, saved.base);
  CHECK(saved.error().find("trained on another base model") != std::string::npos);
  ModelConfig narrower = kBase;
  narrower.num_layers = 1;
  CpuModel<float> shorter(narrower, true);
  init_weights(shorter, 1);
  save_model(shorter, nullptr, saved.base);
  saved.forget_checksum();
  CHECK(saved.error().find("is not an adapter of this base model, 1 layers of 6 channels") != std::string::npos);
  { std::ofstream(saved.adapter / "adapter_model.safetensors") << "x"; }
  CHECK(saved.error().find("adapter_model.safetensors") != std::string::npos);
}

namespace {

// A base model, and an adapter of rank 2 as PEFT writes it: built from the fields of the config and from tensors by
// name, without "base_model.model.".
struct PeftAdapter {
  TemporaryFolder tmp;
  fs::path base = tmp.path / "base", adapter = tmp.path / "adapter";
  std::map<std::string, std::pair<std::vector<int64_t>, Floats>> tensors;
  uint64_t seed = 20;

  PeftAdapter() {
    CpuModel<float> model(kBase, true);
    init_weights(model, 1);
    fs::create_directories(base);
    fs::create_directories(adapter);
    save_model(model, nullptr, base);
  }
  const Floats& add(const std::string& name, const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    tensors[name] = {shape, random_tensor<float>(static_cast<size_t>(n), seed++, 0.5)};
    return tensors[name].second;
  }
  void add_lora(const std::string& module, int64_t out, int64_t in) {
    add(module + ".lora_A.weight", {2, in});
    add(module + ".lora_B.weight", {out, 2});
  }
  std::unique_ptr<Weights> open(const std::string& fields) {
    tmp.write(
        "adapter/adapter_config.json",
        R"({"peft_type": "LORA", "base_model_name_or_path": "../base", "r": 2, "lora_alpha": 3, )" + fields + "}");
    std::vector<TensorHeader> headers;
    for (const auto& [name, tensor] : tensors) headers.push_back({"base_model.model." + name, "F32", tensor.first});
    SafetensorsWriter file(adapter / "adapter_model.safetensors", headers, {{"format", "pt"}});
    for (const auto& [name, tensor] : tensors) {
      file.write("base_model.model." + name, std::as_bytes(std::span(tensor.second)));
    }
    file.commit();
    return open_weights(adapter);
  }
  std::string error(const std::string& fields) {
    try {
      open(fields);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  // B A, (out, in)
  Floats product(const std::string& module, int64_t out, int64_t in) const {
    const Floats &a = tensors.at(module + ".lora_A.weight").second, &b = tensors.at(module + ".lora_B.weight").second;
    Floats sum(static_cast<size_t>(out * in), 0.0f);
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t r = 0; r < 2; ++r) {
        for (int64_t i = 0; i < in; ++i) {
          sum[static_cast<size_t>(o * in + i)] +=
              b[static_cast<size_t>(o * 2 + r)] * a[static_cast<size_t>(r * in + i)];
        }
      }
    }
    return sum;
  }
};

// A tensor's values, without padding.
Floats values_of(const Weights& weights, const std::string& name) {
  for (const ParamTensor& tensor : weights.table) {
    if (tensor.name != name) continue;
    Floats values(static_cast<size_t>(tensor.size()));
    weights.read(tensor, values.data());
    values.resize(static_cast<size_t>(tensor.file_size()));
    return values;
  }
  FAIL("no tensor ", name);
  return {};
}

Floats sum_of(Floats a, float factor, const Floats& b) {
  REQUIRE(a.size() == b.size());
  for (size_t k = 0; k < a.size(); ++k) a[k] += factor * b[k];
  return a;
}

const std::string kFc = "transformer.h.1.mlp.c_fc";
const std::string kFcOnly = R"("target_modules": ["h.1.mlp.c_fc"])";

}  // namespace

TEST_CASE("ranks and alphas of patterns, and the scale of rsLoRA, are applied in the merged matrices") {
  PeftAdapter peft;
  peft.add_lora(kFc, 24, 6);
  const Floats before = values_of(*open_weights(peft.base), "block.1.fcw"), product = peft.product(kFc, 24, 6);
  struct Case {
    std::string fields;
    float scale;
  };
  for (const Case& c : std::vector<Case>{{"", 1.5f},
                                         {R"(, "alpha_pattern": {"c_fc": 8, "h.1.mlp.c_fc": 2})", 4},
                                         {R"(, "use_rslora": true)", 3 / std::sqrt(2.0f)}}) {
    CAPTURE(c.fields);
    const auto weights = peft.open(kFcOnly + c.fields);
    CHECK(max_difference(values_of(*weights, "block.1.fcw"), sum_of(before, c.scale, product)) < 1e-6);
  }
  peft.add(kFc + ".lora_A.weight", {4, 6});
  peft.add(kFc + ".lora_B.weight", {24, 4});
  CHECK(peft.error(kFcOnly).find("is (4, 6) F32, expected (2, 6)") != std::string::npos);
  CHECK(peft.error(kFcOnly + R"(, "rank_pattern": {"h\\.[0-9]+\\.mlp.*": 4})") == "no error");
}

TEST_CASE("biases and modules_to_save that PEFT saves next to adapters replace those of the base") {
  PeftAdapter peft;
  peft.add_lora(kFc, 24, 6);
  const Floats lora_bias = peft.add(kFc + ".lora_B.bias", {24}), fc = peft.add(kFc + ".base_layer.bias", {24}),
               ln = peft.add("transformer.h.0.ln_1.bias", {6}), lnf = peft.add("transformer.ln_f.weight", {6}),
               lnfb = peft.add("transformer.ln_f.bias", {6});
  const auto weights = peft.open(kFcOnly + R"(, "lora_bias": true, "bias": "all", "modules_to_save": ["ln_f"])");
  CHECK(max_difference(values_of(*weights, "block.1.fcb"), sum_of(fc, 1.5f, lora_bias)) < 1e-6);
  CHECK(values_of(*weights, "block.0.ln1b") == ln);
  CHECK(values_of(*weights, "lnfw") == lnf);
  CHECK(values_of(*weights, "lnfb") == lnfb);
  CHECK(weights->config == kBase);
  CHECK(peft.error(kFcOnly).find("tensor \"base_model.model." + kFc + ".lora_B.bias\" is not an adapter") !=
        std::string::npos);
  peft.tensors.erase(kFc + ".base_layer.bias");
  peft.tensors.erase("transformer.ln_f.bias");
  CHECK(peft.error(kFcOnly + R"(, "lora_bias": true, "modules_to_save": ["ln_f"])")
            .find("ln_f.bias\" is missing: modules_to_save names its module") != std::string::npos);
}

TEST_CASE("adapters and copies of the embedding or the head untie the two, as in PEFT") {
  const Floats wte = [] { return values_of(*open_weights(PeftAdapter().base), "wte"); }();
  const std::string embedding = R"("target_modules": ["wte"])", head = R"("target_modules": ["lm_head"])";
  {
    PeftAdapter peft;
    const Floats a = peft.add("transformer.wte.lora_embedding_A", {2, 11}),
                 b = peft.add("transformer.wte.lora_embedding_B", {6, 2});
    Floats expected = wte;
    for (size_t v = 0; v < 11; ++v) {
      for (size_t c = 0; c < 6; ++c) expected[v * 6 + c] += 1.5f * (a[v] * b[c * 2] + a[11 + v] * b[c * 2 + 1]);
    }
    const auto weights = peft.open(embedding);
    CHECK(!weights->config.tied_head);
    CHECK(max_difference(values_of(*weights, "wte"), expected) < 1e-6);
    CHECK(values_of(*weights, "head") == wte);
    CHECK(peft.error(embedding + R"(, "lora_bias": true)").find("the module transformer.wte has no bias") !=
          std::string::npos);
  }
  {
    PeftAdapter peft;  // with the matrix that the two share
    peft.add_lora("lm_head", 11, 6);
    const Floats shared = peft.add("lm_head.base_layer.weight", {11, 6});
    const auto weights = peft.open(head);
    CHECK(values_of(*weights, "wte") == shared);
    CHECK(max_difference(values_of(*weights, "head"), sum_of(shared, 1.5f, peft.product("lm_head", 11, 6))) < 1e-6);
    peft.add("transformer.wte.weight", {11, 6});
    CHECK(peft.error(head).find("differ, but the base model has one matrix for both") != std::string::npos);
  }
  {
    PeftAdapter peft;
    peft.add_lora(kFc, 24, 6);
    const Floats own = peft.add("transformer.wte.weight", {11, 6});
    const auto weights = peft.open(kFcOnly + R"(, "modules_to_save": ["wte"])");
    CHECK(values_of(*weights, "wte") == own);
    CHECK(values_of(*weights, "head") == wte);
    const auto tied = peft.open(kFcOnly);  // save_embedding_layers saves the shared matrix itself
    CHECK(tied->config.tied_head);
    CHECK(values_of(*tied, "wte") == own);
    const Floats other = peft.add("lm_head.weight", {11, 6});
    const auto both = peft.open(kFcOnly + R"(, "modules_to_save": ["wte", "lm_head"])");
    CHECK(values_of(*both, "wte") == own);
    CHECK(values_of(*both, "head") == other);
  }
}

TEST_CASE("an adapter's tensors and what adapter_config.json targets must agree") {
  PeftAdapter peft;
  peft.add_lora(kFc, 24, 6);
  struct Case {
    std::string fields, message;
  };
  for (const Case& c : std::vector<Case>{
           {R"("target_modules": ["c_fc"])", "h.0.mlp.c_fc.lora_A.weight\" is missing: adapter_config.json targets"},
           {R"("target_modules": ["c_attn"])", "h.0.attn.c_attn.lora_A.weight\" is missing"},
           {R"("target_modules": ["x"])", "or adapter_config.json does not target its module"},
           {kFcOnly + R"(, "exclude_modules": ["c_fc"])", "or adapter_config.json does not target its module"},
           {kFcOnly + R"(, "modules_to_save": ["_fc"])",
            "target_modules and modules_to_save both name the module " + kFc},
           {kFcOnly + R"(, "rank_pattern": {"c_fc": 1})", "lora_A.weight\" is (2, 6) F32, expected (1, 6)"},
           {kFcOnly + R"(, "lora_bias": true)", "lora_B.bias\" is missing: lora_bias is true"}}) {
    CAPTURE(c.fields);
    const std::string error = peft.error(c.fields);
    CHECK_MESSAGE(error.find(c.message) != std::string::npos, error);
  }
  peft.add("score.weight", {3, 6});
  CHECK(peft.error(kFcOnly).find("a classifier's adapter needs its config.json next to it") != std::string::npos);
  nlohmann::json config = read_json_object(peft.base / "config.json");
  config["architectures"] = {"GPT2ForSequenceClassification"};
  config["num_labels"] = 3;
  write_json(peft.adapter / "config.json", config);
  const auto classifier = peft.open(kFcOnly + R"(, "modules_to_save": ["classifier", "score"])");
  CHECK(values_of(*classifier, "head") == peft.tensors["score.weight"].second);
  CHECK(values_of(*classifier, "headb") == Floats(3, 0.0f));  // classifiers of transformers have no bias
  peft.tensors.erase("score.weight");
  CHECK(peft.error(kFcOnly).find("score.weight\" is missing: a classifier's head") != std::string::npos);
}
