#include "gpt2/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "gpt2/float16.h"
#include "gpt2/json.h"
#include "gpt2/safetensors.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int kMaxJsonDepth = 64;

json read_json_object(const fs::path& path) {
  const MappedFile file(path);
  json value = parse_json(file.text(), path.string(), kMaxJsonDepth);
  if (!value.is_object()) fail("%s: expected a JSON object", path.c_str());
  return value;
}

void write_json(const fs::path& path, const json& value) {
  FileWriter file(path);
  file.write(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  file.commit();
}

std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 100);
}

}  // namespace

// ---- config.json ---------------------------------------------------------------------------------------------------

ModelConfig read_model_config(const fs::path& dir) {
  if (!fs::is_directory(dir)) fail("%s: expected a model's folder (config.json, model.safetensors)", dir.c_str());
  const fs::path path = dir / "config.json";
  const json file = read_json_object(path);
  const auto get = [&](const char* field, const json& absent) { return file.contains(field) ? file[field] : absent; };
  const auto size = [&](const char* field, int absent) {
    const json value = get(field, absent);
    const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= INT32_MAX : value.is_number_integer();
    if (!fits) fail("%s: %s is %s, expected a whole number below 2^31", path.c_str(), field, shown(value).c_str());
    return static_cast<int>(std::max<int64_t>(value.get<int64_t>(), -1));  // validate() refuses what is below 1
  };
  const auto expect = [&](const char* field, const json& wanted, const char* why) {
    const json value = get(field, wanted);
    if (value != wanted) {
      fail("%s: %s is %s, expected %s: %s", path.c_str(), field, shown(value).c_str(), shown(wanted).c_str(), why);
    }
  };
  if (get("model_type", nullptr) != "gpt2") {
    fail("%s: model_type is %s, expected \"gpt2\"; wrought reads no other architecture", path.c_str(),
         shown(get("model_type", nullptr)).c_str());
  }
  ModelConfig config;
  config.max_seq_len = size("n_positions", 1024);
  config.vocab_size = size("vocab_size", 50257);
  config.num_layers = size("n_layer", 12);
  config.num_heads = size("n_head", 12);
  config.channels = size("n_embd", 768);
  validate(config, path.string());

  if (get("activation_function", "gelu_new") != "gelu_pytorch_tanh") {  // the same function by another name
    expect("activation_function", "gelu_new", "wrought has GPT-2's own activation only");
  }
  if (!get("n_inner", nullptr).is_null())
    expect("n_inner", int64_t{4} * config.channels, "the MLP is four times as wide as the stream");
  const json epsilon = get("layer_norm_epsilon", 1e-5);
  if (!epsilon.is_number() || std::abs(epsilon.get<double>() - 1e-5) > 1e-9) {
    fail("%s: layer_norm_epsilon is %s, expected 1e-05 as in GPT-2", path.c_str(), shown(epsilon).c_str());
  }
  expect("tie_word_embeddings", true, "wrought's output head is the token embedding");
  expect("scale_attn_weights", true, "attention is scaled by 1/sqrt(head size)");
  expect("scale_attn_by_inverse_layer_idx", false, "wrought does not have this option");
  expect("add_cross_attention", false, "wrought has decoders only");
  if (file.contains("quantization_config"))
    fail("%s: the model is quantized, expected F32, F16 or BF16 weights", path.c_str());
  if (const json pruned = get("pruned_heads", json::object()); !pruned.empty()) {
    fail("%s: pruned_heads is %s, expected none", path.c_str(), shown(pruned).c_str());
  }
  return config;
}

namespace {

// What transformers' GPT2Config would write for this shape.
json config_json(const ModelConfig& config, const Tokenizer* tokenizer) {
  json end_of_text = nullptr;
  if (tokenizer && tokenizer->end_of_text() >= 0) end_of_text = tokenizer->end_of_text();
  return {{"model_type", "gpt2"},
          {"architectures", json::array({"GPT2LMHeadModel"})},
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
          {"tie_word_embeddings", true},
          {"use_cache", true},
          {"bos_token_id", end_of_text},
          {"eos_token_id", end_of_text},
          {"torch_dtype", "float32"}};
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

// ---- one tensor between memory and file ----------------------------------------------------------------------------

std::vector<int64_t> file_shape(const ParamTensor& tensor) {
  if (tensor.vector) return {tensor.cols};
  if (tensor.transposed) return {tensor.cols, tensor.rows};
  return {tensor.file_rows, tensor.cols};
}

// out (cols, rows) = inp (rows, cols), whose element i is at(i). Tile by tile, so that both sides stay in the cache.
template <class At>
void transpose(float* out, int64_t rows, int64_t cols, At at) {
  constexpr int64_t kTile = 32;
#pragma omp parallel for schedule(static) if (rows * cols > 65536)
  for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      for (int64_t c = c0; c < std::min(cols, c0 + kTile); ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) out[c * rows + r] = at(r * cols + c);
      }
    }
  }
}

