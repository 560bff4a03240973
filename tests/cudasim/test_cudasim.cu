// cudasim's threads: do blocks, barriers, warps and shared memory do what CUDA promises, and is a kernel that breaks
// CUDA's rules reported, with names and places? (Memory, streams: test_cudasim_memory.cu; numbers:
// test_cudasim_numbers.cu.)
#include <cudasim.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "kernels/ptx.cuh"
#include "tests/helpers/cudasim_checks.h"

namespace {

// Every kernel is a template, as in kernels/; here the parameter is the type in which a thread counts.

// ---- helpers -------------------------------------------------------------------------------------------------------

__device__ int thread_in_block() {
  return static_cast<int>((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
}

std::string line(int number) { return "tests/cudasim/test_cudasim.cu:" + std::to_string(number); }

// ---- grids ---------------------------------------------------------------------------------------------------------

template <class T>
__global__ void indices_kernel(T* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + static_cast<unsigned>(thread_in_block())] +=
      static_cast<T>(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y +
                     100000 * blockIdx.z);
}

template <class T>
__global__ void order_kernel(T* order, T* count) {
  order[atomicAdd(count, 1)] = static_cast<T>(blockIdx.x * blockDim.x + threadIdx.x);
}

template <class T>
__global__ void turns_kernel(T* order, T* count) {  // the warp of each turn; 4 turns each, shuffles between
  for (int turn = 0; turn < 4; ++turn) {
    if (threadIdx.x % 32 == 0) order[atomicAdd(count, 1)] = static_cast<T>(threadIdx.x / 32);
    __shfl_sync(kFullWarp, turn, 0);
  }
}

template <class T>
__global__ void parameters_kernel(T* out, T a, double b, const char* c) {
  a += 1;  // each thread has its own copy
  if (threadIdx.x == 31) out[0] = a + static_cast<T>(b) + static_cast<T>(c[0]);
}

}  // namespace

TEST_CASE("Every thread of a grid runs once, with its indices") {
  const dim3 grid(3, 2, 4), block(5, 7, 2);
  const size_t n = 3 * 2 * 4 * 5 * 7 * 2;
  for_all_schedules([&] {
    const DeviceArray<int> out(std::vector<int>(n, 7));
    launch(indices_kernel<int>, grid, block, 0, nullptr, out.data());
    const std::vector<int> result = out.host();
    size_t i = 0;
    for (int bz = 0; bz < 4; ++bz)
      for (int by = 0; by < 2; ++by)
        for (int bx = 0; bx < 3; ++bx)
          for (int tz = 0; tz < 2; ++tz)
            for (int ty = 0; ty < 7; ++ty)
              for (int tx = 0; tx < 5; ++tx)
                REQUIRE(result[i++] == 7 + tx + 10 * ty + 100 * tz + 1000 * bx + 10000 * by + 100000 * bz);
  });
}

TEST_CASE("Arguments are converted and copied at the launch, and each thread has its own") {
  const DeviceArray<int> out(1), letter(1);
  letter.write({'A'});
  int a = 3;
  launch(parameters_kernel<int>, 1, 32, 0, nullptr, out.data(), a, 4, reinterpret_cast<const char*>(letter.data()));
  a = 1000;
  CHECK(out.host()[0] == 3 + 1 + 4 + 'A');
}

TEST_CASE("Schedules: forward, reverse and random order of blocks, warps and lanes") {
  cudasim::set_threads(1);  // blocks one after another
  const auto run = [] {
    const DeviceArray<int> order(5 * 70), count(std::vector<int>{0});
    launch(order_kernel<int>, 5, 70, 0, nullptr, order.data(), count.data());
    return order.host();
  };
  std::vector<int> ascending(5 * 70);
  std::iota(ascending.begin(), ascending.end(), 0);

  cudasim::set_schedule(cudasim::Schedule::forward);
  CHECK(run() == ascending);
  cudasim::set_schedule(cudasim::Schedule::reverse);
  CHECK(run() == std::vector<int>(ascending.rbegin(), ascending.rend()));
  std::vector<std::vector<int>> seen;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    cudasim::set_schedule(cudasim::Schedule::random, seed);
    std::vector<int> order = run();
    CHECK(std::find(seen.begin(), seen.end(), order) == seen.end());
    seen.push_back(order);
    cudasim::set_schedule(cudasim::Schedule::random, seed);
    CHECK(run() == order);
    std::sort(order.begin(), order.end());
    CHECK(order == ascending);
  }
  cudasim::set_schedule(cudasim::Schedule::forward);
  cudasim::set_threads(2);
}

