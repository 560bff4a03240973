// Shared by the tests of model files: a folder, tensors as vectors, safetensors files rewritten.
#pragma once

#include <unistd.h>

#include <fstream>
#include <functional>

#include "llm/formats/open_weights.h"
#include "llm/formats/safetensors.h"
#include "llm/formats/weights.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/models/model.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

struct Folder {  // empty at first, removed at the end
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / strprintf("wrought_test_model_files_%d", getpid());
  Folder() {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

inline std::string contents(const std::filesystem::path& path) { return std::string(MappedFile(path).text()); }
inline nlohmann::json read_json(const std::filesystem::path& path) {
  return parse_json(contents(path), path.string(), 64);
}
// The error of reading every tensor of a model; "nothing" if it succeeds.
inline std::string refusal(const std::filesystem::path& path) {
  try {
    const std::unique_ptr<Weights> weights = open_weights(path);
    std::vector<float> values;
    for (const ParamTensor& tensor : weights->table) {
      values.resize(static_cast<size_t>(tensor.size()));
      weights->read(tensor, values.data());
    }
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}
inline void write_text(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << text;
}

inline std::vector<float> read_tensor(const Model& model, Arena arena, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  model.read(arena, tensor, values.data());
  return values;
}

inline bool same(const Model& a, const Model& b, std::initializer_list<Arena> arenas) {
  for (const Arena arena : arenas) {
    for (const ParamTensor& tensor : a.table) {
      if (read_tensor(a, arena, tensor) != read_tensor(b, arena, tensor)) return false;
    }
  }
  return true;
}

inline std::unique_ptr<Model> random_model(const ModelConfig& config, uint64_t seed) {
  auto model = make_cpu_model(config, true);
  init_weights(*model, seed);
  return model;
}

// Rewrites a safetensors file, each tensor through `change`, which may rename it, change it, or drop it by setting an
// empty name.
struct FileTensor : TensorHeader {
  std::string bytes;
};
inline void rewrite(const std::filesystem::path& from, const std::filesystem::path& to,
                    const std::function<void(FileTensor&)>& change, const std::vector<FileTensor>& more = {}) {
  std::vector<FileTensor> tensors;
  const SafetensorsFile file(from);
  for (const TensorView& view : file.tensors()) {
    FileTensor tensor{view, std::string(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size())};
    change(tensor);
    if (!tensor.name.empty()) tensors.push_back(tensor);
  }
  tensors.insert(tensors.end(), more.begin(), more.end());
  SafetensorsWriter writer(to, {tensors.begin(), tensors.end()}, {});
  for (const FileTensor& tensor : tensors) writer.write(tensor.name, std::as_bytes(std::span(tensor.bytes)));
  writer.commit();
}
