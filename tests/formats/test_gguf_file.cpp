// The GGUF container: every kind of damage is an error that names it, and no damage does more.
#include <doctest/doctest.h>

#include <functional>

#include "llm/formats/gguf.h"
#include "llm/formats/gguf_file.h"
#include "llm/formats/huggingface.h"
#include "tests/helpers/model_files.h"
#include "tests/helpers/test_set.h"

namespace fs = std::filesystem;

namespace {

const fs::path kFile = fs::temp_directory_path() / strprintf("wrought_test_gguf_file_%d.gguf", getpid());

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
std::string raw_string(const std::string& text) { return raw(uint64_t{text.size()}) + text; }

enum : uint32_t { kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBool, kString, kArray, kUint64 };

std::string value(uint32_t number) { return raw(uint32_t{kUint32}) + raw(number); }
std::string value(float number) { return raw(uint32_t{kFloat32}) + raw(number); }
std::string value(bool flag) { return raw(uint32_t{kBool}) + raw(static_cast<uint8_t>(flag)); }
std::string value(const std::string& text) { return raw(uint32_t{kString}) + raw_string(text); }
std::string value(const std::vector<std::string>& texts) {
  std::string bytes = raw(uint32_t{kArray}) + raw(uint32_t{kString}) + raw(uint64_t{texts.size()});
  for (const std::string& text : texts) bytes += raw_string(text);
  return bytes;
}
std::string value(const std::vector<int32_t>& numbers) {
  std::string bytes = raw(uint32_t{kArray}) + raw(uint32_t{kInt32}) + raw(uint64_t{numbers.size()});
  for (const int32_t number : numbers) bytes += raw(number);
  return bytes;
}

// A file in parts, each of which a test may change. Written without GgufWriter.
struct Parts {
  struct Tensor {
    std::string name;
    std::vector<uint64_t> shape;
    uint32_t type = 0;
    std::string bytes = "";
    std::optional<uint64_t> offset = {};  // none: where it belongs
  };
  std::string magic = "GGUF", tail;
  uint32_t version = 3;
  std::optional<uint64_t> num_tensors = {}, num_entries = {};  // none: as many as there are
  size_t alignment = 32;
  std::vector<std::pair<std::string, std::string>> metadata;  // key, and type and value as bytes
  std::vector<Tensor> tensors;

  std::string& at(const std::string& key) {
    for (auto& [k, bytes] : metadata) {
      if (k == key) return bytes;
    }
    return metadata.emplace_back(key, "").second;
  }
  void remove(const std::string& key) {
    std::erase_if(metadata, [&](const auto& entry) { return entry.first == key; });
  }
  Tensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  }
  void remove_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  }
  std::string bytes() const {
    std::string file =
        magic + raw(version) + raw(num_tensors.value_or(tensors.size())) + raw(num_entries.value_or(metadata.size()));
    for (const auto& [key, bytes] : metadata) file += raw_string(key) + bytes;
    const auto pad = [&](std::string& text) { text.resize((text.size() + alignment - 1) / alignment * alignment); };
    std::string data;
    for (const Tensor& tensor : tensors) {
      file += raw_string(tensor.name) + raw(static_cast<uint32_t>(tensor.shape.size()));
      for (const uint64_t size : tensor.shape) file += raw(size);
      file += raw(tensor.type) + raw(tensor.offset.value_or(data.size()));
      data += tensor.bytes;
      pad(data);
    }
    pad(file);
    return file + data + tail;
  }
};

