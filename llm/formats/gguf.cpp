#include "llm/formats/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "llm/formats/float16.h"
#include "llm/formats/gguf_file.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const char* const kArchitecture = "gpt2";
const char* const kTokenizer = "tokenizer.ggml.";  // its keys begin with it
const char* const kSplit = "gpt-2";                // llama.cpp's name of GPT-2's split pattern

std::string key_of(const char* field) { return std::string(kArchitecture) + "." + field; }
std::string token_key(const char* field) { return std::string(kTokenizer) + field; }

enum TokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

constexpr struct {
  GgufType type;
  const char* name;
  uint32_t file_type;  // general.file_type of a file whose matrices have it
} kTypes[] = {
    {GgufType::f32, "F32", 0}, {GgufType::f16, "F16", 1}, {GgufType::bf16, "BF16", 32}, {GgufType::q8_0, "Q8_0", 7}};

// ---- tensors -------------------------------------------------------------------------------------------------------

// A tensor's name here, from that of Hugging Face.
std::string gguf_name(const ParamTensor& tensor, const ModelConfig& config) {
  // Modules by their names there and here: of the model, and of a block.
  static const std::vector<std::pair<std::string, std::string>> of_model = {
      {"wte", "token_embd"}, {"wpe", "position_embd"}, {"ln_f", "output_norm"}, {"lm_head", "output"}};
  static const std::vector<std::pair<std::string, std::string>> of_block = {
      {"ln_1", "attn_norm"}, {"attn.c_attn", "attn_qkv"}, {"attn.c_proj", "attn_output"},
      {"ln_2", "ffn_norm"},  {"mlp.c_fc", "ffn_up"},      {"mlp.c_proj", "ffn_down"}};
  const bool in_block = tensor.layer >= 0 && tensor.layer < config.num_layers;
  const std::string there = in_block ? strprintf("h.%d.", tensor.layer) : "",
                    here = in_block ? strprintf("blk.%d.", tensor.layer) : "";
  for (const auto& [hf, gguf] : in_block ? of_block : of_model) {
    for (const char* part : {".weight", ".bias"}) {
      if (tensor.hf_name == there + hf + part) return here + gguf + part;
    }
  }
  throw std::logic_error("GGUF has no name for " + tensor.name);
}

std::vector<int64_t> gguf_shape(const ParamTensor& tensor) {
  if (tensor.vector()) return {tensor.file_size()};
  return {tensor.cols, tensor.file_rows};
}

// ---- Q8_0 ----------------------------------------------------------------------------------------------------------

constexpr int64_t kBlock = 32, kBlockBytes = 2 + kBlock;
constexpr int64_t kPiece = 1 << 18;  // values that are converted at a time: whole blocks

// Rounds as ggml's reference does: with the scale before it becomes F16, halves away from zero.
void quantize(const float* values, std::byte* block) {
  float largest = 0;
  for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(values[i]));
  const float scale = largest / 127, inverse = std::isfinite(1 / scale) ? 1 / scale : 0;
  const uint16_t bits = f16_from_float(scale);
  std::memcpy(block, &bits, sizeof bits);
  for (int64_t i = 0; i < kBlock; ++i) {
    block[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::round(values[i] * inverse)));
  }
}

void quantize_all(const float* values, int64_t n, const std::string& where, const Sink& sink) {
  constexpr float kMost = 65504.0f * 127;
  std::vector<std::byte> blocks;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t end = std::min(n, begin + kPiece);
    for (int64_t i = begin; i < end; ++i) {
      if (!(std::abs(values[i]) <= kMost)) {
        fail("%s: a value of %g, beyond the %g that Q8_0 reaches; fp32 holds it", where.c_str(),
             static_cast<double>(values[i]), static_cast<double>(kMost));
      }
    }
    blocks.resize(static_cast<size_t>((end - begin) / kBlock * kBlockBytes));
    for (int64_t b = 0; b < (end - begin) / kBlock; ++b) {
      quantize(values + begin + b * kBlock, blocks.data() + b * kBlockBytes);
    }
    sink(blocks);
  }
}

