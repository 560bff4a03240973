#include "llm/formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "llm/support/error.h"
#include "llm/support/json.h"

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian, and so are wrought's readers");

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxDimensions = 64;
const std::string kMetadata = "__metadata__";

int64_t element_bytes(const std::string& dtype) {  // 0: unknown
  static const std::map<std::string, int64_t> sizes = {
      {"F64", 8},     {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"F8_E8M0", 1}, {"C64", 8}, {"I64", 8}, {"I32", 4},  {"I16", 2},     {"I8", 1},
      {"U64", 8},     {"U32", 4}, {"U16", 2}, {"U8", 1},   {"BOOL", 1}};
  const auto found = sizes.find(dtype);
  return found == sizes.end() ? 0 : found->second;
}

// The bytes that dtype and shape need; nothing if they do not fit 63 bits.
std::optional<int64_t> tensor_bytes(const TensorHeader& tensor) {
  int64_t bytes = element_bytes(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

// A list of whole numbers in [0, 2^63), as shapes and offsets are.
std::vector<int64_t> read_sizes(const json& entry, const char* field, const std::string& where) {
  const auto found = entry.find(field);
  if (found == entry.end() || !found->is_array()) fail("%s: expected a list \"%s\"", where.c_str(), field);
  std::vector<int64_t> sizes;
  for (const json& value : *found) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      fail("%s: \"%s\" holds %s, expected whole numbers from 0 to 2^63 - 1", where.c_str(), field,
           value.dump(-1, ' ', true).substr(0, 100).c_str());
    }
    sizes.push_back(value.get<int64_t>());
  }
  return sizes;
}

TensorView read_tensor(const std::string& name, const json& entry, std::span<const std::byte> data,
                       const std::string& file) {
  const std::string where = file + ": tensor " + in_quotes(name);
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry["dtype"].is_string()) {
    fail("%s: expected an object of dtype, shape and data_offsets", where.c_str());
  }
  TensorView tensor;
  tensor.name = name;
  tensor.dtype = entry["dtype"].get<std::string>();
  if (element_bytes(tensor.dtype) == 0) fail("%s: unknown dtype %s", where.c_str(), in_quotes(tensor.dtype).c_str());
  tensor.shape = read_sizes(entry, "shape", where);
  if (tensor.shape.size() > kMaxDimensions) {
    fail("%s: %zu dimensions, expected at most %zu", where.c_str(), tensor.shape.size(), kMaxDimensions);
  }
  const std::vector<int64_t> offsets = read_sizes(entry, "data_offsets", where);
  if (offsets.size() != 2) fail("%s: %zu data_offsets, expected 2", where.c_str(), offsets.size());
  const int64_t begin = offsets[0], end = offsets[1], available = static_cast<int64_t>(data.size());
  if (begin > end || end > available) {
    fail("%s: its bytes [%lld, %lld) are not inside the file's %lld bytes of data; the file may be cut off",
         where.c_str(), static_cast<long long>(begin), static_cast<long long>(end), static_cast<long long>(available));
  }
  const std::optional<int64_t> expected = tensor_bytes(tensor);
  if (!expected) fail("%s: the shape %s is too large for any file", where.c_str(), describe(tensor).c_str());
  if (*expected != end - begin) {
    fail("%s: %s takes %lld bytes, but its data_offsets span %lld", where.c_str(), describe(tensor).c_str(),
         static_cast<long long>(*expected), static_cast<long long>(end - begin));
  }
  tensor.bytes = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return tensor;
}

}  // namespace

std::string describe(const TensorHeader& tensor) {
  std::string text = "(";
  for (size_t i = 0; i < tensor.shape.size() && i < 8; ++i) text += (i ? ", " : "") + std::to_string(tensor.shape[i]);
  if (tensor.shape.size() > 8) text += ", ...";
  return text + ") " + tensor.dtype;
}

