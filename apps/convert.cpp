// Converts a model between kinds of files: Hugging Face directories, llm.c's .bin and OpenAI's TensorFlow checkpoints;
// tensor by tensor: a model is never whole in memory.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "llm/flags/command_line.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/formats/weights.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;

namespace {

struct Target {
  fs::path path;
  bool llmc = false;           // or a Hugging Face directory
  std::optional<Dtype> dtype;  // none: the source's dtype
  int64_t shard_bytes = 0;
};

// Hugging Face's layout. A folder made here is removed again if it cannot be filled.
void write_directory(const Weights& weights, const std::optional<Tokenizer>& tokenizer, const nlohmann::json& config,
                     const Target& to) {
  const bool made = !fs::exists(to.path);
  make_directories(to.path);
  try {
    save_huggingface(weights, tokenizer ? &*tokenizer : nullptr, to.path, {to.dtype, to.shard_bytes, config});
  } catch (...) {
    std::error_code ignored;
    if (made) fs::remove_all(to.path, ignored);
    throw;
  }
}

// Nothing that exists already is overwritten without --force.
void check_target(const Target& to, bool force) {
  if (!to.llmc) check_output_folder("--to", to.path);
  const bool is_folder = fs::is_directory(to.path);
  if (to.llmc && is_folder) {
    fail_usage("--to %s: expected a file for llm.c's format, found a folder; name a .bin file", to.path.c_str());
  }
  if (to.llmc) check_output_file(to.path);
  if (!fs::exists(to.path) || (to.llmc && written_as_it_is(to.path))) return;
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

void convert(const fs::path& from, Target to, bool force) {
  check_target(to, force);
  const WeightsKind kind = weights_kind(from);
  const std::unique_ptr<Weights> weights = open_weights(from);
  const std::optional<Tokenizer> tokenizer = find_tokenizer(from);
  if (tokenizer) check_tokenizer(*tokenizer, weights->config, from.string());
  const Dtype of_source = weights->dtype(weights->table[0]);
  int64_t bytes = 0;
  if (to.llmc) {
    if (!to.dtype) to.dtype = of_source == Dtype::bf16 ? Dtype::bf16 : Dtype::f32;  // llm.c has no fp16; fp32 holds it
    bytes = save_llmc(*weights, to.path, *to.dtype == Dtype::bf16 ? LlmcType::bf16 : LlmcType::fp32);
  } else {
    const fs::path kept = to.path / "tokenizer.json";
    if (!tokenizer && fs::exists(kept)) check_tokenizer(Tokenizer::load(kept), weights->config, kept.string());
    const bool has_config =
        kind == WeightsKind::huggingface || (kind == WeightsKind::adapter && fs::exists(from / "config.json"));
    write_directory(*weights, tokenizer, has_config ? read_huggingface_extras(from) : nlohmann::json(), to);
    bytes = weight_bytes(to.path);
  }

  const ModelConfig& c = weights->config;
  const char* dtype = dtype_name(to.dtype ? *to.dtype : of_source);
  const std::string format = !to.llmc                   ? strprintf("a Hugging Face directory, %s", dtype)
                             : *to.dtype == Dtype::bf16 ? "llm.c version 5, bf16"
                                                        : "llm.c version 3, fp32";
  std::printf("read %s: %s, %s\n", from.c_str(), describe(kind), dtype_name(of_source));
  std::printf("wrote %s: %s, %lld parameters, %lld bytes\n", to.path.c_str(), format.c_str(),
              static_cast<long long>(num_parameters(weights->table)), static_cast<long long>(bytes));
  std::printf("layers %d, heads %d, channels %d, context %d, vocabulary %d\n", c.num_layers, c.num_heads, c.channels,
              c.max_seq_len, c.vocab_size);
  if (to.llmc) {
    std::printf("note: llm.c's .bin holds no tokenizer; %s\n",
                tokenizer ? "keep tokenizer.json next to it" : "the source had none either");
  } else if (tokenizer) {
    std::printf("tokenizer.json: kept (%s, %d ids)\n", tokenizer->kind().c_str(), tokenizer->vocab_size());
  } else {
    std::printf("note: %s has no tokenizer; put the model's tokenizer.json into %s\n", from.c_str(), to.path.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Converts a model to a Hugging Face directory (config.json, model.safetensors, tokenizer.json) or llm.c's .bin.\n"
      "It may come from either, or from OpenAI's TensorFlow checkpoint (hparams.json, model.ckpt.*); the source is\n"
      "recognised automatically. The target is llm.c's format if its name ends in .bin.\n\n"
      "  convert --from gpt2/ --to gpt2_124M_bf16.bin --dtype bf16\n"
      "  convert --from gpt2_124M.bin --to gpt2/\n"
      "  convert --from models/124M --to gpt2/          what OpenAI published");
  std::string from, format, dtype;
  Target to;
  std::string path;
  bool force = false;
  app.add_option("--from", from,
                 "model or adapter directory, TensorFlow checkpoint's directory, or llm.c .bin (version 3 or 5)")
      ->required();
  app.add_option("--to", path, "directory or .bin file to write")->required();
  app.add_option("--dtype", dtype, "type of the weights written: fp32, bf16 or fp16; default: that of the source")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  app.add_option("--shard-bytes", to.shard_bytes,
                 "cut a directory's weights into files of at most this many bytes; default: one file")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 62));
  app.add_option(
         "--format", format,
         "format of the target: hf or llmc; llmc-fp32 and llmc-bf16 set --dtype as well; default: by the name of --to")
      ->check(CLI::IsMember({"hf", "llmc", "llmc-fp32", "llmc-bf16"}));
  app.add_flag("--force", force, "overwrite what is there");
  return run_program(app, argc, argv, [&] {
    to.path = path;
    to.llmc = format.empty() ? ending_of(to.path) == ".bin" : format != "hf";
    if (format.starts_with("llmc-")) {
      const std::string named = format.substr(5);
      if (!dtype.empty() && dtype != named) {
        fail_usage("--format %s and --dtype %s contradict each other", format.c_str(), dtype.c_str());
      }
      dtype = named;
    }
    if (!dtype.empty()) to.dtype = dtype == "fp32" ? Dtype::f32 : dtype == "bf16" ? Dtype::bf16 : Dtype::f16;
    if (to.llmc && dtype == "fp16") fail_usage("--dtype fp16: llm.c's .bin holds fp32 or bf16");
    if (to.llmc && to.shard_bytes > 0) fail_usage("--shard-bytes goes with a directory; llm.c's .bin is one file");
    convert(from, to, force);
  });
}
