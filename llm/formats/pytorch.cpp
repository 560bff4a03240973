#include "llm/formats/pytorch.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "llm/support/error.h"
#include "llm/support/json.h"

namespace {

using Bytes = std::span<const std::byte>;

std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// ---- the zip file --------------------------------------------------------------------------------------------------

// PKWARE's APPNOTE.TXT, 4.3: local headers with the entries' bytes, the central directory, its end record. torch always
// writes that of Zip64, too, which is needed for sizes and places of 4 GiB and more.
class Zip {
 public:
  Zip(Bytes file, std::string where) : file_(file), where_(std::move(where)) {
    const size_t end = find_end();
    uint64_t entries = number(end + 10, 2), size = number(end + 12, 4), begin = number(end + 16, 4);
    if (number(end + 4, 2) != 0 || number(end + 6, 2) != 0) damaged("it is one of several parts");
    if (end >= kLocatorBytes && number(end - kLocatorBytes, 4) == 0x07064B50) {
      const uint64_t end64 = number(end - kLocatorBytes + 8, 8);
      if (number(end64, 4) != 0x06064B50) damaged("the end of the Zip64 directory is not where it should be");
      entries = number(end64 + 32, 8);
      size = number(end64 + 40, 8);
      begin = number(end64 + 48, 8);
    }
    if (begin > end || size > end - begin) damaged("the directory is not inside it");
    const uint64_t directory_end = begin + size;
    uint64_t at = begin;
    for (; at < directory_end; --entries) {
      if (entries == 0) damaged("the directory has more entries than it says");
      at = read_entry(at, begin);
    }
    if (entries != 0 || at != directory_end) damaged("the directory is cut off");
    check_apart();
  }

  // The bytes of an entry, or nothing.
  std::optional<Bytes> find(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return std::nullopt;
    return found->second;
  }
  const std::map<std::string, Bytes>& entries() const { return entries_; }

 private:
  static constexpr size_t kEndBytes = 22, kLocatorBytes = 20, kMaxComment = 65535;

  [[noreturn]] void damaged(const std::string& what) const {
    fail("%s: not a zip file as torch.save() writes it: %s; the file may be cut off", where_.c_str(), what.c_str());
  }

  // A little-endian number of `bytes` bytes.
  uint64_t number(uint64_t at, size_t bytes) const {
    if (at > file_.size() || bytes > file_.size() - at) damaged("it ends too early");
    uint64_t value = 0;
    std::memcpy(&value, file_.data() + at, bytes);
    return value;
  }
  Bytes part(uint64_t at, uint64_t bytes) const {
    if (at > file_.size() || bytes > file_.size() - at) damaged("an entry is not inside it");
    return file_.subspan(at, bytes);
  }

  size_t find_end() const {
    if (file_.size() < kEndBytes) damaged("it ends too early");
    const size_t last = file_.size() - kEndBytes;
    for (size_t at = last + 1; at-- > 0 && last - at <= kMaxComment;) {
      if (number(at, 4) == 0x06054B50 && number(at + 20, 2) == last - at) return at;
    }
    damaged("there is no directory at its end");
  }

  // Reads the directory's entry at `at`; returns where the next one begins.
  uint64_t read_entry(uint64_t at, uint64_t directory) {
    if (number(at, 4) != 0x02014B50) damaged("the directory has something other than entries");
    const uint64_t flags = number(at + 8, 2), method = number(at + 10, 2), name_bytes = number(at + 28, 2),
                   extra_bytes = number(at + 30, 2), comment_bytes = number(at + 32, 2);
    uint64_t packed = number(at + 20, 4), size = number(at + 24, 4), local = number(at + 42, 4);
    const std::string name(text_of(part(at + 46, name_bytes)));
    const uint64_t next = at + 46 + name_bytes + extra_bytes + comment_bytes;
    part(at, next - at);
    for (uint64_t extra = at + 46 + name_bytes, end = extra + extra_bytes; extra + 4 <= end;) {
      const uint64_t id = number(extra, 2), bytes = number(extra + 2, 2);
      uint64_t field = extra + 4, left = bytes;
      if (field + bytes > end) damaged("an entry's Zip64 sizes are cut off");
      for (uint64_t* value : {&size, &packed, &local}) {  // those that do not fit 32 bits, in this order
        if (id != 1 || *value != 0xFFFFFFFF) continue;
        if (left < 8) damaged("an entry's Zip64 sizes are cut off");
        *value = number(field, 8);
        field += 8;
        left -= 8;
      }
      extra += 4 + bytes;
    }
    const std::string quoted = in_quotes(name);
    if (method != 0 || size != packed) damaged("entry " + quoted + " is compressed, expected it uncompressed");
    if (flags & 0x1) damaged("entry " + quoted + " is encrypted");
    if (number(local, 4) != 0x04034B50) damaged("entry " + quoted + " is not where the directory says");
    const uint64_t data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
    if (data > directory || size > directory - data) damaged("entry " + quoted + " is not inside it");
    if (text_of(part(local + 30, number(local + 26, 2))) != name)
      damaged("entry " + quoted + " has another name where it begins");
    if (!entries_.insert({name, part(data, size)}).second) damaged("entry " + quoted + " is there twice");
    return next;
  }