TEST_CASE("Warps run one after another; in random order they alternate at their shuffles") {
  const auto run = [] {
    const DeviceArray<int> order(12), count(std::vector<int>{0});
    launch(turns_kernel<int>, 1, 96, 0, nullptr, order.data(), count.data());
    return order.host();
  };
  const std::vector<int> grouped = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2};
  cudasim::set_schedule(cudasim::Schedule::forward);
  CHECK(run() == grouped);
  cudasim::set_schedule(cudasim::Schedule::reverse);
  CHECK(run() == std::vector<int>(grouped.rbegin(), grouped.rend()));
  int changes = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    cudasim::set_schedule(cudasim::Schedule::random, seed);
    std::vector<int> order = run();
    for (size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1];
    std::sort(order.begin(), order.end());
    CHECK(order == grouped);
  }
  CHECK(changes > 8 * 3);  // warps that run one after another would give 8 * 2
  cudasim::set_schedule(cudasim::Schedule::forward);
}

namespace {

template <class T>
__global__ void sums_kernel(T* out, const T* inp, int n) {
  T sum = 0;
  const int stride = static_cast<int>(gridDim.x * blockDim.x);
  for (int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += stride) sum += inp[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <class T>
__global__ void add_one_kernel(T* count, int times) {
  for (int i = 0; i < times; ++i) atomicAdd(count, T(1));
}

}  // namespace

TEST_CASE("Static shared memory, shuffles and barriers; many blocks on several workers") {
  std::vector<int> inp(10000);
  std::iota(inp.begin(), inp.end(), 0);
  const DeviceArray<int> device(inp);
  for (const int threads : {1, 2, 5}) {
    cudasim::set_threads(threads);
    for_all_schedules([&] {
      const DeviceArray<int> out(40);
      launch(sums_kernel<int>, 40, 96, 0, nullptr, out.data(), device.data(), 10000);
      const std::vector<int> sums = out.host();
      CHECK(std::accumulate(sums.begin(), sums.end(), 0) == 49995000);
    });
  }
  cudasim::set_threads(2);
}

TEST_CASE("Atomics work across blocks") {
  const DeviceArray<unsigned> count(std::vector<unsigned>{0});
  const DeviceArray<unsigned long long> wide(std::vector<unsigned long long>{1ull << 40});
  const DeviceArray<float> real(std::vector<float>{0});
  const DeviceArray<double> exact(std::vector<double>{0});
  launch(add_one_kernel<unsigned>, 64, 128, 0, nullptr, count.data(), 20);
  launch(add_one_kernel<unsigned long long>, 64, 128, 0, nullptr, wide.data(), 20);
  launch(add_one_kernel<float>, 64, 128, 0, nullptr, real.data(), 20);
  launch(add_one_kernel<double>, 64, 128, 0, nullptr, exact.data(), 20);
  CHECK(count.host()[0] == 64 * 128 * 20);
  CHECK(wide.host()[0] == (1ull << 40) + 64 * 128 * 20);
  CHECK(real.host()[0] == 64 * 128 * 20);
  CHECK(exact.host()[0] == 64 * 128 * 20);
}

// ---- shared memory -------------------------------------------------------------------------------------------------

namespace {

constexpr bool is_nan(float x) { return x != x; }

template <class T>
__global__ void shared_before_use_kernel(int* nans, bool write) {
  __shared__ T own[64];
  __shared__ bf16 half[64];
  T* dynamic = dynamic_shared<T>();
  const int i = thread_in_block();
  if (is_nan(own[i])) atomicAdd(nans, 1);
  if (is_nan(__bfloat162float(half[i]))) atomicAdd(nans + 1, 1);
  if (is_nan(dynamic[i])) atomicAdd(nans + 2, 1);
  __syncthreads();
  if (write) {
    own[i] = 1;
    half[i] = 1.0f;
    dynamic[i] = 1;
  }
}

template <class T, bool kWithBarrier>
__global__ void mirror_kernel(T* out) {
  __shared__ T values[256];
  const int i = thread_in_block();
  values[i] = static_cast<T>(i);
  if (kWithBarrier) __syncthreads();
  out[i] = values[255 - i];
}

template <class T>
__global__ void shift_in_warp_kernel(T* out, bool with_syncwarp) {
  __shared__ T values[32];
  const int i = thread_in_block();
  values[i] = static_cast<T>(i);
  if (with_syncwarp) __syncwarp();
  out[i] = values[(i + 1) % 32];
}

template <class T>
__global__ void write_dynamic_kernel(int count) {
  T* dynamic = dynamic_shared<T>();
  for (int i = thread_in_block(); i < count; i += static_cast<int>(blockDim.x)) dynamic[i] = 1;
}

}  // namespace

TEST_CASE("Shared memory is NaN at the start of each block, whatever the previous block left") {
  const DeviceArray<int> nans(std::vector<int>{0, 0, 0});
  for (int round = 0; round < 2; ++round)
    launch(shared_before_use_kernel<float>, 50, 64, 64 * sizeof(float), nullptr, nans.data(), true);
  CHECK(nans.host() == std::vector<int>{6400, 6400, 6400});
}

TEST_CASE("A missing barrier shows in the result in every order") {
  for_all_schedules([] {
    const DeviceArray<float> out(256);
    launch(mirror_kernel<float, true>, 1, 256, 0, nullptr, out.data());
    const std::vector<float> right = out.host();
    for (int i = 0; i < 256; ++i) CHECK(right[static_cast<size_t>(i)] == static_cast<float>(255 - i));
    launch(mirror_kernel<float, false>, 1, 256, 0, nullptr, out.data());
    const std::vector<float> wrong = out.host();
    CHECK(std::count_if(wrong.begin(), wrong.end(), is_nan) >= 100);  // one lane of each pair reads too early
  });
}

TEST_CASE("Only __syncwarp orders the lanes of a warp") {
  for_all_schedules([] {
    const DeviceArray<float> out(32);
    launch(shift_in_warp_kernel<float>, 1, 32, 0, nullptr, out.data(), true);
    const std::vector<float> right = out.host();
    for (int i = 0; i < 32; ++i) CHECK(right[static_cast<size_t>(i)] == static_cast<float>((i + 1) % 32));
    launch(shift_in_warp_kernel<float>, 1, 32, 0, nullptr, out.data(), false);
    const std::vector<float> wrong = out.host();
    CHECK(std::count_if(wrong.begin(), wrong.end(), is_nan) >= 1);
  });
}

TEST_CASE("Dynamic shared memory up to the limit; a write beyond it is reported") {
  launch(write_dynamic_kernel<float>, 3, 64, 400, nullptr, 100);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  launch(write_dynamic_kernel<float>, 3, 64, 227 * 1024, nullptr, 227 * 256);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  launch(write_dynamic_kernel<float>, 3, 64, 400, nullptr, 101);
  check_report(cudaErrorLaunchFailure,
               {"write beyond dynamic shared memory", "write_dynamic_kernel<float>", "byte 400 of 400"});
  launch(write_dynamic_kernel<char>, 3, 64, 401, nullptr, 402);
  check_report(cudaErrorLaunchFailure, {"write beyond dynamic shared memory", "byte 401 of 401"});
}

// ---- barriers ------------------------------------------------------------------------------------------------------

namespace {

template <class T>
__global__ void votes_kernel(T* out) {
  const int i = thread_in_block();
  out[i] = static_cast<T>(__syncthreads_count(i % 3 == 0) + 1000 * __syncthreads_or(i == 5) +
                          2000 * __syncthreads_or(0) + 4000 * __syncthreads_and(1) + 8000 * __syncthreads_and(i != 5));
}

template <class T>
__global__ void early_return_kernel(T* out) {
  __shared__ T sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  if (threadIdx.x % 4 == 3) return;
  atomicAdd(&sum, 1);
  __syncthreads();
  if (threadIdx.x >= 64) return;  // whole warps
  out[threadIdx.x] = sum;
  __syncthreads();
}

constexpr int kDivergent = __LINE__ + 4;
template <class T>
__global__ void divergent_barrier_kernel(T* out) {
  if (threadIdx.x < 64) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  *out = 1;
}

constexpr int kPartial = __LINE__ + 3;
template <class T>
__global__ void barrier_and_shuffle_kernel(T* out) {
  if (threadIdx.x % 32 < 8) __syncthreads();
  *out = __shfl_xor_sync(0xffffffffu, *out, 1);
}

constexpr int kEnded = __LINE__ + 4;
template <class T>
__global__ void shuffle_after_return_kernel(T* out) {
  if (threadIdx.x >= 20) return;
  *out = __shfl_xor_sync(0xffffffffu, *out, 1);
}

constexpr int kTwoShuffles = __LINE__ + 4;
template <class T>
__global__ void two_shuffles_kernel(T* out) {
  if (threadIdx.x < 16) {
    *out = __shfl_xor_sync(0xffffffffu, *out, 1);
  } else {
    *out = __shfl_up_sync(0xffffffffu, *out, 1);
  }
}

template <class T>
__global__ void masks_kernel(T* out) {  // the two halves of a warp on different paths
  const int i = thread_in_block();
  if (i % 32 < 16) {
    out[i] = __reduce_add_sync(0x0000ffffu, i);
  } else {
    out[i] = __shfl_sync(0xffff0000u, i, 31);
    out[i] += static_cast<T>(__popc(__ballot_sync(0xffff0000u, i % 2)));
  }
}

template <class T>
__global__ void not_in_mask_kernel(T* out) {
  *out = __shfl_sync(0x0000ffffu, *out, 0);
}

template <class T>
__global__ void source_not_in_mask_kernel(T* out) {
  if (threadIdx.x < 16) *out = __shfl_sync(0x0000ffffu, *out, 20);
}

template <class T>
__global__ void bad_width_kernel(T* out) {
  *out = __shfl_sync(0xffffffffu, *out, 0, 12);
}

template <class T>
__global__ void partial_warp_kernel(T* out) {
  *out = __shfl_sync(0xffffffffu, *out, 0);
}

template <class T>
__global__ void syncwarp_kernel(T* out) {  // lanes of the mask that have ended are not waited for; places may differ
  __shared__ T values[32];
  if (threadIdx.x >= 24) return;
  values[threadIdx.x] = static_cast<T>(threadIdx.x);
  if (threadIdx.x % 2) {
    __syncwarp();
  } else {
    __syncwarp();
  }
  out[threadIdx.x] = values[23 - threadIdx.x];
}

template <class T>
__global__ void late_return_kernel(T* out) {  // the last lanes end while the others already wait
  if (threadIdx.x < 16) {
    __syncwarp();
    *out = 1;
  }
}

template <class T>
__global__ void endless_kernel(T* out, volatile T* flag) {
  while (*flag == 0) {
  }
  *out = 1;
}

template <class T>
__global__ void spin_kernel(T* out, T* flag, bool set) {  // thread 0 waits for the last one of the block
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0) == 0) {
    }
    *out = 1;
  } else if (threadIdx.x == blockDim.x - 1 && set) {
    atomicExch(flag, 1);
  }
}

