#include "llm/formats/tensorflow.h"

#include <cstring>
#include <map>
#include <optional>

#include "llm/formats/crc32c.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// ---- bytes, front to back ------------------------------------------------------------------------------------------

class Reader {
 public:
  Reader(std::string_view bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}
  bool done() const { return bytes_.empty(); }
  const std::string& where() const { return where_; }

  std::string_view take(uint64_t n, const char* what) {
    if (n > bytes_.size()) {
      fail("%s: %s takes %llu bytes, but %zu are left; the file is cut off or damaged", where_.c_str(), what,
           static_cast<unsigned long long>(n), bytes_.size());
    }
    const std::string_view taken = bytes_.substr(0, n);
    bytes_.remove_prefix(n);
    return taken;
  }
  uint32_t fixed32(const char* what) { return load<uint32_t>(take(4, what)); }
  uint64_t fixed64(const char* what) { return load<uint64_t>(take(8, what)); }
  // Seven bits per byte, the lowest first; the eighth means that another byte follows.
  uint64_t varint(const char* what) {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint64_t byte = static_cast<unsigned char>(take(1, what)[0]);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    fail("%s: %s is a number of more than 64 bits; the file is damaged", where_.c_str(), what);
  }

 private:
  template <class T>
  static T load(std::string_view from) {
    T value;
    std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  std::string_view bytes_;
  std::string where_;
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// ---- the table -----------------------------------------------------------------------------------------------------

constexpr uint64_t kTableMagic = 0xdb4775248b80fb57;
constexpr size_t kFooterBytes = 48;      // two handles, padded to 40 bytes, and the magic number
constexpr size_t kMaxNameBytes = 65536;  // of a key: a damaged block must not grow to gigabytes

struct BlockHandle {
  uint64_t offset, size;
};

BlockHandle read_handle(Reader& from) {
  const uint64_t offset = from.varint("a block's offset");
  return {offset, from.varint("a block's size")};
}

// A block's entries, once its checksum is found right. After the entries come a byte for the compression and the
// checksum of both.
std::string_view read_block(const MappedFile& file, const BlockHandle& at) {
  constexpr uint64_t kTrailer = 5;
  const char* where = file.path().c_str();
  const uint64_t end = file.size() - kFooterBytes;
  if (at.offset > end || end - at.offset < kTrailer || at.size > end - at.offset - kTrailer) {
    fail("%s: a block of %llu bytes at %llu, but its blocks end at %llu; the file is cut off or damaged", where,
         static_cast<unsigned long long>(at.size), static_cast<unsigned long long>(at.offset),
         static_cast<unsigned long long>(end));
  }
  const std::string_view block = file.text().substr(at.offset, at.size);
  Reader trailer(file.text().substr(at.offset + at.size, kTrailer), file.path().string());
  const unsigned char compression = static_cast<unsigned char>(trailer.take(1, "a block's type")[0]);
  const uint32_t expected = trailer.fixed32("a block's checksum");
  const uint32_t found = mask_crc32c(crc32c(bytes_of(file.text().substr(at.offset, at.size + 1))));
  if (found != expected) {
    fail("%s: the block at %llu has checksum %08x, expected %08x; the file is damaged", where,
         static_cast<unsigned long long>(at.offset), found, expected);
  }
  if (compression != 0) {
    fail("%s: the block at %llu is compressed (type %u), expected type 0; save the checkpoint uncompressed", where,
         static_cast<unsigned long long>(at.offset), compression);
  }
  return block;
}

// Calls visit(key, value) for a block's entries, in the order of their keys.
template <class Visit>
void for_each_entry(std::string_view block, const std::string& where, Visit&& visit) {
  // At the end: the entries that share nothing (for a binary search, not needed here), and their number.
  if (block.size() < 4) fail("%s: a block of %zu bytes, expected at least 4", where.c_str(), block.size());
  const uint64_t restarts = Reader(block.substr(block.size() - 4), where).fixed32("the number of restarts");
  if (restarts > block.size() / 4 - 1) {
    fail("%s: a block of %zu bytes with %llu restarts; the file is damaged", where.c_str(), block.size(),
         static_cast<unsigned long long>(restarts));
  }
  Reader entries(block.substr(0, block.size() - 4 - 4 * restarts), where);
  std::string key;
  for (bool first = true; !entries.done(); first = false) {
    const uint64_t shared = entries.varint("a key"), added = entries.varint("a key"), size = entries.varint("a value");
    if (shared > key.size() || added > kMaxNameBytes - shared) {
      fail("%s: a key repeats %llu bytes and adds %llu to the one before it of %zu; the file is damaged", where.c_str(),
           static_cast<unsigned long long>(shared), static_cast<unsigned long long>(added), key.size());
    }
    const std::string next = key.substr(0, shared) + std::string(entries.take(added, "a key"));
    if (!first && next <= key) {
      fail("%s: key %s after %s, expected ascending keys; the file is damaged", where.c_str(), in_quotes(next).c_str(),
           in_quotes(key).c_str());
    }
    key = next;
    visit(key, entries.take(size, "a value"));
  }
}

// All of the table's entries; the values are views of the file.
std::map<std::string, std::string_view> read_table(const MappedFile& file) {
  const std::string where = file.path().string();
  if (file.size() < kFooterBytes) {
    fail("%s: %zu bytes, expected at least the footer's %zu; the file is cut off", where.c_str(), file.size(),
         kFooterBytes);
  }
  Reader magic(file.text().substr(file.size() - 8), where);
  if (const uint64_t found = magic.fixed64("the magic number"); found != kTableMagic) {
    fail("%s: it ends in %016llx, expected the magic number %016llx; not a checkpoint's index, or cut off",
         where.c_str(), static_cast<unsigned long long>(found), static_cast<unsigned long long>(kTableMagic));
  }
  Reader footer(file.text().substr(file.size() - kFooterBytes, kFooterBytes - 8), where);
  read_block(file, read_handle(footer));  // about the table itself: not needed, but its checksum counts
  std::map<std::string, std::string_view> table;
  for_each_entry(read_block(file, read_handle(footer)), where, [&](const std::string&, std::string_view handle) {
    Reader at(handle, where);
    for_each_entry(read_block(file, read_handle(at)), where, [&](const std::string& key, std::string_view value) {
      if (!table.insert({key, value}).second) fail("%s: %s is there twice", where.c_str(), in_quotes(key).c_str());
    });
  });
  return table;
}

// ---- protocol buffers ----------------------------------------------------------------------------------------------

struct Field {
  uint64_t number;
  int wire_type;
  uint64_t value;          // of types 0 (varint), 1 and 5 (64 and 32 bits)
  std::string_view bytes;  // of type 2

  uint64_t get(int expected, const std::string& where) const {
    if (wire_type != expected) {
      fail("%s: field %llu has wire type %d, expected %d; the file is damaged", where.c_str(),
           static_cast<unsigned long long>(number), wire_type, expected);
    }
    return value;
  }
  int64_t number_from_0(const std::string& where) const {
    if (get(0, where) > static_cast<uint64_t>(INT64_MAX)) {
      fail("%s: field %llu is negative; the file is damaged", where.c_str(), static_cast<unsigned long long>(number));
    }
    return static_cast<int64_t>(value);
  }
  std::string_view message(const std::string& where) const { return get(2, where), bytes; }
};

// Calls visit(field) for each field of a message.
template <class Visit>
void for_each_field(std::string_view message, const std::string& where, Visit&& visit) {
  Reader from(message, where);
  while (!from.done()) {
    const uint64_t tag = from.varint("a field's tag");
    Field field{tag >> 3, static_cast<int>(tag & 7), 0, {}};
    switch (field.wire_type) {
      case 0:
        field.value = from.varint("a field");
        break;
      case 1:
        field.value = from.fixed64("a field");
        break;
      case 2:
        field.bytes = from.take(from.varint("a field's length"), "a field");
        break;
      case 5:
        field.value = from.fixed32("a field");
        break;
      default:
        fail("%s: field %llu has wire type %d, expected 0, 1, 2 or 5; the file is damaged", where.c_str(),
             static_cast<unsigned long long>(field.number), field.wire_type);
    }
    visit(field);
  }
}

// ---- what the table says about a tensor ----------------------------------------------------------------------------

// TensorFlow's numbers of its types: those of GPT-2's weights by safetensors' names, the rest as numbers.
std::string dtype_of(uint64_t number) {
  static const std::map<uint64_t, std::string> names = {{1, "F32"},  {2, "F64"}, {3, "I32"},   {4, "U8"},
                                                        {7, "text"}, {9, "I64"}, {14, "BF16"}, {19, "F16"}};
  const auto found = names.find(number);
  return found != names.end() ? found->second : strprintf("type %llu", static_cast<unsigned long long>(number));
}

struct BundleHeader {
  int64_t shards = 0;
};

BundleHeader read_header(std::string_view message, const std::string& where) {
  BundleHeader header;
  for_each_field(message, where, [&](const Field& field) {
    if (field.number == 1) header.shards = field.number_from_0(where);
    if (field.number == 2 && field.get(0, where) != 0) fail("%s: written on a big-endian machine", where.c_str());
  });
  if (header.shards < 1 || header.shards > 99999) {
    fail("%s: %lld data files, expected 1 to 99999", where.c_str(), static_cast<long long>(header.shards));
  }
  return header;
}

struct BundleEntry : TensorHeader {
  int64_t shard = 0, offset = 0, size = 0;
  uint32_t checksum = 0;
};

BundleEntry read_entry(const std::string& name, std::string_view message, const std::string& where) {
  BundleEntry entry;
  entry.name = name;
  entry.dtype = dtype_of(0);
  for_each_field(message, where, [&](const Field& field) {
    if (field.number == 1) entry.dtype = dtype_of(field.get(0, where));
    if (field.number == 2) {
      for_each_field(field.message(where), where, [&](const Field& dimension) {
        if (dimension.number == 3 && dimension.get(0, where) != 0) fail("%s: a shape of unknown rank", where.c_str());
        if (dimension.number != 2) return;
        entry.shape.push_back(0);
        for_each_field(dimension.message(where), where, [&](const Field& size) {
          if (size.number == 1) entry.shape.back() = size.number_from_0(where);
        });
      });
    }
    if (field.number == 3) entry.shard = field.number_from_0(where);
    if (field.number == 4) entry.offset = field.number_from_0(where);
    if (field.number == 5) entry.size = field.number_from_0(where);
    if (field.number == 6) entry.checksum = static_cast<uint32_t>(field.get(5, where));
    if (field.number == 7) fail("%s: saved in slices, expected it whole", where.c_str());
  });
  return entry;
}

// ---- the checkpoint ------------------------------------------------------------------------------------------------

// The name of model.ckpt here, from the text file "checkpoint".
std::string checkpoint_name(const fs::path& dir) {
  const MappedFile file(dir / "checkpoint");
  const std::string_view text = file.text(), key = "model_checkpoint_path:";
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    if (line.substr(0, key.size()) != key) continue;
    line.remove_prefix(key.size());
    const size_t open = line.find('"'), close = line.rfind('"');
    if (open == std::string_view::npos || open == close) break;
    const std::string name(line.substr(open + 1, close - open - 1));
    if (name.empty() || name.find_first_of(std::string("/\\\"\0", 4)) != std::string::npos) {
      fail("%s: model_checkpoint_path is %s, expected the name of files in the same folder, such as \"model.ckpt\"",
           file.path().c_str(), in_quotes(name).c_str());
    }
    return name;
  }
  fail("%s: expected a line such as model_checkpoint_path: \"model.ckpt\"", file.path().c_str());
}

// A tensor's shape in the checkpoint: matrices have a first dimension of 1, from the convolutions that they once were.
std::vector<int64_t> tensorflow_shape(const ParamTensor& tensor) {
  std::vector<int64_t> shape = file_shape(tensor);
  if (tensor.transposed) shape.insert(shape.begin(), 1);
  return shape;
}

class TensorflowWeights final : public Weights {
 public:
  TensorflowWeights(const ModelConfig& c, const fs::path& dir) : Weights(c, param_table(c)) {
    const std::string name = checkpoint_name(dir);
    const MappedFile index(dir / (name + ".index"));
    const std::map<std::string, std::string_view> entries = read_table(index);
    const auto header = entries.find("");
    if (header == entries.end()) fail("%s: the header is missing", index.path().c_str());
    const int shards = static_cast<int>(read_header(header->second, index.path().string() + ": header").shards);

    std::map<int64_t, size_t> opened;  // shard -> place in files_
    std::map<std::string, const ParamTensor*> known;
    for (const ParamTensor& tensor : table) known[tensorflow_name(tensor)] = &tensor;
    for (const auto& [key, message] : entries) {
      if (!key.empty() && !known.contains(key)) {
        fail("%s: tensor %s is not part of a GPT-2 of %d layers", index.path().c_str(), in_quotes(key).c_str(),
             config.num_layers);
      }
    }
    for (const auto& [key, tensor] : known) {
      const auto found = entries.find(key);
      const std::vector<int64_t> shape = tensorflow_shape(*tensor);
      if (found == entries.end()) {
        fail("%s: tensor \"%s\" is missing, expected %s", index.path().c_str(), key.c_str(),
             describe(TensorHeader{key, "F32", shape}).c_str());
      }
      const std::string where = index.path().string() + ": tensor " + in_quotes(key);
      const BundleEntry entry = read_entry(key, found->second, where);
      const Dtype dtype = check_view(TensorView{entry, {}}, shape, index.path().string());
      if (entry.size != tensor->file_size() * element_bytes(dtype)) {
        fail("%s: %lld bytes, expected %lld for %s", where.c_str(), static_cast<long long>(entry.size),
             static_cast<long long>(tensor->file_size() * element_bytes(dtype)), describe(entry).c_str());
      }
      if (entry.shard >= shards) {
        fail("%s: in data file %lld, expected one below %d", where.c_str(), static_cast<long long>(entry.shard),
             shards);
      }
      const auto [file, is_new] = opened.insert({entry.shard, files_.size()});
      if (is_new) {
        files_.emplace_back(dir /
                            strprintf("%s.data-%05d-of-%05d", name.c_str(), static_cast<int>(entry.shard), shards));
      }
      const MappedFile& data = files_[file->second];
      const int64_t available = static_cast<int64_t>(data.size());
      if (entry.offset > available || entry.size > available - entry.offset) {
        fail("%s: tensor %s takes %lld bytes from %lld on, but the file has %lld; it is cut off", data.path().c_str(),
             in_quotes(key).c_str(), static_cast<long long>(entry.size), static_cast<long long>(entry.offset),
             static_cast<long long>(available));
      }
      stored_[tensor->name] = {
          key, file->second, dtype, entry.checksum, {data.data() + entry.offset, static_cast<size_t>(entry.size)}};
    }
  }