  void check_apart() const {
    std::vector<std::pair<const std::byte*, const std::string*>> by_place;
    for (const auto& [name, bytes] : entries_) {
      if (!bytes.empty()) by_place.push_back({bytes.data(), &name});
    }
    std::sort(by_place.begin(), by_place.end());
    for (size_t k = 1; k < by_place.size(); ++k) {
      const Bytes before = entries_.at(*by_place[k - 1].second);
      if (before.data() + before.size() > by_place[k].first) {
        damaged("entries " + in_quotes(*by_place[k - 1].second) + " and " + in_quotes(*by_place[k].second) +
                " overlap");
      }
    }
  }

  Bytes file_;
  std::string where_;
  std::map<std::string, Bytes> entries_;
};

// ---- the pickle ----------------------------------------------------------------------------------------------------

struct StorageType {
  const char* name;   // torch.X
  const char* dtype;  // as safetensors names it
  int64_t bytes;      // of an element
};
constexpr StorageType kStorageTypes[] = {
    {"FloatStorage", "F32", 4}, {"HalfStorage", "F16", 2}, {"BFloat16Storage", "BF16", 2}, {"DoubleStorage", "F64", 8},
    {"LongStorage", "I64", 8},  {"IntStorage", "I32", 4},  {"ShortStorage", "I16", 2},     {"CharStorage", "I8", 1},
    {"ByteStorage", "U8", 1},   {"BoolStorage", "BOOL", 1}};

// A value on the pickle's stack.
struct Value {
  enum class Kind {
    mark,
    none,
    boolean,
    integer,
    text,
    tuple,
    dictionary,
    ordered_dict,
    rebuild_tensor,
    storage_type,
    storage,
    tensor
  };
  Kind kind = Kind::none;
  int64_t number = 0;     // of an integer; for the others an index into a list of Unpickler
  std::string_view text;  // in the mapped file
};

const char* describe(Value::Kind kind) {
  switch (kind) {
    case Value::Kind::none:
      return "None";
    case Value::Kind::boolean:
      return "a boolean";
    case Value::Kind::integer:
      return "a number";
    case Value::Kind::text:
      return "a string";
    case Value::Kind::tuple:
      return "a tuple";
    case Value::Kind::dictionary:
      return "a dictionary";
    case Value::Kind::tensor:
      return "a tensor";
    default:
      return "something else";
  }
}

struct Storage {
  const StorageType* type;
  std::string key;
  int64_t elements;
};

constexpr size_t kMaxDimensions = 64;

struct Tensor {
  Storage storage;
  int64_t offset;  // elements
  std::vector<int64_t> shape, strides;
};

// Runs the instructions of Python's pickletools that torch.save() writes, protocol 2, for a dictionary of tensors, on
// this program's own values: everything else is an error. Values are indices into lists, so that neither nesting nor
// cycles matter.
class Unpickler {
 public:
  using Kind = Value::Kind;
  Unpickler(Bytes pickle, std::string where) : pickle_(pickle), where_(std::move(where)) { run(); }

