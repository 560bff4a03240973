// Nearly identical rows of text: pairs whose vectors of character 1- to 3-grams, weighted by TF-IDF, have a cosine
// above a threshold. The vectors are those of scikit-learn's TfidfVectorizer(analyzer="char", ngram_range=(1, 3)) with
// its defaults:
//   lower case; two or more white-space characters in a row become one space
//   weight of gram g in row d = count of g in d * (ln((1 + n) / (1 + rows with g)) + 1), then every row has norm 1
// Lower-casing is the simple mapping, character by character: it differs from Python's lower() for a few capitals
// outside English.
//
// Rows that cannot form a pair are never compared. Each row's rarest grams are taken until the rest has a norm below
// the threshold t: two rows whose parts share no gram have a cosine below t (Cauchy-Schwarz; all-pairs search with
// prefix filtering, Bayardo et al. 2007, Anastasiu and Karypis 2014). Only these parts are indexed, and only rows that
// share a gram there are compared in full. The result is exact, and memory grows with the text.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

struct DuplicatePair {
  size_t first, second;  // first < second
  double similarity;
};

// Sorted by rows. Rows whose texts are equal after lower-casing count as one: each is paired with the first of them
// (similarity 1); earlier rows are compared with all of them, later rows only with the first. Rows without text are in
// no pair. Throws Error unless the rows are UTF-8, UsageError unless 0 < threshold < 1.
std::vector<DuplicatePair> near_duplicates(std::span<const std::string> rows, double threshold);

// Which rows to keep if each near duplicate of an earlier kept row is dropped.
std::vector<bool> without_duplicates(size_t rows, std::span<const DuplicatePair> pairs);
