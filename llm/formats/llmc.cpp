#include "llm/formats/llmc.h"

#include <cstring>
#include <map>
#include <span>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;

namespace {

constexpr int32_t kMagic = 20240326;
constexpr int kHeaderInts = 256;
constexpr int64_t kHeaderBytes = kHeaderInts * sizeof(int32_t);

Dtype dtype_of(LlmcType type) { return type == LlmcType::fp32 ? Dtype::f32 : Dtype::bf16; }

// The table in the order of the file: the blocks' tensors are gathered field by field.
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
  const int64_t expected = kHeaderBytes + elements * element_bytes(dtype_of(result.type));
  if (static_cast<int64_t>(file.size()) != expected) {
    fail("%s: %zu bytes, expected %lld for the shape in its header; the file is %s", where, file.size(),
         static_cast<long long>(expected), static_cast<int64_t>(file.size()) < expected ? "cut off" : "too long");
  }
  return result;
}

class LlmcWeights final : public Weights {
 public:
  explicit LlmcWeights(MappedFile file) : LlmcWeights(check_header(file), std::move(file)) {}

  void read(const ParamTensor& tensor, float* out) const override {
    ParamTensor as_is = tensor;
    as_is.transposed = false;  // these files hold matrices as memory does
    const size_t bytes = static_cast<size_t>(tensor.file_size() * element_bytes(dtype(tensor)));
    from_file(out, {at_.at(tensor.name), bytes}, dtype(tensor), as_is,
              file_.path().string() + ": tensor " + in_quotes(tensor.name));
  }
  Dtype dtype(const ParamTensor&) const override { return dtype_of(header_.type); }

 private:
  LlmcWeights(const LlmcHeader& header, MappedFile&& file)
      : Weights(header.config, param_table(header.config)), file_(std::move(file)), header_(header) {
    const std::byte* from = file_.data() + kHeaderBytes;
    for (const ParamTensor* tensor : file_order(table, config.num_layers)) {
      at_[tensor->name] = from;
      const bool padded = tensor->role == Role::embedding;  // the file's own padding is skipped
      from += (padded ? header.padded_vocab_size : tensor->file_rows) * tensor->cols * element_bytes(dtype(*tensor));
    }
  }

  MappedFile file_;
  LlmcHeader header_;
  std::map<std::string, const std::byte*> at_;  // by the table's name
};

}  // namespace

LlmcHeader read_llmc_header(const fs::path& path) { return check_header(MappedFile(path)); }

std::unique_ptr<Weights> open_llmc(const fs::path& path) { return std::make_unique<LlmcWeights>(MappedFile(path)); }

int64_t save_llmc(const Weights& weights, const fs::path& path, LlmcType type) {
  const ModelConfig& c = weights.config;
  if (c.has_head() || !c.causal) {
    fail("%s: llm.c's format has no place for %s; save it as a Hugging Face directory", path.c_str(),
         c.num_classes > 0 ? "a classifier"
         : c.has_head()    ? "a head that is not the token embedding"
                           : "attention that is not causal");
  }
  const int32_t header[kHeaderInts] = {
      kMagic,     static_cast<int32_t>(type), c.max_seq_len, c.vocab_size, c.num_layers, c.num_heads,
      c.channels, c.padded_vocab_size()};
  FileWriter file(path);
  file.write(header, sizeof header);
  int64_t bytes = sizeof header;
  std::vector<float> values;
  const std::vector<ParamTensor> table = file_table(c);
  for (const ParamTensor* tensor : file_order(table, c.num_layers)) {
    const float* from = view_or_read(weights, *tensor, values);
    narrow(from, tensor->size(), dtype_of(type), path.string() + ": " + tensor->name,
           [&](std::span<const std::byte> part) {
             file.write(part.data(), part.size());
             bytes += static_cast<int64_t>(part.size());
           });
  }
  file.commit();
  return bytes;
}