template <class Bits>
Bits load_bits(const std::byte* from, int64_t i) {  // tensors in a file need not be aligned
  Bits bits;
  std::memcpy(&bits, from + i * static_cast<int64_t>(sizeof bits), sizeof bits);
  return bits;
}

// out: tensor.size() floats in the layout of the arena; rows that the file does not have are zero.
void from_file(std::vector<float>& out, const TensorView& view, const ParamTensor& tensor) {
  out.assign(static_cast<size_t>(tensor.size()), 0.0f);
  const std::byte* bytes = view.bytes.data();
  const auto convert = [&](auto at) {
    if (tensor.transposed) {
      transpose(out.data(), tensor.cols, tensor.rows, at);
    } else {
      for (int64_t i = 0; i < tensor.file_size(); ++i) out[static_cast<size_t>(i)] = at(i);
    }
  };
  if (view.dtype == "F32") {
    convert([&](int64_t i) { return load_bits<float>(bytes, i); });
  } else if (view.dtype == "BF16") {
    convert([&](int64_t i) { return float_from_bf16(load_bits<uint16_t>(bytes, i)); });
  } else {
    convert([&](int64_t i) { return float_from_f16(load_bits<uint16_t>(bytes, i)); });
  }
}

// A model's file has no adapters: they are merged (gpt2/lora.h) or saved on their own.
bool has(Arena arena, const ParamTensor& tensor) {
  return tensor.offset_in(arena) >= 0 && !(arena == Arena::params && tensor.adapter());
}

// Writes arenas of a model under the tensors' names, each after its prefix.
void save_arenas(const Model& model, const std::vector<std::pair<Arena, std::string>>& arenas, const fs::path& path) {
  std::vector<TensorHeader> headers;
  for (const auto& [arena, prefix] : arenas) {
    for (const ParamTensor& tensor : model.table) {
      if (has(arena, tensor)) headers.push_back({prefix + tensor.hf_name, "F32", file_shape(tensor)});
    }
  }
  SafetensorsWriter file(path, headers, {{"format", "pt"}});
  std::vector<float> values, transposed;
  for (const auto& [arena, prefix] : arenas) {
    for (const ParamTensor& tensor : model.table) {
      if (!has(arena, tensor)) continue;
      const float* out = model.view(arena, tensor);  // without a copy where that is possible: wte is the largest tensor
      if (!out) {
        values.resize(static_cast<size_t>(tensor.size()));
        model.read(arena, tensor, values.data());
        out = values.data();
      }
      if (tensor.transposed) {
        transposed.resize(static_cast<size_t>(tensor.size()));
        transpose(transposed.data(), tensor.rows, tensor.cols, [&](int64_t i) { return out[i]; });
        out = transposed.data();
      }
      const size_t size = static_cast<size_t>(tensor.file_size());
      file.write(prefix + tensor.hf_name, std::as_bytes(std::span(out, size)));
    }
  }
  file.commit();
}

// ---- a model's tensors in one or several files ---------------------------------------------------------------------

class TensorFiles {
 public:
  explicit TensorFiles(std::vector<fs::path> paths) {
    for (const fs::path& path : paths) files_.emplace_back(path);
    for (const SafetensorsFile& file : files_) {
      for (const TensorView& tensor : file.tensors()) {
        const bool prefixed = tensor.name.rfind("transformer.", 0) == 0;
        const std::string name = prefixed ? tensor.name.substr(std::strlen("transformer.")) : tensor.name;
        if (!tensors_.insert({name, {&tensor, file.path().string()}}).second) {
          fail("%s: tensor %s is there twice", file.path().c_str(), in_quotes(tensor.name).c_str());
        }
      }
    }
    where_ = paths.size() == 1 ? paths[0].string() : paths[0].parent_path().string();
  }

  const std::string& where() const { return where_; }
  const auto& tensors() const { return tensors_; }  // by name, without "transformer."

