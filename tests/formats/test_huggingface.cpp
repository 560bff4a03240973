#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "llm/formats/float16.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;
using nlohmann::json;

namespace {

const fs::path kGolden = fs::path(GOLDEN_DIR) / "checkpoint_gpt2";  // saved by transformers: 3 layers, 5 heads
const ModelConfig kShape{12, 103, 3, 5, 10};
const ModelConfig kTiny{4, 7, 2, 1, 3};

// Loads a model that transformers saved, compares its logits with theirs, saves it again and compares the files.
void check_against_transformers(const fs::path& dir, const fs::path& saved) {
  CAPTURE(dir.string());
  const auto model = make_cpu_model(read_model_config(dir), false);
  load_weights(*model, dir);

  const SafetensorsFile reference(dir / "logits.safetensors");
  const TensorView &inputs = *reference.find("inputs"), &logits = *reference.find("logits");
  const int B = static_cast<int>(inputs.shape[0]), T = static_cast<int>(inputs.shape[1]), V = model->config.vocab_size;
  std::vector<int32_t> tokens(static_cast<size_t>(B * T));
  std::memcpy(tokens.data(), inputs.bytes.data(), inputs.bytes.size());
  std::vector<float> expected(static_cast<size_t>(B) * T * V), row(static_cast<size_t>(V));
  REQUIRE(logits.bytes.size() == expected.size() * sizeof(float));
  std::memcpy(expected.data(), logits.bytes.data(), logits.bytes.size());
  model->forward(tokens.data(), B, T, Pass::evaluate);
  Worst largest;
  for (int n = 0; n < B * T; ++n) {
    model->read_logits(n, row.data());
    for (int v = 0; v < V; ++v) largest.see(std::abs(row[v] - expected[static_cast<size_t>(n) * V + v]));
  }
  CHECK(largest.error <= 1e-4);
  MESSAGE(dir.filename().string(), ": largest difference of a logit ", largest.error);

  fs::create_directories(saved);
  save_model(*model, nullptr, saved);
  const SafetensorsFile theirs(dir / "model.safetensors"), ours(saved / "model.safetensors");
  CHECK(ours.metadata() == theirs.metadata());
  CHECK(ours.tensors().size() == theirs.tensors().size());
  for (const TensorView& tensor : theirs.tensors()) {
    const TensorView* found = ours.find(tensor.name);
    REQUIRE_MESSAGE(found, tensor.name);
    CHECK(describe(*found) == describe(tensor));
    CHECK(std::memcmp(found->bytes.data(), tensor.bytes.data(), tensor.bytes.size()) == 0);
  }
}

// Whether two folders hold the same tensors, bit for bit; names in the second get the prefix.
bool same_tensors(const fs::path& a, const fs::path& b, const std::string& prefix) {
  const SafetensorsFile first(a / "model.safetensors"), second(b / "model.safetensors");
  bool same = first.tensors().size() == second.tensors().size();
  for (const TensorView& tensor : second.tensors()) {
    const TensorView* found = first.find(prefix + tensor.name);
    same = same && found && describe(*found) == describe(tensor) &&
           std::memcmp(found->bytes.data(), tensor.bytes.data(), tensor.bytes.size()) == 0;
  }
  return same;
}

}  // namespace

TEST_CASE("a model saved by transformers gives the logits of transformers, and is saved as transformers saved it") {
  const Folder folder;
  check_against_transformers(kGolden, folder.path);
  const json theirs = read_json(kGolden / "config.json"), ours = read_json(folder.path / "config.json");
  for (const auto& [key, value] : theirs.items()) {
    if (key.rfind("summary_", 0) == 0 || key == "transformers_version" || key == "initializer_range") continue;
    CAPTURE(key);
    REQUIRE(ours.contains(key));
    CHECK(ours[key] == value);
  }
  // More of them, too large to keep here: dev/reference/checkpoint_transformers.py make DIR.
  if (const char* models = std::getenv("WROUGHT_MODELS")) {
    for (const fs::directory_entry& entry : fs::directory_iterator(models)) {
      check_against_transformers(entry.path(), entry.path() / "saved");
    }
  }
}

