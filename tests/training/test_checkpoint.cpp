#include <doctest/doctest.h>
#include <sys/resource.h>

#include <cctype>
#include <cmath>
#include <csignal>
#include <set>

#include "kernels/rounding.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/training/checkpoint.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;
using nlohmann::json;

namespace {

const ModelConfig kTiny{4, 7, 2, 1, 3};

void train_step(Model& model, int64_t step) {
  const int32_t inputs[] = {1, 2, 3}, targets[] = {2, 3, 4};
  const float weights[] = {1, 1, 1};
  model.zero_grad();
  model.forward(inputs, 1, 3, Pass::train);
  model.backward(targets, weights);
  model.set_updates(step - 1);
  model.update(OptimizerConfig{}, 0);
}

}  // namespace

TEST_CASE("a checkpoint restores parameters, moments and state, and training continues bit for bit") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  for (int64_t step = 1; step <= 3; ++step) train_step(*model, step);
  const fs::path saved = save_checkpoint(folder.path, 3, *model, nullptr, {{"step", 3}, {"note", "\u00e9\xff"}}, 0);
  CHECK(saved == folder.path / "checkpoints" / "step_000003");
  CHECK(fs::read_symlink(folder.path / "latest") == "checkpoints/step_000003");
  CHECK(latest_checkpoint(folder.path) == saved);
  CHECK(latest_checkpoint(saved) == saved);

  const json state = read_training_state(latest_checkpoint(folder.path));
  CHECK(state["step"] == 3);
  CHECK(state["note"] == "\u00e9\ufffd");
  CHECK(state["checksums"].size() == 3);
  const auto resumed = make_cpu_model(read_model_config(saved), true);
  load_checkpoint(*resumed, saved, 3);
  CHECK(same(*model, *resumed, {Arena::params, Arena::m, Arena::v}));
  CHECK(read_tensor(*model, Arena::m, model->table[0])[5] != 0);
  train_step(*model, 4);
  train_step(*resumed, 4);
  CHECK(same(*model, *resumed, {Arena::params, Arena::m, Arena::v}));

  fs::rename(folder.path, folder.path.string() + "_moved");  // the link is relative
  CHECK(fs::equivalent(latest_checkpoint(folder.path.string() + "_moved"),
                       folder.path.string() + "_moved/checkpoints/step_000003"));
  fs::remove_all(folder.path.string() + "_moved");
}

TEST_CASE("moments in bf16 survive a checkpoint exactly; float ones continue as bf16 after one rounding, and back") {
  const Folder folder;
  const auto make = [](Moments moments) { return make_cpu_model(kTiny, true, {.moments = moments, .seed = 5}); };
  const auto model = make(Moments::bf16);
  init_weights(*model, 1);
  for (int64_t step = 1; step <= 3; ++step) train_step(*model, step);
  const fs::path saved = save_checkpoint(folder.path, 3, *model, nullptr, {{"step", 3}}, 0);
  const auto resumed = make(Moments::bf16), as_float = make(Moments::f32), back = make(Moments::bf16);
  load_checkpoint(*resumed, saved, 3);
  load_checkpoint(*as_float, saved, 3);
  CHECK(same(*model, *resumed, {Arena::params, Arena::m, Arena::v}));
  CHECK(same(*model, *as_float, {Arena::params, Arena::m, Arena::v}));
  train_step(*model, 4);
  train_step(*resumed, 4);
  train_step(*as_float, 4);
  CHECK(same(*model, *resumed, {Arena::params, Arena::m, Arena::v}));
  CHECK(same(*model, *as_float, {Arena::params}));  // updated from the moments before they are rounded
  CHECK_FALSE(same(*model, *as_float, {Arena::m}));
  load_checkpoint(*back, save_checkpoint(folder.path, 4, *as_float, nullptr, {{"step", 4}}, 0), 4);
  for (const ParamTensor& tensor : back->table) {
    const std::vector<float> rounded = read_tensor(*back, Arena::m, tensor),
                             exact = read_tensor(*as_float, Arena::m, tensor);
    for (size_t i = 0; i < exact.size(); ++i) CHECK(rounded[i] == cpu::round_to_nearest(exact[i]));
  }
}

