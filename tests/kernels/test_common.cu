#include "kernels/common.cuh"
#include "tests/helpers/device.h"

// Each thread's results of reductions that follow each other immediately; all threads must get the same.
template <int kThreads>
__global__ void reductions_test_kernel(double* out, const float* inp) {
  wait_for_earlier_kernels();
  const float x = inp[threadIdx.x];
  const double results[] = {block_sum(x),         block_sum(2 * x),         block_max(x), block_max(-x),
                            block_sum(double{x}), block_sum(3 * double{x}), warp_sum(x),  warp_max(x)};
  for (int r = 0; r < 8; ++r) out[threadIdx.x * 8 + r] = results[r];
}

template <int kThreads>
void check_reductions() {
  CAPTURE(kThreads);
  Floats inp(kThreads);  // whole numbers: sums are exact, in every order
  const std::vector<int32_t> values = random_ints(kThreads, 1, 1000);
  for (int i = 0; i < kThreads; ++i) inp[i] = static_cast<float>(values[i]) - 1200;  // all negative: max is not 0
  const DeviceArray<float> device_inp(inp);
  const DeviceArray<double> out(kThreads * 8);
  const Doubles all = same_under_all_schedules([&] {
    launch(reductions_test_kernel<kThreads>, 1, kThreads, 0, nullptr, out.data(), device_inp.data());
    return out.host();
  });
  const double sum = dot_product(inp, Floats(kThreads, 1));
  const double max = *std::max_element(inp.begin(), inp.end()), min = *std::min_element(inp.begin(), inp.end());
  for (int i = 0; i < kThreads; ++i) {
    const auto warp = inp.begin() + i / 32 * 32;
    double warp_total = 0;
    for (int lane = 0; lane < 32; ++lane) warp_total += warp[lane];
    const Doubles expected = {sum, 2 * sum, max, -min, sum, 3 * sum, warp_total, *std::max_element(warp, warp + 32)};
    for (int r = 0; r < 8; ++r) {
      CAPTURE(r);
      REQUIRE(all[i * 8 + r] == expected[r]);
    }
  }
}

TEST_CASE("reductions over warps and blocks, one after another") {
  check_reductions<32>();
  check_reductions<96>();
  check_reductions<256>();
  check_reductions<1024>();
}

// out[0 .. 8) is unchanged beyond the copied elements.
template <class floatX, bool kVector, int n>
__global__ void copy_test_kernel(floatX* out, float* seen, const floatX* inp, int64_t left) {
  wait_for_earlier_kernels();
  with_pack<kVector, n>(left, [&](auto whole) {
    float x[n];
    load_floats<whole>(x, inp, left);
    for (int k = 0; k < n; ++k) seen[k] = x[k];
    store_floats<whole>(out, x, left);
  });
}

// The same for a pack of a row: with kVector, a whole pack or nothing.
template <class floatX, bool kVector, int n>
__global__ void row_copy_test_kernel(floatX* out, float* seen, const floatX* inp, int64_t left) {
  wait_for_earlier_kernels();
  const Pack<floatX, n> pack = load_row_pack<kVector, n>(inp, left);
  float x[n];
  to_floats(x, pack);
  for (int k = 0; k < n; ++k) seen[k] = x[k];
  store_row_pack<kVector>(out, to_pack<floatX>(x), left);
}

template <class floatX, bool kVector, int n>
void check_copies() {
  const auto inp = random_storage<floatX>(n, 1), before = random_storage<floatX>(n, 2);
  for (const int64_t left : {int64_t{-3}, int64_t{0}, int64_t{1}, int64_t{n - 1}, int64_t{n}, int64_t{1} << 40}) {
    CAPTURE(n);
    CAPTURE(left);
    // Exactly the memory that may be read: a read beyond it is detected.
    const std::vector<floatX> readable(inp.begin(), inp.begin() + std::clamp<int64_t>(left, 0, n));
    const DeviceArray<floatX> from(readable, !kVector), to(before, !kVector);  // aligned only if required
    const DeviceArray<float> seen(n);
    const auto check = [&](bool nothing_seen) {
      const Doubles out = to_numbers(to.host()), loaded = to_numbers(seen.host());
      for (int k = 0; k < n; ++k) {
        CHECK(out[k] == to_numbers(k < left ? inp : before)[k]);
        CHECK(loaded[k] == (nothing_seen ? 3 : k < left ? to_numbers(inp)[k] : 0));
      }
    };
    seen.write(Floats(n, 3));
    launch(copy_test_kernel<floatX, kVector, n>, 1, 1, 0, nullptr, to.data(), seen.data(), from.data(), left);
    check(left <= 0);
    if constexpr (n * sizeof(floatX) <= 16) {
      if (kVector && left > 0 && left < n) continue;
      to.write(before);
      launch(row_copy_test_kernel<floatX, kVector, n>, 1, 1, 0, nullptr, to.data(), seen.data(), from.data(), left);
      check(false);
    }
  }
}

TEST_CASE_TEMPLATE("elements as floats, by wide accesses and one by one, whole and truncated", floatX, float, bf16) {
  check_copies<floatX, true, 4>();
  check_copies<floatX, true, 8>();
  check_copies<floatX, false, 4>();
  check_copies<floatX, false, 8>();
}

