#include "llm/formats/adapter.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <stdexcept>
#include <vector>

#include "llm/formats/adapter_config.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/pytorch.h"
#include "llm/formats/safetensors.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";
constexpr const char* kPytorchFile = "adapter_model.bin";  // of PEFT's first versions; read, never written
constexpr const char* kBaseChecksum = "base_checksum";     // in the tensors' metadata: of the base's weights

// w (out, in) += scale * b (out, rank) @ a (rank, in)
void add_low_rank(float* w, const float* a, const float* b, float scale, int64_t out, int64_t in, int64_t rank) {
#pragma omp parallel for
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t r = 0; r < rank; ++r) {
      const float factor = scale * b[o * rank + r];
      if (factor == 0) continue;
      for (int64_t i = 0; i < in; ++i) w[o * in + i] += factor * a[r * in + i];
    }
  }
}

// PEFT's name of the matrix: "transformer.h.3.attn.c_attn" for "h.3.attn.c_attn.weight".
std::string module_of(const ParamTensor& tensor) {
  const std::string module = tensor.hf_name.substr(0, tensor.hf_name.rfind('.'));
  return module == "lm_head" || module == "score" ? module : "transformer." + module;
}
// How target_modules names it: "attn.c_attn" in every block.
std::string target_of(const std::string& module) {
  const size_t block = module.find(".h.");
  return block == std::string::npos ? module : module.substr(module.find('.', block + 3) + 1);
}
std::string tensor_name(const std::string& module, const char* what) {
  return "base_model.model." + module + "." + what + ".weight";
}

struct Adapter {
  const ParamTensor *a, *b;
};

// The adapters of a matrix: up to three for that of queries, keys and values, else at most one.
std::vector<Adapter> adapters_of(const std::vector<ParamTensor>& table, const ParamTensor& matrix) {
  std::vector<Adapter> found;
  for (size_t k = 0; k + 1 < table.size(); ++k) {
    if (!table[k].adapter() || table[k].layer != matrix.layer || table[k].adapts != matrix.name) continue;
    found.push_back({&table[k], &table[k + 1]});
    ++k;
  }
  return found;
}

std::vector<float> read_tensor(const Model& model, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  model.read(Arena::params, tensor, values.data());
  return values;
}

fs::path weights_file(const fs::path& base) {
  for (const char* name :
       {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (fs::exists(base / name)) return base / name;
  }
  return base;
}

}  // namespace

// ---- merged --------------------------------------------------------------------------------------------------------

MergedLora::MergedLora(const Model& model) : Weights(model.config, param_table(model.config)), model_(model) {
  for (const ParamTensor& tensor : model.table) tensors_[tensor.name] = &tensor;
}

void MergedLora::read(const ParamTensor& tensor, float* out) const {
  model_.read(Arena::params, *tensors_.at(tensor.name), out);
  const float scale = model_.options.lora.alpha / static_cast<float>(model_.options.lora.rank);
  for (const auto& [a, b] : adapters_of(model_.table, tensor)) {
    add_low_rank(out + a->first_row * tensor.cols, read_tensor(model_, *a).data(), read_tensor(model_, *b).data(),
                 scale, b->rows, a->cols, a->rows);
  }
}

// ---- saved ---------------------------------------------------------------------------------------------------------