TEST_CASE("a checkpoint with an average of the weights has it as its model; training continues from the weights") {
  const Folder folder;
  const ModelOptions options = {.ema = 0.9};
  const auto model = make_cpu_model(kTiny, true, options), resumed = make_cpu_model(kTiny, true, options);
  init_weights(*model, 1);
  for (int64_t step = 1; step <= 3; ++step) train_step(*model, step);
  const fs::path saved = save_checkpoint(folder.path, 3, *model, nullptr, {{"step", 3}}, 0);
  const auto plain = make_cpu_model(read_model_config(saved), true);
  load_weights(*plain, saved);
  CHECK_FALSE(same(*model, *plain, {Arena::params}));
  model->exchange_average();
  CHECK(same(*model, *plain, {Arena::params}));
  model->exchange_average();

  load_checkpoint(*resumed, saved, 3);
  for (int64_t step = 4; step <= 5; ++step) {
    CHECK(same(*model, *resumed, {Arena::params, Arena::m, Arena::v, Arena::average}));
    train_step(*model, step);
    train_step(*resumed, step);
  }
  CHECK_THROWS_WITH_AS(load_checkpoint(*plain, saved, 3), Contains("tensors, expected"), Error);
}

TEST_CASE("the newest checkpoints are kept, the one just written always") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  const auto there = [&] {
    std::string names;
    for (int step : {1, 2, 3, 4, 2'000'000}) {
      if (fs::exists(folder.path / "checkpoints" / strprintf("step_%06d", step))) names += std::to_string(step) + " ";
    }
    return names;
  };
  for (int step : {1, 2, 3, 2'000'000}) save_checkpoint(folder.path, step, *model, nullptr, json::object(), 3);
  CHECK(there() == "2 3 2000000 ");
  fs::create_directories(folder.path / "checkpoints" / "step_mine");  // not made by wrought: stays
  save_checkpoint(folder.path, 1, *model, nullptr, json::object(), 2);
  CHECK(there() == "1 2 3 2000000 ");  // later steps stay
  CHECK(latest_checkpoint(folder.path).filename() == "step_000001");
  CHECK(fs::exists(folder.path / "checkpoints" / "step_mine"));
  save_checkpoint(folder.path, 4, *model, nullptr, json::object(), 0);
  CHECK(there() == "1 2 3 4 2000000 ");
  save_checkpoint(folder.path, 5, *model, nullptr, json::object(), 2);
  CHECK(there() == "4 2000000 ");
}

TEST_CASE("the best checkpoint stays until another becomes the best") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  const auto save = [&](int step) { return save_checkpoint(folder.path, step, *model, nullptr, json::object(), 2); };
  const fs::path first = save(1);
  mark_best(folder.path, first);
  for (int step : {2, 3, 4}) save(step);
  CHECK(fs::read_symlink(folder.path / "best") == "checkpoints/step_000001");
  CHECK(fs::exists(folder.path / "best" / "model.safetensors"));
  CHECK(!fs::exists(folder.path / "checkpoints/step_000002"));
  mark_best(folder.path, latest_checkpoint(folder.path));
  save(5);
  CHECK(fs::read_symlink(folder.path / "best") == "checkpoints/step_000004");
  CHECK(!fs::exists(first));
}

