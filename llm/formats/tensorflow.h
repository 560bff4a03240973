// OpenAI's GPT-2 as OpenAI published it: TensorFlow checkpoints, read without TensorFlow.
//
//   hparams.json                           {"n_vocab", "n_ctx", "n_embd", "n_head", "n_layer"}
//   checkpoint                             text; model_checkpoint_path: "model.ckpt"
//   model.ckpt.index                       a table: tensor name -> type, shape, data file, offset, size, checksum
//   model.ckpt.data-00000-of-00001         the tensors' bytes; or several such files
//   encoder.json  vocab.bpe                the vocabulary, for Tokenizer::load
//
// The table has LevelDB's format: blocks of sorted keys, each key stored as the length that it shares with the key
// before it and the rest; a block of the blocks' places; and a footer with that block's place and a magic number. The
// values are protocol buffers (TensorFlow's tensor_bundle.proto).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "llm/formats/weights.h"

// Shape from DIR/hparams.json. Throws Error if it is missing or not JSON, or if a field is missing, of the wrong type
// or absurd.
ModelConfig read_hparams(const std::filesystem::path& dir);

// Throws Error, naming file and tensor, for a table or an entry that is damaged, cut off or of a kind that wrought does
// not read (compressed, big-endian, sliced), and for a missing, extra or wrongly shaped tensor. Weights::read() throws
// it for a tensor whose bytes do not fit their checksum.
std::unique_ptr<Weights> open_tensorflow(const std::filesystem::path& dir);

// "model/h3/attn/c_attn/w" for "h.3.attn.c_attn.weight".
std::string tensorflow_name(const ParamTensor& tensor);
