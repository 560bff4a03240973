// What decoders of all families on all devices refuse.
#include "llm/models/decoder.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/kv_cache.h"
#include "llm/support/error.h"

Decoder::Decoder(const ModelConfig& config_, int pages_, int max_rows_)
    : config(config_), pages(pages_), max_rows(max_rows_) {
  if (config.num_classes > 0) fail("a classifier has no next token: only a language model continues texts");
  if (!config.causal) {
    fail("keys and values of a model that is not causal cannot be kept: each new token changes them");
  }
  if (pages < 1 || max_rows < 1) {
    fail("a cache of %d pages, for passes of %d tokens: expected at least one of each", pages, max_rows);
  }
}

namespace {

[[noreturn]] void wrong(const std::string& what) { throw std::logic_error("Decoder::forward(): " + what); }
[[noreturn]] void wrong_row(size_t n, const std::string& what) { wrong("row " + std::to_string(n) + " " + what); }

void check_sizes(const DecodeRows& rows, int max_rows) {
  const size_t N = rows.tokens.size(), width = static_cast<size_t>(rows.max_pages);
  if (N == 0) wrong("no rows");
  if (rows.positions.size() != N || rows.sequences.size() != N) wrong("tokens, positions and sequences differ in size");
  if (N > static_cast<size_t>(max_rows)) {
    wrong(std::to_string(N) + " rows, more than the " + std::to_string(max_rows) + " that it was made for");
  }
  if (rows.max_pages < 1 || rows.pages.size() % width != 0) wrong("pages are not rows of max_pages numbers");
}

void check_tokens(const DecodeRows& rows, const ModelConfig& config) {
  for (size_t n = 0; n < rows.tokens.size(); ++n) {
    if (rows.tokens[n] < 0 || rows.tokens[n] >= config.vocab_size) {
      fail("token %d of row %zu is outside the vocabulary of %d", rows.tokens[n], n, config.vocab_size);
    }
    if (rows.positions[n] < 0 || rows.positions[n] >= config.max_seq_len) {
      fail("position %d of row %zu does not fit the model's context of %d", rows.positions[n], n, config.max_seq_len);
    }
  }
}

// Each sequence's rows stand together and ascend, and its pages are there; no two rows write to one place.
void check_sequences(const DecodeRows& rows, int pages) {
  const size_t N = rows.tokens.size(), width = static_cast<size_t>(rows.max_pages), S = rows.pages.size() / width;
  std::vector<bool> seen(S), written(static_cast<size_t>(pages));
  for (size_t n = 0; n < N; ++n) {
    const int sequence = rows.sequences[n], position = rows.positions[n];
    if (sequence < 0 || static_cast<size_t>(sequence) >= S) wrong_row(n, "is of a sequence without pages");
    const size_t k = static_cast<size_t>(sequence), last = static_cast<size_t>(position / kPageTokens);
    const bool first = n == 0 || rows.sequences[n - 1] != sequence;
    if (first && seen[k]) wrong_row(n, "is apart from the others of its sequence");
    if (!first && position != rows.positions[n - 1] + 1) wrong_row(n, "does not follow the one before it");
    seen[k] = true;
    if (last >= width) wrong_row(n, "is beyond max_pages");
    const std::span<const int32_t> own = rows.pages.subspan(k * width, last + 1);
    for (size_t i = first ? 0 : last; i <= last; ++i) {
      if (own[i] < 0 || own[i] >= pages) wrong_row(n, "is in or after a page that does not exist");
    }
    if (!first && position % kPageTokens != 0) continue;  // the page of the row before it
    const size_t page = static_cast<size_t>(own[last]);
    if (written[page]) wrong_row(n, "writes to a page that another sequence writes to");
    written[page] = true;
  }
}

void check_wanted(const DecodeRows& rows) {
  int32_t before = -1;
  for (const int32_t row : rows.wanted) {
    if (row <= before || static_cast<size_t>(row) >= rows.tokens.size()) {
      wrong("the rows that are wanted do not ascend, or do not exist");
    }
    before = row;
  }
}

}  // namespace

void Decoder::forward(const DecodeRows& rows) {
  check_sizes(rows, max_rows);
  check_tokens(rows, config);
  check_sequences(rows, pages);
  check_wanted(rows);
  run(rows);
}