void dequantize(float* out, std::span<const std::byte> bytes, const ParamTensor& tensor, const std::string& where) {
  const int64_t n = tensor.file_size();
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const std::byte* block = bytes.data() + begin / kBlock * kBlockBytes;
    uint16_t bits;
    std::memcpy(&bits, block, sizeof bits);
    const float scale = float_from_f16(bits);
    if (!std::isfinite(scale)) fail_not_finite(scale, begin, tensor, where);
    for (int64_t i = 0; i < kBlock; ++i) out[begin + i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    if ((begin + kBlock) % kPiece == 0) drop_pages(bytes.first(static_cast<size_t>(begin / kBlock * kBlockBytes)));
  }
  drop_pages(bytes);
  std::fill(out + n, out + tensor.size(), 0.0f);
}

// ---- the model -----------------------------------------------------------------------------------------------------

ModelConfig config_of(const GgufFile& file) {
  const std::string where = file.path().string();
  const auto number = [&](const char* field) {
    const std::optional<uint32_t> value = file.number(key_of(field));
    if (!value || *value > INT32_MAX) {
      fail("%s: %s is %s, expected a number from 1 to 2^31 - 1", where.c_str(), key_of(field).c_str(),
           value ? std::to_string(*value).c_str() : "missing");
    }
    return static_cast<int>(*value);
  };
  // Throws unless a number that may be absent is the one that wrought has.
  const auto expect = [&](const char* field, int64_t expected, const char* why) {
    const std::optional<uint32_t> value = file.number(key_of(field));
    if (value && *value != expected) {
      fail("%s: %s is %u, expected %lld: %s", where.c_str(), key_of(field).c_str(), *value,
           static_cast<long long>(expected), why);
    }
  };
  ModelConfig config;
  config.max_seq_len = number("context_length");
  config.channels = number("embedding_length");
  config.num_layers = number("block_count");
  config.num_heads = number("attention.head_count");
  const TensorView* wte = file.find("token_embd.weight");
  if (!wte || wte->shape.size() != 2 || wte->shape[1] > INT32_MAX) {
    fail("%s: tensor \"token_embd.weight\" is %s, expected it with a row for each token", where.c_str(),
         wte ? describe(*wte).c_str() : "missing");
  }
  config.vocab_size = static_cast<int>(wte->shape[1]);
  config.tied_head = !file.find("output.weight");
  if (static_cast<size_t>(config.num_layers) > file.tensors().size()) {  // the table of that many would not be bounded
    fail("%s: %s is %d, but there are only %zu tensors", where.c_str(), key_of("block_count").c_str(),
         config.num_layers, file.tensors().size());
  }
  validate(config, where);
  expect("feed_forward_length", int64_t{4} * config.channels, "the MLP is four times as wide as the stream");
  expect("attention.head_count_kv", config.num_heads, "GPT-2's heads do not share keys and values");
  expect("vocab_size", config.vocab_size, "that is the number of rows of token_embd.weight");
  if (const auto causal = file.flag(key_of("attention.causal")); causal && !*causal) {
    fail("%s: %s is false, expected causal attention", where.c_str(), key_of("attention.causal").c_str());
  }
  const std::string epsilon_key = key_of("attention.layer_norm_epsilon");
  const std::optional<float> epsilon = file.real(epsilon_key);
  if (!epsilon || !(std::abs(*epsilon - 1e-5f) <= 1e-9f)) {
    fail("%s: %s is %s, expected 1e-05 as in GPT-2", where.c_str(), epsilon_key.c_str(),
         epsilon ? strprintf("%g", static_cast<double>(*epsilon)).c_str() : "missing");
  }
  return config;
}

class GgufWeights final : public Weights {
 public:
  explicit GgufWeights(GgufFile file) : GgufWeights(config_of(file), std::move(file)) {}

