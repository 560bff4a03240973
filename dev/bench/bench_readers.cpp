// The cost of each reader at 10, 20 and 40 MB: seconds of CPU time, and the peak memory of its process.
//   bench_readers [READER]
// Each file is made and read by a separate process. The table is in docs/formats.md.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <random>

#include "llm/corpora/rows.h"
#include "llm/finetune/instructions.h"
#include "llm/finetune/labelled_files.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/safetensors.h"
#include "llm/inference/tasks.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/json.h"
#include "llm/text/corpus.h"
#include "llm/text/shards.h"
#include "llm/text/tokenizer.h"
#include "llm/training/logger.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr size_t kMegabyte = 1'000'000;

struct Reader {
  const char* name;
  const char* file;
  std::function<void(const fs::path& file, size_t bytes)> make;
  std::function<void(const fs::path& file)> read;
};

// A file of this many bytes: `head`, then pieces, the k-th from `piece`, separated by `between`, then `tail`.
void fill(const fs::path& path, size_t bytes, const std::string& head, const char* between, const std::string& tail,
          const std::function<std::string(size_t k)>& piece) {
  FileWriter file(path);
  file.write(head);
  size_t written = head.size() + tail.size();
  for (size_t k = 0; written < bytes; ++k) {
    const std::string text = std::string(k ? between : "").append(piece(k));
    file.write(text);
    written += text.size();
  }
  file.write(tail);
  file.commit();
}

std::string sentence(size_t k) {
  return strprintf("The cat number %zu sat on the mat, and the dog ran to the other one; that was all on day %zu.", k,
                   k % 365);
}

std::string instruction(size_t k) {
  return json{{"instruction", sentence(k)}, {"input", ""}, {"output", sentence(k + 1) + " " + sentence(k + 2)}}.dump();
}

// The k-th token after the 256 bytes: letters, of which the last is new and the others are an earlier token.
std::vector<std::string> some_tokens(size_t n) {
  std::vector<std::string> tokens = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m",
                                     "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"};
  for (size_t k = 0; tokens.size() < n + 26; ++k) {
    for (char c = 'a'; c <= 'z' && tokens.size() < n + 26; ++c) tokens.push_back(tokens[k] + c);
  }
  tokens.erase(tokens.begin(), tokens.begin() + 26);
  return tokens;
}

// Bytes per token in the file of each format, so that the file has about the size asked for.
void make_vocabulary(const fs::path& dir, size_t bytes, const char* format) {
  const bool is_json = std::strcmp(format, "json") == 0, tiktoken = std::strcmp(format, "tiktoken") == 0;
  const std::vector<std::string> tokens = some_tokens(bytes / (tiktoken ? 20 : 34));
  const Tokenizer plain = Tokenizer::bytes();
  plain.save(dir / "bytes.json");
  const json root = read_json_object(dir / "bytes.json");
  std::vector<std::string> written(256);
  for (const auto& [token, id] : root["model"]["vocab"].items()) {
    if (id < 256) written[id.get<size_t>()] = token;
  }
  std::string vocab, merges, ranks;
  const auto base64 = [](const std::string& text) {
    constexpr const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (size_t i = 0; i < text.size(); i += 3) {
      uint32_t bits = 0;
      for (size_t k = 0; k < 3; ++k) {
        bits = bits << 8 | (i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0);
      }
      for (size_t k = 0; k < 4; ++k) out += i + k <= text.size() ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
    }
    return out;
  };
  for (size_t id = 0; id < 256 + tokens.size(); ++id) {
    if (tiktoken) {
      ranks += base64(id < 256 ? std::string(1, static_cast<char>(id)) : tokens[id - 256]) + strprintf(" %zu\n", id);
      continue;
    }
    vocab += (id ? ",\n" : "") + json(id < 256 ? written[id] : tokens[id - 256]).dump() + strprintf(": %zu", id);
    if (id < 256) continue;
    const std::string& token = tokens[id - 256];
    const std::string pair = token.substr(0, token.size() - 1) + " " + token.back();
    merges += is_json ? (id > 256 ? ",\n\"" : "\"") + pair + "\"" : pair + "\n";
  }
  if (tiktoken) {
    std::ofstream(dir / "a.tiktoken") << ranks;
  } else if (is_json) {
    std::ofstream(dir / "tokenizer.json")
        << R"({"added_tokens": [], "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}, "model": {"vocab": {)"
        << vocab << "}, \"merges\": [" << merges << "]}}";
  } else {
    std::ofstream(dir / "vocab.json") << "{" << vocab << "}";
    std::ofstream(dir / "merges.txt") << "#version: 0.2\n" << merges;
  }
}