  void read(const ParamTensor& tensor, float* out) const override {
    const Stored& stored = stored_.at(tensor.name);
    constexpr size_t kPiece = size_t{1} << 20;
    uint32_t crc = 0;
    for (size_t i = 0; i < stored.bytes.size(); i += kPiece) {
      const auto piece = stored.bytes.subspan(i, std::min(kPiece, stored.bytes.size() - i));
      crc = crc32c(piece, crc);
      drop_pages(stored.bytes.first(i + piece.size()));
    }
    if (mask_crc32c(crc) != stored.checksum) {
      fail("%s: tensor %s has checksum %08x, expected %08x; the file is damaged", files_[stored.file].path().c_str(),
           in_quotes(stored.name).c_str(), mask_crc32c(crc), stored.checksum);
    }
    from_file(out, stored.bytes, stored.dtype, tensor,
              files_[stored.file].path().string() + ": tensor " + in_quotes(stored.name));
  }
  Dtype dtype(const ParamTensor& tensor) const override { return stored_.at(tensor.name).dtype; }

 private:
  struct Stored {
    std::string name;  // in the checkpoint
    size_t file;
    Dtype dtype;
    uint32_t checksum;  // masked
    std::span<const std::byte> bytes;
  };
  std::vector<MappedFile> files_;
  std::map<std::string, Stored> stored_;  // by the table's name
};

}  // namespace

