#include "llm/training/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "llm/formats/open_weights.h"
#include "llm/formats/safetensors.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const char* const kOptimizerFile = "optimizer.safetensors";

// ---- the moments ---------------------------------------------------------------------------------------------------

bool has(Arena arena, const ParamTensor& tensor) { return tensor.offset_in(arena) >= 0; }

// Whether the model that is saved is the average of the weights.
bool saves_average(const Model& model) { return model.options.ema > 0 && model.updates() > 0; }

// Calls visit(arena, tensor, its name in the file) for all that the optimizer keeps. If the average of the weights is
// saved as the model, the file has the weights, which training continues from, in its place.
template <class Visit>
void for_each_moment(const std::vector<ParamTensor>& table, Visit&& visit) {
  for (const auto& [arena, prefix] :
       {std::pair(Arena::m, "m."), std::pair(Arena::v, "v."), std::pair(Arena::average, "weights.")}) {
    for (const ParamTensor& tensor : table) {
      if (has(arena, tensor)) visit(arena, tensor, prefix + tensor.hf_name);
    }
  }
}

void save_moments(const Model& model, const fs::path& path, const Group* group) {
  std::vector<TensorHeader> headers;
  for_each_moment(model.table, [&](Arena, const ParamTensor& tensor, const std::string& name) {
    headers.push_back({name, "F32", file_shape(tensor)});
  });
  SafetensorsWriter file(path, headers, {{"format", "pt"}}, group);
  std::vector<float> values;
  for_each_moment(model.table, [&](Arena arena, const ParamTensor& tensor, const std::string& name) {
    if (arena == Arena::average && saves_average(model)) arena = Arena::params;
    const float* from = model.view(arena, tensor);  // without a copy where that is possible
    if (!from) {
      values.resize(static_cast<size_t>(tensor.size()));
      model.read(arena, tensor, values.data());
      from = values.data();
    }
    write_tensor(file, name, tensor, from, Dtype::f32);
  });
  file.commit();
}

const TensorView& find_moment(const SafetensorsFile& moments, const ParamTensor& tensor, const std::string& name) {
  const TensorView* found = moments.find(name);
  if (!found) {
    fail("%s: tensor \"%s\" is missing, expected %s", moments.path().c_str(), name.c_str(),
         describe(TensorHeader{name, "F32", file_shape(tensor)}).c_str());
  }
  check_view(*found, file_shape(tensor), moments.path().string());
  return *found;
}

// Throws Error if the moments are those of the other optimizer: Muon keeps no v of the blocks' matrices. A file that
// has v for only some of them is of neither optimizer, and refused later.
void check_optimizer(const std::vector<ParamTensor>& table, const SafetensorsFile& moments) {
  bool muon = false, has_v = false, lacks_v = false;
  for (const ParamTensor& tensor : table) {
    if (tensor.role != Role::weight) continue;
    muon = tensor.muon;
    (moments.find("v." + tensor.hf_name) ? has_v : lacks_v) = true;
  }
  if (has_v == lacks_v || has_v != muon) return;
  fail(
      "%s: the state of {optimizer} %s, expected that of %s; continue with the run's own, or start a new run from the "
      "weights with {model}",
      moments.path().c_str(), has_v ? "adamw" : "muon", muon ? "muon" : "adamw");
}

// ---- folders -------------------------------------------------------------------------------------------------------

std::string state_checksum(json state) {
  state.erase("checksum");
  const std::string text = state.dump(-1, ' ', false, json::error_handler_t::replace);
  return strprintf("%016llx", static_cast<unsigned long long>(hash64(text.data(), text.size(), 0)));
}

// Throws Error if the state is of a newer version, or not as it was written.
void check_state(const json& state, const fs::path& path) {
  const auto version = state.find("version"), checksum = state.find("checksum");
  if (version == state.end() && checksum == state.end()) return;  // version 1
  if (version != state.end() && version->is_number_integer() && *version > kStateVersion) {
    fail("%s: version %s, expected at most %d: it was written by a newer wrought, which can resume it", path.c_str(),
         shown(*version).c_str(), kStateVersion);
  }
  const std::string found = state_checksum(state);
  if (version == state.end() || checksum == state.end() || *checksum != found) {
    fail("%s: damaged, or changed by hand: its checksum is %s, expected %s; resume from another checkpoint",
         path.c_str(), found.c_str(), checksum == state.end() ? "none" : shown(*checksum).c_str());
  }
}

// Whether a finished checkpoint is one that the run of this state has written.
bool is_of_run(const fs::path& checkpoint, const json& state) {
  const json none = "", step = step_of(checkpoint);  // version 1 has no run_id
  const auto id = [&](const json& j) { return j.contains("run_id") ? j["run_id"] : none; };
  try {
    const json other = read_json_object(checkpoint / kStateFile);
    return id(other) == id(state) && (!other.contains("step") || other["step"] == step);
  } catch (const Error&) {  // not written by wrought, or damaged
    return false;
  }
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) fail("%s: cannot be removed: %s", folder.c_str(), error.message().c_str());
}

// A folder under a temporary name, removed with everything in it.
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

// Puts a finished folder in its place. One that is there already is exchanged with it in one step, if the file system
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

}  // namespace

