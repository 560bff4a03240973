#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "llm/formats/crc32c.h"
#include "llm/formats/float16.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/tensorflow.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;

namespace {

const fs::path kGolden = GOLDEN_DIR;
const ModelConfig kTiny{4, 7, 2, 1, 3};

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// ---- a writer of such checkpoints ----

std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}
std::string fixed(uint64_t value, size_t bytes) { return {reinterpret_cast<const char*>(&value), bytes}; }
std::string number(int field, uint64_t value) { return varint(static_cast<uint64_t>(field) << 3) + varint(value); }
std::string message(int field, const std::string& bytes) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}

// Sorted entries; each key holds what follows its common prefix with the previous key, except at every `restart`-th.
std::string block(const std::vector<std::pair<std::string, std::string>>& entries, size_t restart) {
  std::string out, restarts, last;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [key, value] = entries[i];
    size_t shared = 0;
    if (i % restart == 0) {
      restarts += fixed(out.size(), 4);
    } else {
      while (shared < std::min(last.size(), key.size()) && last[shared] == key[shared]) ++shared;
    }
    out += varint(shared) + varint(key.size() - shared) + varint(value.size()) + key.substr(shared) + value;
    last = key;
  }
  return out + restarts + fixed(restarts.size() / 4, 4);
}

struct Table {
  std::map<std::string, std::string> entries;
  size_t per_block = 5, restart = 3;
  char compression = 0;
  uint64_t magic = 0xdb4775248b80fb57;
  uint32_t checksum_error = 0;  // added to the checksum of the blocks

  std::string str() const {
    std::string out;
    const auto add = [&](const std::string& contents) {  // a block; its handle
      const std::string handle = varint(out.size()) + varint(contents.size()), all = contents + compression;
      out += all + fixed(mask_crc32c(crc32c(bytes_of(all))) + checksum_error, 4);
      return handle;
    };
    std::vector<std::pair<std::string, std::string>> index, some;
    for (const auto& entry : entries) {
      some.push_back(entry);
      if (some.size() < per_block && entry.first != entries.rbegin()->first) continue;
      index.emplace_back(entry.first, add(block(some, restart)));
      some.clear();
    }
    std::string footer = add(block({}, 1));
    footer += add(block(index, 1));
    footer.resize(40);
    return out + footer + fixed(magic, 8);
  }
};

struct Entry {
  uint64_t dtype = 1;
  std::vector<int64_t> shape;
  int64_t shard = 0, offset = 0, size = 0;
  uint32_t checksum = 0;  // not masked
  std::string more;

  std::string str() const {
    std::string dimensions;
    for (const int64_t n : shape) dimensions += message(2, n ? number(1, static_cast<uint64_t>(n)) : "");
    std::string out = number(1, dtype) + message(2, dimensions);
    if (shard) out += number(3, static_cast<uint64_t>(shard));  // zeros are left out, as protocol buffers do
    if (offset) out += number(4, static_cast<uint64_t>(offset));
    if (size) out += number(5, static_cast<uint64_t>(size));
    return out + varint(6 << 3 | 5) + fixed(mask_crc32c(checksum), 4) + more;
  }
};

struct Checkpoint {
  std::map<std::string, Entry> tensors;
  std::vector<std::string> shards;
  std::string header;
  Table table;
  std::string hparams = R"({"n_vocab": 7, "n_ctx": 4, "n_embd": 3, "n_head": 1, "n_layer": 2})";
  std::string checkpoint = "model_checkpoint_path: \"model.ckpt\"\nall_model_checkpoint_paths: \"model.ckpt\"\n";

  // The tensors of a model, spread over the data files.
  explicit Checkpoint(const Model& model, int num_shards = 1, uint64_t dtype = 1)
      : shards(static_cast<size_t>(num_shards)) {
    header = number(1, static_cast<uint64_t>(num_shards)) + message(3, number(1, 1));
    size_t next = 0;
    for (const ParamTensor& tensor : model.table) {
      const std::vector<float> values = read_tensor(model, Arena::params, tensor);
      std::string& shard = shards[next];
      Entry entry{dtype, file_shape(tensor), static_cast<int64_t>(next), static_cast<int64_t>(shard.size()), 0, 0, ""};
      if (tensor.transposed) entry.shape.insert(entry.shape.begin(), 1);
      for (int64_t i = 0; i < tensor.file_size(); ++i) {
        const int64_t at = tensor.transposed ? i % tensor.rows * tensor.cols + i / tensor.rows : i;
        const float value = values[static_cast<size_t>(at)];
        const uint16_t bits = dtype == 19 ? f16_from_float(value) : bf16_from_float(value);
        shard += dtype == 1 ? fixed(std::bit_cast<uint32_t>(value), 4) : fixed(bits, 2);
      }
      entry.size = static_cast<int64_t>(shard.size()) - entry.offset;
      entry.checksum = crc32c(bytes_of(shard).subspan(static_cast<size_t>(entry.offset)));
      tensors[tensorflow_name(tensor)] = entry;
      next = (next + 1) % shards.size();
    }
  }