TEST_CASE("a tokenizer is saved next to the model and gives the config its end-of-text") {
  const Folder folder;
  const Tokenizer tokenizer = Tokenizer::bytes();
  ModelConfig config = kTiny;
  config.vocab_size = 300;  // padded: more than the tokenizer's 257
  save_model(*random_model(config, 1), &tokenizer, folder.path);
  CHECK(Tokenizer::load(folder.path).checksum() == tokenizer.checksum());
  CHECK(read_json(folder.path / "config.json")["eos_token_id"] == tokenizer.end_of_text());
  const json opened_by = read_json(folder.path / "tokenizer_config.json");
  CHECK(opened_by["tokenizer_class"] == "PreTrainedTokenizerFast");
  CHECK(opened_by["eos_token"] == "<|endoftext|>");
  check_tokenizer(tokenizer, config, "here");
  config.vocab_size = 256;
  CHECK_THROWS_WITH_AS(check_tokenizer(tokenizer, config, "here"),
                       Contains("here: the tokenizer has 257 ids, more than the 256"), Error);
  CHECK_THROWS_AS(save_model(*random_model(config, 1), &tokenizer, folder.path), Error);
}

TEST_CASE("every size survives saving and loading") {
  const Folder folder;
  for (const ModelConfig& config :
       {kTiny, ModelConfig{1, 1, 1, 1, 1}, ModelConfig{5, 129, 1, 3, 51}, ModelConfig{2, 128, 2, 2, 64}}) {
    const auto model = random_model(config, 7), loaded = random_model(config, 8);
    save_model(*model, nullptr, folder.path);
    CHECK(read_model_config(folder.path) == config);
    check_weights(config, folder.path);
    load_weights(*loaded, folder.path);
    CHECK(same(*model, *loaded, {Arena::params}));
  }
}

