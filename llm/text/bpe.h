// Byte-pair encoding: the merges of a vocabulary, applied to a piece of text, and learnt from counted pieces.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

struct Merge {
  int32_t left, right, merged;  // token ids
  bool operator==(const Merge&) const = default;
};

// The merges in the order in which they apply (rank 0 first), looked up by their pair. Open addressing; an entry packs
// the pair and its rank into 64 bits, so ids stay below 2^21 and ranks below 2^22.
class MergeTable {
 public:
  static constexpr int32_t kMaxId = (1 << 21) - 1;
  static constexpr uint32_t kNone = UINT32_MAX;

  explicit MergeTable(size_t merges = 0);             // room for this many
  bool add(const Merge& merge);                       // false if the pair is there already
  uint32_t rank(int32_t left, int32_t right) const {  // kNone if the pair does not merge
    if ((left | right) < 256) return byte_pairs_[static_cast<size_t>(left << 8 | right)];
    const uint64_t pair = pack(left, right);
    for (size_t i = slot(pair);; i = (i + 1) & mask_) {
      if (entries_[i] >> 22 == pair) return static_cast<uint32_t>(entries_[i] & kRankMask);
      if (entries_[i] == kEmpty) return kNone;
    }
  }
  std::span<const Merge> merges() const { return merges_; }

  // Merges ids[0, n) in place as BPE does (always the pair of lowest rank, the leftmost of equals) and returns how many
  // are left. Time O(n log n) at worst.
  size_t apply(int32_t* ids, size_t n) const;

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX, kRankMask = (uint64_t{1} << 22) - 1;
  static uint64_t pack(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 21 | static_cast<uint64_t>(right);
  }
  size_t slot(uint64_t pair) const { return (pair * 0x9E3779B97F4A7C15u) >> shift_; }
  size_t apply_short(int32_t* ids, size_t n) const;
  size_t apply_long(int32_t* ids, size_t n) const;

  std::vector<Merge> merges_;
  std::vector<int32_t> merged_;  // merges_[rank].merged, dense for the inner loop
  std::vector<uint64_t> entries_;
  std::vector<uint32_t> byte_pairs_ = std::vector<uint32_t>(1 << 16, kNone);  // ranks of the pairs of ids below 256
  size_t mask_ = 0;
  int shift_ = 0;
};

// Learns merges from pieces and how often each occurs, until they have made `tokens` tokens. The bytes have the ids
// `byte_ids`, new tokens get first_id, first_id + 1, ... Each step merges the most frequent pair, of equals the one
// with the smallest (left, right); it ends early when no pair occurs twice. A pair that spells a token already made (as
// a + bc after ab + c) merges into that one.
std::vector<Merge> learn_merges(const std::unordered_map<std::string_view, int64_t>& pieces,
                                std::span<const int32_t, 256> byte_ids, int32_t first_id, size_t tokens);
