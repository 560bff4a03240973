#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/tokenizer.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const fs::path kGolden = GOLDEN_DIR;

std::string read(const fs::path& path) { return std::string(MappedFile(path).text()); }

// A temporary folder, removed at the end.
struct Folder {
  fs::path path = fs::temp_directory_path() / "wrought_test_tokenizer_files";
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }
};

std::vector<int32_t> golden_ids() {
  std::istringstream in(read(kGolden / "tokenizer_ids.txt"));
  return {std::istream_iterator<int32_t>(in), {}};
}

void check_error(const fs::path& path, const char* message) {
  CAPTURE(message);
  CHECK_THROWS_WITH_AS(Tokenizer::load(path), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("each format gives the ids that tiktoken and tokenizers give") {
  const std::string text = read(kGolden / "tokenizer_text.txt");
  const auto ids = golden_ids();
  REQUIRE(ids.size() > 1000);
  for (const char* name : {"tokenizer_bpe.json", "tokenizer_ranks.tiktoken", "tokenizer_pair",
                           "tokenizer_pair/vocab.bpe", "tokenizer_pair/encoder.json"}) {
    CAPTURE(name);
    const Tokenizer tokenizer = Tokenizer::load(kGolden / name);
    CHECK(tokenizer.encode(text) == ids);
    CHECK(tokenizer.decode(ids) == text);
    CHECK(tokenizer.vocab_size() == 601);
    CHECK(tokenizer.end_of_text() == 600);
    CHECK(tokenizer.checksum() == Tokenizer::load(kGolden / "tokenizer_bpe.json").checksum());
  }
  CHECK(Tokenizer::train_bpe(text, 601).encode(text) == ids);  // trained like `tokenizers`
}

TEST_CASE("a saved tokenizer is read back the same") {
  const Folder folder;
  const std::string text = read(kGolden / "tokenizer_text.txt");
  for (const Tokenizer& tokenizer : {Tokenizer::bytes(), Tokenizer::chars(text), Tokenizer::train_bpe(text, 500),
                                     Tokenizer::load(kGolden / "tokenizer_ranks.tiktoken")}) {
    tokenizer.save(folder.path / "tokenizer.json");
    for (const fs::path& path : {folder.path, folder.path / "tokenizer.json"}) {
      const Tokenizer again = Tokenizer::load(path);
      CHECK(again.checksum() == tokenizer.checksum());
      CHECK(again.kind() == tokenizer.kind());
      CHECK(again.vocab_size() == tokenizer.vocab_size());
      CHECK(again.end_of_text() == tokenizer.end_of_text());
      CHECK(again.encode(text) == tokenizer.encode(text));
    }
  }
  CHECK_THROWS_AS(Tokenizer::bytes().save("/nonexistent/tokenizer.json"), Error);
}

TEST_CASE("tokenizer.json: merges as pairs, older files without a type, several special tokens") {
  const Folder folder;
  const std::string text = read(kGolden / "tokenizer_text.txt");
  json root = json::parse(read(kGolden / "tokenizer_bpe.json"));
  for (json& merge : root["model"]["merges"]) {
    const auto pair = merge.get<std::string>();
    merge = {pair.substr(0, pair.find(' ')), pair.substr(pair.find(' ') + 1)};
  }
  root["model"].erase("type");
  root["model"]["continuing_subword_prefix"] = "";
  root["post_processor"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  root["added_tokens"].push_back({{"id", 601}, {"content", "<|end"}, {"special", true}});
  root["added_tokens"].push_back({{"id", 602}, {"content", "<|pad|>"}, {"special", false}, {"normalized", true}});
  const Tokenizer tokenizer = Tokenizer::load(folder.write("tokenizer.json", root.dump()));
  CHECK(tokenizer.encode(text) == golden_ids());
  CHECK(tokenizer.vocab_size() == 603);
  // The leftmost matches; among those at one place, the longest.
  CHECK(tokenizer.encode("<|pad|><|endoftext|><|end", Special::parsed) == std::vector<int32_t>{602, 600, 601});
  tokenizer.save(folder.path / "again.json");
  CHECK(Tokenizer::load(folder.path / "again.json").checksum() == tokenizer.checksum());
}

TEST_CASE("a tokenizer.json that is damaged or asks for more is an error that names the place") {
  const Folder folder;
  const std::string good = read(kGolden / "tokenizer_bpe.json");
  const auto broken = [&](const char* message, const std::function<void(json&)>& change) {
    json root = json::parse(good);
    change(root);
    check_error(folder.write("t.json", root.dump()), message);
  };
  broken("no object \"model\"", [](json& j) { j.erase("model"); });
  broken("no object \"model\"", [](json& j) { j = json::array(); });
  broken("model.type is \"Unigram\"", [](json& j) { j["model"]["type"] = "Unigram"; });
  broken("normalizer is", [](json& j) { j["normalizer"] = {{"type", "NFC"}}; });
  broken("pre_tokenizer Whitespace is not supported", [](json& j) { j["pre_tokenizer"] = {{"type", "Whitespace"}}; });
  broken("(without a type)", [](json& j) { j["pre_tokenizer"] = 5; });
  broken("without the pre_tokenizer", [](json& j) { j["pre_tokenizer"] = nullptr; });
  broken("add_prefix_space is true", [](json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; });
  broken("use_regex is false", [](json& j) { j["pre_tokenizer"]["use_regex"] = false; });
  broken("TemplateProcessing", [](json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}}; });
  broken("model.dropout is 0.1", [](json& j) { j["model"]["dropout"] = 0.1; });
  broken("end_of_word_suffix", [](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; });
  broken("byte_fallback", [](json& j) { j["model"]["byte_fallback"] = true; });
  broken("model.vocab is missing", [](json& j) { j["model"].erase("vocab"); });
  broken("model.vocab is array", [](json& j) { j["model"]["vocab"] = json::array(); });
  broken("is string, expected an integer", [](json& j) { j["model"]["vocab"]["a"] = "5"; });
  broken("is -1, expected 0", [](json& j) { j["model"]["vocab"]["a"] = -1; });
  broken("is number, expected an integer", [](json& j) { j["model"]["vocab"]["a"] = 1e18; });
  broken("expected 0 to", [](json& j) { j["model"]["vocab"]["a"] = UINT64_MAX; });
  broken("holes", [](json& j) { j["model"]["vocab"]["zzzzz"] = 10'000; });
  broken("both have the id 5", [](json& j) { j["model"]["vocab"]["zzzzz"] = 5; });
  broken("stand for no byte", [](json& j) { j["model"]["vocab"]["中"] = 601; });
  broken("no token for the byte 0x41", [](json& j) {
    j["model"]["vocab"]["zzzzz"] = j["model"]["vocab"]["A"];
    j["model"]["vocab"].erase("A");
    j["model"]["merges"] = json::array();
  });
  broken("merges is missing", [](json& j) { j["model"].erase("merges"); });
  broken("merges[3]: expected", [](json& j) { j["model"]["merges"][3] = "abc"; });
  broken("merges[3]: expected", [](json& j) { j["model"]["merges"][3] = 7; });
  broken("merges[0]: expected", [](json& j) { j["model"]["merges"][0] = {"a", "b", "c"}; });
  broken("merges[0]: \"qqq\" is not in the vocabulary", [](json& j) { j["model"]["merges"][0] = "qqq a"; });
  broken("merge twice", [](json& j) { j["model"]["merges"].push_back(j["model"]["merges"][0]); });
  broken("added_tokens is object", [](json& j) { j["added_tokens"] = json::object(); });
  broken("added_tokens[0] must be", [](json& j) { j["added_tokens"][0].erase("id"); });
  broken("added_tokens[0].lstrip is true", [](json& j) { j["added_tokens"][0]["lstrip"] = true; });
  broken("added_tokens[0].id is -3", [](json& j) { j["added_tokens"][0]["id"] = -3; });
  broken("content is empty", [](json& j) { j["added_tokens"][0]["content"] = ""; });
  broken("twice", [](json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); });
  broken("in added_tokens", [](json& j) { j["model"]["vocab"]["<|endoftext|>"] = 3; });
  for (size_t keep = 0; keep < good.size(); keep += 997)
    check_error(folder.write("t.json", good.substr(0, keep)), "cut off or damaged");
  check_error(folder.write("t.json", good + "x"), "not JSON");
  check_error(folder.write("t.json", "\xFF\xFE" + good), "byte 0 is not UTF-8");

  Tokenizer::chars("ab").save(folder.path / "chars.json");
  json chars = json::parse(read(folder.path / "chars.json"));
  chars["model"]["unk_token"] = "a";
  check_error(folder.write("t.json", chars.dump()), "unk_token");
  chars["model"]["unk_token"] = nullptr;
  chars["model"]["vocab"]["cd"] = 3;
  check_error(folder.write("t.json", chars.dump()), "not one character");
}

TEST_CASE("a damaged vocab.bpe or encoder.json is an error that names the place") {
  const Folder folder;
  const std::string merges = read(kGolden / "tokenizer_pair/vocab.bpe"),
                    vocab = read(kGolden / "tokenizer_pair/encoder.json");
  const auto broken = [&](const char* message, const std::string& bpe, const std::string& encoder) {
    folder.write("vocab.bpe", bpe);
    folder.write("encoder.json", encoder);
    check_error(folder.path, message);
  };
  broken("cut off or belongs to another vocabulary", merges.substr(0, merges.rfind('\n', merges.size() - 2) + 1),
         vocab);
  broken("line 2: expected two tokens", "#version: 0.2\nab\n", vocab);
  broken("line 2: expected two tokens", "#version: 0.2\na b c\n", vocab);
  broken("is not in the vocabulary", merges + "qqqq qqqq\n", vocab);
  broken("merge twice", merges + merges.substr(14), vocab);
  broken("not JSON", merges, vocab.substr(0, vocab.size() / 2));
  broken("expected an object", merges, "[1, 2]");
  broken("cut off", "", vocab);
  broken("is not UTF-8", merges, "{\"\xFF\": 0}");
  fs::remove(folder.path / "encoder.json");
  check_error(folder.path, "encoder.json: cannot be read");
  // With merges.txt and vocab.json, as transformers names them, and with Windows line ends.
  const Folder other;
  std::string windows;
  for (const char c : merges) windows += c == '\n' ? std::string("\r\n") : std::string(1, c);
  other.write("merges.txt", windows);
  other.write("vocab.json", vocab);
  CHECK(Tokenizer::load(other.path).checksum() == Tokenizer::load(kGolden / "tokenizer_pair").checksum());
}

TEST_CASE("a damaged .tiktoken is an error that names the place") {
  const Folder folder;
  const std::string good = read(kGolden / "tokenizer_ranks.tiktoken");
  const auto broken = [&](const char* message, const std::string& text) {
    check_error(folder.write("t.tiktoken", text), message);
  };
  const auto first = [&](const std::string& line) { return line + good.substr(good.find('\n')); };
  broken("line 1: expected a token in base64", first("I? 0"));
  broken("line 1: expected a token in base64", first("IQ= 0"));
  broken("line 1: expected a token in base64", first("IQ=="));
  broken("line 1: expected a token in base64", first("IQ== x"));
  broken("line 1: expected a token in base64", first("IQ== 0 0"));
  broken("line 1: expected a token in base64", first("IQ== -1"));
  broken("line 1: expected a token in base64", first("IR== 0"));  // bits after the end
  broken("line 1: expected a token in base64", first(""));
  broken("line 2: rank 1 was given before", first("IQ== 1"));
  broken("cut off or has holes", first("IQ== 4000000000"));
  broken("cut off or has holes", good.substr(good.find('\n') + 1));
  broken("no token for the byte 0x21", first("YWI= 0"));
  broken("no token for the byte", good.substr(0, good.find(" 100\n") + 5));
  broken("no token for the byte 0x00", "");
  broken("base64", "\xFF\xFE\x01");
  const auto with_token = [&](int rank, const std::string& token) {
    const size_t end = good.find(strprintf(" %d\n", rank)), begin = good.rfind('\n', end) + 1;
    return std::string(good).replace(begin, end - begin, token);
  };
  const size_t end = good.find(" 256\n"), begin = good.rfind('\n', end) + 1;
  broken("rank 256 is not made of two tokens", with_token(256, "enp6enp6"));
  broken("rank 257 is the same token as rank 256", with_token(257, good.substr(begin, end - begin)));
  broken("there twice", with_token(599, "IQ=="));
}

TEST_CASE("a file whose name is not that of a tokenizer is refused") {
  const Folder folder;
  check_error(folder.path, "no tokenizer in this folder");
  check_error(folder.path / "absent.json", "cannot be read");
  check_error(folder.path / "absent", "there is no such file");
  check_error(folder.write("a.txt", "x"), "not a tokenizer by its name");
}
