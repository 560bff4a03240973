// Attention over pages, against the plain attention over whole sequences.
#include "kernels/attention.h"
#include "kernels/attention_shape.h"
#include "tests/helpers/fast_kernels.h"

namespace {

// Sequences in a cache of shuffled pages, whose unused memory is NaN.
template <class T>
struct PagedCase {
  PagedCase(const cpu::DecodeKernels& kernels, std::vector<int> of_sequences, int NH_, int NKV_, int HS_)
      : k(kernels), lengths(std::move(of_sequences)), NH(NH_), NKV(NKV_), HS(HS_) {
    for (const int n : lengths) max_pages = std::max(max_pages, (n + kPageTokens - 1) / kPageTokens);
    const int all = max_pages * static_cast<int>(lengths.size()), layers = 3;
    for (int i = 0; i < all; ++i) page_table.push_back(all - 1 - i);
    elements = k.page_elements(NKV, HS);
    memory.resize(static_cast<size_t>(elements * layers * all));
    std::memset(static_cast<void*>(memory.data()), 0xff, memory.size() * sizeof(T));  // NaN in both types
    for (const int n : lengths) {
      qkv.push_back(
          random_tensor<float>(static_cast<size_t>(n) * static_cast<size_t>((NH + 2 * NKV) * HS), qkv.size(), 2));
    }
  }
  AttentionShape shape(int N) const { return {N, 1, NH, NKV, HS}; }

  // A pass over tokens [first, first + n) of each sequence named; returns their outputs, one after the other.
  struct Stretch {
    int sequence, first, n;
  };
  Floats pass(const std::vector<Stretch>& stretches, int parts = 1) {
    std::vector<int32_t> positions, sequences;
    Floats rows;
    const size_t row = static_cast<size_t>((NH + 2 * NKV) * HS);
    for (const auto [s, first, n] : stretches) {
      for (int t = first; t < first + n; ++t) {
        positions.push_back(t);
        sequences.push_back(s);
        const auto from = qkv[static_cast<size_t>(s)].begin() + static_cast<int64_t>(row) * t;
        rows.insert(rows.end(), from, from + static_cast<int64_t>(row));
      }
    }
    const int N = static_cast<int>(positions.size()), layer = 1;
    const cpu::CacheLayer cache{memory.data() + layer * elements,
                                3 * elements,
                                {positions.data(), sequences.data(), page_table.data(), max_pages},
                                NKV,
                                HS};
    const Qkv<const float> inp = packed_qkv<const float>(rows.data(), shape(N));
    constexpr bool kFloat = std::is_same_v<T, float>;
    Floats out(static_cast<size_t>(N * NH * HS), std::nanf(""));
    for (int p = 0; p < parts; ++p)
      (kFloat ? k.append_f32 : k.append_bf16)(cache, inp, N * p / parts, N * (p + 1) / parts);
    for (int p = 0; p < parts; ++p) (kFloat ? k.decode_f32 : k.decode_bf16)(out.data(), cache, inp, N, NH, p, parts);
    return out;
  }
  // All tokens of a sequence at once, by the plain attention in double, over what a cache of T holds.
  Doubles expected(int s) const {
    const AttentionShape whole{1, lengths[static_cast<size_t>(s)], NH, NKV, HS};
    Doubles rows(qkv[static_cast<size_t>(s)].begin(), qkv[static_cast<size_t>(s)].end());
    for (size_t i = 0; !std::is_same_v<T, float> && i < rows.size(); ++i) {
      if (static_cast<int>(i % static_cast<size_t>(whole.packed_channels())) >= whole.channels()) {
        rows[i] = cpu::round_to_nearest(static_cast<float>(rows[i]));
      }
    }
    Doubles out(static_cast<size_t>(whole.tokens() * whole.channels())), lse(static_cast<size_t>(whole.tokens() * NH));
    cpu::attention_forward(out.data(), lse.data(), packed_qkv<const double>(rows.data(), whole), 0, 0, 0, whole);
    return out;
  }

  const cpu::DecodeKernels& k;
  std::vector<int> lengths;
  int NH, NKV, HS, max_pages = 0;
  int64_t elements = 0;
  std::vector<int32_t> page_table;
  std::vector<T> memory;
  std::vector<Floats> qkv;
};

template <class T>
void check_sizes() {
  struct Sizes {
    int NH, NKV, HS;
  };
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    for (const auto [NH, NKV, HS] :
         {Sizes{1, 1, 1}, Sizes{3, 3, 7}, Sizes{2, 1, 64}, Sizes{4, 2, 80}, Sizes{1, 1, 33}}) {
      CAPTURE(NH);
      CAPTURE(HS);
      PagedCase<T> c(kernels, {1, 32, 33, 100}, NH, NKV, HS);
      const size_t row = static_cast<size_t>(NH * HS);
      // A whole prompt at once, then one token after another: the same bits, and the plain attention's values.
      std::vector<Floats> whole;
      for (int s = 0; s < 4; ++s) {
        const int n = c.lengths[static_cast<size_t>(s)];
        whole.push_back(c.pass({{s, 0, n}}));
        CHECK(max_difference(whole.back(), c.expected(s)) <= 4 * sum_tolerance<float>(n + HS, 2));
      }
      PagedCase<T> again(kernels, {1, 32, 33, 100}, NH, NKV, HS);
      for (int t = 0; t < 100; ++t) {
        std::vector<typename PagedCase<T>::Stretch> stretches;
        for (int s = 0; s < 4; ++s) {
          if (t < c.lengths[static_cast<size_t>(s)]) stretches.push_back({s, t, 1});
        }
        const Floats out = again.pass(stretches, 3);
        for (size_t i = 0; i < stretches.size(); ++i) {
          const Floats& all = whole[static_cast<size_t>(stretches[i].sequence)];
          CHECK(std::equal(all.begin() + static_cast<int64_t>(row) * t,
                           all.begin() + static_cast<int64_t>(row) * (t + 1),
                           out.begin() + static_cast<int64_t>(row * i)));
        }
      }
      // In pieces of any size, among others.
      PagedCase<T> pieces(kernels, {1, 32, 33, 100}, NH, NKV, HS);
      pieces.pass({{3, 0, 5}, {2, 0, 33}});
      pieces.pass({{3, 5, 40}, {0, 0, 1}});
      const Floats last = pieces.pass({{1, 0, 32}, {3, 45, 55}}, 2);
      CHECK(std::equal(last.begin() + static_cast<int64_t>(32 * row), last.end(),
                       whole[3].begin() + static_cast<int64_t>(45 * row)));
    }
  });
}

}  // namespace

TEST_CASE("attention over pages in float equals the plain attention, in passes of any shape with the same bits") {
  check_sizes<float>();
}
TEST_CASE("attention over pages in bf16 equals the plain attention, in passes of any shape with the same bits") {
  check_sizes<cpu::bf16>();
}

TEST_CASE("attention over pages survives scores beyond exp's range") {
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    PagedCase<float> c(kernels, {70}, 1, 1, 16);
    for (float& x : c.qkv[0]) x *= 300;
    CHECK(max_difference(c.pass({{0, 0, 70}}), c.expected(0)) <= 1);  // of values up to 600
  });
}
