// Texts in the pages of a model's cache: for tests of decoding.
#pragma once

#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "kernels/kv_cache.h"
#include "llm/models/model.h"
#include "tests/helpers/finite_differences.h"

// Sequences, each with as many pages as the model's context needs, numbered in a shuffled order.
class PagedTexts {
 public:
  PagedTexts(Model& model, int count, int max_rows, uint64_t seed = 1)
      : width_(pages_of(model.config.max_seq_len)),
        decoder_(model.make_decoder(count * width_, max_rows)),
        table_(static_cast<size_t>(count * width_)),
        lengths_(static_cast<size_t>(count), 0) {
    std::iota(table_.begin(), table_.end(), 0);
    std::mt19937_64 engine(seed);
    for (size_t i = table_.size(); i > 1; --i) std::swap(table_[i - 1], table_[engine() % i]);
  }

  // Tokens that a sequence gets after those that it has.
  struct Part {
    int sequence;
    std::span<const int32_t> tokens;
  };
  // One pass. Returns the logits of each part's last row, or with `all` of all rows: (rows, outputs).
  Floats feed(const std::vector<Part>& parts, bool all = false) {
    std::vector<int32_t> tokens, positions, sequences, wanted;
    for (const Part& part : parts) {
      for (const int32_t& token : part.tokens) {
        if (all || &token == &part.tokens.back()) wanted.push_back(static_cast<int32_t>(tokens.size()));
        tokens.push_back(token);
        positions.push_back(lengths_[static_cast<size_t>(part.sequence)]++);
        sequences.push_back(part.sequence);
      }
    }
    decoder_->forward({tokens, positions, sequences, table_, width_, wanted});
    const size_t columns = static_cast<size_t>(decoder_->config.outputs());
    Floats logits(wanted.size() * columns);
    for (size_t i = 0; i < wanted.size(); ++i) decoder_->read_logits(static_cast<int>(i), &logits[i * columns]);
    return logits;
  }
  // An empty sequence begins with the first tokens of another one: shares its full pages, and has a copy of the last.
  void begin_as(int to, int from, int tokens) {
    const int full = tokens / kPageTokens;
    for (int i = 0; i < full; ++i) page(to, i) = page(from, i);
    if (tokens % kPageTokens > 0) decoder_->copy_page(page(to, full), page(from, full));
    lengths_[static_cast<size_t>(to)] = tokens;
  }

 private:
  int32_t& page(int sequence, int i) { return table_[static_cast<size_t>(sequence * width_ + i)]; }

  int width_;  // pages per sequence
  std::unique_ptr<Decoder> decoder_;
  std::vector<int32_t> table_, lengths_;
};

// The logits of a text of T tokens have the same bits in a pass by itself, token by token, in batches of 3 and of
// 40 rows, and with first tokens that an earlier pass computed, or another sequence.
inline void check_bits_of_rows(Model& model, int T) {
  const int V = model.config.vocab_size;
  const size_t columns = static_cast<size_t>(model.config.outputs());
  const std::vector<int32_t> text = random_ints(static_cast<size_t>(T), 5, V),
                             other = random_ints(static_cast<size_t>(T) + 64, 6, V);
  const auto tokens = [](const std::vector<int32_t>& of, int first, int count) {
    return std::span(of).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  };
  const Floats alone = PagedTexts(model, 1, T).feed({{0, text}}, true);
  const auto check = [&](const Floats& logits, int row, int first, int count) {
    const auto begin = logits.begin() + row * static_cast<int64_t>(columns);
    const auto expected = alone.begin() + first * static_cast<int64_t>(columns);
    const int64_t n = count * static_cast<int64_t>(columns);
    CAPTURE(first);
    CHECK(same_bits(Floats(begin, begin + n), Floats(expected, expected + n)));
  };
  {
    INFO("token by token");
    PagedTexts texts(model, 1, 1, 2);
    for (int t = 0; t < T; ++t) check(texts.feed({{0, tokens(text, t, 1)}}), 0, t, 1);
  }
  {
    INFO("3 rows, of 3 sequences");
    PagedTexts texts(model, 3, 9, 3);
    texts.feed({{0, tokens(other, 9, 2)}, {2, tokens(other, 0, 7)}});
    for (int t = 0; t < T && t < 12; ++t) {
      check(texts.feed({{2, tokens(other, t, 1)}, {1, tokens(text, t, 1)}, {0, tokens(other, 40 - t, 1)}}), 1, t, 1);
    }
  }
  {
    INFO("40 rows, of 4 sequences");
    PagedTexts texts(model, 4, 40, 4);
    for (int first = 0; first < T; first += 11) {
      const int rows = std::min(11, T - first);
      std::vector<PagedTexts::Part> parts = {{3, tokens(other, first, 8)}, {1, tokens(text, first, rows)}};
      if (first < 22) parts.push_back({0, tokens(other, 1, 18)}), parts.push_back({2, tokens(other, 30, 14 - rows)});
      check(texts.feed(parts, true), 8, first, rows);
    }
  }
  for (const int prefix : {1, 31, 32, 33}) {
    CAPTURE(prefix);
    PagedTexts texts(model, 3, 2 * T, 5);
    const int rest = T - prefix;
    texts.feed({{2, tokens(text, 0, prefix)}});
    texts.begin_as(0, 2, prefix);
    texts.begin_as(1, 2, prefix);
    check(texts.feed({{1, tokens(text, prefix, 1)}, {0, tokens(other, 0, 1)}}, true), 0, prefix, 1);
    const Floats both = texts.feed({{2, tokens(text, prefix, rest)}, {1, tokens(text, prefix + 1, rest - 1)}}, true);
    check(both, 0, prefix, rest);
    check(both, rest, prefix + 1, rest - 1);
  }
}