  // The dictionary's tensors, in its order.
  std::vector<std::pair<std::string, Tensor>> tensors() const {
    if (stack_.size() != 1 || stack_[0].kind != Kind::dictionary) {
      bad("it holds %s, expected a dictionary of tensors", stack_.empty() ? "nothing" : describe(stack_[0].kind));
    }
    std::vector<std::pair<std::string, Tensor>> result;
    const std::vector<Value>& items = lists_[static_cast<size_t>(stack_[0].number)];
    for (size_t k = 0; k + 1 < items.size(); k += 2) {
      if (items[k].kind != Kind::text) bad("a key is %s, expected the names of tensors", describe(items[k].kind));
      if (items[k + 1].kind != Kind::tensor) {
        bad("%s is %s, expected a tensor: wrought reads what torch.save(model.state_dict(), ...) writes",
            in_quotes(items[k].text).c_str(), describe(items[k + 1].kind));
      }
      result.push_back({std::string(items[k].text), tensors_[static_cast<size_t>(items[k + 1].number)]});
    }
    return result;
  }

 private:
  [[noreturn, gnu::format(printf, 2, 3)]] void bad(const char* format, ...) const {
    va_list args;
    va_start(args, format);
    const std::string what = vstrprintf(format, args);
    va_end(args);
    fail("%s: %s", where_.c_str(), what.c_str());
  }
  [[noreturn]] void odd() const { bad("instruction %zu is not as torch.save() writes it", at_); }

