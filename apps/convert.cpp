// Converts a model between kinds of files: Hugging Face directories, llama.cpp's GGUF, llm.c's .bin and OpenAI's
// TensorFlow checkpoints; tensor by tensor: a model is never whole in memory.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "llm/flags/command_line.h"
#include "llm/formats/gguf.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/weights.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;

namespace {

enum class Format { huggingface, llmc, gguf };

struct Target {
  fs::path path;
  Format format = Format::huggingface;
  std::optional<GgufType> type;  // none: that of the source; Q8_0 only in GGUF
  int64_t shard_bytes = 0;
  bool is_file() const { return format != Format::huggingface; }
};

// The same type elsewhere; F32 for Q8_0, whose values are F32 numbers.
Dtype dtype_of(GgufType type) { return find_dtype(gguf_type_name(type)).value_or(Dtype::f32); }

// Hugging Face's layout. A folder made here is removed again if it cannot be filled.
void write_directory(const Weights& weights, const std::optional<Tokenizer>& tokenizer, const nlohmann::json& config,
                     const Target& to) {
  const bool made = !fs::exists(to.path);
  make_directories(to.path);
  try {
    const std::optional<Dtype> dtype = to.type ? std::optional(dtype_of(*to.type)) : std::nullopt;
    save_huggingface(weights, tokenizer ? &*tokenizer : nullptr, to.path, {dtype, to.shard_bytes, config});
  } catch (...) {
    std::error_code ignored;
    if (made) fs::remove_all(to.path, ignored);
    throw;
  }
}

// Nothing that exists already is overwritten without --force.
void check_target(const Target& to, bool force) {
  if (!to.is_file()) check_output_folder("--to", to.path);
  const bool is_folder = fs::is_directory(to.path);
  if (to.is_file() && is_folder) {
    const bool llmc = to.format == Format::llmc;
    fail_usage("--to %s: expected a file for %s's format, found a folder; name a %s file", to.path.c_str(),
               llmc ? "llm.c" : "llama.cpp", llmc ? ".bin" : ".gguf");
  }
  if (to.is_file()) check_output_file(to.path);
  if (!fs::exists(to.path) || (to.is_file() && written_as_it_is(to.path))) return;
  if (!force && !(is_folder && fs::is_empty(to.path)))
    fail("%s: exists already; --force overwrites it", to.path.c_str());
}

// The bytes of a directory's weights.
int64_t weight_bytes(const fs::path& to) {
  int64_t bytes = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(to)) {
    if (entry.path().extension() == ".safetensors") bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

// The fields of the source's config.json that are kept; null if it has none.
nlohmann::json extras_of(const fs::path& from, WeightsKind kind) {
  if (kind == WeightsKind::gguf) return read_gguf_extras(from);
  const bool has_config =
      kind == WeightsKind::huggingface || (kind == WeightsKind::adapter && fs::exists(from / "config.json"));
  return has_config ? read_huggingface_extras(from) : nlohmann::json();
}

struct Written {
  std::string format;
  int64_t bytes;
};

// Without a type asked for, that of the source.
Written write_target(const Weights& weights, const std::optional<Tokenizer>& tokenizer, const nlohmann::json& extras,
                     const Target& to, GgufType of_source) {
  const GgufType type = to.type.value_or(of_source);
  if (to.format == Format::llmc) {
    const bool bf16 = type == GgufType::bf16;  // llm.c has no fp16; fp32 holds it
    const int64_t bytes = save_llmc(weights, to.path, bf16 ? LlmcType::bf16 : LlmcType::fp32);
    return {bf16 ? "llm.c version 5, bf16" : "llm.c version 3, fp32", bytes};
  }
  if (to.format == Format::gguf) {
    const GgufWritten written = save_gguf(weights, tokenizer ? &*tokenizer : nullptr, to.path, {type, extras});
    if (!written.not_in_blocks.empty()) {
      std::printf("note: rows that are not a multiple of 32 values have no Q8_0; F16 instead: %s\n",
                  list_of(written.not_in_blocks).c_str());
    }
    return {strprintf("GGUF version 3, %s", gguf_type_name(type)), written.bytes};
  }
  const fs::path kept = to.path / "tokenizer.json";
  if (!tokenizer && fs::exists(kept)) check_tokenizer(Tokenizer::load(kept), weights.config, kept.string());
  write_directory(weights, tokenizer, extras, to);
  return {strprintf("a Hugging Face directory, %s", dtype_name(dtype_of(type))), weight_bytes(to.path)};
}

// What became of the tokenizer.
void report_tokenizer(const std::optional<Tokenizer>& tokenizer, const fs::path& from, const Target& to) {
  if (to.format == Format::llmc) {
    std::printf("note: llm.c's .bin holds no tokenizer; %s\n",
                tokenizer ? "keep tokenizer.json next to it" : "the source had none either");
  } else if (tokenizer) {
    std::printf("%s: kept (%s, %d ids)\n", to.format == Format::gguf ? "tokenizer" : "tokenizer.json",
                tokenizer->kind().c_str(), tokenizer->vocab_size());
  } else if (to.format == Format::gguf) {
    std::printf("note: %s has no tokenizer, so llama.cpp will take and give ids only\n", from.c_str());
  } else {
    std::printf("note: %s has no tokenizer; put the model's tokenizer.json into %s\n", from.c_str(), to.path.c_str());
  }
}

void convert(const fs::path& from, const Target& to, bool force) {
  check_target(to, force);
  const WeightsKind kind = weights_kind(from);
  const std::unique_ptr<Weights> weights = open_weights(from);
  const std::optional<Tokenizer> tokenizer = find_tokenizer(from);
  if (tokenizer) check_tokenizer(*tokenizer, weights->config, from.string());
  const std::string stored = weights->stored_as(weights->table[0]);
  const Written written = write_target(*weights, tokenizer, extras_of(from, kind), to, *find_gguf_type(stored));

  const ModelConfig& c = weights->config;
  std::printf("read %s: %s, %s\n", from.c_str(), describe(kind), stored.c_str());
  if (stored == "Q8_0" && to.format != Format::gguf)
    std::printf("note: Q8_0 was read as the F32 numbers it stands for\n");
  std::printf("wrote %s: %s, %lld parameters, %lld bytes\n", to.path.c_str(), written.format.c_str(),
              static_cast<long long>(num_parameters(weights->table)), static_cast<long long>(written.bytes));
  std::printf("layers %d, heads %d, channels %d, context %d, vocabulary %d\n", c.num_layers, c.num_heads, c.channels,
              c.max_seq_len, c.vocab_size);
  report_tokenizer(tokenizer, from, to);
}

// The format by --format or else by the name of --to; the type by --dtype or --format llmc-bf16.
void choose_format(Target& to, const std::string& format, std::string dtype) {
  const std::string ending = ending_of(to.path);
  if (format.empty()) {
    to.format = ending == ".bin" ? Format::llmc : ending == ".gguf" ? Format::gguf : Format::huggingface;
  } else {
    to.format = format == "hf" ? Format::huggingface : format == "gguf" ? Format::gguf : Format::llmc;
  }
  if (format.starts_with("llmc-")) {
    const std::string named = format.substr(5);
    if (!dtype.empty() && dtype != named) {
      fail_usage("--format %s and --dtype %s contradict each other", format.c_str(), dtype.c_str());
    }
    dtype = named;
  }
  if (!dtype.empty()) {
    to.type = dtype == "fp32"   ? GgufType::f32
              : dtype == "bf16" ? GgufType::bf16
              : dtype == "fp16" ? GgufType::f16
                                : GgufType::q8_0;
  }
  if (to.format == Format::llmc && dtype == "fp16") fail_usage("--dtype fp16: llm.c's .bin holds fp32 or bf16");
  if (to.format != Format::gguf && dtype == "q8_0") fail_usage("--dtype q8_0 goes with a .gguf file");
  if (to.is_file() && to.shard_bytes > 0) {
    fail_usage("--shard-bytes goes with a directory; %s is one file",
               to.format == Format::llmc ? "llm.c's .bin" : "GGUF");
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Converts a model to a Hugging Face directory (config.json, model.safetensors, tokenizer.json), llama.cpp's "
      "GGUF\n"
      "or llm.c's .bin. It may come from any of them, or from OpenAI's TensorFlow checkpoint (hparams.json,\n"
      "model.ckpt.*); the source is recognised automatically. The target is GGUF if its name ends in .gguf, llm.c's\n"
      "format if it ends in .bin.\n\n"
      "  convert --from runs/stories/latest --to stories.gguf --dtype q8_0      for llama.cpp and Ollama\n"
      "  convert --from gpt2/ --to gpt2_124M_bf16.bin --dtype bf16\n"
      "  convert --from gpt2_124M.bin --to gpt2/\n"
      "  convert --from models/124M --to gpt2/          what OpenAI published");
  std::string from, format, dtype;
  Target to;
  std::string path;
  bool force = false;
  app.add_option("--from", from,
                 "model or adapter directory, TensorFlow checkpoint's directory, .gguf, or llm.c .bin (version 3 or 5)")
      ->required();
  app.add_option("--to", path, "directory, .gguf or .bin file to write")->required();
  app.add_option("--dtype", dtype,
                 "type of the weights written: fp32, bf16, fp16, or q8_0 (only GGUF); default: that of the source")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16", "q8_0"}));
  app.add_option("--shard-bytes", to.shard_bytes,
                 "cut a directory's weights into files of at most this many bytes; default: one file")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 62));
  app.add_option("--format", format,
                 "format of the target: hf, gguf or llmc; llmc-fp32 and llmc-bf16 set --dtype as well; default: by the "
                 "name of --to")
      ->check(CLI::IsMember({"hf", "gguf", "llmc", "llmc-fp32", "llmc-bf16"}));
  app.add_flag("--force", force, "overwrite what is there");
  return run_program(app, argc, argv, [&] {
    to.path = path;
    choose_format(to, format, dtype);
    convert(from, to, force);
  });
}
