#include "kernels/radix_sort.cuh"
#include "kernels/radix_sort.h"
#include "tests/helpers/device.h"
#include "tests/helpers/sort_cases.h"

namespace {

using Items = std::vector<unsigned long long>;
constexpr unsigned long long kGuard = 0x1234567887654321;

// The sorted items. The output has a guard after it, and the scratch holds values that could be taken for the last
// items.
Items sort(const SortCase& test, const DeviceArray<int32_t>& keys) {
  const int N = static_cast<int>(test.keys.size());
  const DeviceArray<unsigned long long> out(Items(test.keys.size() + 1, kGuard));
  const auto words = static_cast<size_t>(ceil_div<int64_t>(radix_sort_scratch(N), 8));
  const DeviceArray<unsigned long long> scratch(Items(words, static_cast<unsigned long long>(test.limit - 1) << 32));
  radix_sort(out.data(), scratch.data(), keys.data(), N, test.limit, nullptr);
  Items sorted = out.host();
  CHECK(sorted.back() == kGuard);
  sorted.pop_back();
  return sorted;
}

}  // namespace

TEST_CASE("the radix sort on the device against the CPU") {
  for (const SortCase& test : sort_cases()) {
    CAPTURE(test.name);
    const DeviceArray<int32_t> keys(test.keys, true);
    std::vector<uint64_t> expected(test.keys.size());
    cpu::radix_sort(expected.data(), test.keys.data(), static_cast<int>(test.keys.size()), test.limit);
    CHECK(sort(test, keys) == Items(expected.begin(), expected.end()));
    CHECK(keys.host() == test.keys);
  }
}

TEST_CASE("the radix sort does not depend on the schedule") {
  for (const SortCase& test : sort_cases()) {
    if (test.keys.size() > 5000) continue;
    CAPTURE(test.name);
    const DeviceArray<int32_t> keys(test.keys);
    same_under_all_schedules([&] { return sort(test, keys); });
  }
}
