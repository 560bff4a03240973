// Weights that are not finite are refused wherever weights are read; the error names file, tensor and place.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "llm/finetune/setup.h"
#include "llm/flags/finetune_flags.h"
#include "llm/formats/adapter.h"
#include "llm/formats/float16.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;

namespace {

const ModelConfig kTiny{4, 7, 2, 1, 3};
const float kNaN = std::nanf(""), kInf = std::numeric_limits<float>::infinity();

// The same for loading into a model that is to be finetuned.
std::string base_refusal(const fs::path& path) {
  const auto model = random_model(read_model_config(path), 2);
  try {
    load_base_weights(*model, path, true);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

std::string with_value(const char* tensor, const char* at, const char* what) {
  return strprintf(": tensor \"%s\": value [%s] is %s, expected finite numbers", tensor, at, what);
}

}  // namespace

TEST_CASE("a value that is not finite is named in every type and layout") {
  const struct {
    const char *tensor, *hf_name;
    size_t index;    // in memory
    const char* at;  // in the file
    float value;
    const char* what;
  } cases[] = {
      {"wte", "transformer.wte.weight", 0, "0, 0", kNaN, "NaN"},
      {"wte", "transformer.wte.weight", 20, "6, 2", kInf, "infinite"},
      {"wpe", "transformer.wpe.weight", 4, "1, 1", -kInf, "infinite"},
      {"block.1.fcw", "transformer.h.1.mlp.c_fc.weight", 34, "1, 11", kNaN, "NaN"},  // 12 rows of 3, as (3, 12)
      {"block.0.ln1b", "transformer.h.0.ln_1.bias", 2, "2", -kNaN, "NaN"},
      {"lnfw", "transformer.ln_f.weight", 0, "0", kInf, "infinite"},
  };
  for (const auto& c : cases) {
    CAPTURE(c.tensor);
    const Folder folder;
    const auto model = random_model(kTiny, 1);
    for (const ParamTensor& tensor : model->table) {
      if (tensor.name != c.tensor) continue;
      std::vector<float> values = read_tensor(*model, Arena::params, tensor);
      values[c.index] = c.value;
      model->write(Arena::params, tensor, values.data());
    }
    const std::string file = (folder.path / "model.safetensors").string();
    for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
      HuggingfaceOptions options;
      options.dtype = dtype;
      save_huggingface(ModelWeights(*model), nullptr, folder.path, options);
      const std::string expected = file + with_value(c.hf_name, c.at, c.what);
      CHECK(refusal(folder.path).starts_with(expected));
      CHECK(base_refusal(folder.path).starts_with(expected));
      const auto loaded = random_model(kTiny, 2);
      CHECK_THROWS_WITH_AS(load_weights(*loaded, folder.path), doctest::Contains(expected.c_str()), Error);
      // It is not converted to another kind of file.
      const fs::path other = folder.path / "other.bin";
      CHECK_THROWS_AS(save_llmc(*open_weights(folder.path), other, LlmcType::bf16), Error);
      CHECK_FALSE(fs::exists(other));
    }
    const fs::path bin = folder.path / "model.bin";
    for (const LlmcType type : {LlmcType::fp32, LlmcType::bf16}) {
      save_llmc(ModelWeights(*model), bin, type);
      const std::string reason = refusal(bin);  // matrices are laid out there as in memory
      CHECK(reason.starts_with(bin.string() + ": tensor \"" + c.tensor + "\": value ["));
      CHECK(reason.find(c.what) != std::string::npos);
    }
    HuggingfaceOptions shards;
    shards.shard_bytes = 1;
    save_huggingface(ModelWeights(*model), nullptr, folder.path, shards);
    CHECK(refusal(folder.path).find("-of-") != std::string::npos);  // the shard, not the folder
    CHECK(refusal(folder.path).find(with_value(c.hf_name, c.at, c.what)) != std::string::npos);
  }
}

TEST_CASE("the largest and smallest finite numbers and zeros of either sign are accepted") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  const float odd[] = {std::numeric_limits<float>::max(), -std::numeric_limits<float>::max(),
                       std::numeric_limits<float>::denorm_min(), -0.0f};
  std::vector<float> values = read_tensor(*model, Arena::params, model->table[0]);
  std::copy(std::begin(odd), std::end(odd), values.begin());
  model->write(Arena::params, model->table[0], values.data());
  save_model(*model, nullptr, folder.path);
  CHECK(refusal(folder.path) == "nothing");
  const auto loaded = random_model(kTiny, 2);
  load_weights(*loaded, folder.path);
  CHECK(same(*loaded, *model, {Arena::params}));
}

TEST_CASE("values of an adapter and of its base that are not finite are refused") {
  const ModelConfig shape{.max_seq_len = 8, .vocab_size = 11, .num_layers = 1, .num_heads = 2, .channels = 6};
  const Folder folder;
  const fs::path base = folder.path / "base", adapter = folder.path / "adapter";
  fs::create_directories(base);
  fs::create_directories(adapter);
  save_model(*random_model(shape, 1), nullptr, base);
  ModelOptions options;
  options.lora = {2, 6, 0, "fc"};
  CpuModel<float> model(shape, true, options);
  init_weights(model, 1);
  save_adapter(model, base, adapter, true);
  CHECK(refusal(adapter) == "nothing");
  for (const char* which : {"lora_A", "lora_B"}) {
    rewrite(adapter / "adapter_model.safetensors", folder.path / "damaged", [&](FileTensor& tensor) {
      if (tensor.name.find(which) != std::string::npos) tensor.bytes.replace(4, 4, "\x01\x00\x80\x7f", 4);  // a NaN
    });
    const fs::path damaged = folder.path / "adapter2";
    fs::create_directories(damaged);
    fs::copy(adapter / "adapter_config.json", damaged, fs::copy_options::overwrite_existing);
    fs::rename(folder.path / "damaged", damaged / "adapter_model.safetensors");
    const std::string name = strprintf("base_model.model.transformer.h.0.mlp.c_fc.%s.weight", which);
    CHECK(refusal(damaged).starts_with((damaged / "adapter_model.safetensors").string() +
                                       with_value(name.c_str(), "0, 1", "NaN")));
  }
  rewrite(base / "model.safetensors", folder.path / "damaged", [&](FileTensor& tensor) {
    if (tensor.name == "transformer.wpe.weight") tensor.bytes.replace(0, 4, "\x00\x00\x80\xff", 4);
  });
  fs::rename(folder.path / "damaged", base / "model.safetensors");
  fs::remove(adapter / "adapter_model.safetensors");
  save_adapter(model, base, adapter, true);  // with the checksum of that base
  CHECK(refusal(adapter).starts_with((base / "model.safetensors").string() +
                                     with_value("transformer.wpe.weight", "0, 0", "infinite")));
}