TEST_CASE("a checkpoint of the same step is replaced; the remains of a killed run are removed, never taken for one") {
  const Folder folder;
  const fs::path all = folder.path / "checkpoints";
  fs::create_directories(all / "step_000007.tmp");
  write_text(all / "step_000007.tmp" / "trainer_state.json", "{");
  fs::create_symlink("nowhere", folder.path / "latest.tmp");
  CHECK_THROWS_WITH_AS(latest_checkpoint(folder.path), Contains("found no checkpoint"), Error);

  const auto first = random_model(kTiny, 1), second = random_model(kTiny, 2), loaded = make_cpu_model(kTiny, true);
  save_checkpoint(folder.path, 5, *first, nullptr, json::object(), 0);
  CHECK_FALSE(fs::exists(all / "step_000007.tmp"));
  save_checkpoint(folder.path, 5, *second, nullptr, json::object(), 0);
  CHECK(std::distance(fs::directory_iterator(all), fs::directory_iterator()) == 1);
  CHECK_FALSE(fs::is_symlink(folder.path / "latest.tmp"));
  read_training_state(latest_checkpoint(folder.path));
  load_checkpoint(*loaded, latest_checkpoint(folder.path), 3);
  CHECK(same(*second, *loaded, {Arena::params}));
}

TEST_CASE("a full disk leaves the last good checkpoint, and nothing half-written") {
  const Folder folder;
  const auto model = random_model(ModelConfig{16, 300, 2, 2, 32}, 1), later = random_model(model->config, 2);
  const fs::path good = save_checkpoint(folder.path, 1, *model, nullptr, json::object(), 1);
  // With a limit on the size of files, a write fails as on a full disk, with EFBIG.
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const uint64_t weights = fs::file_size(good / "model.safetensors");
  for (const uint64_t limit : {uint64_t{0}, uint64_t{10}, weights / 2, weights, weights + weights / 2}) {
    const rlimit small{limit, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    std::string message;
    try {
      save_checkpoint(folder.path, 2, *later, nullptr, json::object(), 1);
    } catch (const Error& error) {
      message = error.what();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    CAPTURE(limit);
    CHECK(message.find("cannot be written: File too large") != std::string::npos);
    CHECK(std::distance(fs::directory_iterator(folder.path / "checkpoints"), fs::directory_iterator()) == 1);
    CHECK(latest_checkpoint(folder.path) == good);
    read_training_state(good);
    const auto loaded = make_cpu_model(model->config, true);
    load_checkpoint(*loaded, good, 3);
    CHECK(same(*model, *loaded, {Arena::params}));
  }
  std::signal(SIGXFSZ, old_handler);
  save_checkpoint(folder.path, 2, *later, nullptr, json::object(), 1);
  CHECK(latest_checkpoint(folder.path).filename() == "step_000002");
}

TEST_CASE("a folder that cannot be written is an error, and its contents stay") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  CHECK_THROWS_AS(save_checkpoint("/dev/null/run", 1, *model, nullptr, json::object(), 0), Error);
  write_text(folder.path / "file", "x");
  CHECK_THROWS_AS(save_checkpoint(folder.path / "file", 1, *model, nullptr, json::object(), 0), Error);
  fs::create_directories(folder.path / "latest" / "mine");  // a folder where the link should be
  CHECK_THROWS_WITH_AS(save_checkpoint(folder.path, 1, *model, nullptr, json::object(), 0),
                       Contains("cannot be replaced by a link"), Error);
  CHECK(fs::exists(folder.path / "latest" / "mine"));
  if (geteuid() == 0) {
    MESSAGE("skipped: root may write into any folder");
    return;
  }
  fs::create_directories(folder.path / "run");
  fs::permissions(folder.path / "run", fs::perms::owner_read | fs::perms::owner_exec);
  CHECK_THROWS_WITH_AS(save_checkpoint(folder.path / "run", 1, *model, nullptr, json::object(), 0),
                       Contains("Permission denied"), Error);
  fs::permissions(folder.path / "run", fs::perms::owner_all);
}

TEST_CASE("a damaged training state is refused by name") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  const fs::path good = save_checkpoint(folder.path, 1, *model, nullptr, {{"step", 1}}, 0);
  for (const char* name : {"optimizer.safetensors", "model.safetensors", "config.json"}) {
    const std::string original = contents(good / name);
    std::string damaged = original;
    damaged[damaged.size() / 2] ^= 4;
    write_text(good / name, damaged);
    CHECK_THROWS_WITH_AS(read_training_state(good), Contains((std::string(name) + ": damaged").c_str()), Error);
    write_text(good / name, original.substr(0, original.size() - 1));
    CHECK_THROWS_WITH_AS(read_training_state(good), Contains((std::string(name) + ": damaged").c_str()), Error);
    fs::remove(good / name);
    CHECK_THROWS_WITH_AS(read_training_state(good), Contains(name), Error);
    write_text(good / name, original);
    read_training_state(good);
  }
  const fs::path path = good / "trainer_state.json";
  json state = read_json(path);
  state.erase("version");  // as version 1: without a checksum of the whole, each part must be right by itself
  state.erase("checksum");
  json other = state;
  other["checksums"]["../secret"] = "0";
  write_text(path, other.dump());
  CHECK_THROWS_WITH_AS(read_training_state(good), Contains("\"../secret\" is not that of a file in this folder"),
                       Error);
  other = state;
  other["checksums"].erase("optimizer.safetensors");
  write_text(path, other.dump());
  CHECK_THROWS_WITH_AS(read_training_state(good), Contains("no checksum of optimizer.safetensors"), Error);
  for (const char* text : {"", "{}", "[1]", "{\"checksums\": 3}", "{\"step\": "}) {
    write_text(path, text);
    CHECK_THROWS_WITH_AS(read_training_state(good), Contains(path.c_str()), Error);
  }

  const auto target = random_model(kTiny, 2), untouched = random_model(kTiny, 2);
  rewrite(good / "optimizer.safetensors", good / "optimizer.safetensors", [](FileTensor& tensor) {
    if (tensor.name == "v.h.1.ln_2.bias") tensor.name = "v.h.9.ln_2.bias";
  });
  CHECK_THROWS_WITH_AS(load_checkpoint(*target, good, 3), Contains("tensor \"v.h.1.ln_2.bias\" is missing"), Error);
  CHECK(same(*untouched, *target, {Arena::params, Arena::m, Arena::v}));
}