void make_letters(const fs::path& path, size_t bytes, size_t letters) {
  std::mt19937 rng(1);
  std::string text(bytes, 'a');
  for (char& c : text) c = static_cast<char>('a' + rng() % letters);
  std::ofstream(path) << text;
}

Tokenizer some_bpe() {
  return Tokenizer::train_bpe("the the then than that other there aaaa aaaa aaaaaaaa aaaaaaaa", 300);
}

std::vector<Reader> make_readers() {
  const auto in_folder = [](auto read) { return [read](const fs::path& p) { read(p.parent_path()); }; };
  const auto vocabulary = [](const char* format) {
    return [format](const fs::path& p, size_t n) { make_vocabulary(p.parent_path(), n, format); };
  };
  return {
      {"nothing", "none", [](const fs::path&, size_t) {}, [](const fs::path&) {}},
      {"JSON object (config.json)", "config.json",
       [](const fs::path& p, size_t n) {
         fill(p, n, "{", ",", "}", [](size_t k) { return strprintf("\"field%zu\": \"%s\"", k, sentence(k).c_str()); });
       },
       [](const fs::path& p) { read_json_object(p); }},
      {"JSON of empty arrays", "a.json",
       [](const fs::path& p, size_t n) { fill(p, n, "{\"a\":[", ",", "]}", [](size_t) { return "[]"; }); },
       [](const fs::path& p) { read_json_object(p); }},
      {"rows to train on, .json", "a.json",
       [](const fs::path& p, size_t n) { fill(p, n, "[", ",\n", "]", instruction); },
       [](const fs::path& p) { read_instructions(p); }},
      {"rows to train on, .jsonl", "a.jsonl",
       [](const fs::path& p, size_t n) { fill(p, n, "", "\n", "", instruction); },
       [](const fs::path& p) { read_instructions(p); }},
      {"near_duplicates' rows, .json", "a.json",
       [](const fs::path& p, size_t n) { fill(p, n, "[", ",\n", "]", instruction); },
       [](const fs::path& p) { read_rows(p, {}); }},
      {"near_duplicates' rows, .jsonl", "a.jsonl",
       [](const fs::path& p, size_t n) { fill(p, n, "", "\n", "", instruction); },
       [](const fs::path& p) { read_rows(p, {}); }},
      {"near_duplicates' rows, .txt", "a.txt", [](const fs::path& p, size_t n) { fill(p, n, "", "\n", "", sentence); },
       [](const fs::path& p) { read_rows(p, {}); }},
      {"labelled texts, .tsv", "a.tsv",
       [](const fs::path& p, size_t n) {
         fill(p, n, "label\ttext\n", "\n", "", [](size_t k) { return (k % 2 ? "ham\t" : "spam\t") + sentence(k); });
       },
       [](const fs::path& p) { read_labelled(p, {}); }},
      {"labelled texts, .csv", "a.csv",
       [](const fs::path& p, size_t n) {
         fill(p, n, "label,text\n", "\n", "",
              [](size_t k) { return (k % 2 ? "ham,\"" : "spam,\"") + sentence(k) + "\""; });
       },
       [](const fs::path& p) { read_labelled(p, {}); }},
      {"questions, .jsonl", "a.jsonl",
       [](const fs::path& p, size_t n) {
         fill(p, n, "", "\n", "", [](size_t k) {
           return json{{"question", sentence(k)}, {"choices", {sentence(1), sentence(2)}}, {"answer", 1}}.dump();
         });
       },
       [](const fs::path& p) { read_choices(p); }},
      {"metrics.jsonl of a resumed run", "metrics.jsonl",
       [](const fs::path& p, size_t n) {
         fill(p, n, "", "\n", "\n", [](size_t k) {
           return json{{"step", k}, {"loss", 4.25}, {"lr", 0.001}, {"tokens_per_second", 12345.5}}.dump();
         });
       },
       [](const fs::path& p) { MetricsLog(p.parent_path(), INT64_MAX); }},
      {"safetensors' header", "a.safetensors",
       [](const fs::path& p, size_t n) {
         size_t tensors = 0;
         fill(p, n, "        {", ",", "}", [&](size_t k) {
           tensors = k + 1;
           return strprintf(
               R"("transformer.h.%zu.attn.c_attn.weight":{"dtype":"U8","shape":[1,1],"data_offsets":[%zu,%zu]})", k, k,
               k + 1);
         });
         const uint64_t length = fs::file_size(p) - 8;
         std::fstream file(p, std::ios::in | std::ios::out | std::ios::binary);
         file.write(reinterpret_cast<const char*>(&length), 8);
         file.seekp(0, std::ios::end);
         file << std::string(tensors, '\0');
       },
       [](const fs::path& p) { SafetensorsFile{p}; }},
      {"tokenizer.json", "tokenizer.json", vocabulary("json"), [](const fs::path& p) { Tokenizer::load(p); }},
      {"tokenizer.json of added tokens", "tokenizer.json",
       [](const fs::path& p, size_t n) {
         make_vocabulary(p.parent_path(), 100, "json");
         std::string rest(MappedFile(p).text());
         fill(p, n, "{\"added_tokens\": [", ",\n", "]," + rest.substr(rest.find(']') + 2), [](size_t k) {
           return strprintf(R"({"id": %zu, "content": "<|token_%zu|>", "single_word": false, "special": true})",
                            258 + k, k);
         });
       },
       [](const fs::path& p) { Tokenizer::load(p); }},
      {"vocab.json and merges.txt", "vocab.json", vocabulary("pair"),
       in_folder([](const fs::path& d) { Tokenizer::load(d); })},
      {".tiktoken", "a.tiktoken", vocabulary("tiktoken"), [](const fs::path& p) { Tokenizer::load(p); }},
      {"token shard", "a.bin", [](const fs::path& p, size_t n) { write_shard(p, std::vector<int32_t>(n / 2, 7), 300); },
       [](const fs::path& p) {
         const TokenSequence tokens = TokenSequence::open(p.string());
         tokens.check_vocabulary(300);
         std::vector<int32_t> window(1024);
         for (int64_t at = 0; at + 1024 <= tokens.size(); at += 1024) tokens.copy(at, 1024, window.data());
       }},
      {"text", "a.txt", [](const fs::path& p, size_t n) { fill(p, n, "", "\n", "", sentence); },
       [](const fs::path& p) { read_corpus(p, false); }},
      {"text that --lossy mends", "a.txt", [](const fs::path& p, size_t n) { fill(p, n, "", "\xFF\n", "", sentence); },
       [](const fs::path& p) { read_corpus(p, true); }},
      {"text to token shards", "a.txt", [](const fs::path& p, size_t n) { fill(p, n, "", "\n", "", sentence); },
       [](const fs::path& p) {
         prepare_shards(read_corpus(p, false), some_bpe(), 0.1, p.parent_path() / "shards", 1);
       }},
      {"encoding one word of 26 letters", "a.txt", [](const fs::path& p, size_t n) { make_letters(p, n, 26); },
       [](const fs::path& p) { some_bpe().encode(read_corpus(p, false)); }},
      {"encoding one word of one letter", "a.txt", [](const fs::path& p, size_t n) { make_letters(p, n, 1); },
       [](const fs::path& p) { some_bpe().encode(read_corpus(p, false)); }},
      {"model.safetensors", "model.safetensors",
       [](const fs::path& p, size_t n) {
         const auto model = make_cpu_model(ModelConfig{64, 256, static_cast<int>(n / 4 / 788'736) + 1, 4, 256}, false);
         init_weights(*model, 1);
         save_model(*model, nullptr, p.parent_path());
         save_llmc(ModelWeights(*model), p.parent_path() / "model.bin", LlmcType::fp32);
       },
       in_folder([](const fs::path& d) {
         const auto weights = open_weights(d);
         std::vector<float> values;
         for (const ParamTensor& tensor : weights->table) {
           values.resize(static_cast<size_t>(tensor.size()));
           weights->read(tensor, values.data());
         }
       })},
  };
}

// The CPU time and the peak memory of a process that does `work`; throws if that fails.
std::pair<double, double> measure(const std::function<void()>& work) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      work();
      std::_Exit(0);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "error: %s\n", error.what());
      std::_Exit(1);
    }
  }
  int status = 0;
  struct rusage used;
  if (child < 0 || ::wait4(child, &status, 0, &used) < 0 || status != 0) fail("a process failed");
  const auto of = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return {of(used.ru_utime) + of(used.ru_stime), static_cast<double>(used.ru_maxrss) * 1024 / kMegabyte};
}

}  // namespace

int main(int argc, char** argv) try {
  std::printf("| reader | MB | s | peak MB |\n|---|---|---|---|\n");
  for (const Reader& reader : make_readers()) {
    if (argc > 1 && !std::strstr(reader.name, argv[1])) continue;
    for (const size_t size : {10, 20, 40}) {
      const fs::path dir = fs::temp_directory_path() / strprintf("wrought_bench_%d", ::getpid());
      fs::remove_all(dir);
      fs::create_directories(dir);
      measure([&] { reader.make(dir / reader.file, size * kMegabyte); });
      const auto [seconds, peak] = measure([&] { reader.read(dir / reader.file); });
      std::printf("| %s | %zu | %.2f | %.0f |\n", reader.name, size, seconds, peak);
      fs::remove_all(dir);
    }
  }
} catch (const Error& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
