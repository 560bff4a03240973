#include "llm/formats/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "llm/support/error.h"
#include "llm/support/json.h"

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian, and so are wrought's readers");

namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint32_t kVersion = 3, kAlignment = 32;
constexpr uint32_t kMaxDimensions = 4;
constexpr size_t kMaxKeyBytes = 65535, kMaxNameBytes = 63;  // as ggml allows
const char* const kAlignmentKey = "general.alignment";

// ---- types ---------------------------------------------------------------------------------------------------------

// Types of metadata, by number.
enum : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };
constexpr struct {
  const char* name;
  size_t bytes;  // 0: not of one size
} kValueTypes[] = {{"UINT8", 1},  {"INT8", 1},    {"UINT16", 2}, {"INT16", 2},  {"UINT32", 4},
                   {"INT32", 4},  {"FLOAT32", 4}, {"BOOL", 1},   {"STRING", 0}, {"ARRAY", 0},
                   {"UINT64", 8}, {"INT64", 8},   {"FLOAT64", 8}};

std::string name_of_value(uint32_t type, bool is_array) {
  return (is_array ? "an array of " : "") + std::string(kValueTypes[type].name);
}

// Types of tensors: those that are read, and ggml's names of some others, for messages.
struct TensorType {
  uint32_t number;
  const char* name;
  int64_t block, bytes;  // values of a block, and the bytes it takes; 0: not read
};
constexpr TensorType kTensorTypes[] = {
    {0, "F32", 1, 4},     {1, "F16", 1, 2},      {2, "Q4_0", 0, 0},   {3, "Q4_1", 0, 0},    {6, "Q5_0", 0, 0},
    {7, "Q5_1", 0, 0},    {8, "Q8_0", 32, 34},   {9, "Q8_1", 0, 0},   {10, "Q2_K", 0, 0},   {11, "Q3_K", 0, 0},
    {12, "Q4_K", 0, 0},   {13, "Q5_K", 0, 0},    {14, "Q6_K", 0, 0},  {15, "Q8_K", 0, 0},   {16, "IQ2_XXS", 0, 0},
    {17, "IQ2_XS", 0, 0}, {18, "IQ3_XXS", 0, 0}, {19, "IQ1_S", 0, 0}, {20, "IQ4_NL", 0, 0}, {21, "IQ3_S", 0, 0},
    {22, "IQ2_S", 0, 0},  {23, "IQ4_XS", 0, 0},  {24, "I8", 0, 0},    {25, "I16", 0, 0},    {26, "I32", 0, 0},
    {27, "I64", 0, 0},    {28, "F64", 0, 0},     {29, "IQ1_M", 0, 0}, {30, "BF16", 1, 2},   {34, "TQ1_0", 0, 0},
    {35, "TQ2_0", 0, 0},  {39, "MXFP4", 0, 0},   {40, "NVFP4", 0, 0}};

const TensorType& type_named(const std::string& name) {
  const auto found = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                  [&](const TensorType& type) { return type.block > 0 && name == type.name; });
  if (found == std::end(kTensorTypes)) throw std::logic_error("GGUF: no such type: " + name);
  return *found;
}

// The bytes of a tensor; nothing if they do not fit 63 bits. Its rows are whole blocks.
std::optional<int64_t> tensor_bytes(const std::vector<int64_t>& shape, const TensorType& type) {
  int64_t values = 1, bytes = 0;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(values, size, &values)) return std::nullopt;
  }
  if (__builtin_mul_overflow(values / type.block, type.bytes, &bytes)) return std::nullopt;
  return bytes;
}

// The first multiple of `alignment`, a power of two, from `at` on; both are below 2^62.
int64_t aligned(int64_t at, int64_t alignment) { return (at + alignment - 1) & ~(alignment - 1); }

}  // namespace

// ---- reading -------------------------------------------------------------------------------------------------------

// A place in the file, from front to back. `what` names in messages what is read.
class GgufFile::Cursor {
 public:
  explicit Cursor(const MappedFile& file) : where_(file.path().string()), text_(file.text()) {}
  size_t at() const { return at_; }
  size_t left() const { return text_.size() - at_; }
  const char* where() const { return where_.c_str(); }

