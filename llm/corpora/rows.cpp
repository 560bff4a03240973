#include "llm/corpora/rows.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

constexpr int kMaxJsonDepth = 32;

void add_line(std::string& text, std::string_view line) {
  if (!text.empty()) text += '\n';
  text += line;
}

std::string text_of(const ordered_json& object, const std::vector<std::string>& fields, const std::string& where) {
  std::string text;
  if (!object.is_object()) fail("%s: expected a JSON object", where.c_str());
  if (fields.empty()) {
    for (const auto& [name, value] : object.items()) {
      if (value.is_string()) add_line(text, value.get_ref<const std::string&>());
    }
  }
  for (const std::string& field : fields) {
    const auto found = object.find(field);
    if (found == object.end() || !found->is_string()) {
      fail("%s: %s is %s, expected a string", where.c_str(), in_quotes(field).c_str(),
           found == object.end() ? "not there" : found->type_name());
    }
    add_line(text, found->get_ref<const std::string&>());
  }
  return text;
}

std::vector<std::string_view> columns_of(std::string_view line) {
  std::vector<std::string_view> columns;
  for (;;) {
    const size_t tab = std::min(line.find('\t'), line.size());
    columns.push_back(line.substr(0, tab));
    if (tab == line.size()) return columns;
    line.remove_prefix(tab + 1);
  }
}

// Calls visit(object) for each element. parse_ordered_json keeps the order of the fields.
void for_each_object(const MappedFile& file, const std::function<void(const ordered_json& object)>& visit) {
  const ordered_json array = parse_ordered_json(file, kMaxJsonDepth, [&](JsonPath at, ordered_json& value) {
    if (at.size() != 1 || !at[0].empty()) return true;
    visit(value);
    return false;
  });
  if (!array.is_array()) {
    fail("%s: expected a JSON array of objects; one object per line is a .jsonl", file.path().c_str());
  }
}

// The chosen columns of a .tsv or .csv.
template <class Name>
std::vector<size_t> choose_columns(const fs::path& path, const std::string& header, const std::vector<Name>& names,
                                   const std::vector<std::string>& fields) {
  std::vector<size_t> chosen;
  for (const std::string& field : fields) {
    const auto found = std::find(names.begin(), names.end(), field);
    if (found == names.end()) {
      fail("%s: line 1: expected column names, %s among them, found %s", path.c_str(), in_quotes(field).c_str(),
           in_quotes(header).c_str());
    }
    if (std::find(found + 1, names.end(), field) != names.end()) {
      fail("%s: line 1: two columns have the name %s; rename one of them", path.c_str(), in_quotes(field).c_str());
    }
    chosen.push_back(static_cast<size_t>(found - names.begin()));
  }
  for (size_t k = 0; fields.empty() && k < names.size(); ++k) chosen.push_back(k);
  return chosen;
}

// The fields of the .csv record that begins at text[begin] (RFC 4180: a quoted field may hold commas, line ends and
// doubled quotes). It ends, at *end, at a line end outside quotes. `where` begins the errors.
std::vector<std::string> read_record(std::string_view text, size_t begin, size_t* end, const std::string& where) {
  std::vector<std::string> fields(1);
  size_t i = begin;
  for (; i < text.size() && text[i] != '\n'; ++i) {
    const char c = text[i];
    if (c == ',') {
      fields.emplace_back();
    } else if (c != '"') {
      if (c != '\r' || !text.substr(i + 1).starts_with('\n')) fields.back() += c;
    } else {
      const bool opens = i == begin || text[i - 1] == ',';
      if (!opens) {
        fail("%s: a quote inside an unquoted field; put the field in quotes and double those inside: \"\"",
             where.c_str());
      }
      for (++i;; ++i) {
        if (i >= text.size()) {
          fail("%s: a quote is opened and never closed; double a quote inside a field: \"\"", where.c_str());
        }
        if (text[i] == '"' && !text.substr(i + 1).starts_with('"')) break;
        if (text[i] == '"') ++i;
        fields.back() += text[i];
      }
      const std::string_view rest = text.substr(i + 1, 2);
      if (!rest.empty() && rest[0] != ',' && rest[0] != '\n' && rest != "\r\n") {
        fail("%s: text after a closing quote; double a quote inside a field: \"\"", where.c_str());
      }
    }
  }
  *end = i;
  return fields;
}