TEST_CASE("a missing field of the config has the default of transformers; unsupported values are refused") {
  const Folder folder;
  const fs::path path = folder.path / "config.json";
  write_text(path, R"({"model_type": "gpt2"})");
  CHECK(read_model_config(folder.path) == ModelConfig{1024, 50257, 12, 12, 768});
  const json golden = read_json(kGolden / "config.json");
  const auto with = [&](const char* field, const json& value) {
    json changed = golden;
    changed[field] = value;
    write_text(path, changed.dump());
  };
  for (const auto& [field, value] :
       std::vector<std::pair<const char*, json>>{{"n_inner", 40},
                                                 {"activation_function", "gelu_pytorch_tanh"},
                                                 {"tie_word_embeddings", true},
                                                 {"resid_pdrop", 0}}) {
    with(field, value);
    CHECK(read_model_config(folder.path) == kShape);
  }
  for (const auto& [field, value, message] : std::vector<std::tuple<const char*, json, const char*>>{
           {"model_type", "llama", "model_type is \"llama\", expected \"gpt2\""},
           {"model_type", nullptr, "model_type is null"},
           {"model_type", "wrought_other", "model_type is \"wrought_other\", expected \"gpt2\""},
           {"num_key_value_heads", 1, "num_key_value_heads is 1, expected 5: GPT-2's heads do not share keys"},
           {"n_head", 3, "3 heads do not divide 10 channels"},
           {"n_head", 0, "number of heads is 0"},
           {"n_embd", "10", "n_embd is \"10\", expected a whole number"},
           {"n_embd", 10.0, "n_embd is 10.0, expected a whole number"},
           {"n_embd", nullptr, "n_embd is null"},
           {"n_layer", -3, "number of layers"},
           {"n_layer", INT64_MIN, "number of layers"},
           {"vocab_size", 1e30, "vocab_size is 1e+30"},
           {"vocab_size", UINT64_MAX, "vocab_size is 18446744073709551615"},
           {"vocab_size", INT32_MAX, "vocabulary size is 2147483647"},
           {"n_positions", 1 << 30, "context length"},
           {"n_inner", 41, "n_inner is 41, expected 40"},
           {"activation_function", "relu", "activation_function is \"relu\", expected \"gelu_new\""},
           {"activation_function", "gelu", "activation_function is \"gelu\""},
           {"layer_norm_epsilon", 1e-6, "layer_norm_epsilon is 1e-06"},
           {"layer_norm_epsilon", "1e-5", "layer_norm_epsilon"},
           {"tie_word_embeddings", 3, "tie_word_embeddings is 3, expected true or false"},
           {"qkv_bias", "no", "qkv_bias is \"no\", expected true or false"},
           {"causal", nullptr, "causal is null"},
           {"scale_attn_weights", false, "scale_attn_weights is false"},
           {"scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx is true"},
           {"add_cross_attention", true, "add_cross_attention"},
           {"quantization_config", json::object(), "quantized"},
           {"pruned_heads", {{"1", {0}}}, "pruned_heads"}}) {
    CAPTURE(message);
    with(field, value);
    CHECK_THROWS_WITH_AS(read_model_config(folder.path), Contains(message), Error);
    CHECK_THROWS_WITH_AS(read_model_config(folder.path), Contains(path.c_str()), Error);
  }
  for (const char* text : {"", "[]", "{", "{\"model_type\": \"gpt2\"} x", "{\"n_head\": 1, \"n_head\": 2}", "\xff"}) {
    write_text(path, text);
    CHECK_THROWS_AS(read_model_config(folder.path), Error);
  }
  write_text(path, "{\"a\":" + std::string(100'000, '['));
  CHECK_THROWS_WITH_AS(read_model_config(folder.path), Contains("nested deeper"), Error);
  fs::remove(path);
  CHECK_THROWS_WITH_AS(read_model_config(folder.path), Contains("config.json"), Error);
  CHECK_THROWS_WITH_AS(read_model_config(folder.path / "none"), Contains("expected a model's folder"), Error);
}

TEST_CASE("weights are read in every form of file") {
  const Folder folder;
  const fs::path path = folder.path / "model.safetensors";
  fs::copy(kGolden / "config.json", folder.path);
  const auto expected = make_cpu_model(kShape, true), model = make_cpu_model(kShape, true);
  load_weights(*expected, kGolden);
  const auto check_loads = [&] {
    init_weights(*model, 9);
    load_weights(*model, folder.path);
    CHECK(same(*model, *expected, {Arena::params}));
  };
  const auto keep = [](FileTensor&) {};
  const std::string wte = [&] {
    const SafetensorsFile file(kGolden / "model.safetensors");
    const auto bytes = file.find("transformer.wte.weight")->bytes;
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }();
  const auto extra = [](const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
                        const std::string& bytes) {
    FileTensor tensor;
    tensor.name = name, tensor.dtype = dtype, tensor.shape = std::move(shape), tensor.bytes = bytes;
    return tensor;
  };

  SUBCASE("names without the prefix, with masks and the tied head") {
    rewrite(kGolden / "model.safetensors", path,
            [](FileTensor& tensor) { tensor.name.erase(0, std::strlen("transformer.")); },
            {extra("h.0.attn.bias", "U8", {1, 1, 2, 2}, "abcd"), extra("h.2.attn.masked_bias", "F32", {}, "abcd"),
             extra("lm_head.weight", "F32", {103, 10}, wte)});
    check_loads();
  }
  SUBCASE("a head that is not wte is refused") {
    std::string other = wte;
    other[17] ^= 1;
    rewrite(kGolden / "model.safetensors", path, keep, {extra("lm_head.weight", "F32", {103, 10}, other)});
    CHECK_THROWS_WITH_AS(
        load_weights(*model, folder.path),
        Contains("differs from the token embedding, but config.json ties the two; if the head is right"), Error);
    rewrite(kGolden / "model.safetensors", path, keep, {extra("lm_head.weight", "F32", {10, 103}, wte)});
    CHECK_THROWS_WITH_AS(load_weights(*model, folder.path), Contains("expected (103, 10) F32, F16 or BF16"), Error);
  }
  SUBCASE("with the prefix on some of them only") {
    rewrite(kGolden / "model.safetensors", path, [](FileTensor& tensor) {
      if (tensor.name == "transformer.h.1.ln_1.bias") tensor.name = "h.1.ln_1.bias";
    });
    CHECK_THROWS_WITH_AS(load_weights(*model, folder.path), Contains("\"h.1.ln_1.bias\" has not; expected it on all"),
                         Error);
  }
  SUBCASE("in shards") {
    json shard_of;
    for (const char* name : {"a.safetensors", "b.safetensors"}) {
      rewrite(kGolden / "model.safetensors", folder.path / name, [&](FileTensor& tensor) {
        const bool in_a = tensor.name.find(".mlp.") == std::string::npos;
        if (in_a != (name[0] == 'a')) return tensor.name.clear();
        shard_of[tensor.name] = name;
      });
    }
    const std::string wpe = "transformer.wpe.weight";
    const fs::path index = folder.path / "model.safetensors.index.json";
    const auto with_index = [&](const json& weight_map) {
      write_text(index, json{{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}}.dump());
    };
    const auto check_refused = [&](const json& weight_map, const char* message) {
      with_index(weight_map);
      CHECK_THROWS_WITH_AS(load_weights(*model, folder.path), Contains(message), Error);
    };
    const auto with = [&](const std::string& tensor, const json& shard) {
      json other = shard_of;
      other[tensor] = shard;
      return other;
    };
    with_index(shard_of);
    check_loads();
    check_refused(with("more", "a.safetensors"), "\"more\" is in \"a.safetensors\", but it is not");
    check_refused(with(wpe, "b.safetensors"), "\"transformer.wpe.weight\" is in \"b.safetensors\", but it is not");
    check_refused(with(wpe, "c.safetensors"),
                  "names \"c.safetensors\" for \"transformer.wpe.weight\", but there is no");
    for (const json& shard :
         {json("../a.safetensors"), json("/a.safetensors"), json(".."), json("."), json(""), json(3)})
      check_refused(with(wpe, shard), "expected the name of a file in the same folder");
    json without = shard_of;
    without.erase(wpe);
    check_refused(without, "a.safetensors: tensor \"transformer.wpe.weight\" is not in the weight_map");
    fs::copy(folder.path / "a.safetensors", folder.path / "c.safetensors");
    check_refused(with("more", "c.safetensors"), "is there twice");
    fs::remove(folder.path / "c.safetensors");
    rewrite(folder.path / "b.safetensors", folder.path / "b.safetensors", [&](FileTensor& tensor) {
      if (tensor.name != "transformer.h.1.mlp.c_fc.bias") return;
      tensor.name.clear();
      shard_of.erase("transformer.h.1.mlp.c_fc.bias");
    });
    check_refused(shard_of, "tensor \"h.1.mlp.c_fc.bias\" is missing, expected (40) F32");
    write_text(index, R"({"weight_map": 3})");
    CHECK_THROWS_WITH_AS(load_weights(*model, folder.path), Contains("weight_map"), Error);
    fs::copy(kGolden / "model.safetensors", path);  // a whole file next to the shards is the model
    check_loads();
  }
  SUBCASE("as BF16 and F16, tensor by tensor") {
    const auto rounded = [](float x, bool bf16) {
      return bf16 ? float_from_bf16(bf16_from_float(x)) : float_from_f16(f16_from_float(x));
    };
    const auto is_bf16 = [](const std::string& name) { return name.ends_with("weight"); };
    rewrite(kGolden / "model.safetensors", path, [&](FileTensor& tensor) {
      std::string narrow;
      for (size_t i = 0; i < tensor.bytes.size(); i += 4) {
        float x;
        std::memcpy(&x, tensor.bytes.data() + i, 4);
        const uint16_t bits = is_bf16(tensor.name) ? bf16_from_float(x) : f16_from_float(x);
        narrow.append(reinterpret_cast<const char*>(&bits), 2);
      }
      tensor.dtype = is_bf16(tensor.name) ? "BF16" : "F16";
      tensor.bytes = narrow;
    });
    load_weights(*model, folder.path);
    const auto weights = open_huggingface(folder.path);
    for (const ParamTensor& tensor : model->table) {
      CHECK(weights->dtype(tensor) == (is_bf16(tensor.hf_name) ? Dtype::bf16 : Dtype::f16));
      std::vector<float> wanted = read_tensor(*expected, Arena::params, tensor);
      for (float& x : wanted) x = rounded(x, is_bf16(tensor.hf_name));
      CHECK_MESSAGE(read_tensor(*model, Arena::params, tensor) == wanted, tensor.name);
    }
    const fs::path kept = folder.path / "kept";  // each tensor written in its own type
    fs::create_directories(kept);
    save_huggingface(*weights, nullptr, kept, {std::nullopt, 0, nullptr});
    CHECK(same_tensors(kept, folder.path, ""));
  }
  SUBCASE("a wrong tensor is refused before any parameter changes") {
    const auto check_refused = [&](const char* message, const std::function<void(FileTensor&)>& change,
                                   const std::vector<FileTensor>& more = {}) {
      rewrite(kGolden / "model.safetensors", path, change, more);
      const auto untouched = random_model(kShape, 3), target = random_model(kShape, 3);
      CHECK_THROWS_WITH_AS(load_weights(*target, folder.path), Contains(message), Error);
      CHECK_THROWS_WITH_AS(check_weights(kShape, folder.path), Contains(path.c_str()), Error);
      CHECK(same(*untouched, *target, {Arena::params}));
    };
    const auto one = [](const std::string& name, auto change) {
      return [=](FileTensor& tensor) {
        if (tensor.name == "transformer." + name) change(tensor);
      };
    };
    check_refused("tensor \"h.2.mlp.c_proj.bias\" is missing, expected (10) F32",
                  one("h.2.mlp.c_proj.bias", [](FileTensor& tensor) { tensor.name.clear(); }));
    check_refused("tensor \"transformer.h.1.attn.c_attn.weight\" is (30, 10) F32, expected (10, 30) F32, F16 or BF16",
                  one("h.1.attn.c_attn.weight", [](FileTensor& tensor) {
                    tensor.shape = {30, 10};
                  }));
    check_refused("is (103, 10) I32, expected (103, 10) F32",
                  one("wte.weight", [](FileTensor& tensor) { tensor.dtype = "I32"; }));
    check_refused("\"transformer.h.3.ln_1.bias\" is not part of a GPT-2 of 3 layers", keep,
                  {extra("transformer.h.3.ln_1.bias", "F32", {1}, "abcd")});
    check_refused("\"wte.weight\" is there twice", keep, {extra("wte.weight", "F32", {103, 10}, wte)});
  }
  SUBCASE("a shape that differs from that of the model is named field by field") {
    rewrite(kGolden / "model.safetensors", path, keep);
    const auto other = make_cpu_model(ModelConfig{12, 103, 3, 2, 10}, true);
    CHECK_THROWS_WITH_AS(load_weights(*other, folder.path), Contains("n_head 5, expected 2"), Error);
  }
}

TEST_CASE("weights in every type, whole and in shards, convert back to the same bytes") {
  const Folder folder;
  const fs::path once = folder.path / "once", again = folder.path / "again", sharded = folder.path / "sharded";
  const auto model = random_model(ModelConfig{5, 129, 2, 3, 51}, 7);
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    CAPTURE(dtype_name(dtype));
    for (const fs::path& path : {once, again, sharded}) {
      fs::remove_all(path);
      fs::create_directories(path);
    }
    save_huggingface(ModelWeights(*model), nullptr, once, {dtype, 0, nullptr});
    const char* name = dtype == Dtype::f32 ? "float32" : dtype == Dtype::f16 ? "float16" : "bfloat16";
    CHECK(read_json(once / "config.json")["torch_dtype"] == name);
    save_huggingface(*open_huggingface(once), nullptr, again, {std::nullopt, 0, nullptr});
    for (const char* file : {"model.safetensors", "config.json"})
      CHECK(contents(once / file) == contents(again / file));

    const int64_t limit = 20000;
    save_huggingface(*open_huggingface(once), nullptr, sharded, {std::nullopt, limit, nullptr});
    CHECK_FALSE(fs::exists(sharded / "model.safetensors"));
    const json index = read_json(sharded / "model.safetensors.index.json");
    CHECK(index["weight_map"].size() == model->table.size());
    CHECK(index["metadata"]["total_size"] == num_parameters(model->table) * element_bytes(dtype));
    int files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(sharded)) {
      if (entry.path().extension() != ".safetensors") continue;
      const SafetensorsFile shard(entry.path());
      int64_t bytes = 0;
      for (const TensorView& tensor : shard.tensors()) bytes += static_cast<int64_t>(tensor.bytes.size());
      CHECK((bytes <= limit || shard.tensors().size() == 1));
      ++files;
    }
    CHECK(files > 2);
    CHECK(fs::exists(sharded / strprintf("model-00001-of-%05d.safetensors", files)));

    // A single file over the shards and shards over a single file: the previous files are not part of the new model.
    save_huggingface(*open_huggingface(sharded), nullptr, again, {std::nullopt, limit, nullptr});
    CHECK_FALSE(fs::exists(again / "model.safetensors"));
    save_huggingface(*open_huggingface(sharded), nullptr, sharded, {std::nullopt, 0, nullptr});
    CHECK(contents(once / "model.safetensors") == contents(sharded / "model.safetensors"));
    CHECK(std::distance(fs::directory_iterator(sharded), fs::directory_iterator()) == 2);
  }
}

TEST_CASE("a value that F16 cannot hold is refused, and leaves no file") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  std::vector<float> values = read_tensor(*model, Arena::params, model->table[1]);
  values[3] = 65520;
  model->write(Arena::params, model->table[1], values.data());
  CHECK_THROWS_WITH_AS(save_huggingface(ModelWeights(*model), nullptr, folder.path, {Dtype::f16, 0, nullptr}),
                       Contains("tensor \"transformer.wpe.weight\": a value of 65520, beyond the 65504"), Error);
  CHECK(fs::is_empty(folder.path));
  values[3] = 65519.99f;
  model->write(Arena::params, model->table[1], values.data());
  save_huggingface(ModelWeights(*model), nullptr, folder.path, {Dtype::f16, 0, nullptr});
}

