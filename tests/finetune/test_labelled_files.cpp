// Files of labelled texts: the three formats and folders, and what they refuse.
#include <doctest/doctest.h>

#include "llm/finetune/labelled_files.h"
#include "llm/support/error.h"
#include "tests/helpers/temporary_folder.h"

namespace {

using Rows = std::vector<std::pair<std::string, std::string>>;

Rows pairs(const LabelledTexts& texts) {
  Rows rows;
  for (const LabelledText& row : texts.rows) rows.emplace_back(row.label, row.text);
  return rows;
}

LabelledTexts read(const std::string& name, const std::string& text, const LabelledSource& source = {}) {
  const TemporaryFolder tmp;
  return read_labelled(tmp.write(name, text), source);
}

std::string refused(const std::string& name, const std::string& text, const LabelledSource& source = {}) {
  try {
    read(name, text, source);
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

LabelledSource columns(const char* text, const char* label, const char* header = "auto") {
  LabelledSource source;
  source.text_column = text;
  source.label_column = label;
  source.header = header;
  return source;
}

}  // namespace

TEST_CASE("tsv: columns by name or number, quotes kept as they are, both kinds of line ends") {
  const std::string text = "label\ttext\tmore\nham\tsay \"hi\tx\r\n\nspam\tbuy\ty";
  const Rows rows = {{"ham", "say \"hi"}, {"spam", "buy"}};
  const LabelledTexts read_by_name = read("a.tsv", text);
  CHECK(pairs(read_by_name) == rows);
  CHECK(read_by_name.header == "\"label\", \"text\", \"more\"");
  CHECK(read_by_name.rows[1].where.ends_with("a.tsv: line 4"));
  CHECK(pairs(read("a.tsv", text, columns("2", "1"))) == rows);  // no other line has the label "label"
  CHECK(pairs(read("a.tsv", text, columns("3", "label"))) == Rows{{"ham", "x"}, {"spam", "y"}});
}

TEST_CASE("a file with a header line, or without one") {
  const std::string text = "ham\tone\nspam\ttwo\nham\tthree\nspam\tfour\n";
  CHECK(pairs(read("a.tsv", text, columns("2", "1"))).size() == 4);
  CHECK(read("a.tsv", text, columns("2", "1")).header == "");
  CHECK(pairs(read("a.tsv", text, columns("2", "1", "yes"))).size() == 3);
  CHECK(pairs(read("a.tsv", "odd\tone\n" + text, columns("2", "1", "no"))).size() == 5);
  CHECK(pairs(read("a.tsv", "label\ttext\na\tb\n", columns("text", "label", "yes"))).size() == 1);
  CHECK(refused("a.tsv", text, columns("text", "label", "no")).find("only numbers do") == std::string::npos);
  CHECK(refused("a.tsv", text, columns("text", "label", "no")).find("{header} no is given") != std::string::npos);
}

TEST_CASE("csv: RFC 4180") {
  const std::string text =
      "text,label\n"
      "\"a, \"\"b\"\"\nsecond line\",x\r\n"
      ",y\n"
      "\"\",y\n"
      "plain,\"x\"\n";
  const LabelledTexts texts = read("a.csv", text);
  CHECK(pairs(texts) == Rows{{"x", "a, \"b\"\nsecond line"}, {"x", "plain"}});
  CHECK(texts.empty == 2);
  CHECK(texts.rows[0].where.ends_with("line 2"));
  CHECK(texts.rows[1].where.ends_with("line 6"));  // the quoted line's end counts
  CHECK(pairs(read("a.csv", "\xEF\xBB\xBFtext,label\na,b")) == Rows{{"b", "a"}});
}

TEST_CASE("jsonl: labels of several types") {
  const std::string text =
      "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"b\", \"label\": true}\n{\"text\": \"c\", \"label\": \"x\"}\n";
  CHECK(pairs(read("a.jsonl", text)) == Rows{{"1", "a"}, {"true", "b"}, {"x", "c"}});
}

TEST_CASE("folders, one level deep and two") {
  const TemporaryFolder tmp;
  tmp.write("one/pos/b.txt", "good");
  tmp.write("one/neg/a.txt", "bad\nline");
  tmp.write("one/neg/readme.md", "no");
  CHECK(pairs(read_labelled(tmp.path / "one", {})) == Rows{{"neg", "bad\nline"}, {"pos", "good"}});
  tmp.write("two/train/pos/1.txt", "a");
  tmp.write("two/train/unsup/1.txt", "?");
  tmp.write("two/test/neg/1.txt", "b");
  LabelledSource source;
  source.labels = {"neg", "pos"};
  CHECK(pairs(read_labelled(tmp.path / "two", source)) == Rows{{"neg", "b"}, {"pos", "a"}});
  std::filesystem::create_directories(tmp.path / "three");
  CHECK_THROWS_WITH_AS(read_labelled(tmp.path / "three", {}), doctest::Contains("LABEL/*.txt"), Error);
}

TEST_CASE("rows without text and with other labels are counted and left out") {
  LabelledSource source;
  source.labels = {"a", "b"};
  const LabelledTexts texts = read("a.tsv", "label\ttext\na\tx\nb\t  \nc\ty\nb\tz\n", source);
  CHECK(pairs(texts) == Rows{{"a", "x"}, {"b", "z"}});
  CHECK(texts.empty == 1);
  CHECK(texts.others == 1);
}

TEST_CASE("errors name the file and the line") {
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find(part) != std::string::npos);
  };
  const std::string good = "label,text\na,b\n";
  has(refused("a.csv", good, columns("body", "label")), "no column \"body\"; there are 2: \"label\", \"text\"");
  has(refused("a.csv", good, columns("body", "kind")), "a column \"body\"; it has \"label\", \"text\"");
  has(refused("a.csv", good, columns("body", "label", "yes")), "no column \"body\"; there are 2: \"label\", \"text\"");
  has(refused("a.csv", "label,text,text\nham,a,b\n", columns("text", "label")),
      "{text-column}: two columns have the name \"text\"");
  has(refused("a.csv", good, columns("2", "3")), "{label-column}: there is no column \"3\"; there are 2: 1 to 2");
  has(refused("a.csv", good, columns("text", "text")), "the same column");
  has(refused("a.csv", "label,text\na,\"b\nc\nd\n"), "line 2: a quote is opened and never closed");
  has(refused("a.csv", "label,text\na,\"b\"c\n"), "line 2: text after a closing quote");
  has(refused("a.csv", "label,text\na,b\"c\n"), "line 2: a quote inside a field");
  has(refused("a.csv", "label,text\na,b,c\n"), "line 2 has 3 columns, expected 2 as in line 1");
  has(refused("a.tsv", "label\ttext\n \tb\n"), "line 2: the label is empty");
  has(refused("a.tsv", "label\ttext\na\tb\xFF\n"), "line 2: byte 1 of the text is not UTF-8");
  has(refused("a.tsv", ""), "no rows");
  has(refused("a.tsv", "label\ttext\na\t \n"), "no row is left: 1 have no text");
  has(refused("a.doc", "x"), ".tsv, .csv or .jsonl");
  has(refused("a.jsonl", "{\"text\": \"a\"}\n"),
      "line 1: {label-column}: there is no key \"label\"; there are \"text\"");
  has(refused("a.jsonl", "{\"text\": \"a\", \"label\": 1.5}\n"), "line 1: the label is \"1.5\"");
  has(refused("a.jsonl", "{\"text\": 1, \"label\": 1}\n"), "line 1: \"text\" is 1, expected a string");
  LabelledSource lossy;
  lossy.lossy = true;
  CHECK(pairs(read("a.tsv", "label\ttext\na\tb\xFF\n", lossy)) == Rows{{"a", "b\xEF\xBF\xBD"}});
}

TEST_CASE("a folder's train/ and test/ are read together, and the result reports it") {
  const TemporaryFolder tmp;
  for (const char* name : {"both/train/x/1.txt", "both/test/x/2.txt", "train/train/x/1.txt", "plain/x/1.txt"}) {
    tmp.write(name, "text");
  }
  const std::tuple<const char*, size_t, bool> cases[] = {
      {"both", 2, true}, {"both/train", 1, false}, {"train", 1, false}, {"plain", 1, false}};
  for (const auto& [folder, rows, pooled] : cases) {
    CAPTURE(folder);
    const LabelledTexts texts = read_labelled(tmp.path / folder, {});
    CHECK(texts.rows.size() == rows);
    CHECK(texts.pooled == pooled);
  }
}
