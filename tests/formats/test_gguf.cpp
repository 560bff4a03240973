// GGUF files of models: what llama.cpp and its package `gguf` write and compute (tests/golden/checkpoint_gguf, made by
// dev/reference/checkpoint_gguf.py), round trips, and models that have no place in one. Damaged files:
// test_gguf_file.cpp.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "llm/formats/float16.h"
#include "llm/formats/gguf.h"
#include "llm/formats/gguf_file.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "tests/helpers/model_files.h"
#include "tests/helpers/test_set.h"

namespace fs = std::filesystem;
using doctest::Contains;
using nlohmann::json;

namespace {

const fs::path kGolden = fs::path(GOLDEN_DIR) / "checkpoint_gguf";
const GgufType kTypes[] = {GgufType::f32, GgufType::f16, GgufType::bf16, GgufType::q8_0};
const char* const kText =
    "It's 3 o'clock, isn't it?  We'll see: 1234 apples\n\n\tand\r\n  don't <|endoftext|> \xC3\xA9\xF0\x9F\xA6\x99";

// What a type makes of numbers, in the plainest way: rows of n values.
std::vector<float> rounded(std::vector<float> values, const std::string& type) {
  if (type == "F16" || type == "BF16") {
    for (float& value : values)
      value = type == "F16" ? float_from_f16(f16_from_float(value)) : float_from_bf16(bf16_from_float(value));
  }
  for (size_t b = 0; type == "Q8_0" && b < values.size(); b += 32) {
    float largest = 0;
    for (size_t i = b; i < b + 32; ++i) largest = std::fmax(largest, std::fabs(values[i]));
    const float d = largest / 127, scale = float_from_f16(f16_from_float(d)), inverse = d == 0 ? 0 : 1 / d;
    for (size_t i = b; i < b + 32; ++i) values[i] = scale * std::roundf(values[i] * inverse);
  }
  return values;
}

// A tensor's numbers as a file of one row per output has them.
std::vector<float> file_values(const Weights& weights, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  weights.read(tensor, values.data());
  values.resize(static_cast<size_t>(tensor.file_size()));
  return values;
}

// The type of a tensor in a file that save_gguf writes.
std::string expected_type(const ParamTensor& tensor, GgufType type) {
  if (tensor.vector() || tensor.role == Role::position) return "F32";
  return type == GgufType::q8_0 && tensor.cols % 32 != 0 ? "F16" : gguf_type_name(type);
}

bool same_tensors(const GgufFile& a, const GgufFile& b) {
  if (a.tensors().size() != b.tensors().size()) return false;
  for (const TensorView& view : a.tensors()) {
    const TensorView* other = b.find(view.name);
    if (!other || other->dtype != view.dtype || other->shape != view.shape ||
        !std::equal(view.bytes.begin(), view.bytes.end(), other->bytes.begin(), other->bytes.end())) {
      return false;
    }
  }
  return true;
}

Tokenizer small_tokenizer() {
  std::string text;
  for (int k = 0; k < 9; ++k) text += "The cat sat on the mat; the hat, that is. ";
  return Tokenizer::train_bpe(text, 280);
}

ModelConfig small(int channels, int vocabulary) { return ModelConfig{8, vocabulary, 2, 2, channels}; }

}  // namespace

