// The cost of readers: nesting is bounded, time grows linearly with the input, memory is bounded.
#include <doctest/doctest.h>

#include <ctime>
#include <fstream>
#include <functional>

#include "llm/corpora/rows.h"
#include "llm/finetune/instructions.h"
#include "llm/finetune/labelled_files.h"
#include "llm/finetune/preferences.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/safetensors.h"
#include "llm/formats/tensorflow.h"
#include "llm/inference/tasks.h"
#include "llm/support/error.h"
#include "llm/support/json.h"
#include "llm/text/chat_template.h"
#include "llm/text/shards.h"
#include "llm/text/tokenizer.h"
#include "llm/training/logger.h"
#include "llm/training/search.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;

namespace {

std::string header(const std::string& json) {
  const uint64_t length = json.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + json;
}

double seconds(const std::function<void()>& work) {
  const std::clock_t start = std::clock();
  work();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

size_t resident_bytes() {
  size_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * 4096;
}

}  // namespace

TEST_CASE("nesting of 75,000 levels is an error in every reader of JSON that names the byte") {
  constexpr size_t kLevels = 75'000;
  const std::string arrays = std::string(kLevels, '[') + std::string(kLevels, ']');
  std::string objects;
  for (size_t k = 0; k < kLevels; ++k) objects += "{\"a\":";
  objects += '1';
  objects.append(kLevels, '}');
  const std::string in_object = "{\"a\": " + arrays + "}", in_array = "[" + in_object + "]";
  const TemporaryFolder folder;
  struct Case {
    const char* file;
    std::function<void(const fs::path&)> read;
    std::string text;
  };
  const Case cases[] = {
      {"config.json", [](const fs::path& p) { read_huggingface_config(p.parent_path()); }, in_object},
      {"hparams.json", [](const fs::path& p) { read_hparams(p.parent_path()); }, in_object},
      {"tokenizer.json", [](const fs::path& p) { Tokenizer::load(p); }, in_object},
      {"t/tokenizer.json", [](const fs::path& p) { Tokenizer::load(p); }, "{\"model\": {\"vocab\": " + arrays + "}}"},
      {"t/tokenizer.json", [](const fs::path& p) { Tokenizer::load(p); }, "{\"added_tokens\": " + objects + "}"},
      {"chat_template.json", [](const fs::path& p) { read_template(p.parent_path()); }, in_object},
      {"search.json", [](const fs::path& p) { read_search(p); }, in_object},
      {"a.json", [](const fs::path& p) { read_instructions(p); }, in_array},
      {"a.jsonl", [](const fs::path& p) { read_instructions(p); }, in_object},
      {"b.json", [](const fs::path& p) { read_preferences(p); }, in_array},
      {"c.json", [](const fs::path& p) { read_rows(p, {}); }, in_array},
      {"c.jsonl", [](const fs::path& p) { read_rows(p, {}); }, objects},
      {"d.jsonl", [](const fs::path& p) { read_labelled(p, {}); }, in_object},
      {"e.jsonl", [](const fs::path& p) { read_choices(p); }, in_object},
      {"f.jsonl", [](const fs::path& p) { read_hellaswag(p, false); }, objects},
      {"g.safetensors", [](const fs::path& p) { SafetensorsFile{p}; }, header(in_object)},
  };
  for (const Case& one : cases) {
    CAPTURE(one.file);
    const fs::path path = folder.write(one.file, one.text);
    CHECK_THROWS_WITH_AS(one.read(path), doctest::Contains("nested deeper than the "), Error);
    CHECK_THROWS_WITH_AS(one.read(path), doctest::Contains("at byte "), Error);
    CHECK_THROWS_WITH_AS(one.read(path), doctest::Contains(one.file), Error);
  }
  // A reader that skips a line cut off by a crash skips this line, too.
  folder.write("metrics.jsonl", in_object + "\n{\"step\": 1}\n");
  { MetricsLog log(folder.path, 5); }
  std::string kept;
  std::getline(std::ifstream(folder.path / "metrics.jsonl"), kept);
  CHECK(kept == "{\"step\": 1}");
}

TEST_CASE("errors of JSON name the byte") {
  const auto check = [](const std::string& text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(parse_json(text, "a.json", 3), doctest::Contains(message), Error);
    CHECK_THROWS_WITH_AS(parse_ordered_json(text, "a.json", 3), doctest::Contains(message), Error);
  };
  check("", "a.json: not JSON, or cut off or damaged, at byte 0: ");
  check("[1,]", "at byte 3: ");
  check("{\"a\": \"\xFF\"}", "at byte 7: ");
  check("[1, 1e999]", "at byte 8: number overflow");
  check("[[[[1]]]]", "nested deeper than the 3 levels expected, at byte 3");
  check("{\"a\": 1, \"a\": 2}", "the name \"a\" occurs twice, again before byte 12");
  std::string many = "{";
  for (int k = 0; k < 40; ++k) many += strprintf("\"k%d\": 1, ", k);
  check(many + "\"k3\": 2}", "\"k3\" occurs twice");
  check(many + "\"k39\": 2}", "\"k39\" occurs twice");
  const auto same = parse_ordered_json(many + "\"z\": [1, {}], \"a\": null}", "a.json", 3);
  CHECK(same.size() == 42);
  CHECK(std::next(same.begin(), 40).key() == "z");
}

TEST_CASE("a value can be taken out while it is read") {
  const TemporaryFolder folder;
  const MappedFile file(folder.write("a.json", R"({"a": [1, {"b": 2}, 3], "c": {"d": [4]}, "e": 5})"));
  std::vector<std::string> seen;
  const nlohmann::json rest = parse_json(file, 4, [&](JsonPath path, nlohmann::json& value) {
    std::string where;
    for (const std::string& key : path) where += "/" + key;
    seen.push_back(where + "=" + value.dump());
    return path.size() != 2;
  });
  CHECK(rest.dump() == R"({"a":[],"c":{},"e":5})");
  CHECK(seen == std::vector<std::string>{"/a/=1", "/a//b=2", "/a/={\"b\":2}", "/a/=3", "/a=[]", "/c/d/=4", "/c/d=[4]",
                                         "/c={}", "/e=5", "={\"a\":[],\"c\":{},\"e\":5}"});
}

TEST_CASE("four times the input takes about four times as long, not sixteen") {
  const TemporaryFolder folder;
  const auto rows = [](size_t n) {
    std::string text = "[";
    for (size_t k = 0; k < n; ++k) text += R"({"instruction": "a", "output": "b"},)";
    text.back() = ']';
    return text;
  };
  const auto tensors = [](size_t n) {
    std::string text = "{";
    for (size_t k = 0; k < n; ++k) {
      text += strprintf(R"("t%zu":{"dtype":"U8","shape":[1],"data_offsets":[%zu,%zu]},)", k, k, k + 1);
    }
    text.back() = '}';
    return header(text) + std::string(n, '\0');
  };
  const auto added_tokens = [&](size_t n) {
    Tokenizer::bytes().save(folder.path / "bytes.json");
    std::string text(MappedFile(folder.path / "bytes.json").text());
    std::string added;
    for (size_t k = 0; k < n; ++k) added += strprintf(R"({"id": %zu, "content": "<%zu>"},)", 257 + k, k);
    return text.insert(text.find("\"added_tokens\": [") + 17, added);
  };
  struct Case {
    const char* file;
    std::function<std::string(size_t)> make;
    std::function<void(const fs::path&)> read;
  };
  const Case cases[] = {
      {"a.json", rows, [](const fs::path& p) { read_instructions(p); }},
      {"b.json", rows, [](const fs::path& p) { read_rows(p, {}); }},
      {"c.safetensors", tensors,
       [](const fs::path& p) {
         const SafetensorsFile file(p);
         for (const TensorView& tensor : file.tensors()) REQUIRE(file.find(tensor.name) == &tensor);
       }},
      {"d.json", added_tokens,
       [](const fs::path& p) {
         const Tokenizer tokenizer = Tokenizer::load(p);
         for (int k = 0; k < 100; ++k) tokenizer.encode("a<7>b<9", Special::parsed);
       }},
  };
  for (const Case& one : cases) {
    CAPTURE(one.file);
    const fs::path small = folder.write(strprintf("1%s", one.file), one.make(20'000)),
                   large = folder.write(strprintf("4%s", one.file), one.make(80'000));
    const double once = seconds([&] { one.read(small); }), four = seconds([&] { one.read(large); });
    CAPTURE(once);
    CHECK(four < 8 * std::max(once, 0.02));
  }
}

TEST_CASE("of many special tokens the leftmost matches; among those at one place, the longest") {
  const std::vector<std::string> texts = {"<a", "<ab>", "<ab>c", "bb", "<<"};
  const Tokenizer tokenizer = Tokenizer::bytes().with_special_tokens(texts);
  const auto ids = [&](const char* text) { return tokenizer.encode(text, Special::parsed); };
  using Ids = std::vector<int32_t>;
  CHECK(ids("<ab>cd") == Ids{259, 'd'});
  CHECK(ids("<ab>d") == Ids{258, 'd'});
  CHECK(ids("<abbx") == Ids{257, 260, 'x'});
  CHECK(ids("x<<<") == Ids{'x', 261, '<'});
  CHECK(ids("<|endoftext|>b") == Ids{256, 'b'});
  CHECK(ids("<|en") == Ids{'<', '|', 'e', 'n'});
  CHECK(ids("") == Ids{});
}

TEST_CASE("shards: the folders in a pattern are bounded; reading keeps about 16 MB in memory") {
  std::string pattern;
  for (int k = 0; k < 2500; ++k) pattern += "*/";
  CHECK_THROWS_WITH_AS(TokenSequence::open(pattern + "a.bin"), doctest::Contains("2500 folders, expected at most 256"),
                       Error);
  CHECK_THROWS_WITH_AS(TokenSequence::open(pattern.substr(0, 400) + "a.bin"), doctest::Contains("no file matches"),
                       Error);
  const TemporaryFolder folder;
  {
    std::vector<int32_t> tokens(size_t{32} << 20, 7);
    write_shard(folder.path / "a.bin", tokens, 10);  // 64 MB
  }
  const TokenSequence sequence = TokenSequence::open((folder.path / "a.bin").string());
  std::vector<int32_t> window(65536);
  const size_t before = resident_bytes();
  size_t most = 0;
  sequence.check_vocabulary(10);
  most = std::max(most, resident_bytes());
  for (int64_t at = 0; at + 65536 <= sequence.size(); at += 65536) {
    sequence.copy(at, 65536, window.data());
    REQUIRE(window[65535] == 7);
    if (at % (1 << 22) == 0) most = std::max(most, resident_bytes());
  }
  most = std::max(most, resident_bytes());
  CHECK(most < before + (size_t{40} << 20));
}