void save_adapter(const Model& model, const fs::path& base, const fs::path& dir, bool opens_in_peft) {
  const LoraOptions& lora = model.options.lora;
  if (lora.rank == 0) throw std::logic_error("save_adapter() of a model without adapters");
  const bool classifier = model.config.num_classes > 0;

  std::vector<TensorHeader> headers;
  std::vector<std::vector<float>> values;
  std::set<std::string> targets;
  json ranks = json::object(), alphas = json::object();
  const auto add = [&](const std::string& name, const std::vector<int64_t>& shape, std::vector<float> numbers) {
    headers.push_back({name, "F32", shape});
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    numbers.resize(static_cast<size_t>(n));  // without padding
    values.push_back(std::move(numbers));
  };
  for (const ParamTensor& tensor : model.table) {
    const std::vector<Adapter> found = adapters_of(model.table, tensor);
    if (found.empty() || (classifier && tensor.role == Role::head)) continue;
    const int64_t rank = lora.rank, all = rank * static_cast<int64_t>(found.size());
    std::vector<float> a_all, b_all(static_cast<size_t>(tensor.rows * all), 0.0f);
    for (size_t k = 0; k < found.size(); ++k) {
      const auto& [a_tensor, b_tensor] = found[k];
      const std::vector<float> a = read_tensor(model, *a_tensor), b = read_tensor(model, *b_tensor);
      a_all.insert(a_all.end(), a.begin(), a.end());
      for (int64_t o = 0; o < b_tensor->rows; ++o) {
        std::copy_n(&b[static_cast<size_t>(o * rank)], rank,
                    &b_all[static_cast<size_t>((b_tensor->first_row + o) * all) + k * static_cast<size_t>(rank)]);
      }
    }
    const std::string module = module_of(tensor), target = target_of(module);
    targets.insert(target);
    if (found.size() > 1) {
      ranks[target] = all;
      alphas[target] = lora.alpha * static_cast<float>(found.size());
    }
    add(tensor_name(module, "lora_A"), {all, tensor.cols}, std::move(a_all));
    add(tensor_name(module, "lora_B"), {tensor.file_rows, all}, std::move(b_all));
  }
  if (classifier) {
    const MergedLora merged(model);
    for (const ParamTensor& tensor : merged.table) {
      if (!of_head(tensor, merged.config)) continue;
      std::vector<float> head(static_cast<size_t>(tensor.size()));
      merged.read(tensor, head.data());
      add("base_model.model." + tensor.hf_name, file_shape(tensor), std::move(head));
    }
  }

  SafetensorsWriter file(dir / kTensorFile, headers,
                         {{"format", "pt"}, {kBaseChecksum, file_checksum(weights_file(base))}});
  for (size_t k = 0; k < headers.size(); ++k) file.write(headers[k].name, std::as_bytes(std::span(values[k])));
  file.commit();
  write_json(dir / kConfigFile, {{"peft_type", opens_in_peft ? kPeftType : kOwnPeftType},
                                 {"task_type", classifier ? "SEQ_CLS" : "CAUSAL_LM"},
                                 {"base_model_name_or_path", fs::absolute(base).lexically_normal().string()},
                                 {"r", lora.rank},
                                 {"lora_alpha", lora.alpha},
                                 {"lora_dropout", lora.dropout},
                                 {"target_modules", targets},
                                 {"rank_pattern", ranks},
                                 {"alpha_pattern", alphas},
                                 {"modules_to_save", classifier ? json::array({"score"}) : json(nullptr)},
                                 {"fan_in_fan_out", true},
                                 {"bias", "none"},
                                 {"inference_mode", true}});
}

// ---- opened --------------------------------------------------------------------------------------------------------

bool is_adapter(const fs::path& dir) { return fs::exists(dir / kConfigFile); }

namespace {

constexpr const char* kPrefix = "base_model.model.";

// Whether adapters or modules_to_save untie a head from the token embedding: PEFT changes modules, not the weights that
// they share.
bool unties(const AdapterConfig& adapter) {
  for (const char* module : {"transformer.wte", "lm_head"}) {
    if (adapter.is_target(module) || adapter.is_saved(module)) return true;
  }
  return false;
}

class AdapterFile {
 public:
  explicit AdapterFile(const fs::path& dir) {
    if (!fs::exists(dir / kTensorFile) && fs::exists(dir / kPytorchFile)) {
      pytorch_.emplace(dir / kPytorchFile);
    } else {
      safetensors_.emplace(dir / kTensorFile);
    }
  }
  const std::vector<TensorView>& tensors() const { return pytorch_ ? pytorch_->tensors() : safetensors_->tensors(); }
  const TensorView* find(const std::string& name) const {
    const auto found = std::ranges::find(tensors(), name, &TensorView::name);
    return found == tensors().end() ? nullptr : &*found;
  }
  std::map<std::string, std::string> metadata() const {
    return safetensors_ ? safetensors_->metadata() : std::map<std::string, std::string>();
  }
  const fs::path& path() const { return pytorch_ ? pytorch_->path() : safetensors_->path(); }

 private:
  std::optional<SafetensorsFile> safetensors_;
  std::optional<PytorchFile> pytorch_;
};

class AdapterWeights final : public Weights {
 public:
  AdapterWeights(const fs::path& dir, const AdapterConfig& adapter, std::unique_ptr<Weights> base,
                 const ModelConfig& shape)
      : Weights(shape, param_table(shape)), base_(std::move(base)), file_(dir) {
    for (const ParamTensor& tensor : table) {
      const std::string module = module_of(tensor);
      if (!tensor.vector() && adapter.is_target(module)) add_delta(tensor, module, adapter);
    }
    add_whole(adapter);
    for (const TensorView& view : file_.tensors()) {
      if (known_.contains(view.name)) continue;
      const bool of_lora = view.name.find(".lora_") != std::string::npos;
      fail("%s: tensor %s is not an adapter of this base model, %d layers of %d channels%s", file_.path().c_str(),
           in_quotes(view.name).c_str(), shape.num_layers, shape.channels,
           of_lora ? ", or adapter_config.json does not target its module"
           : view.name.starts_with(std::string(kPrefix) + "score.")
               ? "; a classifier's adapter needs its config.json next to it"
               : "");
    }
    if (deltas_.empty()) fail("%s: there is no adapter in it", file_.path().c_str());
  }

