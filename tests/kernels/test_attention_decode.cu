#include "kernels/attention_decode.cuh"
#include "kernels/attention_decode.h"
#include "tests/helpers/device.h"
#include "tests/helpers/page_table.h"

namespace {

// Rows with one query per head, in a cache whose pages are shuffled. What the pages hold beyond the sequences, in other
// layers, and what lies between queries is NaN: a read of it shows in the result.
template <class floatX>
struct Case {
  static constexpr int kLayers = 2, kLayer = 1;

  PageTable table;
  AttentionShape s;
  int q_row;
  std::vector<floatX> q, cache;

  Case(const PageTable& table_, int NH, int HS, double scale = 1, int sharing = 1)
      : table(table_),
        s{static_cast<int>(table.positions.size()), 1, NH, NH / sharing, HS},
        q_row(s.packed_channels()),
        q(to_storage<floatX>(Floats(static_cast<size_t>((s.tokens() - 1) * q_row + s.channels()), std::nanf("")))),
        cache(to_storage<floatX>(Floats(table.elements(kLayers, s), std::nanf("")))) {
    for (int n = 0; n < s.B; ++n) {  // other numbers for each sequence
      const size_t k = static_cast<size_t>(n);
      const int sequence = table.sequences[k], last = table.positions[k];
      const auto row = random_storage<floatX>(static_cast<size_t>(s.channels()), 1000 * (sequence + 1) + last, scale);
      std::copy(row.begin(), row.end(), q.begin() + int64_t{n} * q_row);
      const size_t kv = static_cast<size_t>(s.kv_channels()), tokens = static_cast<size_t>(last) + 1;
      const auto keys = random_storage<floatX>(tokens * kv, sequence + 1, scale),
                 values = random_storage<floatX>(tokens * kv, sequence + 500);
      for (size_t i = 0; i < tokens * kv; ++i) {
        const int t = static_cast<int>(i / kv), h = static_cast<int>(i % kv) / HS, c = static_cast<int>(i % kv) % HS;
        cache[table.at(sequence, t, kLayer, kLayers, 0, h, c, s)] = keys[i];
        cache[table.at(sequence, t, kLayer, kLayers, 1, h, c, s)] = values[i];
      }
    }
  }
  // One row for each position, each of another sequence.
  Case(const std::vector<int32_t>& positions, int NH, int HS, double scale = 1, int sharing = 1)
      : Case(PageTable(positions, own_sequences(positions.size()), 1), NH, HS, scale, sharing) {}

  std::vector<floatX> run(Shift shift = {-1, false}) const {
    const size_t scratch_bytes =
        static_cast<size_t>(attention_decode_scratch(s.B, s.NH, s.HS, table.max_pages * kPageTokens));
    const DeviceArray<floatX> dcache(cache, shift[1]), dq(q, shift[3]);
    const GuardedArray<floatX> out(static_cast<size_t>(s.tokens() * s.channels()), shift[0]);
    const GuardedArray<float> scratch(scratch_bytes / sizeof(float), shift[2]);
    const DeviceArray<int32_t> positions(table.positions), sequences(table.sequences), pages(table.pages);
    attention_decode<floatX>(out.data(), scratch.data(), dcache.data(), {dq.data(), nullptr, nullptr, q_row, 0},
                             {positions.data(), sequences.data(), pages.data(), table.max_pages}, kLayer, kLayers, s,
                             nullptr);
    scratch.host();
    return out.host();
  }
  Doubles twin() const {
    Doubles out(static_cast<size_t>(s.tokens() * s.channels()));
    const Doubles queries = to_numbers(q), keys = to_numbers(cache);
    cpu::attention_decode<double>(out.data(), keys.data(), {queries.data(), nullptr, nullptr, q_row, 0}, table.rows(),
                                  kLayer, kLayers, s);
    return out;
  }
  void check() const {
    CAPTURE(s.NH);
    CAPTURE(s.NKV);
    CAPTURE(s.HS);
    CAPTURE(table.max_pages);
    const Doubles expected = twin();
    for (const Shift shift : shifts(4, s.HS == 64)) {
      CAPTURE(shift.tensor);
      CAPTURE(shift.all);
      check_close("out", run(shift), expected, table.max_pages * kPageTokens + s.HS);
    }
  }
};

template <class floatX>
void check_all() {
  using Rows = std::vector<int32_t>;
  for (const int HS : {1, 7, 33, 48, 64, 80, 128, 200}) {
    Case<floatX>(Rows{0, 39}, 3, HS).check();            // one chunk
    Case<floatX>(Rows{128, 255, 300}, 1, HS).check();    // several, the last of 1, 128 and 45 keys
    Case<floatX>(Rows{127, 31, 32, 95}, 2, HS).check();  // ends of pages and of a chunk
  }
  for (const int sharing : {2, 3, 6}) Case<floatX>(Rows{139, 39}, 6, 64, 1, sharing).check();
  Case<floatX>(PageTable({3, 4, 5, 129, 0}, {1, 1, 1, 0, 2}, 5, 7), 2, 16).check();  // several rows of a sequence
  Case<floatX>(Rows{149}, 1, 1040).check();                                          // rows of more groups than threads
  Case<floatX>(Rows{16999, 4}, 1, 8).check();                                        // more chunks than threads
  check_ran<floatX>("attention_decode_kernel<floatX, true");
  check_ran<floatX>("attention_decode_combine_kernel<floatX, true");
}

}  // namespace

