#include "llm/formats/huggingface.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "llm/formats/gguf.h"
#include "llm/formats/pytorch.h"
#include "llm/formats/safetensors.h"
#include "llm/support/error.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const char* const kLanguageModel = "GPT2LMHeadModel";
const char* const kClassifier = "GPT2ForSequenceClassification";
const char* const kType = "gpt2";
const std::string kOwnTypes = "wrought_";  // and the family, for models that transformers has no class for

// The family of config.json's model_type; empty for one that wrought does not have.
std::string family_of(const json& type) {
  if (type == kType) return "gpt2";
  const std::string name = type.is_string() ? type.get<std::string>() : "";
  return name.starts_with(kOwnTypes) ? name.substr(kOwnTypes.size()) : "";
}

}  // namespace

// ---- config.json ---------------------------------------------------------------------------------------------------

ModelConfig read_huggingface_config(const fs::path& dir) {
  const fs::path path = dir / "config.json";
  const json file = read_json_object(path);
  const auto get = [&](const char* field, const json& absent) { return file.contains(field) ? file[field] : absent; };
  const auto size = [&](const char* field, int absent) {
    const json value = get(field, absent);
    const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= INT32_MAX : value.is_number_integer();
    if (!fits) fail("%s: %s is %s, expected a whole number below 2^31", path.c_str(), field, shown(value).c_str());
    return static_cast<int>(std::max<int64_t>(value.get<int64_t>(), -1));  // validate() refuses what is below 1
  };
  const auto flag = [&](const char* field) {
    const json value = get(field, true);
    if (!value.is_boolean()) fail("%s: %s is %s, expected true or false", path.c_str(), field, shown(value).c_str());
    return value.get<bool>();
  };
  const auto expect = [&](const char* field, const json& wanted, const char* why) {
    const json value = get(field, wanted);
    if (value != wanted) {
      fail("%s: %s is %s, expected %s: %s", path.c_str(), field, shown(value).c_str(), shown(wanted).c_str(), why);
    }
  };
  const json type = get("model_type", nullptr);
  ModelConfig config;
  config.family = family_of(type);
  if (!has_family(config.family)) {
    fail("%s: model_type is %s, expected \"gpt2\"; wrought reads no other architecture", path.c_str(),
         shown(type).c_str());
  }
  config.max_seq_len = size("n_positions", 1024);
  config.vocab_size = size("vocab_size", 50257);
  config.num_layers = size("n_layer", 12);
  config.num_heads = size("n_head", 12);
  config.channels = size("n_embd", 768);
  config.tied_head = flag("tie_word_embeddings");
  config.qkv_bias = flag("qkv_bias");  // this and the next are wrought's own
  config.causal = flag("causal");
  if (config.family == "gpt2") {
    expect("num_key_value_heads", config.num_heads, "GPT-2's heads do not share keys and values");
  } else {
    config.num_kv_heads = size("num_key_value_heads", 0);
  }
  if (get("architectures", json()) ==
      json::array({kClassifier})) {  // transformers tells how many classes by their names
    config.num_classes = size("num_labels", static_cast<int>(get("id2label", {{"0", ""}, {"1", ""}}).size()));
    if (config.num_classes < 1) fail("%s: num_labels is %d, expected at least 1", path.c_str(), config.num_classes);
    config.tied_head = false;
  }
  validate(config, path.string());

  if (get("activation_function", "gelu_new") != "gelu_pytorch_tanh") {  // the same function by another name
    expect("activation_function", "gelu_new", "wrought has only GPT-2's own activation");
  }
  if (!get("n_inner", nullptr).is_null())
    expect("n_inner", int64_t{4} * config.channels, "the MLP is four times as wide as the stream");
  const json epsilon = get("layer_norm_epsilon", 1e-5);
  if (!epsilon.is_number() || std::abs(epsilon.get<double>() - 1e-5) > 1e-9) {
    fail("%s: layer_norm_epsilon is %s, expected 1e-05 as in GPT-2", path.c_str(), shown(epsilon).c_str());
  }
  expect("scale_attn_weights", true, "attention is scaled by 1/sqrt(head size)");
  expect("scale_attn_by_inverse_layer_idx", false, "wrought does not have this option");
  expect("add_cross_attention", false, "wrought has only decoders");
  if (file.contains("quantization_config"))
    fail("%s: the model is quantized, expected F32, F16 or BF16 weights", path.c_str());
  if (const json pruned = get("pruned_heads", json::object()); !pruned.empty()) {
    fail("%s: pruned_heads is %s, expected none", path.c_str(), shown(pruned).c_str());
  }
  return config;
}

namespace {

// What transformers' GPT2Config would write for this shape.
json config_json(const ModelConfig& config, const Tokenizer* tokenizer, Dtype dtype) {
  json end_of_text = nullptr;
  if (tokenizer && tokenizer->end_of_text() >= 0) end_of_text = tokenizer->end_of_text();
  json file = {{"architectures", json::array({config.num_classes > 0 ? kClassifier : kLanguageModel})},
               {"n_positions", config.max_seq_len},
               {"n_ctx", config.max_seq_len},
               {"vocab_size", config.vocab_size},
               {"n_layer", config.num_layers},
               {"n_head", config.num_heads},
               {"n_embd", config.channels},
               {"n_inner", nullptr},
               {"activation_function", "gelu_new"},
               {"layer_norm_epsilon", 1e-5},
               {"initializer_range", 0.02},
               {"attn_pdrop", 0.1},
               {"embd_pdrop", 0.1},
               {"resid_pdrop", 0.1},
               {"scale_attn_weights", true},
               {"scale_attn_by_inverse_layer_idx", false},
               {"reorder_and_upcast_attn", false},
               {"tie_word_embeddings", config.tied_head || config.num_classes > 0},
               {"use_cache", true},
               {"bos_token_id", end_of_text},
               {"eos_token_id", end_of_text},
               {"torch_dtype", dtype == Dtype::f32   ? "float32"
                               : dtype == Dtype::f16 ? "float16"
                                                     : "bfloat16"}};
  if (!config.qkv_bias) file["qkv_bias"] = false;
  if (!config.causal) file["causal"] = false;
  if (config.num_kv_heads > 0) file["num_key_value_heads"] = config.num_kv_heads;
  file["model_type"] = config.family == "gpt2" ? kType : kOwnTypes + config.family;
  if (config.num_classes > 0) {
    file["num_labels"] = config.num_classes;
    for (int k = 0; k < config.num_classes; ++k) {
      file["id2label"][std::to_string(k)] = "LABEL_" + std::to_string(k);
      file["label2id"]["LABEL_" + std::to_string(k)] = k;
    }
    file["pad_token_id"] = end_of_text;  // transformers' classifier reads the position before the padding
  }
  return file;
}

// Without it, transformers' AutoTokenizer takes every GPT-2's tokenizer for byte-level BPE, and drops spaces in
// decoding.
json tokenizer_config_json(const ModelConfig& config, const Tokenizer& tokenizer) {
  json result = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", config.max_seq_len}};
  if (tokenizer.end_of_text() >= 0) result["bos_token"] = result["eos_token"] = kEndOfText;
  return result;
}

const char* const kSingleFile = "model.safetensors";
const char* const kIndexFile = "model.safetensors.index.json";
const char* const kPytorchFile = "pytorch_model.bin";  // this and the next are read, and never written
const char* const kPytorchIndexFile = "pytorch_model.bin.index.json";
const std::string kPrefix = "transformer.";
const char* const kTiedHead = "lm_head.weight";  // the same matrix as wte, which some files hold twice

// Prefixes of a tensor's name, in any order: "transformer.", which transformers writes for models with a head but not
// for the bare stream, and those of wrappers around a model that was saved during training: DistributedDataParallel's
// "module." and torch.compile's "_orig_mod.". The heads' own tensors never have "transformer.".
bool of_head(const std::string& name) { return name.rfind("lm_head.", 0) == 0 || name.rfind("score.", 0) == 0; }
std::string prefix_of(std::string_view name) {
  std::string prefix;
  for (bool more = true; more;) {
    more = false;
    for (const std::string& part : {kPrefix, std::string("module."), std::string("_orig_mod.")}) {
      const bool again = part == kPrefix && prefix.find(kPrefix) != std::string::npos;
      if (again || !name.substr(prefix.size()).starts_with(part)) continue;
      prefix += part;
      more = true;
    }
  }
  return prefix;
}
std::string without_prefix(const std::string& name) { return name.substr(prefix_of(name).size()); }
std::string written_name(const ParamTensor& tensor) {
  return (of_head(tensor.hf_name) ? "" : kPrefix) + tensor.hf_name;
}

// ---- a model's tensors in one or several files ---------------------------------------------------------------------

class TensorFiles {
 public:
  explicit TensorFiles(const fs::path& dir) {
    for (const char* name : {kSingleFile, kIndexFile, kPytorchFile, kPytorchIndexFile}) {
      if (!fs::exists(dir / name)) continue;
      if (fs::path(name).extension() == ".json") {
        where_ = dir.string();
        open_shards(dir / name, read_index(dir / name));
      } else {
        where_ = (dir / name).string();
        open(where_);
        gather();
      }
      return;
    }
    fail("%s: no weights in it, expected %s or, for shards, %s; or PyTorch's %s or %s", dir.c_str(), kSingleFile,
         kIndexFile, kPytorchFile, kPytorchIndexFile);
  }

  struct Found {
    const TensorView* view;  // in files_
    const fs::path* file;
  };
  const std::string& where() const { return where_; }
  const std::map<std::string, Found>& tensors() const { return tensors_; }  // by name, without the prefix

  // Throws Error unless the tensor is there, in a type that is read and in the expected shape.
  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      fail("%s: tensor \"%s\" is missing, expected %s", where_.c_str(), name.c_str(),
           describe(TensorHeader{name, "F32, F16 or BF16", shape}).c_str());
    }
    check_view(*found->second.view, shape, found->second.file->string());
    return *found->second.view;
  }

 private:
  // weight_map: tensor -> file. A model may name only files in its own folder.
  static std::map<std::string, std::string> read_index(const fs::path& index) {
    const json file = read_json_object(index);
    if (!file.contains("weight_map") || !file["weight_map"].is_object() || file["weight_map"].empty()) {
      fail("%s: expected an object \"weight_map\" of tensors and their files", index.c_str());
    }
    std::map<std::string, std::string> shard_of;
    for (const auto& [tensor, shard] : file["weight_map"].items()) {
      const std::string name = shard.is_string() ? shard.get<std::string>() : "";
      if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
        fail("%s: weight_map gives %s for %s, expected the name of a file in the same folder", index.c_str(),
             shown(shard).c_str(), in_quotes(tensor).c_str());
      }
      shard_of[tensor] = name;
    }
    return shard_of;
  }

  void open(const fs::path& file) {
    if (file.extension() == ".bin") {
      pytorch_files_.emplace_back(file);
    } else {
      files_.emplace_back(file);
    }
  }

  void open_shards(const fs::path& index, const std::map<std::string, std::string>& shard_of) {
    const fs::path dir = index.parent_path();
    std::set<std::string> shards;
    for (const auto& [tensor, shard] : shard_of) {
      if (shards.insert(shard).second && !fs::exists(dir / shard)) {
        fail("%s: weight_map names %s for %s, but there is no such file; was everything copied?", index.c_str(),
             in_quotes(shard).c_str(), in_quotes(tensor).c_str());
      }
    }
    for (const std::string& shard : shards) open(dir / shard);
    gather();
    for (const auto& [tensor, shard] : shard_of) {
      const auto found = tensors_.find(without_prefix(tensor));
      if (found == tensors_.end() || found->second.view->name != tensor || found->second.file->filename() != shard) {
        fail("%s: weight_map says that tensor %s is in %s, but it is not", index.c_str(), in_quotes(tensor).c_str(),
             in_quotes(shard).c_str());
      }
    }
    for (const auto& [name, found] : tensors_) {
      if (!shard_of.contains(found.view->name)) {
        fail("%s: tensor %s is not in the weight_map of %s", found.file->c_str(), in_quotes(found.view->name).c_str(),
             index.filename().c_str());
      }
    }
  }

  void gather() {
    for (const SafetensorsFile& file : files_) add(file);
    for (const PytorchFile& file : pytorch_files_) add(file);
    const TensorView* first = nullptr;
    std::string prefix;  // of the first tensor that is not of a head
    for (const auto& [name, found] : tensors_) {
      if (of_head(name)) continue;
      const std::string own = prefix_of(found.view->name);
      if (!first) {
        first = found.view;
        prefix = own;
      } else if (own != prefix) {
        fail_prefixes(*first, *found.view);
      }
    }
    const std::string wrapping = prefix.substr(0, prefix.find(kPrefix));
    for (const auto& [name, found] : tensors_) {
      if (!first || !of_head(name)) continue;
      const std::string own = prefix_of(found.view->name);
      if (own != prefix && own != wrapping) fail_prefixes(*first, *found.view);
    }
  }

  template <class File>
  void add(const File& file) {
    for (const TensorView& tensor : file.tensors()) {
      if (!tensors_.insert({without_prefix(tensor.name), {&tensor, &file.path()}}).second) {
        fail("%s: tensor %s is there twice", file.path().c_str(), in_quotes(tensor.name).c_str());
      }
    }
  }

  [[noreturn]] void fail_prefixes(const TensorView& a, const TensorView& b) const {
    const bool a_has = !prefix_of(a.name).empty();
    const TensorView &with = a_has ? a : b, &other = a_has ? b : a;
    const std::string prefix = prefix_of(other.name);
    fail("%s: tensor %s has the prefix %s and %s has %s; expected it on all of them or on none", where_.c_str(),
         in_quotes(with.name).c_str(), in_quotes(prefix_of(with.name)).c_str(), in_quotes(other.name).c_str(),
         prefix.empty() ? "not" : in_quotes(prefix).c_str());
  }

  std::vector<SafetensorsFile> files_;  // this and the next are filled before gather() points into them
  std::vector<PytorchFile> pytorch_files_;
  std::map<std::string, Found> tensors_;
  std::string where_;
};

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  constexpr size_t kPiece = size_t{1} << 20;
  bool same = a.size() == b.size();
  for (size_t i = 0; same && i < a.size(); i += kPiece) {
    const auto x = a.subspan(i, std::min(kPiece, a.size() - i)), y = b.subspan(i, x.size());
    same = std::memcmp(x.data(), y.data(), x.size()) == 0;
    drop_pages(a.first(i + x.size()));
    drop_pages(b.first(i + x.size()));
  }
  return same;
}

class HuggingfaceWeights final : public Weights {
 public:
  explicit HuggingfaceWeights(const fs::path& dir) : HuggingfaceWeights(read_huggingface_config(dir), dir) {}

  void read(const ParamTensor& tensor, float* out) const override {
    if (const auto found = files_.tensors().find(tensor.hf_name); found != files_.tensors().end()) {
      const auto& [view, file] = found->second;
      return from_file(out, view->bytes, *find_dtype(view->dtype), tensor,
                       file->string() + ": tensor " + in_quotes(view->name));
    }
    std::fill(out, out + tensor.size(), 0.0f);
  }
  Dtype dtype(const ParamTensor& tensor) const override {
    const TensorView* view = find(tensor);
    return *find_dtype((view ? view : find(table[0]))->dtype);
  }

 private:
  HuggingfaceWeights(const ModelConfig& c, const fs::path& dir) : Weights(c, param_table(c)), files_(dir) { check(); }

  const TensorView* find(const ParamTensor& tensor) const {
    const auto found = files_.tensors().find(tensor.hf_name);
    return found == files_.tensors().end() ? nullptr : found->second.view;
  }

  // Every tensor of the table is there, and no other, except those that say nothing about the model.
  void check() const {
    std::set<std::string> known;
    for (const ParamTensor& tensor : file_table(config)) {
      known.insert(tensor.hf_name);
      const bool is_no_part = only_in_files(config, tensor);
      const bool of_classifier = of_head(tensor, config) && tensor.vector();
      const bool optional = is_no_part || of_classifier;  // transformers' classifiers have no bias
      if (optional && !find(tensor)) continue;
      const TensorView& view = files_.get(tensor.hf_name, file_shape(tensor));
      const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
      if (is_no_part && !std::all_of(view.bytes.begin(), view.bytes.end(), is_zero)) {
        fail("%s: tensor %s is not zero, but config.json has qkv_bias false", files_.where().c_str(),
             in_quotes(view.name).c_str());
      }
    }
    for (int l = 0; l < config.num_layers; ++l) {  // causal masks, in old files
      known.insert(strprintf("h.%d.attn.bias", l));
      known.insert(strprintf("h.%d.attn.masked_bias", l));
    }
    if (!config.has_head()) known.insert(kTiedHead);
    for (const auto& [name, found] : files_.tensors()) {
      if (!known.contains(name)) {
        fail("%s: tensor %s is not part of a GPT-2 of %d layers%s", found.file->c_str(),
             in_quotes(found.view->name).c_str(), config.num_layers, config.num_classes > 0 ? " that classifies" : "");
      }
    }
    if (!config.has_head() && files_.tensors().contains(kTiedHead)) {
      const TensorView &head = files_.get(kTiedHead, file_shape(table[0])), &wte = *find(table[0]);
      if (head.dtype != wte.dtype || !same_bytes(head.bytes, wte.bytes)) {
        fail(
            "%s: \"%s\" differs from the token embedding, but config.json ties the two; if the head is right, set "
            "tie_word_embeddings to false there",
            files_.where().c_str(), kTiedHead);
      }
    }
  }

  TensorFiles files_;
};

// ---- writing -------------------------------------------------------------------------------------------------------

// Removes files of the other layout, which a reader could take for this model: shards next to a single file, or the
// other way round.
void remove_other_weights(const fs::path& dir, const std::set<std::string>& written) {
  for (const fs::directory_entry& entry : std::vector(fs::directory_iterator(dir), fs::directory_iterator())) {
    const std::string name = entry.path().filename().string();
    const bool of_weights = name == kIndexFile || (name.rfind("model", 0) == 0 && name.ends_with(".safetensors") &&
                                                   name.find_first_not_of("-of0123456789", 5) == name.size() - 12);
    if (of_weights && !written.contains(name)) fs::remove(entry.path());
  }
}

void save_tensors(const Weights& weights, const fs::path& dir, const HuggingfaceOptions& options) {
  const std::vector<ParamTensor> table = file_table(weights.config);
  const auto header = [&](const ParamTensor& tensor) {
    const Dtype dtype = options.dtype ? *options.dtype : weights.dtype(tensor);
    return TensorHeader{written_name(tensor), dtype_name(dtype), file_shape(tensor)};
  };
  // The table in pieces of at most shard_bytes, in its order.
  std::vector<std::vector<const ParamTensor*>> shards(1);
  int64_t bytes = 0, total = 0;
  for (const ParamTensor& tensor : table) {
    const int64_t size = tensor.file_size() * element_bytes(*find_dtype(header(tensor).dtype));
    if (options.shard_bytes > 0 && !shards.back().empty() && bytes + size > options.shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(&tensor);
    bytes += size;
    total += size;
  }

  std::set<std::string> written;
  json weight_map = json::object();
  std::vector<float> values;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? kSingleFile : strprintf("model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    std::vector<TensorHeader> headers;
    for (const ParamTensor* tensor : shards[i]) headers.push_back(header(*tensor));
    SafetensorsWriter file(dir / name, headers, {{"format", "pt"}}, options.group);
    for (size_t t = 0; t < headers.size(); ++t) {
      const ParamTensor& tensor = *shards[i][t];
      const float* from = view_or_read(weights, tensor, values);
      write_tensor(file, headers[t].name, tensor, from, *find_dtype(headers[t].dtype));
      weight_map[headers[t].name] = name;
    }
    file.commit();
    written.insert(name);
  }
  if (options.group && options.group->rank() > 0) return;
  if (shards.size() > 1) {
    write_json(dir / kIndexFile, {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}});
    written.insert(kIndexFile);
  }
  remove_other_weights(dir, written);
}

}  // namespace

std::unique_ptr<Weights> open_huggingface(const fs::path& dir) { return std::make_unique<HuggingfaceWeights>(dir); }

namespace {

bool holds_gguf(const fs::path& path) { return fs::is_regular_file(path) && is_gguf(path); }

}  // namespace

void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where) {
  if (tokenizer.vocab_size() > config.vocab_size) {
    fail("%s: the tokenizer has %d ids, more than the %d of the model's vocabulary; it belongs to another model",
         where.c_str(), tokenizer.vocab_size(), config.vocab_size);
  }
}

std::optional<Tokenizer> find_tokenizer(const fs::path& model) {
  if (holds_gguf(model)) return read_gguf_tokenizer(model);
  for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json"}) {
    if (fs::exists(model / name)) return Tokenizer::load(model / name);
  }
  return std::nullopt;
}

Tokenizer load_tokenizer(const fs::path& path) {
  if (!holds_gguf(path)) return Tokenizer::load(path);
  const std::optional<Tokenizer> tokenizer = read_gguf_tokenizer(path);
  if (!tokenizer) fail("%s: the file has no tokenizer; name one", path.c_str());
  return *tokenizer;
}

void save_huggingface(const Weights& weights, const Tokenizer* tokenizer, const fs::path& dir,
                      const HuggingfaceOptions& options) {
  if (tokenizer) check_tokenizer(*tokenizer, weights.config, dir.string());
  save_tensors(weights, dir, options);
  if (options.group && options.group->rank() > 0) return;
  if (tokenizer) {
    tokenizer->save(dir / "tokenizer.json");
    write_json(dir / "tokenizer_config.json", tokenizer_config_json(weights.config, *tokenizer));
  }
  const Dtype dtype = options.dtype ? *options.dtype : weights.dtype(weights.table[0]);
  json config = config_json(weights.config, tokenizer, dtype);
  if (!options.config.is_null()) config.update(options.config);
  set_model_type(config);
  write_json(dir / "config.json", config);  // last: without it there is no model
}

json read_huggingface_extras(const fs::path& dir) {
  const json file = read_json_object(dir / "config.json");
  json kept = json::object();
  for (const char* field : {"id2label", "label2id", "classifier", "pad_token_id", "bos_token_id", "eos_token_id"}) {
    if (file.contains(field)) kept[field] = file[field];
  }
  return kept;
}

bool opens_in_transformers(const json& config) {
  if (family_of(config.value("model_type", json(kType))) != "gpt2" || !config.value("causal", true)) return false;
  const auto layout = config.find("classifier");
  return layout == config.end() || (layout->is_object() && layout->value("position", json()) == "last-real");
}

void set_model_type(json& config) {
  const std::string family = family_of(config.value("model_type", json(kType)));
  config["model_type"] = opens_in_transformers(config) ? kType : kOwnTypes + family;
}

void save_model(const Model& model, const Tokenizer* tokenizer, const fs::path& dir, const Group* group,
                Arena weights) {
  HuggingfaceOptions options;
  options.group = group;
  save_huggingface(ModelWeights(model, weights), tokenizer, dir, options);
}
