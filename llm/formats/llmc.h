// llm.c's model files (train_gpt2.py and train_gpt2.cu write them): a header of 256 int32, then the parameters in the
// layout of wrought's own arena, but field by field: wte, wpe, then ln1w of every layer, ln1b of every layer, ...,
// lnfw, lnfb.
//
//   header  [0] magic 20240326  [1] version 3 (fp32) or 5 (bf16)  [2] context  [3] V  [4] L  [5] NH  [6] C  [7] Vp
//           then zeros
//
// wte has Vp rows, those from V on being padding. Such a file has no tokenizer.
#pragma once

#include <filesystem>
#include <memory>

#include "llm/formats/weights.h"

enum class LlmcType { fp32 = 3, bf16 = 5 };  // the version in the header

struct LlmcHeader {
  ModelConfig config;
  int padded_vocab_size;  // Vp of the file: any number from V on
  LlmcType type;
};

// Throws Error for a bad magic or version, a field out of range, and a file shorter or longer than its header asks for.
LlmcHeader read_llmc_header(const std::filesystem::path& path);

// Throws Error as above.
std::unique_ptr<Weights> open_llmc(const std::filesystem::path& path);

// Writes the parameters in one step (a temporary file, renamed), tensor by tensor; bf16 rounds to the nearest, ties to
// even. Returns how many bytes.
int64_t save_llmc(const Weights& weights, const std::filesystem::path& path, LlmcType type);