// A model of 1 layer, 1 head, 2 channels, a context of 3, and the tokenizer of `tokens` ids; 0: 5 ids without one.
Parts good(int tokens) {
  Parts parts;
  parts.metadata = {{"general.architecture", value(std::string("gpt2"))},
                    {"gpt2.block_count", value(1u)},
                    {"gpt2.context_length", value(3u)},
                    {"gpt2.embedding_length", value(2u)},
                    {"gpt2.feed_forward_length", value(8u)},
                    {"gpt2.attention.head_count", value(1u)},
                    {"gpt2.attention.layer_norm_epsilon", value(1e-5f)},
                    {"tokenizer.ggml.model", value(std::string(tokens > 0 ? "gpt2" : "none"))},
                    {"unknown", raw(uint32_t{kArray}) + raw(uint32_t{kUint64}) + raw(uint64_t{2}) + raw(uint64_t{1}) +
                                    raw(uint64_t{2})}};
  if (tokens > 0) {
    const Tokenizer tokenizer = Tokenizer::train_bpe("the the the cat cat cat hat hat hat that that", tokens - 1);
    SpelledVocabulary spelled = tokenizer.spelled();
    std::vector<int32_t> types;
    for (const bool special : spelled.special) types.push_back(special ? 3 : 1);
    spelled.tokens.push_back("[PAD]");
    types.push_back(5);
    parts.at("tokenizer.ggml.pre") = value(std::string("gpt-2"));
    parts.at("tokenizer.ggml.tokens") = value(spelled.tokens);
    parts.at("tokenizer.ggml.token_type") = value(types);
    parts.at("tokenizer.ggml.merges") = value(spelled.merges);
    parts.at("tokenizer.ggml.eos_token_id") = value(static_cast<uint32_t>(tokenizer.end_of_text()));
  }
  const uint64_t V = tokens > 0 ? static_cast<uint64_t>(tokens) : 5, C = 2;
  const std::pair<const char*, std::vector<uint64_t>> shapes[] = {
      {"token_embd.weight", {C, V}},         {"position_embd.weight", {C, 3}},
      {"blk.0.attn_norm.weight", {C}},       {"blk.0.attn_norm.bias", {C}},
      {"blk.0.attn_qkv.weight", {C, 3 * C}}, {"blk.0.attn_qkv.bias", {3 * C}},
      {"blk.0.attn_output.weight", {C, C}},  {"blk.0.attn_output.bias", {C}},
      {"blk.0.ffn_norm.weight", {C}},        {"blk.0.ffn_norm.bias", {C}},
      {"blk.0.ffn_up.weight", {C, 4 * C}},   {"blk.0.ffn_up.bias", {4 * C}},
      {"blk.0.ffn_down.weight", {4 * C, C}}, {"blk.0.ffn_down.bias", {C}},
      {"output_norm.weight", {C}},           {"output_norm.bias", {C}}};
  float next = 0.25f;
  for (const auto& [name, shape] : shapes) {
    Parts::Tensor tensor{name, shape};
    uint64_t n = 1;
    for (const uint64_t size : shape) n *= size;
    for (uint64_t k = 0; k < n; ++k) tensor.bytes += raw(next += 0.125f);
    parts.tensors.push_back(tensor);
  }
  return parts;
}

// The error of reading everything in a file of these bytes; "nothing" if it succeeds.
std::string error_of(const std::string& bytes) {
  const fs::path path = kFile;
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  std::string error = refusal(path);
  if (error == "nothing") {
    try {
      if (const auto tokenizer = find_tokenizer(path)) {
        tokenizer->decode(tokenizer->encode("The cat's\xFF hat<|endoftext|>", Special::parsed));
      }
      read_gguf_extras(path);
    } catch (const Error& e) {
      error = e.what();
    }
  }
  fs::remove(path);
  const std::string where = path.string() + ": ";
  CHECK((error == "nothing" || error.starts_with(where)));
  return error.starts_with(where) ? error.substr(where.size()) : error;
}

// What a file becomes by a change, and why it is then refused.
void refused(const std::function<void(Parts&)>& change, const char* reason, int tokens = 0) {
  Parts parts = good(tokens);
  change(parts);
  const std::string error = error_of(parts.bytes());
  CHECK(error != "nothing");
  CHECK_MESSAGE(error.find(reason) != std::string::npos, error << "  expected: " << std::string(reason));
}
void refused_tokenizer(const std::function<void(Parts&)>& change, const char* reason) { refused(change, reason, 262); }

}  // namespace

TEST_CASE("a file is read whatever wrote it") {
  CHECK(error_of(good(0).bytes()) == "nothing");
  CHECK(error_of(good(262).bytes()) == "nothing");
  Parts p = good(262);  // another alignment, other types, another order
  p.alignment = 64;
  p.at("general.alignment") = value(64u);
  p.tensor("output_norm.bias") = {"output_norm.bias", {2}, 1, std::string("\0\x3c\0\x3c", 4)};
  std::swap(p.tensors.front(), p.tensors.back());
  std::swap(p.metadata.front(), p.metadata.back());
  CHECK(error_of(p.bytes()) == "nothing");
  p = good(0);
  p.alignment = 1;
  p.at("general.alignment") = value(1u);
  CHECK(error_of(p.bytes()) == "nothing");
  p = good(0);
  p.tensors.push_back({"output.weight", {2, 5}, 30, std::string(20, '\x01')});
  const Folder folder;
  write_text(folder.path / "m", p.bytes());  // recognised by its first bytes
  CHECK(is_gguf(folder.path / "m"));
  CHECK_FALSE(open_weights(folder.path / "m")->config.tied_head);
}