  void write(const fs::path& dir) const {
    Table whole = table;
    if (!header.empty()) whole.entries.insert({"", header});
    for (const auto& [name, entry] : tensors) whole.entries.insert({name, entry.str()});
    write_text(dir / "model.ckpt.index", whole.str());
    for (size_t k = 0; k < shards.size(); ++k) {
      write_text(dir / strprintf("model.ckpt.data-%05zu-of-%05zu", k, shards.size()), shards[k]);
    }
    write_text(dir / "hparams.json", hparams);
    write_text(dir / "checkpoint", checkpoint);
  }
};

void check_refused(const Checkpoint& checkpoint, const char* file, const char* reason) {
  const Folder folder;
  checkpoint.write(folder.path);
  CHECK_THROWS_WITH_AS(open_tensorflow(folder.path), Contains(reason), Error);
  CHECK_THROWS_WITH_AS(open_tensorflow(folder.path), Contains((folder.path / file).c_str()), Error);
}

}  // namespace

TEST_CASE("the checkpoint written by TensorFlow is the model written by transformers") {
  const auto expected = make_cpu_model(read_model_config(kGolden / "checkpoint_gpt2"), true);
  load_weights(*expected, kGolden / "checkpoint_gpt2");
  const fs::path dir = kGolden / "checkpoint_tensorflow";
  CHECK(read_hparams(dir) == expected->config);
  const auto model = make_cpu_model(read_model_config(dir), true);
  load_weights(*model, dir);
  CHECK(same(*model, *expected, {Arena::params}));
}

TEST_CASE("names as in OpenAI's checkpoints are read") {
  std::map<std::string, std::string> names;
  for (const ParamTensor& tensor : param_table(kTiny)) names[tensor.name] = tensorflow_name(tensor);
  CHECK(names["wte"] == "model/wte");
  CHECK(names["wpe"] == "model/wpe");
  CHECK(names["block.1.ln1w"] == "model/h1/ln_1/g");
  CHECK(names["block.0.ln2b"] == "model/h0/ln_2/b");
  CHECK(names["block.1.qkvw"] == "model/h1/attn/c_attn/w");
  CHECK(names["block.1.attprojb"] == "model/h1/attn/c_proj/b");
  CHECK(names["block.0.fcw"] == "model/h0/mlp/c_fc/w");
  CHECK(names["block.0.fcprojw"] == "model/h0/mlp/c_proj/w");
  CHECK(names["lnfw"] == "model/ln_f/g");
  CHECK(names["lnfb"] == "model/ln_f/b");
}

TEST_CASE("several data files, blocks of any size, every type of float") {
  const auto model = random_model(kTiny, 1), loaded = make_cpu_model(kTiny, true);
  const Folder folder;
  for (const int shards : {1, 3, 40}) {
    for (const size_t per_block : {1, 4, 1000}) {
      Checkpoint checkpoint(*model, shards);
      checkpoint.table.per_block = per_block;
      checkpoint.write(folder.path);
      init_weights(*loaded, 2);
      load_weights(*loaded, folder.path);
      CHECK(same(*model, *loaded, {Arena::params}));
    }
  }
  for (const uint64_t dtype : {14, 19}) {
    Checkpoint(*model, 2, dtype).write(folder.path);
    load_weights(*loaded, folder.path);
    for (const ParamTensor& tensor : model->table) {
      std::vector<float> wanted = read_tensor(*model, Arena::params, tensor);
      for (float& x : wanted) {
        x = dtype == 14 ? float_from_bf16(bf16_from_float(x)) : float_from_f16(f16_from_float(x));
      }
      CHECK_MESSAGE(read_tensor(*loaded, Arena::params, tensor) == wanted, tensor.name);
    }
  }
}

