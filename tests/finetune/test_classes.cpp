// Labelled texts: classes, balance, splits, padding, and how well a classifier does.
#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "llm/finetune/classes.h"
#include "llm/support/error.h"

namespace {

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

TEST_CASE("classes: names in order, numbers by value") {
  CHECK(class_names(made({{"spam", 1}, {"ham", 2}})) == std::vector<std::string>{"ham", "spam"});
  CHECK(class_names(made({{"10", 1}, {"9", 1}, {"-1", 1}})) == std::vector<std::string>{"-1", "9", "10"});
  CHECK(class_names(made({{"10", 1}, {"9", 1}, {"x", 1}})) == std::vector<std::string>{"10", "9", "x"});
}

TEST_CASE("balance: each class gets as many rows as the smallest has, drawn by the seed") {
  const auto rows = made({{"a", 7}, {"b", 100}, {"c", 8}});
  const auto even = balanced(rows, 1);
  CHECK(count(even) == std::map<std::string, int>{{"a", 7}, {"b", 7}, {"c", 7}});
  std::set<std::string> texts, other;
  for (const LabelledText& row : even) texts.insert(row.text);
  for (const LabelledText& row : balanced(rows, 2)) other.insert(row.text);
  CHECK(texts.size() == 21);
  CHECK(texts != other);
}

TEST_CASE("the split has the sizes of the book's spam data") {
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

TEST_CASE("one class only, or a class missing from a split, is refused") {
  const auto a = made({{"a", 3}}), both = made({{"a", 3}, {"b", 1}});
  CHECK_THROWS_WITH_AS(check_classes({"a"}, {a, a, {}}), doctest::Contains("at least two classes"), Error);
  CHECK_THROWS_WITH_AS(check_classes({"a", "b"}, {both, a, both}),
                       doctest::Contains("\"b\" has no example in the validation set of 3 rows"), Error);
  CHECK_THROWS_WITH_AS(check_classes({"a", "b"}, {a, both, both}), doctest::Contains("training set"), Error);
  CHECK_NOTHROW(check_classes({"a", "b"}, {both, both, {}}));
}

TEST_CASE("encoding names the row that cannot be encoded") {
  const Tokenizer tokenizer = Tokenizer::chars("abc");
  const auto examples = encode({{"x", "ab", "f: line 1"}, {"y", "c", "f: line 2"}}, {"y", "x"}, tokenizer);
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].ids == std::vector<int32_t>{0, 1});
  CHECK(examples[0].label == 1);
  CHECK(examples[1].label == 0);
  CHECK(longest(examples) == 2);
  CHECK_THROWS_WITH_AS(encode({{"x", "d", "f: line 9"}}, {"x"}, tokenizer), doctest::Contains("f: line 9: "), Error);
  CHECK_THROWS_WITH_AS(encode({{"z", "a", "f: line 9"}}, {"x"}, tokenizer),
                       doctest::Contains("\"z\" is not one of the classes: \"x\""), Error);
}

TEST_CASE("padding and cutting") {
  std::vector<LabelledExample> examples = {{{1, 2, 3}, 1}, {{4}, 0}, {{5, 6, 7, 8, 9}, 1}};
  CHECK(truncate(examples, 4) == 1);
  const LabelledBatch last = labelled_batch(examples, {2, 1}, 4, 99, Position::last);
  CHECK(last.B == 2);
  CHECK(last.inputs == std::vector<int32_t>{5, 6, 7, 8, 4, 99, 99, 99});
  CHECK(last.targets == std::vector<int32_t>{1, 0});
  CHECK(last.pooling == std::vector<float>{0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(labelled_batch(examples, {0}, 4, 99, Position::mean).pooling == std::vector<float>(4, 0.25f));
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