template <class T>
__global__ void deep_kernel(T* out, int depth) {
  volatile T frame[256];
  for (int i = 0; i < 256; ++i) frame[i] = static_cast<T>(i);
  if (depth > 0) deep_kernel<T>(out, depth - 1);
  *out = frame[depth % 256];
}

template <class T>
__global__ void throwing_kernel(T*) {
  if (threadIdx.x == 3) throw std::runtime_error("no such thing on a GPU");
}

}  // namespace

TEST_CASE("__syncthreads_count, _or, _and") {
  for_all_schedules([] {
    const DeviceArray<int> out(100);
    launch(votes_kernel<int>, 1, 100, 0, nullptr, out.data());
    CHECK(out.host() == std::vector<int>(100, 34 + 1000 + 4000));
  });
}

TEST_CASE("Threads that have returned are not waited for at a barrier") {
  for_all_schedules([] {
    const DeviceArray<int> out(std::vector<int>(64, 0));
    launch(early_return_kernel<int>, 1, 200, 0, nullptr, out.data());
    const std::vector<int> result = out.host();
    for (size_t i = 0; i < 64; ++i) CHECK(result[i] == (i % 4 == 3 ? 0 : 150));
  });
}

TEST_CASE("A divergent barrier is reported with both places") {
  for_all_schedules([] {
    const DeviceArray<int> out(1);
    launch(divergent_barrier_kernel<int>, dim3(2, 3), 128, 0, nullptr, out.data());
    check_report(cudaErrorLaunchFailure,
                 {"divergent barrier", "divergent_barrier_kernel<int>, block (", ") of (2, 3, 1), 128 threads",
                  "warps 0-1, lanes 0-31: wait at __syncthreads, ", line(kDivergent),
                  "warps 2-3, lanes 0-31: wait at __syncthreads, ", line(kDivergent + 2)});
  });
}