  std::string_view take(uint64_t n, const std::string& what) {
    if (n > left()) {
      fail("%s: %s takes %llu bytes from byte %zu on, but %zu follow; the file is cut off or damaged", where(),
           what.c_str(), static_cast<unsigned long long>(n), at_, left());
    }
    const std::string_view taken = text_.substr(at_, n);
    at_ += n;
    return taken;
  }
  template <class T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }
  std::string_view string(const std::string& what) { return take(number<uint64_t>("the length of " + what), what); }
  // A number of things, each of which takes at least `bytes_each` bytes.
  uint64_t count(const std::string& what, size_t bytes_each) {
    const uint64_t n = number<uint64_t>("the number of " + what);
    check_count(n, what, bytes_each);
    return n;
  }
  void check_count(uint64_t n, const std::string& what, size_t bytes_each) const {
    if (n > left() / bytes_each) {
      fail("%s: %llu %s, but only %zu bytes follow byte %zu; the file is cut off or damaged", where(),
           static_cast<unsigned long long>(n), what.c_str(), left(), at_);
    }
  }

 private:
  std::string where_;
  std::string_view text_;
  size_t at_ = 0;
};

GgufFile::GgufFile(const std::filesystem::path& path, const std::string& architecture) : file_(path) {
  Cursor cursor(file_);
  if (cursor.take(std::min(kMagic.size(), file_.size()), "the magic number") != kMagic) {
    fail("%s: the file does not begin with \"GGUF\"; this is not a GGUF file", cursor.where());
  }
  const uint32_t version = cursor.number<uint32_t>("the version");
  if (version == __builtin_bswap32(kVersion)) fail("%s: big-endian, expected a little-endian file", cursor.where());
  if (version != kVersion) {
    fail("%s: version %u, expected %u; write the file again with a current llama.cpp", cursor.where(), version,
         kVersion);
  }
  constexpr size_t kTensorBytes = 24, kEntryBytes = 13;  // at least
  const uint64_t tensors = cursor.count("tensors", kTensorBytes);
  const uint64_t entries = cursor.count("metadata entries", kEntryBytes);
  read_metadata(cursor, entries);
  const std::optional<std::string_view> found = text("general.architecture");
  if (found != architecture) {
    fail("%s: general.architecture is %s, expected \"%s\"; wrought reads no other", cursor.where(),
         found ? in_quotes(*found).c_str() : "missing", architecture.c_str());
  }
  cursor.check_count(tensors, "tensors", kTensorBytes);
  read_tensors(cursor, tensors);
  drop_pages({file_.data(), file_.size()});
}

void GgufFile::read_metadata(Cursor& cursor, uint64_t entries) {
  for (uint64_t k = 0; k < entries; ++k) {
    Entry entry{
        cursor.string(strprintf("the metadata's key %llu", static_cast<unsigned long long>(k))), 0, false, 1, {}};
    if (entry.key.empty() || entry.key.size() > kMaxKeyBytes) {
      fail("%s: the metadata's key %llu has %zu bytes, expected 1 to %zu", cursor.where(),
           static_cast<unsigned long long>(k), entry.key.size(), kMaxKeyBytes);
    }
    const std::string what = "metadata " + in_quotes(entry.key);
    entry.type = cursor.number<uint32_t>("the type of " + what);
    entry.is_array = entry.type == kArray;
    if (entry.is_array) {
      entry.type = cursor.number<uint32_t>("the type of " + what);
      entry.count = cursor.number<uint64_t>("the length of " + what);
    }
    if (entry.type >= std::size(kValueTypes) || entry.type == kArray) {
      fail("%s: %s has the type %u%s, expected a number from 0 to %zu; the file is damaged", cursor.where(),
           what.c_str(), entry.type, entry.is_array ? " inside an array" : "", std::size(kValueTypes) - 1);
    }
    const size_t begin = cursor.at();
    if (entry.type == kString) {
      cursor.check_count(entry.count, "strings in " + what, sizeof(uint64_t));
      for (uint64_t i = 0; i < entry.count; ++i) cursor.take(cursor.number<uint64_t>(what), what);
    } else {
      const size_t bytes = kValueTypes[entry.type].bytes;
      cursor.check_count(entry.count, "values in " + what, bytes);
      cursor.take(entry.count * bytes, what);
    }
    entry.bytes = file_.text().substr(begin, cursor.at() - begin);
    metadata_.push_back(entry);
  }
  std::sort(metadata_.begin(), metadata_.end(), [](const Entry& a, const Entry& b) { return a.key < b.key; });
  const auto twice = std::adjacent_find(metadata_.begin(), metadata_.end(),
                                        [](const Entry& a, const Entry& b) { return a.key == b.key; });
  if (twice != metadata_.end()) {
    fail("%s: the metadata has the key %s twice", cursor.where(), in_quotes(twice->key).c_str());
  }
}

