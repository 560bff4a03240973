// bfloat16 as in CUDA's header of this name: the upper half of a float; conversion rounds to the nearest, ties to even,
// and every NaN becomes 0x7FFF; arithmetic is done in float and rounded once.
#pragma once

#include <bit>

#include "cudasim_types.h"

struct __nv_bfloat16_raw {
  unsigned short x;
};

struct alignas(2) __nv_bfloat16 {
  unsigned short __x;

  __nv_bfloat16() = default;  // trivial: used in shared arrays
  constexpr __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}
  constexpr __nv_bfloat16(float value) : __x(rounded(value)) {}
  constexpr __nv_bfloat16(double value) : __x(rounded_once(value)) {}
  constexpr __nv_bfloat16(int value) : __x(rounded_once(value)) {}
  constexpr __nv_bfloat16(unsigned value) : __x(rounded_once(value)) {}
  constexpr operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(__x) << 16); }
  constexpr operator __nv_bfloat16_raw() const { return {__x}; }

  static constexpr unsigned short rounded(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  // From a double through a float rounded to odd, which keeps whether anything was cut off: so rounding twice is
  // rounding once.
  static constexpr unsigned short rounded_once(double value) {
    const float nearest = static_cast<float>(value);
    uint32_t bits = std::bit_cast<uint32_t>(nearest);
    const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
    if (finite && nearest != value) {
      if ((nearest > value) == (value > 0)) --bits;  // towards zero
      bits |= 1u;
    }
    return rounded(std::bit_cast<float>(bits));
  }
};

struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  constexpr __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};

using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

// ---- conversion ----------------------------------------------------------------------------------------------------

constexpr __nv_bfloat16 __float2bfloat16_rn(float x) { return __nv_bfloat16(x); }
constexpr __nv_bfloat16 __float2bfloat16(float x) { return __nv_bfloat16(x); }
constexpr __nv_bfloat16 __double2bfloat16(double x) { return __nv_bfloat16(x); }
constexpr float __bfloat162float(__nv_bfloat16 x) { return x; }
constexpr unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }
constexpr __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return __nv_bfloat16_raw{bits}; }
constexpr short __bfloat16_as_short(__nv_bfloat16 x) { return static_cast<short>(x.__x); }
constexpr __nv_bfloat16 __short_as_bfloat16(short bits) {
  return __ushort_as_bfloat16(static_cast<unsigned short>(bits));
}
constexpr __nv_bfloat16 __float2bfloat16_rz(float x) {  // towards zero
  return x == x ? __ushort_as_bfloat16(static_cast<unsigned short>(std::bit_cast<uint32_t>(x) >> 16))
                : __nv_bfloat16(x);
}

constexpr __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
constexpr __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
constexpr __nv_bfloat162 __float2bfloat162_rn(float v) { return {v, v}; }
constexpr __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
constexpr __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return {v, v}; }
constexpr float2 __bfloat1622float2(__nv_bfloat162 v) { return {v.x, v.y}; }
constexpr float __low2float(__nv_bfloat162 v) { return v.x; }
constexpr float __high2float(__nv_bfloat162 v) { return v.y; }
constexpr __nv_bfloat16 __low2bfloat16(__nv_bfloat162 v) { return v.x; }
constexpr __nv_bfloat16 __high2bfloat16(__nv_bfloat162 v) { return v.y; }

// ---- arithmetic and comparison -------------------------------------------------------------------------------------

constexpr __nv_bfloat16 operator+(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) + float(b); }
constexpr __nv_bfloat16 operator-(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) - float(b); }
constexpr __nv_bfloat16 operator*(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) * float(b); }
constexpr __nv_bfloat16 operator/(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) / float(b); }
constexpr __nv_bfloat16 operator-(__nv_bfloat16 a) { return __ushort_as_bfloat16(a.__x ^ 0x8000); }
constexpr __nv_bfloat16 operator+(__nv_bfloat16 a) { return a; }
constexpr __nv_bfloat16& operator+=(__nv_bfloat16& a, __nv_bfloat16 b) { return a = a + b; }
constexpr __nv_bfloat16& operator-=(__nv_bfloat16& a, __nv_bfloat16 b) { return a = a - b; }
constexpr __nv_bfloat16& operator*=(__nv_bfloat16& a, __nv_bfloat16 b) { return a = a * b; }
constexpr __nv_bfloat16& operator/=(__nv_bfloat16& a, __nv_bfloat16 b) { return a = a / b; }
constexpr bool operator==(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) == float(b); }
constexpr bool operator!=(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) != float(b); }
constexpr bool operator<(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) < float(b); }
constexpr bool operator>(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) > float(b); }
constexpr bool operator<=(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) <= float(b); }
constexpr bool operator>=(__nv_bfloat16 a, __nv_bfloat16 b) { return float(a) >= float(b); }

constexpr __nv_bfloat16 __hadd(__nv_bfloat16 a, __nv_bfloat16 b) { return a + b; }
constexpr __nv_bfloat16 __hsub(__nv_bfloat16 a, __nv_bfloat16 b) { return a - b; }
constexpr __nv_bfloat16 __hmul(__nv_bfloat16 a, __nv_bfloat16 b) { return a * b; }
constexpr __nv_bfloat16 __hneg(__nv_bfloat16 a) { return -a; }
constexpr bool __hisnan(__nv_bfloat16 a) { return (a.__x & 0x7fff) > 0x7f80; }
constexpr __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
constexpr __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }
