// The forms in which transformers 4 and 5 write a tokenizer: each gives the same ids, or is refused by name.
#include <doctest/doctest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "llm/support/error.h"
#include "llm/text/tokenizer.h"
#include "llm/text/tokenizer_impl.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

const std::string kSplit = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string kSplitOfTiktoken = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const std::string kText = "the the's<|endoftext|> the";
const std::vector<int32_t> kIds = {258, 259, 6, 82, 260, 259};  // as in tokenizers 0.23 and transformers 5.24

// 256 bytes, four merges (the first occurs only without splitting), <|endoftext|>.
json plain() {
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  json vocab;
  int32_t id = 0;
  for (const unsigned byte : gpt2_byte_order()) {
    const unsigned code = id < 188 ? byte : 0x100 + static_cast<unsigned>(id) - 188;
    const std::string two = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    vocab[code < 0x80 ? std::string(1, static_cast<char>(code)) : two] = id++;
  }
  for (const char* token : {"eĠ", "th", "the", "Ġthe", "<|endoftext|>"}) vocab[token] = id++;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", 260},
             {"content", "<|endoftext|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", {"e Ġ", "t h", "th e", "Ġ the"}}}}};
}

json sequence(const char* list, std::vector<json> parts) { return {{"type", "Sequence"}, {list, std::move(parts)}}; }

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

json split(const std::string& pattern, const char* behavior = "Isolated") {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", false}};
}

const json kA = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, kB = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}},
           kMark = {{"SpecialToken", {{"id", "<|endoftext|>"}, {"type_id", 0}}}};

json a_template(std::vector<json> single, std::vector<json> pair) {
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens",
           {{"<|endoftext|>", {{"id", "<|endoftext|>"}, {"ids", {260}}, {"tokens", {"<|endoftext|>"}}}}}}};
}

void write(const fs::path& path, const json& value) { std::ofstream(path) << value.dump(); }

struct Form {
  const char* name;
  std::function<void(json&)> change;
  const char* error = nullptr;  // null: it is read and gives kIds
};

}  // namespace

