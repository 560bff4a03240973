#include "llm/text/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <tuple>

#include "llm/support/error.h"

// ---- the table -----------------------------------------------------------------------------------------------------

MergeTable::MergeTable(size_t merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(merges + merges / 4, 16));  // at most half full
  entries_.assign(slots, kEmpty);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  merges_.reserve(merges);
}

bool MergeTable::add(const Merge& merge) {
  if (merges_.size() * 8 >= entries_.size() * 7) {
    MergeTable larger(entries_.size());
    for (const Merge& m : merges_) larger.add(m);
    *this = std::move(larger);
  }
  const uint64_t pair = pack(merge.left, merge.right);
  size_t i = slot(pair);
  for (; entries_[i] != kEmpty; i = (i + 1) & mask_) {
    if (entries_[i] >> 22 == pair) return false;
  }
  entries_[i] = pair << 22 | merges_.size();
  if (merge.left < 256 && merge.right < 256) {
    byte_pairs_[static_cast<size_t>(merge.left << 8 | merge.right)] = static_cast<uint32_t>(merges_.size());
  }
  merges_.push_back(merge);
  merged_.push_back(merge.merged);
  return true;
}

// ---- applying merges -----------------------------------------------------------------------------------------------

namespace {
constexpr int kPlaceBits = 10;
constexpr size_t kShort = 512;  // up to here, scanning all ranks for the lowest beats a heap
}  // namespace

size_t MergeTable::apply(int32_t* ids, size_t n) const {
  return n <= kShort ? apply_short(ids, n) : apply_long(ids, n);
}

size_t MergeTable::apply_short(int32_t* ids, size_t n) const {
  uint32_t ranks[kShort];  // of the pair that begins at i
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = rank(ids[i], ids[i + 1]);
  while (n >= 2) {
    uint32_t best = UINT32_MAX;  // rank and place in one number, so that one vectorised pass finds the leftmost lowest
    for (uint32_t i = 0; i + 1 < n; ++i) best = std::min(best, ranks[i] << kPlaceBits | i);
    if (best >= kNone << kPlaceBits) break;
    const size_t i = best & ((1u << kPlaceBits) - 1);
    ids[i] = merged_[best >> kPlaceBits];
    std::copy(ids + i + 2, ids + n, ids + i + 1);
    if (i + 2 < n) std::copy(ranks + i + 2, ranks + n - 1, ranks + i + 1);
    --n;
    if (i > 0) ranks[i - 1] = rank(ids[i - 1], ids[i]);
    if (i + 1 < n) ranks[i] = rank(ids[i], ids[i + 1]);
  }
  return n;
}

namespace {

// The remaining ids of a long piece, as a doubly linked list in the ids' own array: at a token's first byte its id, at
// the second and the last minus its length, and something negative between them.
class Pieces {
 public:
  Pieces(int32_t* slots, uint32_t n) : slots_(slots), n_(n) {}
  int32_t id(uint32_t i) const { return slots_[i]; }
  bool is_token(uint32_t i) const { return slots_[i] >= 0; }
  uint32_t next(uint32_t i) const {  // n: none
    return i + 1 < n_ && slots_[i + 1] < 0 ? i + static_cast<uint32_t>(-slots_[i + 1]) : i + 1;
  }
  uint32_t previous(uint32_t i) const {  // i > 0
    return slots_[i - 1] < 0 ? i - static_cast<uint32_t>(-slots_[i - 1]) : i - 1;
  }
  void merge(uint32_t i, int32_t merged) {  // with the next one
    const uint32_t right = next(i), end = next(right);
    slots_[right] = -1;
    slots_[i] = merged;
    slots_[i + 1] = slots_[end - 1] = -static_cast<int32_t>(end - i);
  }

 private:
  int32_t* slots_;
  uint32_t n_;
};

}  // namespace