TEST_CASE("Muon's state: momentum for every tensor, v for what AdamW updates; that of the other optimizer is refused") {
  const Folder folder;
  const auto muon_model = [] { return make_cpu_model(kTiny, true, {.optimizer = Optimizer::muon}); };
  const auto model = muon_model();
  init_weights(*model, 1);
  train_step(*model, 1);
  const fs::path saved = save_checkpoint(folder.path, 1, *model, nullptr, {{"step", 1}}, 0);
  std::set<std::string> names;
  const SafetensorsFile file(saved / "optimizer.safetensors");
  for (const TensorView& tensor : file.tensors()) names.insert(tensor.name);
  CHECK(names.size() == 2 * model->table.size() - 4 * 2);
  for (const char* matrix : {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}) {
    CHECK(names.contains(strprintf("m.h.1.%s.weight", matrix)));
    CHECK_FALSE(names.contains(strprintf("v.h.1.%s.weight", matrix)));
    CHECK(names.contains(strprintf("v.h.1.%s.bias", matrix)));
  }
  CHECK(names.contains("v.wte.weight"));

  const auto loaded = muon_model();
  load_checkpoint(*loaded, saved, 3);
  CHECK(same(*model, *loaded, {Arena::params, Arena::m, Arena::v}));
  train_step(*model, 2);
  train_step(*loaded, 2);
  CHECK(same(*model, *loaded, {Arena::params, Arena::m, Arena::v}));

  const auto adamw = random_model(kTiny, 2), untouched = random_model(kTiny, 2);
  CHECK_THROWS_WITH_AS(load_checkpoint(*adamw, saved, 3),
                       Contains("the state of {optimizer} muon, expected that of adamw; continue with the run's own"),
                       Error);
  CHECK(same(*untouched, *adamw, {Arena::params, Arena::m, Arena::v}));
  const fs::path other = save_checkpoint(folder.path / "adamw", 1, *adamw, nullptr, {{"step", 1}}, 0);
  CHECK_THROWS_WITH_AS(load_checkpoint(*loaded, other, 3),
                       Contains("the state of {optimizer} adamw, expected that of muon"), Error);
  CHECK(same(*model, *loaded, {Arena::params, Arena::m, Arena::v}));
  // The state of neither: v is missing for one matrix.
  rewrite(other / "optimizer.safetensors", other / "optimizer.safetensors", [](FileTensor& tensor) {
    if (tensor.name.starts_with("v.h.") && tensor.name.ends_with("c_fc.weight")) tensor.name.clear();
  });
  CHECK_THROWS_WITH_AS(load_checkpoint(*adamw, other, 3), Contains("\"v.h.0.mlp.c_fc.weight\" is missing"), Error);
  CHECK_THROWS_WITH_AS(load_checkpoint(*loaded, other, 3), Contains("54 tensors, expected 48"), Error);
}

