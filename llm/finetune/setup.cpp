#include "llm/finetune/setup.h"

#include <fcntl.h>
#include <stdio.h>

#include <cmath>
#include <map>
#include <vector>

#include "kernels/philox.h"
#include "llm/formats/adapter.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/training/checkpoint.h"

namespace fs = std::filesystem;
using nlohmann::json;

// ---- weights --------------------------------------------------------------------------------------------------------

void load_base_weights(Model& model, const fs::path& dir, bool head) {
  const ModelConfig base = read_model_config(dir), &shape = model.config;
  ModelConfig same = base;  // except for what may differ
  same.num_classes = shape.num_classes;
  same.tied_head = shape.tied_head;
  same.causal = shape.causal;
  if (!(same == shape)) fail("%s: the model has another shape than the one that its weights are for", dir.c_str());
  const std::unique_ptr<Weights> weights = open_weights(dir);
  std::map<std::string, const ParamTensor*> there;
  for (const ParamTensor& tensor : weights->table) {
    if (head || !of_head(tensor, base)) there[tensor.name] = &tensor;
  }
  std::vector<float> values;
  for (const ParamTensor& tensor : model.table) {
    const auto found = there.find(tensor.name);
    if (found == there.end()) continue;
    const ParamTensor& from = *found->second;
    if (from.rows != tensor.rows || from.cols != tensor.cols) continue;  // a head of other classes
    values.resize(static_cast<size_t>(from.size()));
    weights->read(from, values.data());
    model.write(Arena::params, tensor, values.data());
  }
}

void init_head(Model& model, const std::string& kind, uint64_t seed) {
  constexpr uint64_t kHeadSequence = 0x68656164;  // distinct from that of initialisation
  const float bound = 1 / std::sqrt(static_cast<float>(model.config.channels));
  uint64_t drawn = 0;
  std::vector<float> values;
  for (const ParamTensor& tensor : model.table) {
    if (!of_head(tensor, model.config)) continue;
    values.assign(static_cast<size_t>(tensor.size()), 0.0f);
    const size_t n = static_cast<size_t>(tensor.file_size());
    if (kind == "torch") {
      for (size_t i = 0; i < n; ++i) {
        values[i] = bound * (2 * philox_uniform(seed, kHeadSequence, drawn++) - 1);
      }
    } else if (tensor.role == Role::head) {
      for (size_t i = 0; i < n; i += 4) {
        float normal[4];
        philox_normal4(normal, seed, kHeadSequence, drawn++);
        for (size_t j = i; j < std::min(n, i + 4); ++j) values[j] = 0.02f * normal[j - i];
      }
    }
    model.write(Arena::params, tensor, values.data());
  }
}

// ---- a run's folder -------------------------------------------------------------------------------------------------

namespace {
const char* const kFolderAdvice = "choose another {run}, or delete the folder if nothing in it is needed";
}

fs::path finetune_folder(const FinetuneConfig& config, const std::string& name) {
  check_output_folder("{run}", config.run.empty() ? "runs" : config.run);
  if (config.run.empty()) {
    for (int k = 1;; ++k) {
      const fs::path folder = fs::path("runs") / (k == 1 ? name : strprintf("%s-%d", name.c_str(), k));
      if (!fs::exists(folder)) return folder;
    }
  }
  holds_only_a_beginning(config.run, fs::exists(fs::path(config.run) / "lock"), kFolderAdvice);
  return config.run;
}

std::unique_ptr<const RunLock> claim_finetune_folder(const fs::path& run, const Say& say) {
  auto lock = std::make_unique<const RunLock>(run, say);
  clear_beginning(run, *lock, kFolderAdvice, say);
  return lock;
}

void save_finetuned(const Model& model, const Tokenizer& tokenizer, const fs::path& base, const fs::path& run,
                    const std::function<void(const fs::path&)>& add) {
  const fs::path folder = run / "latest", unfinished = run / "latest.tmp";
  std::error_code ignored;
  fs::remove_all(unfinished, ignored);
  make_directories(unfinished);
  try {
    if (model.options.lora.rank > 0) {
      save_huggingface(MergedLora(model), &tokenizer, unfinished);
    } else {
      save_model(model, &tokenizer, unfinished);
    }
    add(unfinished);
    if (model.options.lora.rank > 0 && !base.empty()) {
      const fs::path adapter = unfinished / "adapter";
      make_directories(adapter);
      const MappedFile config(unfinished / "config.json");
      save_adapter(model, base, adapter, opens_in_transformers(parse_json(config, 64)));
      for (const fs::directory_entry& entry : fs::directory_iterator(unfinished)) {
        const bool of_merged = entry.path().filename() == "config.json" && model.config.num_classes == 0;
        if (entry.path().extension() == ".json" && !of_merged) fs::copy(entry.path(), adapter);
      }
      sync_directory(adapter);
    }
    sync_directory(unfinished);
    if (fs::exists(folder)) {
      if (::renameat2(AT_FDCWD, unfinished.c_str(), AT_FDCWD, folder.c_str(), RENAME_EXCHANGE) != 0) {
        fs::remove_all(folder);  // for a file system that cannot exchange the two
        fs::rename(unfinished, folder);
      }
    } else {
      fs::rename(unfinished, folder);
    }
  } catch (...) {
    fs::remove_all(unfinished, ignored);
    throw;
  }
  fs::remove_all(unfinished, ignored);
  sync_directory(run);
}
