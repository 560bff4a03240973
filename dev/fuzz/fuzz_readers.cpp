// Damaged files for every reader: each must be read or refused with an Error, within 2 s and bounded memory.
//   fuzz_readers [INPUTS_PER_READER [SEED]]
// Inputs follow only from the seed. The first line printed names a folder with the reader's name and the file being
// read, to examine after a crash. Meant for -fsanitize=address,undefined (docs/testing.md).
#include <malloc.h>
#include <signal.h>
#include <sys/time.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <map>
#include <new>
#include <random>

#include "llm/corpora/rows.h"
#include "llm/finetune/instructions.h"
#include "llm/finetune/labelled_files.h"
#include "llm/finetune/preferences.h"
#include "llm/formats/adapter.h"
#include "llm/formats/gguf.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/safetensors.h"
#include "llm/formats/tensorflow.h"
#include "llm/inference/classifier.h"
#include "llm/inference/tasks.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/text/chat_template.h"
#include "llm/text/corpus.h"
#include "llm/text/shards.h"
#include "llm/text/tokenizer.h"
#include "llm/training/checkpoint.h"
#include "llm/training/logger.h"
#include "llm/training/search.h"

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

// ---- memory: the bytes allocated now, and the most since a reader began --------------------------------------------

namespace {
constexpr size_t kMaxBytes = size_t{1} << 28;  // inputs have some kilobytes
size_t allocated = 0, most = 0;
}  // namespace

void* operator new(size_t bytes) {
  void* memory = bytes < size_t{1} << 33 ? std::malloc(bytes) : nullptr;
  if (!memory) {
    most = SIZE_MAX;
    throw std::bad_alloc();
  }
  allocated += malloc_usable_size(memory);
  most = std::max(most, allocated);
  return memory;
}
void operator delete(void* memory) noexcept {
  if (memory) allocated -= malloc_usable_size(memory);
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept { operator delete(memory); }

namespace {

using Random = std::mt19937_64;
using Files = std::map<std::string, std::string>;  // name -> bytes

size_t below(Random& random, size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); }

template <class T>
const T& one_of(Random& random, const std::vector<T>& all) {
  return all[below(random, all.size())];
}

// ---- damage --------------------------------------------------------------------------------------------------------

const std::vector<std::string> kNumbers = {"0",
                                           "-1",
                                           "1",
                                           "2",
                                           "255",
                                           "256",
                                           "65536",
                                           "1.5",
                                           "1e9",
                                           "2147483647",
                                           "2147483648",
                                           "4294967296",
                                           "1e308",
                                           "-0",
                                           "9223372036854775807",
                                           "18446744073709551616",
                                           "1e400",
                                           "00",
                                           "1e-400"};

// The stretches of digits in a text.
std::vector<std::pair<size_t, size_t>> numbers_in(const std::string& text) {
  std::vector<std::pair<size_t, size_t>> found;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = text.find_first_of("0123456789", i);
    if (begin == std::string::npos) break;
    i = std::min(text.find_first_not_of("0123456789.", begin), text.size());
    found.emplace_back(begin, i - begin);
  }
  return found;
}

void damage_bytes(std::string& bytes, const std::string& other, Random& random) {
  const size_t at = below(random, bytes.size() + 1), length = below(random, 1 + below(random, 64));
  switch (below(random, 9)) {
    case 0:
      if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(random, 8));
      break;
    case 1:
      if (at < bytes.size()) bytes[at] = static_cast<char>(random());
      break;
    case 2:
      bytes.insert(at, 1, one_of<char>(random, {'\0', '\n', '"', '{', '[', '\t', ',', ' ', '\xFF', 'a', '0'}));
      break;
    case 3:
      bytes.erase(at, length);
      break;
    case 4:
      bytes.insert(at, bytes.substr(at, length));
      break;
    case 5:
      bytes.insert(at, other.substr(below(random, other.size() + 1), length));
      break;
    case 6:
      bytes.resize(at);
      break;
    case 7:
      if (const auto numbers = numbers_in(bytes); !numbers.empty()) {
        const auto [begin, digits] = one_of(random, numbers);
        bytes.replace(begin, digits, one_of(random, kNumbers));
      }
      break;
    case 8:  // a 4-byte integer, at places where binary files have them
      if (bytes.size() >= 4) {
        const auto value = one_of<uint32_t>(random, {0, 1, 2, 7, 255, 65535, 65536, INT32_MAX, 1u << 31, UINT32_MAX});
        std::memcpy(bytes.data() + below(random, std::min<size_t>(bytes.size() - 3, 64)) / 4 * 4, &value, 4);
      }
  }
}