  // Throws Error unless the tensor is there, in a type that from_file reads and in the expected shape.
  const TensorView& get(const std::string& name, const std::vector<int64_t>& shape) const {
    const TensorHeader expected{name, "F32, F16 or BF16", shape};
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      fail("%s: tensor \"%s\" is missing, expected %s", where_.c_str(), name.c_str(), describe(expected).c_str());
    }
    const auto& [view, file] = found->second;
    const bool known = view->dtype == "F32" || view->dtype == "F16" || view->dtype == "BF16";
    if (!known || view->shape != shape) {
      fail("%s: tensor %s is %s, expected %s", file.c_str(), in_quotes(view->name).c_str(), describe(*view).c_str(),
           describe(expected).c_str());
    }
    return *view;
  }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::pair<const TensorView*, std::string>> tensors_;  // the views live in files_
  std::string where_;
};

// model.safetensors, or the shards that an index names: transformers cuts models above 5 GB.
std::vector<fs::path> weight_paths(const fs::path& dir) {
  const fs::path single = dir / "model.safetensors", index = dir / "model.safetensors.index.json";
  if (fs::exists(single) || !fs::exists(index)) return {single};
  const json file = read_json_object(index);
  if (!file.contains("weight_map") || !file["weight_map"].is_object() || file["weight_map"].empty()) {
    fail("%s: expected an object \"weight_map\" of tensors and their files", index.c_str());
  }
  std::set<fs::path> paths;
  for (const auto& [tensor, name] : file["weight_map"].items()) {
    if (!name.is_string() || name.get<std::string>().find('/') != std::string::npos) {
      fail("%s: weight_map gives %s for %s, expected the name of a file in the same folder", index.c_str(),
           shown(name).c_str(), in_quotes(tensor).c_str());
    }
    paths.insert(dir / name.get<std::string>());
  }
  return {paths.begin(), paths.end()};
}

const char* const kHead = "lm_head.weight";

void check_config(const ModelConfig& model, const fs::path& dir) {
  const ModelConfig file = read_model_config(dir);
  std::string differences;
  const auto compare = [&](const char* field, int in_file, int in_model) {
    if (in_file != in_model)
      differences += strprintf("%s %s %d, expected %d", differences.empty() ? "" : ";", field, in_file, in_model);
  };
  compare("n_positions", file.max_seq_len, model.max_seq_len);
  compare("vocab_size", file.vocab_size, model.vocab_size);
  compare("n_layer", file.num_layers, model.num_layers);
  compare("n_head", file.num_heads, model.num_heads);
  compare("n_embd", file.channels, model.channels);
  if (!differences.empty())
    fail("%s: the model has another shape:%s", (dir / "config.json").c_str(), differences.c_str());
}

// Every tensor of the table, nothing else but the old files' extras.
void check_tensors(const std::vector<ParamTensor>& table, const ModelConfig& config, const TensorFiles& files) {
  std::set<std::string> known;
  for (const ParamTensor& tensor : table) {
    files.get(tensor.hf_name, file_shape(tensor));
    known.insert(tensor.hf_name);
  }
  for (int l = 0; l < config.num_layers; ++l) {  // causal masks, which say nothing about the model
    known.insert(strprintf("h.%d.attn.bias", l));
    known.insert(strprintf("h.%d.attn.masked_bias", l));
  }
  for (const auto& [name, found] : files.tensors()) {
    if (name != kHead && !known.contains(name)) {
      fail("%s: tensor %s is not part of a GPT-2 of %d layers", found.second.c_str(),
           in_quotes(found.first->name).c_str(), config.num_layers);
    }
  }
  if (files.tensors().contains(kHead)) {
    const std::vector<int64_t> shape = file_shape(table[0]);
    const TensorView &head = files.get(kHead, shape), &wte = files.get(table[0].hf_name, shape);
    if (head.dtype != wte.dtype || std::memcmp(head.bytes.data(), wte.bytes.data(), head.bytes.size()) != 0) {
      fail("%s: \"%s\" differs from the token embedding; wrought ties the two", files.where().c_str(), kHead);
    }
    drop_pages(head.bytes);
    drop_pages(wte.bytes);
  }
}

void load_arena(Model& model, Arena arena, const std::string& prefix, const TensorFiles& files) {
  std::vector<float> values;
  for (const ParamTensor& tensor : model.table) {
    if (!has(arena, tensor)) continue;
    const TensorView& view = files.get(prefix + tensor.hf_name, file_shape(tensor));
    from_file(values, view, tensor);
    drop_pages(view.bytes);
    model.write(arena, tensor, values.data());
  }
}

}  // namespace

