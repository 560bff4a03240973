#include "llm/corpora/duplicates.h"

#include <locale.h>
#include <wctype.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <unordered_map>

#include "llm/support/error.h"
#include "llm/support/file.h"

namespace {

// ---- grams ---------------------------------------------------------------------------------------------------------

bool is_space(char32_t c) {  // as in Python
  return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

char32_t lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  static const locale_t unicode = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (!unicode) fail("lower-casing text that is not ASCII needs the system's locale C.UTF-8, which is missing");
  return static_cast<char32_t>(::towlower_l(static_cast<wint_t>(c), unicode));
}

std::u32string normalised(const std::string& text, size_t row) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string::npos) {
    fail("row %zu: byte %zu is not UTF-8", row + 1, bad);
  }
  std::u32string out;
  bool spaces = false;  // the last character was white space, perhaps the first of several
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    char32_t c = length == 1 ? lead : lead & (0x7Fu >> length);
    for (size_t k = 1; k < length; ++k) c = c << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    i += length;
    const bool space = is_space(c);
    if (space && spaces) {
      out.back() = ' ';
    } else {
      out += lower(c);
    }
    spaces = space;
  }
  return out;
}

// One to three characters in 64 bits: a code point takes 21, and 1 is added so that none is 0.
uint64_t gram(std::u32string_view characters) {
  uint64_t key = 0;
  for (const char32_t c : characters) key = key << 21 | (static_cast<uint64_t>(c) + 1);
  return key;
}

struct Entry {  // of a sparse vector, or of a list of the index (then `id` is a row)
  uint32_t id;
  float weight;
};

// ---- vectors -------------------------------------------------------------------------------------------------------

// A vector of norm 1 for each distinct text: entries by gram, rarest first.
struct Vectors {
  std::vector<size_t> begin = {0};  // text d has entries [begin[d], begin[d + 1])
  std::vector<Entry> entries;
  size_t grams = 0;

  std::span<const Entry> of(size_t d) const { return {entries.data() + begin[d], begin[d + 1] - begin[d]}; }
};

// `copies`: the number of rows with each text.
Vectors make_vectors(const std::vector<std::u32string>& texts, const std::vector<int64_t>& copies, int64_t rows) {
  Vectors v;
  std::unordered_map<uint64_t, uint32_t> ids;
  std::vector<int64_t> rows_with;  // for each gram
  std::vector<uint64_t> keys;
  for (size_t d = 0; d < texts.size(); ++d) {
    const std::u32string_view text = texts[d];
    keys.clear();
    for (size_t i = 0; i < text.size(); ++i) {
      for (size_t n = 1; n <= 3 && i + n <= text.size(); ++n) keys.push_back(gram(text.substr(i, n)));
    }
    std::sort(keys.begin(), keys.end());
    for (size_t i = 0, next = 0; i < keys.size(); i = next) {
      while (next < keys.size() && keys[next] == keys[i]) ++next;
      const auto [found, is_new] = ids.emplace(keys[i], static_cast<uint32_t>(ids.size()));
      if (is_new) rows_with.push_back(0);
      rows_with[found->second] += copies[d];
      v.entries.push_back({found->second, static_cast<float>(next - i)});
    }
    v.begin.push_back(v.entries.size());
  }

  v.grams = ids.size();
  std::vector<uint32_t> order(v.grams), rank(v.grams);
  for (size_t g = 0; g < v.grams; ++g) order[g] = static_cast<uint32_t>(g);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return rows_with[a] < rows_with[b]; });
  for (size_t r = 0; r < v.grams; ++r) rank[order[r]] = static_cast<uint32_t>(r);
#pragma omp parallel for schedule(dynamic, 256)
  for (size_t d = 0; d < texts.size(); ++d) {
    const std::span<Entry> vector(v.entries.data() + v.begin[d], v.begin[d + 1] - v.begin[d]);
    double squares = 0;
    for (Entry& e : vector) {
      const double idf = std::log((1.0 + static_cast<double>(rows)) / (1.0 + static_cast<double>(rows_with[e.id]))) + 1;
      e = {rank[e.id], static_cast<float>(static_cast<double>(e.weight) * idf)};
      squares += static_cast<double>(e.weight) * static_cast<double>(e.weight);
    }
    for (Entry& e : vector) e.weight = static_cast<float>(static_cast<double>(e.weight) / std::sqrt(squares));
    std::sort(vector.begin(), vector.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
  }
  return v;
}

double dot(std::span<const Entry> a, std::span<const Entry> b) {
  double sum = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i].id == b[j].id) {
      sum += static_cast<double>(a[i++].weight) * static_cast<double>(b[j++].weight);
    } else if (a[i].id < b[j].id) {
      ++i;
    } else {
      ++j;
    }
  }
  return sum;
}

// ---- search --------------------------------------------------------------------------------------------------------

constexpr double kSlack = 1e-5;  // for rounding in the bounds: pairs that pass them are compared in full