void GgufFile::read_tensors(Cursor& cursor, uint64_t tensors) {
  const uint32_t alignment = number(kAlignmentKey).value_or(kAlignment);
  if (!std::has_single_bit(alignment)) {
    fail("%s: %s is %u, expected a power of two", cursor.where(), kAlignmentKey, alignment);
  }
  std::vector<uint64_t> offsets;
  for (uint64_t k = 0; k < tensors; ++k) offsets.push_back(read_header(cursor, k));
  const int64_t at = static_cast<int64_t>(cursor.at());
  place_tensors(tensors == 0 ? at : aligned(at, alignment), alignment, offsets);
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), uint32_t{0});
  const auto name = [&](uint32_t k) -> const std::string& { return tensors_[k].name; };
  std::sort(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(by_name_.begin(), by_name_.end(), [&](uint32_t a, uint32_t b) { return name(a) == name(b); });
  if (twice != by_name_.end()) {
    fail("%s: the tensor %s is there twice", cursor.where(), in_quotes(name(*twice)).c_str());
  }
}

uint64_t GgufFile::read_header(Cursor& cursor, uint64_t k) {
  TensorView tensor;
  const std::string_view name = cursor.string(strprintf("the name of tensor %llu", static_cast<unsigned long long>(k)));
  if (name.empty() || name.size() > kMaxNameBytes) {
    fail("%s: the name of tensor %llu has %zu bytes, expected 1 to %zu", cursor.where(),
         static_cast<unsigned long long>(k), name.size(), kMaxNameBytes);
  }
  tensor.name = name;
  const std::string what = "tensor " + in_quotes(name), where = std::string(cursor.where()) + ": " + what;
  const uint32_t dimensions = cursor.number<uint32_t>("the shape of " + what);
  if (dimensions > kMaxDimensions) {
    fail("%s: %u dimensions, expected at most %u", where.c_str(), dimensions, kMaxDimensions);
  }
  for (uint32_t d = 0; d < dimensions; ++d) {
    const uint64_t size = cursor.number<uint64_t>("the shape of " + what);
    if (size > static_cast<uint64_t>(INT64_MAX)) {
      fail("%s: a dimension of %llu, expected at most 2^63 - 1", where.c_str(), static_cast<unsigned long long>(size));
    }
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  const uint32_t number = cursor.number<uint32_t>("the type of " + what);
  const auto type = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                 [&](const TensorType& t) { return t.number == number; });
  if (type == std::end(kTensorTypes) || type->block == 0) {
    const std::string found = type == std::end(kTensorTypes) ? strprintf("type %u", number) : type->name;
    fail("%s: %s; wrought reads F32, F16, BF16 and Q8_0", where.c_str(), found.c_str());
  }
  tensor.dtype = type->name;
  const int64_t row = tensor.shape.empty() ? 1 : tensor.shape[0];
  if (row % type->block != 0) {
    fail("%s: %s, whose rows are not a multiple of %lld values", where.c_str(), describe(tensor).c_str(),
         static_cast<long long>(type->block));
  }
  const std::optional<int64_t> bytes = tensor_bytes(tensor.shape, *type);
  if (!bytes) fail("%s: the shape %s is too large for any file", where.c_str(), describe(tensor).c_str());
  tensors_.push_back(std::move(tensor));
  return cursor.number<uint64_t>("the offset of " + what);
}

