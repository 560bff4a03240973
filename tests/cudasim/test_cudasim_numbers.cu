// cudasim's numbers: bfloat16 compared with a formula that uses no arithmetic on bits, warp exchanges with plain loops,
// integer intrinsics with their definitions.
#include <cudasim.h>
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "tests/helpers/device.h"

namespace {

// ---- bfloat16 ------------------------------------------------------------------------------------------------------

// The bfloat16 nearest to x, by comparing its neighbours; 8 bits of precision, exponents of float.
float nearest_bf16(double x) {
  if (x == 0 || std::isnan(x) || std::isinf(x)) return static_cast<float>(x);
  int exponent;
  std::frexp(x, &exponent);                                            // |x| in [2^(exponent-1), 2^exponent)
  const double unit = std::ldexp(1.0, std::max(exponent, -125) - 8);   // the distance between neighbours here
  const double below = std::floor(x / unit), rest = x / unit - below;  // exact: powers of two
  double count = rest < 0.5 ? below : rest > 0.5 ? below + 1 : std::fmod(below, 2) == 0 ? below : below + 1;
  const double value = count * unit;
  if (std::fabs(value) > 0x1.fep127) return value > 0 ? INFINITY : -INFINITY;
  return static_cast<float>(std::copysign(value, x));
}

bool same_float(float a, float b) {
  return __float_as_uint(a) == __float_as_uint(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

TEST_CASE("bfloat16: every value survives conversion to float and back") {
  static_assert(std::is_trivially_default_constructible_v<bf16> && std::is_trivially_copyable_v<bf16>);
  static_assert(sizeof(bf16) == 2 && alignof(bf16) == 2 && sizeof(__nv_bfloat162) == 4 && alignof(__nv_bfloat162) == 4);
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const bf16 value = __ushort_as_bfloat16(static_cast<unsigned short>(bits));
    const float x = __bfloat162float(value);
    REQUIRE(__bfloat16_as_ushort(value) == bits);
    REQUIRE(__float_as_uint(x) == bits << 16);
    const unsigned short back = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    REQUIRE(back == ((bits & 0x7fff) > 0x7f80 ? 0x7fff : bits));  // every NaN becomes the same one
    REQUIRE(__bfloat16_as_ushort(__float2bfloat16(x)) == back);
    REQUIRE(__bfloat16_as_ushort(__float2bfloat16_rz(x)) == back);
    REQUIRE(__hisnan(value) == std::isnan(x));
  }
}

TEST_CASE("bfloat16: rounds to the nearest, ties to even, around every value") {
  for (unsigned high = 0; high < 65536; ++high) {
    for (const unsigned low : {0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float x = __uint_as_float(high << 16 | low);
      const float rounded = __bfloat162float(__float2bfloat16_rn(x));
      if (!same_float(rounded, nearest_bf16(x))) {
        INFO(x);
        REQUIRE(rounded == nearest_bf16(x));
      }
    }
  }
  CHECK(__bfloat16_as_ushort(bf16(1.0f + 0x1p-8f)) == 0x3f80);                     // ties: to even below
  CHECK(__bfloat16_as_ushort(bf16(1.0f + 3 * 0x1p-8f)) == 0x3f82);                 // and above
  CHECK(__bfloat16_as_ushort(bf16(std::numeric_limits<float>::max())) == 0x7f80);  // overflow
  CHECK(__bfloat16_as_ushort(bf16(-0.0f)) == 0x8000);
  CHECK(__bfloat16_as_ushort(__float2bfloat16_rz(1.99999f)) == 0x3fff);
}

TEST_CASE("bfloat16 from double and int is rounded once") {
  // Just above a tie: rounding to float first would make it the tie itself, which rounds down.
  CHECK(__bfloat16_as_ushort(bf16(1.0 + 0x1p-8 + 0x1p-40)) == 0x3f81);
  CHECK(__bfloat16_as_ushort(bf16(-1.0 - 0x1p-8 - 0x1p-40)) == 0xbf81);
  CHECK(__bfloat16_as_ushort(bf16(1.0 + 3 * 0x1p-8 - 0x1p-40)) == 0x3f81);
  CHECK(__bfloat16_as_ushort(bf16(1.0 + 0x1p-8)) == 0x3f80);
  CHECK(__bfloat16_as_ushort(bf16(0x1.01p24 + 1)) == __bfloat16_as_ushort(bf16(16842753)));
  CHECK(static_cast<float>(bf16(16842753)) == 16908288.0f);  // 2^24 + 2^16 + 1, above a tie
  CHECK(static_cast<float>(bf16(1e300)) == INFINITY);
  CHECK(static_cast<float>(bf16(1e-300)) == 0);
  uint64_t state = 3;
  for (int i = 0; i < 200000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const double x =
        std::ldexp(static_cast<double>(static_cast<int64_t>(state)), static_cast<int>(state >> 7 & 511) - 319);
    const float rounded = bf16(x);
    if (!same_float(rounded, nearest_bf16(x))) {
      INFO(x);
      REQUIRE(rounded == nearest_bf16(x));
    }
  }
}

TEST_CASE("bfloat16 pairs have the first value in the low half, and arithmetic rounds") {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(1.5f, -2.0f);
  uint32_t bits;
  std::memcpy(&bits, &pair, 4);
  CHECK(bits == 0xc0003fc0u);  // the first in the low half
  CHECK(__low2float(pair) == 1.5f);
  CHECK(__high2float(pair) == -2.0f);
  CHECK(__bfloat1622float2(pair).x == 1.5f);
  CHECK(__bfloat1622float2(pair).y == -2.0f);
  CHECK(static_cast<float>(bf16(1.0f) + bf16(0x1p-9f)) == 1.0f);
  CHECK(static_cast<float>(bf16(3.0f) * bf16(7.0f)) == 21.0f);
  CHECK(bf16(0.0f) == bf16(-0.0f));
  CHECK(!(bf16(NAN) == bf16(NAN)));
  CHECK(bf16(1.0f) < bf16(2.0f));
}

// ---- warp exchanges -------------------------------------------------------------------------------------------------

namespace {

// What each lane of a warp gets, and the expected value by the definition in CUDA's guide, computed on the host.
struct Exchanged {
  double shfl, up, down, xor_;
};

template <class T>
__global__ void shuffle_kernel(Exchanged* out, const T* inp, int argument, int width) {
  const T x = inp[threadIdx.x];
  out[threadIdx.x] = {static_cast<double>(__shfl_sync(0xffffffffu, x, argument, width)),
                      static_cast<double>(__shfl_up_sync(0xffffffffu, x, static_cast<unsigned>(argument), width)),
                      static_cast<double>(__shfl_down_sync(0xffffffffu, x, static_cast<unsigned>(argument), width)),
                      static_cast<double>(__shfl_xor_sync(0xffffffffu, x, argument, width))};
}

template <class T>
void check_shuffles() {
  std::vector<T> inp(32);
  for (int i = 0; i < 32; ++i) inp[static_cast<size_t>(i)] = static_cast<T>(3 * i + 1 - 40 * (i % 3));
  const DeviceArray<T> device(inp);
  for (const int width : {1, 2, 4, 8, 16, 32}) {
    for (const int argument : {0, 1, 3, 7, 16, 31}) {
      const DeviceArray<Exchanged> out(32);
      launch(shuffle_kernel<T>, 1, 32, 0, nullptr, out.data(), device.data(), argument, width);
      const std::vector<Exchanged> result = out.host();
      for (int lane = 0; lane < 32; ++lane) {
        const int part = lane / width * width, place = lane % width;
        const auto value = [&](int from) { return static_cast<double>(inp[static_cast<size_t>(from)]); };
        const Exchanged& got = result[static_cast<size_t>(lane)];
        CHECK(got.shfl == value(part + argument % width));
        CHECK(got.up == value(place >= argument ? lane - argument : lane));
        CHECK(got.down == value(place + argument < width ? lane + argument : lane));
        CHECK(got.xor_ == value((lane ^ argument) < part + width ? lane ^ argument : lane));
      }
    }
  }
}

struct Voted {
  unsigned ballot, match_any, match_all, reduce_and, reduce_or, reduce_xor, reduce_max;
  int any, all, all_same, sum, min, max;
};

template <class T>
__global__ void vote_kernel(Voted* out, const T* inp, unsigned mask) {
  if (!(mask >> threadIdx.x & 1)) return;
  const T x = inp[threadIdx.x];
  const unsigned u = static_cast<unsigned>(x);
  Voted v;
  v.ballot = __ballot_sync(mask, x > 3);
  v.any = __any_sync(mask, x > 3);
  v.all = __all_sync(mask, x > 3);
  v.match_any = __match_any_sync(mask, x);
  v.match_all = __match_all_sync(mask, x, &v.all_same);
  v.sum = __reduce_add_sync(mask, static_cast<int>(x));
  v.min = __reduce_min_sync(mask, static_cast<int>(x));
  v.max = __reduce_max_sync(mask, static_cast<int>(x));
  v.reduce_max = __reduce_max_sync(mask, u);
  v.reduce_and = __reduce_and_sync(mask, u);
  v.reduce_or = __reduce_or_sync(mask, u);
  v.reduce_xor = __reduce_xor_sync(mask, u);
  out[threadIdx.x] = v;
}

}  // namespace

TEST_CASE("Shuffles move 4- and 8-byte types, in all widths") {
  check_shuffles<int>();
  check_shuffles<unsigned>();
  check_shuffles<long long>();
  check_shuffles<unsigned long long>();
  check_shuffles<float>();
  check_shuffles<double>();
}

TEST_CASE("Votes, matches and reductions cover the lanes in a mask") {
  uint64_t state = 1;
  const auto random = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(state >> 33);
  };
  for (int round = 0; round < 60; ++round) {
    const unsigned mask = round % 3 == 0 ? 0xffffffffu : (random() << 1 ^ random()) | 1u << round % 32;
    std::vector<int> inp(32);
    for (int& x : inp) x = round % 4 == 0 ? 5 : static_cast<int>(random() % 9) - 2;
    const DeviceArray<int> device(inp);
    const DeviceArray<Voted> out(32);
    launch(vote_kernel<int>, 1, 32, 0, nullptr, out.data(), device.data(), mask);
    const std::vector<Voted> result = out.host();
    Voted expected = {0, 0, 0, ~0u, 0, 0, 0, 0, 1, 1, 0, 1000, -1000};
    int first = -1;
    for (int i = 0; i < 32; ++i) {
      if (!(mask >> i & 1)) continue;
      const int x = inp[static_cast<size_t>(i)];
      const unsigned u = static_cast<unsigned>(x);
      if (first < 0) first = x;
      if (x > 3) expected.ballot |= 1u << i, expected.any = 1;
      if (x <= 3) expected.all = 0;
      if (x != first) expected.all_same = 0;
      expected.sum += x;
      expected.min = std::min(expected.min, x);
      expected.max = std::max(expected.max, x);
      expected.reduce_max = std::max(expected.reduce_max, u);
      expected.reduce_and &= u;
      expected.reduce_or |= u;
      expected.reduce_xor ^= u;
    }
    for (int i = 0; i < 32; ++i) {
      if (!(mask >> i & 1)) continue;
      unsigned same = 0;
      for (int j = 0; j < 32; ++j)
        same |= (mask >> j & 1 && inp[static_cast<size_t>(i)] == inp[static_cast<size_t>(j)] ? 1u : 0u) << j;
      const Voted& v = result[static_cast<size_t>(i)];
      CHECK(v.ballot == expected.ballot);
      CHECK(v.any == expected.any);
      CHECK(v.all == expected.all);
      CHECK(v.match_any == same);
      CHECK(v.match_all == (expected.all_same ? mask : 0));
      CHECK(v.all_same == expected.all_same);
      CHECK(v.sum == expected.sum);
      CHECK(v.min == expected.min);
      CHECK(v.max == expected.max);
      CHECK(v.reduce_max == expected.reduce_max);
      CHECK(v.reduce_and == expected.reduce_and);
      CHECK(v.reduce_or == expected.reduce_or);
      CHECK(v.reduce_xor == expected.reduce_xor);
    }
  }
}

// ---- atomics and scalars --------------------------------------------------------------------------------------------

TEST_CASE("Atomics return the old value and store the new one") {
  const auto check = [](auto call, auto start, auto end) {
    auto cell = start;
    CHECK(call(&cell) == start);
    CHECK(cell == end);
  };
  check([](int* p) { return atomicAdd(p, 5); }, -2, 3);
  check([](int* p) { return atomicAdd(p, 1); }, std::numeric_limits<int>::max(), std::numeric_limits<int>::min());
  check([](unsigned* p) { return atomicSub(p, 5); }, 2u, 0xfffffffdu);
  check([](int* p) { return atomicMin(p, -5); }, 2, -5);
  check([](unsigned* p) { return atomicMin(p, 7u); }, 2u, 2u);
  check([](int* p) { return atomicMax(p, -5); }, 2, 2);
  check([](unsigned* p) { return atomicMax(p, 0xfffffffbu); }, 2u, 0xfffffffbu);
  check([](unsigned* p) { return atomicAnd(p, 12u); }, 10u, 8u);
  check([](unsigned* p) { return atomicOr(p, 12u); }, 10u, 14u);
  check([](unsigned* p) { return atomicXor(p, 12u); }, 10u, 6u);
  check([](unsigned* p) { return atomicExch(p, 12u); }, 10u, 12u);
  check([](float* p) { return atomicExch(p, 12.5f); }, 10.0f, 12.5f);
  check([](float* p) { return atomicAdd(p, 0.5f); }, 10.0f, 10.5f);
  check([](unsigned* p) { return atomicCAS(p, 10u, 3u); }, 10u, 3u);
  check([](unsigned* p) { return atomicCAS(p, 11u, 3u); }, 10u, 10u);
  check([](unsigned* p) { return atomicInc(p, 10u); }, 9u, 10u);
  check([](unsigned* p) { return atomicInc(p, 10u); }, 10u, 0u);
  check([](unsigned* p) { return atomicDec(p, 10u); }, 0u, 10u);
  check([](unsigned* p) { return atomicDec(p, 10u); }, 11u, 10u);
  check([](unsigned long long* p) { return atomicAdd(p, 5); }, 1ull << 40, (1ull << 40) + 5);
  check([](unsigned long long* p) { return atomicMax(p, 1ull << 41); }, 1ull << 40, 1ull << 41);
}

TEST_CASE("Integer and conversion intrinsics have CUDA's results") {
  CHECK(__popc(0xf0f00001u) == 9);
  CHECK(__clz(1) == 31);
  CHECK(__clz(0) == 32);
  CHECK(__clz(-1) == 0);
  CHECK(__ffs(0) == 0);
  CHECK(__ffs(8) == 4);
  CHECK(__brev(0x80000001u) == 0x80000001u);
  CHECK(__brev(0x00000003u) == 0xc0000000u);
  CHECK(__brevll(1) == 1ull << 63);
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7531) == 0x77553311u);
  CHECK(__byte_perm(0x33228000u, 0, 0x0009) == 0x000000ffu);
  CHECK(__umulhi(0xffffffffu, 0xffffffffu) == 0xfffffffeu);
  CHECK(__umul64hi(~0ull, ~0ull) == ~0ull - 1);
  CHECK(__mulhi(-1, 1) == -1);
  CHECK(__float_as_uint(1.0f) == 0x3f800000u);
  CHECK(__int_as_float(0x40000000) == 2.0f);
  CHECK(__float2int_rn(2.5f) == 2);
  CHECK(__float2int_rz(-2.9f) == -2);
  CHECK(__float2int_rd(-2.1f) == -3);
  CHECK(__float2int_ru(2.1f) == 3);
  CHECK(__float2int_rz(1e20f) == std::numeric_limits<int>::max());
  CHECK(__float2int_rz(-1e20f) == std::numeric_limits<int>::min());
  CHECK(__float2int_rz(NAN) == 0);
  CHECK(__float2uint_rz(-5.0f) == 0);
  CHECK(__saturatef(1.5f) == 1.0f);
  CHECK(__saturatef(-1.5f) == 0.0f);
  CHECK(__saturatef(0.25f) == 0.25f);
  CHECK(__saturatef(NAN) == 0.0f);
  CHECK(max(-1, 0x7fffffff) == 0x7fffffff);
  CHECK(max(-1, 1u) == 0xffffffffu);  // as in CUDA: both unsigned
  CHECK(max(NAN, 1.0f) == 1.0f);
  CHECK(min(2.0f, NAN) == 2.0f);
  CHECK(rsqrtf(4.0f) == 0.5f);
  CHECK(__fmul_rn(1.0f + 0x1p-23f, 1.0f + 0x1p-23f) - (1.0f + 0x1p-22f) == 0);
  const float a = 1.0f + 0x1p-12f;
  CHECK(__fadd_rn(__fmul_rn(a, a), -1.0f) == 0x1p-11f);  // two roundings
  CHECK(__fmaf_rn(a, a, -1.0f) == 0x1p-11f + 0x1p-24f);  // one
}
