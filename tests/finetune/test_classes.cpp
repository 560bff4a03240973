// Labelled texts: the three formats and folders, what they refuse, balance, splits, padding, what the head reads.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "llm/finetune/classes.h"
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

std::vector<LabelledText> made(const std::map<std::string, int>& counts) {
  std::vector<LabelledText> rows;
  for (const auto& [label, n] : counts) {
    for (int k = 0; k < n; ++k) rows.push_back({label, label + std::to_string(k), ""});
  }
  return rows;
}

std::map<std::string, int> count(const std::vector<LabelledText>& rows) {
  std::map<std::string, int> counts;
  for (const LabelledText& row : rows) ++counts[row.label];
  return counts;
}

}  // namespace

TEST_CASE("tsv: columns by name or number, quotes taken as they are, lines' ends of both kinds") {
  const std::string text = "label\ttext\tmore\nham\tsay \"hi\tx\r\n\nspam\tbuy\ty";
  const Rows rows = {{"ham", "say \"hi"}, {"spam", "buy"}};
  const LabelledTexts read_by_name = read("a.tsv", text);
  CHECK(pairs(read_by_name) == rows);
  CHECK(read_by_name.header == "\"label\", \"text\", \"more\"");
  CHECK(read_by_name.rows[1].where.ends_with("a.tsv: line 4"));
  CHECK(pairs(read("a.tsv", text, columns("2", "1"))) == rows);  // "label" is nobody's label
  CHECK(pairs(read("a.tsv", text, columns("3", "label"))) == Rows{{"ham", "x"}, {"spam", "y"}});
}

TEST_CASE("a header line, or none") {
  const std::string text = "ham\tone\nspam\ttwo\nham\tthree\nspam\tfour\n";
  CHECK(pairs(read("a.tsv", text, columns("2", "1"))).size() == 4);
  CHECK(read("a.tsv", text, columns("2", "1")).header == "");
  CHECK(pairs(read("a.tsv", text, columns("2", "1", "yes"))).size() == 3);
  CHECK(pairs(read("a.tsv", "odd\tone\n" + text, columns("2", "1", "no"))).size() == 5);
  CHECK(pairs(read("a.tsv", "label\ttext\na\tb\n", columns("text", "label", "yes"))).size() == 1);
  CHECK(refused("a.tsv", text, columns("text", "label", "no")).find("only numbers do") == std::string::npos);
  CHECK(refused("a.tsv", text, columns("text", "label", "no")).find("--header is no") != std::string::npos);
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

TEST_CASE("folders, in one level and in two") {
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

TEST_CASE("what is wrong is said with file and line") {
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find(part) != std::string::npos);
  };
  const std::string good = "label,text\na,b\n";
  has(refused("a.csv", good, columns("body", "label")), "no column \"body\"; there are 2: \"label\", \"text\"");
  has(refused("a.csv", good, columns("body", "kind")), "a column \"body\"; it has \"label\", \"text\"");
  has(refused("a.csv", good, columns("body", "label", "yes")), "no column \"body\"; there are 2: \"label\", \"text\"");
  has(refused("a.csv", "label,text,text\nham,a,b\n", columns("text", "label")),
      "--text-column: two columns have the name \"text\"");
  has(refused("a.csv", good, columns("2", "3")), "--label-column: there is no column \"3\"; there are 2: 1 to 2");
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
      "line 1: --label-column: there is no key \"label\"; there are \"text\"");
  has(refused("a.jsonl", "{\"text\": \"a\", \"label\": 1.5}\n"), "line 1: the label is \"1.5\"");
  has(refused("a.jsonl", "{\"text\": 1, \"label\": 1}\n"), "line 1: \"text\" is 1, expected a string");
  LabelledSource lossy;
  lossy.lossy = true;
  CHECK(pairs(read("a.tsv", "label\ttext\na\tb\xFF\n", lossy)) == Rows{{"a", "b\xEF\xBF\xBD"}});
}

TEST_CASE("classes: names in order, numbers by value") {
  CHECK(class_names(made({{"spam", 1}, {"ham", 2}})) == std::vector<std::string>{"ham", "spam"});
  CHECK(class_names(made({{"10", 1}, {"9", 1}, {"-1", 1}})) == std::vector<std::string>{"-1", "9", "10"});
  CHECK(class_names(made({{"10", 1}, {"9", 1}, {"x", 1}})) == std::vector<std::string>{"10", "9", "x"});
}

TEST_CASE("balance: as many of each as the smallest has, drawn with the seed") {
  const auto rows = made({{"a", 7}, {"b", 100}, {"c", 8}});
  const auto even = balanced(rows, 1);
  CHECK(count(even) == std::map<std::string, int>{{"a", 7}, {"b", 7}, {"c", 7}});
  std::set<std::string> texts, other;
  for (const LabelledText& row : even) texts.insert(row.text);
  for (const LabelledText& row : balanced(rows, 2)) other.insert(row.text);
  CHECK(texts.size() == 21);
  CHECK(texts != other);
}

