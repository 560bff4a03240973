// Near duplicates: the vectors compared with scikit-learn's figures and with a plain sum over all pairs, rows of equal
// text, and which rows are kept.
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "kernels/philox.h"
#include "llm/corpora/duplicates.h"
#include "llm/support/error.h"

namespace {

using Strings = std::vector<std::string>;

// The definition, for ASCII rows.
std::vector<DuplicatePair> plain_pairs(const Strings& rows, double threshold) {
  std::vector<std::map<std::string, double>> counts;
  std::map<std::string, double> rows_with;
  for (std::string row : rows) {
    std::string text;
    for (char c : row) {
      if (c == ' ' && text.ends_with(' ')) continue;
      text += static_cast<char>(std::tolower(c));
    }
    counts.emplace_back();
    for (size_t n = 1; n <= 3; ++n) {
      for (size_t i = 0; i + n <= text.size(); ++i) ++counts.back()[text.substr(i, n)];
    }
    for (const auto& [gram, count] : counts.back()) ++rows_with[gram];
  }
  for (auto& vector : counts) {
    double squares = 0;
    for (auto& [gram, weight] : vector) {
      weight *= std::log((1 + static_cast<double>(rows.size())) / (1 + rows_with[gram])) + 1;
      squares += weight * weight;
    }
    for (auto& [gram, weight] : vector) weight /= std::sqrt(squares);
  }
  std::vector<DuplicatePair> pairs;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = i + 1; j < rows.size(); ++j) {
      double sum = 0;
      for (const auto& [gram, weight] : counts[i]) {
        const auto other = counts[j].find(gram);
        if (other != counts[j].end()) sum += weight * other->second;
      }
      if (sum > threshold) pairs.push_back({i, j, sum});
    }
  }
  return pairs;
}

// Rows of made-up words; two of three are an earlier row with some letters changed.
Strings some_rows(size_t n) {
  uint64_t next = 0;
  const auto draw = [&](size_t below) {
    return static_cast<size_t>(philox_uniform(5, 1, next++) * static_cast<double>(below));
  };
  Strings rows;
  while (rows.size() < n) {
    std::string row;
    if (rows.empty() || rows.size() % 3 == 0) {
      for (size_t words = 3 + draw(9); words > 0; --words) {
        for (size_t letters = 1 + draw(8); letters > 0; --letters)
          row += static_cast<char>('a' + draw(26) % (1 + draw(26)));
        row += ' ';
      }
    } else {
      row = rows[draw(rows.size())];
      for (size_t changes = 1 + draw(6); changes > 0; --changes)
        row[draw(row.size())] = static_cast<char>('A' + draw(26));
    }
    rows.push_back(row + static_cast<char>('0' + rows.size() % 7));
  }
  return rows;
}

}  // namespace

TEST_CASE("every pair that the definition finds is found, and no other") {
  const Strings rows = some_rows(400);
  for (const double threshold : {0.3, 0.6, 0.8, 0.9, 0.95}) {
    CAPTURE(threshold);
    const auto pairs = near_duplicates(rows, threshold), expected = plain_pairs(rows, threshold);
    REQUIRE(pairs.size() == expected.size());
    CHECK(pairs.size() > 3);
    for (size_t k = 0; k < pairs.size(); ++k) {
      CHECK(pairs[k].first == expected[k].first);
      CHECK(pairs[k].second == expected[k].second);
      CHECK(pairs[k].similarity == doctest::Approx(expected[k].similarity).epsilon(1e-5));
    }
  }
}

TEST_CASE("rows of equal text are duplicates, and all but the first are dropped") {
  const Strings rows = {"What is this?", "unrelated words", "what  IS this?", "What is this!?", "What is this?", ""};
  const auto pairs = near_duplicates(rows, 0.8);
  REQUIRE(pairs.size() == 3);
  CHECK((pairs[0].first == 0 && pairs[0].second == 2 && pairs[0].similarity == 1));
  CHECK((pairs[1].first == 0 && pairs[1].second == 3 && pairs[1].similarity < 1));
  CHECK((pairs[2].first == 0 && pairs[2].second == 4 && pairs[2].similarity == 1));
  CHECK(without_duplicates(rows.size(), pairs) == std::vector<bool>{true, true, false, false, false, true});
}

TEST_CASE("a row is dropped only as a duplicate of a row that is kept") {
  const std::vector<DuplicatePair> chain = {{0, 1, 0.95}, {1, 2, 0.95}, {3, 4, 0.95}};
  CHECK(without_duplicates(5, chain) == std::vector<bool>{true, false, true, true, false});
}

TEST_CASE("rows without duplicates") {
  CHECK(near_duplicates(Strings{}, 0.9).empty());
  CHECK(near_duplicates(Strings{"single"}, 0.9).empty());
  CHECK(near_duplicates(Strings{"", ""}, 0.9).empty());
  CHECK(near_duplicates(Strings{"a", "b", "c"}, 0.9).empty());
}

TEST_CASE("a bad threshold and a row that is not UTF-8 are refused") {
  for (const double threshold : {0.0, 1.0, -1.0, std::nan("")}) {
    CHECK_THROWS_AS(near_duplicates(Strings{"a"}, threshold), UsageError);
  }
  CHECK_THROWS_WITH_AS(near_duplicates(Strings{"a", "b\xff"}, 0.9), "row 2: byte 1 is not UTF-8", Error);
}
