#include "kernels/kv_cache.cuh"
#include "kernels/kv_cache.h"
#include "tests/helpers/device.h"
#include "tests/helpers/page_table.h"

namespace {

// The rows' places on the device.
struct DeviceRows {
  DeviceArray<int32_t> positions, sequences, pages;
  int max_pages;
  explicit DeviceRows(const PageTable& t)
      : positions(t.positions), sequences(t.sequences), pages(t.pages), max_pages(t.max_pages) {}
  CacheRows rows() const { return {positions.data(), sequences.data(), pages.data(), max_pages}; }
};

template <class floatX>
void check(const PageTable& table, int NH, int HS, Shift shift, int sharing = 1, int odd = 0) {
  CAPTURE(HS);
  CAPTURE(sharing);
  CAPTURE(shift.tensor);
  const AttentionShape s{static_cast<int>(table.positions.size()), 1, NH, NH / sharing, HS};
  const int layers = 3, q = s.channels() + odd, kv = s.kv_channels();
  const size_t tokens = static_cast<size_t>(s.tokens());
  // Keys and values in two tensors, so that each can be unaligned, and which end with the last row's own; `odd`: rows
  // longer by that much.
  const auto k = random_storage<floatX>((tokens - 1) * static_cast<size_t>(q + 2 * kv) + static_cast<size_t>(kv), 1),
             v = random_storage<floatX>(k.size(), 2), old = random_storage<floatX>(table.elements(layers, s), 3);
  const DeviceArray<floatX> from_k(k, shift[0]), from_v(v, shift[1]);
  const GuardedArray<floatX> to(old, shift[2]);
  const DeviceRows rows(table);
  const int64_t row = q + 2 * kv;
  for (const int layer : {0, 2}) {
    std::vector<floatX> cache = old;
    cpu::kv_cache_append<floatX>(cache.data(), {nullptr, k.data(), v.data(), 0, row}, table.rows(), layer, layers, s);
    if (layer == 2) {  // after layer 0, which stays
      cpu::kv_cache_append<floatX>(cache.data(), {nullptr, k.data(), v.data(), 0, row}, table.rows(), 0, layers, s);
    }
    kv_cache_append<floatX>(to.data(), {nullptr, from_k.data(), from_v.data(), 0, row}, rows.rows(), layer, layers, s,
                            nullptr);
    CHECK(same_bits(to.host(), cache));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("new keys and values on the device against the CPU", floatX, float, bf16) {
  const PageTable one({0}, {0}, 1, 0), some({31, 32, 33, 0, 63, 70}, {2, 2, 2, 0, 3, 1}, 2);
  for (const int HS : {1, 7, 33, 64, 80}) {
    for (const Shift shift : shifts(3, HS == 64)) {
      check<floatX>(one, 1, HS, shift);
      check<floatX>(some, 3, HS, shift);
      for (const int sharing : {2, 4}) check<floatX>(some, 4, HS, shift, sharing);
      for (const int odd : {1, 3, 4}) check<floatX>(some, 2, HS, shift, 1, odd);
    }
  }
  std::vector<int32_t> positions(300);
  std::iota(positions.begin(), positions.end(), 5);
  check<floatX>(PageTable(positions, std::vector<int32_t>(300, 0), 3), 2, 8, {-1, false});
  check_ran<floatX>("kv_cache_append_kernel<floatX, true");
}

TEST_CASE("new keys and values do not depend on the schedule") {
  const PageTable table({31, 32, 0, 63}, {0, 0, 1, 2}, 4);
  const AttentionShape s{4, 1, 2, 2, 33};
  const Floats inp = random_tensor<float>(4 * static_cast<size_t>(s.packed_channels()), 1);
  const DeviceArray<float> from(inp), cache(table.elements(2, s));
  const DeviceRows rows(table);
  same_under_all_schedules([&] {
    kv_cache_append(cache.data(), packed_qkv<const float>(from.data(), s), rows.rows(), 1, 2, s, nullptr);
    const Floats all = cache.host();
    Floats written;
    for (size_t n = 0; n < 4; ++n) {
      for (int c = 0; c < 2 * 2 * 33; ++c) {
        written.push_back(all[table.at(table.sequences[n], table.positions[n], 1, 2, c / 66, c / 33 % 2, c % 33, s)]);
      }
    }
    return written;
  });
}