TEST_CASE("a state has a version and its own checksum; every change is detected; version 1 has neither") {
  const Folder folder;
  const auto model = random_model(kTiny, 1);
  const json values = {{"step", 1},     {"real", 0.1}, {"tiny", 1e-300},       {"large", uint64_t{1} << 63},
                       {"minus", -0.0}, {"none", NAN}, {"text", "\u00e9\xff"}, {"list", {1, 2.5, nullptr, true}}};
  const fs::path good = save_checkpoint(folder.path, 1, *model, nullptr, values, 0), path = good / "trainer_state.json";
  const std::string written = contents(path);
  const json state = read_training_state(good);
  CHECK(state["version"] == kStateVersion);
  CHECK(state["checksum"].get<std::string>().size() == 16);
  for (size_t i = 0; i < written.size(); ++i) {  // change each digit and letter
    if (std::isalnum(static_cast<unsigned char>(written[i])) == 0) continue;
    std::string changed = written;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    write_text(path, changed);
    bool same = false;
    try {
      same = read_training_state(good) == state;  // equal, such as after a change beyond a number's precision
    } catch (const Error&) {
      same = true;
    }
    if (!same) FAIL_CHECK("not detected: " << changed.substr(i - std::min<size_t>(i, 20), 40));
  }
  write_text(path, state.dump());  // the layout of the text does not matter
  CHECK(read_training_state(good) == state);

  const auto refused = [&](const char* why, auto change) {
    json other = state;
    change(other);
    write_text(path, other.dump());
    CHECK_THROWS_WITH_AS(read_training_state(good), Contains(why), Error);
  };
  refused("damaged, or changed by hand: its checksum is", [](json& j) { j["step"] = 2; });
  refused("damaged, or changed by hand: its checksum is", [](json& j) { j["more"] = 2; });
  refused("expected none; resume from another checkpoint", [](json& j) { j.erase("checksum"); });
  refused("damaged, or changed by hand", [](json& j) { j.erase("version"); });
  refused("damaged, or changed by hand", [](json& j) { j["checksum"] = 3; });
  refused("version 3, expected at most 2: it was written by a newer wrought", [](json& j) { j["version"] = 3; });
  json first = state;
  first.erase("checksum");
  first.erase("version");
  write_text(path, first.dump());
  CHECK(read_training_state(good) == first);
}

TEST_CASE("only the run's own checkpoints of earlier steps are removed") {
  const Folder folder;
  const fs::path all = folder.path / "checkpoints";
  const auto model = random_model(kTiny, 1);
  const auto save = [&](int step, const char* id, int keep) {
    save_checkpoint(folder.path, step, *model, nullptr, {{"step", step}, {"run_id", id}}, keep);
  };
  save(1, "other", 0);
  save(9, "own", 0);
  for (const int step : {2, 3}) save(step, "own", 0);
  fs::copy(all / "step_000002", all / "step_000004");  // its state has another step
  fs::create_directory(all / "step_000005");
  write_text(all / "step_000005" / "trainer_state.json", "mine");
  fs::create_directory(all / "step_000006");
  fs::create_directory(all / "step_mine.tmp");
  fs::create_directory(all / "step_000007.tmp");
  save(8, "own", 1);
  for (const char* stays : {"1", "4", "5", "6", "8", "9"}) CHECK(fs::exists(all / (std::string("step_00000") + stays)));
  CHECK(fs::exists(all / "step_mine.tmp"));
  for (const char* gone : {"2", "3", "7.tmp"}) CHECK_FALSE(fs::exists(all / (std::string("step_00000") + gone)));
}