// Pairs are merged in bands of rising rank, so that a heap holds only the pairs of a band: about a quarter of them. A
// rank with more pairs than that needs no heap: they merge from left to right. New pairs of a finished rank (possible
// in orders of merges that no training makes) go to the heap, too, and come first.
size_t MergeTable::apply_long(int32_t* ids, size_t n) const {
  if (n > INT32_MAX)
    fail("a word of %zu bytes, at most %d can be encoded; break it up by spaces or lines", n, INT32_MAX);
  Pieces pieces(ids, static_cast<uint32_t>(n));
  const size_t budget = std::max<size_t>(n / 4, size_t{1} << 16);
  const auto rank_at = [&](uint32_t i) {
    const uint32_t next = pieces.next(i);
    return next < n ? rank(pieces.id(i), pieces.id(next)) : kNone;
  };
  using Candidate = std::pair<uint32_t, uint32_t>;  // rank and place of a pair; stale if another pair stands there now
  std::vector<Candidate> storage;
  std::vector<uint32_t> counts(merges_.size());
  for (;;) {
    std::fill(counts.begin(), counts.end(), 0);
    for (uint32_t i = 0; i < n; i = pieces.next(i)) {
      if (const uint32_t r = rank_at(i); r != kNone) ++counts[r];
    }
    uint32_t first = 0;
    while (first < counts.size() && counts[first] == 0) ++first;
    if (first == counts.size()) break;
    uint32_t below = first + 1;  // the band's ranks are [first, below)
    size_t pairs = counts[first];
    const bool sweep = pairs > budget;
    while (!sweep && below < counts.size() && pairs + counts[below] <= budget) pairs += counts[below++];

    storage.clear();
    if (!sweep) {
      storage.reserve(pairs);
      for (uint32_t i = 0; i < n; i = pieces.next(i)) {
        if (const uint32_t r = rank_at(i); r < below) storage.emplace_back(r, i);
      }
    }
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(storage));
    const auto push = [&](uint32_t i) {
      if (const uint32_t r = rank_at(i); r < below) heap.emplace(r, i);
    };
    const auto merge = [&](uint32_t i, uint32_t r) {
      pieces.merge(i, merged_[r]);
      push(i);
      if (i > 0) push(pieces.previous(i));
    };
    uint32_t at = sweep ? 0 : static_cast<uint32_t>(n);  // everything before it is done or in the heap
    while (at < n || !heap.empty()) {
      if (!heap.empty() && (at == n || heap.top() < Candidate(first, at))) {
        const auto [r, i] = heap.top();
        heap.pop();
        if (pieces.is_token(i) && rank_at(i) == r) merge(i, r);
        while (at < n && !pieces.is_token(at)) ++at;  // it may have been swallowed
        continue;
      }
      if (rank_at(at) == first) merge(at, first);
      at = pieces.next(at);
    }
    storage = {};
  }
  size_t left = 0;
  for (uint32_t i = 0, next; i < n; i = next) {
    next = pieces.next(i);  // before anything is moved onto its second place
    ids[left++] = ids[i];
  }
  return left;
}

// ---- learning merges -----------------------------------------------------------------------------------------------

namespace {

// All distinct pieces end to end, as a linked list of symbols. Merging a pair touches only the places where it occurs,
// so a step's cost is that of its changes, not of the whole corpus.
class Learner {
 public:
  Learner(const std::unordered_map<std::string_view, int64_t>& pieces, std::span<const int32_t, 256> byte_ids) {
    // The order of a hash table is unspecified; sorted pieces make the merges reproducible everywhere.
    std::vector<std::pair<std::string_view, int64_t>> sorted(pieces.begin(), pieces.end());
    std::sort(sorted.begin(), sorted.end());
    size_t symbols = 0;
    for (const auto& [piece, count] : sorted) symbols += piece.size();
    if (symbols >= kEnd)
      fail("the distinct words of the text have %zu bytes, at most %u can be trained on; train on a part", symbols,
           kEnd - 1);
    symbols_.reserve(symbols);
    for (size_t w = 0; w < sorted.size(); ++w) {
      const auto& [piece, count] = sorted[w];
      counts_.push_back(count);
      for (size_t k = 0; k < piece.size(); ++k) {
        const auto i = static_cast<uint32_t>(symbols_.size());
        symbols_.push_back({byte_ids[static_cast<unsigned char>(piece[k])], k == 0 ? kEnd : i - 1,
                            k + 1 == piece.size() ? kEnd : i + 1, static_cast<uint32_t>(w)});
      }
    }
    for (uint32_t i = 0; i < symbols_.size(); ++i) {
      if (symbols_[i].next != kEnd) change(i, +1);
    }
    for (const auto& [key, pair] : pairs_) push(key, pair.count);
  }

