#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/shards.h"
#include "llm/training/run.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

json all_flags(const TrainConfig& config) {
  json j;
  for_each_flag(config, [&](const Flag& flag, const auto& field) { j[flag.name] = field; });
  return j;
}

// Throws Error if a rank's values differ from those of rank 0.
void compare(const Group& group, const json& own) {
  const std::vector<std::string> all = group.all_gather(own.dump(-1, ' ', false, json::error_handler_t::replace));
  const json expected = json::parse(all[0]);
  for (int r = 1; r < group.size(); ++r) {
    const json found = json::parse(all[static_cast<size_t>(r)]);
    for (const auto& [what, value] : expected.items()) {
      if (found.contains(what) && found[what] == value) continue;
      const std::string message = strprintf(
          "%s has another %s than rank 0: %s, expected %s; start all ranks with the same program, flags and data",
          group.name(r).c_str(), what.c_str(), found.contains(what) ? found[what].dump().c_str() : "none",
          value.dump().c_str());
      group.on_root([&] { throw UsageError(message); });
    }
  }
}

// A tokenizer as the text of its file, through a temporary file.
struct TemporaryFile {
  std::string path = "/tmp/wrought-tokenizer-XXXXXX.json";
  TemporaryFile() {
    const int fd = ::mkstemps(path.data(), 5);
    if (fd < 0) fail("%s: a temporary file cannot be made", path.c_str());
    ::close(fd);
  }
  ~TemporaryFile() { ::unlink(path.c_str()); }
};

std::string text_of(const Tokenizer& tokenizer) {
  const TemporaryFile file;
  tokenizer.save(file.path);
  return std::string(MappedFile(file.path).text());
}

Tokenizer tokenizer_of(const std::string& text) {
  const TemporaryFile file;
  FileWriter writer(file.path);
  writer.write(text);
  writer.commit();
  return Tokenizer::load(file.path);
}

TokenSequence open_there(const std::string& path, const Group& group) {
  try {
    return TokenSequence::open(path);
  } catch (const Error& error) {
    fail(
        "%s on this machine (rank %d): every process reads the data itself; keep the run's folder on a file system "
        "that all "
        "machines share, or name shards that each of them has with {data}",
        error.what(), group.rank());
  }
}

}  // namespace

Run set_up_run(TrainConfig config, const std::vector<std::string>& given, const Say& say,
               const CheckDevice& check_device, const Group& group) {
  if (group.size() == 1) return set_up_run(std::move(config), given, say, check_device);
  config.ranks = group.size();
  json own = all_flags(config);
  own["program"] = file_checksum("/proc/self/exe");
  compare(group, own);
  Run run;
  const bool was_there = !config.run.empty() && fs::exists(config.run);
  group.on_root([&] { run = set_up_run(config, given, say, check_device); });
  try {
    // What rank 0 has settled.
    json told;
    const TrainConfig& c = run.config;
    if (group.rank() == 0) {
      told = {{"config", to_json(c)},
              {"folder", run.folder},
              {"weights", run.weights_from},
              {"resume", run.resume_from},
              {"step", run.step},
              {"updates", run.updates},
              {"epoch", run.position.epoch},
              {"batch", run.position.batch},
              {"data", run.data_checksum},
              {"validation", run.val_checksum},
              {"micro_batches", run.micro_batches},
              {"best_step", run.stopping.best_step},
              {"validations_since", run.stopping.since},
              {"best_loss", run.stopping.best_step < 0 ? json() : json(run.stopping.best_loss)},
              {"floor", run.floor ? json(*run.floor) : json()},
              {"tokenizer", run.tokenizer ? json(text_of(*run.tokenizer)) : json()},
              {"validates", run.val.size() > 0}};
      for_each_field(run.shape, [&](const char* name, const auto& value) { told["shape"][name] = value; });
    }
    told = json::parse(group.broadcast(told.dump()));
    group.together([&] {
      if (group.rank() == 0) return;
      run.config = config;
      for (const auto& [name, value] : told["config"].items()) set_flag(run.config, name, value);
      for_each_field(run.shape, [&](const char* name, auto& value) { told["shape"].at(name).get_to(value); });
      run.folder = told["folder"].get<std::string>();
      run.weights_from = told["weights"].get<std::string>();
      run.resume_from = told["resume"].get<std::string>();
      run.step = told["step"];
      run.updates = told["updates"];
      run.position = {told["epoch"], told["batch"]};
      run.data_checksum = told["data"];
      run.val_checksum = told["validation"];
      run.micro_batches = told["micro_batches"];
      run.stopping.best_step = told["best_step"];
      run.stopping.since = told["validations_since"];
      if (!told["best_loss"].is_null()) run.stopping.best_loss = told["best_loss"];
      if (!told["floor"].is_null()) run.floor = told["floor"].get<double>();
      if (!told["tokenizer"].is_null()) run.tokenizer = tokenizer_of(told["tokenizer"]);
      const std::string& data = run.config.data;
      const bool shards = names_shards(data);
      run.train = open_there(shards ? data : (run.folder / "data" / "train.bin").string(), group);
      if (told["validates"]) {
        run.val = open_there(shards ? run.config.val_data : (run.folder / "data" / "val.bin").string(), group);
      }
      check_device(run);
    });
    group.together([&] { check_ids(run, group.rank(), group.size()); });
    compare(group, {{"training data (a checksum)", run.train.checksum()},
                    {"validation data (a checksum)", run.val.checksum()}});
  } catch (...) {
    if (group.rank() == 0 && !run.config.resume) {  // no file is left
      std::error_code ignored;
      fs::remove_all(run.folder / "data", ignored);
      run.lock.reset();
      if (!was_there) fs::remove(run.folder, ignored);
    }
    throw;
  }
  run.group = &group;
  return run;
}