TEST_CASE("files of llama.cpp's own package hold the same tensors and tokenizer") {
  const std::unique_ptr<Weights> model = open_weights(kGolden);
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  for (const char* name : {"q8_0.gguf", "mixed.gguf"}) {
    CAPTURE(name);
    const fs::path path = kGolden / name;
    CHECK(weights_kind(path) == WeightsKind::gguf);
    const std::unique_ptr<Weights> weights = open_weights(path);
    const bool mixed = std::string(name) == "mixed.gguf";
    ModelConfig expected = model->config;
    expected.tied_head = !mixed;
    CHECK(weights->config == expected);
    CHECK(read_model_config(path) == expected);
    std::map<std::string, int> types;
    for (const ParamTensor& tensor : weights->table) {
      const bool head = tensor.role == Role::head;  // the embedding's rows, last first
      std::vector<float> values = file_values(*model, head ? model->table[0] : tensor);
      if (head) {
        std::vector<float> flipped;
        for (int64_t row = tensor.file_rows - 1; row >= 0; --row)
          flipped.insert(flipped.end(), values.begin() + row * tensor.cols, values.begin() + (row + 1) * tensor.cols);
        values = flipped;
      }
      const std::string type = weights->stored_as(tensor);
      CHECK_MESSAGE(file_values(*weights, tensor) == rounded(values, type), tensor.name);
      CHECK(weights->dtype(tensor) == find_dtype(type).value_or(Dtype::f32));
      if (!mixed) CHECK(type == expected_type(tensor, GgufType::q8_0));
      if (!tensor.vector()) ++types[type];
    }
    CHECK(types.size() == (mixed ? 4 : 2));
    CHECK(find_tokenizer(path)->checksum() == tokenizer.checksum());
    CHECK(read_gguf_extras(path) == json{{"bos_token_id", 299}, {"eos_token_id", 299}});
  }

  // And save_gguf's file has that package's bytes.
  const Folder folder;
  save_gguf(*model, &tokenizer, folder.path / "m.gguf", {GgufType::q8_0});
  const GgufFile ours(folder.path / "m.gguf", "gpt2"), theirs(kGolden / "q8_0.gguf", "gpt2");
  CHECK(same_tensors(ours, theirs));
  for (const char* field : {"tokens", "merges"}) {
    const std::string key = std::string("tokenizer.ggml.") + field;
    CHECK(ours.texts(key) == theirs.texts(key));
  }
  CHECK(ours.integers("tokenizer.ggml.token_type") == theirs.integers("tokenizer.ggml.token_type"));
  for (const char* key : {"gpt2.block_count", "gpt2.context_length", "gpt2.embedding_length", "general.file_type",
                          "gpt2.feed_forward_length", "gpt2.attention.head_count", "general.quantization_version",
                          "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"}) {
    CHECK_MESSAGE(ours.number(key) == theirs.number(key), key);
  }
  CHECK(ours.real("gpt2.attention.layer_norm_epsilon") == theirs.real("gpt2.attention.layer_norm_epsilon"));
  for (const char* key : {"general.architecture", "general.type", "tokenizer.ggml.model", "tokenizer.ggml.pre"}) {
    CHECK_MESSAGE(ours.text(key) == theirs.text(key), key);
  }
}

// llama.cpp multiplies by a matrix of F16, BF16 or Q8_0 what it has rounded to that type (Q8_0: int8), so the largest
// logit is certain only if it exceeds the next by more than this; for F32 only the order of sums and a table of GELU
// differ.
TEST_CASE("llama.cpp continues texts with the same tokens, and encodes them alike") {
  const json golden = read_json(kGolden / "greedy.json");
  const Folder folder;
  const std::map<std::string, std::pair<GgufType, double>> kinds = {{"fp32", {GgufType::f32, 1e-4}},
                                                                    {"fp16", {GgufType::f16, 1e-3}},
                                                                    {"bf16", {GgufType::bf16, 1e-2}},
                                                                    {"q8_0", {GgufType::q8_0, 5e-2}}};
  const std::unique_ptr<Weights> source = open_weights(kGolden);
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  for (const auto& [name, kind] : kinds) {
    CAPTURE(name);
    const fs::path path = folder.path / (name + ".gguf");
    save_gguf(*source, &tokenizer, path, {kind.first});
    const Tokenizer read = *read_gguf_tokenizer(path);
    CHECK(read.encode(golden["text"].get<std::string>(), Special::parsed) == golden["ids"].get<std::vector<int32_t>>());
    const auto model = make_cpu_model(read_model_config(path), false);
    load_weights(*model, path);
    int certain = 0, all = 0;
    for (const json& prompt : golden["prompts"]) {
      std::vector<int32_t> ids = prompt["ids"];
      CHECK(read.encode(prompt["prompt"].get<std::string>()) == ids);
      const auto made = prompt["continued"][name]["ids"].get<std::vector<int32_t>>();
      const auto margins = prompt["continued"][name]["margins"].get<std::vector<double>>();
      const size_t given = ids.size();
      ids.insert(ids.end(), made.begin(), made.end());
      const int T = static_cast<int>(ids.size());
      REQUIRE(T <= model->config.max_seq_len);
      model->forward(ids.data(), 1, T, Pass::evaluate);
      std::vector<float> logits(static_cast<size_t>(model->config.outputs()));
      for (size_t k = 0; k < made.size(); ++k, ++all) {
        if (margins[k] < kind.second) continue;
        model->read_logits(static_cast<int64_t>(given + k) - 1, logits.data());
        const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
        CHECK_MESSAGE(best == made[k], "token " << k << " of " << prompt["prompt"]);
        ++certain;
      }
    }
    CHECK(all == 3 * 64);
    CHECK(certain > all * 9 / 10);
  }
}