TEST_CASE("a damaged header is refused with the reason") {
  refused([&](Parts& p) { p.magic = "GGML"; }, "the file does not begin with \"GGUF\"");
  refused([&](Parts& p) { p.version = 1; }, "version 1, expected 3");
  refused([&](Parts& p) { p.version = 2; }, "version 2, expected 3");
  refused([&](Parts& p) { p.version = 4; }, "version 4, expected 3");
  refused([&](Parts& p) { p.version = 3u << 24; }, "big-endian, expected a little-endian file");
  refused([&](Parts& p) { p.num_tensors = UINT64_MAX; }, "18446744073709551615 tensors, but only");
  refused([&](Parts& p) { p.num_entries = uint64_t{1} << 61; }, "2305843009213693952 metadata entries, but only");
  refused([&](Parts& p) { p.num_entries = 11; }, "metadata");
  for (const uint64_t n : {15, 17}) refused([&](Parts& p) { p.num_tensors = n; }, "");
  refused([&](Parts& p) { p.tail = "x"; }, "it has been extended");
  refused([&](Parts& p) { p.tail = std::string(32, '\0'); }, "it has been extended");
  CHECK(error_of("").find("does not begin with \"GGUF\"") != std::string::npos);
}

TEST_CASE("damaged metadata is refused with the reason") {
  refused([&](Parts& p) { p.at("general.architecture") = value(std::string("llama")); },
          "is \"llama\", expected \"gpt2\"");
  refused([&](Parts& p) { p.remove("general.architecture"); }, "general.architecture is missing");
  refused([&](Parts& p) { p.at("general.architecture") = value(7u); },
          "\"general.architecture\" is UINT32, expected STRING");
  refused([&](Parts& p) { p.metadata.push_back(p.metadata[1]); },
          "the metadata has the key \"gpt2.block_count\" twice");
  refused([&](Parts& p) { p.at("") = value(1u); }, "has 0 bytes, expected 1 to 65535");
  refused([&](Parts& p) { p.at(std::string(70000, 'k')) = value(1u); }, "has 70000 bytes, expected 1 to 65535");
  refused([&](Parts& p) { p.at("x") = raw(13u) + raw(1u); },
          "metadata \"x\" has the type 13, expected a number from 0 to 12");
  refused([&](Parts& p) { p.at("x") = raw(9u) + raw(9u) + raw(uint64_t{1}); }, "has the type 9 inside an array");
  refused([&](Parts& p) { p.at("x") = raw(uint32_t{kString}) + raw(uint64_t{1} << 30); },
          "takes 1073741824 bytes from byte");
  refused([&](Parts& p) { p.at("x") = raw(uint32_t{kString}) + raw(UINT64_MAX); },
          "takes 18446744073709551615 bytes from byte");
  refused([&](Parts& p) { p.at("x") = raw(9u) + raw(uint32_t{kString}) + raw(uint64_t{1} << 62); },
          "strings in metadata \"x\", but only");
  refused([&](Parts& p) { p.at("x") = raw(9u) + raw(uint32_t{kUint64}) + raw(uint64_t{1} << 61); },
          "values in metadata \"x\", but only");
  refused([&](Parts& p) { p.at("general.alignment") = value(0u); }, "general.alignment is 0, expected a power of two");
  refused([&](Parts& p) { p.at("general.alignment") = value(48u); },
          "general.alignment is 48, expected a power of two");
  refused([&](Parts& p) { p.at("general.alignment") = value(1u << 31); }, "cut off");
  refused([&](Parts& p) { p.remove("gpt2.context_length"); }, "gpt2.context_length is missing");
  refused([&](Parts& p) { p.at("gpt2.context_length") = value(0u); }, "the context length is 0");
  refused([&](Parts& p) { p.at("gpt2.context_length") = value(UINT32_MAX); },
          "gpt2.context_length is 4294967295, expected a number");
  refused([&](Parts& p) { p.at("gpt2.context_length") = value(4u); },
          "tensor \"position_embd.weight\" is (2, 3) F32, expected (2, 4)");
  refused([&](Parts& p) { p.at("gpt2.block_count") = value(0u); }, "the number of layers is 0");
  refused([&](Parts& p) { p.at("gpt2.block_count") = value(4096u); },
          "gpt2.block_count is 4096, but there are only 16 tensors");
  refused([&](Parts& p) { p.at("gpt2.block_count") = value(2u); },
          "tensor \"blk.1.attn_norm.weight\" is missing, expected (2)");
  refused([&](Parts& p) { p.at("gpt2.attention.head_count") = value(3u); }, "3 heads do not divide 2 channels");
  refused([&](Parts& p) { p.at("gpt2.attention.head_count") = raw(uint32_t{kUint64}) + raw(uint64_t{1}); },
          "is UINT64, expected UINT32");
  refused([&](Parts& p) { p.at("gpt2.attention.head_count") = value(std::vector<int32_t>{1}); },
          "is an array of INT32, expected UINT32");
  refused([&](Parts& p) { p.at("gpt2.attention.head_count_kv") = value(2u); },
          "head_count_kv is 2, expected 1: GPT-2's heads do not share");
  refused([&](Parts& p) { p.at("gpt2.feed_forward_length") = value(9u); }, "feed_forward_length is 9, expected 8");
  refused([&](Parts& p) { p.at("gpt2.vocab_size") = value(9u); }, "vocab_size is 9, expected 5");
  refused([&](Parts& p) { p.at("gpt2.attention.causal") = value(false); }, "gpt2.attention.causal is false");
  refused([&](Parts& p) { p.at("gpt2.attention.layer_norm_epsilon") = value(1e-6f); },
          "layer_norm_epsilon is 1e-06, expected 1e-05");
  refused([&](Parts& p) { p.remove("gpt2.attention.layer_norm_epsilon"); },
          "layer_norm_epsilon is missing, expected 1e-05");
}

