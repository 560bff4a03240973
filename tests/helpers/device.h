// Shared by the tests of CUDA code. A test is written once: g++ and cudasim run it on the CPU, nvcc on a GPU.
#pragma once

#ifdef WROUGHT_CUDASIM
#include <cudasim.h>
#endif

#include "kernels/common.cuh"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/test_set.h"

// ---- tensors -------------------------------------------------------------------------------------------------------

// n elements of device memory, from a 256-byte boundary on. `unaligned`: not from a multiple of 16 bytes, for a
// kernel's other path, and up to the end of the allocation (or one element before); cudasim reports any access past
// that end.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n, bool unaligned = false) : size_(n) {
    const size_t bytes = n * sizeof(T), all = (bytes + sizeof(T) + 255) / 256 * 256;
    CUDA_CHECK(cudaMalloc(&allocation_, unaligned ? all : std::max<size_t>(bytes, 1)));
    const size_t start = unaligned ? all - bytes - ((all - bytes) % 16 == 0 ? sizeof(T) : 0) : 0;
    data_ = allocation_ + start / sizeof(T);
  }
  explicit DeviceArray(const std::vector<T>& from, bool unaligned = false) : DeviceArray(from.size(), unaligned) {
    write(from);
  }
  ~DeviceArray() { cudaFree(allocation_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  size_t size() const { return size_; }
  void write(const std::vector<T>& from) const {
    REQUIRE(from.size() == size_);
    CUDA_CHECK(cudaMemcpy(data_, from.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> host() const {  // after all earlier launches
    CUDA_CHECK(cudaDeviceSynchronize());
    std::vector<T> to(size_);
    CUDA_CHECK(cudaMemcpy(to.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }

 private:
  T *allocation_ = nullptr, *data_ = nullptr;
  size_t size_;
};

// An output followed by a few numbers that must not change.
template <class T>
class GuardedArray {
 public:
  explicit GuardedArray(size_t n, bool unaligned = false)
      : GuardedArray(std::vector<T>(n, from_float<T>(1.0f)), unaligned) {}
  explicit GuardedArray(std::vector<T> from, bool unaligned = false)
      : size_(from.size()), array_(from.size() + kGuard, unaligned) {
    from.insert(from.end(), kGuard, from_float<T>(7.0f));
    array_.write(from);
  }
  T* data() const { return array_.data(); }
  std::vector<T> host() const {
    std::vector<T> all = array_.host();
    for (size_t i = size_; i < all.size(); ++i) CHECK(to_float(all[i]) == 7);
    all.resize(size_);
    return all;
  }

 private:
  static constexpr size_t kGuard = 16;
  size_t size_;
  DeviceArray<T> array_;
};

// Floats as the storage type keeps them, rounded to the nearest.
template <class floatX>
std::vector<floatX> to_storage(const Floats& values) {
  std::vector<floatX> stored(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if constexpr (std::is_same_v<floatX, float>) {
      stored[i] = values[i];
    } else {
      stored[i] = __float2bfloat16_rn(values[i]);
    }
  }
  return stored;
}

// The stored values, as doubles for a twin or as floats: exact.
template <class Number = double, class floatX>
std::vector<Number> to_numbers(const std::vector<floatX>& stored) {
  std::vector<Number> values(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    if constexpr (std::is_same_v<floatX, bf16>) {
      values[i] = __bfloat162float(stored[i]);
    } else {
      values[i] = static_cast<Number>(stored[i]);
    }
  }
  return values;
}

// random_tensor() in the storage type.
template <class floatX>
std::vector<floatX> random_storage(size_t n, uint64_t seed, double scale = 1) {
  return to_storage<floatX>(random_tensor<float>(n, seed, scale));
}

// The unaligned tensors among those of a launcher: none, all, or one. `for (const Shift shift : shifts(3, true))` tries
// none, all, and each of three by itself, which exposes a launcher that forgets to check one of them.
struct Shift {
  int tensor;  // -1: none
  bool all;
  bool operator[](int i) const { return all || i == tensor; }
};
inline std::vector<Shift> shifts(int tensors, bool each) {
  std::vector<Shift> some = {{-1, false}, {-1, true}};
  for (int i = 0; each && i < tensors; ++i) some.push_back({i, false});
  return some;
}

// ---- checks --------------------------------------------------------------------------------------------------------

// Unit round-off of a storage type: half a unit in the last place of 24 or 8 bits.
template <class floatX>
constexpr double unit_roundoff() {
  return std::is_same_v<floatX, float> ? 0x1p-24 : 0x1p-8;
}

// actual: sums over K terms in float, then stored as floatX; expected: in double. Compared element by element, within 4
// u sqrt(K) rms for the sum (docs/testing.md) and the storage type's u for the final rounding.
template <class floatX>
void check_close(const char* name, const std::vector<floatX>& actual, const Doubles& expected, double K) {
  REQUIRE(actual.size() == expected.size());
  const double sums = sum_tolerance<float>(K, rms(expected));
  const Doubles a = to_numbers(actual);
  Worst worst;
  for (size_t i = 0; i < a.size(); ++i) {
    const double tolerance = sums + unit_roundoff<floatX>() * std::abs(expected[i]) + 1e-30;
    worst.see(std::abs(a[i] - expected[i]) / tolerance, i);
  }
  INFO(std::string(name), ", element ", worst.i, " of ", a.size(), ": ", a.empty() ? 0 : a[worst.i], ", expected ",
       expected.empty() ? 0 : expected[worst.i]);
  CHECK(worst.error <= 1);
}

// Checks that a kernel ran whose name begins with `name`, with the storage type for floatX:
// "gelu_forward_kernel<floatX, true" is the one with 16-byte accesses, which gives the same results as the other and is
// the launcher's only choice. On a GPU the names are not recorded.
template <class floatX>
void check_ran([[maybe_unused]] std::string name) {
#ifdef WROUGHT_CUDASIM
  if (const size_t at = name.find("floatX"); at != std::string::npos) {
    name.replace(at, 6, std::is_same_v<floatX, float> ? "float" : "__nv_bfloat16");
  }
  bool ran = false;
  for (const std::string& launched : cudasim::launched_kernels()) ran = ran || launched.starts_with(name);
  INFO(name);
  CHECK(ran);
#endif
}

// run() -> a std::vector (several tensors: joined) with the same bits under every schedule of blocks, warps and lanes
// (cudasim), or run after run (a GPU). Returns the first result. Deep: more random schedules.
template <class Run>
auto same_under_all_schedules(Run&& run) {
#ifdef WROUGHT_CUDASIM
  cudasim::set_schedule(cudasim::Schedule::forward);
  const auto first = run();
  cudasim::set_schedule(cudasim::Schedule::reverse);
  CHECK(same_bits(run(), first));
  for (const uint64_t seed : {1234, 1, 2, 3, 4, 5, 6, 7}) {
    cudasim::set_schedule(cudasim::Schedule::random, seed);
    CHECK(same_bits(run(), first));
    if (test_set() != TestSet::deep) break;
  }
  cudasim::set_schedule(cudasim::Schedule::forward);
#else
  const auto first = run();
  CHECK(same_bits(run(), first));
#endif
  return first;
}