  void read(const ParamTensor& tensor, float* out) const override {
    const TensorView& view = of(tensor);
    const std::string where = file_.path().string() + ": tensor " + in_quotes(view.name);
    ParamTensor as_is = tensor;
    as_is.transposed = false;
    const std::optional<Dtype> dtype = find_dtype(view.dtype);
    if (dtype) return from_file(out, view.bytes, *dtype, as_is, where);
    dequantize(out, view.bytes, as_is, where);
  }
  Dtype dtype(const ParamTensor& tensor) const override { return find_dtype(of(tensor).dtype).value_or(Dtype::f32); }
  std::string stored_as(const ParamTensor& tensor) const override { return of(tensor).dtype; }

 private:
  GgufWeights(const ModelConfig& c, GgufFile&& file) : Weights(c, param_table(c)), file_(std::move(file)) {
    const std::string where = file_.path().string();
    std::set<std::string> known;
    for (const ParamTensor& tensor : table) {
      const std::string name = gguf_name(tensor, config);
      const TensorView* view = file_.find(name);
      const std::vector<int64_t> shape = gguf_shape(tensor);
      if (!view || view->shape != shape) {
        fail("%s: tensor \"%s\" is %s, expected %s", where.c_str(), name.c_str(),
             view ? describe(*view).c_str() : "missing",
             describe(TensorHeader{"", "F32, F16, BF16 or Q8_0", shape}).c_str());
      }
      known.insert(name);
    }
    for (const TensorView& view : file_.tensors()) {
      if (!known.contains(view.name)) {
        fail("%s: tensor %s is not part of a GPT-2 of %d layers", where.c_str(), in_quotes(view.name).c_str(),
             config.num_layers);
      }
    }
  }
  const TensorView& of(const ParamTensor& tensor) const { return *file_.find(gguf_name(tensor, config)); }

  GgufFile file_;
};

// ---- the tokenizer -------------------------------------------------------------------------------------------------

// The tokens of the file, whose number is that of the model's vocabulary. Nothing if it has none.
std::optional<std::vector<std::string_view>> tokens_of(const GgufFile& file, const ModelConfig& config) {
  const std::string where = file.path().string();
  const std::optional<std::string_view> model = file.text(token_key("model"));
  if (!model || model == "none" || model == "no_vocab") return std::nullopt;
  if (model != "gpt2") {
    fail("%s: %s is %s, expected \"gpt2\": byte-level BPE", where.c_str(), token_key("model").c_str(),
         in_quotes(*model).c_str());
  }
  const std::optional<std::string_view> split = file.text(token_key("pre"));
  if (split != kSplit) {
    fail("%s: %s is %s, expected \"%s\"; wrought splits texts only as GPT-2 does", where.c_str(),
         token_key("pre").c_str(), split ? in_quotes(*split).c_str() : "missing", kSplit);
  }
  for (const char* field : {"add_bos_token", "add_eos_token", "add_sep_token", "add_space_prefix"}) {
    if (file.flag(token_key(field)).value_or(false)) {
      fail("%s: %s is true, expected false: wrought adds nothing to a text", where.c_str(), token_key(field).c_str());
    }
  }
  std::optional<std::vector<std::string_view>> tokens = file.texts(token_key("tokens"));
  if (!tokens || tokens->size() != static_cast<size_t>(config.vocab_size)) {
    const std::string found = tokens ? strprintf("a list of %zu", tokens->size()) : "missing";
    fail("%s: %s is %s, expected a token for each of the %d rows of token_embd.weight", where.c_str(),
         token_key("tokens").c_str(), found.c_str(), config.vocab_size);
  }
  return tokens;
}