void GgufFile::place_tensors(int64_t data, int64_t alignment, const std::vector<uint64_t>& offsets) {
  const char* file = path().c_str();
  const int64_t available = static_cast<int64_t>(file_.size());
  int64_t end = data;  // of the bytes of the tensors so far
  for (size_t k = 0; k < tensors_.size(); ++k) {
    TensorView& tensor = tensors_[k];
    const std::string where = std::string(file) + ": tensor " + in_quotes(tensor.name);
    const int64_t size = *tensor_bytes(tensor.shape, type_named(tensor.dtype));
    const int64_t expected = aligned(end, alignment) - data;
    if (offsets[k] != static_cast<uint64_t>(expected)) {
      const char* how = offsets[k] % static_cast<uint64_t>(alignment) != 0 ? "not at a multiple of the alignment"
                        : offsets[k] < static_cast<uint64_t>(expected)     ? "overlapping the tensor before it"
                                                                       : "leaving a hole after the tensor before it";
      fail("%s: its bytes begin at %llu of the data, %s, expected %lld", where.c_str(),
           static_cast<unsigned long long>(offsets[k]), how, static_cast<long long>(expected));
    }
    const int64_t begin = data + expected;
    if (begin > available || size > available - begin) {
      fail("%s: %s takes %lld bytes from byte %lld on, but the file has %lld; it is cut off", where.c_str(),
           describe(tensor).c_str(), static_cast<long long>(size), static_cast<long long>(begin),
           static_cast<long long>(available));
    }
    tensor.bytes = {file_.data() + begin, static_cast<size_t>(size)};
    end = begin + size;
  }
  if (available != end && available != aligned(end, alignment)) {
    fail("%s: the last tensor ends at byte %lld, but the file has %lld; it has been %s", file,
         static_cast<long long>(end), static_cast<long long>(available),
         available < aligned(end, alignment) ? "cut off in the bytes that fill it up" : "extended");
  }
}

const TensorView* GgufFile::find(const std::string& name) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [&](uint32_t k, const std::string& n) { return tensors_[k].name < n; });
  return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

const GgufFile::Entry* GgufFile::get(std::string_view key, uint32_t type, bool is_array) const {
  const auto found = std::lower_bound(metadata_.begin(), metadata_.end(), key,
                                      [](const Entry& entry, std::string_view k) { return entry.key < k; });
  if (found == metadata_.end() || found->key != key) return nullptr;
  if (found->type != type || found->is_array != is_array) {
    fail("%s: metadata %s is %s, expected %s", path().c_str(), in_quotes(key).c_str(),
         name_of_value(found->type, found->is_array).c_str(), name_of_value(type, is_array).c_str());
  }
  return &*found;
}

namespace {

template <class T>
T load(std::string_view bytes, size_t at = 0) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

}  // namespace

std::optional<uint32_t> GgufFile::number(std::string_view key) const {
  const Entry* entry = get(key, kUint32, false);
  return entry ? std::optional(load<uint32_t>(entry->bytes)) : std::nullopt;
}

std::optional<float> GgufFile::real(std::string_view key) const {
  const Entry* entry = get(key, kFloat32, false);
  return entry ? std::optional(load<float>(entry->bytes)) : std::nullopt;
}

std::optional<bool> GgufFile::flag(std::string_view key) const {
  const Entry* entry = get(key, kBool, false);
  return entry ? std::optional(entry->bytes[0] != 0) : std::nullopt;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const Entry* entry = get(key, kString, false);
  return entry ? std::optional(entry->bytes.substr(sizeof(uint64_t))) : std::nullopt;
}

std::optional<std::vector<std::string_view>> GgufFile::texts(std::string_view key) const {
  const Entry* entry = get(key, kString, true);
  if (!entry) return std::nullopt;
  std::vector<std::string_view> values;
  for (size_t at = 0; values.size() < entry->count;) {
    const size_t length = load<uint64_t>(entry->bytes, at);
    values.push_back(entry->bytes.substr(at + sizeof(uint64_t), length));
    at += sizeof(uint64_t) + length;
  }
  return values;
}