TEST_CASE("damaged tensors are refused with the reason") {
  refused([&](Parts& p) { p.tensors[4].type = 12; },
          "tensor \"blk.0.attn_qkv.weight\": Q4_K; wrought reads F32, F16, BF16 and Q8_0");
  refused([&](Parts& p) { p.tensors[4].type = 999; }, "tensor \"blk.0.attn_qkv.weight\": type 999; wrought reads");
  refused([&](Parts& p) { p.tensors[4].type = 8; }, "(2, 6) Q8_0, whose rows are not a multiple of 32 values");
  refused([&](Parts& p) { p.tensors[4].shape.assign(5, 1); }, "5 dimensions, expected at most 4");
  refused([&](Parts& p) { p.tensors[4].shape.assign(1u << 20, 1); }, "1048576 dimensions, expected at most 4");
  refused([&](Parts& p) { p.tensors[4].shape[0] = uint64_t{1} << 63; }, "a dimension of 9223372036854775808");
  refused([&](Parts& p) { p.tensors[4].shape[0] = uint64_t{1} << 61; }, "too large for any file");
  refused([&](Parts& p) { p.tensors[4].shape = {uint64_t{1} << 40, uint64_t{1} << 40}; }, "too large for any file");
  refused([&](Parts& p) { p.tensors[15].shape = {uint64_t{1} << 50}; }, "it is cut off");
  refused(
      [&](Parts& p) {
        p.tensors[4].shape = {6, 2};
      },
      "tensor \"blk.0.attn_qkv.weight\" is (6, 2) F32, expected (2, 6)");
  refused([&](Parts& p) { p.tensors[4].shape = {2, 6, 1}; }, "is (2, 6, 1) F32, expected (2, 6)");
  refused([&](Parts& p) { p.tensors[2].shape = {}, p.tensors[2].bytes.resize(4); },
          "\"blk.0.attn_norm.weight\" is () F32, expected (2)");
  refused([&](Parts& p) { p.tensors[2].shape = {0}, p.tensors[2].bytes = ""; },
          "\"blk.0.attn_norm.weight\" is (0) F32, expected (2)");
  refused([&](Parts& p) { p.tensors[3].name = "blk.0.attn_norm.weight"; },
          "the tensor \"blk.0.attn_norm.weight\" is there twice");
  refused([&](Parts& p) { p.tensors[3].name = ""; }, "the name of tensor 3 has 0 bytes");
  refused([&](Parts& p) { p.tensors[3].name = std::string(64, 'n'); },
          "the name of tensor 3 has 64 bytes, expected 1 to 63");
  refused([&](Parts& p) { p.tensors[3].name = "blk.0.attn_norm.scale"; },
          "tensor \"blk.0.attn_norm.bias\" is missing, expected (2)");
  refused([&](Parts& p) { p.remove_tensor("token_embd.weight"); }, "tensor \"token_embd.weight\" is missing");
  refused([&](Parts& p) { p.tensors[0].shape = {10}; },
          "tensor \"token_embd.weight\" is (10) F32, expected it with a row for each token");
  refused(
      [&](Parts& p) {
        p.tensors.push_back({"extra", {1}, 0, "1234"});
      },
      "tensor \"extra\" is not part of a GPT-2 of 1 layers");
  refused([&](Parts& p) { p.tensors.clear(); }, "tensor \"token_embd.weight\" is missing");
  refused([&](Parts& p) { p.tensors[3].offset = 0; }, "begin at 0 of the data, overlapping the tensor before it");
  refused([&](Parts& p) { p.tensors[3].offset = 1024; },
          "begin at 1024 of the data, leaving a hole after the tensor before it");
  refused([&](Parts& p) { p.tensors[3].offset = 7; }, "begin at 7 of the data, not at a multiple of the alignment");
  refused([&](Parts& p) { p.tensors[3].offset = UINT64_MAX - 31; }, "leaving a hole");
}