TEST_CASE("tokenizer.json: each form has the ids of transformers or is refused by name") {
  const std::vector<Form> forms = {
      {"plain", [](json&) {}},
      // What happens to the pieces afterwards.
      {"post_processor absent", [](json& j) { j.erase("post_processor"); }},
      {"ByteLevel", [](json& j) { j["post_processor"] = byte_level(true); }},
      {"transformers 5",
       [](json& j) {
         j["post_processor"] = a_template({kA}, {kA, kB});
         j["post_processor"]["special_tokens"] = json::object();
       }},
      {"a template that names a special token and does not use it",
       [](json& j) {
         j["post_processor"] = a_template({kA}, {kA, kB});
       }},
      {"tokens between two texts only",
       [](json& j) {
         j["post_processor"] = a_template({kA}, {kA, kMark, kB});
       }},
      {"Sequence",
       [](json& j) {
         j["post_processor"] = sequence("processors", {byte_level(true), a_template({kA}, {kA})});
       }},
      {"Sequence of nothing", [](json& j) { j["post_processor"] = sequence("processors", {}); }},
      {"a token first",
       [](json& j) {
         j["post_processor"] = a_template({kMark, kA}, {kA, kB});
       },
       "post_processor TemplateProcessing adds tokens"},
      {"a token last",
       [](json& j) {
         j["post_processor"] = a_template({kA, kMark}, {kA, kB});
       },
       "post_processor TemplateProcessing adds tokens"},
      {"the text twice",
       [](json& j) {
         j["post_processor"] = a_template({kA, kA}, {kA, kB});
       },
       "post_processor TemplateProcessing adds tokens"},
      {"no text",
       [](json& j) {
         j["post_processor"] = a_template({}, {kA, kB});
       },
       "post_processor TemplateProcessing adds tokens"},
      {"a token in a Sequence",
       [](json& j) {
         j["post_processor"] = sequence("processors", {byte_level(true), a_template({kMark, kA}, {kA})});
       },
       "post_processor TemplateProcessing adds tokens"},
      {"RobertaProcessing",
       [](json& j) {
         j["post_processor"] = {{"type", "RobertaProcessing"}};
       },
       "post_processor RobertaProcessing adds tokens"},
      {"a Sequence without its list",
       [](json& j) {
         j["post_processor"] = {{"type", "Sequence"}};
       },
       "a Sequence without the list processors"},
      // Where text is cut.
      {"use_regex absent", [](json& j) { j["pre_tokenizer"].erase("use_regex"); }},
      {"Sequence of ByteLevel", [](json& j) { j["pre_tokenizer"] = sequence("pretokenizers", {byte_level(true)}); }},
      {"Split and ByteLevel",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {split(kSplit), byte_level(false)});
       }},
      {"Split and ByteLevel, tiktoken's pattern",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {split(kSplitOfTiktoken), byte_level(false)});
       }},
      {"Split twice",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {split(kSplit), byte_level(true)});
       }},
      {"no split", [](json& j) { j["pre_tokenizer"] = byte_level(false); }, "use_regex is false"},
      {"no split, in a Sequence", [](json& j) { j["pre_tokenizer"] = sequence("pretokenizers", {byte_level(false)}); },
       "use_regex is false"},
      {"another pattern",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {split("\\s+"), byte_level(false)});
       },
       "pre_tokenizer.Split.pattern is {\"Regex\":\"\\\\s+\"}"},
      {"another behavior",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {split(kSplit, "Removed"), byte_level(false)});
       },
       "pre_tokenizer.Split.behavior is \"Removed\""},
      {"Split only", [](json& j) { j["pre_tokenizer"] = split(kSplit); }, "has no ByteLevel"},
      {"Split of bytes",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {byte_level(true), split(kSplit)});
       },
       "pre_tokenizer Split is not supported"},
      {"Digits",
       [](json& j) {
         j["pre_tokenizer"] = sequence("pretokenizers", {{{"type", "Digits"}}, byte_level(true)});
       },
       "pre_tokenizer Digits is not supported"},
      {"a space first, in a Sequence",
       [](json& j) {
         json part = byte_level(false);
         part["add_prefix_space"] = true;
         j["pre_tokenizer"] = sequence("pretokenizers", {split(kSplit), part});
       },
       "pre_tokenizer.ByteLevel.add_prefix_space is true"},
      // The model.
      {"merges as pairs",
       [](json& j) { j["model"]["merges"] = json::parse(R"([["e", "Ġ"], ["t", "h"], ["th", "e"], ["Ġ", "the"]])"); }},
      {"options absent",
       [](json& j) {
         for (const char* option : {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                    "fuse_unk", "byte_fallback", "ignore_merges"}) {
           j["model"].erase(option);
         }
       }},
      {"empty affixes",
       [](json& j) { j["model"]["continuing_subword_prefix"] = j["model"]["end_of_word_suffix"] = ""; }},
      {"an unknown token that no text makes",
       [](json& j) {
         j["model"]["unk_token"] = "<|endoftext|>";
         j["model"]["fuse_unk"] = true;
       }},
      {"ignore_merges", [](json& j) { j["model"]["ignore_merges"] = true; }, "model.ignore_merges is true"},
      {"byte_fallback", [](json& j) { j["model"]["byte_fallback"] = true; }, "model.byte_fallback is true"},
      {"WordLevel", [](json& j) { j["model"]["type"] = "WordLevel"; }, "model.type is \"WordLevel\""},
      // The steps before and after.
      {"normalizer Sequence of nothing", [](json& j) { j["normalizer"] = sequence("normalizers", {}); }},
      {"normalizer",
       [](json& j) {
         j["normalizer"] = sequence("normalizers", {{{"type", "Lowercase"}}});
       },
       "normalizer is {"},
      {"decoder null", [](json& j) { j["decoder"] = nullptr; }},
      {"decoder Sequence",
       [](json& j) {
         j["decoder"] = sequence("decoders", {byte_level(true), {{"type", "Fuse"}}});
       }},
      {"decoder Metaspace",
       [](json& j) {
         j["decoder"] = {{"type", "Metaspace"}};
       },
       "decoder Metaspace is not supported"},
      {"truncation, which transformers sets call by call",
       [](json& j) {
         j["truncation"] = {{"max_length", 2}};
       }},
      // Added tokens.
      {"added token without flags",
       [](json& j) {
         j["added_tokens"] = {{{"id", 260}, {"content", "<|endoftext|>"}}};
       }},
      {"added token not special", [](json& j) { j["added_tokens"][0]["special"] = false; }},
      {"added token normalized", [](json& j) { j["added_tokens"][0]["normalized"] = true; }},
      {"added token not in the vocabulary", [](json& j) { j["model"]["vocab"].erase("<|endoftext|>"); }},
      {"added token rstrip", [](json& j) { j["added_tokens"][0]["rstrip"] = true; }, "added_tokens[0].rstrip is true"},
      {"added token single_word", [](json& j) { j["added_tokens"][0]["single_word"] = true; },
       "added_tokens[0].single_word is true"},
  };
  const TemporaryFolder folder;
  for (const Form& form : forms) {
    CAPTURE(form.name);
    json root = plain();
    form.change(root);
    write(folder.path / "tokenizer.json", root);
    if (form.error) {
      CHECK_THROWS_WITH_AS(Tokenizer::load(folder.path), doctest::Contains(form.error), Error);
    } else {
      CHECK(Tokenizer::load(folder.path).encode(kText, Special::parsed) == kIds);
    }
  }
}