ordered_json any_value(Random& random) {
  switch (below(random, 12)) {
    case 0:
      return nullptr;
    case 1:
      return below(random, 2) == 1;
    case 2:
      return -1;
    case 3:
      return uint64_t{1} << below(random, 64);
    case 4:
      return 1e300;
    case 5:
      return "";
    case 6:
      return std::string(below(random, 300), 'x');
    case 7:
      return ordered_json::array();
    case 8:
      return ordered_json::object();
    case 9:
      return ordered_json::array({1, "a", nullptr});
    case 10:
      return "\xF0\x9F\x98\x80\n\t\"\\";
    default: {
      ordered_json deep = 1;
      for (size_t k = below(random, 200); k > 0; --k) deep = ordered_json::array({std::move(deep)});
      return deep;
    }
  }
}

// All values inside one, including itself.
void gather(ordered_json& value, std::vector<ordered_json*>& all) {
  all.push_back(&value);
  if (value.is_structured() && all.size() < 2000) {
    for (ordered_json& part : value) gather(part, all);
  }
}

// Stays JSON.
void damage_value(ordered_json& root, Random& random) {
  std::vector<ordered_json*> all;
  gather(root, all);
  ordered_json& value = *one_of(random, all);
  switch (below(random, 6)) {
    case 0:
      if (!value.empty() && value.is_object())
        value.erase(std::next(value.begin(), static_cast<ptrdiff_t>(below(random, value.size()))));
      if (!value.empty() && value.is_array()) value.erase(below(random, value.size()));
      break;
    case 1:
      if (value.is_array() && !value.empty())
        value.push_back(one_of(random, std::vector<ordered_json>(value.begin(), value.end())));
      break;
    case 2: {
      const ordered_json copy = *one_of(random, all);
      value = copy;
      break;
    }
    case 3:
      if (value.is_object()) value["another"] = any_value(random);
      break;
    case 4:
      if (value.is_string()) {
        std::string text = value.get<std::string>();
        text.insert(below(random, text.size() + 1), one_of<std::string>(random, {" ", "a", "é", "/", "..", "{}"}));
        value = text;
        break;
      }
      if (value.is_number()) {
        value = value.get<double>() < 1e9 ? static_cast<int64_t>(value.get<double>()) + 1 : 3;
        break;
      }
      [[fallthrough]];
    default:
      value = any_value(random);
  }
}

std::string dumped(const ordered_json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

void damage_json(std::string& text, Random& random) {
  ordered_json root = ordered_json::parse(text, nullptr, false);
  if (root.is_discarded()) return;
  damage_value(root, random);
  text = dumped(root);
}

void damage_line(std::string& text, Random& random) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  if (lines.empty()) return;
  damage_json(lines[below(random, lines.size())], random);
  text.clear();
  for (const std::string& line : lines) text += line + "\n";
}

void damage_safetensors(std::string& bytes, Random& random) {
  uint64_t length = 0;
  if (bytes.size() < 8) return;
  std::memcpy(&length, bytes.data(), 8);
  if (length > bytes.size() - 8) return;
  std::string header = bytes.substr(8, length);
  damage_json(header, random);
  const uint64_t now = header.size();
  bytes = std::string(reinterpret_cast<const char*>(&now), 8) + header + bytes.substr(8 + length);
}

// ---- readers -------------------------------------------------------------------------------------------------------

enum class Form { json, lines, safetensors, bytes };

bool is_json(std::string_view text) { return !parse_json_if_whole(text, 64).is_discarded(); }