Tokenizer tokenizer_of(const GgufFile& file, const std::vector<std::string_view>& tokens) {
  const std::string where = file.path().string();
  const std::optional<std::vector<int32_t>> types = file.integers(token_key("token_type"));
  if (!types || types->size() != tokens.size()) {
    fail("%s: %s is %s, expected a type for each of the %zu tokens", where.c_str(), token_key("token_type").c_str(),
         types ? strprintf("a list of %zu", types->size()).c_str() : "missing", tokens.size());
  }
  const std::optional<std::vector<std::string_view>> merges = file.texts(token_key("merges"));
  if (!merges) fail("%s: %s is missing", where.c_str(), token_key("merges").c_str());
  size_t n = tokens.size();
  while (n > 0 && (*types)[n - 1] == kUnused) --n;
  SpelledVocabulary vocabulary;
  for (size_t id = 0; id < n; ++id) {
    const int32_t type = (*types)[id];
    if (type != kNormal && type != kControl && type != kUserDefined) {
      fail("%s: token %zu, %s, has the type %d, expected %d (normal), %d (control) or %d (user-defined)%s",
           where.c_str(), id, in_quotes(tokens[id]).c_str(), type, kNormal, kControl, kUserDefined,
           type == kUnused ? "; unused tokens are read only at the end" : "");
    }
    vocabulary.tokens.emplace_back(tokens[id]);
    vocabulary.special.push_back(type != kNormal);
  }
  for (const std::string_view merge : *merges) vocabulary.merges.emplace_back(merge);
  return Tokenizer::from_spelled(vocabulary, where);
}

// Adds the tokenizer to the metadata: tokens up to the model's vocabulary.
void add_tokenizer(GgufMetadata& metadata, const Tokenizer& tokenizer, const ModelConfig& config,
                   const GgufOptions& options, const std::string& where) {
  SpelledVocabulary vocabulary = tokenizer.spelled();
  std::vector<int32_t> types;
  for (const bool special : vocabulary.special) types.push_back(special ? kControl : kNormal);
  const std::set<std::string_view> known(vocabulary.tokens.begin(), vocabulary.tokens.end());
  std::vector<std::string> tokens = vocabulary.tokens;
  for (int id = tokenizer.vocab_size(); id < config.vocab_size; ++id) {
    tokens.push_back(strprintf("[PAD%d]", id));
    types.push_back(kUnused);
    if (known.contains(tokens.back())) {
      fail("%s: the token %s has the name that GGUF gives to the unused id %d", where.c_str(),
           in_quotes(tokens.back()).c_str(), id);
    }
  }
  const auto id_of = [&](const char* field) {
    const json id = options.config.is_object() ? options.config.value(field, json()) : json();
    const bool in_range = id.is_number_integer() && id >= 0 && id < config.vocab_size;
    return in_range ? id.get<uint32_t>() : static_cast<uint32_t>(tokenizer.end_of_text());
  };
  metadata.add(token_key("model"), std::string("gpt2"));
  metadata.add(token_key("pre"), std::string(kSplit));
  metadata.add(token_key("tokens"), tokens);
  metadata.add(token_key("token_type"), types);
  metadata.add(token_key("merges"), vocabulary.merges);
  metadata.add(token_key("bos_token_id"), id_of("bos_token_id"));
  metadata.add(token_key("eos_token_id"), id_of("eos_token_id"));
}

}  // namespace

// ---- reading -------------------------------------------------------------------------------------------------------

const char* gguf_type_name(GgufType type) {
  return std::find_if(std::begin(kTypes), std::end(kTypes), [&](const auto& t) { return t.type == type; })->name;
}

std::optional<GgufType> find_gguf_type(const std::string& dtype) {
  for (const auto& type : kTypes) {
    if (dtype == type.name) return type.type;
  }
  return std::nullopt;
}

bool is_gguf(const fs::path& path) { return ending_of(path) == ".gguf" || MappedFile(path).text().starts_with("GGUF"); }

std::unique_ptr<Weights> open_gguf(const fs::path& path) {
  return std::make_unique<GgufWeights>(GgufFile(path, kArchitecture));
}

ModelConfig read_gguf_config(const fs::path& path) { return config_of(GgufFile(path, kArchitecture)); }

std::optional<Tokenizer> read_gguf_tokenizer(const fs::path& path) {
  const GgufFile file(path, kArchitecture);
  const std::optional<std::vector<std::string_view>> tokens = tokens_of(file, config_of(file));
  return tokens ? std::optional(tokenizer_of(file, *tokens)) : std::nullopt;
}