  void read(const ParamTensor& tensor, float* out) const override {
    if (const auto whole = whole_.find(tensor.name); whole != whole_.end()) {
      from_file(out, whole->second->bytes, *find_dtype(whole->second->dtype), tensor, where(*whole->second));
    } else if (const ParamTensor* found = in_base(tensor)) {
      base_->read(*found, out);
    } else if (tensor.role == Role::head) {
      base_->read(base_->table[0], out);  // the embedding, which is the base's head
    } else {
      std::fill(out, out + tensor.size(), 0.0f);  // a classifier's bias, which transformers does not have
    }
    if (const auto delta = deltas_.find(tensor.name); delta != deltas_.end()) {
      const Delta& d = delta->second;
      const std::vector<float> a = floats(*d.a, d.embedding), b = floats(*d.b, d.embedding);
      add_low_rank(out, (d.embedding ? b : a).data(), (d.embedding ? a : b).data(), d.scale, tensor.file_rows,
                   tensor.cols, d.rank);
    }
    if (const auto bias = biases_.find(tensor.name); bias != biases_.end()) {
      const std::vector<float> values = floats(*bias->second.first, false);
      for (size_t k = 0; k < values.size(); ++k) out[k] += bias->second.second * values[k];
    }
    float* end = out + tensor.size();
    if (float* bad = std::find_if_not(out, end, [](float x) { return std::isfinite(x); }); bad != end) {
      fail("%s: with it merged, a value of %s is %g; expected finite numbers", file_.path().c_str(),
           in_quotes(tensor.hf_name).c_str(), static_cast<double>(*bad));
    }
  }

 private:
  std::string where(const TensorView& view) const { return file_.path().string() + ": tensor " + in_quotes(view.name); }

  struct Delta {
    const TensorView *a, *b;
    int64_t rank;
    float scale;
    bool embedding;  // w += A^T B^T, instead of B A
  };

  // The file's tensor of this name and shape, or an error.
  const TensorView* get(const std::string& name, const std::vector<int64_t>& shape, const char* why) {
    const TensorView* view = file_.find(name);
    if (!view) fail("%s: tensor \"%s\" is missing: %s", file_.path().c_str(), name.c_str(), why);
    check_view(*view, shape, file_.path().string());
    known_.insert(name);
    return view;
  }

  void add_delta(const ParamTensor& tensor, const std::string& module, const AdapterConfig& adapter) {
    const char* why = "adapter_config.json targets its module";
    if (adapter.is_saved(module)) {
      fail("%s: target_modules and modules_to_save both name the module %s", file_.path().c_str(), module.c_str());
    }
    const bool embedding = tensor.role == Role::embedding || tensor.role == Role::position;
    const int64_t rank = adapter.rank(module), in = embedding ? tensor.file_rows : tensor.cols,
                  out = embedding ? tensor.cols : tensor.file_rows;
    const std::string at = kPrefix + module + (embedding ? ".lora_embedding_" : ".lora_"),
                      end = embedding ? "" : ".weight";
    const float scale = static_cast<float>(adapter.scale(module));
    const TensorView *a = get(at + "A" + end, {rank, in}, why), *b = get(at + "B" + end, {out, rank}, why);
    deltas_[tensor.name] = {a, b, rank, scale, embedding};
    if (!adapter.lora_bias()) return;
    const auto bias = std::ranges::next(std::ranges::find(table, tensor.name, &ParamTensor::name));
    if (tensor.role != Role::weight || bias == table.end() || bias->role != Role::bias) {
      fail("%s: lora_bias is true, but the module %s has no bias", file_.path().c_str(), module.c_str());
    }
    biases_[bias->name] = {get(at + "B.bias", {out}, "lora_bias is true"), scale};
  }