TEST_CASE("a tokenizer that does not fit together or splits otherwise is refused with the reason") {
  const std::string at = "tokenizer.ggml.";
  refused_tokenizer([&](Parts& p) { p.at(at + "model") = value(std::string("llama")); },
                    "is \"llama\", expected \"gpt2\"");
  refused_tokenizer([&](Parts& p) { p.at(at + "pre") = value(std::string("llama-bpe")); },
                    "is \"llama-bpe\", expected \"gpt-2\"");
  refused_tokenizer([&](Parts& p) { p.remove(at + "pre"); }, "tokenizer.ggml.pre is missing, expected \"gpt-2\"");
  refused_tokenizer([&](Parts& p) { p.at(at + "add_bos_token") = value(true); },
                    "add_bos_token is true, expected false");
  refused_tokenizer([&](Parts& p) { p.at(at + "add_space_prefix") = value(true); },
                    "add_space_prefix is true, expected false");
  refused_tokenizer([&](Parts& p) { p.remove(at + "tokens"); },
                    "tokens is missing, expected a token for each of the 262 rows");
  refused_tokenizer(
      [&](Parts& p) {
        p.at(at + "tokens") = value(std::vector<std::string>{"a", "b"});
      },
      "tokens is a list of 2, expected");
  refused_tokenizer([&](Parts& p) { p.at(at + "tokens") = value(std::vector<std::string>(262, "a")); },
                    "has \"a\" twice");
  refused_tokenizer([&](Parts& p) { p.at(at + "tokens") = value(std::vector<std::string>(262, "")); },
                    "an empty token");
  refused_tokenizer([&](Parts& p) { p.at(at + "tokens") = value(std::vector<int32_t>(262, 1)); },
                    "expected an array of STRING");
  refused_tokenizer([&](Parts& p) { p.remove(at + "token_type"); },
                    "token_type is missing, expected a type for each of the 262 tokens");
  refused_tokenizer([&](Parts& p) { p.at(at + "token_type") = value(std::vector<int32_t>(3, 1)); },
                    "token_type is a list of 3");
  refused_tokenizer([&](Parts& p) { p.at(at + "token_type") = value(std::vector<int32_t>(262, 6)); },
                    "has the type 6, expected 1 (normal)");
  refused_tokenizer([&](Parts& p) { p.at(at + "token_type") = value(std::vector<int32_t>(262, 5)); },
                    "merges[0]: \"a\" is not in the vocabulary");
  std::vector<int32_t> hole(262, 1);
  hole[260] = 5;
  refused_tokenizer([&](Parts& p) { p.at(at + "token_type") = value(hole); },
                    "has the type 5, expected 1 (normal), 3 (control) or 4");
  refused_tokenizer([&](Parts& p) { p.remove(at + "merges"); }, "tokenizer.ggml.merges is missing");
  const auto merges = [](const char* merge) { return value(std::vector<std::string>{merge}); };
  refused_tokenizer([&](Parts& p) { p.at(at + "merges") = merges("th"); },
                    "merges[0] is \"th\", expected \"left right\"");
  refused_tokenizer([&](Parts& p) { p.at(at + "merges") = merges("t h e"); },
                    "merges[0] is \"t h e\", expected \"left right\"");
  refused_tokenizer([&](Parts& p) { p.at(at + "merges") = merges("q q"); },
                    "merges[0]: \"qq\" is not in the vocabulary");
  refused_tokenizer([&](Parts& p) { p.at(at + "eos_token_id") = value(262u); },
                    "eos_token_id is 262, expected an id below 262");
}