TEST_CASE("attention_decode in float takes any head size and any position") { check_all<float>(); }
TEST_CASE("attention_decode in bf16 takes any head size and any position") { check_all<bf16>(); }

TEST_CASE("attention_decode survives scores that would overflow exp") {
  const Case<float> c(std::vector<int32_t>{299, 19}, 2, 32, 300);  // scores to about 1e5
  CHECK(relative_difference(c.run(), c.twin()) < 1e-2);            // a score of 1e5 is known to 1e5 u = 0.006
}

TEST_CASE_TEMPLATE("a row of attention_decode has the same bits among any others, in any pages", floatX, float, bf16) {
  for (const int HS : {33, 64}) {
    const int NH = 2, C = NH * HS;
    const std::vector<int32_t> positions = {300, 0, 127, 128, 40}, sequences = {0, 1, 0, 0, 2};
    const std::vector<floatX> together = Case<floatX>(PageTable(positions, sequences, 1), NH, HS).run();
    for (size_t n = 0; n < positions.size(); ++n) {
      if (sequences[n] > 0) continue;  // number 0 in both
      const std::vector<floatX> alone =
          Case<floatX>(PageTable({positions[n]}, {sequences[n]}, 2 + n, static_cast<int>(n)), NH, HS).run();
      const auto at = together.begin() + static_cast<int64_t>(n) * C;
      CHECK(same_bits(alone, std::vector<floatX>(at, at + C)));
    }
  }
}

TEST_CASE("more rows than there is scratch for are computed some at a time, to the same bits") {
  const int NH = 4, HS = 200, more = 500;
  const int64_t row = decode_row_scratch(NH, HS, (more + 1) * kPageTokens);
  const int N = static_cast<int>(kDecodeScratch / row) + 3;
  CHECK(decode_rows_at_once(N, NH, HS, (more + 1) * kPageTokens) == N - 3);
  CHECK(attention_decode_scratch(N, NH, HS, (more + 1) * kPageTokens) <= kDecodeScratch);
  CHECK(decode_rows_at_once(1, 1 << 20, HS, 1) == 1);
  std::vector<int32_t> positions(static_cast<size_t>(N));
  for (size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<int32_t>(n % 5);
  const Case<float> pieces(PageTable(positions, own_sequences(positions.size()), 1, more), NH, HS),
      whole(PageTable(positions, own_sequences(positions.size()), 2, 0), NH, HS);
  CHECK(decode_rows_at_once(N, NH, HS, kPageTokens) == N);
  CHECK(same_bits(pieces.run(), whole.run()));
  check_close("out", pieces.run(), pieces.twin(), HS);
}

TEST_CASE("attention_decode gives the same bits under all schedules") {
  using Rows = std::vector<int32_t>;
  same_under_all_schedules([] { return Case<float>(Rows{299, 6, 127}, 2, 33).run(); });
  same_under_all_schedules([] { return Case<bf16>(Rows{299, 6, 127}, 2, 64).run(); });
  same_under_all_schedules([] { return Case<bf16>(Rows{16999}, 1, 8).run(); });
}
