#include "llm/support/json.h"

#include <type_traits>
#include <unordered_set>
#include <vector>

#include "llm/support/error.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

namespace {

// The text being read; the parser's iterators advance its position.
struct Source {
  std::string_view text;
  std::string where;
  size_t at = 0;            // the next byte
  std::string_view mapped;  // what is mapped: its pages are returned as they are read; empty: not a mapped file

  // Called now and then, as the parser advances.
  void drop() const {
    const size_t read = static_cast<size_t>(text.data() + at - mapped.data());
    drop_pages(std::as_bytes(std::span(mapped.data(), read)));
  }
};

class Cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  Cursor(Source* source, size_t at) : source_(source), at_(at) {}
  char operator*() const {
    const char c = source_->text[at_];
    // The parser would take it for the end.
    if (c == '\0') fail("%s: not JSON: a zero byte at offset %zu", source_->where.c_str(), at_);
    return c;
  }
  Cursor& operator++() {
    constexpr size_t kStretch = size_t{1} << 22;
    source_->at = ++at_;
    if (at_ % kStretch == 0 && !source_->mapped.empty()) source_->drop();
    return *this;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }
  bool operator!=(const Cursor& other) const { return at_ != other.at_; }

 private:
  Source* source_;
  size_t at_;
};

// Builds the value from the parser's events. (nlohmann's own parser with a callback scans everything around a value
// whenever one ends: quadratic.)
template <class Json>
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(const Source& source, int max_depth, const JsonVisitor<Json>& visit)
      : source_(source), max_depth_(static_cast<size_t>(max_depth)), visit_(visit) {}
  Json result;

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(typename Json::number_integer_t value) override { return put(value); }
  bool number_unsigned(typename Json::number_unsigned_t value) override { return put(value); }
  bool number_float(typename Json::number_float_t value, const std::string&) override { return put(value); }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(typename Json::binary_t&) override { return false; }  // JSON has none
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    Frame& frame = frames_.back();
    auto& object = frame.value.template get_ref<typename Json::object_t&>();
    bool is_new = true;
    if constexpr (std::is_same_v<Json, json>) {
      const auto [slot, inserted] = object.emplace(name, nullptr);
      frame.slot = slot;
      is_new = inserted;
    } else {  // a vector, searched linearly: fast enough for a few keys
      constexpr size_t kFew = 16;
      if (object.size() < kFew) {
        for (const auto& entry : object) is_new = is_new && entry.first != name;
      } else {
        if (frame.keys.empty()) {
          for (const auto& entry : object) frame.keys.insert(entry.first);
        }
        is_new = frame.keys.insert(name).second;
      }
      if (is_new) static_cast<Entries&>(object).emplace_back(name, nullptr);
    }
    if (!is_new) {
      fail("%s: the name %s occurs twice, again before byte %zu", source_.where.c_str(), in_quotes(name).c_str(),
           source_.at);
    }
    path_.back() = std::move(name);
    return true;
  }

  bool parse_error(size_t bytes_read, const std::string&, const nlohmann::detail::exception& error) override {
    std::string reason = error.what();
    reason.erase(0, reason.find("] ") + 2);  // the library's error number
    fail("%s: not JSON, or cut off or damaged, at byte %zu: %s", source_.where.c_str(), bytes_read - (bytes_read > 0),
         replace_invalid_utf8(reason.substr(0, 200)).c_str());
  }

 private:
  using Entries = std::vector<std::pair<const std::string, ordered_json>>;
  struct Frame {  // for an open object or array
    Json value;
    typename Json::object_t::iterator slot{};  // for the last key read
    std::unordered_set<std::string> keys;      // for an ordered object with many
  };

  bool open(Json value) {
    if (frames_.size() >= max_depth_) {
      fail("%s: nested deeper than the %zu levels expected, at byte %zu", source_.where.c_str(), max_depth_,
           source_.at - 1);
    }
    frames_.push_back({std::move(value), {}, {}});
    path_.emplace_back();
    return true;
  }

  bool close() {
    Json value = std::move(frames_.back().value);
    frames_.pop_back();
    path_.pop_back();
    return put(std::move(value));
  }

  template <class Value>
  bool put(Value&& given) {
    Json value(std::forward<Value>(given));
    const bool keep = !visit_ || visit_(path_, value);
    if (frames_.empty()) {
      if (keep) result = std::move(value);
      return true;
    }
    Frame& frame = frames_.back();
    if (frame.value.is_array()) {
      if (keep) frame.value.template get_ref<typename Json::array_t&>().push_back(std::move(value));
      return true;
    }
    auto& object = frame.value.template get_ref<typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, json>) {
      if (keep) {
        frame.slot->second = std::move(value);
      } else {
        object.erase(frame.slot);
      }
    } else if (keep) {
      object.back().second = std::move(value);
    } else {
      object.pop_back();
    }
    return true;
  }

  const Source& source_;
  const size_t max_depth_;
  const JsonVisitor<Json>& visit_;
  std::vector<Frame> frames_;
  std::vector<std::string> path_;
};

template <class Json>
Json parse(Source source, int max_depth, const JsonVisitor<Json>& visit) {
  Builder<Json> builder(source, max_depth, visit);
  Json::sax_parse(Cursor(&source, 0), Cursor(&source, source.text.size()), &builder);
  if (!source.mapped.empty()) source.drop();
  return std::move(builder.result);
}

}  // namespace

json parse_json(std::string_view text, const std::string& where, int max_depth) {
  return parse<json>({text, where, 0, {}}, max_depth, nullptr);
}

ordered_json parse_ordered_json(std::string_view text, const std::string& where, int max_depth) {
  return parse<ordered_json>({text, where, 0, {}}, max_depth, nullptr);
}

json parse_json_if_whole(std::string_view text, int max_depth) {
  try {
    return parse_json(text, "", max_depth);
  } catch (const Error&) {
    return json(json::value_t::discarded);
  }
}

json parse_json(const MappedFile& file, int max_depth, const JsonVisitor<json>& visit) {
  return parse<json>({file.text(), file.path().string(), 0, file.text()}, max_depth, visit);
}

ordered_json parse_ordered_json(const MappedFile& file, int max_depth, const JsonVisitor<ordered_json>& visit) {
  return parse<ordered_json>({file.text(), file.path().string(), 0, file.text()}, max_depth, visit);
}

json parse_json(const MappedFile& file, size_t begin, size_t bytes, const std::string& where, int max_depth,
                const JsonVisitor<json>& visit) {
  return parse<json>({file.text().substr(begin, bytes), where, 0, file.text()}, max_depth, visit);
}

std::string in_quotes(std::string_view text) {
  std::string shown(text.substr(0, 100));
  if (shown.size() < text.size()) shown += "...";
  return json(shown).dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string list_of(const std::vector<std::string>& names) {
  constexpr size_t kMost = 20;
  std::string all;
  for (size_t k = 0; k < std::min(names.size(), kMost); ++k) all += (all.empty() ? "" : ", ") + in_quotes(names[k]);
  return names.size() > kMost ? all + ", ..." : all;
}

json read_json_object(const fs::path& path) {
  constexpr int kMaxDepth = 64;
  const MappedFile file(path);
  json value = parse_json(file, kMaxDepth);
  if (!value.is_object()) fail("%s: expected a JSON object", path.c_str());
  return value;
}

void write_json(const fs::path& path, const json& value) {
  FileWriter file(path);
  file.write(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
  file.commit();
}

std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 100);
}
