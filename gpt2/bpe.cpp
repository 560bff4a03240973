#include "gpt2/bpe.h"

#include <algorithm>
#include <bit>
#include <queue>
#include <tuple>

#include "gpt2/error.h"

// ---- the table -----------------------------------------------------------------------------------------------------

MergeTable::MergeTable(size_t merges) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * merges, 16));  // at most half full
  entries_.assign(slots, kEmpty);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  merges_.reserve(merges);
}

bool MergeTable::add(const Merge& merge) {
  if (merges_.size() * 2 >= entries_.size()) {
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
  merges_.push_back(merge);
  return true;
}

// ---- applying merges -----------------------------------------------------------------------------------------------

namespace {
constexpr size_t kShort = 48;  // up to here, scanning all ranks for the lowest beats a heap
}

size_t MergeTable::apply(int32_t* ids, size_t n) const {
  return n <= kShort ? apply_short(ids, n) : apply_long(ids, n);
}

size_t MergeTable::apply_short(int32_t* ids, size_t n) const {
  uint32_t ranks[kShort];  // of the pair that begins at i
  for (size_t i = 0; i + 1 < n; ++i) ranks[i] = rank(ids[i], ids[i + 1]);
  while (n >= 2) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) best = ranks[i] < ranks[best] ? i : best;
    if (ranks[best] == kNone) break;
    ids[best] = merges_[ranks[best]].merged;
    std::copy(ids + best + 2, ids + n, ids + best + 1);
    if (best + 2 < n) std::copy(ranks + best + 2, ranks + n - 1, ranks + best + 1);
    --n;
    if (best > 0) ranks[best - 1] = rank(ids[best - 1], ids[best]);
    if (best + 1 < n) ranks[best] = rank(ids[best], ids[best + 1]);
  }
  return n;
}

// A heap of (rank, position) over a doubly linked list of the ids that are left. A pair's entry in the heap is stale
// when ranks[position] no longer says the same.
size_t MergeTable::apply_long(int32_t* ids, size_t n) const {
  struct Node {
    size_t previous, next;
    uint32_t rank;  // of the pair (this, next)
  };
  using Candidate = std::pair<uint32_t, size_t>;
  std::vector<Node> nodes(n);
  std::vector<Candidate> storage;
  storage.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    nodes[i] = {i - 1, i + 1, i + 1 < n ? rank(ids[i], ids[i + 1]) : kNone};
    if (nodes[i].rank != kNone) storage.emplace_back(nodes[i].rank, i);
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(std::greater<>(), std::move(storage));
  const auto update = [&](size_t i) {
    nodes[i].rank = nodes[i].next < n ? rank(ids[i], ids[nodes[i].next]) : kNone;
    if (nodes[i].rank != kNone) heap.emplace(nodes[i].rank, i);
  };
  while (!heap.empty()) {
    const auto [rank, i] = heap.top();
    heap.pop();
    if (nodes[i].rank != rank) continue;
    const size_t right = nodes[i].next;
    ids[i] = merges_[rank].merged;
    nodes[right].rank = kNone;
    nodes[i].next = nodes[right].next;
    if (nodes[i].next < n) nodes[nodes[i].next].previous = i;
    update(i);
    if (i > 0) update(nodes[i].previous);
  }
  size_t left = 0;
  for (size_t i = 0; i < n; i = nodes[i].next) ids[left++] = ids[i];
  return left;
}

// ---- learning merges -----------------------------------------------------------------------------------------------

namespace {

// All distinct pieces end to end, as a linked list of symbols. Merging a pair touches only the places where it stands,
// so a step costs what it changes and not the length of the corpus.
class Learner {
 public:
  Learner(const std::unordered_map<std::string_view, int64_t>& pieces, std::span<const int32_t, 256> byte_ids) {
    // The order of a hash table is not to be relied on; sorted pieces make the merges reproducible everywhere.
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

  // Merges the most frequent pair into `merged`; false when none occurs twice.
  bool step(int32_t merged, Merge* merge) {
    while (!heap_.empty()) {
      const auto [count, inverted_key] = heap_.top();
      heap_.pop();
      const uint64_t key = ~inverted_key;
      Pair& pair = pairs_.at(key);
      if (count != pair.count) {  // counts only fall after the push: the entry goes back to where it belongs now
        push(key, pair.count);
        continue;
      }
      *merge = {static_cast<int32_t>(key >> 32), static_cast<int32_t>(key & UINT32_MAX), merged};
      const std::vector<uint32_t> places = std::move(pair.places);
      pairs_.erase(key);
      replace(places, *merge);
      return true;
    }
    return false;
  }

 private:
  static constexpr uint32_t kEnd = UINT32_MAX;
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    uint32_t previous, next, piece;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> places;  // of the left symbol, ascending; may hold places where the pair stands no more
  };

  uint64_t key_at(uint32_t i) const {
    return static_cast<uint64_t>(symbols_[i].id) << 32 | static_cast<uint32_t>(symbols_[symbols_[i].next].id);
  }
  void push(uint64_t key, int64_t count) {
    if (count >= 2) heap_.emplace(count, ~key);  // inverted: of equal counts the smallest pair is on top
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
                                std::span<const int32_t, 256> byte_ids, int32_t first_id, size_t merges) {
  Learner learner(pieces, byte_ids);
  std::vector<Merge> learnt;
  Merge merge;
  while (learnt.size() < merges && learner.step(first_id + static_cast<int32_t>(learnt.size()), &merge)) {
    learnt.push_back(merge);
  }
  return learnt;
}
