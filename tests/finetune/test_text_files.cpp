// All readers of text: UTF-16 is named in the error, and file endings are recognised in capital letters, too.
#include <doctest/doctest.h>

#include <functional>

#include "llm/corpora/gutenberg.h"
#include "llm/corpora/rows.h"
#include "llm/finetune/labelled_files.h"
#include "llm/inference/tasks.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json_rows.h"
#include "llm/text/corpus.h"
#include "llm/text/shards.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;
using namespace std::string_literals;

namespace {

std::string utf16(const std::string& ascii, bool big_endian) {
  std::string out;
  for (const char c : ascii) out += big_endian ? "\0"s + c : c + "\0"s;
  return out;
}

std::string refusal(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("UTF-16 is recognised by its mark or by its zero bytes") {
  const std::pair<std::string, const char*> cases[] = {
      {"\xFF\xFE" + utf16("a text", false), "-f UTF-16 "},
      {"\xFE\xFF" + utf16("a text", true), "-f UTF-16 "},
      {"\xFF\xFE", "-f UTF-16 "},
      {utf16("a text", false), "-f UTF-16LE "},
      {utf16("a text", true), "-f UTF-16BE "},
      {utf16(std::string(9000, 'x'), false), "-f UTF-16LE "},
      {"", nullptr},
      {"a", nullptr},
      {"a text", nullptr},
      {"\xEF\xBB\xBF some text", nullptr},
      {"a\0text\0with\0zeros\0in\0it"s, nullptr},
      {std::string(100, '\0'), nullptr},
      {"\xFF\xFFtext", nullptr},
      {"\xFE", nullptr},
  };
  for (const auto& [text, encoding] : cases) {
    CAPTURE(text);
    const std::string reason = refusal([&, t = &text] { check_not_utf16(*t, "some/file.txt"); });
    if (encoding) {
      CHECK(reason.starts_with("some/file.txt: the text is UTF-16, expected UTF-8; convert it: iconv "s + encoding));
    } else {
      CHECK(reason == "nothing");
    }
  }
}

TEST_CASE("every reader refuses UTF-16 by name") {
  const TemporaryFolder tmp;
  const struct {
    const char *file, *text;
    std::function<void(const fs::path&)> read;
  } cases[] = {
      {"a.txt", "Some text.", [](const fs::path& p) { read_corpus(p, false); }},
      {"b.txt", "Some text.", [](const fs::path& p) { read_corpus(p, true); }},
      {"folder/c.txt", "Some text.", [](const fs::path& p) { read_corpus(p.parent_path(), false); }},
      {"books/d.txt", "A book.", [](const fs::path& p) { clean_books(p.parent_path(), p.parent_path() / "out", 0); }},
      {"e.tsv", "text\tlabel\nsome\tx\n", [](const fs::path& p) { read_labelled(p, {}); }},
      {"f.csv", "text,label\nsome,x\n", [](const fs::path& p) { read_labelled(p, {}); }},
      {"g.jsonl", "{\"text\": \"a\", \"label\": \"b\"}\n", [](const fs::path& p) { read_labelled(p, {}); }},
      {"labels/x/h.txt", "Some text.", [](const fs::path& p) { read_labelled(p.parent_path().parent_path(), {}); }},
      {"i.json", "[{\"a\": \"b\"}]", [](const fs::path& p) { read_json_rows(p); }},
      {"j.jsonl", "{\"a\": \"b\"}\n", [](const fs::path& p) { read_json_rows(p); }},
      {"k.tsv", "a\tb\nc\td\n", [](const fs::path& p) { read_rows(p, {}); }},
      {"l.json", "[{\"a\": \"b\"}]", [](const fs::path& p) { read_rows(p, {}); }},
      {"m.jsonl", "{\"text\": \"two words\"}\n", [](const fs::path& p) { read_lambada(p); }},
      {"n.list", "train.bin\n", [](const fs::path& p) { TokenSequence::open(p.string()); }},
  };
  for (const auto& c : cases) {
    for (const bool marked : {true, false}) {
      CAPTURE(c.file);
      CAPTURE(marked);
      const fs::path file = tmp.write(c.file, (marked ? "\xFF\xFE" : "") + utf16(c.text, false));
      const std::string reason = refusal([&] { c.read(file); });
      CAPTURE(reason);
      CHECK(reason.starts_with(file.string() + ": the text is UTF-16, expected UTF-8; convert it: iconv -f UTF-16"));
    }
    tmp.write(c.file, c.text);  // as UTF-8 it is read, except that the shard is missing
    const std::string reason = refusal([&] { c.read(tmp.path / c.file); });
    CHECK(reason == (c.file == "n.list"s ? reason : "nothing"));
    CHECK(reason.find("UTF-16") == std::string::npos);
  }
}

TEST_CASE("file endings are recognised in capital letters, too") {
  CHECK(ending_of("a/B.TXT") == ".txt");
  CHECK(ending_of("a.Tar.GZ") == ".gz");
  CHECK(ending_of("a.b/c") == "");
  const TemporaryFolder tmp;
  for (const char* name : {"texts/a.TXT", "texts/b.Md", "texts/c.TEXT", "texts/d.log"}) tmp.write(name, "text");
  CHECK(text_files_below(tmp.path / "texts").size() == 3);
  CHECK(read_corpus(tmp.path / "texts", false) == "text<|endoftext|>text<|endoftext|>text");
  CHECK(read_labelled(tmp.write("a.TSV", "text\tlabel\na\tb\n"), {}).rows.size() == 1);
  CHECK(read_labelled(tmp.write("a.Csv", "text,label\na,b\n"), {}).rows.size() == 1);
  CHECK(read_labelled(tmp.write("a.JSONL", "{\"text\": \"a\", \"label\": \"b\"}"), {}).rows.size() == 1);
  tmp.write("labels/x/a.TXT", "one");
  tmp.write("labels/y/b.txt", "two");
  CHECK(read_labelled(tmp.path / "labels", {}).rows.size() == 2);
  CHECK(read_rows(tmp.path / "a.TSV", {}).kind == Rows::Kind::tsv);
  CHECK(read_rows(tmp.path / "a.JSONL", {}).kind == Rows::Kind::jsonl);
  CHECK(read_json_rows(tmp.path / "a.JSONL").size() == 1);
  for (const char* name : {"a.BIN", "a.bin", "A.List", "a*.txt"}) CHECK(names_shards(name));
  for (const char* name : {"a.txt", "bin", "list", "a.bin.txt"}) CHECK_FALSE(names_shards(name));
}

TEST_CASE("a list of shards: a byte order mark is skipped, a zero byte is refused with its line") {
  const TemporaryFolder tmp;
  const std::vector<int32_t> tokens = {1, 2, 3};
  write_shard(tmp.path / "a.bin", tokens, 10);
  const std::pair<std::string, const char*> cases[] = {
      {"\xEF\xBB\xBF"
       "a.bin\na.bin\n",
       nullptr},
      {"\xEF\xBB\xBF# two\r\na.bin\r\na.bin\r\n", nullptr},
      {"a.bin\na.bin\0x\n"s, ", line 2: a zero byte"},
      {"# a comment\n#\0\na.bin\n"s, ", line 2: a zero byte"},
      {"\xEF\xBB\xBF", "names no shard"},
  };
  for (const auto& [text, reason] : cases) {
    for (const char* name : {"a.list", "b.LIST"}) {
      CAPTURE(text);
      const std::string path = tmp.write(name, text).string();
      int64_t size = 6;
      const std::string found = refusal([&] { size = TokenSequence::open(path).size(); });
      CHECK(size == 6);
      CAPTURE(found);
      CHECK(found.find(reason ? reason : "nothing") != std::string::npos);
    }
  }
}
