// Rows of text that say nearly the same: pairs whose vectors of character 1- to 3-grams, weighted by TF-IDF, have a
// cosine above a threshold. The vectors are those of scikit-learn's TfidfVectorizer(analyzer="char", ngram_range=(1,
// 3)) with its defaults:
//   lower case; two white spaces or more in a row are one space
//   weight of gram g in row d = count of g in d * (ln((1 + n) / (1 + rows with g)) + 1), then every row has norm 1
// Lower case is the simple one, character by character: it differs from Python's for a few capitals outside English.
//
// No two rows are compared that cannot be a pair. Of every row, its rarest grams are taken until what is left has a
// norm below the threshold t: two rows of which those parts share no gram have a cosine below t (Cauchy-Schwarz;
// all-pairs search with prefix filtering, Bayardo et al. 2007, Anastasiu and Karypis 2014). Only these parts are in the
// index, and only what they bring together is compared in full. So the result is exact, and memory grows with the text.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

struct DuplicatePair {
  size_t first, second;  // first < second
  double similarity;
};

// Sorted by rows. Rows whose texts are the same after lower-casing stand for one: each is paired with the first of
// them (similarity 1), and rows before that one are compared with all of them, those after with the first alone. Rows
// without text are in no pair. Throws Error unless the rows are UTF-8, UsageError unless 0 < threshold < 1.
std::vector<DuplicatePair> near_duplicates(std::span<const std::string> rows, double threshold);

// Which rows stay, if one that is a near duplicate of an earlier row that stays goes.
std::vector<bool> without_duplicates(size_t rows, std::span<const DuplicatePair> pairs);
