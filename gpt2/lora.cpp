#include "gpt2/lora.h"

#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

#include "gpt2/error.h"
#include "gpt2/file.h"
#include "gpt2/huggingface.h"
#include "gpt2/json.h"
#include "gpt2/safetensors.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kTensorFile = "adapter_model.safetensors";
constexpr const char* kBaseChecksum = "base_checksum";  // among the tensors' metadata: of the base's weights

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

// "h.3.attn.c_attn" of "h.3.attn.c_attn.weight": what PEFT calls the matrix.
std::string module_of(const ParamTensor& tensor) {
  const std::string module = tensor.hf_name.substr(0, tensor.hf_name.rfind('.'));
  return module.rfind("h.", 0) == 0 ? "transformer." + module : module;
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
  std::string name;   // in the table, without .lora_a: "block.3.qw"
  int64_t first_row;  // of the matrix that it adds to
};

// The adapters that a matrix can have: three of qkvw, else one.
std::vector<Adapter> adapters_of(const ParamTensor& tensor, int64_t C) {
  if (!tensor.name.ends_with(".qkvw")) return {{tensor.name, 0}};
  const std::string block = tensor.name.substr(0, tensor.name.size() - 4);
  return {{block + "qw", 0}, {block + "kw", C}, {block + "vw", 2 * C}};
}

std::vector<float> read_tensor(const Model& model, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  model.read(Arena::params, tensor, values.data());
  return values;
}

fs::path weights_file(const fs::path& base) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
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
  if (tensor.vector) return;
  const float scale = model_.options.lora.alpha / static_cast<float>(model_.options.lora.rank);
  for (const Adapter& adapter : adapters_of(tensor, config.channels)) {
    const auto found = tensors_.find(adapter.name + ".lora_a");
    if (found == tensors_.end()) continue;
    const ParamTensor &a = *found->second, &b = *tensors_.at(adapter.name + ".lora_b");
    add_low_rank(out + adapter.first_row * tensor.cols, read_tensor(model_, a).data(), read_tensor(model_, b).data(),
                 scale, b.rows, a.cols, a.rows);
  }
}

// ---- saved ---------------------------------------------------------------------------------------------------------