std::optional<std::vector<int32_t>> GgufFile::integers(std::string_view key) const {
  const Entry* entry = get(key, kInt32, true);
  if (!entry) return std::nullopt;
  std::vector<int32_t> values(entry->count);
  if (!values.empty()) std::memcpy(values.data(), entry->bytes.data(), entry->bytes.size());
  return values;
}

// ---- writing -------------------------------------------------------------------------------------------------------

namespace {

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_string(std::string& bytes, std::string_view text) {
  append(bytes, uint64_t{text.size()});
  bytes += text;
}

}  // namespace

void GgufMetadata::begin(const std::string& key, uint32_t type) {
  append_string(bytes_, key);
  append(bytes_, type);
  ++entries_;
}

void GgufMetadata::add(const std::string& key, uint32_t value) {
  begin(key, kUint32);
  append(bytes_, value);
}

void GgufMetadata::add(const std::string& key, float value) {
  begin(key, kFloat32);
  append(bytes_, value);
}

void GgufMetadata::add(const std::string& key, const std::string& value) {
  begin(key, kString);
  append_string(bytes_, value);
}

void GgufMetadata::add(const std::string& key, const std::vector<std::string>& values) {
  begin(key, kArray);
  append(bytes_, uint32_t{kString});
  append(bytes_, uint64_t{values.size()});
  for (const std::string& value : values) append_string(bytes_, value);
}

void GgufMetadata::add(const std::string& key, const std::vector<int32_t>& values) {
  begin(key, kArray);
  append(bytes_, uint32_t{kInt32});
  append(bytes_, uint64_t{values.size()});
  for (const int32_t value : values) append(bytes_, value);
}

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       std::vector<TensorHeader> tensors)
    : file_(path), tensors_(std::move(tensors)) {
  std::string header(kMagic);
  append(header, kVersion);
  append(header, uint64_t{tensors_.size()});
  append(header, metadata.entries());
  header += metadata.bytes();
  int64_t offset = 0;
  for (const TensorHeader& tensor : tensors_) {
    const TensorType& type = type_named(tensor.dtype);
    const std::optional<int64_t> bytes = tensor_bytes(tensor.shape, type);
    if (!bytes || tensor.shape.empty() || tensor.shape[0] % type.block != 0 || tensor.name.size() > kMaxNameBytes) {
      throw std::logic_error("GgufWriter: bad header of tensor " + tensor.name);
    }
    append_string(header, tensor.name);
    append(header, static_cast<uint32_t>(tensor.shape.size()));
    for (const int64_t size : tensor.shape) append(header, static_cast<uint64_t>(size));
    append(header, type.number);
    append(header, static_cast<uint64_t>(offset));
    offset = aligned(offset + *bytes, kAlignment);
  }
  header.resize(static_cast<size_t>(aligned(static_cast<int64_t>(header.size()), kAlignment)), '\0');
  file_.write(header);
  at_ = static_cast<int64_t>(header.size());
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const auto size = [&] { return *tensor_bytes(tensors_[next_].shape, type_named(tensors_[next_].dtype)); };
  const int64_t added = static_cast<int64_t>(bytes.size());
  if (next_ == tensors_.size() || tensors_[next_].name != name || added > size() - written_) {
    throw std::logic_error("GgufWriter: tensor " + name + " out of order or of another size than announced");
  }
  file_.write(bytes.data(), bytes.size());
  at_ += added;
  written_ += added;
  if (written_ < size()) return;
  const std::string zeros(static_cast<size_t>(aligned(at_, kAlignment) - at_), '\0');
  file_.write(zeros);
  at_ += static_cast<int64_t>(zeros.size());
  ++next_;
  written_ = 0;
}

int64_t GgufWriter::commit() {
  if (next_ != tensors_.size())
    throw std::logic_error("GgufWriter: tensor " + tensors_[next_].name + " is missing or cut off");
  file_.commit();
  return at_;
}