struct Reader {
  std::string name;
  Files files;       // the undamaged files to read
  std::string file;  // the one that is damaged
  Form form;
  std::function<bool(const std::string& bytes)> outer;  // whether it is a file of this kind at all
  std::function<void(const fs::path& dir)> read;
};

bool outer_of(Form form, const std::string& bytes) {
  if (form == Form::json) return is_json(bytes);
  if (form == Form::lines) {
    size_t good = 0, bad = 0;
    for (size_t begin = 0; begin < bytes.size();) {
      const size_t end = std::min(bytes.find('\n', begin), bytes.size());
      ++(is_json(std::string_view(bytes).substr(begin, end - begin)) ? good : bad);
      begin = end + 1;
    }
    return good > 0 && bad == 0;
  }
  uint64_t length = 0;
  if (bytes.size() < 8) return false;
  std::memcpy(&length, bytes.data(), 8);
  return length <= bytes.size() - 8 && is_json(std::string_view(bytes).substr(8, length));
}

bool begins_with(const std::string& bytes, int32_t magic) {
  int32_t found = 0;
  if (bytes.size() >= 4) std::memcpy(&found, bytes.data(), 4);
  return found == magic;
}

Files files_of(const fs::path& dir) {
  Files files;
  for (const auto& entry : fs::recursive_directory_iterator(dir)) {
    if (entry.is_regular_file()) files[fs::relative(entry.path(), dir).string()] = MappedFile(entry.path()).text();
  }
  return files;
}