  std::string_view take(uint64_t bytes) {
    if (bytes > pickle_.size() - at_) bad("it ends too early");
    const std::string_view text = text_of(pickle_.subspan(at_, bytes));
    at_ += bytes;
    return text;
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take_line() {
    const std::string_view rest = text_of(pickle_.subspan(at_));
    const size_t end = rest.find('\n');
    if (end == std::string_view::npos) bad("it ends too early");
    return take(end + 1).substr(0, end);
  }

  void push(Kind kind, int64_t number = 0, std::string_view text = {}) { stack_.push_back({kind, number, text}); }
  Value pop() {
    if (stack_.empty()) odd();
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }
  Value pop(Kind kind) {
    const Value value = pop();
    if (value.kind != kind) odd();
    return value;
  }
  // Pops the values above the last mark, and the mark.
  std::vector<Value> pop_to_mark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1].kind != Kind::mark) --mark;
    if (mark == 0) odd();
    std::vector<Value> values(stack_.begin() + static_cast<ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark - 1);
    return values;
  }
  void push_list(Kind kind, std::vector<Value> values) {
    lists_.push_back(std::move(values));
    push(kind, static_cast<int64_t>(lists_.size()) - 1);
  }
  void push_tuple(size_t values) {
    if (stack_.size() < values) odd();
    const std::vector<Value> taken(stack_.end() - static_cast<ptrdiff_t>(values), stack_.end());
    stack_.resize(stack_.size() - values);
    push_list(Kind::tuple, taken);
  }
  const std::vector<Value>& list(const Value& value, Kind kind) const {
    if (value.kind != kind) odd();
    return lists_[static_cast<size_t>(value.number)];
  }
  void set_items(const std::vector<Value>& items) {
    if (stack_.empty() || stack_.back().kind != Kind::dictionary || items.size() % 2 != 0) odd();
    std::vector<Value>& all = lists_[static_cast<size_t>(stack_.back().number)];
    all.insert(all.end(), items.begin(), items.end());
  }

  std::vector<int64_t> sizes(const Value& tuple) const {
    std::vector<int64_t> result;
    const std::vector<Value>& values = list(tuple, Kind::tuple);
    if (values.size() > kMaxDimensions)
      bad("a tensor of %zu dimensions, expected at most %zu", values.size(), kMaxDimensions);
    for (const Value& value : values) {
      if (value.kind != Kind::integer || value.number < 0) odd();
      result.push_back(value.number);
    }
    return result;
  }

  void push_global() {
    const std::string module(take_line()), name(take_line());
    if (module == "collections" && name == "OrderedDict") return push(Kind::ordered_dict);
    if (module == "torch._utils" && name == "_rebuild_tensor_v2") return push(Kind::rebuild_tensor);
    for (const StorageType& type : kStorageTypes) {
      if (module == "torch" && name == type.name) return push(Kind::storage_type, &type - kStorageTypes);
    }
    bad("it calls %s, expected a dictionary of tensors: reading it would run code, which wrought never does; write it "
        "again with torch.save(model.state_dict(), ...) or as a model.safetensors",
        in_quotes(module + "." + name).c_str());
  }

  // ("storage", type, key, where it was, elements)
  void push_storage() {
    const std::vector<Value>& id = list(pop(), Kind::tuple);
    const Kind kinds[] = {Kind::text, Kind::storage_type, Kind::text, Kind::text, Kind::integer};
    if (id.size() != std::size(kinds) || id[0].text != "storage") odd();
    for (size_t k = 0; k < id.size(); ++k) {
      if (id[k].kind != kinds[k]) odd();
    }
    if (id[4].number < 0) odd();
    storages_.push_back({&kStorageTypes[id[1].number], std::string(id[2].text), id[4].number});
    push(Kind::storage, static_cast<int64_t>(storages_.size()) - 1);
  }

  // A call: of OrderedDict(), or of _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
  void call() {
    const Value arguments = pop();
    const std::vector<Value> values = list(arguments, Kind::tuple);
    const Value function = pop();
    if (function.kind == Kind::ordered_dict && values.empty()) return push_list(Kind::dictionary, {});
    if (function.kind != Kind::rebuild_tensor || values.size() != 6) odd();
    if (values[0].kind != Kind::storage || values[1].kind != Kind::integer || values[1].number < 0 ||
        values[4].kind != Kind::boolean || !list(values[5], Kind::dictionary).empty()) {
      odd();
    }
    tensors_.push_back(
        {storages_[static_cast<size_t>(values[0].number)], values[1].number, sizes(values[2]), sizes(values[3])});
    push(Kind::tensor, static_cast<int64_t>(tensors_.size()) - 1);
  }

  void remember(uint64_t key) {
    if (stack_.empty() || stack_.back().kind == Kind::mark) odd();
    memo_[key] = stack_.back();
  }
  void recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) odd();
    stack_.push_back(found->second);
  }

  void run() {
    for (bool more = true; more;) {
      switch (const auto instruction = take<uint8_t>(); instruction) {
        case 0x80:  // PROTO
          if (const int protocol = take<uint8_t>(); protocol != 2) bad("protocol %d, expected 2", protocol);
          break;
        case '(':  // MARK
          push(Kind::mark);
          break;
        case '}':  // EMPTY_DICT
          push_list(Kind::dictionary, {});
          break;
        case ')':  // EMPTY_TUPLE
          push_list(Kind::tuple, {});
          break;
        case 't':  // TUPLE
          push_list(Kind::tuple, pop_to_mark());
          break;
        case 0x85:  // TUPLE1, 2, 3
        case 0x86:
        case 0x87:
          push_tuple(instruction - 0x84u);
          break;
        case 'N':  // NONE
          push(Kind::none);
          break;
        case 0x88:  // NEWTRUE, NEWFALSE
        case 0x89:
          push(Kind::boolean);
          break;
        case 'K':  // BININT1, 2, BININT
          push(Kind::integer, take<uint8_t>());
          break;
        case 'M':
          push(Kind::integer, take<uint16_t>());
          break;
        case 'J':
          push(Kind::integer, take<int32_t>());
          break;
        case 0x8A: {  // LONG1: any length; sizes have at most 8 bytes
          const std::string_view digits = take(take<uint8_t>());
          if (digits.size() > 8) odd();
          int64_t value = !digits.empty() && static_cast<signed char>(digits.back()) < 0 ? -1 : 0;
          std::memcpy(&value, digits.data(), digits.size());
          push(Kind::integer, value);
          break;
        }
        case 'X':  // BINUNICODE
          push(Kind::text, 0, take(take<uint32_t>()));
          break;
        case 'c':  // GLOBAL
          push_global();
          break;
        case 'Q':  // BINPERSID
          push_storage();
          break;
        case 'R':  // REDUCE
          call();
          break;
        case 's': {  // SETITEM, SETITEMS
          const Value value = pop(), key = pop();
          set_items({key, value});
          break;
        }
        case 'u':
          set_items(pop_to_mark());
          break;
        case 'b':  // BUILD: state_dict()'s _metadata, versions of the modules
          pop(Kind::dictionary);
          if (stack_.empty() || stack_.back().kind != Kind::dictionary) odd();
          break;
        case 'q':  // BINPUT, LONG_BINPUT
          remember(take<uint8_t>());
          break;
        case 'r':
          remember(take<uint32_t>());
          break;
        case 'h':  // BINGET, LONG_BINGET
          recall(take<uint8_t>());
          break;
        case 'j':
          recall(take<uint32_t>());
          break;
        case '.':  // STOP
          more = false;
          break;
        default:
          bad("instruction 0x%02X at byte %zu is not one of a dictionary of tensors: wrought reads what "
              "torch.save(model.state_dict(), ...) writes",
              instruction, at_ - 1);
      }
    }
    if (at_ != pickle_.size()) bad("it continues after its end");
  }

  Bytes pickle_;
  std::string where_;
  size_t at_ = 0;
  std::vector<Value> stack_;
  std::map<uint64_t, Value> memo_;
  std::deque<std::vector<Value>> lists_;  // tuples; dictionaries, key and value in turn
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
};