TEST_CASE("A deadlock is reported with the place where each lane waits") {
  for_all_schedules([] {
    const DeviceArray<int> out(1);
    launch(barrier_and_shuffle_kernel<int>, 1, 64, 0, nullptr, out.data());
    check_report(cudaErrorLaunchFailure,
                 {"deadlock", "barrier_and_shuffle_kernel<int>, block (0, 0, 0) of (1, 1, 1)",
                  "warps 0-1, lanes 0-7: wait at __syncthreads, ", line(kPartial),
                  "warps 0-1, lanes 8-31: wait at __shfl_xor_sync (mask 0xffffffff), ", line(kPartial + 1)});
  });
  const DeviceArray<int> out(1);
  launch(shuffle_after_return_kernel<int>, 1, 32, 0, nullptr, out.data());
  check_report(cudaErrorLaunchFailure, {"deadlock", "warp 0, lanes 0-19: wait at __shfl_xor_sync (mask 0xffffffff), ",
                                        line(kEnded), "warp 0, lanes 20-31: ended"});
}

TEST_CASE("Warp operations of different kinds that meet are a deadlock") {
  const DeviceArray<int> out(1);
  launch(two_shuffles_kernel<int>, 1, 32, 0, nullptr, out.data());
  check_report(cudaErrorLaunchFailure, {"deadlock", "warp 0, lanes 0-15: wait at __shfl_xor_sync", line(kTwoShuffles),
                                        "warp 0, lanes 16-31: wait at __shfl_up_sync", line(kTwoShuffles + 2)});
}

