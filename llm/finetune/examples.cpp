#include "llm/finetune/examples.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "kernels/philox.h"
#include "llm/support/error.h"

// ---- orders --------------------------------------------------------------------------------------------------------

std::vector<size_t> permutation(size_t n, uint64_t seed, uint64_t sequence) {
  // Sequences distinct from those of initialisation, dropout and samples.
  constexpr uint64_t kOrder = 0x6f72646572000000;
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t left = n; left > 1; --left) {  // Fisher and Yates
    const Philox4 r = philox4(seed, kOrder + sequence, left);
    const uint64_t bits = uint64_t{r.word[0]} << 32 | r.word[1];
    std::swap(order[left - 1], order[static_cast<size_t>(bits % left)]);
  }
  return order;
}

SplitSizes split_sizes(size_t n, double train, double validation, double test) {
  const double all = train + validation + std::max(test, 0.0);
  if (!(train > 0 && validation >= 0 && all <= 1 + 1e-9)) {
    fail_usage(
        "shares of %g to train, %g to validate and %g to test: expected the first above 0, and 1 at most together",
        train, validation, test < 0 ? 1 - train - validation : test);
  }
  const auto share = [&](double fraction) {
    return static_cast<size_t>(std::floor(static_cast<double>(n) * fraction + 1e-9));  // 0.29 * 100 is 28.999...
  };
  SplitSizes sizes{share(train), share(validation), 0};
  sizes.validation = std::min(sizes.validation, n - sizes.train);
  sizes.test = n - sizes.train - sizes.validation;
  if (test >= 0) sizes.test = std::min(sizes.test, share(test));
  return sizes;
}

std::vector<std::vector<size_t>> epoch_batches(const std::vector<size_t>& lengths, size_t B, Batching batching,
                                               uint64_t seed, uint64_t epoch) {
  constexpr size_t kStretch = 16;  // batches
  std::vector<size_t> order = permutation(lengths.size(), seed, 2 * epoch);
  if (batching == Batching::by_length) {
    for (size_t at = 0; at < order.size(); at += kStretch * B) {
      const auto begin = order.begin() + static_cast<ptrdiff_t>(at);
      const auto end = order.begin() + static_cast<ptrdiff_t>(std::min(order.size(), at + kStretch * B));
      std::stable_sort(begin, end, [&](size_t a, size_t b) { return lengths[a] < lengths[b]; });
    }
  }
  std::vector<std::vector<size_t>> batches;
  for (size_t at = 0; at + B <= order.size(); at += B) {
    batches.emplace_back(order.begin() + static_cast<ptrdiff_t>(at), order.begin() + static_cast<ptrdiff_t>(at + B));
  }
  if (batching == Batching::shuffled) return batches;
  std::vector<std::vector<size_t>> shuffled;  // else every stretch would go from short to long
  for (const size_t k : permutation(batches.size(), seed, 2 * epoch + 1)) shuffled.push_back(std::move(batches[k]));
  return shuffled;
}

std::vector<std::vector<size_t>> pack_rows(const std::vector<size_t>& lengths, size_t length) {
  const size_t all = std::accumulate(lengths.begin(), lengths.end(), size_t{0});
  const size_t longest = lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  if (longest > length) throw std::logic_error("pack_rows() of an example that is longer than a row");
  std::vector<std::vector<size_t>> best;
  size_t fewest = 0;
  for (size_t limit = longest; limit <= std::min(length, all) && (best.empty() || fewest > all); ++limit) {
    std::vector<std::vector<size_t>> rows;
    std::vector<size_t> used;
    for (size_t k = 0; k < lengths.size(); ++k) {
      size_t row = 0;
      while (row < rows.size() && used[row] + lengths[k] > limit) ++row;
      if (row == rows.size()) {
        rows.emplace_back();
        used.push_back(0);
      }
      rows[row].push_back(k);
      used[row] += lengths[k];
    }
    const size_t tokens = rows.size() * (rows.empty() ? 0 : *std::max_element(used.begin(), used.end()));
    if (best.empty() || tokens < fewest) {
      best = std::move(rows);
      fewest = tokens;
    }
  }
  return best;
}

std::vector<std::vector<size_t>> batches_in_order(size_t n, size_t B) {
  std::vector<std::vector<size_t>> batches;
  for (size_t k = 0; k < n; ++k) {
    if (k % B == 0) batches.emplace_back();
    batches.back().push_back(k);
  }
  return batches;
}