TEST_CASE("every type, tied or not, with rows of whole blocks or not, is read as it was written") {
  const Tokenizer tokenizer = small_tokenizer();
  for (const GgufType type : kTypes) {
    for (const int channels : {64, 32, 24, 6}) {
      for (const bool tied : {true, false}) {
        CAPTURE(gguf_type_name(type));
        CAPTURE(channels);
        const Folder folder;
        const fs::path path = folder.path / "m.gguf", again = folder.path / "again.gguf";
        ModelConfig config = small(channels, tokenizer.vocab_size());
        config.tied_head = tied;
        const auto model = random_model(config, 7);
        const ModelWeights source(*model);
        const GgufWritten written = save_gguf(source, &tokenizer, path, {type});
        CHECK(static_cast<uintmax_t>(written.bytes) == fs::file_size(path));
        const std::unique_ptr<Weights> weights = open_gguf(path);
        CHECK(weights->config == config);
        size_t halved = 0;
        for (const ParamTensor& tensor : weights->table) {
          const std::string stored = expected_type(tensor, type);
          CHECK(weights->stored_as(tensor) == stored);
          CHECK_MESSAGE(file_values(*weights, tensor) == rounded(file_values(source, tensor), stored), tensor.name);
          halved += type == GgufType::q8_0 && stored == "F16";
        }
        CHECK(written.not_in_blocks.size() == halved);
        CHECK((halved > 0) == (type == GgufType::q8_0 && channels % 32 != 0));
        CHECK(read_gguf_tokenizer(path)->checksum() == tokenizer.checksum());
        // A second time in the same type nothing changes.
        save_gguf(*weights, &tokenizer, again, {type});
        CHECK(same_tensors(GgufFile(path, "gpt2"), GgufFile(again, "gpt2")));
      }
    }
  }
}

TEST_CASE("a directory and back: the same weights and ids") {
  const Folder folder;
  const Tokenizer tokenizer = small_tokenizer().with_special_tokens(std::vector<std::string>{"<|user|>", "<pad>"});
  const auto model = random_model(small(32, tokenizer.vocab_size() + 5), 3);
  const fs::path path = folder.path / "m.gguf", dir = folder.path / "dir";
  save_gguf(ModelWeights(*model), &tokenizer, path, {GgufType::f32, {{"eos_token_id", 1}, {"bos_token_id", nullptr}}});
  fs::create_directories(dir);
  const Tokenizer read = *find_tokenizer(path);
  save_huggingface(*open_weights(path), &read, dir, {std::nullopt, 0, read_gguf_extras(path)});
  const auto loaded = random_model(model->config, 4);
  load_weights(*loaded, dir);
  CHECK(same(*loaded, *model, {Arena::params}));
  CHECK(read_json(dir / "config.json")["eos_token_id"] == 1);
  CHECK(read_json(dir / "config.json")["bos_token_id"] == tokenizer.end_of_text());
  const Tokenizer there = Tokenizer::load(dir);
  CHECK(there.checksum() == tokenizer.checksum());
  const std::string text = std::string(kText) + " <|user|>The cat<pad>";
  CHECK(there.encode(text, Special::parsed) == tokenizer.encode(text, Special::parsed));
  CHECK(load_tokenizer(path).checksum() == tokenizer.checksum());
  CHECK(load_tokenizer(dir).checksum() == tokenizer.checksum());
  // The ids above those of the tokenizer are named, and of the type that llama.cpp calls unused.
  const GgufFile file(path, "gpt2");
  const auto tokens = *file.texts("tokenizer.ggml.tokens");
  CHECK(tokens.size() == static_cast<size_t>(model->config.vocab_size));
  CHECK(tokens.back() == strprintf("[PAD%d]", model->config.vocab_size - 1));
  const std::vector<int32_t> types = *file.integers("tokenizer.ggml.token_type");
  CHECK(std::count(types.begin(), types.end(), 5) == 5);
  CHECK(std::count(types.begin(), types.end(), 3) == 3);
}

TEST_CASE("a model without a tokenizer, and one without biases of queries, keys and values") {
  const Folder folder;
  const fs::path path = folder.path / "m.gguf";
  ModelConfig config = small(32, 11), read = config;
  config.qkv_bias = false;
  const auto model = random_model(config, 3), loaded = make_cpu_model(read, true);
  save_gguf(ModelWeights(*model), nullptr, path, {});
  load_weights(*loaded, path);  // a bias of zeros
  for (const ParamTensor& tensor : loaded->table) {
    const std::vector<float> values = read_tensor(*loaded, Arena::params, tensor);
    if (tensor.name.ends_with("qkvb")) CHECK(values == std::vector<float>(96, 0.0f));
    for (const ParamTensor& other : model->table) {
      if (other.name == tensor.name) CHECK(values == read_tensor(*model, Arena::params, other));
    }
  }
  CHECK_FALSE(find_tokenizer(path));
  CHECK_THROWS_WITH_AS(load_tokenizer(path), Contains("m.gguf: the file has no tokenizer"), Error);
  CHECK(GgufFile(path, "gpt2").text("tokenizer.ggml.model") == "none");
  CHECK(read_gguf_extras(path).empty());
}