TEST_CASE("untied heads, classifiers, models without biases or causality survive saving and loading") {
  const Folder folder;
  ModelConfig untied = kTiny, classifier = kTiny, without_bias = kTiny, looks_ahead = kTiny, all = kTiny;
  untied.tied_head = without_bias.qkv_bias = looks_ahead.causal = false;
  classifier.num_classes = 3;
  classifier.tied_head = false;
  all.num_classes = 200;
  all.tied_head = all.qkv_bias = all.causal = false;
  for (const ModelConfig& config : {untied, classifier, without_bias, looks_ahead, all}) {
    const auto model = random_model(config, 7), loaded = random_model(config, 8);
    for (const int64_t shard_bytes : {0, 1000}) {
      save_huggingface(ModelWeights(*model), nullptr, folder.path, {Dtype::f32, shard_bytes, nullptr});
      CHECK(read_model_config(folder.path) == config);
      load_weights(*loaded, folder.path);
      CHECK(same(*model, *loaded, {Arena::params}));
    }
    CHECK_THROWS_WITH_AS(load_weights(*random_model(kTiny, 1), folder.path), Contains("another shape"), Error);
  }
  const fs::path path = folder.path / "model.safetensors";
  const auto save = [&](const ModelConfig& config) {
    std::unique_ptr<Model> model = random_model(config, 7);
    save_model(*model, nullptr, folder.path);
    return model;
  };
  const auto change_tensor = [&](const std::string& name, const std::function<void(FileTensor&)>& change) {
    int found = 0;
    rewrite(path, path, [&](FileTensor& tensor) {
      if (tensor.name != name) return;
      change(tensor);
      ++found;
    });
    REQUIRE(found == 1);
  };
  const auto drop = [](FileTensor& tensor) { tensor.name.clear(); };
  const auto change_config = [&](const char* field, const json& value) {
    json config = read_json(folder.path / "config.json");
    config[field] = value;
    if (value.is_null()) config.erase(field);
    write_text(folder.path / "config.json", config.dump());
  };

  SUBCASE("an untied head must be present; a tied one may not differ") {
    save(untied);
    const json config = read_json(folder.path / "config.json");
    CHECK(config["tie_word_embeddings"] == false);
    CHECK_FALSE(config.contains("qkv_bias"));
    CHECK_FALSE(config.contains("causal"));
    change_config("tie_word_embeddings", true);
    CHECK_THROWS_WITH_AS(open_huggingface(folder.path), Contains("config.json ties the two"), Error);
    change_config("tie_word_embeddings", false);
    change_tensor("lm_head.weight", drop);
    CHECK_THROWS_WITH_AS(open_huggingface(folder.path), Contains("\"lm_head.weight\" is missing, expected (7, 3)"),
                         Error);
  }
  SUBCASE("a classifier without a bias, as in transformers; classes by name") {
    const auto model = save(classifier);
    json config = read_json(folder.path / "config.json");
    CHECK(config["architectures"] == json::array({"GPT2ForSequenceClassification"}));
    CHECK(config["num_labels"] == 3);
    CHECK(config["id2label"].size() == 3);
    change_tensor("score.bias", drop);
    change_config("num_labels", nullptr);
    const auto loaded = random_model(classifier, 8);
    load_weights(*loaded, folder.path);
    for (const ParamTensor& tensor : model->table) {
      std::vector<float> expected = read_tensor(*model, Arena::params, tensor);
      if (tensor.name == "headb") expected.assign(expected.size(), 0.0f);
      CHECK_MESSAGE(read_tensor(*loaded, Arena::params, tensor) == expected, tensor.name);
    }
    CHECK(open_huggingface(folder.path)->dtype(loaded->table.back()) == Dtype::f32);
    change_config("id2label", nullptr);  // transformers omits the names of two classes
    CHECK(read_model_config(folder.path).num_classes == 2);
    CHECK_THROWS_WITH_AS(open_huggingface(folder.path), Contains("\"score.weight\" is (3, 3) F32, expected (2, 3)"),
                         Error);
    change_config("num_labels", 0);
    CHECK_THROWS_WITH_AS(read_model_config(folder.path), Contains("num_labels is 0, expected at least 1"), Error);
    change_config("architectures", json::array({"GPT2LMHeadModel"}));
    CHECK_THROWS_WITH_AS(open_huggingface(folder.path), Contains("\"score.weight\" is not part of a GPT-2"), Error);
  }
  SUBCASE("a missing bias of queries, keys and values is zeros in the file, and only zeros") {
    const auto model = save(without_bias);
    CHECK(read_json(folder.path / "config.json")["qkv_bias"] == false);
    change_config("qkv_bias", nullptr);
    const auto with_bias = random_model(kTiny, 8);  // as transformers reads it
    load_weights(*with_bias, folder.path);
    for (const ParamTensor& tensor : with_bias->table) {
      if (!tensor.name.ends_with(".qkvb")) continue;
      CHECK(read_tensor(*with_bias, Arena::params, tensor) == std::vector<float>(9, 0.0f));
    }
    change_config("qkv_bias", false);
    change_tensor("transformer.h.1.attn.c_attn.bias", [](FileTensor& tensor) { tensor.bytes[5] = 1; });
    CHECK_THROWS_WITH_AS(open_huggingface(folder.path),
                         Contains("c_attn.bias\" is not zero, but config.json has qkv_bias"), Error);
    change_tensor("transformer.h.1.attn.c_attn.bias", drop);
    open_huggingface(folder.path);
  }
}