TEST_CASE("bytes that do not fit their checksum are refused by name, in the index and in tensors") {
  const auto model = random_model(kTiny, 1), target = random_model(kTiny, 2);
  const Folder folder;
  Checkpoint checkpoint(*model, 2);
  const Entry& entry = checkpoint.tensors["model/h1/mlp/c_fc/b"];
  checkpoint.shards[static_cast<size_t>(entry.shard)][static_cast<size_t>(entry.offset) + 5] ^= 16;
  checkpoint.write(folder.path);
  check_weights(kTiny, folder.path);  // headers only
  const std::string file = strprintf("model.ckpt.data-%05d-of-00002", static_cast<int>(entry.shard));
  CHECK_THROWS_WITH_AS(load_weights(*target, folder.path),
                       Contains((file + ": tensor \"model/h1/mlp/c_fc/b\" has checksum").c_str()), Error);

  Checkpoint(*model).write(folder.path);
  const std::string index = contents(folder.path / "model.ckpt.index");
  for (size_t i = 0; i < index.size() - 48; ++i) {  // every byte of every block
    std::string damaged = index;
    damaged[i] ^= 32;
    write_text(folder.path / "model.ckpt.index", damaged);
    CHECK_THROWS_WITH_AS(open_tensorflow(folder.path), Contains("the file is damaged"), Error);
  }
}

TEST_CASE("missing, cut off and wrong kinds of files are refused with the reason") {
  const Checkpoint good(*random_model(kTiny, 1), 2);
  const char *const index = "model.ckpt.index", *const name = "model/h1/attn/c_attn/w";
  const auto with = [&](auto change) {
    Checkpoint other = good;
    change(other);
    return other;
  };
  const auto with_entry = [&](auto change) { return with([&](Checkpoint& c) { change(c.tensors[name]); }); };
  check_refused(with([&](Checkpoint& c) { c.tensors.erase(name); }), index,
                "tensor \"model/h1/attn/c_attn/w\" is missing, expected (1, 3, 9) F32");
  check_refused(with([&](Checkpoint& c) { c.tensors["model/h2/ln_1/b"] = c.tensors["model/h1/ln_1/b"]; }), index,
                "\"model/h2/ln_1/b\" is not part of a GPT-2 of 2 layers");
  check_refused(with_entry([](Entry& e) { e.dtype = 2; }), index,
                "is (1, 3, 9) F64, expected (1, 3, 9) F32, F16 or BF16");
  check_refused(with_entry([](Entry& e) { e.dtype = 77; }), index, "is (1, 3, 9) type 77, expected");
  check_refused(with_entry([](Entry& e) {
                  e.shape = {3, 9};
                }),
                index, "\"model/h1/attn/c_attn/w\" is (3, 9) F32, expected (1, 3, 9)");
  check_refused(with_entry([](Entry& e) { e.shape[1] = 0; }), index, "is (1, 0, 9) F32, expected");
  check_refused(with_entry([](Entry& e) { e.shape[1] = -1; }), index,
                "\"model/h1/attn/c_attn/w\": field 1 is negative");
  check_refused(with_entry([](Entry& e) { e.size -= 4; }), index, "104 bytes, expected 108 for (1, 3, 9) F32");
  check_refused(with_entry([](Entry& e) { e.shard = 2; }), index, "in data file 2, expected one below 2");
  check_refused(with_entry([](Entry& e) { e.offset = 1 << 20; }), "model.ckpt.data-0000",
                "takes 108 bytes from 1048576");
  check_refused(with_entry([](Entry& e) { e.offset = INT64_MAX; }), "model.ckpt.data-0000", "it is cut off");
  check_refused(with_entry([](Entry& e) { e.offset = -1; }), index, "field 4 is negative");
  check_refused(with_entry([](Entry& e) { e.more = message(7, ""); }), index, "saved in slices");
  check_refused(with_entry([](Entry& e) { e.more = message(1, ""); }), index, "field 1 has wire type 2, expected 0");
  check_refused(with_entry([](Entry& e) { e.more = varint(9 << 3 | 3); }), index, "wire type 3, expected 0, 1, 2 or 5");
  check_refused(with_entry([](Entry& e) { e.more = varint(9 << 3 | 2) + varint(1 << 30); }), index,
                "a field takes 1073741824 bytes, but 0 are left");
  check_refused(with_entry([](Entry& e) { e.more = varint(9 << 3) + std::string(10, '\xff'); }), index,
                "more than 64 bits");
  check_refused(with_entry([](Entry& e) { e.more = message(2, number(3, 1)); }), index, "unknown rank");
  check_refused(with([](Checkpoint& c) { c.header.clear(); }), index, "the header is missing");
  check_refused(with([](Checkpoint& c) { c.header = number(1, 0); }), index, "0 data files, expected 1 to 99999");
  check_refused(with([](Checkpoint& c) { c.header += number(2, 1); }), index, "big-endian");
  check_refused(with([](Checkpoint& c) { c.shards[1].pop_back(); }), "model.ckpt.data-00001-of-00002", "it is cut off");
  check_refused(with([](Checkpoint& c) { c.header = number(1, 3) + c.header.substr(2); }), "model.ckpt.data-0000",
                "of-00003: cannot be read");
  check_refused(with([](Checkpoint& c) { c.table.magic ^= 1; }), index,
                "it ends in db4775248b80fb56, expected the magic number db4775248b80fb57");
  check_refused(with([](Checkpoint& c) { c.table.compression = 1; }), index, "compressed (type 1), expected type 0");
  check_refused(with([](Checkpoint& c) { c.table.checksum_error = 1; }), index, "has checksum");

  for (const char* field : {"n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"}) {
    check_refused(with([&](Checkpoint& c) { c.hparams.replace(c.hparams.find(field), 3, "no_"); }), "hparams.json",
                  (std::string(field) + " is null, expected a whole number").c_str());
  }
  check_refused(with([](Checkpoint& c) { c.hparams = R"({"n_vocab": -7})"; }), "hparams.json", "n_ctx is null");
  check_refused(with([](Checkpoint& c) { c.hparams = "["; }), "hparams.json", "not JSON");
  check_refused(with([](Checkpoint& c) { c.hparams.replace(c.hparams.find("1,"), 1, "2"); }), "hparams.json",
                "2 heads do not divide 3 channels");
  for (const char* path : {"../model.ckpt", "/model.ckpt", ""}) {
    check_refused(with([&](Checkpoint& c) { c.checkpoint = strprintf("model_checkpoint_path: \"%s\"\n", path); }),
                  "checkpoint", "expected the name of files in the same folder");
  }
  for (const char* text : {"", "model_checkpoint_path: \"", "model_checkpoint_path: model.ckpt", "x\ny\n"}) {
    check_refused(with([&](Checkpoint& c) { c.checkpoint = text; }), "checkpoint", "expected a line such as");
  }
  check_refused(with([](Checkpoint& c) { c.checkpoint = "model_checkpoint_path: \"other\""; }), "other.index",
                "cannot be read");
}