void write(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

std::string text_of(const char* piece, int times) {
  std::string text;
  for (int k = 0; k < times; ++k) text += strprintf("%s%d\n", piece, k % 7);
  return text;
}

void read_all(const Weights& weights) {
  std::vector<float> values;
  for (const ParamTensor& tensor : weights.table) {
    values.resize(static_cast<size_t>(tensor.size()));
    weights.read(tensor, values.data());
  }
}

void use(const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = tokenizer.kind() == "chars"
                                       ? tokenizer.encode("ab", Special::parsed)
                                       : tokenizer.encode("The cat's  <|endoftext|>\xFF", Special::parsed);
  tokenizer.decode(ids);
}

std::vector<Reader> make_readers(const fs::path& dir, const fs::path& source) {
  std::vector<Reader> readers;
  const auto add = [&](const std::string& name, const Files& files, const std::string& file, Form form, auto read) {
    readers.push_back(
        {name, files, file, form, [form](const std::string& bytes) { return outer_of(form, bytes); }, read});
  };
  const auto add_bytes = [&](const std::string& name, const Files& files, const std::string& file, auto outer,
                             auto read) {
    readers.push_back({name, files, file, Form::bytes, outer, read});
  };
  const auto utf8 = [](const std::string& bytes) { return find_invalid_utf8(bytes) == std::string::npos; };

  // Models and tokenizers that the project makes.
  const std::string text = text_of("The cat sat on the mat, didn't it? \xC3\xA9 ", 20);
  const Tokenizer bpe = Tokenizer::train_bpe(text, 290);
  const auto model = make_cpu_model(ModelConfig{8, 290, 1, 2, 4}, false);
  init_weights(*model, 1);
  fs::create_directories(dir / "model");
  save_model(*model, &bpe, dir / "model");
  const Files saved = files_of(dir / "model");
  const auto read_model = [](const fs::path& d) { read_all(*open_weights(d)); };
  add("config.json", saved, "config.json", Form::json, read_model);
  add("model.safetensors", saved, "model.safetensors", Form::safetensors, read_model);
  const Files torch = files_of(WROUGHT_SOURCE "/tests/golden/checkpoint_pytorch");
  add_bytes(
      "pytorch_model.bin", torch, "pytorch_model.bin",
      [](const std::string& bytes) { return bytes.starts_with("PK\3\4") && bytes.find("PK\5\6") != bytes.npos; },
      read_model);
  add("tokenizer.json", saved, "tokenizer.json", Form::json, [](const fs::path& d) { use(*find_tokenizer(d)); });
  add("tokenizer_config.json", saved, "tokenizer_config.json", Form::json,
      [](const fs::path& d) { use(*find_tokenizer(d)); });
  Tokenizer::chars("abc\xC3\xA9").save(dir / "chars.json");
  add("tokenizer.json of characters", files_of(dir), "chars.json", Form::json,
      [](const fs::path& d) { use(Tokenizer::load(d / "chars.json")); });

  std::string tiktoken, merges = "#version: 0.2\n";
  json vocab;
  const json tokenizer = json::parse(saved.at("tokenizer.json"));
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) vocab[token] = id;
  for (const json& merge : tokenizer["model"]["merges"]) merges += merge.get<std::string>() + "\n";
  for (int id = 0; id + 1 < bpe.vocab_size(); ++id) {
    constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const std::string_view token = bpe.bytes_of(id);
    for (size_t i = 0; i < token.size(); i += 3) {
      uint32_t bits = 0;
      for (size_t k = 0; k < 3; ++k)
        bits = bits << 8 | (i + k < token.size() ? static_cast<unsigned char>(token[i + k]) : 0);
      for (size_t k = 0; k < 4; ++k) tiktoken += i + k <= token.size() ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
    }
    tiktoken += strprintf(" %d\n", id);
  }
  const auto load_here = [](const char* name) { return [name](const fs::path& d) { use(Tokenizer::load(d / name)); }; };
  add_bytes(".tiktoken", {{"a.tiktoken", tiktoken}}, "a.tiktoken", utf8, load_here("a.tiktoken"));
  const Files pair = {{"vocab.bpe", merges},
                      {"encoder.json", vocab.dump()},
                      {"added_tokens.json", strprintf("{\"<pad>\": %d}", bpe.vocab_size())}};
  add_bytes("vocab.bpe", pair, "vocab.bpe", utf8, load_here(""));
  add("encoder.json", pair, "encoder.json", Form::json, load_here(""));
  add("added_tokens.json", pair, "added_tokens.json", Form::json, load_here(""));

  for (const LlmcType type : {LlmcType::fp32, LlmcType::bf16}) {
    save_llmc(ModelWeights(*model), dir / "llmc.bin", type);
    add_bytes(
        type == LlmcType::fp32 ? "llm.c's .bin" : "llm.c's .bin, bf16", files_of(dir), "llmc.bin",
        [](const std::string& bytes) { return begins_with(bytes, 20240326); },
        [](const fs::path& d) { read_all(*open_llmc(d / "llmc.bin")); });
  }
  for (const GgufType type : {GgufType::f32, GgufType::q8_0}) {
    const auto wide = make_cpu_model(ModelConfig{8, 290, 1, 2, type == GgufType::q8_0 ? 32 : 4}, false);
    init_weights(*wide, 1);
    save_gguf(ModelWeights(*wide), &bpe, dir / "m.gguf", {type});
    add_bytes(
        strprintf("GGUF, %s", gguf_type_name(type)), {{"m.gguf", std::string(MappedFile(dir / "m.gguf").text())}},
        "m.gguf", [](const std::string& bytes) { return bytes.starts_with("GGUF"); },
        [](const fs::path& d) {
          read_all(*open_gguf(d / "m.gguf"));
          if (const auto tokenizer = find_tokenizer(d / "m.gguf")) use(*tokenizer);
          read_gguf_extras(d / "m.gguf");
        });
  }
  const Files tensorflow = files_of(source / "tests/golden/checkpoint_tensorflow");
  const auto read_tensorflow = [](const fs::path& d) { read_all(*open_tensorflow(d)); };
  add("hparams.json", tensorflow, "hparams.json", Form::json, read_tensorflow);
  add_bytes(
      "TensorFlow's index", tensorflow, "model.ckpt.index",
      [](const std::string& bytes) { return bytes.ends_with("\x57\xfb\x80\x8b\x24\x75\x47\xdb"); }, read_tensorflow);
  add_bytes(
      "TensorFlow's data", tensorflow, "model.ckpt.data-00000-of-00001", [](const std::string&) { return true; },
      read_tensorflow);

  // An adapter: the model's shape, rank 2.
  ModelOptions lora;
  lora.lora.rank = 2;
  const auto adapted = make_cpu_model(ModelConfig{8, 290, 1, 2, 4}, true, lora);
  init_weights(*adapted, 1);
  fs::create_directories(dir / "adapter");
  save_adapter(*adapted, dir / "model", dir / "adapter", true);
  Files with_base;
  for (const auto& [name, bytes] : files_of(dir / "adapter")) with_base["adapter/" + name] = bytes;
  for (const auto& [name, bytes] : saved) with_base["adapter/model/" + name] = bytes;
  const auto read_adapter = [](const fs::path& d) { read_all(*open_adapter(d / "adapter", open_weights)); };
  add("adapter_config.json", with_base, "adapter/adapter_config.json", Form::json, read_adapter);
  add("adapter_model.safetensors", with_base, "adapter/adapter_model.safetensors", Form::safetensors, read_adapter);

  // Runs.
  Files run = saved;
  run["optimizer.safetensors"] = saved.at("model.safetensors");
  const fs::path state = dir / "state";
  for (const auto& [name, bytes] : run) write(state / name, bytes);
  json checksums;
  for (const auto& [name, bytes] : run) checksums[name] = file_checksum(state / name);
  run["trainer_state.json"] = json{{"step", 3}, {"checksums", checksums}, {"config", {{"seed", 1}}}}.dump();
  add("trainer_state.json", run, "trainer_state.json", Form::json, [](const fs::path& d) { read_training_state(d); });
  std::string metrics;
  for (int k = 0; k < 20; ++k)
    metrics += json{{"step", k}, {"loss", 4.0 / (k + 1)}, {"config", {{"a", {1, 2}}}}}.dump() + "\n";
  add("metrics.jsonl", {{"metrics.jsonl", metrics}}, "metrics.jsonl", Form::lines,
      [](const fs::path& d) { MetricsLog log(d, 10); });
  add("search",
      {{"s.json",
        R"({"flags": {"lr": {"min": 0.1, "max": 1, "log": true}, "seed": [1, 2]}, "method": "random", "trials": 3})"}},
      "s.json", Form::json, [](const fs::path& d) { read_search(d / "s.json"); });

  // Data.
  std::vector<int32_t> ids(500);
  for (size_t k = 0; k < ids.size(); ++k) ids[k] = static_cast<int32_t>(k % 290);
  const auto read_shards = [](const char* name) {
    return [name](const fs::path& d) {
      const TokenSequence tokens = TokenSequence::open((d / name).string());
      std::vector<int32_t> copy(static_cast<size_t>(std::min<int64_t>(tokens.size(), 1000)));
      tokens.copy(0, static_cast<int64_t>(copy.size()), copy.data());
      tokens.checksum();
      tokens.check_vocabulary(290);
    };
  };
  for (const int vocabulary : {290, 100'000}) {
    write_shard(dir / "a.bin", ids, vocabulary);
    add_bytes(
        vocabulary == 290 ? "shard" : "shard of uint32", files_of(dir), "a.bin",
        [](const std::string& bytes) { return begins_with(bytes, 20240520); }, read_shards("a.bin"));
  }
  Files listed = {{"a.bin", std::string(MappedFile(dir / "a.bin").text())},
                  {"d.list", "# data\na.bin\n*.bin\na.bi?\n"}};
  add_bytes(".list of shards", listed, "d.list", utf8, read_shards("d.list"));
  add_bytes("text", {{"a.txt", text}}, "a.txt", utf8, [](const fs::path& d) { read_corpus(d / "a.txt", false); });
  add_bytes("text, lossy", {{"a.txt", text}}, "a.txt", utf8, [](const fs::path& d) { read_corpus(d / "a.txt", true); });

  json instructions = json::array(), preferences = json::array();
  std::string instruction_lines, labelled_lines;
  for (int k = 0; k < 5; ++k) {
    instructions.push_back({{"instruction", "Say " + std::to_string(k)}, {"input", ""}, {"output", "x"}});
    preferences.push_back({{"instruction", "Say"}, {"input", "y"}, {"chosen", "a"}, {"rejected", "b"}});
    instruction_lines += instructions.back().dump() + "\n";
    labelled_lines += json{{"text", "mail " + std::to_string(k)}, {"label", k % 2 ? "spam" : "ham"}}.dump() + "\n";
  }
  const auto rows_here = [](const char* name) { return [name](const fs::path& d) { read_rows(d / name, {}); }; };
  const Files data = {
      {"i.json", instructions.dump()},
      {"i.jsonl", instruction_lines},
      {"p.json", preferences.dump()},
      {"l.jsonl", labelled_lines},
      {"l.tsv", "label\ttext\nham\tHello you\nspam\tBuy \"this\"\nham\tBye\n"},
      {"l.csv", "label,text\nham,Hello\nspam,\"Buy, \"\"this\"\"\nnow\"\nham,Bye\n"},
      {"q.jsonl", json{{"question", "Which?"}, {"choices", {"a", "b"}}, {"answer", 1}}.dump() + "\n"},
      {"h.jsonl", json{{"ctx", "A man"}, {"endings", {"a", "b", "c", "d"}}, {"label", 2}}.dump() + "\n"},
      {"w.jsonl", json{{"text", "It was the last word"}}.dump() + "\nPlain words here\n"}};
  add("instructions.json", data, "i.json", Form::json, [](const fs::path& d) { read_instructions(d / "i.json"); });
  add("instructions.jsonl", data, "i.jsonl", Form::lines, [](const fs::path& d) { read_instructions(d / "i.jsonl"); });
  add("preferences.json", data, "p.json", Form::json, [](const fs::path& d) { read_preferences(d / "p.json"); });
  add("rows .json", data, "i.json", Form::json, rows_here("i.json"));
  add("rows .jsonl", data, "i.jsonl", Form::lines, rows_here("i.jsonl"));
  add_bytes("rows .csv", data, "l.csv", utf8, rows_here("l.csv"));
  add_bytes("rows .tsv", data, "l.tsv", utf8, rows_here("l.tsv"));
  const auto labelled = [](const char* name) { return [name](const fs::path& d) { read_labelled(d / name, {}); }; };
  add("labelled .jsonl", data, "l.jsonl", Form::lines, labelled("l.jsonl"));
  add_bytes("labelled .tsv", data, "l.tsv", utf8, labelled("l.tsv"));
  add_bytes("labelled .csv", data, "l.csv", utf8, labelled("l.csv"));
  add("choices", data, "q.jsonl", Form::lines, [](const fs::path& d) { read_choices(d / "q.jsonl"); });
  add("hellaswag", data, "h.jsonl", Form::lines, [](const fs::path& d) { read_hellaswag(d / "h.jsonl", false); });
  add_bytes("lambada", data, "w.jsonl", utf8, [](const fs::path& d) { read_lambada(d / "w.jsonl"); });
  write_template(alpaca_template(), dir);
  add("chat_template.json", files_of(dir), "chat_template.json", Form::json,
      [](const fs::path& d) { read_template(d); });
  ModelConfig shape{8, 290, 1, 2, 4};
  shape.num_classes = 2;
  shape.tied_head = false;
  const auto classifier = make_cpu_model(shape, false);
  init_weights(*classifier, 1);
  fs::create_directories(dir / "classifier");
  save_model(*classifier, &bpe, dir / "classifier");
  write_classifier_info(dir / "classifier", {.classes = {"ham", "spam"}, .length = 4});
  add("classifier's config.json", files_of(dir / "classifier"), "config.json", Form::json,
      [](const fs::path& d) { read_classifier_info(d); });
  return readers;
}

// ---- running them --------------------------------------------------------------------------------------------------

void too_long(int) {
  constexpr char kMessage[] = "FAILED: a reader has taken 20 s and does not end\n";
  if (::write(2, kMessage, sizeof kMessage - 1) < 0) std::_Exit(2);
  std::_Exit(1);
}

struct Tally {
  int inputs = 0, outer = 0, accepted = 0;
  double slowest = 0;
  size_t most = 0;
};

Tally fuzz(const Reader& reader, const fs::path& dir, int inputs, uint64_t seed) {
  fs::remove_all(dir);
  for (const auto& [name, bytes] : reader.files) write(dir / name, bytes);
  write(dir.string() + ".reader", reader.name + ": " + reader.file + "\n");
  const std::string& whole = reader.files.at(reader.file);
  reader.read(dir);  // throws if the whole file is not read
  Random random(seed ^ hash64(reader.name.data(), reader.name.size(), 0));
  Tally tally;
  for (int k = 0; k < inputs; ++k) {
    std::string bytes = whole;
    // Half of the inputs keep their form.
    const bool inside = reader.form != Form::bytes && below(random, 4) != 0;
    for (size_t times = 1 + below(random, 3); times > 0; --times) {
      if (!inside) {
        damage_bytes(bytes, whole, random);
      } else if (reader.form == Form::json) {
        damage_json(bytes, random);
      } else if (reader.form == Form::lines) {
        damage_line(bytes, random);
      } else {
        damage_safetensors(bytes, random);
      }
    }
    write(dir / reader.file, bytes);
    ++tally.inputs;
    tally.outer += reader.outer(bytes);
    const size_t before = most = allocated;
    const itimerval limit = {{0, 0}, {20, 0}};
    ::setitimer(ITIMER_PROF, &limit, nullptr);
    const std::clock_t start = std::clock();
    try {
      reader.read(dir);
      ++tally.accepted;
    } catch (const Error&) {
    } catch (const fs::filesystem_error&) {  // which every program reports like an Error
    } catch (const std::exception& error) {
      fail("%s: input %d ended in an exception that is not an Error: %s", reader.name.c_str(), k, error.what());
    }
    tally.slowest = std::max(tally.slowest, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
    if (tally.slowest > 2) fail("%s: input %d took %.1f s", reader.name.c_str(), k, tally.slowest);
    tally.most = std::max(tally.most, most - before);
    if (tally.most > kMaxBytes)
      fail("%s: input %d of %zu bytes took %zu bytes", reader.name.c_str(), k, bytes.size(), tally.most);
  }
  return tally;
}

int64_t number_from_1(const char* text) {
  int64_t number = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, number);
  if (error != std::errc() || stop != end || number < 1 || number > INT32_MAX)
    fail("expected a whole number from 1 on, found '%s'", text);
  return number;
}

}  // namespace

