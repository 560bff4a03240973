// A model from one form to another: Hugging Face directories and llm.c's .bin files.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/command_line.h"
#include "gpt2/checkpoint.h"
#include "gpt2/file.h"
#include "gpt2/llmc.h"

namespace fs = std::filesystem;

namespace {

enum class Format { hf, llmc_fp32, llmc_bf16 };

LlmcType llmc_type(Format format) { return format == Format::llmc_bf16 ? LlmcType::bf16 : LlmcType::fp32; }

struct Source {
  std::unique_ptr<Model> model;
  std::optional<Tokenizer> tokenizer;
};

Source read_source(const fs::path& from) {
  Source source;
  if (!fs::exists(from)) fail("%s: no such file or folder", from.c_str());
  if (!fs::is_directory(from)) {
    source.model = make_cpu_model(read_llmc_header(from).config, true);
    load_llmc(*source.model, from);
    return source;
  }
  const ModelConfig config = read_model_config(from);
  check_weights(config, from);
  source.model = make_cpu_model(config, true);
  load_weights(*source.model, from);
  for (const char* name : {"tokenizer.json", "vocab.json", "encoder.json"}) {
    if (source.tokenizer || !fs::exists(from / name)) continue;
    source.tokenizer = Tokenizer::load(from / name);
    check_tokenizer(*source.tokenizer, config, (from / name).string());
  }
  return source;
}

// Hugging Face's layout. A folder made here goes again if it cannot be filled.
int64_t write_directory(const Source& source, const fs::path& to) {
  const bool made = !fs::exists(to);
  make_directories(to);
  try {
    save_model(*source.model, source.tokenizer ? &*source.tokenizer : nullptr, to);
  } catch (...) {
    std::error_code ignored;
    if (made) fs::remove_all(to, ignored);
    throw;
  }
  return static_cast<int64_t>(fs::file_size(to / "model.safetensors"));
}

// Nothing that is there already is written over without --force.
void check_target(const fs::path& to, Format format, bool force) {
  if (!fs::exists(to)) return;
  if (format == Format::hf && !fs::is_directory(to)) fail_usage("--to %s: expected a folder, found a file", to.c_str());
  if (format != Format::hf && fs::is_directory(to)) {
    fail_usage("--to %s: expected a file for llm.c's format, found a folder; name a .bin file", to.c_str());
  }
  const bool empty_folder = fs::is_directory(to) && fs::is_empty(to);
  if (!force && !empty_folder) fail("%s: is there already; --force writes over it", to.c_str());
}

void convert(const fs::path& from, const fs::path& to, Format format, bool force) {
  check_target(to, format, force);
  const Source source = read_source(from);
  int64_t bytes = 0;
  if (format == Format::hf) {
    if (!source.tokenizer && fs::exists(to / "tokenizer.json")) {  // it stays, so it has to fit
      check_tokenizer(Tokenizer::load(to / "tokenizer.json"), source.model->config, (to / "tokenizer.json").string());
    }
    bytes = write_directory(source, to);
  } else {
    save_llmc(*source.model, to, llmc_type(format));
    bytes = static_cast<int64_t>(fs::file_size(to));
  }

  const ModelConfig& c = source.model->config;
  const char* names[] = {"a Hugging Face directory, F32", "llm.c version 3, fp32", "llm.c version 5, bf16"};
  std::printf("wrote %s: %s, %lld parameters, %lld bytes\n", to.c_str(), names[static_cast<int>(format)],
              static_cast<long long>(num_parameters(source.model->table)), static_cast<long long>(bytes));
  std::printf("layers %d, heads %d, channels %d, context %d, vocabulary %d\n", c.num_layers, c.num_heads, c.channels,
              c.max_seq_len, c.vocab_size);
  if (format == Format::hf && source.tokenizer) {
    std::printf("tokenizer.json: kept (%s, %d ids)\n", source.tokenizer->kind().c_str(),
                source.tokenizer->vocab_size());
  } else if (format == Format::hf) {
    std::printf("note: %s has no tokenizer; put the model's tokenizer.json into %s\n", from.c_str(), to.c_str());
  } else {
    std::printf("note: llm.c's .bin holds no tokenizer; %s\n",
                source.tokenizer ? "keep tokenizer.json beside it" : "the source had none either");
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Converts a model between a Hugging Face directory (config.json, model.safetensors, tokenizer.json) and llm.c's "
      ".bin\n"
      "file. The source is recognised by itself; the target is llm.c's if its name ends in .bin.\n\n"
      "  convert --from gpt2/ --to gpt2_124M_bf16.bin --format llmc-bf16\n"
      "  convert --from gpt2_124M.bin --to gpt2/");
  std::string from, to, format;
  bool force = false;
  app.add_option("--from", from, "model directory, or llm.c .bin file (version 3 or 5)")->required();
  app.add_option("--to", to, "directory or .bin file to write")->required();
  app.add_option("--format", format,
                 "of the target: hf, llmc-fp32 (32-bit floats) or llmc-bf16; default: by the name of --to")
      ->check(CLI::IsMember({"hf", "llmc-fp32", "llmc-bf16"}));
  app.add_flag("--force", force, "write over what is there");
  return run_program(app, argc, argv, [&] {
    if (format.empty()) format = fs::path(to).extension() == ".bin" ? "llmc-fp32" : "hf";
    convert(from, to,
            format == "hf"          ? Format::hf
            : format == "llmc-bf16" ? Format::llmc_bf16
                                    : Format::llmc_fp32,
            force);
  });
}
