#include "gpt2/llmc.h"

#include <cstring>
#include <span>

#include "gpt2/error.h"
#include "gpt2/file.h"
#include "gpt2/float16.h"

namespace fs = std::filesystem;

namespace {

constexpr int32_t kMagic = 20240326;
constexpr int kHeaderInts = 256;
constexpr int64_t kHeaderBytes = kHeaderInts * sizeof(int32_t);

int64_t element_bytes(LlmcType type) { return type == LlmcType::fp32 ? 4 : 2; }

// The table in the order of the file: what a block repeats is gathered field by field.
std::vector<const ParamTensor*> file_order(const std::vector<ParamTensor>& table, int num_layers) {
  const size_t L = static_cast<size_t>(num_layers), embeddings = 2,
               final_norm = 2;  // tensors before and after the blocks
  const size_t fields = (table.size() - embeddings - final_norm) / L;
  std::vector<const ParamTensor*> order = {&table[0], &table[1]};
  for (size_t field = 0; field < fields; ++field) {
    for (size_t l = 0; l < L; ++l) order.push_back(&table[embeddings + l * fields + field]);
  }
  order.push_back(&table[table.size() - 2]);
  order.push_back(&table[table.size() - 1]);
  return order;
}

LlmcHeader check_header(const MappedFile& file) {
  const char* where = file.path().c_str();
  int32_t header[kHeaderInts];
  if (file.size() < sizeof header)
    fail("%s: %zu bytes, expected at least the header's %zu", where, file.size(), sizeof header);
  std::memcpy(header, file.data(), sizeof header);
  if (header[0] != kMagic)
    fail("%s: magic number %d, expected %d; this is not a model file of llm.c", where, header[0], kMagic);
  if (header[1] != 3 && header[1] != 5) fail("%s: version %d, expected 3 (fp32) or 5 (bf16)", where, header[1]);

  LlmcHeader result;
  result.type = static_cast<LlmcType>(header[1]);
  result.config.max_seq_len = header[2];
  result.config.vocab_size = header[3];
  result.config.num_layers = header[4];
  result.config.num_heads = header[5];
  result.config.channels = header[6];
  result.padded_vocab_size = header[7];
  validate(result.config, where);
  if (header[7] < header[3])
    fail("%s: padded vocabulary of %d, expected at least the vocabulary's %d", where, header[7], header[3]);
  for (int i = 8; i < kHeaderInts; ++i) {
    if (header[i] != 0) fail("%s: header field %d is %d, expected 0", where, i, header[i]);
  }
  // Sizes below cannot overflow: validate() bounds them to some 2^57 elements.
  const int64_t elements = (int64_t{header[7]} - header[3]) * header[6] + num_parameters(param_table(result.config));
  const int64_t expected = kHeaderBytes + elements * element_bytes(result.type);
  if (static_cast<int64_t>(file.size()) != expected) {
    fail("%s: %zu bytes, expected %lld for the shape in its header; the file is %s", where, file.size(),
         static_cast<long long>(expected), static_cast<int64_t>(file.size()) < expected ? "cut off" : "too long");
  }
  return result;
}

}  // namespace

LlmcHeader read_llmc_header(const fs::path& path) { return check_header(MappedFile(path)); }

void load_llmc(Model& model, const fs::path& path) {
  const MappedFile file(path);
  const LlmcHeader header = check_header(file);
  if (header.config != model.config) fail("%s: the file holds a model of another shape", path.c_str());
  const std::byte* from = file.data() + kHeaderBytes;
  std::vector<float> values;
  for (const ParamTensor* tensor : file_order(model.table, model.config.num_layers)) {
    values.assign(static_cast<size_t>(tensor->size()), 0.0f);
    const size_t n = static_cast<size_t>(tensor->file_size());
    if (header.type == LlmcType::fp32) {
      std::memcpy(values.data(), from, n * sizeof(float));
    } else {
      for (size_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, from + i * sizeof bits, sizeof bits);
        values[i] = float_from_bf16(bits);
      }
    }
    model.write(Arena::params, *tensor, values.data());
    const bool padded = tensor == &model.table[0];  // wte: the file's own padding is passed over
    const int64_t rows = padded ? header.padded_vocab_size : tensor->file_rows;
    const size_t bytes = static_cast<size_t>(rows * tensor->cols * element_bytes(header.type));
    drop_pages({from, bytes});
    from += bytes;
  }
}

void save_llmc(const Model& model, const fs::path& path, LlmcType type) {
  const ModelConfig& c = model.config;
  const int32_t header[kHeaderInts] = {
      kMagic,     static_cast<int32_t>(type), c.max_seq_len, c.vocab_size, c.num_layers, c.num_heads,
      c.channels, c.padded_vocab_size()};
  FileWriter file(path);
  file.write(header, sizeof header);
  std::vector<float> values;
  std::vector<uint16_t> rounded;
  for (const ParamTensor* tensor : file_order(model.table, c.num_layers)) {
    values.resize(static_cast<size_t>(tensor->size()));
    model.read(Arena::params, *tensor, values.data());
    if (type == LlmcType::fp32) {
      file.write(values.data(), values.size() * sizeof(float));
    } else {
      rounded.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) rounded[i] = bf16_from_float(values[i]);
      file.write(rounded.data(), rounded.size() * sizeof(uint16_t));
    }
  }
  file.commit();
}
