#include "kernels/kv_cache.cuh"
#include "kernels/kv_cache.h"
#include "tests/helpers/device.h"

namespace {

template <class floatX>
void check(int cached, int B, int T, int NH, int HS, int max_T, bool queries, Shift shift, int sharing = 1) {
  CAPTURE(T);
  CAPTURE(HS);
  CAPTURE(queries);
  CAPTURE(shift.tensor);
  const AttentionShape s{B, T, NH, NH / sharing, HS};
  const size_t tokens = static_cast<size_t>(s.tokens()), kept = static_cast<size_t>(B) * max_T * s.kv_channels();
  const auto inp = random_storage<floatX>(tokens * s.packed_channels(), 1), old = random_storage<floatX>(kept, 2);
  std::vector<floatX> q(tokens * s.channels()), k = old, v = old;
  std::vector<int32_t> begins(static_cast<size_t>(B));  // sequence b has `cached`, or one fewer
  for (int b = 0; b < B; ++b) begins[static_cast<size_t>(b)] = -std::max(0, cached - b % 2);
  const DeviceArray<int32_t> begin(begins);
  cpu::kv_cache_append(queries ? q.data() : nullptr, k.data(), v.data(), packed_qkv<const floatX>(inp.data(), s),
                       begins.data(), s, max_T);
  const DeviceArray<floatX> from(inp, shift[0]), to_k(old, shift[1]), to_v(old, shift[2]), to_q(q.size(), shift[3]);
  kv_cache_append(queries ? to_q.data() : nullptr, to_k.data(), to_v.data(), packed_qkv<const floatX>(from.data(), s),
                  cached > 0 ? begin.data() : nullptr, s, max_T, nullptr);
  CHECK(same_bits(to_k.host(), k));
  CHECK(same_bits(to_v.host(), v));
  if (queries) CHECK(same_bits(to_q.host(), q));
}

}  // namespace

TEST_CASE_TEMPLATE("new keys and values on the device against the CPU", floatX, float, bf16) {
  for (const int HS : {1, 7, 33, 64, 80}) {
    for (const bool queries : {true, false}) {
      for (const Shift shift : shifts(4, HS == 64)) {
        check<floatX>(0, 1, 1, 1, HS, 1, queries, shift);
        check<floatX>(3, 2, 5, 3, HS, 9, queries, shift);
        check<floatX>(8, 3, 1, 2, HS, 9, queries, shift);
        for (const int sharing : {2, 4}) check<floatX>(3, 2, 5, 4, HS, 9, queries, shift, sharing);
      }
    }
  }
  check_ran<floatX>("kv_cache_append_kernel<floatX, true");
}

TEST_CASE("new keys and values do not depend on the schedule") {
  const DeviceArray<int32_t> begin(std::vector<int32_t>{-1, -1});
  const Floats inp = random_tensor<float>(2 * 3 * 3 * 66, 1);
  const DeviceArray<float> from(inp), q(2 * 3 * 66), k(2 * 4 * 66), v(2 * 4 * 66);
  same_under_all_schedules([&] {
    const AttentionShape s{2, 3, 2, 2, 33};
    kv_cache_append(q.data(), k.data(), v.data(), packed_qkv<const float>(from.data(), s), begin.data(), s, 4, nullptr);
    Floats all = q.host();
    for (const auto* more : {&k, &v}) {
      const Floats values = more->host();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  });
}