TEST_CASE("a file that is cut off anywhere is refused") {
  for (const int tokens : {0, 262}) {
    const std::string whole = good(tokens).bytes();
    const size_t data = whole.size() - 24;  // without the bytes that fill up the last tensor's 8
    const size_t step = quick_set() ? 7 : 1;
    for (size_t n = 0; n < whole.size(); n += step) {
      CAPTURE(n);
      CHECK((error_of(whole.substr(0, n)) == "nothing") == (n == data));
    }
  }
}

TEST_CASE("a file with any byte changed is read or refused, nothing else") {
  for (const int tokens : {0, 262}) {
    const std::string whole = good(tokens).bytes();
    int read = 0, refused = 0;
    const auto try_with = [&](size_t at, char byte) {
      if (whole[at] == byte) return;
      std::string bytes = whole;
      bytes[at] = byte;
      ++(error_of(bytes) == "nothing" ? read : refused);
    };
    for (size_t at = 0; at < whole.size(); at += quick_set() ? 11 : 1) {
      for (const char byte : {'\0', '\x7f', '\xff'}) try_with(at, byte);
      try_with(at, static_cast<char>(whole[at] ^ 1));
    }
    CHECK(read > 0);  // tensors' values, unknown keys
    CHECK(refused > 0);
  }
}

TEST_CASE("a writer refuses tensors out of order, of another size, or missing") {
  const Folder folder;
  const fs::path path = folder.path / "m.gguf";
  GgufMetadata metadata;
  metadata.add("general.architecture", std::string("gpt2"));
  const std::vector<TensorHeader> headers = {{"a", "F32", {3}}, {"b", "Q8_0", {32, 2}}};
  const std::string bytes(68, '\x01');
  const auto part = [&](size_t n) { return std::as_bytes(std::span(bytes.data(), n)); };
  CHECK_THROWS_AS(GgufWriter(path, metadata, {{"a", "Q8_0", {33}}}), std::logic_error);
  CHECK_THROWS_AS(GgufWriter(path, metadata, {{"a", "Q4_K", {256}}}), std::logic_error);
  CHECK_THROWS_AS(GgufWriter(path, metadata, {{std::string(64, 'a'), "F32", {1}}}), std::logic_error);
  {
    GgufWriter writer(path, metadata, headers);
    CHECK_THROWS_AS(writer.write("b", part(68)), std::logic_error);
    CHECK_THROWS_AS(writer.write("a", part(13)), std::logic_error);
    writer.write("a", part(5));
    writer.write("a", part(7));
    CHECK_THROWS_AS(writer.write("a", part(1)), std::logic_error);
    CHECK_THROWS_AS(writer.commit(), std::logic_error);
  }
  CHECK(fs::is_empty(folder.path));
  GgufWriter writer(path, metadata, headers);
  writer.write("a", part(12));
  writer.write("b", part(68));
  const int64_t size = writer.commit();
  CHECK(static_cast<uintmax_t>(size) == fs::file_size(path));
  const GgufFile file(path, "gpt2");
  CHECK(file.tensors().size() == 2);
  CHECK(file.find("a")->bytes.size() == 12);
  CHECK(file.find("b")->bytes.size() == 68);
  CHECK(file.find("b")->shape == std::vector<int64_t>{32, 2});
  CHECK_FALSE(file.find("c"));
  CHECK_FALSE(file.number("absent"));
}
