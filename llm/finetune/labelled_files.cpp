#include "llm/finetune/labelled_files.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <string_view>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/support/json_rows.h"

namespace fs = std::filesystem;

// ---- lines into fields ---------------------------------------------------------------------------------------------

namespace {

struct Record {
  std::vector<std::string> fields;
  size_t line;  // on which it begins, from 1
};

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

using VisitRecord = std::function<void(Record& record)>;

void read_tsv(std::string_view text, const VisitRecord& visit) {
  for (size_t line = 1; !text.empty(); ++line) {
    const size_t end = text.find('\n');
    std::string_view rest = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (rest.ends_with('\r')) rest.remove_suffix(1);
    if (is_blank(rest)) continue;
    Record record{{}, line};
    for (size_t tab = 0; tab != std::string_view::npos;) {
      tab = rest.find('\t');
      record.fields.emplace_back(rest.substr(0, tab));
      if (tab != std::string_view::npos) rest.remove_prefix(tab + 1);
    }
    visit(record);
  }
}

// RFC 4180. A line end inside quotes belongs to the field; CR LF there stays as it is.
void read_csv(std::string_view text, const std::string& path, const VisitRecord& visit) {
  size_t line = 1, i = 0;
  const auto at = [&](size_t k) { return k < text.size() ? text[k] : '\n'; };  // the last line end may be missing
  const auto ends_line = [&](size_t k) { return at(k) == '\n' || (at(k) == '\r' && at(k + 1) == '\n'); };
  while (i < text.size()) {
    Record record{{}, line};
    const bool empty_line = ends_line(i);
    for (bool more = true; more;) {
      std::string field;
      if (at(i) == '"') {
        const size_t opened = line;
        for (++i;; ++i) {
          if (i >= text.size()) {
            fail("%s: line %zu: a quote is opened and never closed; a quote inside a field is written twice: \"\"",
                 path.c_str(), opened);
          }
          if (text[i] == '"' && i + 1 < text.size() && text[i + 1] == '"') {
            ++i;
          } else if (text[i] == '"') {
            break;
          }
          line += text[i] == '\n';
          field += text[i];
        }
        ++i;
        if (at(i) != ',' && !ends_line(i)) {
          fail("%s: line %zu: text after a closing quote; a quote inside a field is written twice: \"\"", path.c_str(),
               line);
        }
      } else {
        for (; at(i) != ',' && !ends_line(i); ++i) {
          if (text[i] == '"') {
            fail(
                "%s: line %zu: a quote inside a field without quotes; put the field in quotes and write its own "
                "twice: \"\"",
                path.c_str(), line);
          }
          field += text[i];
        }
      }
      record.fields.push_back(std::move(field));
      more = at(i) == ',' && i < text.size();
      if (more) ++i;
    }
    i += at(i) == '\r' ? 2 : 1;
    ++line;
    if (!empty_line) visit(record);
  }
}

// ---- fields into rows ----------------------------------------------------------------------------------------------

// The index, from 0, of a column that is named by its number; -1 for other names.
int64_t column_number(const std::string& name) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() && number > 0 ? number - 1 : -1;
}

// The column's index among `names` (by name first, then as a number), or -1.
int64_t find_column(const std::string& column, const std::vector<std::string>& names, bool named) {
  const auto found = std::find(names.begin(), names.end(), column);
  if (named && found != names.end()) return found - names.begin();
  const int64_t number = column_number(column);
  return number < static_cast<int64_t>(names.size()) ? number : -1;
}

void check_label(const LabelledText& row) {
  if (is_blank(row.label)) fail("%s: the label is empty", row.where.c_str());
}

// `read` visits the file's records: once to see what the file looks like, once to take its rows.
LabelledTexts rows_of_records(const std::function<void(const VisitRecord&)>& read, const std::string& path,
                              const LabelledSource& source) {
  std::vector<std::string> first;
  size_t first_line = 0, count = 0;
  int64_t label_number = -1;
  bool label_again = false;  // whether another line has the first line's label
  read([&](Record& record) {
    if (count++ == 0) {
      first = record.fields;
      first_line = record.line;
      label_number = find_column(source.label_column, first, false);
      return;
    }
    if (record.fields.size() != first.size()) {
      fail("%s: line %zu has %zu columns, expected %zu as in line %zu", path.c_str(), record.line, record.fields.size(),
           first.size(), first_line);
    }
    const auto k = static_cast<size_t>(label_number);
    label_again = label_again || (label_number >= 0 && record.fields[k] == first[k]);
  });
  if (count == 0) fail("%s: there are no rows in it", path.c_str());
  bool header = source.header == "yes";
  if (source.header == "auto") {
    const auto named_here = [&](const std::string& name) {
      return column_number(name) < 0 && std::find(first.begin(), first.end(), name) != first.end();
    };
    header = named_here(source.text_column) || named_here(source.label_column);
    if (label_number >= 0 && column_number(source.text_column) >= 0 && count > 1)
      header = !label_again;  // both are numbers
  }
  const auto column = [&](const char* flag, const std::string& name) {
    const int64_t found = find_column(name, first, header);
    if (header && std::count(first.begin(), first.end(), name) > 1) {
      fail("%s: %s: two columns have the name %s; rename one of them", path.c_str(), flag, in_quotes(name).c_str());
    }
    if (found >= 0) return static_cast<size_t>(found);
    if (header || column_number(name) >= 0) {
      fail("%s: %s: there is no column %s; there are %zu: %s", path.c_str(), flag, in_quotes(name).c_str(),
           first.size(), header ? list_of(first).c_str() : strprintf("1 to %zu", first.size()).c_str());
    }
    fail("%s: %s: the first line does not name a column %s; it has %s; give the name, or the number from 1 (%s)",
         path.c_str(), flag, in_quotes(name).c_str(), list_of(first).c_str(),
         source.header == "no" ? "{header} no is given" : "without a header line only numbers do");
  };
  const size_t text = column("{text-column}", source.text_column);
  const size_t label = column("{label-column}", source.label_column);
  if (text == label) fail("%s: {text-column} and {label-column} are the same column", path.c_str());
  LabelledTexts result;
  if (header) result.header = list_of(first);
  result.rows.reserve(count);
  read([&](Record& record) {
    if (header && record.line == first_line) return;
    result.rows.push_back({std::move(record.fields[label]), std::move(record.fields[text]),
                           strprintf("%s: line %zu", path.c_str(), record.line)});
    check_label(result.rows.back());
  });
  return result;
}