ModelConfig read_hparams(const fs::path& dir) {
  const fs::path path = dir / "hparams.json";
  const json file = read_json_object(path);
  const auto size = [&](const char* field) {
    const json value = file.contains(field) ? file[field] : json();
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX) {
      fail("%s: %s is %s, expected a whole number below 2^31", path.c_str(), field, shown(value).c_str());
    }
    return value.get<int>();
  };
  ModelConfig config;
  config.max_seq_len = size("n_ctx");
  config.vocab_size = size("n_vocab");
  config.num_layers = size("n_layer");
  config.num_heads = size("n_head");
  config.channels = size("n_embd");
  validate(config, path.string());
  return config;
}

std::unique_ptr<Weights> open_tensorflow(const fs::path& dir) {
  return std::make_unique<TensorflowWeights>(read_hparams(dir), dir);
}

std::string tensorflow_name(const ParamTensor& tensor) {
  std::string name = tensor.hf_name;
  const size_t last = name.rfind('.');
  const std::string leaf = name.substr(last);
  name.erase(last);
  if (name.rfind("h.", 0) == 0) name.erase(1, 1);
  for (char& c : name) c = c == '.' ? '/' : c;
  if (leaf == ".bias") {
    name += "/b";
  } else if (name.find("ln_") != std::string::npos) {
    name += "/g";
  } else if (tensor.transposed) {
    name += "/w";
  }
  return "model/" + name;
}