// A pack that begins inside its row: for whole packs, `left` is not read.
template <bool kVector>
__global__ void whole_pack_test_kernel(float* seen, const float* inp, int64_t left) {
  wait_for_earlier_kernels();
  float x[4];
  to_floats(x, load_whole_pack<kVector, 4>(inp, left));
  for (int k = 0; k < 4; ++k) seen[k] = x[k];
}

TEST_CASE("packs that begin inside their row are loaded") {
  const DeviceArray<float> inp(Floats{1, 2, 3, 4}), seen(4);
  launch(whole_pack_test_kernel<true>, 1, 1, 0, nullptr, seen.data(), inp.data(), int64_t{-1});
  CHECK(seen.host() == Floats{1, 2, 3, 4});
  launch(whole_pack_test_kernel<false>, 1, 1, 0, nullptr, seen.data(), inp.data(), int64_t{3});
  CHECK(seen.host() == Floats{1, 2, 3, 0});
}

TEST_CASE("a dry run records launches and launches nothing") {
  const DeviceArray<float> inp(Floats{1, 2, 3, 4}), seen(Floats(4, 9));
  {
    DryRun dry;
    launch(whole_pack_test_kernel<true>, dim3(2, 3, 5), dim3(7, 11, 13), 17, nullptr, seen.data(), inp.data(),
           int64_t{4});
    REQUIRE(dry.operations.size() == 1);
    const DryRun::Launch& launched = dry.operations[0].launches.at(0);
    CHECK(launched.kernel == "whole_pack_test_kernel<true>");
    CHECK(launched.blocks == 30);
    CHECK(launched.threads == 1001);
    CHECK(launched.shared_bytes == 17);
    CHECK(kernel_name(nullptr) == "");
    static_cast<void>(cudaGetLastError());
  }
  CHECK(seen.host() == Floats(4, 9));
  CHECK(readable_name("_Z1fILi3EEvPf") == "f<3>");
  CHECK(readable_name("not_mangled") == "not_mangled");
  CHECK(readable_name("_ZN1n1fEi") == "n::f");
}

TEST_CASE("a launch that CUDA refuses names the kernel, the grid and the reason") {
  const DeviceArray<double> out(8);
  const DeviceArray<float> inp(32);
  try {
    launch(reductions_test_kernel<32>, 1, 2048, 0, nullptr, out.data(), inp.data());
    FAIL("2048 threads a block were accepted");
  } catch (const CudaError& error) {
    const std::string text = error.what();
    CAPTURE(text);
    CHECK(text.find("reductions_test_kernel") != std::string::npos);
    CHECK(text.find("2048 threads") != std::string::npos);
  }
  try {
    launch(reductions_test_kernel<32>, dim3(2, 3, 4), dim3(32, 6, 8), 0, nullptr, out.data(), inp.data());
    FAIL("1536 threads a block were accepted");
  } catch (const CudaError& error) {
    CHECK(std::string(error.what()).find("a grid of (2, 3, 4), 1536 threads") != std::string::npos);
  }
  cudaGetLastError();
  CHECK_THROWS_AS(grid_for(int64_t{1} << 40, 256), CudaError);
  CHECK_THROWS_AS(grid_for((int64_t{1} << 31), 1), CudaError);
  CHECK(grid_for(INT32_MAX, 1).x == INT32_MAX);
  CHECK(grid_for(257, 256).x == 2);
}

template <class T>
__global__ void shared_test_kernel(T* out, int last) {
  wait_for_earlier_kernels();
  T* shared = dynamic_shared<T>();
  shared[last] = 7;
  *out = shared[last];
}

TEST_CASE(
    "launch() requests more than 48 KiB of shared memory where a kernel needs it, and reports when it is too much") {
  const DeviceArray<int> out(1);
  for (const int bytes : {4, 48 * 1024, 48 * 1024 + 4, 99 * 1024}) {
    CAPTURE(bytes);
    out.write({0});
    launch(shared_test_kernel<int>, 1, 1, bytes, nullptr, out.data(), bytes / 4 - 1);
    CHECK(out.host()[0] == 7);
  }
  CHECK_THROWS_WITH_AS(launch(shared_test_kernel<int>, 1, 1, 1 << 20, nullptr, out.data(), 0),
                       doctest::Contains("1048576 bytes shared"), CudaError);
  cudaGetLastError();
}

TEST_CASE("ceil_div rounds up, and aligned16 checks every pointer") {
  for (const int b : {1, 2, 7, 16}) {
    for (int a = 0; a < 40; ++a) CHECK(ceil_div(a, b) == a / b + (a % b != 0));
  }
  alignas(16) const float x[8] = {};
  const float* none = nullptr;
  CHECK(aligned16(x));
  CHECK(aligned16(x, x + 4, none));
  for (int i = 1; i < 4; ++i) {
    CHECK_FALSE(aligned16(x + i));
    CHECK_FALSE(aligned16(x, x + i));
    CHECK_FALSE(aligned16(x + i, x));
  }
}