TEST_CASE("Parts of a warp run independently by mask") {
  for_all_schedules([] {
    const DeviceArray<int> out(64);
    launch(masks_kernel<int>, 1, 64, 0, nullptr, out.data());
    const std::vector<int> result = out.host();
    for (size_t i = 0; i < 64; ++i) {
      const int warp = static_cast<int>(i / 32);
      CHECK(result[i] == (i % 32 < 16 ? 120 + 16 * 32 * warp : 31 + 32 * warp + 8));
    }
  });
}

TEST_CASE("Wrong masks and widths are reported") {
  const auto check = [&](void (*kernel)(int*), int threads, const std::vector<std::string>& parts) {
    const DeviceArray<int> out(1);
    launch(kernel, 1, threads, 0, nullptr, out.data());
    check_report(cudaErrorLaunchFailure, parts);
  };
  check(not_in_mask_kernel<int>, 32,
        {"a mask that does not name the caller", "thread (16, 0, 0) (warp 0, lane 16): __shfl_sync (mask 0x0000ffff)"});
  check(source_not_in_mask_kernel<int>, 32,
        {"shuffle from a lane that takes no part", "reads lane 20: __shfl_sync (mask 0x0000ffff)"});
  check(bad_width_kernel<int>, 32, {"bad width", "__shfl_sync with width 12"});
  check(partial_warp_kernel<int>, 40,
        {"deadlock", "warp 0, lanes 0-31: ended", "warp 1, lanes 0-7: wait at __shfl_sync",
         "lanes 8-31: not in the block"});
}

TEST_CASE("__syncwarp: lanes that have ended are not waited for, places may differ") {
  for_all_schedules([] {
    const DeviceArray<int> out(std::vector<int>(24, -1));
    launch(syncwarp_kernel<int>, 1, 32, 0, nullptr, out.data());
    const std::vector<int> result = out.host();
    for (int i = 0; i < 24; ++i) CHECK(result[static_cast<size_t>(i)] == 23 - i);
    const DeviceArray<int> one(std::vector<int>{0});
    launch(late_return_kernel<int>, 1, 32, 0, nullptr, one.data());
    CHECK(one.host()[0] == 1);
  });
}

TEST_CASE("A thread that never ends is reported, not waited for") {
  cudasim::set_time_limit(0.3);
  const DeviceArray<int> out(1), flag(std::vector<int>{0});
  launch(endless_kernel<int>, 1, 32, 0, nullptr, out.data(), flag.data());
  check_report(cudaErrorLaunchFailure,
               {"a thread neither waits nor ends in ", "endless_kernel<int>", "thread (0, 0, 0)"});
  cudasim::set_time_limit(60);
}