TEST_CASE("tokenizer_config.json next to a tokenizer: only a space put first changes ids") {
  const TemporaryFolder folder;
  write(folder.path / "tokenizer.json", plain());
  const json accepted[] = {
      json::object(),
      {{"model_max_length", 1024}},
      {{"tokenizer_class", "GPT2TokenizerFast"}, {"add_prefix_space", false}, {"unk_token", "<|endoftext|>"}},
      {{"backend", "tokenizers"}, {"tokenizer_class", "TokenizersBackend"}, {"eos_token", "<|endoftext|>"}},
      {{"tokenizer_class", "GPT2Tokenizer"}, {"add_bos_token", false}, {"errors", "replace"}, {"pad_token", nullptr}},
      {{"added_tokens_decoder", {{"260", {{"content", "<|endoftext|>"}, {"special", true}}}}}}};
  for (const json& config : accepted) {
    CAPTURE(config.dump());
    write(folder.path / "tokenizer_config.json", config);
    CHECK(Tokenizer::load(folder.path).encode(kText, Special::parsed) == kIds);
  }
  write(folder.path / "tokenizer_config.json", {{"tokenizer_class", "GPT2Tokenizer"}, {"add_prefix_space", true}});
  for (const fs::path& path : {folder.path, folder.path / "tokenizer.json"}) {
    CHECK_THROWS_WITH_AS(Tokenizer::load(path), doctest::Contains("tokenizer_config.json: add_prefix_space is true"),
                         Error);
  }
}

TEST_CASE("vocab.json and merges.txt, with the tokens that transformers 4 adds in a separate file") {
  const TemporaryFolder folder;
  const json root = plain();
  write(folder.path / "vocab.json", root["model"]["vocab"]);
  std::ofstream(folder.path / "merges.txt") << "#version: 0.2\ne Ġ\nt h\nth e\nĠ the\n";
  CHECK(Tokenizer::load(folder.path).encode(kText, Special::parsed) == kIds);
  write(folder.path / "added_tokens.json", {{"<pad>", 261}, {"<|endoftext|>", 260}});
  const Tokenizer tokenizer = Tokenizer::load(folder.path);
  CHECK(tokenizer.vocab_size() == 262);
  CHECK(tokenizer.encode("the<pad>" + kText, Special::parsed) ==
        std::vector<int32_t>{258, 261, 258, 259, 6, 82, 260, 259});
  write(folder.path / "added_tokens.json", {{"<|endoftext|>", 7}});
  CHECK_THROWS_WITH_AS(Tokenizer::load(folder.path), doctest::Contains("\"<|endoftext|>\" has the id 7, but 260 in"),
                       Error);
}