TEST_CASE("names of a model saved while wrapped for training may begin with module. and _orig_mod., in any order") {
  const Folder folder;
  const fs::path path = folder.path / "model.safetensors";
  fs::copy(kGolden / "config.json", folder.path);
  const auto expected = make_cpu_model(kShape, true), model = make_cpu_model(kShape, true);
  load_weights(*expected, kGolden);
  std::string wte;
  const auto write = [&](const std::function<std::string(const std::string&)>& prefix, const char* head) {
    FileTensor lm_head;
    rewrite(kGolden / "model.safetensors", path, [&](FileTensor& tensor) {
      if (tensor.name == "transformer.wte.weight") lm_head = tensor;
      tensor.name = prefix(tensor.name) + tensor.name.substr(std::strlen("transformer."));
    });
    lm_head.name = head;
    const fs::path copy = folder.path / "copy";
    rewrite(path, copy, [](FileTensor&) {}, {lm_head});
    fs::rename(copy, path);
  };
  for (const auto& [prefix, head] : {std::pair{"", "lm_head."},
                                     {"module.", "module.lm_head."},
                                     {"module.transformer.", "module.lm_head."},
                                     {"_orig_mod.transformer.", "_orig_mod.lm_head."},
                                     {"module._orig_mod.transformer.", "module._orig_mod.lm_head."},
                                     {"_orig_mod.module.transformer.", "_orig_mod.module.lm_head."},
                                     {"transformer._orig_mod.", "lm_head."},
                                     {"module.transformer._orig_mod.", "module.lm_head."},
                                     {"module.module.", "module.module.lm_head."}}) {
    CAPTURE(prefix);
    write([&prefix = prefix](const std::string&) { return prefix; }, (std::string(head) + "weight").c_str());
    init_weights(*model, 9);
    load_weights(*model, folder.path);
    CHECK(same(*model, *expected, {Arena::params}));
  }
  struct Case {
    const char *prefix, *others, *head, *message;  // prefix: that of one tensor
  };
  for (const Case& c :
       {Case{"module.", "", "lm_head.weight",
             "\"module.h.0.ln_1.bias\" has the prefix \"module.\" and \"h.0.attn.c_attn.bias\" has not; "
             "expected it on all of them or on none"},
        Case{"transformer.", "module.transformer.", "lm_head.weight",
             "\"transformer.h.0.ln_1.bias\" has \"transformer.\"; expected it on all of them or on none"},
        Case{"module.", "module.", "_orig_mod.lm_head.weight", "has \"_orig_mod.\"; expected it"},
        Case{"module.transformer.", "module.transformer.", "lm_head.weight", "has not; expected it"},
        Case{"transformer.transformer.", "transformer.", "lm_head.weight", "tensor \"h.0.ln_1.bias\" is missing"},
        Case{"modules.", "modules.", "lm_head.weight", "is missing"}}) {
    CAPTURE(c.prefix);
    write([&](const std::string& name) { return name.find("ln_1.bias") != std::string::npos ? c.prefix : c.others; },
          c.head);
    CHECK_THROWS_WITH_AS(load_weights(*model, folder.path), Contains(c.message), Error);
  }
}