TEST_CASE("an index that is cut off or mutated either opens or throws Error") {
  const Folder folder;
  Checkpoint(*random_model(kTiny, 1)).write(folder.path);
  const fs::path path = folder.path / "model.ckpt.index";
  const std::string index = contents(path);
  for (size_t n = 0; n < index.size(); n += n < 100 ? 1 : 37) {
    write_text(path, index.substr(0, n));
    CHECK_THROWS_AS(open_tensorflow(folder.path), Error);
    write_text(path, index.substr(n + 1));
    CHECK_THROWS_AS(open_tensorflow(folder.path), Error);
  }
  // Damage with a valid checksum: the contents of the entries must be checked, too.
  const Checkpoint good(*random_model(kTiny, 1));
  std::mt19937 random(42);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    Table table = good.table;
    table.entries[""] = good.header;
    for (const auto& [name, entry] : good.tensors) table.entries[name] = entry.str();
    auto entry = table.entries.begin();
    std::advance(entry, random() % table.entries.size());
    for (unsigned n = random() % 3; n < 3; ++n) {
      entry->second[random() % entry->second.size()] = static_cast<char>(random());
    }
    write_text(path, table.str());
    try {
      open_tensorflow(folder.path);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 500);
  CHECK(refused < 1000);  // some change only the checksum of bytes that are not read here
}

TEST_CASE("a value that is not finite is named") {
  const auto model = random_model(kTiny, 3);
  for (const ParamTensor& tensor : model->table) {
    if (tensor.name != "block.1.fcw") continue;
    std::vector<float> values = read_tensor(*model, Arena::params, tensor);
    values[34] = std::nanf("");
    model->write(Arena::params, tensor, values.data());
  }
  for (const uint64_t dtype : {1, 14, 19}) {
    const Folder folder;
    Checkpoint(*model, 1, dtype).write(folder.path);
    const auto loaded = random_model(kTiny, 4);
    CHECK_THROWS_WITH_AS(
        load_weights(*loaded, folder.path),
        Contains("model.ckpt.data-00000-of-00001: tensor \"model/h1/mlp/c_fc/w\": value [1, 11] is NaN"), Error);
  }
}
