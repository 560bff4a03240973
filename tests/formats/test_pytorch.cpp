// pytorch_model.bin: files written by torch, other files made here, and those that are refused: damaged zip files, and
// pickles that are more than a dictionary of tensors.
#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "llm/formats/float16.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/pytorch.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;

namespace {

const fs::path kGolden = fs::path(GOLDEN_DIR) / "checkpoint_pytorch";

// ---- a writer of such files ----

std::string fixed(uint64_t value, size_t bytes) {  // little-endian
  std::string out(reinterpret_cast<const char*>(&value), sizeof value);
  out.resize(bytes, '\0');
  return out;
}

struct Entry {
  std::string name, bytes;
  uint64_t method = 0, flags = 0;
};

std::string zip(const std::vector<Entry>& entries, bool zip64 = false, const std::string& comment = "") {
  std::string file, directory;
  for (const Entry& e : entries) {
    const uint64_t local = file.size(), size = e.bytes.size(), none = 0xFFFFFFFF;
    file += "PK\3\4" + fixed(0, 2) + fixed(e.flags, 2) + fixed(e.method, 2) + fixed(0, 8) + fixed(size, 4) +
            fixed(size, 4) + fixed(e.name.size(), 2) + fixed(4, 2) + e.name + "FB" + fixed(0, 2) + e.bytes;
    const std::string extra =
        fixed(7, 2) + fixed(1, 2) + "x" +
        (zip64 ? fixed(1, 2) + fixed(24, 2) + fixed(size, 8) + fixed(size, 8) + fixed(local, 8) : "");
    directory += "PK\1\2" + fixed(0, 4) + fixed(e.flags, 2) + fixed(e.method, 2) + fixed(0, 8) +
                 fixed(zip64 ? none : size, 4) + fixed(zip64 ? none : size, 4) + fixed(e.name.size(), 2) +
                 fixed(extra.size(), 2) + fixed(0, 10) + fixed(zip64 ? none : local, 4) + e.name + extra;
  }
  const uint64_t begin = file.size(), count = entries.size(), end64 = begin + directory.size();
  file += directory;
  if (zip64) {
    file += "PK\6\6" + fixed(44, 8) + fixed(0, 12) + fixed(count, 8) + fixed(count, 8) + fixed(directory.size(), 8) +
            fixed(begin, 8) + "PK\6\7" + fixed(0, 4) + fixed(end64, 8) + fixed(1, 4);
  }
  return file + "PK\5\6" + fixed(0, 4) + fixed(zip64 ? 0xFFFF : count, 2) + fixed(zip64 ? 0xFFFF : count, 2) +
         fixed(zip64 ? 0xFFFFFFFF : directory.size(), 4) + fixed(zip64 ? 0xFFFFFFFF : begin, 4) +
         fixed(comment.size(), 2) + comment;
}

std::string text(const std::string& s) { return std::string("X").append(fixed(s.size(), 4)) + s; }
std::string number(int64_t n) { return std::string("\x8A\x08") + fixed(static_cast<uint64_t>(n), 8); }
std::string tuple(const std::vector<int64_t>& numbers) {
  std::string out = "(";
  for (const int64_t n : numbers) out += number(n);
  return out + "t";
}
const std::string kDict = "ccollections\nOrderedDict\n)R", kRebuild = "ctorch._utils\n_rebuild_tensor_v2\n",
                  kStart = "\x80\x02", kFalse = "\x89";
std::string storage(const std::string& type, const std::string& key, int64_t elements) {
  return std::string("(").append(text("storage")) + "ctorch\n" + type + "\n" + text(key) + text("cuda:1") +
         number(elements) + "tQ";
}
std::string tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& shape,
                   const std::vector<int64_t>& strides) {
  return kRebuild + "(" + storage + number(offset) + tuple(shape) + tuple(strides) + kFalse + kDict + "tR";
}
std::string dictionary(const std::string& items) { return kStart + kDict + "(" + items + "u."; }