void check_weights(const ModelConfig& config, const fs::path& dir) {
  check_config(config, dir);
  check_tensors(param_table(config), config, TensorFiles(weight_paths(dir)));
}

void load_weights(Model& model, const fs::path& dir) {
  check_config(model.config, dir);
  const TensorFiles files(weight_paths(dir));
  check_tensors(model.table, model.config, files);
  load_arena(model, Arena::params, "", files);
}

void check_tokenizer(const Tokenizer& tokenizer, const ModelConfig& config, const std::string& where) {
  if (tokenizer.vocab_size() > config.vocab_size) {
    fail("%s: the tokenizer has %d ids, more than the %d of the model's vocabulary; it belongs to another model",
         where.c_str(), tokenizer.vocab_size(), config.vocab_size);
  }
}

void save_model(const Model& model, const Tokenizer* tokenizer, const fs::path& dir) {
  save_arenas(model, {{Arena::params, "transformer."}}, dir / "model.safetensors");
  if (tokenizer) {
    check_tokenizer(*tokenizer, model.config, dir.string());
    tokenizer->save(dir / "tokenizer.json");
    write_json(dir / "tokenizer_config.json", tokenizer_config_json(model.config, *tokenizer));
  }
  write_json(dir / "config.json", config_json(model.config, tokenizer));  // last: without it the folder is no model
}

// ---- a training state ----------------------------------------------------------------------------------------------

namespace {

const char* const kOptimizerFile = "optimizer.safetensors";
const char* const kStateFile = "trainer_state.json";
const std::string kUnfinished = ".tmp";
const std::vector<std::pair<Arena, std::string>> kMoments = {{Arena::m, "m."}, {Arena::v, "v."}};

// Throws Error if the moments are those of the other optimizer: Muon keeps no v of the blocks' matrices. A file that
// has it for some of them is no optimizer's, which is said later.
void check_optimizer(const std::vector<ParamTensor>& table, const TensorFiles& moments) {
  bool muon = false, has_v = false, lacks_v = false;
  for (const ParamTensor& tensor : table) {
    if (!tensor.transposed) continue;
    muon = tensor.muon > 0;
    (moments.tensors().contains("v." + tensor.hf_name) ? has_v : lacks_v) = true;
  }
  if (has_v == lacks_v || has_v != muon) return;
  fail(
      "%s: the state of --optimizer %s, expected that of %s; go on with the run's own, or start a new run from the "
      "weights with --model",
      moments.where().c_str(), has_v ? "adamw" : "muon", muon ? "muon" : "adamw");
}

// The step of a finished checkpoint's folder, or -1.
int64_t step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  const std::string digits = name.rfind("step_", 0) == 0 ? name.substr(5) : "";
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoll(digits);
}

std::vector<fs::path> finished_checkpoints(const fs::path& run) {  // newest first
  std::vector<fs::path> found;
  std::error_code none;  // a folder that is not there holds none
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "checkpoints", none)) {
    if (step_of(entry.path()) >= 0 && fs::exists(entry.path() / kStateFile)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return step_of(a) > step_of(b); });
  return found;
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) fail("%s: cannot be removed: %s", folder.c_str(), error.message().c_str());
}

// A folder under a temporary name, which goes with everything in it.
struct UnfinishedFolder {
  const fs::path path;
  explicit UnfinishedFolder(const fs::path& folder) : path(folder) { make_directories(path); }
  ~UnfinishedFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

void rename_or_fail(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail("%s: cannot be put in place: %s", to.c_str(), std::strerror(errno));
}

// Puts a finished folder in its place. One that is there already changes places with it at once, where the file system
// can do that; `from` then holds the old one.
void publish(const fs::path& from, const fs::path& to) {
  if (!fs::exists(to)) {
    rename_or_fail(from, to);
  } else if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    const UnfinishedFolder old(to.string() + ".old" + kUnfinished);
    rename_or_fail(to, old.path);
    rename_or_fail(from, to);
  }
}

// RUN/latest or RUN/best.
void point_at(const fs::path& run, const char* name, const fs::path& checkpoint) {
  const fs::path link = run / name, temporary = run / (name + kUnfinished);
  ::unlink(temporary.c_str());
  if (::symlink(checkpoint.lexically_relative(run).c_str(), temporary.c_str()) != 0) {
    fail("%s: cannot be written: %s", temporary.c_str(), std::strerror(errno));
  }
  if (::rename(temporary.c_str(), link.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    fail("%s: cannot be replaced by a link to %s: %s", link.c_str(), checkpoint.c_str(), std::strerror(reason));
  }
  sync_directory(run);
}

}  // namespace