  // The most frequent pair (merge->left, merge->right); false when none occurs twice.
  bool most_frequent(Merge* merge) {
    while (!heap_.empty()) {
      const auto [count, inverted_key] = heap_.top();
      const uint64_t key = ~inverted_key;
      const auto pair = pairs_.find(key);
      if (pair != pairs_.end() && pair->second.count == count) {
        merge->left = static_cast<int32_t>(key >> 32);
        merge->right = static_cast<int32_t>(key & UINT32_MAX);
        return true;
      }
      heap_.pop();  // merged meanwhile, or rarer: then the entry goes back to where it belongs now
      if (pair != pairs_.end() && pair->second.count < count) push(key, pair->second.count);
    }
    return false;
  }

  void apply(const Merge& merge) {
    const auto pair = pairs_.find(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right));
    std::vector<uint32_t> places = std::move(pair->second.places);
    pairs_.erase(pair);
    // From left to right, so that "aaa" merges its first two.
    if (!std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
    replace(places, merge);
  }

 private:
  static constexpr uint32_t kEnd = UINT32_MAX;
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    uint32_t previous, next, piece;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> places;  // of the left symbol; the pair may have left some of them since
  };

  uint64_t key_at(uint32_t i) const {
    return static_cast<uint64_t>(symbols_[i].id) << 32 | static_cast<uint32_t>(symbols_[symbols_[i].next].id);
  }
  void push(uint64_t key, int64_t count) {
    if (count >= 2) heap_.emplace(count, ~key);  // inverted: among equal counts the smallest pair is on top
  }
  // The pair that begins at i appears (+1) or disappears (-1).
  void change(uint32_t i, int sign) {
    const uint64_t key = key_at(i);
    if (sign < 0) {
      const auto found = pairs_.find(key);
      if (found != pairs_.end()) found->second.count -= counts_[symbols_[i].piece];
      return;
    }
    Pair& pair = pairs_[key];
    pair.count += counts_[symbols_[i].piece];
    pair.places.push_back(i);
  }

  void replace(const std::vector<uint32_t>& places, const Merge& merge) {
    std::vector<uint64_t> made;
    for (const uint32_t i : places) {
      Symbol& left = symbols_[i];
      if (left.id != merge.left || left.next == kEnd || symbols_[left.next].id != merge.right) continue;
      Symbol& right = symbols_[left.next];
      if (left.previous != kEnd) change(left.previous, -1);
      if (right.next != kEnd) change(left.next, -1);
      left.id = merge.merged;
      right.id = -1;
      left.next = right.next;
      if (left.next != kEnd) {
        symbols_[left.next].previous = i;
        change(i, +1);
        made.push_back(key_at(i));
      }
      if (left.previous != kEnd) {
        change(left.previous, +1);
        made.push_back(key_at(left.previous));
      }
    }
    std::sort(made.begin(), made.end());
    made.erase(std::unique(made.begin(), made.end()), made.end());
    for (const uint64_t key : made) push(key, pairs_.at(key).count);
  }

  std::vector<Symbol> symbols_;
  std::vector<int64_t> counts_;  // how often each piece occurs
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<std::pair<int64_t, uint64_t>> heap_;
};

}  // namespace

std::vector<Merge> learn_merges(const std::unordered_map<std::string_view, int64_t>& pieces,
                                std::span<const int32_t, 256> byte_ids, int32_t first_id, size_t tokens) {
  std::vector<std::string> spelling(static_cast<size_t>(first_id));
  for (size_t byte = 0; byte < 256; ++byte) spelling[static_cast<size_t>(byte_ids[byte])] = static_cast<char>(byte);
  std::unordered_map<std::string, int32_t> made;
  Learner learner(pieces, byte_ids);
  std::vector<Merge> learnt;
  Merge merge{};
  while (made.size() < tokens && learner.most_frequent(&merge)) {
    std::string token = spelling[static_cast<size_t>(merge.left)] + spelling[static_cast<size_t>(merge.right)];
    const auto [entry, is_new] = made.try_emplace(token, static_cast<int32_t>(spelling.size()));
    if (is_new) spelling.push_back(std::move(token));
    merge.merged = entry->second;
    learner.apply(merge);
    learnt.push_back(merge);
  }
  return learnt;
}