json read_gguf_extras(const fs::path& path) {
  const GgufFile file(path, kArchitecture);
  const ModelConfig config = config_of(file);
  json extras = json::object();
  for (const char* field : {"bos_token_id", "eos_token_id"}) {
    const std::optional<uint32_t> id = file.number(token_key(field));
    if (!id) continue;
    if (*id >= static_cast<uint32_t>(config.vocab_size)) {
      fail("%s: %s is %u, expected an id below %d", path.c_str(), token_key(field).c_str(), *id, config.vocab_size);
    }
    extras[field] = *id;
  }
  return extras;
}

// ---- writing -------------------------------------------------------------------------------------------------------

void check_gguf(const ModelConfig& config, const Tokenizer* tokenizer, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    fail("%s: llama.cpp's GPT-2 has no place for %s; save it as a Hugging Face directory", where.c_str(), what.c_str());
  };
  if (config.family != "gpt2") refuse("a model of the family " + config.family);
  if (config.num_classes > 0) refuse("a classifier");
  if (!config.causal) refuse("attention that is not causal");
  if (!tokenizer) return;
  if (tokenizer->kind() != "bpe") refuse(strprintf("a tokenizer of %s, only BPE", tokenizer->kind().c_str()));
  if (tokenizer->end_of_text() < 0) refuse("a tokenizer without <|endoftext|> (it would take token 11 for it)");
}

GgufWritten save_gguf(const Weights& weights, const Tokenizer* tokenizer, const fs::path& path,
                      const GgufOptions& options) {
  const ModelConfig& c = weights.config;
  check_gguf(c, tokenizer, path.string());
  const auto number = [](int value) { return static_cast<uint32_t>(value); };
  GgufMetadata metadata;
  metadata.add("general.architecture", std::string(kArchitecture));
  metadata.add("general.type", std::string("model"));
  metadata.add("general.name", path.stem().string());
  for (const auto& type : kTypes) {
    if (type.type == options.type) metadata.add("general.file_type", type.file_type);
  }
  metadata.add("general.quantization_version", uint32_t{2});
  metadata.add(key_of("block_count"), number(c.num_layers));
  metadata.add(key_of("context_length"), number(c.max_seq_len));
  metadata.add(key_of("embedding_length"), number(c.channels));
  metadata.add(key_of("feed_forward_length"), number(4 * c.channels));
  metadata.add(key_of("attention.head_count"), number(c.num_heads));
  metadata.add(key_of("attention.layer_norm_epsilon"), 1e-5f);
  if (tokenizer) {
    add_tokenizer(metadata, *tokenizer, c, options, path.string());
  } else {
    metadata.add(key_of("vocab_size"), number(c.vocab_size));
    metadata.add(token_key("model"), std::string("none"));
  }

  GgufWritten result{};
  const std::vector<ParamTensor> table = file_table(c);
  std::vector<TensorHeader> headers;
  for (const ParamTensor& tensor : table) {
    const bool always_f32 = tensor.vector() || tensor.role == Role::position;
    const bool in_blocks = tensor.cols % kBlock == 0;
    const GgufType wanted = always_f32 ? GgufType::f32 : options.type;
    const GgufType type = wanted == GgufType::q8_0 && !in_blocks ? GgufType::f16 : wanted;
    headers.push_back({gguf_name(tensor, c), gguf_type_name(type), gguf_shape(tensor)});
    if (type != wanted) result.not_in_blocks.push_back(headers.back().name);
  }
  GgufWriter file(path, metadata, headers);
  std::vector<float> values;
  for (size_t k = 0; k < table.size(); ++k) {
    const float* from = view_or_read(weights, table[k], values);
    const std::string where = path.string() + ": tensor " + in_quotes(headers[k].name);
    const auto write = [&](std::span<const std::byte> bytes) { file.write(headers[k].name, bytes); };
    if (const std::optional<Dtype> dtype = find_dtype(headers[k].dtype)) {
      narrow(from, table[k].file_size(), *dtype, where, write);
    } else {
      quantize_all(from, table[k].file_size(), where, write);
    }
  }
  result.bytes = file.commit();
  return result;
}
