// A model's weights, one tensor at a time, from any source: a Model, or one of the kinds of files that wrought reads
// (llm/formats/open_weights.h). All loading, saving and converting goes through here, so that next to a model only one
// tensor is in memory, and when converting only one tensor at all.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "llm/formats/safetensors.h"
#include "llm/models/model.h"

enum class Dtype { f32, f16, bf16 };

const char* dtype_name(Dtype dtype);                       // as safetensors names it: "F32"
std::optional<Dtype> find_dtype(const std::string& name);  // nothing for the name of another type
inline int64_t element_bytes(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

class Weights {
 public:
  virtual ~Weights() = default;

  const ModelConfig config;
  const std::vector<ParamTensor> table;

  // tensor.size() floats in the layout of the table; padding is zero. Throws Error if the file is damaged there: a
  // wrong checksum, or a value that is not finite.
  virtual void read(const ParamTensor& tensor, float* out) const = 0;
  // The same numbers in place, without a copy, or null.
  virtual const float* view(const ParamTensor&) const { return nullptr; }
  // The type in which they are stored, or F32 where that is none of the three: stored_as() names it, as "Q8_0".
  virtual Dtype dtype(const ParamTensor&) const { return Dtype::f32; }
  virtual std::string stored_as(const ParamTensor& tensor) const { return dtype_name(dtype(tensor)); }

 protected:
  Weights(const ModelConfig& c, std::vector<ParamTensor> t) : config(c), table(std::move(t)) {}
};

// A model's parameters without adapters: those are merged (llm/formats/adapter.h) or saved separately.
class ModelWeights final : public Weights {
 public:
  // arena: Arena::average has the average of the weights, where a tensor has one.
  explicit ModelWeights(const Model& model, Arena arena = Arena::params)
      : Weights(model.config, param_table(model.config)), model_(model), arena_(arena) {
    for (const ParamTensor& tensor : model.table) by_name_[tensor.name] = &tensor;
  }
  void read(const ParamTensor& tensor, float* out) const override { model_.read(arena_of(tensor), of(tensor), out); }
  const float* view(const ParamTensor& tensor) const override { return model_.view(arena_of(tensor), of(tensor)); }

 private:
  const ParamTensor& of(const ParamTensor& tensor) const { return *by_name_.at(tensor.name); }
  Arena arena_of(const ParamTensor& tensor) const { return of(tensor).averaged ? arena_ : Arena::params; }
  const Model& model_;
  const Arena arena_;
  std::map<std::string, const ParamTensor*> by_name_;
};

// ---- one tensor between memory and file ----

// The table of the tensors in files: queries, keys and values always have a bias there, of zeros if the model has none.
std::vector<ParamTensor> file_table(const ModelConfig& config);
// Whether a row of that table is such a bias.
bool only_in_files(const ModelConfig& config, const ParamTensor& tensor);

// The values of a tensor of that table: in place, or read into `memory`.
const float* view_or_read(const Weights& weights, const ParamTensor& tensor, std::vector<float>& memory);

// A tensor's shape in files: V rows of wte, matrices transposed (GPT-2's Conv1D).
std::vector<int64_t> file_shape(const ParamTensor& tensor);

// out: tensor.size() floats in the layout of the table; rows that the file does not have are zero. `bytes` lie in a
// mapped file, not necessarily aligned, and their pages are given back to the system on the way. Throws Error for a
// value that is NaN or infinite, naming it by its place in the file's shape; `where` begins the message. Without
// `where` any value is accepted: for the optimizer's tensors, which are not part of the model.
void from_file(float* out, std::span<const std::byte> bytes, Dtype dtype, const ParamTensor& tensor,
               const std::string& where = "");

// Throws the Error of from_file for value i of a tensor in its file, which is NaN or infinite.
[[noreturn]] void fail_not_finite(float value, int64_t i, const ParamTensor& tensor, const std::string& where);

// Throws Error unless the view has this shape, and a type that from_file reads.
Dtype check_view(const TensorView& view, const std::vector<int64_t>& shape, const std::string& where);

using Sink = std::function<void(std::span<const std::byte>)>;

// Gives `sink` the values in that type, in pieces, rounded to the nearest, ties to even. Throws Error if a finite value
// becomes infinite. `where` begins the message.
void narrow(const float* values, int64_t n, Dtype dtype, const std::string& where, const Sink& sink);

// Writes a tensor's values, given in the table's layout, in the layout of files.
void write_tensor(SafetensorsWriter& file, const std::string& name, const ParamTensor& tensor, const float* values,
                  Dtype dtype);