TEST_CASE("a link that became a folder becomes a link again, and nothing is lost") {
  const Folder folder;
  const fs::path run = folder.path / "run", all = run / "checkpoints";
  const auto model = random_model(kTiny, 1);
  const auto save = [&](int step) { return save_checkpoint(run, step, *model, nullptr, {{"step", step}}, 0); };
  std::string said;
  const auto repair = [&] {
    said.clear();
    repair_links(run, [&](const std::string& line) { said += line + "\n"; });
  };
  const auto copied = [&](const fs::path& from, const char* name) {
    fs::remove_all(run / name);
    fs::copy(from, run / name);
  };
  mark_best(run, save(1));
  save(2);
  repair();
  CHECK(said.empty());  // still links
  copied(all / "step_000002", "latest");
  copied(all / "step_000001", "best");
  repair();
  CHECK(said ==
        "latest was a folder, a copy of checkpoints/step_000002: it is a link to that again\n"
        "best was a folder, a copy of checkpoints/step_000001: it is a link to that again\n");
  CHECK(fs::read_symlink(run / "latest") == "checkpoints/step_000002");
  CHECK(fs::read_symlink(run / "best") == "checkpoints/step_000001");
  CHECK(std::distance(fs::directory_iterator(all), fs::directory_iterator()) == 2);

  copied(all / "step_000002", "latest");
  copied(all / "step_000002", "best");
  fs::remove_all(all / "step_000002");
  repair();
  CHECK(said ==
        "latest was a folder: that is checkpoints/step_000002 now, and latest a link to it\n"
        "best was a folder, a copy of checkpoints/step_000002: it is a link to that again\n");
  read_training_state(latest_checkpoint(run));

  const auto refused = [&](const char* why) {
    CHECK_THROWS_WITH_AS(repair(), Contains(why), Error);
    CHECK(fs::is_directory(fs::symlink_status(run / "latest")));
    CHECK(fs::exists(all / "step_000002"));
  };
  copied(all / "step_000002", "latest");
  const std::string state = contents(run / "latest" / "trainer_state.json");
  fs::remove(run / "latest" / "trainer_state.json");
  refused("expected a link to a checkpoint, found a folder without a training state");
  write_text(run / "latest" / "trainer_state.json", state);
  const std::string weights = contents(run / "latest" / "model.safetensors");
  write_text(run / "latest" / "model.safetensors", weights + "x");
  refused("latest/model.safetensors: damaged");
  write_text(run / "latest" / "model.safetensors", weights);
  write_text(all / "step_000002" / "model.safetensors", weights + "x");
  refused("move the damaged one away");
  save_checkpoint(folder.path / "other", 2, *model, nullptr, {{"step", 2}, {"seed", 7}}, 0);
  copied(folder.path / "other/checkpoints/step_000002", "latest");
  write_text(all / "step_000002" / "model.safetensors", weights);
  refused("holds another checkpoint than");
  fs::remove_all(all / "step_000002");
  repair();
  CHECK(read_training_state(latest_checkpoint(run))["seed"] == 7);
}

TEST_CASE("a run that ended before its first checkpoint: the error says what to do") {
  const Folder folder;
  write_text(folder.path / "metrics.jsonl", "");
  CHECK_THROWS_WITH_AS(latest_checkpoint(folder.path), Contains("start it again, without {resume}"), Error);
}
