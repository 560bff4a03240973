// exp for float in plain arithmetic, so that loops around it vectorise. Within 1.5 ulp of the exact value from -87.3 to
// 88; 0 below that range, and the value at 88, 1.65e38, above it.
//
//   x = n ln 2 + r,  |r| <= ln(2) / 2,  exp(x) = 2^n exp(r)
//   exp(r) = 1 + r + r^2 q(r),  q of degree 4 through the Chebyshev points of that range (relative error 1e-8)
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/cpu/simd.h"

namespace cpu::WROUGHT_ISA {

inline float exp(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float clamped = std::min(std::max(x, -87.33f), 88.0f);
  const float shifted = clamped * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float q = 1.39262135e-3f;
  q = q * r + 8.36320297e-3f;
  q = q * r + 4.16665544e-2f;
  q = q * r + 1.66665768e-1f;
  q = q * r + 0.5f;
  const float p = q * (r * r) + r + 1.0f;
  // 2^n: n is added to the exponent. The shift keeps only the low bits of `shifted`, which are n's.
  const uint32_t scaled = std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(shifted) << 23);
  return x < -87.33f ? 0.0f : std::bit_cast<float>(scaled);
}

}  // namespace cpu::WROUGHT_ISA