// ---- tensors -------------------------------------------------------------------------------------------------------

TensorView view_of(const std::string& name, const Tensor& tensor, Bytes storage, const std::string& file) {
  const std::string where = file + ": tensor " + in_quotes(name);
  TensorView view;
  view.name = name;
  view.dtype = tensor.storage.type->dtype;
  view.shape = tensor.shape;
  const std::string shape = describe(view);
  if (tensor.strides.size() != tensor.shape.size()) {
    fail("%s: %zu dimensions and %zu strides, expected the same number", where.c_str(), tensor.shape.size(),
         tensor.strides.size());
  }
  int64_t bytes = tensor.storage.type->bytes, all = 0, begin = 0, end = 0;
  if (__builtin_mul_overflow(tensor.storage.elements, bytes, &all) || static_cast<size_t>(all) != storage.size()) {
    fail("%s: its storage has %zu bytes, expected %lld elements of %lld", where.c_str(), storage.size(),
         static_cast<long long>(tensor.storage.elements), static_cast<long long>(bytes));
  }
  const bool placed = !__builtin_mul_overflow(tensor.offset, bytes, &begin);
  const bool empty = std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end();
  int64_t stride = 1;
  for (size_t k = tensor.shape.size(); k-- > 0 && !empty;) {
    const int64_t size = tensor.shape[k];
    if (size > 1 && tensor.strides[k] != stride) {
      fail("%s: %s is not contiguous in its storage, expected what .contiguous() gives", where.c_str(), shape.c_str());
    }
    if (__builtin_mul_overflow(stride, size, &stride))
      fail("%s: the shape %s is too large", where.c_str(), shape.c_str());
  }
  bytes = __builtin_mul_overflow(bytes, empty ? 0 : stride, &bytes) ? INT64_MAX : bytes;
  if (!placed || __builtin_add_overflow(begin, bytes, &end) || end > all) {
    fail("%s: %s from element %lld on is not inside its storage of %lld", where.c_str(), shape.c_str(),
         static_cast<long long>(tensor.offset), static_cast<long long>(tensor.storage.elements));
  }
  view.bytes = storage.subspan(static_cast<size_t>(begin), static_cast<size_t>(bytes));
  return view;
}

}  // namespace

PytorchFile::PytorchFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  const Bytes file(file_.data(), file_.size());
  if (text_of(file).starts_with("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19")) {
    fail(
        "%s: written by PyTorch before 1.6, expected the zip file that later versions write; load and save it again "
        "with torch, or as a model.safetensors",
        where.c_str());
  }
  const Zip zip(file, where);
  std::string folder;
  for (const auto& [name, bytes] : zip.entries()) {
    constexpr std::string_view kPickle = "/data.pkl";
    if (!name.ends_with(kPickle)) continue;
    if (!folder.empty()) fail("%s: two entries FOLDER/data.pkl, expected one", where.c_str());
    folder = name.substr(0, name.size() - kPickle.size() + 1);
  }
  if (folder.empty()) fail("%s: no entry FOLDER/data.pkl, expected what torch.save() writes", where.c_str());
  if (const auto order = zip.find(folder + "byteorder"); order && text_of(*order) != "little") {
    fail("%s: byteorder is %s, expected \"little\"", where.c_str(), in_quotes(text_of(*order)).c_str());
  }
  const Unpickler pickle(*zip.find(folder + "data.pkl"), where + ": data.pkl");
  std::set<std::string> names;
  for (const auto& [name, tensor] : pickle.tensors()) {
    const std::string entry = folder + "data/" + tensor.storage.key;
    const auto storage = zip.find(entry);
    if (!storage) {
      fail("%s: tensor %s is in the entry %s, which is missing", where.c_str(), in_quotes(name).c_str(),
           in_quotes(entry).c_str());
    }
    if (!names.insert(name).second) fail("%s: tensor %s is there twice", where.c_str(), in_quotes(name).c_str());
    tensors_.push_back(view_of(name, tensor, *storage, where));
  }
}