TEST_CASE("adapters are not part of the saved model, and survive loading one") {
  const Folder folder;
  const auto model = make_cpu_model(kTiny, true, {.lora = {.rank = 2}}), plain = random_model(kTiny, 5);
  init_weights(*model, 4);
  save_model(*model, nullptr, folder.path);
  load_weights(*plain, folder.path);
  const auto before = read_tensor(*model, Arena::params, model->table.back());
  load_weights(*model, folder.path);
  CHECK(read_tensor(*model, Arena::params, model->table.back()) == before);
  for (const ParamTensor& tensor : plain->table) {
    CHECK(read_tensor(*plain, Arena::params, tensor) == read_tensor(*model, Arena::params, tensor));
  }
}

TEST_CASE("GPT-2's four sizes, scaled down, saved and loaded, give the logits of transformers") {
  const Golden golden("transformers_logits.bin");
  const auto shape = golden.get<int>("config");
  const auto scale = golden.get("scale")[0];
  const auto inputs = golden.get<int32_t>("inputs");
  const int B = shape[2], T = shape[3];
  const Folder folder;
  Worst worst;
  for (const std::string size : {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}) {
    for (const std::string kind : {"tied", "untied", "classifier"}) {
      CAPTURE(size);
      CAPTURE(kind);
      const auto of_size = golden.get<int>(size);
      ModelConfig config{shape[0], shape[1], of_size[0], of_size[1], of_size[2]};
      config.tied_head = kind == "tied";
      config.num_classes = kind == "classifier" ? shape[4] : 0;
      const auto made = make_cpu_model(config, true), model = make_cpu_model(config, false);
      uint64_t stream = 0;
      for (const ParamTensor& tensor : made->table) {
        std::vector<float> values(static_cast<size_t>(tensor.size()), 0.0f);
        if (tensor.name != "headb") {  // the classifier of transformers has none
          const uint64_t from = tensor.name == "head" ? 1100 : stream++;
          const bool around_1 = tensor.init == Init::ones;
          for (size_t i = 0; i < static_cast<size_t>(tensor.file_size()); ++i) {
            values[i] = static_cast<float>(golden_uniform(from, i) * scale + (around_1 ? 1 : 0));
          }
        }
        made->write(Arena::params, tensor, values.data());
      }
      save_huggingface(ModelWeights(*made), nullptr, folder.path, {Dtype::f32, 1 << 19, nullptr});
      load_weights(*model, folder.path);

      std::vector<float> last(inputs.size(), 0.0f);  // transformers reads the last position
      for (int b = 0; b < B; ++b) last[static_cast<size_t>(b * T + T - 1)] = 1;
      model->forward({.tokens = inputs.data(),
                      .B = B,
                      .T = T,
                      .pass = Pass::evaluate,
                      .pooling = config.num_classes > 0 ? last.data() : nullptr});
      const auto expected = golden.get(size + ":" + kind);
      const size_t V = static_cast<size_t>(config.outputs()), rows = expected.size() / V;
      REQUIRE(rows == static_cast<size_t>(config.num_classes > 0 ? B : B * T));
      std::vector<float> row(V);
      Worst largest;
      for (size_t n = 0; n < rows; ++n) {
        model->read_logits(static_cast<int64_t>(n), row.data());
        for (size_t v = 0; v < V; ++v) largest.see(std::abs(row[v] - expected[n * V + v]));
      }
      CHECK(largest.error <= 1e-4);
      worst.see(largest.error);
    }
  }
  MESSAGE("largest difference of a logit ", worst.error);
}