class Search {
 public:
  Search(const Vectors& vectors, double threshold) : v_(vectors), threshold_(threshold) {
    const size_t n = v_.begin.size() - 1;
    left_.resize(v_.entries.size());
    rare_.resize(n);
    std::vector<size_t> length(v_.grams + 1, 0);
    for (size_t d = 0; d < n; ++d) {
      const std::span<const Entry> vector = v_.of(d);
      double left = 1;  // of the squared norm
      for (size_t k = 0; k < vector.size(); ++k) {
        const double before = std::sqrt(std::max(0.0, left));
        if (before < threshold_ - kSlack) break;
        left -= static_cast<double>(vector[k].weight) * static_cast<double>(vector[k].weight);
        left_[v_.begin[d] + k] = static_cast<float>(std::sqrt(std::max(0.0, left)));
        rare_[d] = k + 1;
        ++length[vector[k].id];
      }
    }
    list_begin_.assign(v_.grams + 1, 0);
    for (size_t g = 0; g < v_.grams; ++g) list_begin_[g + 1] = list_begin_[g] + length[g];
    lists_.resize(list_begin_.back());
    std::vector<size_t> at(list_begin_.begin(), list_begin_.end() - 1);
    for (size_t d = 0; d < n; ++d) {
      for (size_t k = 0; k < rare_[d]; ++k) {
        const Entry& e = v_.of(d)[k];
        lists_[at[e.id]++] = {static_cast<uint32_t>(d), e.weight};
      }
    }
  }

  // All pairs of text d with an earlier text. `shared` holds a zero for every text, before and after the call.
  void find(size_t d, std::vector<float>& shared, std::vector<uint32_t>& touched,
            std::vector<DuplicatePair>& pairs) const {
    touched.clear();
    for (const Entry& e : v_.of(d).first(rare_[d])) {
      for (size_t k = list_begin_[e.id]; k < list_begin_[e.id + 1] && lists_[k].id < d; ++k) {
        float& sum = shared[lists_[k].id];
        if (sum == 0) touched.push_back(lists_[k].id);
        sum += e.weight * lists_[k].weight;
      }
    }
    for (const uint32_t other : touched) {
      const double bound = static_cast<double>(shared[other]) + rest(d, other);
      shared[other] = 0;
      if (bound < threshold_ - kSlack) continue;
      const double similarity = dot(v_.of(d), v_.of(other));
      if (similarity > threshold_) pairs.push_back({other, d, similarity});
    }
  }

 private:
  // An upper bound on what grams outside both rare parts add to a dot product.
  double rest(size_t a, size_t b) const {
    const uint32_t last_a = v_.of(a)[rare_[a] - 1].id, last_b = v_.of(b)[rare_[b] - 1].id;
    if (last_a > last_b) std::swap(a, b);
    const uint32_t last = std::min(last_a, last_b);
    return static_cast<double>(left_[v_.begin[a] + rare_[a] - 1]) * left_after(b, last);
  }
  // Norm of a text's entries after gram `last`, which is in its rare part or before it.
  double left_after(size_t d, uint32_t last) const {
    const auto rare = v_.of(d).first(rare_[d]);
    const auto behind =
        std::upper_bound(rare.begin(), rare.end(), last, [](uint32_t id, const Entry& e) { return id < e.id; });
    if (behind == rare.begin()) return 1;
    return static_cast<double>(left_[v_.begin[d] + static_cast<size_t>(behind - rare.begin()) - 1]);
  }

  const Vectors& v_;
  const double threshold_;
  std::vector<float> left_;   // parallel to the entries: norm of the later ones; only for rare parts
  std::vector<size_t> rare_;  // entries in a text's rare part
  std::vector<size_t> list_begin_;
  std::vector<Entry> lists_;  // the index: for each gram, the texts with it in their rare part
};

}  // namespace

std::vector<DuplicatePair> near_duplicates(std::span<const std::string> rows, double threshold) {
  if (!(threshold > 0 && threshold < 1)) {
    fail_usage("{threshold} is %g, expected more than 0 and less than 1", threshold);
  }
  if (rows.size() > UINT32_MAX) fail("%zu rows: expected below 2^32", rows.size());
  std::vector<std::u32string> texts;      // the distinct ones
  std::vector<std::vector<size_t>> same;  // the rows of each
  std::unordered_map<std::u32string, size_t> known;
  for (size_t row = 0; row < rows.size(); ++row) {
    std::u32string text = normalised(rows[row], row);
    if (text.empty()) continue;
    const auto [found, is_new] = known.emplace(std::move(text), texts.size());
    if (is_new) {
      texts.push_back(found->first);
      same.emplace_back();
    }
    same[found->second].push_back(row);
  }
  known.clear();
  std::vector<int64_t> copies;
  for (const auto& group : same) copies.push_back(static_cast<int64_t>(group.size()));
  const Vectors vectors = make_vectors(texts, copies, static_cast<int64_t>(rows.size()));
  const Search search(vectors, threshold);

  std::vector<DuplicatePair> found;  // of texts
#pragma omp parallel
  {
    std::vector<float> shared(texts.size(), 0.0f);
    std::vector<uint32_t> touched;
    std::vector<DuplicatePair> mine;
#pragma omp for schedule(dynamic, 64)
    for (size_t d = 0; d < texts.size(); ++d) search.find(d, shared, touched, mine);
#pragma omp critical
    found.insert(found.end(), mine.begin(), mine.end());
  }

  std::vector<DuplicatePair> pairs;
  for (const auto& group : same) {
    for (size_t k = 1; k < group.size(); ++k) pairs.push_back({group[0], group[k], 1.0});
  }
  for (const DuplicatePair& pair : found) {
    for (const size_t row : same[pair.second]) pairs.push_back({same[pair.first][0], row, pair.similarity});
  }
  std::sort(pairs.begin(), pairs.end(), [](const DuplicatePair& a, const DuplicatePair& b) {
    return a.first != b.first ? a.first < b.first : a.second < b.second;
  });
  return pairs;
}

std::vector<bool> without_duplicates(size_t rows, std::span<const DuplicatePair> pairs) {
  std::vector<bool> keep(rows, true);
  // By the first row: whether that one stays is settled when its turn comes.
  for (const DuplicatePair& pair : pairs) {
    if (keep[pair.first]) keep[pair.second] = false;
  }
  return keep;
}