void save_adapter(const Model& model, const fs::path& base, const fs::path& dir) {
  const LoraOptions& lora = model.options.lora;
  if (lora.rank == 0) throw std::logic_error("save_adapter() of a model without adapters");
  std::map<std::string, const ParamTensor*> tensors;
  for (const ParamTensor& tensor : model.table) tensors[tensor.name] = &tensor;
  const bool classifier = model.config.num_classes > 0;
  const int64_t C = model.config.channels;

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
    if (tensor.adapter() || tensor.vector || (classifier && tensor.name == "head")) continue;
    std::vector<Adapter> found;
    for (const Adapter& adapter : adapters_of(tensor, C)) {
      if (tensors.contains(adapter.name + ".lora_a")) found.push_back(adapter);
    }
    if (found.empty()) continue;
    const int64_t rank = lora.rank, all = rank * static_cast<int64_t>(found.size());
    std::vector<float> a_all, b_all(static_cast<size_t>(tensor.rows * all), 0.0f);
    for (size_t k = 0; k < found.size(); ++k) {
      const ParamTensor& b_tensor = *tensors.at(found[k].name + ".lora_b");
      const std::vector<float> a = read_tensor(model, *tensors.at(found[k].name + ".lora_a")),
                               b = read_tensor(model, b_tensor);
      a_all.insert(a_all.end(), a.begin(), a.end());
      for (int64_t o = 0; o < b_tensor.rows; ++o) {
        std::copy_n(&b[static_cast<size_t>(o * rank)], rank,
                    &b_all[static_cast<size_t>((found[k].first_row + o) * all) + k * static_cast<size_t>(rank)]);
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
    std::vector<float> head(static_cast<size_t>(tensors.at("head")->size()));
    MergedLora(model).read(*tensors.at("head"), head.data());
    add("base_model.model.score.weight", {model.config.num_classes, C}, std::move(head));
    add("base_model.model.score.bias", {model.config.num_classes}, read_tensor(model, *tensors.at("headb")));
  }

  SafetensorsWriter file(dir / kTensorFile, headers,
                         {{"format", "pt"}, {kBaseChecksum, file_checksum(weights_file(base))}});
  for (size_t k = 0; k < headers.size(); ++k) file.write(headers[k].name, std::as_bytes(std::span(values[k])));
  file.commit();
  write_json(dir / kConfigFile, {{"peft_type", "LORA"},
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

class AdapterWeights final : public Weights {
 public:
  AdapterWeights(const fs::path& dir, const json& config, std::unique_ptr<Weights> base, const ModelConfig& shape)
      : Weights(shape, param_table(shape)), base_(std::move(base)), file_(dir / kTensorFile) {
    const std::string where = (dir / kConfigFile).string();
    const auto number = [&](const json& value, const char* field) {
      if (!value.is_number() || !(value.get<double>() > 0)) {
        fail("%s: %s is %s, expected a number above 0", where.c_str(), field, shown(value).c_str());
      }
      return value.get<double>();
    };
    const auto pattern = [&](const char* field, const std::string& target) {
      const auto found = config.find(field);
      return found != config.end() && found->is_object() && found->contains(target) ? (*found)[target] : json(nullptr);
    };
    for (const ParamTensor& tensor : base_->table) base_tensors_[tensor.name] = &tensor;
    std::set<std::string> known;
    for (const ParamTensor& tensor : table) {
      if (tensor.vector) continue;
      const std::string module = module_of(tensor), target = target_of(module);
      const TensorView *a = file_.find(tensor_name(module, "lora_A")), *b = file_.find(tensor_name(module, "lora_B"));
      if (!a && !b) continue;
      const json own_rank = pattern("rank_pattern", target), own_alpha = pattern("alpha_pattern", target);
      const double rank = number(own_rank.is_null() ? config.value("r", json()) : own_rank, "r"),
                   alpha = number(own_alpha.is_null() ? config.value("lora_alpha", json()) : own_alpha, "lora_alpha");
      const int64_t r = static_cast<int64_t>(rank);
      for (const auto& [view, what, shape_of] : {std::tuple{a, "lora_A", std::vector<int64_t>{r, tensor.cols}},
                                                 std::tuple{b, "lora_B", std::vector<int64_t>{tensor.file_rows, r}}}) {
        const std::string name = tensor_name(module, what);
        if (!view) fail("%s: tensor \"%s\" is missing", file_.path().c_str(), name.c_str());
        check_view(*view, shape_of, file_.path().string());
        known.insert(name);
      }
      deltas_[tensor.name] = {a, b, r, static_cast<float>(alpha / rank)};
    }
    if (shape.num_classes > 0) {
      for (const ParamTensor& tensor : table) {
        if (tensor.name != "head" && tensor.name != "headb") continue;
        const std::string name = "base_model.model." + tensor.hf_name;
        const TensorView* view = file_.find(name);
        if (!view) fail("%s: tensor \"%s\" is missing: a classifier's head", file_.path().c_str(), name.c_str());
        check_view(*view, file_shape(tensor), file_.path().string());
        heads_[tensor.name] = view;
        known.insert(name);
      }
    }
    for (const TensorView& view : file_.tensors()) {
      if (!known.contains(view.name)) {
        fail("%s: tensor %s is no adapter of this base model, %d layers of %d channels", file_.path().c_str(),
             in_quotes(view.name).c_str(), shape.num_layers, shape.channels);
      }
    }
    if (deltas_.empty()) fail("%s: no adapter is in it", file_.path().c_str());
  }

  void read(const ParamTensor& tensor, float* out) const override {
    if (const auto head = heads_.find(tensor.name); head != heads_.end()) {
      return from_file(out, head->second->bytes, *find_dtype(head->second->dtype), tensor);
    }
    base_->read(*base_tensors_.at(tensor.name), out);
    const auto delta = deltas_.find(tensor.name);
    if (delta == deltas_.end()) return;
    const auto& [a, b, rank, scale] = delta->second;
    const auto floats = [](const TensorView& view) {
      const ParamTensor as_it_is{
          "", "", view.shape[0], view.shape[1], view.shape[0], false, false, Init::zeros, 0, false, 0, 0};
      std::vector<float> values(static_cast<size_t>(as_it_is.size()));
      from_file(values.data(), view.bytes, *find_dtype(view.dtype), as_it_is);
      return values;
    };
    add_low_rank(out, floats(*a).data(), floats(*b).data(), scale, tensor.file_rows, tensor.cols, rank);
  }

 private:
  struct Delta {
    const TensorView *a, *b;
    int64_t rank;
    float scale;
  };
  std::unique_ptr<Weights> base_;
  SafetensorsFile file_;
  std::map<std::string, const ParamTensor*> base_tensors_;
  std::map<std::string, Delta> deltas_;
  std::map<std::string, const TensorView*> heads_;
};

}  // namespace

std::unique_ptr<Weights> open_adapter(const fs::path& dir) {
  const fs::path path = dir / kConfigFile;
  const json config = read_json_object(path);
  const auto expect = [&](const char* field, const json& wanted) {
    const json value = config.value(field, wanted);
    if (value != wanted) {
      fail("%s: %s is %s, expected %s: wrought does not have this option", path.c_str(), field, shown(value).c_str(),
           shown(wanted).c_str());
    }
  };
  if (config.value("peft_type", json()) != "LORA") {
    fail("%s: peft_type is %s, expected \"LORA\"", path.c_str(), shown(config.value("peft_type", json())).c_str());
  }
  expect("bias", "none");
  expect("use_rslora", false);
  expect("use_dora", false);
  const json named = config.value("base_model_name_or_path", json());
  if (!named.is_string())
    fail("%s: base_model_name_or_path is %s, expected a folder", path.c_str(), shown(named).c_str());
  fs::path base = named.get<std::string>();
  if (!fs::exists(base) && base.is_relative() && fs::exists(dir / base)) base = dir / base;
  if (!fs::exists(base)) {
    fail("%s: the adapter's base model is %s, and there is nothing; put it there, or change base_model_name_or_path",
         path.c_str(), in_quotes(base.string()).c_str());
  }
  const SafetensorsFile tensors(dir / kTensorFile);
  if (const auto expected = tensors.metadata().find(kBaseChecksum); expected != tensors.metadata().end()) {
    const std::string found = file_checksum(weights_file(base));
    if (found != expected->second) {
      fail("%s: the adapter was trained on another base model than %s now is (checksum %s, expected %s)", path.c_str(),
           base.c_str(), found.c_str(), in_quotes(expected->second).c_str());
    }
  }
  std::unique_ptr<Weights> weights = open_weights(base);
  const ModelConfig shape = fs::exists(dir / "config.json") ? read_huggingface_config(dir) : weights->config;
  ModelConfig same = weights->config;  // but for what a finetuning may change
  same.num_classes = shape.num_classes;
  same.tied_head = shape.tied_head;
  same.causal = shape.causal;
  if (!(same == shape)) fail("%s: config.json and the base model %s differ in shape", dir.c_str(), base.c_str());
  return std::make_unique<AdapterWeights>(dir, config, std::move(weights), shape);
}