// ---- reading -------------------------------------------------------------------------------------------------------

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  uint64_t length = 0;
  if (file_.size() < sizeof length) {
    fail("%s: %zu bytes, expected at least the 8 of the header's length; the file is cut off", where.c_str(),
         file_.size());
  }
  std::memcpy(&length, file_.data(), sizeof length);
  const uint64_t rest = file_.size() - sizeof length;
  if (length > kMaxHeaderBytes || length > rest) {
    fail(
        "%s: the header should be %llu bytes long, but %llu follow (and at most %llu are allowed); this is not a "
        "safetensors file, or it is cut off",
        where.c_str(), static_cast<unsigned long long>(length), static_cast<unsigned long long>(rest),
        static_cast<unsigned long long>(kMaxHeaderBytes));
  }
  const std::string_view text = file_.text().substr(sizeof length, length);
  if (text.empty() || text[0] != '{')
    fail("%s: the header does not begin with '{'; this is not a safetensors file", where.c_str());
  const std::span<const std::byte> data(file_.data() + sizeof length + length, rest - length);
  bool has_metadata = false;
  parse_json(file_, sizeof length, length, where + ": header", 3, [&](JsonPath at, json& entry) {
    if (at.size() != 1) return true;
    if (at[0] != kMetadata) {
      tensors_.push_back(read_tensor(at[0], entry, data, where));
      return false;
    }
    if (!entry.is_object()) fail("%s: %s is not an object of strings", where.c_str(), kMetadata.c_str());
    if (std::exchange(has_metadata, true)) fail("%s: %s occurs twice", where.c_str(), kMetadata.c_str());
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string())
        fail("%s: %s: %s is not a string", where.c_str(), kMetadata.c_str(), in_quotes(key).c_str());
      metadata_[key] = value.get<std::string>();
    }
    return false;
  });

  // In the order of their bytes, each tensor must begin where the one before it ended.
  const auto begin = [&](const TensorView& tensor) { return tensor.bytes.data() - data.data(); };
  std::sort(tensors_.begin(), tensors_.end(), [&](const TensorView& a, const TensorView& b) {
    return std::pair(begin(a), a.bytes.size()) < std::pair(begin(b), b.bytes.size());
  });
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), uint32_t{0});
  const auto name = [&](uint32_t k) -> const std::string& { return tensors_[k].name; };
  std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return name(a) == name(b); });
  if (twice != by_name_.end()) {
    fail("%s: header: the name %s occurs twice", where.c_str(), in_quotes(name(*twice)).c_str());
  }
  int64_t end = 0;
  for (const TensorView& tensor : tensors_) {
    if (begin(tensor) != end) {
      fail("%s: tensor %s begins at byte %lld of the data, %s the tensor before it, which ends at %lld", where.c_str(),
           in_quotes(tensor.name).c_str(), static_cast<long long>(begin(tensor)),
           begin(tensor) < end ? "overlapping" : "leaving a hole after", static_cast<long long>(end));
    }
    end += static_cast<int64_t>(tensor.bytes.size());
  }
  if (end != static_cast<int64_t>(data.size())) {
    fail("%s: the tensors end at byte %lld of the data, but the file continues to %zu", where.c_str(),
         static_cast<long long>(end), data.size());
  }
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [&](uint32_t k, const std::string& n) { return tensors_[k].name < n; });
  return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

// ---- writing -------------------------------------------------------------------------------------------------------

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorHeader> tensors,
                                     const std::map<std::string, std::string>& metadata, const Group* group)
    : path_(path), tensors_(std::move(tensors)) {
  json header = json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t end = 0;
  std::vector<int64_t> ends;
  for (const TensorHeader& tensor : tensors_) {
    const std::optional<int64_t> bytes = tensor_bytes(tensor);
    const int64_t begin = end;
    if (element_bytes(tensor.dtype) == 0 || !bytes || __builtin_add_overflow(begin, *bytes, &end) ||
        header.contains(tensor.name) || tensor.name == kMetadata) {
      throw std::logic_error("SafetensorsWriter: bad header of tensor " + tensor.name);
    }
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, end}}};
    ends.push_back(end);
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data then begins at a multiple of 8
  const uint64_t length = text.size();
  text.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  if (!group || group->size() == 1) {
    file_.emplace(path);
    file_->write(text);
    return;
  }
  at_ = static_cast<int64_t>(text.size());
  rank_ = group->rank();
  shared_.emplace(path, text, at_ + end, *group);
  // Each writer has neighbouring tensors, of about as many bytes.
  const std::vector<int>& writers = shared_->writers();
  for (const int64_t one : ends) {
    const double share = static_cast<double>(one - 1) / static_cast<double>(std::max<int64_t>(1, end));
    const size_t k = static_cast<size_t>(std::max(0.0, share) * static_cast<double>(writers.size()));
    owners_.push_back(writers[std::min(k, writers.size() - 1)]);
  }
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (next_ == tensors_.size() || tensors_[next_].name != name || size > *tensor_bytes(tensors_[next_]) - written_) {
    throw std::logic_error("SafetensorsWriter: tensor " + name + " out of order or of another size than announced");
  }
  if (file_) {
    file_->write(bytes.data(), bytes.size());
  } else if (own()) {
    shared_->write(bytes.data(), bytes.size(), at_);
  }
  at_ += size;
  written_ += size;
  if (written_ == *tensor_bytes(tensors_[next_])) {
    ++next_;
    written_ = 0;
  }
}

void SafetensorsWriter::pass(const std::string& name) {
  if (next_ == tensors_.size() || tensors_[next_].name != name || own()) {
    throw std::logic_error("SafetensorsWriter: tensor " + name + " out of order, or this process' own");
  }
  at_ += *tensor_bytes(tensors_[next_++]);
}

void SafetensorsWriter::commit() {
  if (next_ != tensors_.size())
    throw std::logic_error("SafetensorsWriter: tensor " + tensors_[next_].name + " is missing or cut off");
  if (file_) {
    file_->commit();
  } else {
    shared_->commit();
  }
}