TEST_CASE("A thread may spin on an atomic until another thread sets it") {
  for_all_schedules([] {
    const DeviceArray<int> out(std::vector<int>{0}), flag(std::vector<int>{0});
    launch(spin_kernel<int>, 1, 100, 0, nullptr, out.data(), flag.data(), true);
    CHECK(out.host()[0] == 1);
  });
  const DeviceArray<int> out(1), flag(std::vector<int>{0});
  launch(spin_kernel<int>, 1, 100, 0, nullptr, out.data(), flag.data(), false);
  check_report(cudaErrorLaunchFailure, {"a thread spins on an atomic", "thread (0, 0, 0)"});
}

TEST_CASE("Stack overflow and exceptions in a kernel are reported") {
  const DeviceArray<int> out(1);
  launch(deep_kernel<int>, 1, 32, 0, nullptr, out.data(), 5);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  launch(deep_kernel<int>, 1, 32, 0, nullptr, out.data(), 1000000);
  check_report(cudaErrorIllegalAddress, {"stack overflow in ", "deep_kernel<int>", "thread (0, 0, 0)"});
  launch(throwing_kernel<int>, 1, 32, 0, nullptr, nullptr);
  check_report(cudaErrorLaunchFailure, {"exception", "thread (3, 0, 0)", "no such thing on a GPU"});
}

// ---- warp instructions of ptx.cuh -----------------------------------------------------------------------------------

namespace {

template <class T>
__global__ void transpose_by_collective_kernel(T* out) {
  struct Mine {
    T in, out;
  };
  Mine mine{static_cast<T>(threadIdx.x), 0};
  cudasim::warp_collective(
      mine,
      [](Mine* const lanes[32]) {
        for (int i = 0; i < 32; ++i) lanes[i]->out = lanes[i % 4 * 8 + i / 4]->in;
      },
      "transpose");
  out[threadIdx.x] = mine.out;
}

constexpr int kHalfWarp = __LINE__ + 5;
template <class T>
__global__ void half_a_warp_kernel(T* out) {
  int mine = 0;
  if (threadIdx.x < 16)
    cudasim::warp_collective(
        mine, [](int* const*) {}, "mma.fancy");
  *out = mine;
}

// Two groups of copies; waits until at most `allowed` are pending and returns what has arrived of each.
template <class T>
__global__ void async_kernel(T* out, const T* inp, int allowed, bool commit) {
  __shared__ __align__(16) T tile[2][32 * 4];
  T* first = &tile[0][threadIdx.x * 4];
  T* second = &tile[1][threadIdx.x * 4];
  first[0] = second[0] = 5;
  cudasim::async_copy(first, inp + threadIdx.x * 4, 16, 16);
  if (commit) cudasim::async_commit();
  cudasim::async_copy(second, inp + threadIdx.x * 4, 16, 4);
  if (commit) cudasim::async_commit();
  if (allowed >= 0) cudasim::async_wait(allowed);
  for (int i = 0; i < 4; ++i) {
    out[threadIdx.x * 8 + static_cast<unsigned>(i)] = first[i];
    out[threadIdx.x * 8 + 4 + static_cast<unsigned>(i)] = second[i];
  }
}

template <class T>
__global__ void async_order_kernel(T* out, const T* inp) {  // the same target twice: the later commit wins
  __shared__ __align__(16) T tile[4];
  cudasim::async_copy(tile, inp, 16, 16);
  cudasim::async_commit();
  cudasim::async_copy(tile, inp + 4, 16, 16);
  cudasim::async_commit();
  cudasim::async_wait(1);
  out[0] = tile[0];
  cudasim::async_wait(0);
  out[1] = tile[0];
}

template <class T>
__global__ void bad_async_kernel(const T* inp, int what) {
  T* tile = dynamic_shared<T>();
  T local[8];
  cudasim::async_copy(what == 0   ? tile + 1
                      : what == 1 ? local
                      : what == 2 ? tile + 62
                                  : tile,
                      inp + (what == 3 ? 2 : 0), what == 4 ? 12 : 16, what == 5 ? 17 : 16);
}

}  // namespace