int main(int argc, char** argv) {
  const fs::path dir = fs::temp_directory_path() / strprintf("wrought_fuzz_%d", ::getpid());
  try {
    const int inputs = argc > 1 ? static_cast<int>(number_from_1(argv[1])) : 20;
    const uint64_t seed = argc > 2 ? static_cast<uint64_t>(number_from_1(argv[2])) : 1;
    ::signal(SIGPROF, too_long);
    std::printf("the file being read: %s\n", (dir / "input").c_str());
    fs::create_directories(dir / "made");
    Tally all;
    std::printf("%-30s %8s %12s %10s %10s %8s\n", "reader", "inputs", "outer parse", "accepted", "slowest", "most MB");
    const auto line = [](const char* name, const Tally& t) {
      const double percent = 100.0 / std::max(1, t.inputs);
      std::printf("%-30s %8d %10.1f %% %8.1f %% %8.2f s %8.1f\n", name, t.inputs, percent * t.outer,
                  percent * t.accepted, t.slowest, 1e-6 * static_cast<double>(t.most));
      std::fflush(stdout);
    };
    for (const Reader& reader : make_readers(dir / "made", WROUGHT_SOURCE)) {
      const Tally tally = fuzz(reader, dir / "input", inputs, seed);
      line(reader.name.c_str(), tally);
      all.inputs += tally.inputs;
      all.outer += tally.outer;
      all.accepted += tally.accepted;
      all.slowest = std::max(all.slowest, tally.slowest);
      all.most = std::max(all.most, tally.most);
      if (inputs >= 100 && 10 * tally.outer < 3 * tally.inputs) {
        fail("%s: of %d inputs only %d pass the outer parse: too few to test the inner parse", reader.name.c_str(),
             tally.inputs, tally.outer);
      }
    }
    line("all", all);
    fs::remove_all(dir);
    fs::remove(dir / "input.reader");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n(the input is in %s)\n", error.what(), (dir / "input").c_str());
    return 1;
  }
}