fs::path save_checkpoint(const fs::path& run, int64_t step, const Model& model, const Tokenizer* tokenizer,
                         const json& state, int keep, const Group* group) {
  if (step < 0 || !state.is_object())
    throw std::logic_error("save_checkpoint: a negative step, or a state that is not an object");
  const auto on_root = [&](const auto& body) {
    if (group) {
      group->on_root(body);
    } else {
      body();
    }
  };
  const fs::path all = run / "checkpoints", folder = all / checkpoint_name(step);
  std::optional<UnfinishedFolder> unfinished;
  const fs::path temporary = folder.string() + kUnfinished;
  on_root([&] {
    make_directories(all);
    for (const fs::directory_entry& entry : std::vector(fs::directory_iterator(all), fs::directory_iterator())) {
      if (is_unfinished_checkpoint(entry.path().filename().string())) remove_folder(entry.path());
    }
    unfinished.emplace(temporary);
  });
  save_model(model, tokenizer, temporary, group, saves_average(model) ? Arena::average : Arena::params);
  save_moments(model, temporary / kOptimizerFile, group);
  on_root([&] {
    json complete = state;  // as it is written
    complete["checksums"] = json::object();
    for (const fs::directory_entry& entry : fs::directory_iterator(temporary)) {
      complete["checksums"][entry.path().filename().string()] = file_checksum(entry.path());
    }
    complete["version"] = kStateVersion;
    complete["checksum"] = state_checksum(complete);
    write_json(temporary / kStateFile, complete);
    sync_directory(temporary);
    publish(temporary, folder);
    unfinished.reset();
    sync_directory(all);
    point_at(run, "latest", folder);
    if (keep == 0) return;
    int kept = 1;  // the new one
    std::error_code none;
    const fs::path best = fs::read_symlink(run / "best", none);
    for (const fs::path& other : finished_checkpoints(run)) {
      if (step_of(other) >= step || !is_of_run(other, complete)) continue;
      if (++kept <= keep || other.filename() == best.filename()) continue;
      const fs::path doomed = other.string() + kUnfinished;  // half removed, it must not look like a checkpoint
      rename_or_fail(other, doomed);
      remove_folder(doomed);
    }
  });
  return folder;
}

void repair_links(const fs::path& run, const Say& say) {
  struct Repair {
    const char* name;
    fs::path target;
  };
  std::vector<Repair> repairs;        // none begins before all are known to be possible
  std::map<fs::path, json> expected;  // the states that will be at the targets
  for (const char* name : {"latest", "best"}) {
    const fs::path link = run / name;
    if (!fs::is_directory(fs::symlink_status(link))) continue;
    if (!fs::exists(link / kStateFile)) {
      fail("%s: expected a link to a checkpoint, found a folder without a training state; move it away", link.c_str());
    }
    const json state = read_training_state(link);
    if (!state.contains("step") || !state["step"].is_number_unsigned()) {
      fail("%s: expected \"step\" to be a whole number from 0", (link / kStateFile).c_str());
    }
    const fs::path target = run / "checkpoints" / checkpoint_name(state["step"].get<int64_t>());
    if (fs::exists(target) && !expected.contains(target)) {
      try {
        expected[target] = read_training_state(target);
      } catch (const Error& error) {
        fail("%s; %s is a folder, and a whole checkpoint of that step: move the damaged one away", error.what(),
             link.c_str());
      }
    }
    if (expected.try_emplace(target, state).first->second != state) {
      fail("%s: expected a link, found a folder that holds another checkpoint than %s, of the same step; move one away",
           link.c_str(), target.c_str());
    }
    repairs.push_back({name, target});
  }
  for (const auto& [name, target] : repairs) {
    const fs::path link = run / name, doomed = target.string() + kUnfinished;  // which the next save removes, too
    const std::string place = target.lexically_relative(run).string();
    const bool is_copy = fs::exists(target);
    if (is_copy) remove_folder(doomed);
    make_directories(target.parent_path());
    rename_or_fail(link, is_copy ? doomed : target);
    point_at(run, name, target);
    if (is_copy) remove_folder(doomed);
    say(is_copy ? strprintf("%s was a folder, a copy of %s: it is a link to that again", name, place.c_str())
                : strprintf("%s was a folder: that is %s now, and %s a link to it", name, place.c_str(), name));
  }
}

json read_training_state(const fs::path& dir) {
  const fs::path path = dir / kStateFile;
  const json state = read_json_object(path);
  check_state(state, path);
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

void load_checkpoint(Model& model, const fs::path& dir, int64_t updates) {
  const SafetensorsFile moments(dir / kOptimizerFile);
  check_optimizer(model.table, moments);
  size_t expected = 0;
  for_each_moment(model.table, [&](Arena, const ParamTensor& tensor, const std::string& name) {
    find_moment(moments, tensor, name);
    ++expected;
  });
  if (moments.tensors().size() != expected) {
    fail("%s: %zu tensors, expected %zu", moments.path().c_str(), moments.tensors().size(), expected);
  }
  load_weights(model, dir);
  model.set_updates(updates);
  std::vector<float> values;
  for_each_moment(model.table, [&](Arena arena, const ParamTensor& tensor, const std::string& name) {
    const TensorView& view = find_moment(moments, tensor, name);
    values.resize(static_cast<size_t>(tensor.size()));
    if (arena == Arena::average && saves_average(model)) {  // the file's model is the average
      model.read(Arena::params, tensor, values.data());
      model.write(arena, tensor, values.data());
      arena = Arena::params;
    }
    from_file(values.data(), view.bytes, *find_dtype(view.dtype), tensor);
    model.write(arena, tensor, values.data());
  });
}