TEST_CASE("warp_collective: each lane sees every lane's value; half a warp is a deadlock") {
  for_all_schedules([] {
    const DeviceArray<int> out(32);
    launch(transpose_by_collective_kernel<int>, 1, 32, 0, nullptr, out.data());
    const std::vector<int> result = out.host();
    for (int i = 0; i < 32; ++i) CHECK(result[static_cast<size_t>(i)] == i % 4 * 8 + i / 4);
  });
  const DeviceArray<int> out(1);
  launch(half_a_warp_kernel<int>, 1, 32, 0, nullptr, out.data());
  check_report(cudaErrorLaunchFailure, {"deadlock", "lanes 0-15: wait at mma.fancy (mask 0xffffffff), ",
                                        line(kHalfWarp), "lanes 16-31: ended"});
}

TEST_CASE("cp.async: nothing arrives before the wait, groups arrive in order, zeros follow the valid bytes") {
  std::vector<float> inp(128);
  std::iota(inp.begin(), inp.end(), 1.0f);
  const DeviceArray<float> device(inp);
  const auto run = [&](int allowed, bool commit) {
    const DeviceArray<float> out(256);
    launch(async_kernel<float>, 1, 32, 0, nullptr, out.data(), device.data(), allowed, commit);
    return out.host();
  };
  const auto check = [&](const std::vector<float>& out, bool first, bool second) {
    for (size_t t = 0; t < 32; ++t) {
      for (size_t i = 0; i < 4; ++i) {
        const float a = out[t * 8 + i], b = out[t * 8 + 4 + i];
        CHECK((first ? a == inp[t * 4 + i] : is_nan(a)));
        CHECK((second ? b == (i == 0 ? inp[t * 4] : 0) : is_nan(b)));
      }
    }
  };
  for_all_schedules([&] {
    check(run(0, true), true, true);
    check(run(1, true), true, false);
    check(run(2, true), false, false);
    check(run(-1, true), false, false);  // no wait at all
    check(run(0, false), false, false);  // never committed
  });
  const DeviceArray<float> out(2);
  launch(async_order_kernel<float>, 1, 1, 0, nullptr, out.data(), device.data());
  const std::vector<float> order = out.host();
  CHECK(order[0] == 1);
  CHECK(order[1] == 5);
}

TEST_CASE("cp.async: accesses that fault on hardware are reported") {
  const char* expected[] = {"the target is not aligned", "the target is not in shared memory",
                            "the target is not",         "the source is not aligned",
                            "size is not 4, 8 or 16",    "fewer than 0 or more than all"};
  for (int what = 0; what < 6; ++what) {
    const DeviceArray<float> inp(16);
    launch(bad_async_kernel<float>, 1, 1, 256, nullptr, inp.data(), what);
    check_report(cudaErrorLaunchFailure, {"bad asynchronous copy in ", "bad_async_kernel<float>", expected[what],
                                          "tests/cudasim/test_cudasim.cu:"});
  }
}

// ---- limits and names -----------------------------------------------------------------------------------------------