TEST_CASE("what llama.cpp has no place for is refused by name, before anything is written") {
  const Folder folder;
  const fs::path path = folder.path / "m.gguf";
  const Tokenizer tokenizer = small_tokenizer();
  const auto refused = [&](const ModelConfig& config, const Tokenizer* with, const char* reason) {
    const auto model = random_model(config, 1);
    CHECK_THROWS_WITH_AS(save_gguf(ModelWeights(*model), with, path, {}), Contains(reason), Error);
    CHECK(fs::is_empty(folder.path));
  };
  const ModelConfig config = small(8, 300);
  ModelConfig classifier = config, looks_ahead = config;
  classifier.num_classes = 2;
  classifier.tied_head = false;
  looks_ahead.causal = false;
  refused(classifier, nullptr, "no place for a classifier");
  refused(looks_ahead, nullptr, "no place for attention that is not causal");
  const Tokenizer bytes = Tokenizer::bytes(), chars = Tokenizer::chars("abc");
  refused(config, &bytes, "no place for a tokenizer of bytes, only BPE");
  refused(config, &chars, "no place for a tokenizer of chars, only BPE");
  SpelledVocabulary spelled = tokenizer.spelled();
  spelled.special.back() = false;  // its letters are tokens anyway
  const Tokenizer endless = Tokenizer::from_spelled(spelled, "x");
  refused(config, &endless, "no place for a tokenizer without <|endoftext|>");
  const Tokenizer collides = tokenizer.with_special_tokens(std::vector<std::string>{"[PAD290]"});
  refused(config, &collides, "the token \"[PAD290]\" has the name that GGUF gives to the unused id 290");
  ModelConfig other = config;
  other.family = "other";
  CHECK_THROWS_WITH_AS(check_gguf(other, nullptr, "x"), Contains("x: llama.cpp's GPT-2 has no place for a model of"),
                       Error);
}

TEST_CASE("values beyond a type, or not finite, are named") {
  const Folder folder;
  const fs::path path = folder.path / "m.gguf";
  const auto model = random_model(small(32, 11), 1);
  const auto set = [&](const char* name, size_t k, float value) {
    for (const ParamTensor& tensor : model->table) {
      if (tensor.name != name) continue;
      std::vector<float> values = read_tensor(*model, Arena::params, tensor);
      values[k] = value;
      model->write(Arena::params, tensor, values.data());
    }
  };
  const auto refused = [&](GgufType type, const char* reason) {
    CHECK_THROWS_WITH_AS(save_gguf(ModelWeights(*model), nullptr, path, {type}), Contains(reason), Error);
    CHECK(fs::is_empty(folder.path));
  };
  set("block.1.fcw", 40, 1e7f);
  refused(GgufType::q8_0, "tensor \"blk.1.ffn_up.weight\": a value of 1e+07, beyond the 8.31901e+06 that Q8_0 reaches");
  refused(GgufType::f16, "tensor \"blk.1.ffn_up.weight\": a value of 1e+07, beyond the 65504");
  set("block.1.fcw", 40, std::nanf(""));
  refused(GgufType::q8_0, "a value of nan");
  set("block.1.fcw", 40, 65504.0f * 127);
  save_gguf(ModelWeights(*model), nullptr, path, {GgufType::q8_0});
  CHECK(refusal(path) == "nothing");
  set("block.1.fcw", 40, std::numeric_limits<float>::denorm_min());  // its scale is zero
  set("block.1.fcw", 41, 1e-9f);
  save_gguf(ModelWeights(*model), nullptr, path, {GgufType::q8_0});
  CHECK(refusal(path) == "nothing");

  // In a file: a float, and the scale of a block.
  std::string bytes = contents(path);
  const auto damage = [&](const char* name, size_t at, const std::string& with) {
    std::string damaged = bytes;
    {
      const GgufFile file(path, "gpt2");
      const TensorView* view = file.find(name);
      const MappedFile mapped(path);
      const std::string text(reinterpret_cast<const char*>(view->bytes.data()), view->bytes.size());
      damaged.replace(bytes.find(text) + at, with.size(), with);
    }
    write_text(folder.path / "damaged.gguf", damaged);
    return refusal(folder.path / "damaged.gguf");
  };
  CHECK(damage("position_embd.weight", 4 * 33, std::string("\0\0\x80\x7f", 4)) ==
        (folder.path / "damaged.gguf").string() +
            ": tensor \"position_embd.weight\": value [1, 1] is infinite, expected finite numbers; the weights are "
            "damaged: take another copy or checkpoint");
  CHECK(damage("blk.0.ffn_down.weight", 34 * 5, std::string("\xff\x7f", 2))
            .find("tensor \"blk.0.ffn_down.weight\": value [1, 32] is NaN") != std::string::npos);
}