LabelledTexts rows_of_json(const fs::path& path, const LabelledSource& source) {
  LabelledTexts result;
  for_each_json_row(path, [&](const JsonRow& row) {
    const auto label = row.value.find(source.label_column);
    const bool has_text = row.value.contains(source.text_column);
    if (label == row.value.end() || !has_text) {
      std::vector<std::string> keys;
      for (const auto& [key, value] : row.value.items()) keys.push_back(key);
      fail("%s: %s: there is no key %s; there are %s", row.where.c_str(), has_text ? "{label-column}" : "{text-column}",
           in_quotes(has_text ? source.label_column : source.text_column).c_str(), list_of(keys).c_str());
    }
    if (!label->is_string() && !label->is_number_integer() && !label->is_boolean()) {
      fail("%s: the label is %s, expected a string, a whole number, true or false", row.where.c_str(),
           in_quotes(label->dump()).c_str());
    }
    result.rows.push_back({label->is_string() ? label->get<std::string>() : label->dump(),
                           string_in(row, source.text_column.c_str(), false), row.where});
    check_label(result.rows.back());
  });
  return result;
}

LabelledTexts rows_of_folder(const fs::path& path, const LabelledSource& source) {
  std::vector<fs::path> parents;
  for (const char* part : {"train", "test"}) {
    if (fs::is_directory(path / part)) parents.push_back(path / part);
  }
  if (parents.empty()) parents.push_back(path);
  std::vector<fs::path> files;
  for (const fs::path& parent : parents) {
    for (const fs::directory_entry& label : fs::directory_iterator(parent)) {
      const std::string name = label.path().filename().string();
      const bool wanted = source.labels.empty() || std::count(source.labels.begin(), source.labels.end(), name) > 0;
      if (!wanted || !label.is_directory()) continue;
      for (const fs::directory_entry& file : fs::directory_iterator(label.path())) {
        if (ending_of(file.path()) == ".txt") files.push_back(file.path());
      }
    }
  }
  if (files.empty()) {
    fail("%s: expected texts as LABEL/*.txt in this folder, or in train/ and test/ in it; found none", path.c_str());
  }
  std::sort(files.begin(), files.end());
  LabelledTexts result;
  result.pooled = parents.size() > 1;
  for (const fs::path& file : files) {
    const MappedFile mapped(file);
    check_not_utf16(mapped.text(), file);
    result.rows.push_back({file.parent_path().filename().string(), std::string(mapped.text()), file.string()});
  }
  return result;
}

}  // namespace

LabelledTexts read_labelled(const fs::path& path, const LabelledSource& source) {
  LabelledTexts all;
  const std::string ending = ending_of(path);
  if (fs::is_directory(path)) {
    all = rows_of_folder(path, source);
  } else if (ending == ".jsonl") {
    all = rows_of_json(path, source);
  } else if (ending == ".tsv" || ending == ".csv") {
    const MappedFile file(path);
    std::string_view text = file.text();
    check_not_utf16(text, path);
    if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark, as spreadsheets write it
    const auto read = [&](const VisitRecord& visit) {
      constexpr size_t kStretch = 4096;
      size_t records = 0;
      const VisitRecord dropping = [&](Record& record) {
        visit(record);
        if (++records % kStretch == 0) drop_pages({file.data(), file.size()});
      };
      if (ending == ".tsv") {
        read_tsv(text, dropping);
      } else {
        read_csv(text, path.string(), dropping);
      }
    };
    all = rows_of_records(read, path.string(), source);
  } else {
    fail("%s: expected a file that ends in .tsv, .csv or .jsonl, or a folder of LABEL/*.txt", path.c_str());
  }

  size_t kept = 0;
  for (LabelledText& row : all.rows) {
    if (!source.labels.empty() && std::count(source.labels.begin(), source.labels.end(), row.label) == 0) {
      ++all.others;
      continue;
    }
    if (is_blank(row.text)) {
      ++all.empty;
      continue;
    }
    const size_t bad = find_invalid_utf8(row.text);
    if (bad != std::string_view::npos) {
      if (!source.lossy) {
        fail("%s: byte %zu of the text is not UTF-8; convert the file, or replace such bytes with {lossy}",
             row.where.c_str(), bad);
      }
      row.text = replace_invalid_utf8(row.text);
    }
    LabelledText& place = all.rows[kept++];
    if (&place != &row) place = std::move(row);
  }
  all.rows.resize(kept);
  if (all.rows.empty()) {
    fail("%s: no row is left: %lld have no text%s", path.c_str(), static_cast<long long>(all.empty),
         all.others
             ? strprintf(", %lld have other labels than those asked for", static_cast<long long>(all.others)).c_str()
             : "");
  }
  return all;
}