void read_csv(const fs::path& path, std::string_view text, const std::vector<std::string>& fields, Rows& rows) {
  std::vector<size_t> columns;
  size_t width = 0, end = 0;
  int64_t line = 1;
  for (size_t begin = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; begin < text.size(); begin = end + 1) {
    const std::string where = strprintf("%s: line %lld", path.c_str(), static_cast<long long>(line));
    const std::vector<std::string> values = read_record(text, begin, &end, where);
    const std::string_view record = text.substr(begin, end - begin);
    const int64_t number = line;
    line += 1 + std::count(record.begin(), record.end(), '\n');
    if (record.empty() || record == "\r") continue;
    if (width == 0) {
      rows.header = text.substr(0, end);
      width = values.size();
      columns = choose_columns(path, std::string(record), values, fields);
      continue;
    }
    if (values.size() != width) {
      fail("%s: %zu columns, expected %zu as in the first line", where.c_str(), values.size(), width);
    }
    std::string& joined = rows.text.emplace_back();
    for (const size_t k : columns) add_line(joined, values[k]);
    rows.number.push_back(number);
    rows.lines.emplace_back(record);
  }
}

}  // namespace

Rows read_rows(const fs::path& path, const std::vector<std::string>& fields) {
  Rows rows;
  rows.file = MappedFile(path);
  const MappedFile& file = rows.file;
  const std::string ending = ending_of(path);
  rows.kind = ending == ".json"    ? Rows::Kind::json
              : ending == ".jsonl" ? Rows::Kind::jsonl
              : ending == ".tsv"   ? Rows::Kind::tsv
              : ending == ".csv"   ? Rows::Kind::csv
                                   : Rows::Kind::lines;
  if (rows.kind == Rows::Kind::lines && !fields.empty()) {
    fail_usage("%s: {field} is for .json, .jsonl, .tsv and .csv files; bare lines have no fields", path.c_str());
  }
  const std::string_view text = file.text();
  check_not_utf16(text, path);
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos) {
    fail("%s: not UTF-8: byte 0x%02X at offset %zu", path.c_str(), static_cast<unsigned char>(text[bad]), bad);
  }
  drop_pages({file.data(), file.size()});
  if (rows.kind == Rows::Kind::json) {
    for_each_object(file, [&](const ordered_json& object) {
      rows.number.push_back(static_cast<int64_t>(rows.number.size()) + 1);
      const std::string where = strprintf("%s: row %lld", path.c_str(), static_cast<long long>(rows.number.back()));
      rows.text.push_back(text_of(object, fields, where));
    });
    return rows;
  }
  if (rows.kind == Rows::Kind::csv) {
    read_csv(path, text, fields, rows);
    return rows;
  }
  std::vector<size_t> columns;
  size_t width = 0;
  for_each_line(file, [&](std::string_view line, size_t number) {
    if (line.ends_with('\r')) line.remove_suffix(1);
    const auto where = [&] { return strprintf("%s: line %zu", path.c_str(), number); };
    if (rows.kind == Rows::Kind::tsv && number == 1) {
      rows.header = line;
      width = columns_of(line).size();
      columns = choose_columns(path, rows.header, columns_of(line), fields);
      return;
    }
    if (rows.kind == Rows::Kind::jsonl && line.find_first_not_of(" \t") == std::string::npos) return;
    if (rows.kind == Rows::Kind::jsonl) {
      rows.text.push_back(text_of(parse_ordered_json(line, where(), kMaxJsonDepth), fields, where()));
    } else if (rows.kind == Rows::Kind::tsv) {
      const std::vector<std::string_view> values = columns_of(line);
      if (values.size() != width) {
        fail("%s: %zu columns, expected %zu as in the first line", where().c_str(), values.size(), width);
      }
      std::string& joined = rows.text.emplace_back();
      for (const size_t k : columns) add_line(joined, values[k]);
    } else {
      rows.text.emplace_back(line);
    }
    rows.number.push_back(static_cast<int64_t>(number));
    rows.lines.push_back(line);
  });
  return rows;
}

void write_rows(const Rows& rows, const std::vector<bool>& keep, const fs::path& path) {
  FileWriter file(path);
  if (rows.kind == Rows::Kind::json) {
    size_t row = 0;
    bool first = true;
    for_each_object(rows.file, [&](const ordered_json& object) {
      if (!keep[row++]) return;
      file.write(std::exchange(first, false) ? "[\n    " : ",\n    ");
      for (const char c : object.dump(4)) {
        file.write({&c, 1});
        if (c == '\n') file.write("    ");
      }
    });
    file.write(first ? "[]\n" : "\n]\n");
  } else {
    if (rows.kind == Rows::Kind::tsv || !rows.header.empty()) file.write(rows.header + "\n");
    for (size_t k = 0; k < rows.lines.size(); ++k) {
      if (!keep[k]) continue;
      file.write(rows.lines[k]);
      file.write("\n");
    }
  }
  file.commit();
}