TEST_CASE("the book's split of its spam data") {
  const auto even = balanced(made({{"ham", 4827}, {"spam", 747}}), 123);
  CHECK(even.size() == 1494);
  const LabelledSplits splits = split(even, 0.7, 0.1, 123);
  CHECK(splits.train.size() == 1045);
  CHECK(splits.validation.size() == 149);
  CHECK(splits.test.size() == 300);
  std::set<std::string> texts;
  for (const auto* part : {&splits.train, &splits.validation, &splits.test}) {
    for (const LabelledText& row : *part) texts.insert(row.text);
  }
  CHECK(texts.size() == 1494);
  CHECK_NOTHROW(check_classes({"ham", "spam"}, splits));
  CHECK(split(even, 0.7, 0.1, 123).train[0].text == splits.train[0].text);
}

TEST_CASE("one class, or a class that a split lacks") {
  const auto a = made({{"a", 3}}), both = made({{"a", 3}, {"b", 1}});
  CHECK_THROWS_WITH_AS(check_classes({"a"}, {a, a, {}}), doctest::Contains("at least two classes"), Error);
  CHECK_THROWS_WITH_AS(check_classes({"a", "b"}, {both, a, both}),
                       doctest::Contains("\"b\" has no example in the validation set of 3 rows"), Error);
  CHECK_THROWS_WITH_AS(check_classes({"a", "b"}, {a, both, both}), doctest::Contains("training set"), Error);
  CHECK_NOTHROW(check_classes({"a", "b"}, {both, both, {}}));
}

TEST_CASE("encoding names the row that cannot be") {
  const Tokenizer tokenizer = Tokenizer::chars("abc");
  const auto examples = encode({{"x", "ab", "f: line 1"}, {"y", "c", "f: line 2"}}, {"y", "x"}, tokenizer);
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].ids == std::vector<int32_t>{0, 1});
  CHECK(examples[0].label == 1);
  CHECK(examples[1].label == 0);
  CHECK(longest(examples) == 2);
  CHECK_THROWS_WITH_AS(encode({{"x", "d", "f: line 9"}}, {"x"}, tokenizer), doctest::Contains("f: line 9: "), Error);
  CHECK_THROWS_WITH_AS(encode({{"z", "a", "f: line 9"}}, {"x"}, tokenizer),
                       doctest::Contains("\"z\" is none of the classes: \"x\""), Error);
}

TEST_CASE("padding and cutting; what the head reads") {
  std::vector<LabelledExample> examples = {{{1, 2, 3}, 1}, {{4}, 0}, {{5, 6, 7, 8, 9}, 1}};
  CHECK(truncate(examples, 4) == 1);
  const LabelledBatch last = labelled_batch(examples, {2, 1}, 4, 99, Position::last);
  CHECK(last.B == 2);
  CHECK(last.inputs == std::vector<int32_t>{5, 6, 7, 8, 4, 99, 99, 99});
  CHECK(last.targets == std::vector<int32_t>{1, 0});
  CHECK(last.pooling == std::vector<float>{0, 0, 0, 1, 0, 0, 0, 1});
  const auto pooling = [&](const char* name) {
    return labelled_batch(examples, {0}, 4, 99, position_of(name)).pooling;
  };
  CHECK(pooling("last") == std::vector<float>{0, 0, 0, 1});
  CHECK(pooling("last-real") == std::vector<float>{0, 0, 1, 0});
  CHECK(pooling("first") == std::vector<float>{1, 0, 0, 0});
  CHECK(pooling("mean") == std::vector<float>(4, 0.25f));
  CHECK(pooling("mean-real") == std::vector<float>{1.0f / 3, 1.0f / 3, 1.0f / 3, 0});
  CHECK_THROWS_WITH_AS(position_of("middle"), doctest::Contains("\"last-real\""), Error);
}

TEST_CASE("accuracy, precision and recall") {
  Confusion confusion(2);
  confusion.at(0, 0) = 6, confusion.at(0, 1) = 2, confusion.at(1, 0) = 1, confusion.at(1, 1) = 3;
  CHECK(confusion.total() == 12);
  CHECK(confusion.accuracy() == doctest::Approx(9.0 / 12));
  CHECK(confusion.precision(0) == doctest::Approx(6.0 / 7));
  CHECK(confusion.recall(0) == doctest::Approx(6.0 / 8));
  CHECK(confusion.precision(1) == doctest::Approx(3.0 / 5));
  CHECK(confusion.recall(1) == doctest::Approx(3.0 / 4));
  CHECK(Confusion(2).accuracy() == 0);
  CHECK(Confusion(2).precision(0) == 0);
  CHECK(to_text(confusion, {"ham", "spam"}).find("0.8571   0.7500") != std::string::npos);
}
