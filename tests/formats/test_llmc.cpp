#include <doctest/doctest.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <fstream>

#include "llm/formats/float16.h"
#include "llm/formats/llmc.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;
using doctest::Contains;

namespace {

const fs::path kGolden = GOLDEN_DIR;
const fs::path kFile = fs::temp_directory_path() / strprintf("wrought_test_llmc_%d.bin", getpid());

// The model of checkpoint_gpt2, whose tensors the golden .bin files hold too (dev/reference/checkpoint_llmc.py).
std::unique_ptr<Model> golden_model() {
  auto model = make_cpu_model(read_model_config(kGolden / "checkpoint_gpt2"), true);
  load_weights(*model, kGolden / "checkpoint_gpt2");
  return model;
}

std::vector<float> read_tensor(const Model& model, const ParamTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.size()));
  model.read(Arena::params, tensor, values.data());
  return values;
}

std::string contents(const fs::path& path) { return std::string(MappedFile(path).text()); }

void write_file(const std::string& bytes) {
  fs::remove(kFile);
  std::ofstream(kFile, std::ios::binary) << bytes;
}

void check_refused(const std::string& bytes, const char* reason) {
  write_file(bytes);
  CHECK_THROWS_WITH_AS(read_llmc_header(kFile), Contains(reason), Error);
  CHECK_THROWS_WITH_AS(read_llmc_header(kFile), Contains(kFile.c_str()), Error);
  const auto model = make_cpu_model(ModelConfig{12, 103, 3, 5, 10}, true);
  CHECK_THROWS_AS(load_weights(*model, kFile), Error);
}

std::string with_field(std::string bytes, size_t field, int32_t value) {
  std::memcpy(bytes.data() + field * sizeof value, &value, sizeof value);
  return bytes;
}

}  // namespace

TEST_CASE("files have llm.c's layout, byte for byte") {
  const auto model = golden_model();
  save_llmc(ModelWeights(*model), kFile, LlmcType::fp32);
  CHECK(contents(kFile) == contents(kGolden / "checkpoint_llmc_fp32.bin"));
  save_llmc(ModelWeights(*model), kFile, LlmcType::bf16);
  CHECK(contents(kFile) == contents(kGolden / "checkpoint_llmc_bf16.bin"));
}

TEST_CASE("a file is read into the same parameters, bf16 after rounding") {
  const auto expected = golden_model();
  for (const LlmcType type : {LlmcType::fp32, LlmcType::bf16}) {
    const fs::path path = kGolden / (type == LlmcType::fp32 ? "checkpoint_llmc_fp32.bin" : "checkpoint_llmc_bf16.bin");
    const LlmcHeader header = read_llmc_header(path);
    CHECK(header.config == expected->config);
    CHECK(header.padded_vocab_size == 128);
    CHECK(header.type == type);
    const auto model = make_cpu_model(header.config, true);
    load_weights(*model, path);
    for (const ParamTensor& tensor : model->table) {
      std::vector<float> values = read_tensor(*expected, tensor);
      if (type == LlmcType::bf16) {
        for (float& value : values) value = float_from_bf16(bf16_from_float(value));
      }
      CHECK_MESSAGE(read_tensor(*model, tensor) == values, tensor.name);
    }
  }
}

TEST_CASE("a vocabulary with another padding is read; its padding is not") {
  const std::string golden = contents(kGolden / "checkpoint_llmc_fp32.bin");
  const size_t header = 1024, row = 10 * sizeof(float), V = 103, Vp = 128;
  const std::string rest = golden.substr(header + Vp * row);
  const auto expected = golden_model(), model = make_cpu_model(expected->config, true);
  for (const size_t rows : {V, size_t{107}, size_t{300}}) {
    const std::string padding((rows - V) * row, 'x');
    write_file(with_field(golden.substr(0, header + V * row), 7, static_cast<int32_t>(rows)) + padding + rest);
    CHECK(read_llmc_header(kFile).padded_vocab_size == static_cast<int>(rows));
    load_weights(*model, kFile);
    for (const ParamTensor& tensor : model->table)
      CHECK_MESSAGE(read_tensor(*model, tensor) == read_tensor(*expected, tensor), tensor.name);
  }
}

TEST_CASE("damaged files are refused with the reason") {
  const std::string golden = contents(kGolden / "checkpoint_llmc_bf16.bin");
  check_refused("", "expected at least the header's 1024");
  check_refused(golden.substr(0, 1023), "1023 bytes, expected at least");
  check_refused(with_field(golden, 0, 20240520), "magic number 20240520, expected 20240326");
  check_refused(with_field(golden, 1, 1), "version 1, expected 3 (fp32) or 5 (bf16)");
  check_refused(with_field(golden, 1, 3), "cut off");  // fp32 would take twice the bytes
  check_refused(with_field(golden, 2, 0), "context length is 0");
  check_refused(with_field(golden, 3, -5), "vocabulary size is -5");
  check_refused(with_field(golden, 3, INT32_MAX), "vocabulary size");
  check_refused(with_field(golden, 4, 1 << 30), "number of layers");
  check_refused(with_field(golden, 4, 4096), "cut off");
  check_refused(with_field(golden, 5, 3), "3 heads do not divide 10 channels");
  check_refused(with_field(golden, 6, -1), "number of channels is -1");
  check_refused(with_field(golden, 7, 102), "padded vocabulary of 102, expected at least the vocabulary's 103");
  check_refused(with_field(golden, 7, INT32_MAX), "cut off");
  check_refused(with_field(golden, 200, 7), "header field 200 is 7");
  check_refused(golden.substr(0, golden.size() - 1), "cut off");
  check_refused(golden + "x", "too long");
  CHECK_THROWS_AS(read_llmc_header("/nonexistent.bin"), Error);

  const auto other = make_cpu_model(ModelConfig{12, 103, 3, 2, 10}, true);  // same sizes, other heads
  CHECK_THROWS_WITH_AS(load_weights(*other, kGolden / "checkpoint_llmc_bf16.bin"), Contains("another shape"), Error);
  fs::remove(kFile);
}

TEST_CASE("models that do not fit the format are refused; a missing bias is written as zeros") {
  ModelConfig config{4, 7, 2, 1, 3};
  const auto refused = [&](const ModelConfig& other, const char* reason) {
    CHECK_THROWS_WITH_AS(save_llmc(ModelWeights(*make_cpu_model(other, true)), kFile, LlmcType::fp32), Contains(reason),
                         Error);
    CHECK_FALSE(fs::exists(kFile));
  };
  ModelConfig untied = config, classifier = config, looks_ahead = config, without_bias = config;
  untied.tied_head = looks_ahead.causal = without_bias.qkv_bias = false;
  classifier.num_classes = 2;
  refused(untied, "no place for a head that is not the token embedding");
  refused(classifier, "no place for a classifier");
  refused(looks_ahead, "no place for attention that is not causal");

  const auto model = make_cpu_model(without_bias, true), loaded = make_cpu_model(config, true);
  init_weights(*model, 3);
  save_llmc(ModelWeights(*model), kFile, LlmcType::fp32);
  load_weights(*loaded, kFile);
  for (const ParamTensor& tensor : model->table) {
    for (const ParamTensor& other : loaded->table) {
      if (other.name == tensor.name) CHECK(read_tensor(*loaded, other) == read_tensor(*model, tensor));
      if (other.name.ends_with("qkvb")) CHECK(read_tensor(*loaded, other) == std::vector<float>(9, 0.0f));
    }
  }
  fs::remove(kFile);
}
