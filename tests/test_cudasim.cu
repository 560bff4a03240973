// cudasim itself: does it do what CUDA promises, and does it notice what a kernel may not do?
#include <cudasim.h>
#include <doctest/doctest.h>

#include "tests/device.h"

namespace {

template <class T>
__global__ void block_sums_kernel(T* out, const T* inp, int n) {
  T sum = 0;
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n;
       i += static_cast<int>(gridDim.x * blockDim.x))
    sum += inp[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <class T>
__global__ void reverse_kernel(T* inout) {
  T* shared = dynamic_shared<T>();
  shared[threadIdx.x] = inout[threadIdx.x];
  __syncthreads();
  inout[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

}  // namespace

TEST_CASE("A grid with static shared memory, shuffles and barriers") {
  std::vector<int> inp(1000);
  for (int i = 0; i < 1000; ++i) inp[static_cast<size_t>(i)] = i;
  const DeviceArray<int> device(inp), out(7);
  launch(block_sums_kernel<int>, 7, 96, 0, nullptr, out.data(), device.data(), 1000);
  int sum = 0;
  for (const int x : out.host()) sum += x;
  CHECK(sum == 499500);
}

TEST_CASE("Dynamic shared memory") {
  std::vector<float> values(300);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const DeviceArray<float> device(values);
  launch(reverse_kernel<float>, 1, 300, 300 * sizeof(float), nullptr, device.data());
  const std::vector<float> result = device.host();
  for (size_t i = 0; i < values.size(); ++i) CHECK(result[i] == values[values.size() - 1 - i]);
}