fs::path save_checkpoint(const fs::path& run, int64_t step, const Model& model, const Tokenizer* tokenizer,
                         const json& state, int keep) {
  if (step < 0 || !state.is_object())
    throw std::logic_error("save_checkpoint: a negative step, or a state that is no object");
  const fs::path all = run / "checkpoints";
  make_directories(all);
  for (const fs::directory_entry& entry : std::vector(fs::directory_iterator(all), fs::directory_iterator())) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step_", 0) == 0 && name.ends_with(kUnfinished)) remove_folder(entry.path());
  }

  const fs::path folder = all / strprintf("step_%06lld", static_cast<long long>(step));
  {
    const UnfinishedFolder unfinished(folder.string() + kUnfinished);
    save_model(model, tokenizer, unfinished.path);
    save_arenas(model, kMoments, unfinished.path / kOptimizerFile);
    json complete = state;
    complete["checksums"] = json::object();
    for (const fs::directory_entry& entry : fs::directory_iterator(unfinished.path)) {
      complete["checksums"][entry.path().filename().string()] = file_checksum(entry.path());
    }
    write_json(unfinished.path / kStateFile, complete);
    sync_directory(unfinished.path);
    publish(unfinished.path, folder);
  }
  sync_directory(all);
  point_at(run, "latest", folder);

  if (keep > 0) {
    int kept = 1;  // the new one, even where a run that went back to an earlier step finds later ones
    std::error_code none;
    const fs::path best = fs::read_symlink(run / "best", none);
    for (const fs::path& other : finished_checkpoints(run)) {
      if (other == folder || ++kept <= keep || other.filename() == best.filename()) continue;
      const fs::path doomed = other.string() + kUnfinished;  // half removed, it must not look like a checkpoint
      rename_or_fail(other, doomed);
      remove_folder(doomed);
    }
  }
  return folder;
}

void mark_best(const fs::path& run, const fs::path& checkpoint) { point_at(run, "best", checkpoint); }

fs::path latest_checkpoint(const fs::path& run) {
  if (fs::exists(run / kStateFile)) return run;
  const fs::path link = run / "latest";
  if (fs::exists(link / kStateFile)) return fs::is_symlink(link) ? run / fs::read_symlink(link) : link;

  const std::vector<fs::path> finished = finished_checkpoints(run);
  std::string found = "no checkpoint";
  if (!fs::exists(run)) {
    found = "no such folder";
  } else if (!finished.empty()) {
    found = "\"latest\" leads nowhere, but there is " + finished[0].string() + ": name that folder to go on from it";
  } else if (fs::exists(run / "config.json")) {
    found = "a model without a training state: start from it with --model instead";
  }
  fail("%s: expected a run or a checkpoint to resume, found %s", run.c_str(), found.c_str());
}

json read_training_state(const fs::path& dir) {
  const fs::path path = dir / kStateFile;
  const json state = read_json_object(path);
  const auto checksums = state.find("checksums");
  for (const char* name : {"config.json", "model.safetensors", kOptimizerFile}) {
    if (checksums == state.end() || !checksums->is_object() || !checksums->contains(name)) {
      fail("%s: no checksum of %s; this is not a training state of wrought", path.c_str(), name);
    }
  }
  for (const auto& [name, expected] : checksums->items()) {
    if (name.find('/') != std::string::npos || !expected.is_string()) {
      fail("%s: the checksum of %s is not that of a file in this folder", path.c_str(), in_quotes(name).c_str());
    }
    const std::string found = file_checksum(dir / name);
    if (found != expected.get<std::string>()) {
      fail("%s: damaged: its checksum is %s, expected %s; resume from another checkpoint", (dir / name).c_str(),
           found.c_str(), shown(expected).c_str());
    }
  }
  return state;
}

void load_checkpoint(Model& model, const fs::path& dir) {
  const TensorFiles moments({dir / kOptimizerFile});
  check_optimizer(model.table, moments);
  size_t expected = 0;
  for (const auto& [arena, prefix] : kMoments) {
    for (const ParamTensor& tensor : model.table) {
      if (!has(arena, tensor)) continue;
      moments.get(prefix + tensor.hf_name, file_shape(tensor));
      ++expected;
    }
  }
  if (moments.tensors().size() != expected) {
    fail("%s: %zu tensors, expected %zu", moments.where().c_str(), moments.tensors().size(), expected);
  }
  load_weights(model, dir);
  for (const auto& [arena, prefix] : kMoments) load_arena(model, arena, prefix, moments);
}
