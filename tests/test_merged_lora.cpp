// Merged adapters: the model without them computes what the model with them does.
#include <fstream>

#include "gpt2/file.h"
#include "gpt2/huggingface.h"
#include "gpt2/json.h"
#include "gpt2/lora.h"
#include "gpt2/model_cpu.h"
#include "tests/finite_differences.h"
#include "tests/temporary_folder.h"

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

TEST_CASE("every kind of adapter is in the merged matrices") {
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
    for (const ParamTensor& tensor : adapted.table) {  // B begins as zeros: then there would be nothing to see
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
      model.set_pooling(pooling.data(), 2, 8);
      model.forward(inputs.data(), 2, 8, Pass::evaluate);
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

// A base model's folder, and an adapter's beside it.
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
    save_adapter(*model, base, adapter);
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
  std::string error() {
    try {
      open_weights(adapter);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

}  // namespace

TEST_CASE("an adapter's folder on its base is the merged model") {
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

TEST_CASE("an adapter that does not fit: the base changed or gone, other options, other tensors") {
  Saved saved(kBase, {.lora = {2, 6, 0, "q,v,fc"}});
  CHECK(saved.error() == "no error");
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
  says("bias", "all", "bias is \"all\", expected \"none\"");
  says("use_dora", true, "use_dora is true");
  says("r", 0, "r is 0, expected a number above 0");
  says("r", 3, "lora_A");  // the MLP's
  says("rank_pattern", nlohmann::json::object(), "lora_A");
  says("lora_alpha", "x", "lora_alpha is \"x\"");
  says("base_model_name_or_path", 7, "expected a folder");
  says("base_model_name_or_path", "nowhere", "the adapter's base model is \"nowhere\", and there is nothing");

  CpuModel<float> other(kBase, true);  // the base is trained on
  init_weights(other, 2);
  save_model(other, nullptr, saved.base);
  CHECK(saved.error().find("trained on another base model") != std::string::npos);
  ModelConfig narrower = kBase;
  narrower.num_layers = 1;
  CpuModel<float> shorter(narrower, true);
  init_weights(shorter, 1);
  save_model(shorter, nullptr, saved.base);
  saved.forget_checksum();
  CHECK(saved.error().find("is no adapter of this base model, 1 layers of 6 channels") != std::string::npos);
  { std::ofstream(saved.adapter / "adapter_model.safetensors") << "x"; }
  CHECK(saved.error().find("adapter_model.safetensors") != std::string::npos);
}