TEST_CASE("A launch has the hardware's limits") {
  static_cast<void>(cudaGetLastError());  // of other tests
  const auto status = [](dim3 grid, dim3 block, size_t shared) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    const cudaError_t status = cudaLaunchKernelEx(&config, write_dynamic_kernel<short>, 0);
    CHECK(cudaGetLastError() == status);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    return status;
  };
  CHECK(cudaFuncSetAttribute(write_dynamic_kernel<short>, cudaFuncAttributeMaxDynamicSharedMemorySize, 48 * 1024) ==
        cudaSuccess);
  CHECK(status(1, 1024, 48 * 1024) == cudaSuccess);
  CHECK(status(1, 1025, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(1, dim3(32, 33), 0) == cudaErrorInvalidConfiguration);
  CHECK(status(1, dim3(1, 1, 64), 0) == cudaSuccess);
  CHECK(status(1, dim3(1, 1, 65), 0) == cudaErrorInvalidConfiguration);
  CHECK(status(0, 1, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(1, 0, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(dim3(1, 65535), 1, 0) == cudaSuccess);
  CHECK(status(dim3(1, 65536), 1, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(dim3(1, 1, 65536), 1, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(70000, 1, 0) == cudaSuccess);
  CHECK(status(0x80000000u, 1, 0) == cudaErrorInvalidConfiguration);
  CHECK(status(1, 32, 48 * 1024 + 1) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(write_dynamic_kernel<short>, cudaFuncAttributeMaxDynamicSharedMemorySize, 100000) ==
        cudaSuccess);
  CHECK(status(1, 32, 100000) == cudaSuccess);
  CHECK(status(1, 32, 100001) == cudaErrorInvalidValue);
  // Without opting in: 48 KiB, of which 1 KiB may be the kernel's static memory.
  cudaLaunchConfig_t config = {};
  config.dynamicSmemBytes = 47 * 1024;
  CHECK(cudaLaunchKernelEx(&config, write_dynamic_kernel<long>, 0) == cudaSuccess);
  config.dynamicSmemBytes += 1;
  CHECK(cudaLaunchKernelEx(&config, write_dynamic_kernel<long>, 0) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaFuncSetAttribute(write_dynamic_kernel<short>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             227 * 1024 + 1) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
}

TEST_CASE("Kernels are named as in the source") {
  const DeviceArray<float> out(256);
  launch(mirror_kernel<float, true>, 1, 256, 0, nullptr, out.data());
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  const std::set<std::string> names = cudasim::launched_kernels();
  CHECK(names.count("(anonymous namespace)::mirror_kernel<float, true>") == 1);
  const char* name = nullptr;
  CHECK(cudaFuncGetName(&name, reinterpret_cast<const void*>(mirror_kernel<double, true>)) == cudaSuccess);
  CHECK(std::string(name) == "(anonymous namespace)::mirror_kernel<double, true>");
}

// ---- programmatic launches -----------------------------------------------------------------------------------------

namespace {

template <class T>
__global__ void waiting_kernel(T* out, int waiting, int n) {
  if (static_cast<int>(threadIdx.x) < waiting) wait_for_earlier_kernels();
  if (static_cast<int>(threadIdx.x) < n) out[threadIdx.x] += 1;
}

}  // namespace

TEST_CASE("A kernel that may begin early must wait in each thread, also in those that return at once") {
  for_all_schedules([] {
    programmatic_launches(true);
    const DeviceArray<int> out(std::vector<int>(64, 1));
    launch(waiting_kernel<int>, 1, 64, 0, nullptr, out.data(), 64, 60);
    programmatic_launches(false);
    launch(waiting_kernel<int>, 1, 64, 0, nullptr, out.data(), 0, 60);  // begins when others have ended
    std::vector<int> expected(64, 3);
    std::fill(expected.begin() + 60, expected.end(), 1);
    CHECK(out.host() == expected);
    programmatic_launches(true);
    launch(waiting_kernel<int>, 1, 64, 0, nullptr, out.data(), 63, 60);
    programmatic_launches(false);
    check_report(cudaErrorLaunchFailure, {"return without the wait for earlier kernels in ", "waiting_kernel<int>",
                                          "thread (63, 0, 0) (warp 1, lane 31)"});
  });
}

TEST_CASE("The attributes of a launch: programmatic serialization, which may be off; no others") {
  const DeviceArray<int> out(std::vector<int>(32, 1));
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = 1;
  config.blockDim = 32;
  config.attrs = attributes;
  config.numAttrs = 2;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  CHECK(cudaLaunchKernelEx(&config, waiting_kernel<int>, out.data(), 0, 32) == cudaSuccess);
  CHECK(out.host() == std::vector<int>(32, 2));
  attributes[0].id = static_cast<cudaLaunchAttributeID>(4);  // clusters
  CHECK(cudaLaunchKernelEx(&config, waiting_kernel<int>, out.data(), 0, 32) == cudaErrorNotSupported);
  config.attrs = nullptr;
  CHECK(cudaLaunchKernelEx(&config, waiting_kernel<int>, out.data(), 0, 32) == cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
  attributes[0].id = cudaLaunchAttributeIgnore;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  CHECK(cudaLaunchKernelEx(&config, waiting_kernel<int>, out.data(), 0, 32) == cudaSuccess);
  check_report(cudaErrorLaunchFailure, {"return without the wait for earlier kernels"});
}

TEST_CASE("A captured kernel keeps its attribute") {
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const DeviceArray<int> out(std::vector<int>(32, 1));
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  programmatic_launches(true);
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  launch(waiting_kernel<int>, 1, 32, 0, stream, out.data(), 20, 32);
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  programmatic_launches(false);
  CUDA_CHECK(cudaGraphInstantiate(&executable, graph));
  CUDA_CHECK(cudaGraphLaunch(executable, stream));
  check_report(cudaErrorLaunchFailure, {"return without the wait for earlier kernels", "thread (20, 0, 0)"});
}