  // Tensors of the file that replace those of the base: of modules_to_save, and those that PEFT saves next to adapters,
  // such as biases.
  void add_whole(const AdapterConfig& adapter) {
    const auto name_of = [&](const std::string& module, const std::string& parameter) {
      const bool wrapped = adapter.is_target(module) && !adapter.is_saved(module);
      return kPrefix + module + (wrapped ? ".base_layer." : ".") + parameter;
    };
    const bool shared = !base_->config.has_head() && config.num_classes == 0;  // one matrix, in two modules
    const TensorView* one = nullptr;                                           // the file's tensor for it
    if (shared) {
      for (const char* module : {"transformer.wte", "lm_head"}) {
        if (adapter.is_saved(module)) continue;
        const std::string name = name_of(module, "weight");
        if (!file_.find(name)) continue;
        const TensorView* view = get(name, file_shape(table[0]), "");
        if (one && !std::ranges::equal(one->bytes, view->bytes)) {
          fail("%s: tensors %s and %s differ, but the base model has one matrix for both", file_.path().c_str(),
               in_quotes(one->name).c_str(), in_quotes(name).c_str());
        }
        one = view;
      }
    }
    for (const ParamTensor& tensor : table) {
      const std::string module = module_of(tensor),
                        name = name_of(module, tensor.hf_name.substr(tensor.hf_name.rfind('.') + 1));
      const bool saved = adapter.is_saved(module), classifies = of_head(tensor, config) && config.num_classes > 0;
      if (shared && !saved && (tensor.role == Role::embedding || tensor.role == Role::head)) {
        if (one) whole_[tensor.name] = one;
        continue;
      }
      const bool new_head = classifies && tensor.role == Role::head && !in_base(tensor);
      const bool needed = new_head || (saved && !(classifies && tensor.vector()));  // the bias is wrought's own
      if (!needed && !file_.find(name)) continue;
      whole_[tensor.name] =
          get(name, file_shape(tensor), saved ? "modules_to_save names its module" : "a classifier's head");
    }
  }

  // The base's tensor of the same name and size, or null.
  const ParamTensor* in_base(const ParamTensor& tensor) const {
    for (const ParamTensor& found : base_->table) {
      if (found.hf_name == tensor.hf_name && found.size() == tensor.size()) return &found;
    }
    return nullptr;
  }

  // The values of a matrix or vector, as stored or transposed.
  std::vector<float> floats(const TensorView& view, bool transposed) const {
    const int64_t n = view.shape[0], m = view.shape.size() > 1 ? view.shape[1] : 1;
    const int64_t rows = transposed ? m : n, cols = transposed ? n : m;
    const ParamTensor as_it_is{.rows = rows, .cols = cols, .file_rows = rows, .transposed = transposed};
    std::vector<float> values(static_cast<size_t>(as_it_is.size()));
    from_file(values.data(), view.bytes, *find_dtype(view.dtype), as_it_is, where(view));
    return values;
  }

  std::unique_ptr<Weights> base_;
  AdapterFile file_;
  std::map<std::string, Delta> deltas_;
  std::map<std::string, std::pair<const TensorView*, float>> biases_;  // added by lora_B, and their scale
  std::map<std::string, const TensorView*> whole_;                     // that replace those of the base
  std::set<std::string> known_;                                        // names in the file
};

}  // namespace

std::unique_ptr<Weights> open_adapter(const fs::path& dir, const OpenBase& open_base) {
  const fs::path path = dir / kConfigFile;
  const AdapterConfig adapter(path);
  fs::path base = adapter.base();
  if (!fs::exists(base) && base.is_relative() && fs::exists(dir / base)) base = dir / base;
  if (!fs::exists(base)) {
    fail("%s: the adapter's base model is %s, which does not exist; put it there, or change base_model_name_or_path",
         path.c_str(), in_quotes(base.string()).c_str());
  }
  if (is_adapter(base)) {
    fail("%s: the adapter's base model is %s, which is an adapter itself; expected a model directory", path.c_str(),
         in_quotes(base.string()).c_str());
  }
  const std::map<std::string, std::string> metadata = AdapterFile(dir).metadata();
  if (const auto expected = metadata.find(kBaseChecksum); expected != metadata.end()) {
    const std::string found = file_checksum(weights_file(base));
    if (found != expected->second) {
      fail("%s: the adapter was trained on another base model than %s now is (checksum %s, expected %s)", path.c_str(),
           base.c_str(), found.c_str(), in_quotes(expected->second).c_str());
    }
  }
  std::unique_ptr<Weights> weights = open_base(base);
  ModelConfig shape = fs::exists(dir / "config.json") ? read_huggingface_config(dir) : weights->config;
  if (shape.num_classes == 0 && unties(adapter)) shape.tied_head = false;
  ModelConfig same = weights->config;  // except for what finetuning may change
  same.num_classes = shape.num_classes;
  same.tied_head = shape.tied_head;
  same.causal = shape.causal;
  if (!(same == shape)) fail("%s: config.json and the base model %s differ in shape", dir.c_str(), base.c_str());
  return std::make_unique<AdapterWeights>(dir, adapter, std::move(weights), shape);
}