// A file with one storage "0" of these bytes.
std::string file_of(const std::string& pickle, const std::string& bytes = std::string(24, 'b')) {
  return zip({{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", bytes}, {"m/version", "3\n"}});
}
std::string file_of_tensor(const std::string& one, const std::string& bytes = std::string(24, 'b')) {
  return file_of(dictionary(text("w") + one), bytes);
}
const std::string kGood = tensor(storage("FloatStorage", "0", 6), 0, {2, 3}, {3, 1});

std::string error_of(const std::string& bytes) {
  const TemporaryFolder tmp;
  try {
    const PytorchFile file(tmp.write("w.bin", bytes));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string bytes_of(const TensorView& view) {
  return {reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()};
}

}  // namespace

TEST_CASE("a state_dict saved by torch is read") {
  const PytorchFile file(kGolden / "pytorch_model.bin");
  const std::vector<TensorView>& tensors = file.tensors();
  REQUIRE(tensors.size() == 17);
  CHECK(tensors[0].name == "transformer.wte.weight");
  CHECK(describe(tensors[0]) == "(7, 4) F32");
  CHECK(tensors[3].name == "transformer.h.0.ln_1.bias");
  CHECK(describe(tensors[4]) == "(4, 12) F32");
  CHECK(tensors[16].name == "lm_head.weight");
  CHECK(tensors[16].bytes.data() == tensors[0].bytes.data());
  for (size_t k = 0; k < 16; ++k) {
    std::vector<float> values(tensors[k].bytes.size() / 4);
    std::memcpy(values.data(), tensors[k].bytes.data(), tensors[k].bytes.size());
    bool right = !values.empty();
    for (size_t i = 0; i < values.size(); ++i) {
      right = right && values[i] == static_cast<float>(k) + static_cast<float>(i) / 256;
    }
    CHECK_MESSAGE(right, tensors[k].name);
  }
}

TEST_CASE("a model directory with pytorch_model.bin, or with shards of it, is read") {
  const auto weights = open_huggingface(kGolden);
  std::vector<float> values(static_cast<size_t>(weights->table[0].size()));
  weights->read(weights->table[0], values.data());
  CHECK(values[27] == 27.0f / 256);

  const TemporaryFolder tmp;
  fs::copy_file(kGolden / "config.json", tmp.path / "config.json");
  const auto error = [&] {
    try {
      open_huggingface(tmp.path);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  CHECK(error().find("no weights in it, expected model.safetensors or") != std::string::npos);
  fs::copy_file(kGolden / "pytorch_model.bin", tmp.path / "a.bin");
  std::string index = R"({"weight_map": {)";
  const PytorchFile golden(kGolden / "pytorch_model.bin");
  for (const TensorView& tensor : golden.tensors()) {
    index += strprintf("%s\"%s\": \"a.bin\"", index.ends_with("{") ? "" : ", ", tensor.name.c_str());
  }
  tmp.write("pytorch_model.bin.index.json", index + "}}");
  CHECK(error() == "no error");
  tmp.write("pytorch_model.bin.index.json", index + R"(, "x": "a.bin"}})");
  CHECK(error().find("pytorch_model.bin.index.json: weight_map says that tensor \"x\" is in \"a.bin\"") !=
        std::string::npos);
  tmp.write("pytorch_model.bin.index.json", index + R"(, "x": "b.bin"}})");
  CHECK(error().find("names \"b.bin\" for \"x\", but there is no such file") != std::string::npos);
}

TEST_CASE("the adapter_model.bin of an adapter is read") {
  const TemporaryFolder tmp;
  const std::string module = "base_model.model.transformer.h.0.mlp.c_fc.lora_";
  std::vector<float> numbers(20, 0.5f);  // of A (1, 4) and B (16, 1)
  numbers[3] = 2;
  const std::string bytes(reinterpret_cast<const char*>(numbers.data()), 80), all = storage("FloatStorage", "0", 20);
  tmp.write("adapter_config.json", R"({"peft_type": "LORA", "r": 1, "lora_alpha": 3, "target_modules": ["c_fc"],
                                       "base_model_name_or_path": ")" +
                                       kGolden.string() + R"("})");
  tmp.write("adapter_model.bin", file_of(dictionary(text(module + "A.weight") + tensor(all, 0, {1, 4}, {4, 1}) +
                                                    text(module + "B.weight") + tensor(all, 4, {16, 1}, {1, 1})),
                                         bytes));
  const auto weights = open_weights(tmp.path), base = open_weights(kGolden);
  for (const ParamTensor& tensor : weights->table) {
    std::vector<float> found(static_cast<size_t>(tensor.size())), expected(found.size());
    weights->read(tensor, found.data());
    base->read(tensor, expected.data());
    for (size_t i = 0; tensor.name == "block.0.fcw" && i < expected.size(); ++i) {
      expected[i] += 3 * 0.5f * (i % 4 == 3 ? 2 : 0.5f);
    }
    CHECK_MESSAGE(found == expected, tensor.name);
  }
}

TEST_CASE("types, places in a storage, Zip64 and comments") {
  std::string bytes;
  for (int i = 0; i < 24; ++i) bytes += static_cast<char>('a' + i);
  struct Case {
    std::string tensor, shown, bytes;
  };
  for (const Case& c : std::vector<Case>{
           {kGood, "(2, 3) F32", bytes},
           {tensor(storage("FloatStorage", "0", 6), 2, {1, 3}, {77, 1}), "(1, 3) F32", bytes.substr(8, 12)},
           {tensor(storage("FloatStorage", "0", 6), 6, {0, 5}, {9, 9}), "(0, 5) F32", ""},
           {tensor(storage("FloatStorage", "0", 6), 5, {}, {}), "() F32", bytes.substr(20)},
           {tensor(storage("HalfStorage", "0", 12), 4, {4, 2}, {2, 1}), "(4, 2) F16", bytes.substr(8)},
           {tensor(storage("BFloat16Storage", "0", 12), 0, {12}, {1}), "(12) BF16", bytes},
           {tensor(storage("DoubleStorage", "0", 3), 1, {2}, {1}), "(2) F64", bytes.substr(8)},
           {tensor(storage("LongStorage", "0", 3), 0, {3}, {1}), "(3) I64", bytes},
           {tensor(storage("ByteStorage", "0", 24), 1, {2, 3}, {3, 1}), "(2, 3) U8", bytes.substr(1, 6)},
           {tensor(storage("BoolStorage", "0", 24), 0, {24}, {1}), "(24) BOOL", bytes}}) {
    CAPTURE(c.shown);
    const TemporaryFolder tmp;
    const PytorchFile file(tmp.write("w.bin", file_of_tensor(c.tensor, bytes)));
    REQUIRE(file.tensors().size() == 1);
    CHECK(file.tensors()[0].name == "w");
    CHECK(describe(file.tensors()[0]) == c.shown);
    CHECK(bytes_of(file.tensors()[0]) == c.bytes);
  }
  const std::vector<Entry> entries = {{"m/data.pkl", dictionary(text("w") + kGood)}, {"m/data/0", bytes}};
  for (const std::string& file :
       {zip(entries, true), zip(entries, false, "a comment PK\5\6"), zip(entries, true, "PK")}) {
    const TemporaryFolder tmp;
    CHECK(bytes_of(PytorchFile(tmp.write("w.bin", file)).tensors()[0]) == bytes);
  }
}

TEST_CASE("pickles with what torch.save() writes around tensors are read") {
  const std::string w = text("w") + kGood;
  for (const std::string& pickle : {
           kStart + "}.",             // an empty dict
           kStart + "}(" + w + "u.",  // a dict
           kStart + kDict + "q\5" + text("w") + "r" + fixed(300, 4) + kGood + "s" + ".",
           kStart + kDict + "(" + w + "u}" + text("_metadata") + kDict + text("h.0") + "}" + text("version") +
               "K\1sssb.",
       }) {
    CHECK(error_of(file_of(pickle)) == "no error");
  }
}

TEST_CASE("other pickles are refused") {
  struct Case {
    std::string pickle, message;
  };
  const std::string not_so = "is not as torch.save() writes it", w = text("w"),
                    half = kRebuild + "(" + storage("FloatStorage", "0", 6) + number(0), no_hooks = kFalse + kDict;
  for (const Case& c : std::vector<Case>{
           {kStart + "cos\nsystem\n(" + text("id") + "tR.",
            "it calls \"os.system\", expected a dictionary of tensors: "
            "reading it would run code, which wrought never does"},
           {kStart + "cposix\nsystem\n.", "\"posix.system\""},
           {kStart + "cbuiltins\neval\n.", "\"builtins.eval\""},
           {kStart + "ctorch\nload\n.", "\"torch.load\""},
           {kStart + "ctorch._utils\n_rebuild_parameter\n.", "\"torch._utils._rebuild_parameter\""},
           {kStart + "ctorch\nComplexFloatStorage\n.", "\"torch.ComplexFloatStorage\""},
           {kStart + "ccollections\nOrderedDict", "it ends too early"},
           {kStart + "i" + "os\nsystem\n.", "instruction 0x69 at byte 2"},
           {kStart + "o.", "instruction 0x6F"},
           {kStart + "\x81.", "instruction 0x81"},
           {kStart + "\x93.", "instruction 0x93"},
           {kStart + "].", "instruction 0x5D"},
           {kStart + "G" + fixed(0, 8) + ".", "instruction 0x47"},
           {kStart + "P1\n.", "instruction 0x50"},
           {std::string("\x80\x04."), "protocol 4, expected 2"},
           {"", "it ends too early"},
           {kStart, "it ends too early"},
           {kStart + ".", "it holds nothing, expected a dictionary of tensors"},
           {kStart + "K\1.", "it holds a number, expected a dictionary"},
           {kStart + kGood + ".", "it holds a tensor, expected a dictionary"},
           {kStart + "}}.", "expected a dictionary"},
           {kStart + "}..", "continues after its end"},
           {dictionary(w + "}"), "\"w\" is a dictionary, expected a tensor"},
           {dictionary(w + "N"), "\"w\" is None, expected a tensor"},
           {dictionary(w + "K\3"), "\"w\" is a number"},
           {dictionary("K\1" + kGood), "a key is a number"},
           {dictionary(w + kGood + w + kGood), "tensor \"w\" is there twice"},
           {dictionary(w), not_so},  // a key without a value
           {kStart + "(u.", not_so},
           {kStart + "}u.", not_so},
           {kStart + "t.", not_so},
           {kStart + "\x87.", not_so},
           {kStart + "N(u.", not_so},
           {kStart + "}s.", not_so},
           {kStart + "R.", not_so},
           {kStart + ")R.", not_so},
           {kStart + "K\1)R.", not_so},
           {kStart + "ccollections\nOrderedDict\n(K\1tR.", not_so},
           {kStart + "b.", not_so},
           {kStart + "}K\1b.", not_so},
           {kStart + "}b.", not_so},
           {kStart + "q\1.", not_so},
           {kStart + "(q\1.", not_so},
           {kStart + "h\1.", not_so},
           {kStart + "Q.", not_so},
           {kStart + ")Q.", not_so},
           {kStart + "}\x8A\x09" + std::string(9, '\1') + ".", not_so},
           {kStart + "X" + fixed(1000, 4) + "abc.", "it ends too early"},
           {kStart + "X" + fixed(0xFFFFFFFF, 4) + "abc.", "it ends too early"},
           {dictionary(w + half + tuple({2, 3}) + tuple({3, 1}) + "tR"), not_so},  // arguments are missing
           {dictionary(w + half + tuple({2, 3}) + tuple({3, 1}) + no_hooks + "NtR"), not_so},
           {dictionary(w + half + tuple({2, -3}) + tuple({3, 1}) + no_hooks + "tR"), not_so},
           {dictionary(w + half + tuple({2, 3}) + tuple({3, -1}) + no_hooks + "tR"), not_so},
           {dictionary(w + half + "K\1" + tuple({3, 1}) + no_hooks + "tR"), not_so},
           {dictionary(w + half + tuple({2, 3}) + tuple({3, 1}) + kFalse + "}" + text("h") + "Ns" + "tR"), not_so},
           {dictionary(w + half + tuple({2, 3}) + tuple({3}) + no_hooks + "tR"), "2 dimensions and 1 strides"},
           {dictionary(w + half + tuple(std::vector<int64_t>(65, 1)) + tuple({3}) + no_hooks + "tR"),
            "a tensor of 65 dimensions, expected at most 64"},
           {dictionary(w + tensor(storage("FloatStorage", "0", -6), 0, {6}, {1})), not_so},
           {dictionary(w + tensor(storage("FloatStorage", "0", 6), -1, {6}, {1})), not_so},
       }) {
    CAPTURE(c.pickle);
    const std::string error = error_of(file_of(c.pickle));
    CHECK_MESSAGE(error.find(c.message) != std::string::npos, error);
  }
}

TEST_CASE("tensors that do not fit their storage are refused") {
  struct Case {
    std::string tensor, message;
  };
  const int64_t big = int64_t{1} << 62, most = INT64_MAX;
  const std::string floats = storage("FloatStorage", "0", 6), not_inside = "is not inside its storage of 6";
  for (const Case& c : std::vector<Case>{
           {tensor(floats, 0, {3, 2}, {1, 3}), "(3, 2) F32 is not contiguous in its storage"},
           {tensor(floats, 0, {2, 3}, {0, 1}), "is not contiguous"},
           {tensor(floats, 0, {2}, {2}), "is not contiguous"},
           {tensor(floats, 0, {7}, {1}), "(7) F32 from element 0 on " + not_inside},
           {tensor(floats, 1, {2, 3}, {3, 1}), "(2, 3) F32 from element 1 on " + not_inside},
           {tensor(floats, 7, {0}, {1}), not_inside},
           {tensor(floats, most, {1}, {1}), not_inside},
           {tensor(floats, most / 4, {4}, {1}), not_inside},
           {tensor(floats, 0, {big}, {1}), not_inside},
           {tensor(floats, 0, {big, big}, {big, 1}), "is too large"},
           {tensor(storage("FloatStorage", "1", 6), 0, {6}, {1}), "is in the entry \"m/data/1\", which is missing"},
           {tensor(storage("FloatStorage", "../0", 6), 0, {6}, {1}),
            "is in the entry \"m/data/../0\", which is missing"},
           {tensor(storage("FloatStorage", "0", 5), 0, {5}, {1}), "its storage has 24 bytes, expected 5 elements of 4"},
           {tensor(storage("FloatStorage", "0", big), 0, {5}, {1}), "its storage has 24 bytes, expected"},
           {tensor(storage("HalfStorage", "0", 6), 0, {6}, {1}), "its storage has 24 bytes, expected 6 elements of 2"},
       }) {
    const std::string error = error_of(file_of_tensor(c.tensor));
    CHECK_MESSAGE(error.find(c.message) != std::string::npos, error);
  }
}

TEST_CASE("zip files that are damaged or not written by torch are refused") {
  const std::string pickle = dictionary(text("w") + kGood), data(24, 'b'),
                    no_zip = "not a zip file as torch.save() writes it: ";
  const std::vector<Entry> good = {{"m/data.pkl", pickle}, {"m/data/0", data}};
  // `file` with `bytes` written `ahead` bytes after the last occurrence of `where`.
  const auto patched = [&](std::string file, const std::string& where, size_t ahead, const std::string& bytes) {
    const size_t at = file.rfind(where);
    REQUIRE(at != std::string::npos);
    return file.replace(at + ahead, bytes.size(), bytes);
  };
  const std::string plain = zip(good), large = zip(good, true);
  REQUIRE(error_of(plain) == "no error");
  struct Case {
    std::string file, message;
  };
  for (const Case& c : std::vector<Case>{
           {"", no_zip + "it ends too early"},
           {std::string(100, 'x'), no_zip + "there is no directory at its end"},
           {zip({}), "no entry FOLDER/data.pkl"},
           {zip({{"data.pkl", pickle}}), "no entry FOLDER/data.pkl"},
           {zip({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}), "two entries FOLDER/data.pkl"},
           {zip({good[0], good[1], good[1]}), "entry \"m/data/0\" is there twice"},
           {zip({{"m/data.pkl", pickle, 8}, good[1]}),
            "entry \"m/data.pkl\" is compressed, expected it uncompressed"},
           {zip({good[0], {"m/data/0", data, 8}}), "entry \"m/data/0\" is compressed"},
           {zip({good[0], {"m/data/0", data, 0, 1}}), "entry \"m/data/0\" is encrypted"},
           {zip({good[0], good[1], {"m/byteorder", "big"}}), "byteorder is \"big\", expected \"little\""},
           {std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15),
            "written by PyTorch before 1.6"},
           {plain + "x", "there is no directory at its end"},
           {patched(plain, "PK\5\6", 4, fixed(1, 2)), "it is one of several parts"},
           {patched(plain, "PK\5\6", 10, fixed(1, 2)), "the directory has more entries than it says"},
           {patched(plain, "PK\5\6", 10, fixed(3, 2)), "the directory is cut off"},
           {patched(plain, "PK\5\6", 12, fixed(7, 4)), "the directory"},
           {patched(plain, "PK\5\6", 16, fixed(0xFFFFFFFF, 4)), "the directory is not inside it"},
           {patched(plain, "PK\5\6", 16, fixed(0, 4)), "the directory has something other than entries"},
           {patched(plain, "PK\1\2", 20, fixed(23, 4)), "is compressed"},
           {patched(patched(plain, "PK\1\2", 20, fixed(9999, 4)), "PK\1\2", 24, fixed(9999, 4)), "is not inside it"},
           {patched(plain, "PK\1\2", 42, fixed(3, 4)), "entry \"m/data/0\" is not where the directory says"},
           {patched(plain, "PK\1\2", 42, fixed(0, 4)), "entry \"m/data/0\" has another name where it begins"},
           {patched(plain, "PK\1\2", 42, fixed(0xFFFFFFF0, 4)), "it ends too early"},
           {patched(plain, "PK\1\2", 28, fixed(0xFFFF, 2)), "an entry is not inside it"},
           {patched(plain, "PK\3\4", 26, fixed(7, 2)), "has another name"},
           {patched(plain, "PK\3\4", 28, fixed(0xFFFF, 2)), "is not inside it"},
           {patched(large, "PK\6\7", 8, fixed(0, 8)), "the end of the Zip64 directory is not where it should be"},
           {patched(large, "PK\6\7", 8, fixed(UINT64_MAX, 8)), "it ends too early"},
           {patched(large, "PK\6\6", 32, fixed(UINT64_MAX, 8)), "the directory is cut off"},
           {patched(large, "PK\6\6", 40, fixed(UINT64_MAX, 8)), "the directory is not inside it"},
           {patched(large, "PK\6\6", 48, fixed(UINT64_MAX, 8)), "the directory is not inside it"},
           {patched(large, fixed(1, 2) + fixed(24, 2), 2, fixed(16, 2)), "an entry's Zip64 sizes are cut off"},
           {patched(large, fixed(1, 2) + fixed(24, 2), 2, fixed(99, 2)), "an entry's Zip64 sizes are cut off"},
           {patched(large, fixed(1, 2) + fixed(24, 2), 4, fixed(UINT64_MAX, 8)), "is compressed"},
           {patched(large, fixed(1, 2) + fixed(24, 2), 20, fixed(UINT64_MAX, 8)), "it ends too early"},
       }) {
    const std::string error = error_of(c.file);
    CHECK_MESSAGE(error.find(c.message) != std::string::npos, error);
  }

  // Two entries, one inside the other.
  std::string inner = zip({{"m/data/1", "abcd"}});
  const size_t inner_local = inner.rfind("PK\1\2");
  inner.resize(inner_local);  // its local header and bytes
  const std::string outer = zip({good[0], {"m/data/0", inner}});
  const size_t at = outer.find(inner);
  std::string overlapping = zip({good[0], {"m/data/0", inner}, {"m/data/1", "abcd"}});
  overlapping = patched(overlapping, "PK\1\2", 42, fixed(at, 4));
  CHECK(error_of(overlapping).find("entries \"m/data/0\" and \"m/data/1\" overlap") != std::string::npos);
}

TEST_CASE("a file cut off anywhere is an error, and one changed anywhere is read or refused") {
  const std::string golden = read(kGolden / "pytorch_model.bin");
  const TemporaryFolder tmp;
  const fs::path path = tmp.write("w.bin", golden);
  size_t refused = 0;
  const auto opens = [&] {
    try {
      const PytorchFile file(path);
      uint64_t sum = 0;
      for (const TensorView& tensor : file.tensors()) {
        for (const std::byte b : tensor.bytes) sum += static_cast<uint64_t>(b);
      }
      return sum < UINT64_MAX;
    } catch (const Error&) {
      return false;
    }
  };
  CHECK(opens());
  std::mt19937 random(1);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  for (size_t i = 0; i < golden.size(); ++i) {
    for (const char value : {static_cast<char>(golden[i] ^ (1 << random() % 8)), '\xFF'}) {
      file.seekp(static_cast<std::streamoff>(i)).put(value).flush();
      refused += opens() ? 0 : 1;
    }
    file.seekp(static_cast<std::streamoff>(i)).put(golden[i]).flush();
  }
  CHECK(refused > 1000);
  CHECK(opens());
  for (size_t size = golden.size(); size-- > 0;) {
    fs::resize_file(path, size);
    if (opens()) FAIL("cut off at byte ", size);
  }
}
